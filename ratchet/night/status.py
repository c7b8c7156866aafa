"""Status: how much a night has used of its limits, what it has done so far."""

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ratchet.claims import describe_goal, list_numbers, name_trial
from ratchet.experiments import progress as run_progress
from ratchet.experiments.campaign import Campaign, parse_time
from ratchet.experiments.ledger import Experiment, Ledger, utc_now
from ratchet.experiments.running import is_night_running, state_of
from ratchet.night.journal import Journal, active_seconds, agents_of, list_parts
from ratchet.night.service import (
    describe_failure,
    describe_wait,
    find_wait,
    format_moment,
    last_failure,
)
from ratchet.night.team.authors import count_calls
from ratchet.untrusted_text import quote_text

ROLES = "try", "trial", "closing"  # of the experiments that a night makes


class Limits(NamedTuple):
    """The most that a night may use, all resumed parts together; infinity where nothing is set.

    What a night has used so far has the same fields.
    """

    hours: float = math.inf
    experiments: float = math.inf
    device_seconds: float = math.inf
    calls: float = math.inf
    cost: float = math.inf  # dollars, as far as the agent reports them


def seconds_of_night(experiments: Iterable[Experiment], events: list[dict]) -> float:
    """Seconds of the device, of all runs that ended while a night worked; events: its journal.

    Whoever had the idea: a night goes on with what others have left.
    """
    runs = (run for e in experiments if e.role in ROLES for run in e.runs)
    ended, parts = ((parse_time(run["time"]), run) for run in runs), list_parts(events)
    own = (run for when, run in ended if any(begin <= when <= end for begin, end in parts))
    return sum(sum(run["seconds"].values()) for run in own)


def used_by(journal: Journal, experiments: list[Experiment], seconds: float) -> Limits:
    """What a night has used that was active for so many seconds."""
    answers, device = journal.list_answers(), seconds_of_night(experiments, journal.last_night())
    cost = sum(event["cost"] for event in answers)
    verdicts, calls = len(journal.list_verdicts()), count_calls(answers)
    return Limits(seconds / 3600, verdicts, device, calls, cost)


def describe_used(used: Limits, limits: Limits, until: float | None, campaign: Campaign) -> str:
    """How much of each limit is used, how far the champion is from where the night ends.

    Example: "3 of 30 experiments, about 2 h left, champion 0.9712 bpb, goal 0.95"
    """
    words = run_progress.night_progress(used, limits)
    if not until:
        return words
    level = campaign.goal.describe_level(campaign.level)
    return f"{words}, champion {level}, goal {until:g}"


def describe_service(journal: Journal, is_running: bool) -> dict[str, str]:
    """Until when each agent is waited for, what it failed by last, why it is asked no more."""
    lines, names, drops = {}, agents_of(journal.last_night()[0]), journal.list_drops()
    for name in names:
        answers, whose = journal.list_answers(name), f" of {name}" * (len(names) > 1)
        wait = find_wait(answers)
        if is_running and wait and wait.until > time.time() and name not in drops:
            lines[f"waits{whose}"] = describe_wait(wait)
        if failure := last_failure(answers):
            moment = format_moment(parse_time(failure["time"]))
            words = f"call {failure['call']}, {moment}, {describe_failure(failure)}"
            lines[f"last failure{whose}"] = words
        if name in drops:
            lines[f"end{whose}"] = f"dropped out: {drops[name]}"
    return lines


def night_status(home: Path) -> dict[str, object]:
    """How the last night stands, {"night": "runs", "agent": "tuner", "kept": 2, ...}."""
    journal, experiments = Journal(home), [*Ledger(home).experiments().values()]
    events, answers = journal.last_night(), journal.list_answers()
    if not events:
        return {"night": "none so far"}
    begin = [event for event in events if event["kind"] in ("begins", "resumes")][-1]
    is_running = events[-1]["kind"] not in ("ends", "pauses") and is_night_running(home)
    active = active_seconds(events + [{"kind": "now", "time": utc_now()}] * is_running)
    used = used_by(journal, experiments, active)
    status = {"night": "runs" if is_running else "does not run"}
    if events[-1]["kind"] == "ends":
        status["ended"] = events[-1]["why"]
    tried = [e for e in experiments if e.role == "try"]
    until = begin.get("goal")
    key = next((e.comparison_key for e in experiments if e.n == begin["baseline"]), None)
    campaign = Campaign(experiments, key)
    status |= describe_service(journal, is_running) | {
        "agent": events[0]["agent"],
        "began": events[0]["time"],
        "used": describe_used(used, Limits(**begin["limits"]), until, campaign),
        "hours": round(active / 3600, 2),
        "calls": used.calls,
        "ideas": sum(event["outcome"] == "idea" for event in answers),
        "verdicts": used.experiments,
        "kept": sum(e.closes["time"] >= events[0]["time"] for e in tried if e.verdict == "keep"),
    }
    if not campaign.goal.is_val_bpb:
        status["goal"], status["slack"] = describe_goal(campaign)
    since = [e for e in experiments if e.n > begin["baseline"]]
    if hits := [e.n for e in since if e.role == "try" and e.verdict == "hit"]:
        status["hits"] = f"{list_numbers(hits)} wait for a trial"
    opened = [e for e in since if not e.closes and e.role in ROLES]
    return status | {f"experiment {e.n}": describe_open(e, home) for e in opened}


def last_exit_code(home: Path) -> int:
    """With which the command of the last night ends that came to its end."""
    return Journal(home).last_night()[-1].get("code", 0)


def describe_open(e: Experiment, home: Path) -> str:
    """Of an experiment without a verdict: "running, 3 runs so far, "wider heads"."""
    words = {"trial": name_trial(e), "closing": "closing comparison"}.get(e.role)
    return f"{state_of(e, home)}, {len(e.runs)} runs so far, {words or quote_text(e.idea)}"
