"""Which experiments a living process works on, by locks that die with the process."""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from ratchet.arena.files import Refused
from ratchet.experiments.ledger import Experiment
from ratchet.referee.devices.lock import try_lock

NIGHT = b"night"  # in the lock of a command
TRIES = 20  # to get a lock that decides nothing


@contextmanager
def only_command(home: Path, is_night: bool = False) -> Generator[None, None, None]:
    """In this block nobody else experiments in this repository. Raises Refused."""
    (home / "runs").mkdir(exist_ok=True)
    with open(home / "runs/.lock", "ab") as file:
        if not try_lock(file):
            raise Refused("another experiment is running in this repository: wait for it")
        file.truncate(0)
        file.write(NIGHT * is_night)
        file.flush()
        yield


def is_command_running(home: Path) -> bool:
    """Whether somebody experiments in this repository."""
    try:
        with only_command(home):
            return False
    except Refused:
        return True


def is_night_running(home: Path) -> bool:
    """Whether that is a night."""
    return is_command_running(home) and (home / "runs/.lock").read_bytes() == NIGHT


def mark_of(home: Path, n: int) -> Path:
    """The file that is locked while experiment n runs; no fact follows from its being there."""
    return home / "runs" / str(n) / ".running"


@contextmanager
def working_on(home: Path, n: int) -> Generator[None, None, None]:
    """Hold the lock of experiment n in this block."""
    mark = mark_of(home, n)
    mark.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(mark, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        for _ in range(TRIES):  # a reader has it for no longer than a look takes
            with suppress(OSError):  # a disk may have no locks: its experiments count as unfinished
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.01)
        try:
            yield
        finally:  # so that whoever looks for what runs finds few of these
            with suppress(OSError):
                mark.unlink()


def is_running(home: Path, n: int) -> bool:
    """Whether a living process, this one or another, works on experiment n."""
    try:
        with open(mark_of(home, n), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def all_running(home: Path) -> list[int]:
    """Numbers of all experiments that a living process works on."""
    numbers = (int(mark.parent.name) for mark in (home / "runs").glob("*/.running"))
    return sorted(n for n in numbers if is_running(home, n))


def state_of(e: Experiment, home: Path) -> str:
    """The verdict of an experiment; without one `running`, or `open` of a try or a trial.

    What else no process works on, and what older ledgers have, is `unfinished`.
    """
    if e.verdict:
        return e.verdict
    return "running" if is_running(home, e.n) else "open" if e.profile else "unfinished"
