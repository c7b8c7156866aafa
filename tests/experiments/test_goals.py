"""Goals other than val_bpb: what is kept, and how val_bpb is kept from getting worse meanwhile."""

import itertools
import json
import math
from unittest import mock

import pytest
from conftest import open_session
from made_up_runs import SIGMA
from test_experiments import champion, commit, phases, problems, repository, rewrite, runs  # noqa: F401
from test_search import TWO, Lines
from typer.testing import CliRunner

from ratchet import __main__, claims
from ratchet.arena.files import Refused
from ratchet.experiments import comparisons, trials, verbs
from ratchet.experiments.goals import VAL_BPB, Goal, figure_text, parse_goal
from ratchet.experiments.ledger import BASELINE, CANDIDATE, CHAMPION, is_valid
from ratchet.experiments.rule import slack
from ratchet.experiments.rule.slack import Slack
from ratchet.experiments.rule.statistics import Noise, describe_gain
from ratchet.experiments.verdicts import CLOSING, TIE_RUNS, Verdict
from ratchet.referee.measures import refuse_unmeasured
from ratchet.referee.supervisor import EndedEarly

FAST = Goal("user_tps", 0.02)
SMALL = Goal("file_mb", 0.02)
BETTER = 1.0 + 4 * SIGMA  # so much that no luck makes it worse than the slack allows
PROFILE = TWO._replace(step=1.1, z=1.6)
LEVELS = [1.5 + 0.01 * math.sqrt(2) * way for way in (-1, 1, 0, 0, 0)]  # sigma 0.01


# --------------------------------------------------------------------------------------------------
# Goals


def test_a_goal_is_a_measure_that_the_referee_takes():
    assert parse_goal("val_bpb", None) == VAL_BPB and parse_goal("user_tps", None) == FAST
    assert parse_goal("file_mb", 5.0) == Goal("file_mb", 0.05)


@pytest.mark.parametrize(
    ("name", "percent", "words"),
    [
        ("speed", None, "--goal speed: there is no such measure: name val_bpb, file_mb,"),
        ("train_tps", None, "told by the contestant's own process"),
        ("user_tps", 0.0, "--share 0: give percents above 0"),
        ("user_tps", math.nan, "--share nan: give percents"),
        ("val_bpb", 2.0, "--share is of another goal"),
    ],
)
def test_a_goal_that_is_none_is_refused(name, percent, words):
    with pytest.raises(Refused) as refusal:
        parse_goal(name, percent)
    assert words in str(refusal.value)


def test_a_score_is_the_log_of_a_measure_by_which_less_is_better():
    assert FAST.log_of({"user_tps": 8.0}) == -3 and SMALL.log_of({"file_bytes": 8e6}) == 3
    assert math.isnan(FAST.log_of({})) and math.isnan(SMALL.log_of({"file_bytes": 0}))
    assert FAST.figure_of(-3) == SMALL.figure_of(3) == 8.0
    assert FAST.figures_of(-3, 1) == SMALL.figures_of(3, 1) == [8.0, 4.0, 16.0]


def test_a_gain_is_a_ratio_of_the_measure():
    gain = describe_gain(1.0, 0.1, Noise(0.2, 4), 4, 4)
    assert FAST.describe_gain(gain) == "x2.00 [1.65, 2.42]"
    assert SMALL.describe_gain(gain) == "x0.500 [0.412, 0.606]"
    assert VAL_BPB.describe_gain(gain) == "+1.0000 ± 0.2776"
    texts = {231.4: "231", 12345.6: "12,346", 23.14: "23.1", 0.98039: "0.980", 1.0: "1.00"}
    assert {value: figure_text(value) for value in texts} == texts


def test_what_has_no_spread_counts_as_half_of_the_least_gain():
    assert SMALL.with_floor(Noise(0.0, 4)) == Noise(math.log2(1.02) / 2, 4)
    assert SMALL.with_floor(Noise(0.5, 4)) == Noise(0.5, 4)
    assert VAL_BPB.with_floor(Noise(0.0, 4)) == Noise(0.0, 4)


def test_a_run_that_was_not_measured_for_the_goal_has_no_score():
    refuse_unmeasured({"status": "ok", "joules": 3.0}, ["joules"])
    refuse_unmeasured({"status": "invalid"}, ["joules"])
    for joules in (None, 0.0):
        with pytest.raises(EndedEarly) as end:
            refuse_unmeasured({"status": "ok", "joules": joules}, ["joules"])
        assert end.value.status == "invalid" and "joules could not be measured" in str(end.value)


