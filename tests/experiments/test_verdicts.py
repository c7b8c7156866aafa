"""The rule of verdicts: worked by hand, against a second computation, at its edges, and simulated."""

import json
import math
import xml.etree.ElementTree

import ideas
import nights
import numpy as np
import pytest
import verdicts as bench
import verdicts_chart
from conftest import ROOT
from scipy import stats

from ratchet import claims
from ratchet.experiments import verdicts
from ratchet.experiments.rule.statistics import Noise, pool_noise
from ratchet.experiments.verdicts import (
    DEFAULT,
    PROFILES,
    STRICT,
    Bar,
    bar_of,
    count_points,
    decide_search,
    decide_trial,
    gain_over,
)

KNOWN = Noise(1.0, 1000)
PUBLISHED = json.loads((ROOT / "benchmarks" / "verdicts.json").read_bytes())


def test_the_bar_worked_by_hand():
    assert bar_of([1.0, 2.0, 3.0]) == Bar(2.0, 1 / 3)
    assert Bar(5.0, 0.25).drifted() == Bar(5.0, 0.25 + verdicts.DRIFT)
    # variance 1/4: the new run weighs 1/5
    level, variance = Bar(5.0, 0.25).updated(4.0)
    assert level == pytest.approx(4.8) and variance == pytest.approx(0.2)


def test_without_drift_the_bar_is_the_mean_of_all_runs():
    scores = np.random.default_rng(0).normal(5, 1, 20).tolist()
    bar = bar_of(scores[:5])
    for score in scores[5:]:
        bar = bar.updated(score)
    assert bar.level == pytest.approx(np.mean(scores)) and bar.variance == pytest.approx(1 / 20)


def test_points_worked_by_hand():
    assert gain_over(Bar(5.0, 0.2), 4.0, 0.5) == 2.0
    step = DEFAULT.step
    assert count_points([2.0, 1.0], 0.0, DEFAULT) == pytest.approx(3 - 2 * step)
    assert count_points([2.0, 1.0], 0.25, DEFAULT) == pytest.approx((3 - 2 * step) / 1.5)


@pytest.mark.parametrize("profile", PROFILES.values())
def test_points_end_a_search_at_their_limits(profile):
    assert decide_search([], 0.0, profile).verdict == ""
    limits = (-1e-9, "out"), (1e-9, ""), (profile.hit - 1e-9, ""), (profile.hit + 1e-9, "hit")
    for points, verdict in limits:
        assert decide_search([profile.step + points], 0.0, profile).verdict == verdict
        assert (
            decide_search([profile.step] * 4 + [profile.step + points], 0.0, profile)[0] == verdict
        )


def test_a_search_ends_where_runs_do_not_differ():
    """As the size of a file: with an uncertain bar its points would stay between for ever."""
    assert decide_search([1.05] * 7, 0.2, DEFAULT).verdict == ""
    verdict = decide_search([1.05] * 8, 0.2, DEFAULT)
    assert verdict.verdict == "hit" and verdict.reason.endswith("would not tell, so a trial does")
    assert decide_search([0.95] * 8, 0.2, DEFAULT).verdict == "out"


def test_an_uncertain_bar_asks_for_more():
    gain = STRICT.step + STRICT.hit + 0.1
    assert decide_search([gain], 0.0, STRICT).verdict == "hit"
    assert decide_search([gain], 0.2, STRICT).verdict == ""


def test_a_search_says_that_its_runs_were_selected():
    assert decide_search([0.0], 0.1, DEFAULT).reason.startswith("+0.0 sigma in 1 run (selected, no")
    assert "in 2 runs" in decide_search([2.0, 1.0], 0.1, DEFAULT).reason


def test_scores_without_any_noise():
    assert gain_over(Bar(5.0, 0.2), 5.0, 0.0) == 0
    assert gain_over(Bar(5.0, 0.2), 4.9, 0.0) == math.inf
    assert decide_search([gain_over(Bar(5.0, 0.2), 5.0, 0.0)], 0.2, DEFAULT).verdict == "out"
    assert decide_search([gain_over(Bar(5.0, 0.2), 5.1, 0.0)], 0.2, DEFAULT).verdict == "out"
    assert decide_search([gain_over(Bar(5.0, 0.2), 4.9, 0.0)], 0.2, DEFAULT).verdict == "hit"
    for profile in PROFILES.values():
        for score, verdict in ((5.0, "withdrawn"), (4.9, "keep"), (5.1, "withdrawn")):
            scores = [score] * profile.runs
            assert decide_trial(scores, Bar(5.0, 0.2), Noise(0.0, 4), profile).verdict == verdict


