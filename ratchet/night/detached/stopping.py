"""Stops what runs in a repository, at once where that can go on later."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ratchet.experiments.running import is_command_running
from ratchet.night.driver import STOP_FILE, stop_night

LOOK_SECONDS = 0.5  # between two looks
TAKE_SECONDS = 3  # until a command that can stop at once has taken note, or has let go
STOP_SECONDS = 60  # for it to clear up


@contextmanager
def stoppable(home: Path) -> Iterator[None]:
    """In this block `ratchet stop` does what Ctrl-C does; only the main thread may enter it.

    SIGINT itself will not do: shells have jobs in the background ignore it.
    """
    stop, ended, main = home / STOP_FILE, threading.Event(), threading.get_ident()
    stop.unlink(missing_ok=True)

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            if stop.exists():
                stop.unlink()
                return signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


def stop_command(home: Path) -> bool:
    """Stop what runs in this repository; whether it has stopped. A night stops later.

    Raises Refused when nothing runs.
    """
    stop_night(home)
    if not wait_for_end(home, TAKE_SECONDS) and (home / STOP_FILE).exists():
        return False
    return wait_for_end(home, STOP_SECONDS)


def wait_for_end(home: Path, seconds: float) -> bool:
    """Whether no command experiments here any more, within so many seconds."""
    end = time.monotonic() + seconds
    while is_command_running(home):
        if time.monotonic() > end:
            return False
        time.sleep(LOOK_SECONDS)
    return True
