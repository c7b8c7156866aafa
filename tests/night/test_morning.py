"""What a person and an agent are told of a night: summary, digest, status."""

import made_up_night
import pytest
from conftest import open_session
from test_experiments import repository, runs  # noqa: F401

from ratchet import claims
from ratchet.experiments.verdicts import PROFILES
from ratchet.night import digest, prompt
from ratchet.night.journal import Journal
from ratchet.night.status import night_status
from ratchet.night.summary import summarize_night

NAME = "an | agent"


@pytest.fixture
def searched(repository, runs):  # noqa: F811
    """Ideas with clear gains that wait for a trial, one that gains nothing, one that is worse."""
    made_up_night.begin(runs)
    for number, sigmas in enumerate([4.0, 4.0, -4.0, 4.0, 0.0]):
        made_up_night.try_gain(number, sigmas, f"heads {number}", NAME, gain=0.01 * sigmas)
    return repository


def read_digest(home):
    """{title: lines} of the page that an agent reads."""
    sections = digest.write_digest(open_session().read_campaign(), home).split("\n\n")
    return {title: lines for title, *lines in (text.strip().splitlines() for text in sections)}


def section_of(sections, begin):
    return next(lines for title, lines in sections.items() if title.startswith(f"## {begin}"))


def test_hits_that_wait_are_told(searched):
    made_up_night.note(searched, NAME)
    assert night_status(searched)["hits"] == "2, 3, 5 wait for a trial"
    text = summarize_night(open_session())
    assert "Waiting for a trial: experiment 2, 3, 5." in text and "Nothing was kept." in text
    assert "claim" not in text and "%)" not in text.split("Worth another look")[0]
    (line,) = [line for line in section_of(read_digest(searched), "Latest") if "- 5" in line]
    assert line.startswith("- 5 hit (+0.0") and line.endswith(', selected): "heads 3"')


def test_a_summary_names_what_was_kept_together_and_claims_what_was_measured(searched):
    made_up_night.end(NAME)
    made_up_night.note(searched, NAME)
    campaign = open_session().read_campaign()
    trial = campaign.kept[-1]
    assert trial.members == [2, 3, 5]
    text = summarize_night(open_session())
    assert text.startswith('5 experiments by "an \\| agent": 3 keep, 2 out.')
    measured = claims.claimed_gains(campaign)["val"]
    assert measured.low < 12 * made_up_night.SIGMA < measured.high
    words = f"Claim: experiment {trial.n} gains {claims.format_gain(measured)} bpb on the baseline"
    assert f"{words} (95 %, 4 + 4 fresh runs in turns). {nulls('default')}." in text
    fresh = claims.describe_gain(trial, campaign)
    ideas = '2 "heads 0"; 3 "heads 1"; 5 "heads 3"'
    assert f"| {trial.n} | {ideas} | {fresh} |" in text
    assert "together" not in text and "wait for" not in text
    champions = section_of(read_digest(searched), "Champions")
    assert champions[1] == f"- {trial.n} keep {fresh}: trial of 2, 3, 5: {ideas}"
    assert nulls("default") in champions[2].replace("about", "About")
    assert night_status(searched)["kept"] == 3


def test_what_an_earlier_night_left_is_kept_by_this_one(searched):
    made_up_night.note(searched, NAME, "you stopped it")
    journal = Journal(searched)
    journal.append("begins", agent="codex", limits={}, baseline=1)
    made_up_night.end(NAME)
    journal.append("ends", why="it was time", lost=[], idle=1.0, busy=9.0, active=10.0)
    text = summarize_night(open_session())
    assert text.startswith('0 experiments by "codex": none.') and "Nothing was kept" not in text
    assert '2 "heads 0"; 3 "heads 1"; 5 "heads 3"' in text and night_status(searched)["kept"] == 3


def nulls(name):
    words = f"{claims.NULL_KEEPS[name]} of keeps by the profile {name} have no effect"
    return f"{words} ({claims.NULL_KEEPS_NOTE})".capitalize()


def test_every_profile_says_how_many_keeps_are_luck():
    assert claims.NULL_KEEPS.keys() == PROFILES.keys()


def test_without_a_closing_comparison_there_is_no_claim(searched):
    made_up_night.end(NAME, is_closed=False)
    made_up_night.note(searched, NAME, "you stopped it")
    assert "No claim yet: `ratchet audit` measures it." in summarize_night(open_session())


def test_what_fresh_runs_do_not_confirm_is_no_near_miss(repository, runs):  # noqa: F811
    made_up_night.begin(runs)
    for number in range(2):
        made_up_night.try_gain(number, -4.0, f"heads {number}", luck=8.0)
    made_up_night.try_gain(2, -1.0, "depth", luck=1.7)
    made_up_night.try_gain(3, -4.0, "batch")
    made_up_night.end()
    campaign = open_session().read_campaign()
    shown = {e.n: digest.describe_experiment(e, campaign) for e in campaign.tried[1:]}
    for n in (2, 3):
        assert shown[n].startswith(f"- {n} withdrawn -0.0") and "selected" not in shown[n]
    sections = read_digest(repository)
    near = [lines for title, lines in sections.items() if "Near misses" in title]
    best = [e for e in campaign.tried[1:] if e.verdict == "out" and "(+" in shown[e.n]]
    assert near == ([[shown[e.n] for e in best]] if best else [])
    assert '5 "batch"' in " ".join(section_of(sections, "Dead ends"))


def test_a_row_without_a_gain_asks_for_another_direction_unless_hits_wait(repository, runs):  # noqa: F811
    made_up_night.begin(runs)
    for number in range(prompt.DRY_AFTER):
        made_up_night.try_gain(number, -4.0)
    assert prompt.ask_for_pivot(open_session().read_campaign())
    made_up_night.try_gain(number + 1, 5.0)
    assert not prompt.ask_for_pivot(open_session().read_campaign())