# --------------------------------------------------------------------------------------------------
# The rule


class Speeds(Lines):
    """Lines of a campaign whose goal is speed; a run is (val_bpb, tokens a second)."""

    def open(self, role, *sources, **more):
        return super().open(role, *sources, **{"goal": FAST._asdict()} | more)

    def run(self, n, arm, phase, score=None, **more):
        bpb, speed = score or (None, None)
        self.speed = speed
        return super().run(n, arm, phase, bpb, **more)

    def add(self, kind, n, **row):
        return super().add(kind, n, **row | ({"user_tps": self.speed} if kind == "run" else {}))


def calibrated(*ideas):
    """Speeds of 100 tokens/s, sigma 1 %; tries of sources with these names."""
    lines = Speeds()
    lines.calibrate([(bpb, 100.0) for bpb in LEVELS])
    for name in ideas:
        lines.open("try", name, "baseline", profile=PROFILE._asdict())
    return lines


def hold_trial(lines, score, champion="baseline", of_baseline=None, name="merge"):
    """The verdict of a trial whose runs all have this score, and its number."""
    sources = [name, champion, "baseline"]
    more = {"profile": PROFILE._asdict(), "members": [], "parent": champion}
    n = lines.open("trial", *sources, **more)
    while not isinstance(step := lines.search.next_step(n), Verdict):
        of_baseline = of_baseline or itertools.repeat((1.5, 100.0))
        others = {CHAMPION: lines.level} if champion != "baseline" else {}
        lines.run(
            n, *step, score if step[0] == CANDIDATE else others.get(step[0]) or next(of_baseline)
        )
    lines.close(n, step)
    return step, n


def hold_one(score, **more):
    lines = calibrated()
    lines.level = (1.5, 100.0)
    verdict, n = hold_trial(lines, score, **more)
    return verdict, [
        (row["arm"], row["phase"]) for row in lines.rows if row["n"] == n and row["kind"] == "run"
    ]


def test_a_fast_idea_is_a_hit_whatever_the_floor():
    lines = calibrated("fast", "slow", "hardly faster")
    for n, speed in ((2, 103.0), (3, 99.0), (4, 101.0)):
        lines.run(n, CANDIDATE, "search", (1.5, speed))
    assert [lines.search.next_step(n)[0] for n in (2, 3, 4)] == ["hit", "out", "out"]


def test_an_idea_far_beyond_the_slack_is_out_at_once_and_not_returned_to():
    """Beyond a sigma and a standard error: 1 + sqrt(1.2) sigma of a hundredth."""
    lines = calibrated("bad", "worse", "slow")
    lines.run(2, CANDIDATE, "search", (1.52, 200.0))
    lines.run(3, CANDIDATE, "search", (1.5215, 200.0))
    lines.run(4, CANDIDATE, "search", (1.5, 99.0))
    assert lines.decide(2) == "hit" and lines.decide(3) == lines.decide(4) == "out"
    assert (
        "val_bpb +0.0215 ± 0.0305 against the baseline's, slack 0.0100: far"
        in lines.rows[-2]["reason"]
    )
    assert lines.search.best_parked(PROFILE) == 4


def test_a_keep_is_faster_and_no_worse():
    verdict, order = hold_one((1.495, 110.0))
    assert verdict.verdict == "keep" and order[:TIE_RUNS] == [(CANDIDATE, "trial")] * TIE_RUNS
    assert {*order[TIE_RUNS:]} == {(CHAMPION, "bar")}  # which is the baseline
    assert verdict.reason.startswith("better: user_tps x1.10 [1.09, 1.11] (95 %), 9.6 sigma, in 6")
    assert verdict.reason.endswith("slack 0.0063: within it")


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (
            (1.495, 101.9),
            "user_tps x1.02 [1.00, 1.04] (95 %), 1.9 sigma, in 6 fresh runs; x1.02 was",
        ),
        ((1.495, 90.0), "was asked for"),
        ((1.506, 110.0), "not shown to be within it"),
        ((1.53, 200.0), "far beyond it"),
    ],
)
def test_what_is_hardly_faster_or_worse_is_withdrawn(score, words):
    verdict, _ = hold_one(score)
    assert verdict.verdict == "withdrawn" and words in verdict.reason