def test_luck_alone_seldom_makes_a_hit():
    # Ville's inequality: the sum of z - 1 ever reaches 1.25 with probability exp(-2 * 1.25) at most
    chance, hits, count = np.random.default_rng(1), 0, 5000
    for _ in range(count):
        gains, verdict = [], ""
        while not verdict:
            gains.append(float(chance.standard_normal()))
            verdict = decide_search(gains, 0.0, STRICT).verdict
        hits += verdict == "hit"
    assert hits / count <= math.exp(-2 * STRICT.step * STRICT.hit) + 0.01


def slow_trial(scores, bar, noise, profile):
    """Another way to the same verdict, by scipy.stats alone."""
    spread = max(noise.sigma, np.std(scores, ddof=1))
    error = np.hypot(spread / np.sqrt(len(scores)), np.sqrt(bar.variance) * noise.sigma)
    p = stats.t(noise.df).sf((bar.level - np.mean(scores)) / error)
    return "keep" if p <= stats.norm.sf(profile.z) else "withdrawn"


@pytest.mark.parametrize("profile", PROFILES.values())
def test_trials_agree_with_a_second_computation(profile):
    chance, seen = np.random.default_rng(2), set()
    for _ in range(200):
        spread = chance.choice([0.5, 1, 3])
        scores = chance.normal(5 - chance.normal(0.7, 1), spread, profile.runs).tolist()
        bar = Bar(5.0, float(chance.uniform(0.05, 0.4)))
        noise = Noise(float(chance.uniform(0.5, 2)), int(chance.integers(2, 60)))
        verdict = decide_trial(scores, bar, noise, profile).verdict
        assert verdict == slow_trial(scores, bar, noise, profile)
        assert decide_trial(scores[:-1], bar, noise, profile).verdict == ""
        seen.add(verdict)
    assert seen == {"keep", "withdrawn"}


def test_a_trial_worked_by_hand():
    # gain 1; error sqrt(1/5 + 0.05) = 0.5: two standard errors, 1.6 or so were asked for
    assert (
        decide_trial([4.0] * 5, Bar(5.0, 0.05), KNOWN, STRICT._replace(runs=5, z=1.645))[0]
        == "keep"
    )
    assert (
        decide_trial([4.2] * 5, Bar(5.0, 0.05), KNOWN, STRICT._replace(runs=5, z=1.645))[0]
        != "keep"
    )
    reason = decide_trial([4.0] * 5, Bar(5.0, 0.05), KNOWN, STRICT._replace(runs=5)).reason
    gain = "fresh gain 1.00000 ± 0.98117 bpb (95 %), 1.0 sigma, in 5 runs"
    assert reason == f"better: {gain}; 0.80071 bpb were asked for"


def test_a_better_candidate_is_never_judged_worse():
    chance, order = np.random.default_rng(3), {"out": 0, "withdrawn": 0, "": 1, "hit": 2, "keep": 2}
    for _ in range(500):
        gains, better = chance.normal(1, 1, 2).tolist(), chance.exponential(1, 2)
        higher = (np.array(gains) + better).tolist()
        one, two = (order[decide_search(g, 0.1, DEFAULT).verdict] for g in (gains, higher))
        assert two >= one
        scores = chance.normal(4.4, 1, DEFAULT.runs)
        one, two = (
            order[decide_trial(s.tolist(), Bar(5.0, 0.2), Noise(1.0, 9), DEFAULT).verdict]
            for s in (scores, scores - better[0])
        )
        assert two >= one


def test_the_unit_and_the_level_of_scores_do_not_matter():
    chance = np.random.default_rng(4)
    for _ in range(200):
        scores, bar = chance.normal(-0.8, 1, DEFAULT.runs), Bar(float(chance.normal()), 0.2)
        small, low = (1 + 0.001 * scores).tolist(), Bar(1 + 0.001 * bar.level, 0.2)
        large = decide_trial(scores.tolist(), bar, Noise(1.0, 9), DEFAULT).verdict
        assert decide_trial(small, low, Noise(0.001, 9), DEFAULT).verdict == large


