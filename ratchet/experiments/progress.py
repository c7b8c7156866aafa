"""Progress: how far an experiment or a night has come, how long the rest takes."""

import math
from collections.abc import Collection, Iterable
from typing import Any

from ratchet.arena.progress import format_duration
from ratchet.experiments import verdicts
from ratchet.experiments.ledger import Experiment, is_disturbed

RECENT_RUNS = 8  # whose seconds tell how long the next ones will take
UNITS = {
    "hours": "h",
    "experiments": "experiments",
    "device_seconds": "s of the device",
    "calls": "calls",
    "cost": "dollars",
}


def planned_runs(e: Experiment, phase: str) -> int | None:
    """How many runs an experiment has, with one of this phase; None: its scores decide."""
    if e.role == "try":
        return None
    if e.role == "trial":
        runs = verdicts.trial_runs(verdicts.Profile(**e.profile), e.goal, e.as_good)
        return runs + [*(run["phase"] for run in e.runs), phase].count("bar")
    phases = {run["phase"] for run in e.runs} | {phase}
    return len(e.arms) * e.seeds + ("measure" in phases)


def mean_run_seconds(
    e: Experiment, experiments: Collection[Experiment], budget: str
) -> float | None:
    """Of its latest valid runs with that budget, else of others like it; None without any."""
    alike = [o for o in experiments if (o.seal, o.device) == (e.seal, e.device)]
    return recent_run_seconds([e], budget) or recent_run_seconds(alike, budget)


def recent_run_seconds(experiments: Iterable[Experiment], budget: str) -> float | None:
    """The mean of the latest valid runs with that budget; None without any."""
    runs = [run for e in experiments for run in e.runs]
    valid = [run for run in runs if run["status"] == "ok" and run["budget"] == budget]
    spent = [sum(run["seconds"].values()) for run in valid[-RECENT_RUNS:]]
    return sum(spent) / len(spent) if spent else None


def experiment_progress(
    e: Experiment, experiments: Collection[Experiment], phase: str, budget: str
) -> str:
    """On the run that begins now: "run 2 of 4, about 15 min left", "run 2, about 5 min a run"."""
    number = 1 + sum(not is_disturbed(run) for run in e.runs)
    planned, seconds = planned_runs(e, phase), mean_run_seconds(e, experiments, budget)
    if planned is None:
        return f"run {number}" + (f", about {format_duration(seconds)} a run" if seconds else "")
    planned = max(planned, number)  # a run of the champion that failed is made again
    words = f"run {number} of {planned}"
    if seconds is None:
        return words
    return f"{words}, about {format_duration((planned - number + 1) * seconds)} left"


def night_progress(spent: Any, limits: Any) -> str:
    """How much of each limit is used: "3 of 30 experiments, 1.2 of 8 h, about 6.8 h left".

    spent, limits: night.driver.Limits.
    """
    rounded = spent._replace(hours=round(spent.hours, 2))
    pairs = [(key, getattr(rounded, key), most) for key, most in limits._asdict().items()]
    used = [
        f"{format_figure(used)} of {format_figure(most)} {UNITS[key]}"
        for key, used, most in pairs
        if most < math.inf
    ]
    used = used or [f"{spent.experiments} experiments, {spent.hours:.1f} h"]
    left = 3600 * (limits.hours - spent.hours)
    if spent.experiments:
        each = 3600 * spent.hours / spent.experiments
        left = min(left, each * (limits.experiments - spent.experiments))
    return ", ".join(used + [f"about {format_duration(left)} left"] * (0 <= left < math.inf))


def format_figure(value: float) -> str:
    """Three digits of a small number, all whole ones of a large one."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
