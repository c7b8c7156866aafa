"""What ideas are worth: the priors of the simulated nights, in sigma, the noise of a run.

    uv run benchmarks/ideas.py LOGS.csv      derives the empirical prior: results/ideas.json

Nobody knows what an agent's ideas are worth, so nights are simulated with several priors. `a` is
plain, `b` and `b2` have the shape of a public log, `e` is derived from logs: the differences between
the best score so far and each later score, less the luck of both (a mixture of points, fitted by
expectation-maximization: Kiefer and Wolfowitz 1956, Laird 1978), log by log, since agents differ.
The logs are the numbers of 23 public ones of elementalcollision/autoresearch-unified. No log repeats
a seed, so their sigma is assumed: 0.0005, 0.0007 or 0.001 bpb.

LOGS.csv has the columns log, experiment, val_bpb (empty: a crash) and status.
"""

import csv
import functools
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
EMPIRICAL = HERE / "results" / "ideas.json"
SIGMAS = {"e": "0.0007", "e5": "0.0005", "e10": "0.001"}  # assumed for the logs, bpb
SKIPPED = 15  # first experiments of a log: they set the scale
WORST, BEST = -25.0, 5.0  # sigma: what harms more is as bad; what gains more is found only once
LUCKS = np.arange(-1.75, 0.01, 0.25)  # of the best score so far, in sigma
SPREAD = 0.6  # standard deviation of that luck


class Mixture(NamedTuple):
    """A prior of effects, above 0 better: shares, and how each kind is drawn."""

    shares: list[float]
    kinds: list[tuple[str, float, float]]
    crashes: float = 0.0  # share of ideas that crash
    noisy: float = 0.0  # share of those without a gain whose runs scatter 3 times as much

    def draw(self, chance: np.random.Generator, count: int) -> np.ndarray:
        """Effects of so many ideas."""
        kind = chance.choice(len(self.shares), count, p=self.shares)
        draws = np.array([draw_kind(chance, count, *one) for one in self.kinds])
        return draws[kind, np.arange(count)]


def draw_kind(chance, count, name, low, high):
    """Effects of one kind: a point, uniform, normal (mean, sd), or harm (log-uniform)."""
    if name == "harm":
        return -np.exp(chance.uniform(np.log(low), np.log(high), count))
    if name == "normal":
        return chance.normal(low, high, count)
    return chance.uniform(low, high, count)


NULL = ("point", 0.0, 0.0)
SMALL, LARGE, NEAR = ("uniform", 0.3, 1.0), ("uniform", 1.5, 4.0), ("normal", 0.0, 0.3)
PRIORS = {
    "a": Mixture([0.05, 0.95], [("point", 2.0, 2.0), NULL]),
    "b": Mixture([0.55, 0.33, 0.10, 0.02], [("harm", 1.0, 10.0), NEAR, SMALL, LARGE]),
    "b2": Mixture([0.32, 0.52, 0.13, 0.03], [("harm", 1.0, 15.0), NEAR, SMALL, LARGE]),
    "nothing": Mixture([1.0], [NULL]),
    "small": Mixture([0.10, 0.90], [("point", 0.7, 0.7), NULL]),
    "harmful": Mixture([0.50, 0.47, 0.03], [("harm", 1.0, 15.0), NULL, LARGE]),
}


def random_prior(seed: int, number: int) -> Mixture:
    """A mixture of b2, "nothing works", "only 0.7" and "half harmful" in Dirichlet shares."""
    chance = np.random.default_rng([seed, 77, number])
    parts = chance.dirichlet([3, 1, 1, 1])
    mixed = [PRIORS[name] for name in ("b2", "nothing", "small", "harmful")]
    shares = [part * share for part, prior in zip(parts, mixed) for share in prior.shares]
    return Mixture(shares, [kind for prior in mixed for kind in prior.kinds])


@functools.cache
def empirical_priors(sigma: str) -> list[Mixture]:
    """One for each log, at that sigma."""
    table = json.loads(EMPIRICAL.read_text("utf-8"))
    return [
        Mixture(log["shares"], [("point", e, e) for e in log["effects"]], table["crashes"])
        for log in table["logs"][sigma]
    ]


# --------------------------------------------------------------------------------------------------
# The empirical prior, from logs


def read_differences(path):
    """Best score so far minus score, of each later experiment, log by log; share without a score."""
    logs = defaultdict(list)
    for row in csv.DictReader(Path(path).open(encoding="utf-8")):
        logs[row["log"]].append(float(row["val_bpb"] or "nan"))
    differences, scores = [], list(map(np.array, logs.values()))
    for one in scores:
        later = (np.fmin.accumulate(one)[:-1] - one[1:])[SKIPPED:]
        differences.append(later[np.isfinite(later)])
    crashed = np.isnan(np.concatenate(scores)).mean()
    return [later for later in differences if len(later) >= 20], float(crashed)


def greedy_gain(effects, shares, runs, nights=200):
    """What a greedy search claims to gain, on average, in so many runs after the first."""
    chance = np.random.default_rng(0)
    best, level, first = chance.standard_normal(nights), np.zeros(nights), 0.0
    for run in range(SKIPPED + runs):
        first = best if run == SKIPPED else first
        reached = level - chance.choice(effects, nights, p=shares)
        score = reached + chance.standard_normal(nights)
        best, level = np.minimum(score, best), np.where(score < best, reached, level)
    return float((first - best).mean())


def fit_points(differences, luck, grid, rounds=300):
    """Shares of the grid's effects that make the differences (sigma) most likely."""
    error = np.sqrt(1 + SPREAD**2)
    likely = np.exp(-(((differences[:, None] - grid - luck) / error) ** 2) / 2) + 1e-12
    shares = np.full(len(grid), 1 / len(grid))
    for _ in range(rounds):
        weights = likely * shares
        shares = (weights / weights.sum(1, keepdims=True)).mean(0)
    return shares


def deconvolve(differences):
    """Effects and their shares, from the differences of one log in sigma.

    The best score was lucky, nobody knows how much: the luck taken is the one with which a greedy
    search of the fitted ideas gains what the log gained.
    """
    seen = np.clip(differences, WORST, BEST)
    gained, grid = np.maximum(seen, 0).sum(), np.arange(WORST, BEST + 0.1, 0.25)
    fits = [fit_points(seen, luck, grid) for luck in LUCKS]
    misses = [abs(greedy_gain(grid, shares, len(seen)) - gained) for shares in fits]
    shares = fits[int(np.argmin(misses))]
    kept = shares > 0.002
    shares = np.round(shares[kept] / shares[kept].sum(), 4)
    shares[np.argmax(shares)] += 1 - shares.sum()
    return {"effects": grid[kept].tolist(), "shares": np.round(shares, 4).tolist()}


def main():
    logs, crashes = read_differences(sys.argv[1])
    table = {
        "about": "Effects of ideas in sigma and their shares, one entry a log: derived by "
        "benchmarks/ideas.py from 23 public logs of elementalcollision/autoresearch-unified. "
        "Sigma, in bpb, is assumed.",
        "crashes": round(crashes, 3),
        "logs": {
            sigma: [deconvolve(later / float(sigma)) for later in logs] for sigma in SIGMAS.values()
        },
    }
    EMPIRICAL.write_text(json.dumps(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
