"""What a person and an agent are told of a night: summary, digest, status."""

import made_up_night
import pytest
from conftest import open_session
from test_experiments import repository  # noqa: F401

from ratchet import claims
from ratchet.experiments import trials
from ratchet.experiments.verdicts import DEFAULT, PROFILES
from ratchet.night import digest, prompt
from ratchet.night.status import night_status
from ratchet.night.summary import summarize_night

NAME = "an | agent"


@pytest.fixture
def searched(repository, monkeypatch):  # noqa: F811
    """Ideas with clear gains that wait for a trial, one that gains little, one that is worse."""
    runs = made_up_night.begin(monkeypatch)
    for number, sigmas in enumerate([4.0, 4.0, -4.0, 4.0, 0.0]):
        made_up_night.try_gain(number, sigmas, f"heads {number}", NAME, gain=0.01 * sigmas)
    runs.home = repository
    return runs


def read_digest(home):
    """{title: lines} of the page that an agent reads."""
    sections = digest.write_digest(open_session().read_campaign(), home).split("\n\n")
    return {title: lines for title, *lines in (text.strip().splitlines() for text in sections)}


def section_of(sections, begin):
    return next(lines for title, lines in sections.items() if title.startswith(f"## {begin}"))


def test_hits_that_wait_are_told(searched):
    made_up_night.note(searched.home, NAME)
    assert night_status(searched.home)["hits"] == "2, 3, 5 wait for a trial"
    text = summarize_night(open_session())
    assert "Hits that wait for a trial: 2, 3, 5." in text and "Nothing was kept." in text
    assert "claim" not in text and "%)" not in text.split("Worth another look")[0]
    (line,) = [line for line in section_of(read_digest(searched.home), "Latest") if "- 5" in line]
    assert line.startswith("- 5 hit (+0.0") and line.endswith(', selected): "heads 3"')


def test_a_summary_names_what_was_kept_together_and_claims_what_was_measured(searched):
    made_up_night.end(NAME)
    made_up_night.note(searched.home, NAME)
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
    champions = section_of(read_digest(searched.home), "Champions")
    assert champions[1] == f"- {trial.n} keep {fresh}: trial of 2, 3, 5: {ideas}"
    assert nulls("default") in champions[2].replace("about", "About")
    assert night_status(searched.home)["kept"] == 3


def nulls(name):
    return f"{claims.NULL_KEEPS[name]} of keeps by the profile {name} have no effect (simulated)".capitalize()


def test_every_profile_says_how_many_keeps_are_luck():
    assert claims.NULL_KEEPS.keys() == PROFILES.keys()


def test_without_a_closing_comparison_there_is_no_claim(searched):
    made_up_night.end(NAME, is_closed=False)
    made_up_night.note(searched.home, NAME, "you stopped it")
    assert "No claim yet: `ratchet audit` measures it." in summarize_night(open_session())


def test_near_misses_are_hits_that_failed_and_the_best_that_are_out(searched, monkeypatch):
    monkeypatch.setattr("ratchet.referee.trial.run_trial", lambda job: lose_gains(searched, job))
    trials.try_hits(open_session(), DEFAULT, is_last=True)
    experiments = open_session().experiments()
    withdrawn = {e.n for e in experiments if e.role == "try" and e.verdict == "withdrawn"}
    assert withdrawn == {2, 3, 5}
    campaign = open_session().read_campaign()
    gains = {e.n: claims.describe_gain(e, campaign) for e in campaign.tried if e.role == "try"}
    assert all("selected" not in gains[n] for n in withdrawn)
    sections = read_digest(searched.home)
    near = section_of(sections, "Near misses") if any("Near" in t for t in sections) else []
    assert not any(line.startswith(("- 2 ", "- 3 ", "- 5 ")) for line in near)  # all lost
    assert '4 "heads 2"' in " ".join(section_of(sections, "Dead ends"))


def lose_gains(runs, job):
    """A run in which what the search saw was luck: gains of 4 sigma are losses."""
    text = job.source.text.replace(b"= 0.04", b"= -0.04")
    return runs(job._replace(source=job.source._replace(text=text))) | job.source.describe_source()


def test_a_row_without_a_gain_asks_for_another_direction_unless_hits_wait(repository, monkeypatch):  # noqa: F811
    made_up_night.begin(monkeypatch)
    for number in range(prompt.DRY_AFTER):
        made_up_night.try_gain(number, -4.0)
    assert prompt.ask_for_pivot(open_session().read_campaign())
    made_up_night.try_gain(number + 1, 5.0)
    assert not prompt.ask_for_pivot(open_session().read_campaign())
