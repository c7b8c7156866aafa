"""The data of the page, as JSON; every derived number is made here."""

import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from ratchet import claims, commits
from ratchet.arena.files import ROOT, read_untrusted
from ratchet.experiments.campaign import (
    Campaign,
    compare_so_far,
    finite_or_none,
    is_selected,
    list_campaigns,
    mean_of,
)
from ratchet.experiments.comparisons import SPLITS, compare_with_first
from ratchet.experiments.goals import SCORE, Goal
from ratchet.experiments.ledger import CANDIDATE, Experiment, Ledger, bpb, is_disturbed, is_valid
from ratchet.experiments.rule.search import Search
from ratchet.experiments.rule.statistics import Comparison, student_quantile
from ratchet.experiments.running import state_of
from ratchet.experiments.verify import find_problems
from ratchet.night.journal import Journal
from ratchet.night.team.authors import count_calls
from ratchet.referee import early_stopping
from ratchet.referee.measures import MEASURES, Requirement, read_measures
from ratchet.report.columns import cells_of, headings, shorten
from ratchet.report.decoding import (
    Curve,
    Group,
    describe_unrest,
    light_points,
    list_groups,
    read_curves,
)
from ratchet.report.frontier import Point, earlier_campaigns, list_points
from ratchet.report.palette import palette_data

MEASURED = "runs/decoding.json", "runs/scaling.json"  # what serve-bench and scaling leave
IDEA_CHARACTERS = 2_000  # of an idea or a reason that the page has
POINT_CHARACTERS = 200  # of an idea, where it is a shadow of another campaign
DIFF_CHARACTERS = 20_000
LOG_CHARACTERS = 2_000  # of the end of a log
CURVE_POINTS = 60
CURVES = 150  # experiments that have one on the page: champions, then the latest
CHANGES = "try", "trial"  # roles of experiments that change train.py
FIGURES = [
    "steps",
    "tokens",
    "flops_per_token",
    "mfu_percent",
    "peak_memory_mb",
    "params",
    "lookup",
    "joules",
]
Diffs = dict[tuple[str, str], str]  # {(parent, commit): text}


def collect_data(ledger: Ledger, home: Path) -> dict[str, Any]:
    """{"campaigns": one for each calibration, ...} and what is said of the whole ledger."""
    experiments = [*ledger.experiments().values()]
    changes = [e for e in experiments if e.role in CHANGES]
    diffs = commits.read_diffs([(e.parent, e.arms[CANDIDATE]["commit"]) for e in changes])
    with_curve = choose_curves(experiments)
    all_campaigns = list_campaigns(experiments)
    curves = read_curves(home / MEASURED[0])
    order = [(bool(campaign.baseline), campaign.all[-1].n) for campaign in all_campaigns]
    return {
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "lines": len(ledger.rows()),
        "head": ledger.head_hash(),
        "problems": find_problems(ledger),
        "latest": max(range(len(order)), key=order.__getitem__, default=0),
        "campaigns": [
            campaign_data(campaign, home, diffs, with_curve)
            | {"earlier": [*map(all_campaigns.index, earlier_campaigns(campaign, all_campaigns))]}
            | {"decoding": [group_data(group, curves) for group in list_groups(campaign, curves)]}
            for campaign in all_campaigns
        ],
        "speeds": [name for name, measure in MEASURES.items() if measure.is_speed],
        "nights": night_costs(home),
        "cheats": count_cheats(),
        "decoding": [
            curve | {"light": light_points(curve), "unrest": describe_unrest([curve])}
            for curve in curves
        ],
        "scaling": read_measured(home / MEASURED[1]),
        "columns": headings(),
        "palette": palette_data(),
    }


