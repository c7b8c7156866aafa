"""Decoding curves as serve-bench leaves them, with figures made up."""

import json

from ratchet.model import serve_bench
from ratchet.model.find import write_measured
from ratchet.report.data import MEASURED

LIMITS = {"bandwidth": 1e10, "peak_flops": 1e12, "floor": None}


def make_curve(run, source, speed=1.0, device="cpu", prompt=256, seal="s"):
    """Of a model that decodes a row in 1 ms, or so many times as fast."""

    def seen(rows):
        seconds = 1e-3 * (1 + rows / 8) / speed
        times = {"first": [0.01] * 3, "tpots": [seconds] * 3, "slow_gap": 2 * seconds}
        return times | {"bytes": 1e6 * (4 + rows), "flops": 1e6 * rows}

    points = [serve_bench.batch_figures(rows, seen(rows), LIMITS) for rows in (1, 2, 4, 8)]
    curve = {"run": run, "source": source, "seal": seal, "device": device}
    curve |= {"prompt": prompt, "new": 64}
    curve |= {"cached": True, "compiled": True, "isolation": "bubblewrap", "points": points}
    curve |= {"limits": LIMITS, "against": {"cached": 0.001, "recomputed": 0.02}}
    curve |= {"frontier": [p["rows"] for p in serve_bench.pareto_frontier(points)]}
    return curve | {"time": "2026-01-31 12:00 UTC"}


def write_curves(home, *curves):
    write_measured(home / MEASURED[0], {"curves": curves})


def as_older(curve):
    """As an older serve-bench left it: one curve, which says nothing of its source."""
    return json.dumps({key: value for key, value in curve.items() if key != "source"})
