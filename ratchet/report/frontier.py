"""The frontier: the sources that no other beats in several measures at once.

A point is a source with the means of its runs. It is dominated where another one is at least as
good in every measure and better in one (Pareto). What the runs that chose it show dominates nothing
that fresh runs have measured, as they flatter it. Noise is shown beside the means, it decides
nothing here: two points within it may be alike.

What earlier campaigns measured in the same arena, with the same budget on the same kind of device,
are shadows: they are shown and dominate nothing, as they lie hours or days away.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ratchet.arena.files import Refused
from ratchet.claims import name_trial
from ratchet.experiments.campaign import UNSELECTED, Campaign, first_line, mean_of
from ratchet.experiments.goals import SCORE
from ratchet.experiments.ledger import CANDIDATE, Experiment, Row, bpb, is_valid
from ratchet.experiments.rule.statistics import Noise, pool_noise
from ratchet.referee.measures import MEASURES, read_measures

AXES = SCORE, "params_m", "memory_gb"  # by default
FEWEST, MOST = 2, 3  # measures of a frontier


class Point(NamedTuple):
    """A source, as its runs measured it."""

    n: int  # of its experiment
    commit: str
    source: str  # its shape
    idea: str
    values: dict[str, float]  # {measure: mean}, val_bpb among them
    halves: dict[str, float]  # {measure: half of its 95 % interval}, where one is known
    runs: int
    is_selected: bool  # whether these runs chose it: they flatter it
    is_champion: bool = False  # of now
    since: str = ""  # when its campaign was calibrated
    is_earlier: bool = False  # whether that is a campaign before


def parse_axes(text: str) -> tuple[str, ...]:
    """Example: "val_bpb,file_mb" -> ("val_bpb", "file_mb"). Raises Refused."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = [SCORE, *MEASURES]
    if unknown := [name for name in names if name not in known]:
        raise Refused(f"--by {text}: no measure is called {unknown[0]!r}: {', '.join(known)}")
    if not FEWEST <= len(names) <= MOST:
        raise Refused(f"--by {text}: name two or three measures, as --by val_bpb,file_mb")
    return names


def list_points(campaign: Campaign) -> list[Point]:
    """A point for each source of a campaign that has a score, in the order of the ledger."""
    if not campaign.baseline:
        return []
    first: dict[str, Experiment] = {}  # {source: the experiment that brought it}
    for e in campaign.since:
        if e.role in ("calibrate", "try", "trial"):
            first.setdefault(e.arms[CANDIDATE]["source"], e)
    runs = {source: own for source, own in runs_by_source(campaign).items() if source in first}
    figures = {source: [read_figures(run) for run in own] for source, own in runs.items()}
    noises = {name: pool_noise(columns(figures, name)) for name in MEASURES}
    noises[SCORE] = campaign.bpb_noise
    since, champion = campaign.baseline.time, campaign.champion["source"]
    return [
        make_point(e, runs[source], figures[source], noises)._replace(
            since=since, is_champion=source == champion
        )
        for source, e in first.items()
        if source in runs
    ]


def runs_by_source(campaign: Campaign) -> dict[str, list[Row]]:
    """{source: valid runs with the campaign's budget}, in whichever experiment they were.

    They are those that nobody selected, where the source has any.
    """
    runs: dict[str, list[Row]] = {}
    for e in campaign.since:
        for run in e.runs:
            if is_valid(run) and run["budget"] == e.budget:
                runs.setdefault(e.arms[run["arm"]]["source"], []).append(run)
    return {source: [run for run in own if is_fresh(run)] or own for source, own in runs.items()}


def is_fresh(run: Row) -> bool:
    """Whether nothing was selected by a run."""
    return run["phase"] in UNSELECTED


def read_figures(run: Row) -> dict[str, float]:
    """{measure: value} of a run, val_bpb among them."""
    return {SCORE: bpb(run)} | read_measures(run)


def columns(figures: Mapping[str, list[dict[str, float]]], name: str) -> list[list[float]]:
    """The values of a measure, by source."""
    return [[each[name] for each in own if name in each] for own in figures.values()]


def make_point(
    e: Experiment,
    runs: Sequence[Row],
    figures: Sequence[dict[str, float]],
    noises: Mapping[str, Noise],
) -> Point:
    """The point of a source. noises: of each measure, between runs of one source."""
    names = set.intersection(*map(set, figures))
    means = {name: mean_of([each[name] for each in figures], noises[name]) for name in names}
    return Point(
        e.n,
        e.arms[CANDIDATE]["commit"],
        e.arms[CANDIDATE]["source"],
        name_trial(e) if e.members else e.idea,
        {name: means[name][0] for name in sorted(means)},
        {name: half for name, (_, half) in sorted(means.items()) if half},
        len(runs),
        not is_fresh(runs[0]),
    )


def earlier_campaigns(campaign: Campaign, campaigns: Iterable[Campaign]) -> list[Campaign]:
    """Those calibrated before, in the same arena, with the same budget on such a device.

    Their limits may be others, by which no score changes.
    """
    if not (now := campaign.baseline):
        return []
    return [
        each
        for each in campaigns
        if (then := each.baseline)
        and first_line(then) < first_line(now)
        and conditions_of(then) == conditions_of(now)
    ]


def conditions_of(e: Experiment) -> tuple[str, str, str]:
    """What the figures of two sources must share to be drawn together."""
    return e.seal, e.budget, e.device


def list_earlier(points: Iterable[Point], campaigns: Collection[Campaign]) -> list[Point]:
    """The points of earlier campaigns, but for sources that this one's points have.

    Of a source in several campaigns the latest counts.
    """
    latest = {point.source: point for each in campaigns for point in list_points(each)}
    for point in points:
        latest.pop(point.source, None)
    return [each._replace(is_earlier=True, is_champion=False) for each in latest.values()]


def cost(name: str, value: float) -> float:
    """A value of a measure as a number of which less is better."""
    return -value if name in MEASURES and MEASURES[name].is_speed else value


def find_frontier(points: Iterable[Point], axes: Sequence[str]) -> list[Point]:
    """The points that no other dominates, by the last axis; those without a value are left out."""
    known = [point for point in points if all(axis in point.values for axis in axes)]
    costs = {point.n: [cost(axis, point.values[axis]) for axis in axes] for point in known}

    def is_beaten(point: Point) -> bool:
        others = [other for other in known if point.is_selected or not other.is_selected]
        return any(dominates(costs[other.n], costs[point.n]) for other in others)

    best = [point for point in known if not is_beaten(point)]
    return sorted(best, key=lambda point: costs[point.n][::-1])


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether costs are nowhere higher than others, and somewhere lower."""
    return all(x <= y for x, y in zip(a, b)) and any(x < y for x, y in zip(a, b))
