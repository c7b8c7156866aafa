"""The frontier: the sources that no other beats in several measures at once.

A point is a source with the means of its runs. It is dominated where another one is at least as
good in every measure and better in one (Pareto). What the runs that chose it show dominates nothing
that fresh runs have measured, as they flatter it. Noise is shown beside the score, it decides
nothing here: two points within it may be alike.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ratchet.arena.files import Refused
from ratchet.experiments.campaign import UNSELECTED, Campaign, mean_of
from ratchet.experiments.ledger import CANDIDATE, Experiment, Row, bpb, is_valid
from ratchet.referee.measures import MEASURES, read_measures

SCORE = "val_bpb"
AXES = SCORE, "params_m", "memory_gb"  # by default
FEWEST, MOST = 2, 3  # measures of a frontier


class Point(NamedTuple):
    """A source, as its runs measured it."""

    n: int  # of its experiment
    commit: str
    idea: str
    values: dict[str, float]  # {measure: mean}, val_bpb among them
    half: float | None  # of the 95 % interval of val_bpb
    runs: int
    is_selected: bool  # whether these runs chose it: they flatter it
    is_champion: bool  # of now


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
    first: dict[str, Experiment] = {}  # {source: the experiment that brought it}
    for e in campaign.since:
        if e.role in ("calibrate", "try", "trial"):
            first.setdefault(e.arms[CANDIDATE]["source"], e)
    runs = runs_by_source(campaign)
    points = [make_point(campaign, e, runs.get(source, []), source) for source, e in first.items()]
    return [point for point in points if point]


def runs_by_source(campaign: Campaign) -> dict[str, list[Row]]:
    """{source: its valid runs with the campaign's budget}, in whichever experiment they were."""
    runs: dict[str, list[Row]] = {}
    for e in campaign.since:
        for run in e.runs:
            if is_valid(run) and run["budget"] == e.budget:
                runs.setdefault(e.arms[run["arm"]]["source"], []).append(run)
    return runs


def make_point(campaign: Campaign, e: Experiment, runs: Sequence[Row], source: str) -> Point | None:
    """The point of a source, by runs that nobody selected where it has some; None without a run."""
    fresh = [run for run in runs if run["phase"] in UNSELECTED]
    counted = fresh or runs
    if not counted:
        return None
    scores = [bpb(run) for run in counted]
    mean, half = mean_of(scores, campaign.noise())
    figures = [read_measures(run) for run in counted]
    names = set.intersection(*map(set, figures))
    values = {name: sum(each[name] for each in figures) / len(figures) for name in sorted(names)}
    return Point(
        e.n,
        e.arms[CANDIDATE]["commit"],
        e.idea,
        {SCORE: mean} | values,
        half,
        len(counted),
        not fresh,
        source == campaign.champion["source"],
    )


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
