"""The former rule, by which old ledgers are read: worked by hand, against a slow second computation,
and at its edges.
"""

import math
import re

import numpy as np
import pytest
from scipy import stats

from ratchet.experiments.rule import looks
from ratchet.experiments.rule.looks import (
    LOOKS,
    decide,
    decide_quick,
    passes_screen,
    recent_scores,
)
from ratchet.experiments.rule.statistics import Noise, compare, pool_noise

KNOWN = Noise(1.0, 50)


def slow_decide(candidate, champion, noise, fewer_tokens):
    """Another way to the same verdict: intervals instead of p, numpy and scipy.stats throughout."""
    n, m = len(candidate), len(champion)
    scale = max(noise.sigma, np.std(candidate, ddof=1)) * np.sqrt(1 / n + 1 / m)
    gain = stats.t(noise.df, loc=np.mean(champion) - np.mean(candidate), scale=scale)
    share = dict(zip(looks.LOOKS, looks.SHARES))[n]
    if gain.mean() >= noise.sigma and gain.ppf(share) > 0:
        return "keep"
    if n == max(LOOKS) and fewer_tokens and gain.cdf(-noise.sigma) <= 0.05:
        return "keep"
    if gain.sf(0 if fewer_tokens else noise.sigma) < 1 - looks.FUTILE:
        return "discard"
    return "undecided" if n == max(LOOKS) else ""


def test_verdicts_agree_with_a_slow_second_computation():
    chance, seen = np.random.default_rng(0), set()
    for _ in range(1000):
        candidate = chance.normal(
            chance.normal(-1.0, 1.5), chance.choice([0.5, 1, 3]), chance.choice(LOOKS)
        )
        champion = chance.normal(0, 1, chance.integers(1, 13)).tolist()
        noise, fewer = (
            Noise(chance.uniform(0.3, 2), int(chance.integers(1, 60))),
            bool(chance.integers(2)),
        )
        verdict = decide(candidate.tolist(), champion, noise, fewer).verdict
        assert verdict == slow_decide(candidate, champion, noise, fewer)
        seen.add((verdict, len(candidate), fewer))
    assert len(seen) == 2 * (3 * 3 + 3)  # every verdict at every look


def test_looks_share_alpha_and_only_they_decide():
    assert sum(looks.SHARES) == pytest.approx(looks.ALPHA) and len(looks.SHARES) == len(LOOKS)
    for n in {*range(LOOKS[-1])} - {*LOOKS}:
        assert decide([0.0] * n, [9.0] * 3, KNOWN).verdict == ""
    assert decide([4.05] * 9, [5.0] * 6, Noise(1.0, 4)).verdict == "undecided"  # the cap ends it


def test_clear_cases():
    assert decide([0, 0.2], [5, 5.1], KNOWN).verdict == "keep"
    assert decide([5, 5.1], [0, 0.2], KNOWN).verdict == "discard"
    assert decide([4, 4.1], [5, 5.1, 4.9], KNOWN).verdict == ""
    assert decide([4.05] * 6, [5.0] * 6, Noise(1.0, 4)).verdict == "undecided"
    assert (
        not passes_screen(7, [5, 5], KNOWN)
        and passes_screen(5, [5, 5], KNOWN)
        and passes_screen(1, [5, 5], KNOWN)
    )


def test_a_significant_but_small_gain_is_not_kept():
    assert compare([4.5] * 6, [5.0] * 60, KNOWN).p < 0.2
    tiny = Noise(1.0, 10_000)
    assert compare([4.2] * 6, [5.0] * 60, tiny).p < looks.ALPHA
    assert decide([4.2] * 6, [5.0] * 60, tiny).verdict != "keep"


def test_screening_is_a_bound_in_standard_errors():
    limit = looks.SCREEN * math.sqrt(1 + 1 / 4)
    assert passes_screen(5 + limit - 1e-9, [5] * 4, KNOWN) and not passes_screen(
        5 + limit + 1e-9, [5] * 4, KNOWN
    )


def test_a_tie_is_kept_only_where_code_goes():
    scores, champion = [5.1, 4.9, 5.0, 5.1, 4.9, 5.0], [5.0] * 12
    tie = decide(scores, champion, KNOWN, fewer_tokens=True)
    assert tie.verdict == "keep" and "fewer tokens" in tie.reason
    assert decide(scores, champion, KNOWN).verdict == "discard"
    assert decide(scores[:4], champion, KNOWN, fewer_tokens=True).verdict == ""  # only at the cap
    worse = [score + 0.9 for score in scores]
    assert decide(worse, champion, KNOWN, fewer_tokens=True).verdict == "discard"
    assert "worse" in decide(worse, champion, KNOWN, fewer_tokens=True).reason


