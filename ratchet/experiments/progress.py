"""Progress: which run of how many an experiment is at, how much of its limits a night has used,
time left.
"""

import math

from ratchet.arena.progress import format_duration
from ratchet.experiments import verdicts
from ratchet.experiments.ledger import is_disturbed

RECENT_RUNS = 8  # whose seconds tell how long the next ones will take
UNITS = {
    "hours": "h",
    "experiments": "experiments",
    "device_seconds": "s of the device",
    "calls": "calls",
    "cost": "dollars",
}


def most_runs(e, phase):
    """(how many runs an experiment has at most, with one of this phase; whether it may end before)."""
    phases = {run["phase"] for run in e.runs} | {phase}
    if e.role == "try":
        rest = 0 if e.quick else 2 * verdicts.LOOKS[-1]
        return 1 + rest + ("reference" in phases), True
    return len(e.arms) * e.seeds + ("measure" in phases), False


def seconds_of_a_run(e, experiments, budget):
    """Mean seconds of its latest valid runs with that budget, else of others like it; None without
    any.
    """
    alike = [o for o in experiments if (o.seal, o.device) == (e.seal, e.device)]
    for group in ([e], alike):
        runs = [run for each in group for run in each.runs]
        valid = [run for run in runs if run["status"] == "ok" and run["budget"] == budget]
        if spent := [sum(run["seconds"].values()) for run in valid[-RECENT_RUNS:]]:
            return sum(spent) / len(spent)
    return None


def experiment_progress(e, experiments, phase, budget):
    """On the run that begins now: "run 2 of at most 13, at most 55 min left"."""
    number = 1 + sum(not is_disturbed(run) for run in e.runs)
    most, may_end = most_runs(e, phase)
    most = max(most, number)  # a run of the champion that failed is made again
    each = seconds_of_a_run(e, experiments, budget)
    text = f"run {number} of {'at most ' * may_end}{most}"
    if each is None:
        return text
    left = format_duration((most - number + 1) * each)
    return f"{text}, {'at most' if may_end else 'about'} {left} left"


def night_progress(spent, limits):
    """How much of each limit is used: "3 of 30 experiments, 1.2 of 8 h, about 6.8 h left"."""
    pairs = [(key, getattr(spent, key), most) for key, most in limits._asdict().items()]
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


def format_figure(value):
    """Three digits of a small number, all whole ones of a large one."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