def test_a_noisier_candidate_is_measured_by_its_own_spread():
    quiet, noisy = [4.0, 4.1, 3.9, 4.0, 4.0], [0.0, 8.0, 0.0, 8.0, 4.0]
    profile = STRICT._replace(runs=5)
    assert decide_trial(quiet, Bar(5.0, 0.05), KNOWN, profile).verdict == "keep"
    assert decide_trial(noisy, Bar(5.0, 0.05), KNOWN, profile).verdict == "withdrawn"


def test_less_code_is_kept_if_it_is_surely_as_good():
    bar, runs = Bar(5.0, 0.05), verdicts.TIE_RUNS
    kept = decide_trial([5.0] * runs, bar, KNOWN, STRICT, as_good=True)
    assert kept.verdict == "keep" and "as good with less code" in kept.reason
    assert decide_trial([5.0] * (runs - 1), bar, KNOWN, STRICT, as_good=True).verdict == ""
    assert decide_trial([5.9] * runs, bar, KNOWN, STRICT, as_good=True).verdict == "withdrawn"
    assert decide_trial([5.0] * runs, bar, KNOWN, STRICT).verdict == "withdrawn"


def test_without_sigma_no_trial_is_decided():
    with pytest.raises(ValueError, match="calibrate"):
        decide_trial([4.0] * 9, Bar(5.0, 0.2), pool_noise([]), DEFAULT)


# --------------------------------------------------------------------------------------------------
# Simulated nights


def test_shares_of_ideas_add_up_to_one():
    logs = [log for sigma in ideas.SIGMAS.values() for log in ideas.empirical_priors(sigma)]
    randoms = [ideas.random_prior(0, number) for number in range(3)]
    for prior in [*ideas.PRIORS.values(), *logs, *randoms]:
        assert sum(prior.shares) == pytest.approx(1, abs=1e-9)
        assert len(prior.shares) == len(prior.kinds)
    effects = ideas.PRIORS["a"].draw(np.random.default_rng(0), 10_000)
    assert set(effects) == {0.0, 2.0} and effects.mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("rule", bench.RULES)
def test_a_night_spends_its_runs_and_no_more(rule):
    for world in ("b2", "e", "b2_short"):
        tally = bench.play(rule, world, 0, 1, path=True)
        runs = 100 if world == "b2_short" else nights.RUNS
        assert runs - 12 < tally.spent < runs + 2
        assert tally.ideas > 10 and tally.path[-1] == (tally.spent, tally.claimed, tally.true)


def test_every_rule_meets_the_same_ideas():
    weathers = [nights.Weather(ideas.PRIORS["a"], np.random.default_rng(7)) for _ in range(2)]
    assert weathers[0].effects == weathers[1].effects
    assert [*weathers[0].luck] == [*weathers[1].luck]
    met = {rule: bench.play(rule, "a", 3, 7).ideas for rule in ("default", "greedy", "former")}
    assert met["greedy"] == nights.RUNS - 1 > met["default"] > met["former"]


def test_sigma_is_that_of_all_champions_runs():
    weather = nights.Weather(ideas.PRIORS["a"], np.random.default_rng(5))
    night, groups = nights.Night(weather, PROFILES["default"]), []
    keep = night.keep_batch

    def keep_batch(trial):
        groups.append(night.champion.scores)
        keep(trial)

    night.keep_batch = keep_batch
    assert night.play().keeps > 5
    noise = pool_noise([*groups, night.champion.scores])
    assert night.noise.df == noise.df and night.noise.sigma == pytest.approx(noise.sigma)


def test_the_closing_comparison_is_fair():
    for world in ("b2", "b2_better", "nothing"):
        tallies = [bench.play("default", world, 0, number) for number in range(40)]
        misses = [tally.closing - tally.true for tally in tallies]
        assert abs(np.mean(misses)) < 4 * math.sqrt(0.5 / 40)  # its variance is 1/4 + 1/4
        assert np.mean([tally.low <= tally.true <= tally.high for tally in tallies]) > 0.8