def choose_curves(experiments: list[Experiment]) -> set[int]:
    """Numbers of the experiments whose loss curve the page has."""
    champions = [e for e in experiments if e.verdict in ("baseline", "keep")]
    return {e.n for e in champions[-CURVES // 2 :] + experiments[-CURVES // 2 :]}


def count_cheats() -> dict[str, dict]:
    """{isolation level: {"known": cheats that competed, "open": names that got through}}."""
    results = (read_measured(ROOT / "benchmarks/cheats.json") or {"results": {}})["results"]
    levels = {}
    for name, endings in results.items():
        for level, result in endings.items():
            row = levels.setdefault(level, {"known": 0, "open": []})
            row["known"] += 1
            row["open"] += [name] * result["ended"].startswith("**")
    return levels


def read_measured(path: Path) -> dict | None:
    """The content of a file of JSON; None if it is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def night_costs(home: Path) -> dict[str, float]:
    """Calls and dollars of the last night's agent."""
    answers = Journal(home).list_answers() if (home / "runs").exists() else []
    return {"calls": count_calls(answers), "cost": sum(answer["cost"] for answer in answers)}


# --------------------------------------------------------------------------------------------------
# A campaign


def campaign_data(campaign: Campaign, home: Path, diffs: Diffs, with_curve: set[int]) -> dict:
    """All that the page has on one campaign."""
    experiments = campaign.all
    latest = experiments[-1].opens
    noise = campaign.bpb_noise if campaign.baseline else None
    runs = [run for e in experiments for run in e.runs]
    unrest = [campaign.noise_warning] if campaign.noise_warning else []
    conditions = "arena", "seal", "budget", "device", "driver", "torch"
    return {name: latest[name] for name in conditions} | {
        "goal": campaign.goal.name,
        "goal_words": describe_axis(campaign.goal),
        "limits": limit_data(latest.get("limits", {})),
        "sigma": noise and finite_or_none(noise.sigma),
        "df": noise and noise.df,
        "experiments": [experiment_row(e, campaign, home, diffs, with_curve) for e in experiments],
        "champions": champion_rows(campaign),
        "bar": bar_rows(campaign),
        "goal_bar": goal_bar_rows(campaign),
        "points": [point_data(point) for point in list_points(campaign)],
        "claim": claim_data(campaign),
        "sigmas": sigma_history(campaign),
        "audit": audit_rows(experiments),
        "warnings": unrest + find_warnings(runs),
        "hours": sum(sum(run["seconds"].values()) for run in runs) / 3600,
    }


def describe_axis(goal: Goal) -> str:
    """Example: "user_tps, tokens/s (more is better)"; "" of val_bpb."""
    if goal.is_val_bpb:
        return ""
    return f"{goal.name}, {goal.measure.unit} ({goal.better} is better)"


def limit_data(limits: dict[str, float]) -> dict[str, dict[str, Any]]:
    """{measure: {"value", "words"}} of a campaign's limits."""
    pairs = ((name, Requirement(name, limit)) for name, limit in limits.items())
    return {name: {"value": asked.limit, "words": str(asked)} for name, asked in pairs}


def point_data(point: Point) -> dict[str, Any]:
    """What the page has of a source, to draw frontiers from."""
    names = "n", "source", "values", "halves", "runs", "is_selected", "is_champion"
    idea = shorten(point.idea, POINT_CHARACTERS)
    return {name: getattr(point, name) for name in names} | {"idea": idea}


def group_data(group: Group, curves: list[Curve]) -> dict[str, Any]:
    """A group whose curves are named by their place among all."""
    names = group.curves.items()
    rows = [
        {"name": shorten(name, POINT_CHARACTERS), "at": curves.index(curve)}
        for name, curve in names
    ]
    return {"title": group.title, "curves": rows, "missing": group.missing}


def champion_rows(campaign: Campaign) -> list[dict]:
    """[{n, time, mean, half, runs}] of all valid runs of each champion.

    They are no measure of gains: runs of two champions lie hours apart.
    """
    if not campaign.baseline:
        return []
    if not campaign.goal.is_val_bpb:
        return champions_by_points(campaign)
    noise, rows = campaign.noise(), []
    for e in campaign.kept:
        scores = campaign.scores_of(e.arms[CANDIDATE]["source"])
        shown = scores or e.deciding_scores()  # older ledgers may have but the run that kept it
        mean, half = mean_of(shown, noise)
        time_kept = e.closes["time"]
        rows.append({"n": e.n, "time": time_kept, "mean": mean, "half": half, "runs": len(shown)})
    return rows


def champions_by_points(campaign: Campaign) -> list[dict]:
    """champion_rows() in val_bpb, though the campaign has another goal."""
    points = {point.source: point for point in list_points(campaign)}
    return [
        {
            "n": e.n,
            "time": e.closes["time"],
            "mean": point.values[SCORE],
            "half": point.halves.get(SCORE),
            "runs": point.runs,
        }
        for e in campaign.kept
        if (point := points.get(e.arms[CANDIDATE]["source"]))
    ]


def bar_rows(campaign: Campaign) -> list[dict]:
    """[{n, time, mean, half}]: the bar, with half of its 95% interval, after each verdict.

    n is that of the latest experiment with a verdict. Older ledgers had no bar: []. So it is where
    the goal is another than val_bpb: goal_bar_rows() has it then.
    """
    if not campaign.goes_by_points or not campaign.goal.is_val_bpb:
        return []
    return bar_history(campaign)


def goal_bar_rows(campaign: Campaign) -> list[dict]:
    """[{n, time, mean, low, high}] of the same in the unit of the goal where that isn't val_bpb."""
    if not campaign.goes_by_points or campaign.goal.is_val_bpb:
        return []
    rows = []
    for row in bar_history(campaign):
        mean, low, high = campaign.goal.figures_of(row["mean"], row["half"])
        rows.append({"n": row["n"], "time": row["time"], "mean": mean, "low": low, "high": high})
    return rows


def bar_history(campaign: Campaign) -> list[dict]:
    """[{n, time, mean, half}] in the unit of scores."""
    search, rows, latest = Search({e.n: e for e in campaign.since}), [], 0
    for line in campaign.rows:
        search.add(line)
        latest = max(latest, line["n"]) if line["kind"] == "closes" else latest
        if line["kind"] == "closes" and search.champion:
            bar, noise = search.bars[search.champion], search.noise
            half = student_quantile(noise.df, 0.975) * noise.sigma * math.sqrt(bar.variance)
            rows.append({"n": latest, "time": line["time"], "mean": bar.level, "half": half})
    return rows


def claim_data(campaign: Campaign) -> dict[str, Any]:
    """What was gained, as far as it was measured afresh, in words and by split."""
    words = claims.describe_claim(campaign)
    gains = claims.claimed_gains(campaign) if words else {}
    parts: dict[str, Any] = {"words": words, "null_keeps": claims.describe_null_keeps(campaign)}
    parts |= {
        split: gain_interval(gain) for split, gain in gains.items() if split in SPLITS["audit"]
    }
    if "goal" in gains:
        return parts | {"ratio": claims.format_gain(gains["goal"], campaign.goal)}
    if not campaign.goal.is_val_bpb:
        return parts
    promised = finite_or_none(claims.promised_gain(campaign))
    return parts | ({"promised": {"gain": promised}} if promised is not None else {})


def gain_interval(comparison: Comparison) -> dict[str, float]:
    return {"gain": comparison.gain, "low": comparison.low, "high": comparison.high}


def sigma_history(campaign: Campaign) -> list[dict]:
    """[{n, sigma, df}]: what the noise was thought to be, experiment after experiment.

    It is that of val_bpb: [] where another is the goal.
    """
    if not campaign.baseline or not campaign.goal.is_val_bpb:
        return []
    history = [(e.n, campaign.noise(before=e.closes["line"] + 1)) for e in campaign.tried]
    return [{"n": n, "sigma": finite_or_none(noise.sigma), "df": noise.df} for n, noise in history]


def audit_rows(experiments: list[Experiment]) -> list[dict]:
    """[{name, val, test}]: each champion's gain on the baseline in the last audit."""
    audits = [e for e in experiments if e.role == "audit" and e.closes]
    if not audits:
        return []
    pairs = zip(*(contrast_rows(audits[-1], split) for split in SPLITS["audit"]))
    return [
        {"name": val["name"], "val": val, "test": test}
        for val, test in pairs
        if "gain" in val and "gain" in test
    ]


def find_warnings(runs: list[dict]) -> list[str]:
    """What a reader should know before any number."""
    warnings = []
    if levels := {run["isolation"] for run in runs} - {"bubblewrap", "landlock"}:
        names = ", ".join(sorted(levels))
        warnings.append(f"isolation was {names}: nobody saw what a contestant could reach")
    if reasons := {run.get("throttled") for run in runs} - {"", None}:
        warnings.append(f"the device was throttled by {', '.join(sorted(reasons))}")
    if shared := sum(run["shared"] for run in runs):
        counted = sum(run["shared"] and run["busy"] for run in runs)
        text = f"other programs used the device during {shared} of {len(runs)} runs"
        text += (
            f"; {counted} of them count, because of --busy" if counted else "; none of them counts"
        )
        warnings.append(text)
    return warnings


# --------------------------------------------------------------------------------------------------
# An experiment


def experiment_row(
    experiment: Experiment, campaign: Campaign, home: Path, diffs: Diffs, with_curve: set[int]
) -> dict[str, Any]:
    """One experiment as the page shows it; "cells" are those of its row in the table."""
    runs = [run for run in experiment.runs if run["arm"] == CANDIDATE]
    valid = [run for run in runs if is_valid(run)]
    run = (valid or runs or [{}])[-1]
    failed = [each for each in experiment.runs if each["status"] != "ok"]
    state = state_of(experiment, home)
    splits = SPLITS.get(experiment.role, ())
    compared = [row for split in splits for row in contrast_rows(experiment, split)]
    row = {
        "n": experiment.n,
        "time": experiment.time,
        "role": experiment.role,
        "by": shorten(experiment.by, IDEA_CHARACTERS),
        "idea": shorten(experiment.idea, IDEA_CHARACTERS),
        "verdict": state,
        "mark": state if experiment.has_own_verdict else "hit",  # of its own runs, in charts
        "reason": shorten(experiment.reason, IDEA_CHARACTERS),
        "runs": len(experiment.runs),
        "said": experiment.gain,
        "near": experiment.near,
        "members": member_ideas(experiment, campaign),
        "commit": experiment.arms[CANDIDATE]["commit"][:10],
        "arms": [shorten(arm["name"], IDEA_CHARACTERS) for arm in experiment.arms],
        "ended": [experiment.opens, *experiment.decisions][-1]["time"],  # of its own runs
        "seeds": [each["seed"] for each in valid],
        "disturbed": sum(map(is_disturbed, experiment.runs)),
        "compared": compared,
        "curve": loss_curve(run, home) if experiment.n in with_curve else [],
        "tail": shorten("\n".join(failed[-1]["tail"]), LOG_CHARACTERS) if failed else "",
        **score_figures(experiment, campaign),
        **run_figures(run, home),
    }
    if experiment.role in CHANGES:
        commit = experiment.arms[CANDIDATE]["commit"]
        row["diff"] = shorten(diffs[experiment.parent, commit], DIFF_CHARACTERS)
        row["size"] = experiment.arms[CANDIDATE]["size"] - experiment.arms[1]["size"]
    return row | {"cells": cells_of(row)}


def member_ideas(trial: Experiment, campaign: Campaign) -> list[dict]:
    """[{n, idea}] of the ideas that a trial tries together."""
    ideas = {e.n: e.idea for e in campaign.all if e.n in trial.members}
    return [{"n": n, "idea": shorten(ideas[n], IDEA_CHARACTERS)} for n in trial.members]


def score_figures(e: Experiment, campaign: Campaign) -> dict[str, Any]:
    """val_bpb of the candidate, its mean with half of its interval; what is known of its gain.

    figure, gain_words: of another goal than val_bpb. with: the ideas that its trial tried as well.
    own: the gain by runs of nothing else but it.
    """
    scores = [] if e.role in SPLITS else [bpb(run) for run in e.deciding_runs()]
    mean, half = mean_of(scores, campaign.bpb_noise if campaign.baseline else None)
    figures = {"scores": scores, "mean": mean, "half": half}
    if scores and not campaign.goal.is_val_bpb:
        figures["figure"] = campaign.goal.figure_of(fmean(e.deciding_scores()))
    figures |= {"selected": is_selected(e, campaign), "with": claims.companions(e)}
    if e.role not in CHANGES:
        return figures
    if not campaign.goal.is_val_bpb:
        words = claims.describe_gain(e, campaign)
        return figures | {"gain_words": words} | search_figures(e, campaign)
    if comparison := compare_so_far(e, campaign):
        figures |= gain_interval(comparison)
    if own := claims.own_comparison(e, campaign):
        figures["own"] = gain_interval(own)
    return figures | search_figures(e, campaign)


def search_figures(e: Experiment, campaign: Campaign) -> dict[str, Any]:
    """Gain of each run over the bar, in sigma, and the points they make; older ledgers: {}."""
    if not campaign.goes_by_points:
        return {}
    gains = [finite_or_none(gain) for gain in campaign.search.pursuits[e.n].gains]
    points = campaign.search.points_of(e.n) if e.role == "try" else None
    return {"sigmas": gains, "points": finite_or_none(points)}


def contrast_rows(e: Experiment, split: str) -> Iterator[dict]:
    """How each source of a comparison or an audit did on a split."""
    for arm, (scores, comparison) in zip(e.arms, compare_with_first(e, split)):
        mean = sum(scores) / len(scores) if scores else None
        row = {"name": shorten(arm["name"], IDEA_CHARACTERS), "split": split, "mean": mean}
        yield row | (gain_interval(comparison) if comparison else {})


def run_figures(run: dict, home: Path) -> dict[str, Any]:
    """Side figures of one run; {} without one."""
    if not run:
        return {}
    seconds = run["seconds"].get("train")
    probes = run.get("val", {}).get("probes") or {}
    return {key: run.get(key) for key in FIGURES} | {
        "measures": read_measures(run),
        "isolation": run["isolation"],
        "train": seconds,
        "rate": run["tokens"] / seconds if seconds and run.get("tokens") else None,
        "probes": {name: seen for name, (_, seen) in probes.items()},
        "architecture": read_architecture(home / run.get("folder", "none") / "config.json"),
    }


def read_architecture(path: Path) -> str:
    """Example: "depth 3, width 192"; "" without a config.json. A contestant wrote the file."""
    try:
        pairs = json.loads(read_untrusted(path)).items()
        return shorten(", ".join(f"{key} {value}" for key, value in pairs), 300)
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def loss_curve(run: dict, home: Path) -> list[list[float]]:
    """[[seconds, tokens, loss]] of a run, thinned out to CURVE_POINTS means."""
    if "folder" not in run:
        return []
    points = early_stopping.read_curve(home / run["folder"] / "curve.jsonl")[0]
    size = math.ceil(len(points) / CURVE_POINTS) or 1
    pieces = [points[i : i + size] for i in range(0, len(points), size)]
    return [[round_mean(column) for column in zip(*piece)] for piece in pieces]


def round_mean(values: Iterable[float]) -> float:
    """The mean with five digits."""
    values = [*values]
    return float(f"{sum(values) / len(values):.5g}")
