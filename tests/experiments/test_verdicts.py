"""The rule of verdicts: worked by hand, against a slow second computation, at its edges, and
simulated.
"""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import verdicts as night
from conftest import ROOT
from scipy import stats

from ratchet.experiments import verdicts
from ratchet.experiments.verdicts import (
    LOOKS,
    Noise,
    compare,
    decide,
    decide_quick,
    passes_screen,
    pool_noise,
    recent_scores,
)

KNOWN = Noise(1.0, 50)


def test_pooled_sigma_worked_by_hand():
    # 1 2 3: squares 2, df 2; 4 8: squares 8, df 1; a single run tells nothing: sqrt(10 / 3)
    assert pool_noise([[1, 2, 3], [4, 8], [7], []]) == Noise(pytest.approx(math.sqrt(10 / 3)), 3)


@pytest.mark.parametrize("groups", [[], [[]], [[1.0]], [[1.0], [2.0]]])
def test_sigma_is_unknown_without_repeated_seeds(groups):
    sigma, df = pool_noise(groups)
    assert math.isnan(sigma) and df == 0


def test_the_interval_worked_by_hand():
    # gain 10 - 8 = 2; error 1.5 * sqrt(1/2 + 1/4) = 1.29904; t(4) at 0.975 is 2.77645
    found = compare([7.5, 8.5], [9, 10, 10, 11], Noise(1.5, 4))
    assert (
        found.gain == 2 and found.error == pytest.approx(1.299038) and (found.n, found.m) == (2, 4)
    )
    half = pytest.approx(2.77645 * 1.299038, rel=1e-5)
    assert found.high - 2 == half and 2 - found.low == half
    # df 4, u = t*t / (1 + t*t/4): P(T < t) = 1/2 + 3/8 sqrt(u) (1 - u/12); here u = 64/43
    assert found.p == pytest.approx(0.5 - 3 / 8 * math.sqrt(64 / 43) * (1 - 64 / 43 / 12))
    assert found.p == pytest.approx(0.099248, rel=1e-5) and found.p_two == pytest.approx(
        2 * found.p
    )


def test_a_small_calibration_is_not_trusted_more_than_it_should_be():
    few, many = (compare([0.0], [2.0, 2.0], Noise(1.0, df)) for df in (4, 1000))
    assert few.p > 1.3 * many.p and few.high - few.low > 1.3 * (many.high - many.low)


def test_a_noisier_candidate_is_measured_by_its_own_spread():
    quiet, noisy = compare([0, 0.1], [1, 1], KNOWN), compare([-5, 5.1], [1, 1], KNOWN)
    assert quiet.error == 1 and noisy.error == pytest.approx(10.1 / math.sqrt(2))


def slow_decide(candidate, champion, noise, fewer_tokens):
    """Another way to the same verdict: intervals instead of p, numpy and scipy.stats throughout."""
    n, m = len(candidate), len(champion)
    scale = max(noise.sigma, np.std(candidate, ddof=1)) * np.sqrt(1 / n + 1 / m)
    gain = stats.t(noise.df, loc=np.mean(champion) - np.mean(candidate), scale=scale)
    share = dict(zip(verdicts.LOOKS, verdicts.SHARES))[n]
    if gain.mean() >= noise.sigma and gain.ppf(share) > 0:
        return "keep"
    if n == max(LOOKS) and fewer_tokens and gain.cdf(-noise.sigma) <= 0.05:
        return "keep"
    if gain.sf(0 if fewer_tokens else noise.sigma) < 1 - verdicts.FUTILE:
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
    assert sum(verdicts.SHARES) == pytest.approx(verdicts.ALPHA) and len(verdicts.SHARES) == len(
        LOOKS
    )
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
    assert compare([4.2] * 6, [5.0] * 60, tiny).p < verdicts.ALPHA
    assert decide([4.2] * 6, [5.0] * 60, tiny).verdict != "keep"


def test_screening_is_a_bound_in_standard_errors():
    limit = verdicts.SCREEN * math.sqrt(1 + 1 / 4)
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


