"""Tells from the training loss half-way whether a run is worth its second half.

A run is behind if its loss is above the mean of the champion's runs. docs/statistics.md says how
well that tells the score. Schedules that bring the loss down later are told wrong.

The file is the contestant's own, and only numbers are taken from it. With wrong ones it can have
itself stopped, or not; as a champion, all ideas that come after it. No score depends on them.
"""

import io
import json
import math
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from ratchet.arena.budget import parse_budget
from ratchet.arena.files import open_untrusted
from ratchet.referee import limits
from ratchet.referee.supervisor import EndedEarly

SHARES = (0.5,)  # of a run, at which its loss is compared
WINDOW = 0.2  # share of a run over which its loss is averaged
LEAST_RUNS = 3  # of the champion
LEAST_POINTS = 20  # of a curve
LOOK_SECONDS = 1  # between two looks at a curve
LINE_BYTES = 1000  # of a curve: a longer one is no point of it
KEYS = "seconds", "tokens", "loss"  # of a line of a curve
MOST = 1e30  # what isn't less is no number of a curve

Curve = list[tuple[float, float]]  # (share of the budget, loss), in order


class Milestone(NamedTuple):
    """Where the champion's runs were at a share of the budget."""

    share: float
    loss: float  # their mean


def read_curve(path: Path, begin: int = 0) -> tuple[list[tuple[float, float, float]], int]:
    """([(seconds, tokens, loss)], where to go on reading) of a curve.jsonl from a byte on."""
    points, most = [], limits.ARTIFACT_BYTES["curve.jsonl"]
    with suppress(OSError), open_untrusted(path, most) as file:
        file.seek(begin)
        for line in io.BytesIO(file.read(most)):
            if not line.endswith(b"\n"):
                break
            begin += len(line)
            if len(line) > LINE_BYTES:
                continue
            with suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError):
                point = json.loads(line)
                seconds, tokens, loss = (float(point[key]) for key in KEYS)
                if all(abs(value) < MOST for value in (seconds, tokens, loss)):
                    points.append((seconds, tokens, loss))
    return points, begin


def to_shares(points: list[tuple[float, float, float]], budget: str) -> Curve:
    """The Curve of (seconds, tokens, loss) in a budget like 300s or 20e6tok; [] for FLOPs."""
    limit = parse_budget(budget)
    if limit.unit == "flop":
        return []
    return sorted((limit.share_used(seconds, tokens), loss) for seconds, tokens, loss in points)


def mean_loss(curve: Curve, share: float) -> float | None:
    """The mean loss over the WINDOW that ends at a share; None without any point in it."""
    first = bisect_right(curve, (share - WINDOW, math.inf))
    last = bisect_right(curve, (share, math.inf))
    return fmean(loss for _, loss in curve[first:last]) if last > first else None


def find_milestones(curves: list[Curve]) -> list[Milestone]:
    """The milestones of a champion, given the curves of its runs; [] if these are too few."""
    curves = [curve for curve in curves if len(curve) >= LEAST_POINTS]
    if len(curves) < LEAST_RUNS:
        return []
    milestones = []
    for share in SHARES:
        losses = [loss for curve in curves if (loss := mean_loss(curve, share)) is not None]
        if len(losses) == len(curves):
            milestones.append(Milestone(share, fmean(losses)))
    return milestones


def why_behind(curve: Curve, milestones: Sequence[Milestone]) -> str:
    """Why a run is too far behind the champion, at the first milestone where it is.

    "" if it isn't. Example: "loss 4.712 at 50% of the budget, the champion had 4.500"
    """
    for share, mean in milestones:
        loss = mean_loss(curve, share)
        if not curve or curve[-1][0] < share or loss is None:
            return ""
        if loss > mean:
            return f"loss {loss:.3f} at {share:.0%} of the budget, the champion had {mean:.3f}"
    return ""


class EarlyStopping:
    """Called again and again while a run trains: raises EndedEarly("stopped") when it is."""

    def __init__(self, path: Path, budget: str, milestones: Sequence[Milestone]) -> None:
        self.path, self.budget, self.milestones = path, budget, milestones
        self.curve: Curve = []
        self.bytes_read, self.next_look = 0, 0.0

    def __call__(self) -> None:
        if not self.milestones or time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + LOOK_SECONDS
        points, self.bytes_read = read_curve(self.path, self.bytes_read)
        self.curve += to_shares(points, self.budget)
        if reason := why_behind(self.curve, self.milestones):
            raise EndedEarly("stopped", reason)
