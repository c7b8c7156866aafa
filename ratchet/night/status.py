"""Status: how much a night has used of its limits, what it has done so far."""

import math
from pathlib import Path
from typing import NamedTuple

from ratchet.claims import list_numbers, name_trial
from ratchet.experiments import progress as run_progress
from ratchet.experiments.campaign import device_seconds
from ratchet.experiments.ledger import Experiment, Ledger, utc_now
from ratchet.experiments.running import is_command_running, state_of
from ratchet.night.journal import Journal, active_seconds
from ratchet.untrusted_text import quote_text


class Limits(NamedTuple):
    """The most that a night may use, all resumed parts together; infinity where nothing is set.

    What a night has used so far has the same fields.
    """

    hours: float = math.inf
    experiments: float = math.inf
    device_seconds: float = math.inf
    calls: float = math.inf
    cost: float = math.inf  # dollars, as far as the agent reports them


def agent_cost(journal: Journal) -> tuple[int, float]:
    """(calls, dollars) of a night so far."""
    answers = journal.list_answers()
    return len(answers), sum(event["cost"] for event in answers)


def used_by(journal: Journal, experiments: list[Experiment], seconds: float) -> Limits:
    """What a night has used that was active for so many seconds."""
    calls, cost = agent_cost(journal)
    device = device_seconds(experiments, journal.last_night()[0])
    return Limits(seconds / 3600, len(journal.list_verdicts()), device, calls, cost)


def night_status(home: Path) -> dict[str, object]:
    """How the last night stands, {"night": "runs", "agent": "tuner", "kept": 2, ...}."""
    journal, experiments = Journal(home), [*Ledger(home).experiments().values()]
    events, answers = journal.last_night(), journal.list_answers()
    if not events:
        return {"night": "none so far"}
    begin = [event for event in events if event["kind"] in ("begins", "resumes")][-1]
    is_running = events[-1]["kind"] not in ("ends", "pauses") and is_command_running(home)
    active = active_seconds(events + [{"kind": "now", "time": utc_now()}] * is_running)
    used = used_by(journal, experiments, active)
    status = {"night": "runs" if is_running else "does not run"}
    if events[-1]["kind"] == "ends":
        status["ended"] = events[-1]["why"]
    ideas = {event["n"] for event in events if event["kind"] == "done" and "n" in event}
    status |= {
        "agent": events[0]["agent"],
        "began": events[0]["time"],
        "used": run_progress.night_progress(used, Limits(**begin["limits"])),
        "hours": round(active / 3600, 2),
        "calls": len(answers),
        "ideas": sum(event["outcome"] == "idea" for event in answers),
        "verdicts": used.experiments,
        "kept": sum(e.verdict == "keep" for e in experiments if e.n in ideas),
    }
    since = [e for e in experiments if e.n > begin["baseline"]]
    if hits := [e.n for e in since if e.role == "try" and e.verdict == "hit"]:
        status["hits"] = f"{list_numbers(hits)} wait for a trial"
    opened = [e for e in since if not e.closes and e.role in ("try", "trial", "closing")]
    return status | {f"experiment {e.n}": describe_open(e, home) for e in opened}


def describe_open(e: Experiment, home: Path) -> str:
    """Of an experiment without a verdict: "running, 3 runs so far, "wider heads"."""
    words = {"trial": name_trial(e), "closing": "closing comparison"}.get(e.role)
    return f"{state_of(e, home)}, {len(e.runs)} runs so far, {words or quote_text(e.idea)}"
