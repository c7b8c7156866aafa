"""Work on text in a process of its own, whose progress is shown."""

import signal
from collections.abc import Callable
from typing import Any

from ratchet.arena.files import Refused, exit_on_user_error
from ratchet.arena.progress import reading_line
from ratchet.arena.text.corpus import WORKERS


def run_in_child(task: str, measure: Callable, function: Callable, *args: Any) -> None:
    """Call a function in a process of its own, whose progress is shown.

    Its memory goes with it. Ctrl-C ends it, whatever its threads wait for.
    """
    process = WORKERS.Process(target=begin_child, args=(function, *args), daemon=True)
    process.start()
    try:
        with reading_line(task, measure):
            process.join()
    finally:
        process.kill()
    code = process.exitcode or 0
    if code < 0:
        killed = f"its process was killed (signal {-code})"
        raise Refused(f"{task}: {killed}: is there enough memory? Retry")
    if code:
        raise SystemExit(code)  # it has said why


def begin_child(function: Callable, *args: Any) -> None:
    """What a child does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    with exit_on_user_error(variable="RATCHET_CACHE"):
        function(*args)
