"""Curves: reads the training losses that runs left, tells whether a run can still catch up with
others.

The file is the contestant's own: only numbers are taken from it, and all that it can do with wrong
ones is to have itself stopped, or not.
"""

import json
import math
import re
import time
from bisect import bisect_right
from contextlib import suppress
from statistics import fmean, stdev

from ratchet.referee.supervisor import Ended

WINDOW = 0.1  # share of a run over which its loss is averaged
SHARES = tuple(n / 20 for n in range(6, 17))  # of a run, at which it is compared
CATCH_UP = 1.5  # no run makes good more than so many times what the champion still gains
NOISE = 3  # standard deviations between the champion's runs that are granted besides
LEAST_RUNS, LEAST_POINTS = 2, 20  # of the champion; of a curve
LOOK_SECONDS = 1
MOST = 1e30  # a number of a curve that is not less is none


def read(path, begin=0):
    """([(seconds, tokens, loss)], bytes read) of a curve.jsonl from a byte on."""
    found = []
    with suppress(OSError), open(path, "rb") as file:
        file.seek(begin)
        for line in file:
            if not line.endswith(b"\n"):
                break
            begin += len(line)
            with suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError):
                point = json.loads(line)
                point = tuple(float(point[key]) for key in ("seconds", "tokens", "loss"))
                if all(abs(value) < MOST for value in point):
                    found.append(point)
    return found, begin


def shares(points, budget):
    """[(share of the budget, loss)] of points, in order; [] for FLOP budgets."""
    amount, unit = re.fullmatch(r"(.*\d)([a-z]+)", budget).groups()
    if unit not in ("s", "tok"):
        return []
    return sorted(
        ((s if unit == "s" else tokens) / float(amount), loss) for s, tokens, loss in points
    )


def at(points, share):
    """The mean loss of points in order over the WINDOW that ends at a share, or None."""
    first, last = (
        bisect_right(points, (share - WINDOW, math.inf)),
        bisect_right(points, (share, math.inf)),
    )
    return fmean(loss for _, loss in points[first:last]) if last > first else None


def reference(curves):
    """[(share, mean loss, what is still gained, standard deviation)] of a champion's curves, or []."""
    curves = [points for points in curves if len(points) >= LEAST_POINTS]
    if len(curves) < LEAST_RUNS:
        return []
    end, found = fmean(at(points, points[-1][0]) for points in curves), []
    for share in SHARES:
        losses = [loss for points in curves if (loss := at(points, share)) is not None]
        if len(losses) == len(curves):
            found.append((share, fmean(losses), fmean(losses) - end, stdev(losses)))
    return found


def lost(points, reference, catch_up=CATCH_UP):
    """Why a run can't catch up with the champion any more, at the first share where that is seen;
    or "".
    """
    for share, mean, gained, deviation in reference:
        if not points or points[-1][0] < share or (loss := at(points, share)) is None:
            return ""
        if loss - mean > (catch_up - 1) * max(gained, 0.0) + NOISE * deviation:
            return f"loss {loss:.3f} at {share:.0%} of the budget, the champion had {mean:.3f}"
    return ""


class Hope:
    """Called again and again while a run trains: raises Ended("hopeless") when there is none."""

    def __init__(self, path, budget, reference):
        self.path, self.budget, self.reference = path, budget, reference
        self.points, self.read, self.next = [], 0, 0.0

    def __call__(self):
        if self.reference and time.monotonic() >= self.next:
            self.next = time.monotonic() + LOOK_SECONDS
            new, self.read = read(self.path, self.read)
            self.points += shares(new, self.budget)
            if why := lost(self.points, self.reference):
                raise Ended("hopeless", why)
