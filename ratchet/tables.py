"""Experiments as tables and sentences on the terminal."""

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ratchet import claims
from ratchet.experiments.campaign import Campaign, is_selected, list_campaigns, mean_of
from ratchet.experiments.comparisons import (
    SPLITS,
    compare_goal_with_first,
    compare_with_first,
)
from ratchet.experiments.goals import SCORE, figure_text
from ratchet.experiments.ledger import Experiment, bpb, is_disturbed, is_valid
from ratchet.experiments.running import state_of
from ratchet.referee.measures import MEASURES, Measure
from ratchet.report.frontier import Point
from ratchet.report.palette import style_of
from ratchet.terminal import console, local_time, local_zone, show_json

WIDE = 120  # characters that all columns of the log need
NARROW_GAIN = 27  # characters of a gain on a narrow terminal: names of a batch go below it
GOAL = "goal"  # a column where a campaign has another than val_bpb
COLUMNS = ["n", "time", "what", "commit", "verdict", "runs", "val bpb", GOAL, "gain", "idea"]
WIDE_COLUMNS = ["time", "what", "commit"]
PHASES = ["start", "rehearsal", "train", "score"]
ALPHA = 0.05  # two-sided, of all comparisons together
BARS = "▁▂▃▄▅▆▇█"


def experiment_json(e: Experiment, home: Path) -> dict[str, Any]:
    """Facts of an experiment and what follows from them; `state` is its verdict once it has one."""
    runs = [e.valid_runs(arm) for arm in range(len(e.arms))]
    scores = [[*map(bpb, of_arm)] for of_arm in runs]
    derived = {"verdict": e.verdict, "state": state_of(e, home), "scores": scores}
    if not e.goal.is_val_bpb:
        derived[e.goal.name] = [[*map(e.goal.measure.read, of_arm)] for of_arm in runs]
    return {"opens": e.opens, "runs": e.runs, "closes": e.closes, "reason": e.reason} | derived


def styled_state(e: Experiment, home: Path) -> str:
    state = state_of(e, home)
    return f"[{style_of(state).terminal}]{state}[/]"


def with_error(value: float | None, half: float | None, sign: str = "") -> str:
    """A figure with half of its interval. Example: (0.0432, 0.0311, "+") -> "+0.0432 ± 0.0311"."""
    if value is None:
        return ""
    return f"{value:{sign}.4f}" + ("" if half is None else f" ± {half:.4f}")


# --------------------------------------------------------------------------------------------------
# One experiment


def show_verdict(e: Experiment, home: Path, as_json: bool) -> None:
    if as_json:
        return show_json(experiment_json(e, home))
    say_verdict(e, home)
    say_failures(e)


def say_verdict(e: Experiment, home: Path) -> None:
    reason = f", {escape(e.reason)}" if e.reason else ""
    console.print(f"experiment {e.n}: [bold]{styled_state(e, home)}[/]{reason}", soft_wrap=True)
    if needed := e.closes.get("seeds_needed"):
        console.print(f"about {needed} seeds per arm would settle it")


def say_failures(e: Experiment) -> None:
    for run in e.runs:
        if run["status"] != "ok":
            console.print(escape("\n".join(run["tail"])), style="dim")
    if levels := {run["isolation"] for run in e.runs} - {"bubblewrap", "landlock"}:
        console.print(f"isolation was {', '.join(levels)}: see `ratchet doctor`", style="yellow")


def show_experiment(e: Experiment, everything: list[Experiment], home: Path) -> None:
    """All that the ledger has on an experiment."""
    say_verdict(e, home)
    for key in ("role", "idea", "by", "time", "arena", "seal", "budget", "device", "torch"):
        if value := e.opens.get(key):
            value = f"{local_time(value)} {local_zone()}" if key == "time" else value
            console.print(f"{key + ':':<9}{escape(str(value))}")
    for arm in e.arms:
        commit = arm["commit"] or "none"
        console.print(f"{'source:':<9}{escape(arm['name'])}, commit {commit}", soft_wrap=True)
    if e.role in ("try", "trial"):
        campaign = campaigns_by_number(everything)[e.n]
        for line in search_lines(e, campaign):
            console.print(escape(line), soft_wrap=True)
    show_contrasts(e)
    show_runs(e)
    say_failures(e)


