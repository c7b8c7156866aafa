"""What runs without a score make of an experiment."""

from collections.abc import Iterable

from ratchet.experiments.ledger import Row, is_disturbed
from ratchet.experiments.verdicts import Verdict

FAILURES = (
    "crash",
    "timeout",
    "overtime",
    "overlimit",
    "invalid",
)  # of a run, which are verdicts by name


def failed_verdict(runs: Iterable[Row]) -> Verdict | None:
    """The verdict that a run without a score forces, or None."""
    for run in runs:
        if is_disturbed(run) or run["status"] == "ok":
            continue
        if run["status"] == "stopped":  # half-way, by early_stopping.py
            return Verdict("out", run["reason"])
        if run["status"] == "hopeless":  # the same in older ledgers
            return Verdict("discard", f"it could not catch up: {run['reason']}")
        if run["status"] in FAILURES:
            return Verdict(run["status"], run["reason"])
        return Verdict("crash", f"{run['status']}: {run['reason']}")
    return None
