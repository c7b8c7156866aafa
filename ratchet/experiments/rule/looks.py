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

from collections.abc import Iterable, Sequence

from ratchet.experiments.rule.statistics import (
    Comparison,
    Noise,
    compare,
    student_quantile,
)
from ratchet.experiments.verdicts import Verdict

ALPHA = 0.05  # chance that a change without a gain is kept, at most; one-sided
LOOKS = 2, 3, 4, 6  # fresh runs of the candidate after which is looked; the last is the cap
SHARES = (0.005, 0.010, 0.015, 0.020)  # of ALPHA spent at each look: their sum is ALPHA
FUTILE = 0.80  # sure by so much, one-sided, that the gain isn't worth it: discard
SCREEN = 0.5  # standard errors by which the screening run may be worse than the champion
RECENT = 6  # earlier champion runs that are used, at most
RECENT_HOURS = 4  # and at most so old


def recent_scores(runs: Iterable[tuple[float, float]], now: float) -> list[float]:
    """Scores of those champion runs that join what begins now; runs: (seconds, score) in order."""
    return [score for ended, score in runs if now - ended <= RECENT_HOURS * 3600][-RECENT:]


def gain_bound(comparison: Comparison, noise: Noise, level: float) -> float:
    """The gain is below this with so much confidence, one-sided; of 1 - level: above it."""
    return comparison.gain + student_quantile(noise.df, level) * comparison.error


def describe_comparison(comparison: Comparison, noise: Noise) -> str:
    """In words: "gain 0.04321 ± 0.01021 bpb (95%), 4.1 sigma, p 0.00012, 2+8 runs"."""
    gain, half, p = comparison.gain, comparison.high - comparison.gain, comparison.p
    sigmas = f"{gain / noise.sigma:.1f} sigma, " if noise.sigma else ""
    runs = f"{comparison.n}+{comparison.m} runs"
    return f"gain {gain:.5f} ± {half:.5f} bpb (95%), {sigmas}p {p:.2g}, {runs}"


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
    return Verdict("undecided", f"not settled: {words}")


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