def test_a_first_run_that_is_never_stopped_changes_nothing(monkeypatch):
    monkeypatch.setattr(bench, "MEASURED", nights.Stop(least=-math.inf))
    assert vars(bench.play("half", "b", 0, 0)) == vars(bench.play("default", "b", 0, 0))
    monkeypatch.setattr(bench, "MEASURED", nights.Stop(rho=1.0, share=0.25))
    stopped, whole = (bench.play(rule, "b", 0, 0) for rule in ("half", "default"))
    assert stopped.ideas > 2 * whole.ideas and stopped.true > whole.true


def test_a_changed_constant_changes_the_figures(monkeypatch):
    pairs = [("default", "b2"), ("strict", "b2"), ("greedy", "b2")]
    figures = bench.measure(0, 4, 0, pairs)
    monkeypatch.setitem(PROFILES, "default", DEFAULT._replace(hit=3 * DEFAULT.hit))
    changed = bench.measure(0, 4, 0, pairs)
    assert changed["rule"] != figures["rule"] and changed["default"] != figures["default"]
    assert changed["strict"] == figures["strict"] and changed["greedy"] == figures["greedy"]


def test_the_published_figures_are_of_this_rule():
    assert PUBLISHED["rule"] == json.loads(json.dumps(bench.constants()))
    assert PUBLISHED["stop"] == bench.MEASURED._asdict() and PUBLISHED["nights"] >= 400
    again = bench.rounded(bench.summarize([bench.play("greedy", "b2", 0, n) for n in range(400)]))
    assert PUBLISHED["greedy"]["b2"] == again
    words = bench.rules_table(PUBLISHED) + bench.conditions_table(PUBLISHED)
    assert "`default`, hopeless first runs stopped" in words and "heavy tails" in words


LEAST = {  # true gain
    "default": {"a": 22, "b": 23, "b2": 30.5, "a_t3": 24, "b_t3": 22},
    "strict": {"a": 17.5, "b": 15.5, "b2": 20.5},
    "half": {"a": 29, "b": 33, "b2": 43},
}
MOST = {  # keeps without effect
    "default": {"b": 0.11, "b2": 0.11, "e": 0.11},
    "strict": {"a": 0.055, "b": 0.01, "b2": 0.01},
}


def test_the_published_figures_are_good():
    for rule, worlds in LEAST.items():
        assert all(PUBLISHED[rule][world]["true"] >= least for world, least in worlds.items())
    for rule, worlds in MOST.items():
        assert all(PUBLISHED[rule][world]["fdr"] <= most for world, most in worlds.items())
    default, closing, ratios = PUBLISHED["default"], PUBLISHED["closing"], PUBLISHED["random"]
    for world, most in {"a": 0.05, "b": 0.012, "b2": 0.02}.items():
        assert default[world]["nulls_kept"] <= most and default[world]["harmful"] <= 0.3
    assert default["a_loud"]["loud_kept"] <= 0.025
    assert 0.98 <= closing["calm"] <= 1.02 and 0.98 <= closing["drift"] <= 1.02
    assert default["nothing"]["claimed"] <= 1.6
    assert abs(default["nothing"]["closing"]) <= 3 * default["nothing"]["closing_error"]
    assert ratios["ratio"] >= 0.8 and ratios["half_ratio"] >= 1.2
    assert default["e"]["true"] >= 0.8 * PUBLISHED["greedy"]["e"]["true"]
    assert default["e"]["true"] >= 2 * PUBLISHED["former"]["e"]["true"]


def test_what_is_said_of_keeps_is_what_was_simulated():
    rules = {"strict": "half_strict", "default": "half", "bold": "half_bold"}
    for profile, rule in rules.items():
        shares = [PUBLISHED[rule][prior]["fdr"] for prior in ("b2", "a")]
        least, most = (f"{100 * share:.0f}" for share in shares)
        words = "under 2 %" if max(shares) < 0.02 else f"{least} to {most} %"
        assert claims.NULL_KEEPS[profile] == words


def test_the_chart_is_whole():
    root = xml.etree.ElementTree.fromstring(verdicts_chart.draw(0, 2))
    words = " ".join(root.itertext())
    assert "runs of any kind" in words and "any lower number" in words and "claims" in words