def test_a_row_of_keeps_cannot_spend_the_slack_again_and_again():
    """Each is faster by a tenth, and half a sigma worse than the champion before it."""
    lines, champion, verdicts = calibrated(), "baseline", []
    lines.level = (1.49, 100.0)
    around = itertools.cycle([(1.49, 100.0), (1.51, 100.0)])
    for number in range(6):
        bpb, speed = lines.level
        score = (bpb + 0.005, 1.1 * speed)
        verdict, _ = hold_trial(lines, score, champion, around, name=f"idea {number}")
        verdicts.append(verdict.verdict)
        if verdict.verdict == "keep":
            champion, lines.level = f"idea {number}", score
    assert verdicts == ["keep", "keep", *["withdrawn"] * 4] and lines.level[0] == pytest.approx(1.5)
    assert lines.search.slack.noise.sigma == pytest.approx(0.01, rel=0.1)


def test_the_baseline_runs_where_its_level_has_become_vague():
    known = Slack("baseline", LEVELS)
    assert known.is_vague and known.bar.variance == 0.2 and known.most == pytest.approx(1.51)
    for _ in range(5):
        known.add(1.5)
    assert not known.is_vague and known.noise.df == 9
    for _ in range(10):
        known.drift()
    assert known.is_vague
    lines = calibrated()
    lines.level = (1.495, 110.0)
    hold_trial(lines, (1.495, 110.0), name="first")
    for _ in range(10):
        lines.search.slack.drift()
    _, n = hold_trial(lines, (1.495, 130.0), "first", name="second")
    order = [
        (row["arm"], row["phase"]) for row in lines.rows if row["n"] == n and row["kind"] == "run"
    ]
    assert (BASELINE, "bar") in order


def test_a_claim_says_whether_val_bpb_is_within_the_slack():
    def place(gain, error):
        return slack.place_in_slack(describe_gain(gain, error, Noise(1.0, 6), 4, 4), 0.01)

    assert place(0.0, 0.006) == "within it" and place(-0.03, 0.006) == "beyond it"
    assert place(-0.01, 0.006) == place(0.0, 0.01) == "too few runs to tell"


# --------------------------------------------------------------------------------------------------
# A campaign, from its calibration to its claim


@pytest.fixture
def base(repository, runs):  # noqa: F811
    """The commit of a baseline that was calibrated to become faster."""
    commit("the baseline", more="SPEED_A = 0.0\nx = 1")
    verbs.calibrate(open_session(arena="tiny", budget="5s", goal=FAST), 5)
    return champion()


def try_speed(speed, quality=1.0):
    commit(f"speed {speed}, quality {quality}", quality, f"SPEED_A = {speed}")
    return trials.decide_idea(open_session(), "faster")


def test_a_goal_belongs_to_a_campaign(base, runs):  # noqa: F811
    session = open_session()
    (e,) = session.read_campaign().since
    assert e.goal == session.goal == FAST and e.comparison_key[-1] == FAST
    assert {job.measured for job in runs.jobs} == {("user_tps",)} and not session.half_stop
    assert e.reason.startswith("user_tps mean ") and "; val_bpb mean " in e.reason
    commit("something else", more="SPEED_A = 0.5")
    verbs.calibrate(open_session(arena="tiny", budget="5s"), 2)
    assert open_session().goal == VAL_BPB and open_session().half_stop
    assert len(open_session().read_campaign().since) == 1 and problems() == []


def test_only_what_is_faster_at_no_worse_val_bpb_is_kept(base):
    better_but_slower = try_speed(-0.5, quality=1.1)
    assert better_but_slower.verdict == "out" and champion() == base
    fast = try_speed(0.5, quality=BETTER)
    assert fast.verdict == "keep" and "within it" in fast.reason
    assert claims.describe_gain(fast, open_session().read_campaign()).startswith("x1.")
    bad = try_speed(2.0, quality=1.0 - 12 * SIGMA)
    assert bad.verdict == "out" and "far beyond it" in bad.reason and problems() == []


def test_less_code_alone_is_not_kept(base):
    """A tie is one of val_bpb: with another goal nothing is kept that doesn't gain."""
    commit("shorter", more="SPEED_A = -0.3")
    e = trials.decide_idea(open_session(), "shorter")
    assert not e.may_tie and e.verdict == "out"


