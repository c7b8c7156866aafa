"""Starts a detached try: a process that outlives the shell that it was begun in."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ratchet.experiments import sources
from ratchet.experiments.ledger import Experiment, Ledger
from ratchet.experiments.running import all_running, is_running, only_command
from ratchet.night.detached import stopping

COMMAND = [sys.executable, "-P", "-m", "ratchet"]  # -P: what lies in the folder is not imported


def log_of(home: Path, n: int) -> Path:
    """What the detached try of experiment n prints."""
    return home / "runs" / str(n) / "try.log"


def begin_try(home: Path, words: Sequence[str]) -> Experiment:
    """Try HEAD's train.py in a process of its own; words: the rest of its command line.

    Returns the experiment as soon as that process works on it, or the one that it has found in the
    ledger. Exits with its sentence and its code when it refuses.
    """
    stopping.wait_for_end(home, stopping.TAKE_SECONDS)  # of one whose verdict has just been told
    with only_command(home):
        pass  # raises Refused before anything is begun
    source = sources.read_source("HEAD").describe_source()["source"]
    log = home / f"runs/.try-{os.getpid()}.log"
    process = start_process([*COMMAND, "try", *words], log)
    try:
        while process.poll() is None:
            e = latest_of_source(home, source)
            if e and is_worked_on(home, e):
                os.replace(log, log_of(home, e.n))
                process.returncode = 0  # nobody waits for it: it outlives this process
                return e
            time.sleep(stopping.LOOK_SECONDS)
        e = latest_of_source(home, source)
        if process.returncode or not e:
            exit_like(process, log)
        return e
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    finally:
        log.unlink(missing_ok=True)


def start_process(command: Sequence[str], log: Path) -> subprocess.Popen:
    """A process in a session of its own, so that no signal of a terminal or a shell reaches it."""
    with open(log, "wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def latest_of_source(home: Path, source: str) -> Experiment | None:
    """The latest experiment on a source, its shape; a trial only if there is no other.

    A champion that ideas were merged into has nothing but its trial.
    """
    alike = [e for e in Ledger(home).experiments().values() if e.arms[0]["source"] == source]
    alone = [e for e in alike if e.role in ("calibrate", "try")]
    trials = [e for e in alike if e.role == "trial"]
    return next(reversed(trials + alone), None)


def is_worked_on(home: Path, e: Experiment) -> bool:
    """Whether a living process brings an idea to its verdict; a hit is brought there by a trial."""
    return is_running(home, e.n) or (e.verdict == "hit" and bool(all_running(home)))


def exit_like(process: subprocess.Popen, log: Path) -> NoReturn:
    """End as a process did, with what it printed."""
    print(log.read_text(encoding="utf-8", errors="replace"), end="", file=sys.stderr)
    raise SystemExit(process.returncode if process.returncode > 0 else 1)