def test_quick_is_one_run_against_the_known_sigma():
    champion = [5.0, 5.1, 4.9, 5.0, 5.0]
    assert decide_quick(1.0, champion, KNOWN).verdict == "keep"
    assert decide_quick(5.5, champion, KNOWN).verdict == "discard"
    assert decide_quick(4.0, champion, KNOWN).verdict == "undecided"
    assert decide_quick(2.5, champion, KNOWN).verdict == "keep"
    assert decide_quick(2.5, champion, Noise(1.0, 2)).verdict == "undecided"  # t, not normal


def test_scores_without_any_noise():
    still = Noise(0.0, 4)
    for score in (0.1, 1.1, 1e-3):
        assert pool_noise([[score] * 5]) == still and compare([score] * 6, [score] * 7, still)[
            :2
        ] == (
            0,
            0,
        )
        for n in LOOKS:
            assert decide([score] * n, [score] * 7, still).verdict == "discard"
            assert decide([score - 1e-6] * n, [score] * 7, still).verdict == "keep"
            assert decide([score + 1e-6] * n, [score] * 7, still).verdict == "discard"
        assert decide([score] * 6, [score] * 7, still, fewer_tokens=True).verdict == "keep"
        assert (
            decide([score + 1e-6] * 2, [score] * 7, still, fewer_tokens=True).verdict == "discard"
        )
        assert passes_screen(score, [score] * 5, still) and not passes_screen(
            score + 1e-6, [score] * 5, still
        )
        assert decide_quick(score, [score] * 5, still).verdict == "discard"
        assert decide_quick(score - 1e-6, [score] * 5, still).verdict == "keep"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    for candidate, champion in (([bad, 1], [1, 1]), ([1, 1], [1, bad])):
        with pytest.raises(ValueError, match="finite"):
            decide(candidate, champion, KNOWN)
    for judge in (passes_screen, decide_quick):
        with pytest.raises(ValueError, match="finite"):
            judge(bad, [1.0, 1.0], KNOWN)
    with pytest.raises(ValueError, match="calibrate"):
        decide([1, 1], [1, 1], Noise(bad, 4))


def test_a_comparison_without_runs_or_sigma_is_refused():
    with pytest.raises(ValueError, match="at least one score"):
        passes_screen(1.0, [], KNOWN)
    with pytest.raises(ValueError, match="calibrate"):
        decide([1, 1], [1, 1], pool_noise([]))


def test_every_reason_bears_its_error_bar():
    bar = r"gain -?\d+\.\d{5} ± \d+\.\d{5} bpb \(95%\), -?\d+\.\d sigma, p [\d.e-]+, 6\+6 runs$"
    reasons = {}
    for gain in np.linspace(-2, 3, 30):
        for fewer in (False, True):
            verdict = decide([5 - gain] * 6, [5.0] * 6, Noise(1.0, 4), fewer)
            reasons[verdict.verdict] = verdict.reason
            assert re.search(bar, verdict.reason)
    assert set(reasons) == {"keep", "discard", "undecided"}
    assert "2+8 runs" in decide([4.0, 4.0], [5.0] * 8, KNOWN).reason
    assert "1+4 runs" in decide_quick(4.0, [5.0] * 4, KNOWN).reason


def test_a_better_candidate_never_turns_keep_into_discard():
    chance, kept = np.random.default_rng(1), 0
    for _ in range(2000):
        candidate = chance.normal(-chance.uniform(0, 4), 1, chance.choice(LOOKS))
        champion, fewer = chance.normal(0, 1, 8).tolist(), bool(chance.integers(2))
        noise = Noise(chance.uniform(0.5, 1.5), int(chance.integers(2, 40)))
        if decide(candidate.tolist(), champion, noise, fewer).verdict != "keep":
            continue
        kept += 1
        shifted, one = candidate - chance.exponential(), candidate.copy()
        one[0] -= chance.exponential()
        assert decide(shifted.tolist(), champion, noise, fewer).verdict == "keep"
        assert decide(one.tolist(), champion, noise, fewer).verdict != "discard"
    assert kept > 500


def test_the_unit_and_the_level_of_scores_do_not_matter():
    chance = np.random.default_rng(2)
    for _ in range(300):
        candidate, champion = chance.normal(-1, 1, 4), chance.normal(0, 1, 8)
        small = [(1 + 0.001 * scores).tolist() for scores in (candidate, champion)]
        large = decide(candidate.tolist(), champion.tolist(), Noise(1.0, 9)).verdict
        assert decide(*small, Noise(0.001, 9)).verdict == large


def test_recent_runs_are_few_and_fresh():
    runs = [(hour * 3600.0, float(hour)) for hour in range(12)]
    limit = looks.RECENT_HOURS
    assert (
        recent_scores(runs, 11 * 3600)
        == [float(hour) for hour in range(11 - limit, 12)][-looks.RECENT :]
    )
    many = [(float(second), float(second)) for second in range(50)]
    assert recent_scores(many, 50.0) == [float(second) for second in range(50)][-looks.RECENT :]
    assert recent_scores(runs, 1e6) == recent_scores([], 0.0) == []