def search_lines(e: Experiment, campaign: Campaign) -> Iterator[str]:
    """Members of a trial; gains of a try's runs over the bar, its points; what both gained."""
    ideas = {each.n: each.idea for each in campaign.all}
    for n in e.members:
        yield f"member:  {n} {ideas[n]}"
    if e.alone:
        yield f"alone:   {claims.list_numbers(e.alone)} collide with these and are tried alone"
    if e.role == "try" and campaign.goes_by_points:
        gains = ", ".join(f"{gain:+.1f}" for gain in campaign.search.pursuits[e.n].gains)
        points = campaign.search.points_of(e.n)
        if points is not None:
            yield f"search:  {gains} sigma over the bar, {points:.2f} points; {claims.SELECTED}"
    if not e.has_own_verdict:
        yield f"trial:   experiment {e.closes['n']}"
    if gain := claims.describe_gain(e, campaign):
        is_fresh = campaign.goes_by_points and not is_selected(e, campaign)
        unit = "bpb over" if campaign.goal.is_val_bpb else f"{campaign.goal.name} of"
        words = f"{unit} the champion of that time, 95 %" + ", fresh runs" * is_fresh
        yield f"gain:    {gain} [{words}]"
    if words := claims.describe_bpb(e, campaign):
        yield f"slack:   {words}"


def show_runs(e: Experiment) -> None:
    """How the runs ended, their figures, what the probes saw in the last valid one."""
    console.print(endings_table(e), figures_table(e), sep="\n")
    if any(map(is_disturbed, e.runs)):
        note = "disturbed by other programs: such a run doesn't count and is repeated, same seed"
        console.print(note, style="dim")
    valid = [run for run in e.runs if is_valid(run)]
    for name, (_, seen) in (valid[-1]["val"]["probes"] if valid else {}).items():
        console.print(escape(f"probe {name}: {seen}"))
    for run in e.runs:
        if run["status"] != "ok":
            console.print(escape(f"{run['status']}: {run['reason']}"))


def run_label(number: int, run: dict) -> str:
    """Example: "0 screen"."""
    return f"{number} {run['phase']}"


def endings_table(e: Experiment) -> Table:
    """Source, seed, status, score, load of others and isolation of each run."""
    table = Table(
        "run", "source", "seed", "status", "val bpb", "others' CPU", "isolation", box=None
    )
    in_cluster, measures = any(run.get("on") for run in e.runs), list_measures(e)
    for measure in measures:
        table.add_column(f"{measure.name}, {measure.unit}")
    if in_cluster:
        table.add_column("on")
    for number, run in enumerate(e.runs):
        cells = [
            run_label(number, run),
            escape(e.arms[run["arm"]]["name"]),
            str(run["seed"]),
            "disturbed" if is_disturbed(run) else run["status"],
            f"{bpb(run):.4f}" if run["status"] == "ok" else "",
            f"{run.get('foreign_cpu', 0):.0%}",
            run["isolation"],
        ]
        cells += [measure_cell(run, measure) for measure in measures]
        cells += [run.get("on", "")] * in_cluster
        table.add_row(*cells, style="dim" if is_disturbed(run) else "")
    return table


def list_measures(e: Experiment) -> list[Measure]:
    """Those that the campaign goes by: its goal, if that isn't val_bpb, and those it limits."""
    goal = [] if e.goal.is_val_bpb else [e.goal.name]
    return [MEASURES[name] for name in dict.fromkeys([*goal, *e.limits])]


def measure_cell(run: dict, measure: Measure) -> str:
    """A run's figure; a run that was over a limit has one, too."""
    value = measure.read(run)
    return "" if value is None else figure_text(value)