def test_the_closing_comparison_and_an_audit_report_both(base):
    assert try_speed(0.5, quality=BETTER).verdict == "keep"
    e = comparisons.close_night(open_session(), "somebody")
    assert "".join("BA"[run["arm"]] for run in e.runs) == 2 * CLOSING  # slack is a small thing
    campaign = open_session().read_campaign()
    gains = claims.claimed_gains(campaign)
    assert [*gains] == ["goal", "val"] and gains["goal"].gain == pytest.approx(0.5, abs=0.1)
    words = claims.describe_claim(campaign)
    assert words.startswith("claim: experiment 3: user_tps x1.4") and words.endswith("in turns)")
    assert " of the baseline's, 95 %; val_bpb -0.0" in words and ", slack 0.0" in words
    assert len(comparisons.audit(open_session()).runs) == 16
    assert "on the test text" in claims.describe_claim(open_session().read_campaign())
    assert problems() == []


def test_verify_finds_a_goal_that_was_not_measured_and_a_changed_baseline(base):
    e = try_speed(0.5, quality=BETTER)
    assert e.verdict == "keep" and problems() == []
    path = open_session().ledger.path

    def forget_speed(row):
        if row.get("phase") == "search":
            del row["user_tps"]

    kept = path.read_bytes()
    rewrite(path, forget_speed)
    assert any("its user_tps was not measured" in problem for problem in problems())
    path.write_bytes(kept)

    def move_arm(row):
        if len(row.get("arms", ())) > 2:
            row["arms"][2] = row["arms"][0]

    rewrite(path, move_arm)
    assert "experiment 3: its third arm is not the baseline" in problems()
    path.write_bytes(kept)
    assert json.loads(kept.splitlines()[0])["goal"] == FAST._asdict() and is_valid(e.runs[0])


def invoke(*words, wide=False):
    """As on a terminal of 100 columns, or 200."""
    with mock.patch.object(__main__.console, "_width", 200 if wide else 100):
        return CliRunner().invoke(__main__.app, [*words])


def test_the_terminal_shows_the_goal_and_val_bpb(base):
    assert try_speed(0.5, quality=BETTER).verdict == "keep"
    result = invoke("audit", "-n", "2")
    assert result.exit_code == 0 and "user_tps, tokens/s, 2 champions" in result.output
    assert "ratio to experiment 1 (95%)" in result.output and "test bits per byte" in result.output
    assert "claim: experiment 3: user_tps x1.4" in result.output
    rows = json.loads(invoke("audit", "-n", "2", "--json").stdout)
    assert rows["user_tps"][1]["ratio"] == pytest.approx(1.41, rel=0.1) and len(rows["val"]) == 2
    log = invoke("log", wide=True).output
    assert " goal " in log and "user_tps 4" in log and "(x1.4" not in log
    assert "2 champions of user_tps ▁█, sigma" in log and "claim: experiment 3: user_tps" in log
    assert "(simulated)" not in log  # which is of val_bpb as the goal
    shown = invoke("show", "2", wide=True).output
    assert "user_tps of the champion of that time, 95 %, fresh runs" in shown
    assert "slack:   val_bpb -0.0" in shown and "user_tps, tokens/s" in shown
    assert json.loads(invoke("show", "2", "--json").output)["user_tps"][0][0] > 390
    problems = invoke("verify")
    assert problems.exit_code == 0 and ", 0 problems" in problems.output


def test_a_goal_is_set_and_followed_from_the_command_line(repository, runs):  # noqa: F811
    commit("the baseline", more="SPEED_A = 0.0")
    options = ["--arena", "tiny", "--budget", "5s", "-n", "3"]
    result = invoke("calibrate", "--goal", "joules", *options)
    assert result.exit_code == 2 and "only NVIDIA GPUs tell them" in result.output
    result = invoke("calibrate", "--goal", "user_tps", "--share", "5", *options)
    assert result.exit_code == 0 and "baseline, user_tps mean " in result.output
    assert open_session().goal == Goal("user_tps", 0.05)
    commit("faster", BETTER, "SPEED_A = 0.7")
    result = invoke("try", "decodes faster")
    assert result.exit_code == 0 and "the goal is user_tps: no run is stopped" in result.output
    assert "experiment 2: keep, better: user_tps x1.6" in result.output.replace("\n", " ")
    assert "x1.05 was asked for; val_bpb -0.0" in result.output and problems() == []
