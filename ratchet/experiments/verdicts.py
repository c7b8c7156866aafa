"""Decides from scores alone which ideas are pursued, and which changes are kept.

Scores are bits per byte (bpb, lower is better); gains are in sigma, the spread between two runs of
one source. Runs are dear and ideas are cheap, so the rule spends its runs on finding gains, and
claims nothing until fresh runs have shown it:

1. The bar. What a candidate must beat is the champion's level, known from its own runs alone, by a
   scalar Kalman filter (Kalman 1960): an estimate, its variance, and a little drift after every run
   of anything. When the variance exceeds its limit, the next run is the champion's. No candidate
   moves the bar.
2. The search. An idea collects points: the sum over its runs of gain minus STEP, less where the bar
   is uncertain. Below 0 it is out, from HIT on or after MOST_RUNS it is a hit. That is Page's CUSUM
   (1954), which Wald's sequential test (1945) repeats for one stream after the other: the fastest
   way to find the rare stream with a gain (Lai, Poor, Xin and Georgiadis 2011). Those that pass
   were partly lucky, the more so the more ideas there were (the winner's curse: Capen, Clapp,
   Campbell 1971).
   An idea runs on seeds that its champion has had: with them it shares first weights and batches,
   so a part of the champion's luck with that seed is taken from its score (common random numbers:
   Glasserman and Yao 1992).
3. The trial. So fresh seeds decide. Several hits are merged into one source and tried together
   (Dorfman 1943): kept if their fresh gain reaches Z standard errors, by Student's t. Else each is
   tried alone, and what fails is withdrawn. A candidate whose own runs scatter more than sigma is
   measured by its own spread: else noise would be a way to win. After a keep the bar begins anew
   with the trial's runs, which nobody selected.
4. The claim. Sums of kept gains are no claim. At the end the last champion and the baseline run in
   turns with fresh seeds (CLOSING): that comparison alone says what was gained.

Where another measure than val_bpb is the goal (goals.py), its scores are held to the same rule. A
trial has TIE_RUNS runs then, and must gain a share that the campaign names besides; rule/slack.py
says how val_bpb is kept from getting worse meanwhile. The closing comparison is twice as long: by
four runs of each the difference of val_bpb is known to 0.7 sigma, and the slack has one.

A change that leaves less code may be kept as a tie, where that is asked for: its trial has
TIE_RUNS runs, and must show at 5 % that it is not worse by one sigma (a test of non-inferiority).

The parameters were chosen by simulation, for several priors of what ideas are worth:
benchmarks/verdicts.py simulates whole nights of this very code, docs/statistics.md has the figures.
Everything here is a pure function of scores: `ratchet verify` recomputes each decision from the
ledger.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ratchet.experiments.goals import VAL_BPB, Goal
from ratchet.experiments.rule.statistics import (
    Comparison,
    Noise,
    describe_gain,
    larger_spread,
    moments,
    student_quantile,
)

# Of a champion's luck with a seed, what another source has with it: less than was measured in
# tokens (0.92), about what is left when budgets are seconds. Where it is 0 nothing is lost.
SEED_SHARE = 0.5
DRIFT = 0.0015  # variance, in sigma squared, by which the bar is less certain after every run
MOST_RUNS = 8  # of a search: where runs hardly differ, points could stay between for ever
TIE_RUNS = 6  # of a trial of whether less code is as good
TIE_SCREEN = -1.0  # sigma: what leaves less code has a trial unless its first runs gain less
TIE_LEVEL = 0.95  # one-sided confidence of such a trial
CLOSING = "ABBAABBA"  # the runs of a closing comparison: A the last champion, B the baseline


class Verdict(NamedTuple):
    """What ends an experiment, or its search, and why."""

    verdict: str  # out, hit, keep, withdrawn, how a run failed; empty: another run is needed
    reason: str


class Profile(NamedTuple):
    """How daring a search is: more ideas a night, or fewer keeps without effect."""

    name: str
    step: float  # sigma: a run must gain more to count for its idea
    hit: float  # points from which on an idea has a trial
    batch: int  # hits that are tried together
    runs: int  # of a trial, with fresh seeds
    z: float  # standard errors that a trial must gain
    most_variance: float  # of the bar, in sigma squared: beyond it the champion runs


STRICT = Profile("strict", 1.0, 1.25, 1, 5, 1.6, 0.2)
DEFAULT = Profile("default", 1.0, 0.45, 5, 3, 1.6, 0.45)
BOLD = Profile("bold", 0.5, 0.3, 6, 3, 0.0, 0.35)
PROFILES = {profile.name: profile for profile in (STRICT, DEFAULT, BOLD)}


class Bar(NamedTuple):
    """The level of a champion, as it is known now: Bar(level=1.4321, variance=0.2)."""

    level: float  # bpb
    variance: float  # of the level, in sigma squared

    def drifted(self) -> "Bar":
        """The bar after a run of anything."""
        return Bar(self.level, self.variance + DRIFT)

    def updated(self, score: float) -> "Bar":
        """The bar after a run of the champion."""
        weight = self.variance / (self.variance + 1)
        return Bar(self.level + weight * (score - self.level), self.variance * (1 - weight))


def count_closing_seeds(goal: Goal) -> int:
    """Seeds of a closing comparison: a run of the last champion and of the baseline on each."""
    return len(CLOSING) // 2 * (1 if goal.is_val_bpb else 2)


def bar_of(scores: Sequence[float]) -> Bar:
    """The bar of a champion from runs that nobody selected."""
    return Bar(moments(scores)[0], 1 / len(scores))


def without_luck(score: float, luck: float) -> float:
    """A score as it would be on an average seed; luck: the champion's there, its score - level."""
    return score - SEED_SHARE * luck


