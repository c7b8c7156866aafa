"""Waits for the verdict of an experiment, whatever process works on it."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ratchet.arena.files import Refused
from ratchet.experiments.ledger import Experiment, Ledger
from ratchet.experiments.progress import experiment_progress
from ratchet.experiments.running import all_running, is_command_running
from ratchet.experiments.session import describe_run
from ratchet.night.detached import stopping
from ratchet.night.detached.starting import log_of
from ratchet.night.status import describe_open
from ratchet.untrusted_text import clean_text


def wait_for_verdict(
    home: Path, n: int, seconds: float, tell: Callable[[str], object]
) -> Experiment:
    """Experiment n once it has its verdict, or as it is after so many seconds.

    Tells of each run that ends meanwhile, and of the one that is under way. Raises Refused when no
    process brings it to a verdict.
    """
    ledger, end = Ledger(home), time.monotonic() + seconds
    told = len(ledger.rows())
    while True:
        lives = bool(all_running(home)) or is_command_running(home)  # asked before the ledger is
        rows, experiments = ledger.rows(), ledger.experiments()
        e = experiments[n]
        now = experiment_under_way(e, [*experiments.values()])
        for row in rows[told:]:
            if row["kind"] == "run" and row["n"] in (n, now.n):
                tell(f"  {row['n']}: {describe_run(row, e.goal)}")
        told = len(rows)
        if e.is_decided:
            return e
        if not lives:
            raise Refused(describe_end(home, e))
        progress = experiment_progress(now, experiments.values(), now.role, now.budget)
        tell(f"waiting for experiment {now.n}: {progress}")
        left = end - time.monotonic()
        if left <= 0:
            return e
        time.sleep(min(left, stopping.LOOK_SECONDS))


def experiment_under_way(e: Experiment, experiments: Sequence[Experiment]) -> Experiment:
    """The one whose runs decide on an idea: its latest trial, once it has one."""
    trials = [other for other in experiments if e.n in other.members]
    return trials[-1] if trials else e


def describe_end(home: Path, e: Experiment) -> str:
    """That nobody works on an experiment without a verdict, with the last words of who did."""
    what = "a hit whose trial has not ended" if e.verdict else "which has no verdict"
    commit = e.arms[0]["commit"][:7]
    return (
        f"no process works on experiment {e.n}, {what}{last_words(home, e.n)}: "
        f"give the same command again at commit {commit}, it goes on where it stopped"
    )


def last_words(home: Path, n: int) -> str:
    """The sentence with which a detached try ended, in brackets, or ""."""
    lines = []
    with suppress(OSError):
        lines = clean_text(log_of(home, n).read_bytes()).splitlines()
    if not lines or not lines[-1].startswith("ratchet: "):
        return ""
    sentence = lines[-1].removeprefix("ratchet: ").rstrip(".")
    return " (it was stopped)" if sentence.startswith("interrupted") else f" ({sentence})"


def describe_running(home: Path) -> dict[str, str]:
    """{"experiment 3": "running, 2 runs so far, ..."} of all that a process works on."""
    experiments = Ledger(home).experiments()
    described = {}
    for n in all_running(home):
        log = log_of(home, n)
        where = f", log in {log.relative_to(home)}" if log.exists() else ""
        described[f"experiment {n}"] = describe_open(experiments[n], home) + where
    return described
