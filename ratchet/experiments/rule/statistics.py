"""Statistics of repeated runs: their noise, and how two sources compare.

Scores are bits per byte (bpb, lower is better). A gain is the champion's score minus the
candidate's, so that more is better. Sigma, the spread of repeated runs of one source, is known
badly from a few runs of one source, well from all groups of repeated runs together: their squared
deviations are summed and divided by the degrees of freedom, runs minus groups (pooled variance).
Five runs of calibration are 4 degrees of freedom, so sigma itself is uncertain, and Student's t
(Student, "The probable error of a mean", 1908) widens every error bar by as much.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Noise(NamedTuple):
    """The spread of repeated runs, as Noise(sigma=0.0042, df=4)."""

    sigma: float  # bpb
    df: int  # degrees of freedom that it is estimated with


class Comparison(NamedTuple):
    """How a candidate does against the champion; gains are in bpb, above 0 is better."""

    gain: float
    error: float  # standard error of the gain
    low: float  # two-sided 95% interval of the gain
    high: float
    p: float  # one-sided: luck alone gains as much, so often
    p_two: float
    n: int  # runs of the candidate
    m: int  # runs of the champion; 0: its bar stands for them


@functools.cache
def student_quantile(df: int, probability: float) -> float:
    """Quantile of Student's t, as (4, 0.975) -> 2.776."""
    # scipy takes half a second to import: only what needs it does
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def moments(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and sum of squared deviations, as [1.0, 3.0] -> (2.0, 2.0)."""
    # shifted by the first score: equal scores deviate by exactly 0
    shifts = [score - scores[0] for score in scores]
    mean = math.fsum(shifts) / len(shifts)
    return scores[0] + mean, math.fsum((shift - mean) ** 2 for shift in shifts)


def pool_noise(groups: Iterable[Sequence[float]]) -> Noise:
    """Sigma from groups of repeated runs of one source each, as [[1, 2, 3], [4, 8]] -> (1.83, 3).

    Runs that were selected stay out.
    """
    groups = [scores for scores in groups if len(scores) > 1]
    df = sum(len(scores) - 1 for scores in groups)
    squares = math.fsum(moments(scores)[1] for scores in groups)
    return Noise(math.sqrt(squares / df) if df else math.nan, df)


def sigma_range(noise: Noise) -> tuple[float, float]:
    """Two-sided 95% interval of sigma, by the chi-squared distribution of a variance."""
    from scipy.special import chdtri  # quantile(df, 1 - p)

    low, high = (
        noise.sigma * math.sqrt(noise.df / float(chdtri(noise.df, p))) for p in (0.025, 0.975)
    )
    return low, high


def larger_spread(n: int, squares: float, noise: Noise) -> float:
    """The standard deviation that n scores count with: sigma, or their own if that is larger."""
    return max(noise.sigma, math.sqrt(squares / max(n - 1, 1)))


def describe_gain(gain: float, error: float, noise: Noise, n: int, m: int) -> Comparison:
    """A gain with its interval and p-values, given its standard error; n, m: runs of both sides."""
    from scipy.special import stdtr  # Student's t: distribution(df, t)

    t = gain / error if error else math.copysign(math.inf, gain) if gain else 0.0
    half, p = student_quantile(noise.df, 0.975) * error, float(stdtr(noise.df, -t))
    return Comparison(gain, error, gain - half, gain + half, p, 2 * min(p, 1 - p), n, m)


def compare(candidate: Sequence[float], champion: Sequence[float], noise: Noise) -> Comparison:
    """The gain of a candidate over the champion, from their scores (bpb), with its error.

    Raises ValueError without scores, for one that is no number, or when sigma is unknown.
    """
    n, m = len(candidate), len(champion)
    if not (noise.df > 0 and math.isfinite(noise.sigma)):
        raise ValueError("sigma is unknown: calibrate first")
    if not (n and m and all(map(math.isfinite, [*candidate, *champion]))):
        raise ValueError(
            "a comparison needs at least one score on either side, and every score finite"
        )
    (mean, squares), (level, _) = moments(candidate), moments(champion)
    error = larger_spread(n, squares, noise) * math.sqrt(1 / n + 1 / m)
    return describe_gain(level - mean, error, noise, n, m)


def compare_pairs(
    candidate: Mapping[int, float], champion: Mapping[int, float], noise: Noise
) -> Comparison:
    """The gain on the seeds that both ran, as {seed: score}; noise: of pool_blocks().

    What a seed does to both of them cancels, and so does slow drift. Raises ValueError without two
    seeds in common.
    """
    seeds = sorted(candidate.keys() & champion.keys())
    if not (noise.df > 0 and math.isfinite(noise.sigma) and seeds):
        raise ValueError("a comparison needs at least two seeds that both ran")
    gain, squares = moments([champion[seed] - candidate[seed] for seed in seeds])
    n, spread = len(seeds), larger_spread(len(seeds), squares / 2, noise)
    if spread > noise.sigma:  # then no other arm tells of it: twins would feign degrees of freedom
        noise = Noise(spread, n - 1)
    return describe_gain(gain, math.sqrt(2 / n) * spread, noise, n, n)


def pool_blocks(arms: Sequence[Mapping[int, float]]) -> Noise:
    """Sigma of what seeds don't explain, from arms that ran the same seeds, as {seed: score} each.

    The residual of a two-way analysis of variance with seeds as blocks (Fisher 1925): a arms and n
    seeds have (a - 1)(n - 1) degrees of freedom.
    """
    seeds = sorted(set.intersection(*(set(scores) for scores in arms))) if arms else []
    if len(arms) < 2 or len(seeds) < 2:
        return Noise(math.nan, 0)
    df = (len(arms) - 1) * (len(seeds) - 1)
    by_arm = [moments([scores[seed] for seed in seeds]) for scores in arms]
    by_seed = [moments([scores[seed] for scores in arms])[0] for seed in seeds]
    squares = math.fsum(squares for _, squares in by_arm) - len(arms) * moments(by_seed)[1]
    return Noise(math.sqrt(max(squares, 0.0) / df), df)


class NoiseTracker:
    """Sigma from runs that come one at a time, run by run (Welford 1962)."""

    def __init__(self) -> None:
        self.means: dict[str, tuple[int, float]] = {}  # (runs, mean score) of each source
        self.squares, self.df = 0.0, 0

    def add(self, source: str, score: float) -> None:
        """Count the score of one more run of a source."""
        count, mean = self.means.get(source, (0, score))
        new_mean = mean + (score - mean) / (count + 1)
        self.means[source] = count + 1, new_mean
        self.squares += (score - mean) * (score - new_mean)
        self.df += count > 0

    @property
    def noise(self) -> Noise:
        return Noise(math.sqrt(self.squares / self.df) if self.df else math.nan, self.df)