def gain_over(bar: Bar, score: float, sigma: float) -> float:
    """The gain of one run, in sigma; 0 where neither the gain nor the noise is above 0."""
    gain = bar.level - score
    return gain / sigma if sigma else math.copysign(math.inf, gain) if gain else 0.0


def count_points(gains: Sequence[float], variance: float, profile: Profile) -> float:
    """Points of an idea whose runs had these gains (sigma), with a bar of that variance."""
    return (sum(gains) - profile.step * len(gains)) / (1 + variance * len(gains))


def decide_search(gains: Sequence[float], variance: float, profile: Profile) -> Verdict:
    """Whether an idea is out, a hit, or "" when it is to run again."""
    if not gains:
        return Verdict("", "it has not run")
    points = count_points(gains, variance, profile)
    mean, runs = sum(gains) / len(gains), f"{len(gains)} run{'s' * (len(gains) > 1)}"
    words = f"{mean:+.1f} sigma in {runs} (selected, no claim), {points:.2f} points"
    if points < 0:
        return Verdict("out", f"{words}: fewer than 0")
    if points >= profile.hit:
        return Verdict("hit", f"{words}: {profile.hit:g} ask for a trial")
    if len(gains) >= MOST_RUNS:
        return Verdict("hit", f"{words}: more runs would not tell, so a trial does")
    return Verdict("", words)


def may_be_a_tie(gains: Sequence[float]) -> bool:
    """Whether a source with less code, which is out, may still be as good."""
    return sum(gains) / len(gains) >= TIE_SCREEN


def compare_with_bar(scores: Sequence[float], bar: Bar, noise: Noise) -> Comparison:
    """The gain of fresh runs over the bar, in their unit, with its error. Raises ValueError."""
    if not (noise.df > 0 and math.isfinite(noise.sigma)):
        raise ValueError("sigma is unknown: calibrate first")
    mean, squares = moments(scores)
    spread = larger_spread(len(scores), squares, noise)
    error = math.sqrt(spread**2 / len(scores) + bar.variance * noise.sigma**2)
    return describe_gain(bar.level - mean, error, noise, len(scores), 0)


def describe_fresh(comparison: Comparison, noise: Noise, goal: Goal = VAL_BPB) -> str:
    """In words: "fresh gain 0.0043 ± 0.0025 bpb (95 %), 2.1 sigma, in 4 runs".

    Of another goal: "user_tps x1.34 [1.29, 1.40] (95 %), 8.1 sigma, in 6 fresh runs".
    """
    gain, half = comparison.gain, comparison.high - comparison.gain
    sigmas = f", {gain / noise.sigma:.1f} sigma" if noise.sigma else ""
    if goal.is_val_bpb:
        return f"fresh gain {gain:.5f} ± {half:.5f} bpb (95 %){sigmas}, in {comparison.n} runs"
    ratio = f"{goal.name} {goal.describe_gain(comparison)}"
    return f"{ratio} (95 %){sigmas}, in {comparison.n} fresh runs"


def normal_probability(z: float) -> float:
    """Chance that a standard normal number is below z, as 1.645 -> 0.95."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def trial_runs(profile: Profile, goal: Goal = VAL_BPB, as_good: bool = False) -> int:
    """How many runs of the candidate a trial has: what is to be no worse needs more of them."""
    return TIE_RUNS if as_good or not goal.is_val_bpb else profile.runs


def is_as_good(comparison: Comparison, noise: Noise, level: float = TIE_LEVEL) -> bool:
    """Whether a candidate is shown not to be worse by one sigma, one-sided (non-inferiority)."""
    surely = comparison.gain - student_quantile(noise.df, level) * comparison.error
    return surely >= -noise.sigma


def decide_trial(
    scores: Sequence[float],
    bar: Bar,
    noise: Noise,
    profile: Profile,
    as_good: bool = False,
    goal: Goal = VAL_BPB,
) -> Verdict:
    """The verdict of a trial on its scores so far: keep, withdrawn, or "" when it isn't over.

    as_good: it has less code, and is kept if it isn't worse.
    """
    runs = trial_runs(profile, goal, as_good)
    if len(scores) < runs:
        return Verdict("", f"{len(scores)} of {runs} runs")
    comparison = compare_with_bar(scores, bar, noise)
    words = describe_fresh(comparison, noise, goal)
    quantile = student_quantile(noise.df, normal_probability(profile.z))
    asked = max(quantile * comparison.error, goal.least_gain)
    price = goal.describe_asked(asked)  # less than that interval's half
    if comparison.gain > 0 and comparison.gain >= asked:
        return Verdict("keep", f"better: {words}; {price}")
    if as_good and is_as_good(comparison, noise):
        return Verdict("keep", f"as good with less code: {words}")
    return Verdict("withdrawn", f"{words}; {price}")