def test_seeds_needed_would_settle_it():
    verdict = decide([3.9] * 6, [5.0] * 6, Noise(1.0, 4))
    assert verdict.verdict == "undecided"
    # t(4) at 0.98 is 2.99853: 2 * (2.99853 / 1.1)**2 = 14.86
    assert verdict.seeds_needed == 15 and "not settled" in verdict.reason
    assert decide([4.0] * 6, [5.0] * 6, Noise(1.0 + 1e-9, 4)).seeds_needed == verdicts.MOST_SEEDS
    assert compare([3.9] * 15, [5.0] * 15, Noise(1.0, 4)).p < 0.02
    assert decide([3.9, 3.9], [5.0] * 6, KNOWN).seeds_needed is None


def test_quick_is_one_run_against_the_known_sigma():
    champion = [5.0, 5.1, 4.9, 5.0, 5.0]
    assert decide_quick(1.0, champion, KNOWN).verdict == "keep"
    assert decide_quick(5.5, champion, KNOWN).verdict == "discard"
    unsure = decide_quick(4.0, champion, KNOWN)
    assert unsure.verdict == "undecided" and 2 <= unsure.seeds_needed <= verdicts.MOST_SEEDS
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
    limit = verdicts.RECENT_HOURS
    assert (
        recent_scores(runs, 11 * 3600)
        == [float(hour) for hour in range(11 - limit, 12)][-verdicts.RECENT :]
    )
    many = [(float(second), float(second)) for second in range(50)]
    assert recent_scores(many, 50.0) == [float(second) for second in range(50)][-verdicts.RECENT :]
    assert recent_scores(runs, 1e6) == recent_scores([], 0.0) == []


def test_simulated_nights_hold_the_rates():
    calm = night.simulate("test", 10)  # 1000 experiments without effect
    assert sum(map(len, calm)) == 1000 and night.rate(calm)[0] < 0.05 and night.runs(calm) < 6
    noisy = night.simulate("test noisy", 10, spread=3.0)
    assert night.rate(noisy)[0] < 0.1
    drift = night.drifts(450)[0]["better"]
    assert night.rate(night.simulate("test drift", 5, drift=drift))[0] < 0.07
    assert night.rate(night.simulate("test power", 5, 3.0))[0] > 0.9
    assert night.rate(night.simulate("test harm", 3, -3.0))[0] == 0


def test_champion_and_candidate_take_turns():
    one, names = night.Night(0), []
    champion, score = one.champion, one.score

    def noting(source):
        names.append("champion" if source is champion else "candidate")
        return score(source)

    one.score = noting
    assert one.experiment(9.0)[:2] == ("keep", 5)
    assert names == ["candidate", "candidate", "champion", "champion", "candidate"]


def test_the_benchmark_repeats_its_figures():
    command = [
        sys.executable,
        ROOT / "benchmarks" / "verdicts.py",
        "--json",
        "--experiments",
        "400",
    ]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    again = json.loads(json.dumps(night.measure(400)[0]))
    assert figures.pop("seconds") > 0 and again.pop("seconds") > 0
    assert figures == again and figures["rule"]["LOOKS"] == [*LOOKS]


def test_the_published_figures_are_of_this_rule():
    figures = json.loads((ROOT / "benchmarks" / "verdicts.json").read_bytes())
    assert all(
        json.loads(json.dumps(getattr(verdicts, name))) == v for name, v in figures["rule"].items()
    )
    for case in ("", "_early", "_drift"):
        assert figures[f"false_keep{case}_upper95"] <= 0.05
    assert figures["false_keep_noisy_rate"] <= 0.05
    assert figures["power_2sigma"] >= 0.85 and figures["power_3sigma"] >= 0.97
    assert figures["runs_per_verdict"] < 6 and figures["experiments"] >= 10_000


def test_the_chart_is_whole():
    xml = pytest.importorskip("xml.etree.ElementTree")
    root = xml.fromstring(night.chart(night.realistic(2)[1]))
    words = " ".join(root.itertext())
    assert "experiments" in words and "sigma" in words and "greedy, claimed" in words


def test_the_range_of_sigma_is_that_of_chi_squared():
    low, high = verdicts.sigma_range(verdicts.Noise(2.0, 4))
    assert low == pytest.approx(2 * math.sqrt(4 / 11.1433))  # quantiles from a table
    assert high == pytest.approx(2 * math.sqrt(4 / 0.484419))
