"""Decides from scores alone whether a change is a gain.

Two runs of one and the same source differ, because their seeds do. So the question is never "is
this score lower?" but "is it lower by more than luck explains?" Scores are bits per byte (bpb,
lower is better); a gain is the champion's mean minus the candidate's, so that more is better. What
stands between luck and a verdict:

1. Sigma, the spread of repeated runs. Few runs of one source tell it badly, all groups of repeated
   runs together tell it well (here: of champions, so that no candidate moves its own yardstick):
   their squared deviations are summed and divided by the degrees of freedom, runs minus groups
   (pooled variance). Five runs of calibration are 4 degrees of freedom, so sigma itself is
   uncertain, and Student's t (Student, "The probable error of a mean", 1908) widens every error
   bar by as much. A candidate whose own runs scatter more than sigma is measured by its own
   spread: else noise would be a way to win.
2. A screen. One run per candidate; what is clearly worse goes, cheaply. What stays was partly
   lucky, the more so the more candidates there are (the winner's curse: Capen, Clapp and Campbell
   1971), so that this run is never counted again: fresh seeds decide.
3. Looks. Runs cost minutes, so the scores are looked at after 2, 3, 4, 6 pairs of runs, and a clear
   case ends early (a group-sequential test). Every look is one more chance of being fooled
   (Armitage, McPherson and Rowe 1969), so the 5% are a budget that the looks spend between them
   (Lan and DeMets 1983). Pocock (1977) spends about evenly, O'Brien and Fleming (1979) late, when
   an estimate is firmer. The shares here rise like the latter and simply add up to 5%: by
   Bonferroni's bound the chance of being fooled at any look is at most their sum, however the
   looks depend on each other. Exact constants would allow a little more; simulated, it isn't worth
   it.
4. A gain worth having. Significance alone isn't enough: keep needs an estimated gain of one sigma
   as well. The estimate by which a gain is kept is still flattered (the lucky stop early;
   simulated, by a fifth), and its error bar is for one look. Runs of the champion after its keep
   tell the gain fairly.
5. Futility. When a gain of one sigma is unlikely (80%), the candidate is dropped: this costs power,
   never a false keep, and saves most of the runs.
6. Drift. Heat or clocks shift scores over hours. Candidate and champion therefore run in turns, and
   at most a few champion runs of the last hours join the comparison.

A change that removes code may be kept as a tie, when at the cap it is shown, at 5%, not to be worse
by one sigma (a test of non-inferiority). A row of such ties may slip, by a fraction of sigma each:
look at the champion's history. The theory assumes scores that are about normal.
benchmarks/verdicts.py simulates whole nights of this very code, drift and reused runs included.
Jennison and Turnbull, "Group Sequential Methods" (2000), has the theory.

Everything here is a pure function of scores: `ratchet verify` recomputes each verdict from the
ledger.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

ALPHA = 0.05  # chance that a change without a gain is kept, at most; one-sided
LOOKS = (
    2,
    3,
    4,
    6,
)  # runs of the candidate after which is looked, fresh seeds; the last is the cap
SHARES = (0.005, 0.010, 0.015, 0.020)  # of ALPHA spent at each look: their sum is ALPHA
FUTILE = 0.80  # sure by so much, one-sided, that the gain isn't worth it: discard
SCREEN = 0.5  # standard errors by which the screening run may be worse than the champion
RECENT = 6  # earlier champion runs that are used, at most
RECENT_HOURS = 4  # and at most so old
MOST_SEEDS = 200  # more seeds per arm than these are asked of nobody


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
    m: int  # runs of the champion


class Verdict(NamedTuple):
    """What ends an experiment, and why."""

    verdict: str  # keep, discard, undecided, how a run failed; empty: another look is needed
    reason: str
    seeds_needed: int | None = None  # per arm, if undecided


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

    Screening runs, being selected, stay out.
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


def recent_scores(runs: Iterable[tuple[float, float]], now: float) -> list[float]:
    """Scores of those champion runs that join what begins now; runs: (seconds, score) in order."""
    return [score for ended, score in runs if now - ended <= RECENT_HOURS * 3600][-RECENT:]


def larger_spread(n: int, squares: float, noise: Noise) -> float:
    """The standard deviation that n scores count with: sigma, or their own if that is larger."""
    return max(noise.sigma, math.sqrt(squares / max(n - 1, 1)))


def compare(candidate: Sequence[float], champion: Sequence[float], noise: Noise) -> Comparison:
    """The gain of a candidate over the champion, from their scores (bpb), with its error.

    Raises ValueError without scores, for one that is no number, or when sigma is unknown.
    """
    from scipy.special import stdtr  # Student's t: distribution(df, t)

    n, m = len(candidate), len(champion)
    if not (noise.df > 0 and math.isfinite(noise.sigma)):
        raise ValueError("sigma is unknown: calibrate first")
    if not (n and m and all(map(math.isfinite, [*candidate, *champion]))):
        raise ValueError(
            "a comparison needs at least one score on either side, and every score finite"
        )
    (mean, squares), (bar, _) = moments(candidate), moments(champion)
    gain, error = bar - mean, larger_spread(n, squares, noise) * math.sqrt(1 / n + 1 / m)
    t = gain / error if error else math.copysign(math.inf, gain) if gain else 0.0
    half, p = student_quantile(noise.df, 0.975) * error, float(stdtr(noise.df, -t))
    return Comparison(gain, error, gain - half, gain + half, p, 2 * min(p, 1 - p), n, m)


def gain_bound(comparison: Comparison, noise: Noise, level: float) -> float:
    """The gain is below this with so much confidence, one-sided; of 1 - level: above it."""
    return comparison.gain + student_quantile(noise.df, level) * comparison.error


def describe_comparison(comparison: Comparison, noise: Noise) -> str:
    """In words: "gain 0.04321 ± 0.01021 bpb (95%), 4.1 sigma, p 0.00012, 2+8 runs"."""
    gain, half, p = comparison.gain, comparison.high - comparison.gain, comparison.p
    sigmas = f"{gain / noise.sigma:.1f} sigma, " if noise.sigma else ""
    runs = f"{comparison.n}+{comparison.m} runs"
    return f"gain {gain:.5f} ± {half:.5f} bpb (95%), {sigmas}p {p:.2g}, {runs}"


def seeds_needed(
    comparison: Comparison, noise: Noise, share: float, fewer_tokens: bool = False
) -> int:
    """Seeds per arm that would settle it if the estimate stayed as it is, by the shortest way."""
    gain = comparison.gain
    variance = comparison.error**2 / (1 / comparison.n + 1 / comparison.m)
    useful = 0 if fewer_tokens else noise.sigma
    distances = [(useful - gain, FUTILE)]  # (bpb to a bound, confidence that it needs)
    if gain >= noise.sigma:
        distances.append((gain, 1 - share))
    if fewer_tokens:
        distances.append((gain + noise.sigma, 1 - ALPHA))
    counts = [
        2 * variance * (student_quantile(noise.df, level) / distance) ** 2
        for distance, level in distances
        if distance > 0
    ]
    return max(comparison.n + 1, math.ceil(min([MOST_SEEDS, *counts])))


def decide_at_look(
    comparison: Comparison, noise: Noise, share: float, last: bool, fewer_tokens: bool = False
) -> Verdict:
    """The verdict at one look, at which the share of ALPHA may be spent.

    last: no other look follows. fewer_tokens: the candidate has fewer tokens of code.
    """
    words = describe_comparison(comparison, noise)
    if comparison.p < share and comparison.gain >= noise.sigma:
        return Verdict("keep", f"better: {words}")
    if last and fewer_tokens and gain_bound(comparison, noise, ALPHA) >= -noise.sigma:
        return Verdict("keep", f"as good with fewer tokens: {words}")
    best = gain_bound(comparison, noise, FUTILE)
    if fewer_tokens and best < 0:
        return Verdict("discard", f"most likely worse: {words}")
    if not fewer_tokens and best <= noise.sigma:
        return Verdict("discard", f"most likely no gain of one sigma: {words}")
    if not last:
        return Verdict("", f"another look is needed: {words}")
    needed = seeds_needed(comparison, noise, share, fewer_tokens)
    return Verdict("undecided", f"not settled: {words}", needed)


def passes_screen(score: float, champion: Sequence[float], noise: Noise) -> bool:
    """Whether the candidate's first run is good enough for a confirmation."""
    comparison = compare([score], champion, noise)
    return comparison.gain >= -SCREEN * comparison.error


def decide(
    candidate: Sequence[float],
    champion: Sequence[float],
    noise: Noise,
    fewer_tokens: bool = False,
) -> Verdict:
    """The verdict on confirmation scores so far; it is "" when another look is needed.

    champion: its runs in turns with these, and recent_scores(). noise: pooled over the runs before
    the experiment, so that it doesn't hang on the scores it judges. fewer_tokens: the candidate has
    fewer tokens of code.
    """
    count = min(len(candidate), LOOKS[-1])
    if count not in LOOKS:
        return Verdict("", f"no look after {count} runs")
    share, last = SHARES[LOOKS.index(count)], count == LOOKS[-1]
    return decide_at_look(compare(candidate, champion, noise), noise, share, last, fewer_tokens)


def decide_quick(score: float, champion: Sequence[float], noise: Noise) -> Verdict:
    """The verdict on one run alone: weaker, since nothing tells if the candidate is noisier."""
    return decide_at_look(compare([score], champion, noise), noise, ALPHA, last=True)