def figures_table(e: Experiment) -> Table:
    """Seconds of each phase, steps, tokens, parameters and memory of each run."""
    seconds = [f"{phase} s" for phase in PHASES]
    table = Table("run", *seconds, "steps", "Mtok", "Mparams", "MB", box=None)
    for number, run in enumerate(e.runs):
        table.add_row(
            run_label(number, run),
            *(f"{run['seconds'].get(phase, 0):.1f}" for phase in PHASES),
            str(run.get("steps", "")),
            f"{run.get('tokens', 0) / 1e6:.2f}",
            f"{run.get('params', 0) / 1e6:.2f}",
            str(run.get("peak_memory_mb", "")),
        )
    return table


# --------------------------------------------------------------------------------------------------
# Comparisons


def contrast_rows(e: Experiment, split: str) -> list[dict[str, Any]]:
    """How the arms of a comparison or an audit did on a split, the first one without a gain."""
    pairs = compare_with_first(e, split)
    tests = max(1, len(pairs) - 1)
    rows = []
    for arm, (scores, comparison) in zip(e.arms, pairs):
        mean = sum(scores) / len(scores) if scores else None
        row = {"name": arm["name"], "scores": scores, "mean": mean}
        if comparison:
            settled = tests * comparison.p_two < ALPHA
            row |= comparison._asdict() | {"settled": settled}
        rows.append(row)
    return rows


def show_contrast(e: Experiment, split: str) -> None:
    """A table of contrast_rows()."""
    title = f"{split} bits per byte, {e.reason}"
    gain = f"gain on {e.arms[0]['name']} (95%)"
    heads = "source", "runs", "mean ± sd", gain, "p, two-sided", "settled"
    table = Table(*heads, title=title, title_justify="left", box=None)
    rows = contrast_rows(e, split)
    for row in rows:
        spread = statistics.stdev(row["scores"]) if len(row["scores"]) > 1 else None
        cells = [escape(row["name"]), str(len(row["scores"])), with_error(row["mean"], spread)]
        if "gain" in row:
            cells.append(with_error(row["gain"], row["high"] - row["gain"], "+"))
            cells += [f"{row['p_two']:.2g}", "yes" if row["settled"] else "no"]
        table.add_row(*cells)
    console.print(table)
    if len(rows) > 2:
        console.print(f"settled: p x {len(rows) - 1} comparisons < {ALPHA} (Bonferroni)")


def show_contrasts(e: Experiment) -> None:
    """All that a comparison, a closing or an audit measured."""
    if e.role in SPLITS and not e.goal.is_val_bpb:
        show_goal_contrast(e)
    for split in SPLITS.get(e.role, ()):
        show_contrast(e, split)


def goal_rows(e: Experiment) -> list[dict[str, Any]]:
    """What the arms measured of a goal that isn't val_bpb, in its unit; the first has no ratio."""
    rows = []
    for arm, (scores, comparison) in zip(e.arms, compare_goal_with_first(e)):
        figures = [*map(e.goal.figure_of, scores)]
        mean = e.goal.figure_of(statistics.mean(scores)) if scores else None
        row: dict[str, Any] = {"name": arm["name"], "figures": figures, "mean": mean}
        if comparison:
            gain = comparison.gain, comparison.low, comparison.high
            row |= dict(zip(("ratio", "low", "high"), e.goal.ratios_of(gain)))
            row |= {"words": e.goal.describe_gain(comparison), "p_two": comparison.p_two}
        rows.append(row)
    return rows


def goal_json(e: Experiment) -> dict[str, list[dict[str, Any]]]:
    """{the goal: goal_rows()}, {} where that is val_bpb."""
    return {} if e.goal.is_val_bpb else {e.goal.name: goal_rows(e)}


