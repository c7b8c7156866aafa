"""Nights whose goal is another measure than val_bpb: what agent, tuner and person hear of it."""

import math

import pytest
from conftest import open_session
from made_up_runs import SIGMA
from test_experiments import commit, problems, repository, runs  # noqa: F401
from test_night import PROGRAM
from test_service import StandIn, make_night

from ratchet.arena.files import Refused
from ratchet.claims import describe_goal
from ratchet.experiments import trials, verbs
from ratchet.experiments.goals import Goal
from ratchet.experiments.verdicts import STRICT
from ratchet.night import digest, tuner
from ratchet.night.driver import run_night
from ratchet.night.programs.answers import Answer
from ratchet.night.prompt import write_prompt
from ratchet.night.status import Limits, night_status
from ratchet.night.summary import summarize_night

BETTER = 1.0 + 4 * SIGMA


@pytest.fixture
def fast_place(repository, runs, monkeypatch):  # noqa: F811
    """A repository that was calibrated to decode faster."""
    commit("files that an agent gets", program_md=PROGRAM, prepare_py="# the judge\n")
    commit("the baseline", more="SPEED_A = 0.1")
    verbs.calibrate(open_session(arena="tiny", budget="5s", goal=Goal("user_tps", 0.02)), 5)
    monkeypatch.setattr("ratchet.referee.trial.preflight", lambda job: None)
    return repository


def try_speed(value, quality=BETTER, **remarks):
    """An idea of that speed and quality, tried and decided."""
    commit(f"speed {value}", quality, f"SPEED_A = {value}")
    return trials.decide_idea(open_session(), f"speed {value}", **remarks)


def test_an_agent_hears_what_the_goal_is_and_what_is_left(fast_place):
    first = write_prompt(fast_place, open_session().read_campaign(), [])
    assert "# The goal of this campaign" in first and "in its second the ratio of user_tps" in first
    assert (
        first.count("- goal: user_tps (tokens/s, decoding one row), more is better; the cham") == 2
    )
    assert "what is kept gains x1.02 at least" in first and "gain in bpb" not in first
    assert "- val_bpb may be " in first and "above the baseline's; the champion has " in first
    assert try_speed(0.6, gain=1.5).verdict == "keep"
    assert try_speed(3.0, 1.0 - 12 * SIGMA, gain=1.5).verdict == "out"
    assert try_speed(1.1, gain=1.5).verdict == "keep"
    last = write_prompt(fast_place, open_session().read_campaign(), [])
    assert "keep x1.4" in last and "val_bpb -0.0" in last and "against the baseline's" in last
    assert "Near misses" not in last  # one is out of reach, however fast
    assert "3 predictions averaged x1.50 of user_tps, the gains x" in last


def test_a_night_may_end_at_a_speed_and_its_summary_has_both(fast_place):
    told, texts = [], []
    answer = Answer("idea", text=f"QUALITY = {BETTER}\nSPEED_A = 1.3\n".encode(), idea="faster")
    session = open_session(tell=told.append)
    notify = lambda event, text, **values: texts.append((event, text, values))  # noqa: E731
    night = make_night(StandIn(answer), session, until=600.0, profile=STRICT, notify=notify)
    assert "tokens/s, 600 was the goal" in night.run()
    assert any("champion " in text and "tokens/s, goal 600" in text for text in told)
    text = summarize_night(open_session())
    assert "its ratio of user_tps (95 %), no claim" in text and " x2." in text
    assert "of the baseline's, 95 %; val_bpb -0.0" in text and problems() == []
    assert night_status(fast_place)["goal"] == describe_goal(open_session().read_campaign())[0]
    ((_, words, values),) = [each for each in texts if each[0] == "keep"]
    assert "tokens/s, gain x2." in words and values["gain"].startswith("x2.")
    assert values["bpb"].startswith("0.9")


def test_what_makes_no_sense_with_a_goal_is_refused(fast_place):
    with pytest.raises(Refused, match="tokens/s, name more than that"):
        run_night(open_session(), "tuner", Limits(), until=100.0)
    with pytest.raises(Refused, match="--simpler is of val_bpb"):
        run_night(open_session(), "tuner", Limits(), may_tie=True)
    told = []
    open_session(tell=told.append, half_stop=True)
    assert told == ["  the goal is user_tps: no run is stopped half-way, by its loss"]


def test_the_tuner_searches_the_goal_within_the_slack(fast_place):
    for value, quality in ((0.6, 1.0), (0.2, 1.0 - 12 * SIGMA)):
        commit(f"speed {value}", quality, f"SPEED_A = {value}")
        verbs.try_idea(open_session(), "faster")
    campaign = open_session().read_campaign()
    baseline, fast, bad = tuner.read_history(campaign, {"QUALITY": 1.0, "SPEED_A": 0.1})
    assert baseline.score == pytest.approx(-math.log2(300) - 0.1, abs=0.1)
    assert fast.score == pytest.approx(baseline.score - 0.5, abs=0.2)
    assert bad.excesses["val_bpb"] > 0.05 > baseline.excesses["val_bpb"]
    known = campaign.known_sources
    text, idea = tuner.propose_edit(campaign, b"QUALITY = 1.0\nSPEED_A = 0.1\n", 1, known)
    assert idea and text
    assert "Conditions" in digest.write_digest(campaign, fast_place, 500)
