"""Decoding curves that serve-bench has measured, and which of them belong together.

A curve is what serve-bench makes of one model: its figures at growing batches. It belongs to the
experiments whose train.py is that model's, whichever of their runs was measured. Curves are drawn
together where they were measured alike: on one kind of device, with rows of the same length.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ratchet.experiments.campaign import Campaign
from ratchet.experiments.ledger import Experiment

MOST_CURVES = 24  # that are kept: the latest
STEADY = 1.5  # times that repeats of one measurement may differ
MOST_RATIO = 1e4  # of what a step takes to what it could: beyond it, it's no bound that was told
ENDS = "baseline and champion"  # title of a campaign's baseline and champion
Curve = dict[str, Any]  # serve_bench.measure_decoding() has what is in it


class Group(NamedTuple):
    """Curves that are drawn together."""

    title: str
    curves: dict[str, Curve]  # {what it is called: curve}
    missing: list[str]  # what was not measured, or not as these were


def read_curves(path: Path) -> list[Curve]:
    """The curves of a file, oldest first; none where it is missing or broken."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    return content["curves"] if "curves" in content else [content]  # of an older serve-bench


def add_curve(curves: Iterable[Curve], new: Curve) -> list[Curve]:
    """The curves with a new one, in place of one of the same model that was measured alike."""

    def identity(curve: Curve) -> tuple:
        model = curve.get("source") or curve["run"]
        return model, curve.get("seal"), *alike(curve)

    others = [curve for curve in curves if identity(curve) != identity(new)]
    return [*others, new][-MOST_CURVES:]


def alike(curve: Curve) -> tuple[str, int, int]:
    """What curves must share to be drawn together."""
    return curve["device"], curve["prompt"], curve["new"]


def group_curves(
    title: str, sources: Mapping[str, str], seal: str, curves: Iterable[Curve]
) -> Group:
    """The curves of sources in an arena, as the latest of them was measured.

    sources: {name: source}. seal: of the arena, on which the size of a model depends.
    """
    wanted = [(source, seal) for source in sources.values()]
    of_these = [curve for curve in curves if (curve.get("source"), curve.get("seal")) in wanted]
    same = {curve["source"]: curve for curve in of_these if alike(curve) == alike(of_these[-1])}
    shown = {name: same[source] for name, source in sources.items() if source in same}
    return Group(title, shown, [name for name in sources if name not in shown])


def night_curves(campaign: Campaign, curves: Iterable[Curve]) -> Group:
    """The curves of a campaign's baseline and of its champion."""
    ends = zip(("baseline", "champion"), campaign.kept[:1] + campaign.kept[1:][-1:])
    sources = {f"{e.n} {name}": e.arms[0]["source"] for name, e in ends}
    return group_curves(ENDS, sources, campaign.baseline.seal if campaign.baseline else "", curves)


def compared_curves(e: Experiment, curves: Iterable[Curve]) -> Group:
    """The curves of what an experiment compares."""
    sources = {arm["name"]: arm["source"] for arm in e.arms}
    return group_curves(f"comparison {e.n}", sources, e.seal, curves)


def list_groups(campaign: Campaign, curves: list[Curve]) -> Iterator[Group]:
    """Those of a campaign that have a curve: of its champion, then of each comparison."""
    compared = (compared_curves(e, curves) for e in campaign.all if e.role == "compare")
    for group in (night_curves(campaign, curves), *compared):
        if group.curves:
            yield group


def light_points(curve: Curve) -> list[tuple[float, float]]:
    """[(tokens/s of a user, of the device)] of each batch, if its steps took the least seconds.

    What a step takes is told by the model's process: what can't be true is left out.
    """
    points = ((point["rows"], point["bound"], point["tpot"]) for point in curve["points"])
    return [
        (1 / bound, rows / bound)
        for rows, bound, tpot in points
        if tpot / MOST_RATIO < bound < tpot * MOST_RATIO
    ]


def describe_unrest(curves: Iterable[Curve]) -> str:
    """A sentence if repeats of one measurement differ so much that others disturbed it, or ""."""
    spreads = [max(point["tpots"]) / min(point["tpots"]) for c in curves for point in c["points"]]
    if max(spreads, default=1.0) <= STEADY:
        return ""
    return f"repeats differ {max(spreads):.1f} times: something else uses the machine"


def measured_points(curve: Curve) -> list[tuple[float, float]]:
    """[(tokens/s of a user, of the device)] of each batch."""
    return [(point["interactivity"], point["rate"]) for point in curve["points"]]