def show_goal_contrast(e: Experiment) -> None:
    """A table of goal_rows()."""
    title = f"{e.goal.name}, {e.goal.measure.unit}, {e.reason}"
    ratio = f"ratio to {e.arms[0]['name']} (95%)"
    table = Table("source", "runs", "mean", ratio, "p, two-sided", title=title, box=None)
    table.title_justify = "left"
    for row in goal_rows(e):
        mean = "" if row["mean"] is None else figure_text(row["mean"])
        p = f"{row['p_two']:.2g}" if "p_two" in row else ""
        cells = [str(len(row["figures"])), mean, escape(row.get("words", "")), p]
        table.add_row(escape(row["name"]), *cells)
    console.print(table)


# --------------------------------------------------------------------------------------------------
# The frontier


def show_frontier(points: list[Point], axes: Sequence[str]) -> None:
    """A line for each point, with its measures; earlier campaigns' are dim."""
    table = Table(box=None)
    has_earlier = any(point.is_earlier for point in points)
    for name in ("n", *map(with_unit, axes), "runs", *["campaign"] * has_earlier):
        table.add_column(name, no_wrap=True)
    table.add_column("idea")  # takes what room is left
    for point in points:
        cells = [frontier_cell(point, axis) for axis in axes]
        cells.append(f"{point.runs}*" if point.is_selected else str(point.runs))
        if has_earlier:
            cells.append(point.since[5:10] if point.is_earlier else "now")
        style = "bold" if point.is_champion else "dim" if point.is_earlier else ""
        idea = Text(point.idea, no_wrap=True, overflow="ellipsis")
        table.add_row(str(point.n), *cells, idea, style=style)
    console.print(table)
    notes = ["± 95 %, by the spread of runs of one source; the champion is bold"]
    if any(point.is_selected for point in points):
        notes.append(f"* {claims.SELECTED}")
    if has_earlier:
        notes.append(
            "lines of earlier campaigns, by their dates, beat none of now: conditions drift"
        )
    console.print("\n".join(notes), style="dim")


def with_unit(axis: str) -> str:
    """A measure with its unit below, and whether the contestant told it: "flops\nFLOPs, told"."""
    if axis not in MEASURES:
        return axis
    return f"{axis}\n{MEASURES[axis].unit}{', told' * MEASURES[axis].is_told}"


def frontier_cell(point: Point, axis: str) -> str:
    """A measure's mean and its error. Examples: "1.4407 ± 0.0123", "1280 ± 110"."""
    value, half = point.values[axis], point.halves.get(axis)
    if axis == SCORE:
        return with_error(value, half)
    if not half:
        return f"{value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(half)))  # of which the error shows two
    return f"{value:.{digits}f} ± {half:.{digits}f}"


# --------------------------------------------------------------------------------------------------
# The log


def log_cells(e: Experiment, campaign: Campaign, home: Path) -> dict[str, str]:
    """An experiment's line of the log, by column."""
    mean, half = mean_of([*map(bpb, e.deciding_runs())], campaign.baseline and campaign.bpb_noise)
    several = e.role in SPLITS
    is_narrow = console.width < WIDE
    return {
        "n": str(e.n),
        "time": local_time(e.time)[5:],
        "what": e.role,
        "commit": f"{len(e.arms)} arms" if several else e.arms[0]["commit"][:7],
        "verdict": styled_state(e, home),
        "runs": str(len(e.runs)),
        "val bpb": "" if several else with_error(mean, None if is_narrow else half),
        GOAL: "" if several or e.goal.is_val_bpb else goal_level(e),
        "gain": escape(log_gain(e, campaign)),
        "idea": escape(claims.name_trial(e) if e.members else e.idea or e.reason),
    }


def goal_level(e: Experiment) -> str:
    """The mean of what an experiment measured of its goal: "user_tps 231"."""
    scores = e.deciding_scores()
    return (
        f"{e.goal.name} {figure_text(e.goal.figure_of(statistics.mean(scores)))}" if scores else ""
    )


def log_gain(e: Experiment, campaign: Campaign) -> str:
    """Of a try or a trial over its champion; of other comparisons over the baseline."""
    if e.role in ("try", "trial"):
        return claims.describe_gain(e, campaign)
    if e.role not in ("closing", "audit") or not e.closes:
        return ""
    comparison = compare_goal_with_first(e)[-1][1]
    return f"{claims.format_gain(comparison, e.goal)}, fresh" if comparison else ""


def campaigns_by_number(experiments: list[Experiment]) -> dict[int, Campaign]:
    """{n: the campaign of experiment n}."""
    return {e.n: campaign for campaign in list_campaigns(experiments) for e in campaign.all}


def experiments_by(name: str, everything: list[Experiment]) -> list[Experiment]:
    """The ideas of an author, and the trials that they had a part in.

    name: as in the ledger or, where nobody is called so, the program of commands: "claude" is
    "claude -p --model x", too.
    """
    names = {name}
    if name not in {e.by for e in everything}:
        commands = {e.by for e in everything if e.role == "try"}
        names = {by for by in commands if by and Path(by.split()[0]).name == name}
    own = {e.n for e in everything if e.role != "trial" and e.by in names}
    return [e for e in everything if e.n in own or own & {*e.members}]


def show_log(chosen: list[Experiment], everything: list[Experiment], most: int, home: Path) -> None:
    """A line for each of the last `most` chosen experiments, and the story of all champions."""
    is_narrow = console.width < WIDE
    without = WIDE_COLUMNS if is_narrow else []
    without = without + [GOAL] * all(e.goal.is_val_bpb for e in chosen)
    names = [name for name in COLUMNS if name not in without]
    table = Table(box=None)
    for name in names:
        is_long = name == "idea" or (name == "gain" and is_narrow)
        width = NARROW_GAIN if name == "gain" and is_narrow else None
        title = f"time, {local_zone()}" if name == "time" else name
        table.add_column(title, no_wrap=not is_long, overflow="fold", max_width=width)
    campaign_of, shown = campaigns_by_number(everything), chosen[-most:]
    for e in shown:
        cells = log_cells(e, campaign_of[e.n], home)
        table.add_row(*(cells[name] for name in names))
    console.print(table)
    if len(shown) < len(chosen):
        text = f"{len(shown)} of {len(chosen)} experiments: -n {len(chosen)} shows all"
        console.print(text, style="dim")
    for campaign in dict.fromkeys(campaign_of.values()):
        say_campaign(campaign)
    legend = "val bpb: mean of its own runs; gain: over the champion of that time, ± 95 %"
    console.print(f"{legend}; {claims.SELECTED}", style="dim")
    levels = sorted({run["isolation"] for e in shown for run in e.runs})
    console.print(f"isolation: {', '.join(levels) or 'nothing has run'}", style="dim")


def say_campaign(campaign: Campaign) -> None:
    """How the champions became better, and what of it is a claim."""
    if campaign.noise_warning:
        console.print(campaign.noise_warning, style="yellow")
    if not campaign.baseline or len(campaign.kept) < 2:
        return
    scores = [campaign.scores_of(e.arms[0]["source"]) for e in campaign.kept]
    goal = campaign.goal
    means = [goal.figure_of(statistics.mean(group)) for group in scores if group]
    sigma = f"sigma {goal.describe_sigma(campaign.noise().sigma)}"
    name = "" if goal.is_val_bpb else f" of {goal.name}"
    console.print(f"{len(campaign.kept)} champions{name} {sparkline(means)}, {sigma}")
    for words in (claims.describe_claim(campaign), claims.describe_null_keeps(campaign)):
        if words:
            console.print(escape(words), soft_wrap=True)


def sparkline(values: list[float]) -> str:
    """Example: [3.0, 2.5, 1.0] -> "█▆▁"."""
    low, high = min(values), max(values)
    heights = [round((value - low) / ((high - low) or 1) * (len(BARS) - 1)) for value in values]
    return "".join(BARS[height] for height in heights)
