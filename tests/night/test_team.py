"""Several agents in one night: they are asked in turns, credited, compared."""

import math

import made_up_night
import pytest
from conftest import open_session
from test_experiments import repository, runs  # noqa: F401
from typer.testing import CliRunner

from ratchet import __main__, tables
from ratchet.night.journal import Journal
from ratchet.night.summary import describe_agents, summarize_night
from ratchet.night.team import comparison

NAMES = "claude -p", "tuner"


# --------------------------------------------------------------------------------------------------
# Intervals


def test_intervals_are_those_of_their_papers():
    """Newcombe 1998: Statistics in Medicine 17, page 857 (81 of 263), page 873 (10 of 10, 0 of 10)."""
    assert comparison.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert comparison.compare_rates(10, 0, 10)[:] == pytest.approx((1.0, 0.6075, 1.0), abs=1e-4)
    assert comparison.wilson_interval(0, 10)[0] == 0 and comparison.wilson_interval(10, 10)[1] == 1
    assert comparison.mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.4841), abs=1e-4)
    assert comparison.mean_interval([1.5]) == (1.5, math.inf)
    alike = comparison.compare_rates(3, 3, 12)
    assert alike.value == 0 and alike.low == pytest.approx(-alike.high) and not alike.is_settled
    assert comparison.compare_rates(10, 0, 10).is_settled
    wider = comparison.compare_rates(6, 2, 10, level=0.025)
    narrower = comparison.compare_rates(6, 2, 10)
    assert wider.low < narrower.low and wider.high > narrower.high


def test_differences_between_equals_are_seldom_more_than_luck():
    """All pairs of outcomes of two agents with the same rate: the interval misses about 5 %."""
    for count, rate in ((8, 0.2), (20, 0.2), (20, 0.5)):
        weights = [
            math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(count + 1)
        ]
        missed = sum(
            weights[a] * weights[b]
            for a in range(count + 1)
            for b in range(count + 1)
            if comparison.compare_rates(a, b, count).is_settled
        )
        assert missed < 0.06


# --------------------------------------------------------------------------------------------------
# A night of two, made up


def note_team(home, names=NAMES, cost=0.5):
    """The journal of a night in which these had all ideas of the ledger, in calls of their own."""
    journal, tries = Journal(home), [e for e in open_session().experiments() if e.role == "try"]
    together = ", ".join(names)
    journal.append("begins", agent=together, agents=[*names], limits={}, baseline=1)
    for call, e in enumerate(tries, 1):
        price = {"cost": cost * (e.by == names[0]), "tokens": 1000 * (e.by == names[0])}
        journal.append("answer", call=call, by=e.by, outcome="idea", mends=None, **price)
        journal.append("done", call=call, n=e.n, outcome=e.decisions[0]["verdict"])
    empty = dict(call=len(tries) + 1, by=names[0], outcome="nothing", mends=None, **price)
    journal.append("answer", **empty)
    journal.append("ends", why="it was time", lost=[], idle=1.0, busy=9.0, active=10.0)
    return journal.last_night()


@pytest.fixture
def shared_night(repository, runs):  # noqa: F811
    """Two agents in turns: the first has two hits of three ideas, the other one of four."""
    made_up_night.begin(runs)
    worth = [("a", 4.0), ("b", -4.0), ("a", 4.0), ("b", 4.0), ("a", -4.0), ("b", -4.0), ("b", -9.0)]
    for number, (who, sigmas) in enumerate(worth):
        by = NAMES["ab".index(who)]
        made_up_night.try_gain(number, sigmas, f"idea {number} of {who}", by)
    return repository


def rows_of(home, events):
    campaign = open_session().read_campaign()
    rows, sentences = comparison.compare_agents(campaign, events)
    return {title: cells for title, *cells in rows}, sentences


def test_agents_are_compared_at_equal_numbers_of_ideas(shared_night):
    made_up_night.end()
    rows, sentences = rows_of(shared_night, note_team(shared_night))
    assert rows[""] == ['"claude -p"', '"tuner"']
    hits = rows["of its first 3 ideas: hits per idea (95 %)"]
    assert hits == ["2: 0.67 (0.21 to 0.94)", "1: 0.33 (0.06 to 0.79)"]
    assert rows["of the whole night: ideas with a verdict"] == ["3", "4"]
    first, other = rows["mean gain of first runs, sigma (95 %)"]
    assert first.startswith("+1.") and other.startswith("-1.")  # (4 + 4 - 4) / 3, (-4 + 4 - 4) / 3
    assert rows["kept"] == ["2", "1"] and rows["failed"] == ["0", "0"]
    assert rows["calls"] == ["4, 1 without an idea", "4"]
    assert rows["cost"] == ["1.50 dollars, 3,000 tokens", "not told"]
    difference = '"tuner" minus "claude -p", -0.33 (-0.72 to +0.32): that may be luck.'
    assert sentences == f"Hits per idea, {difference}"


def test_the_gain_of_a_trial_of_both_is_nobodys(shared_night):
    """Its three members were had by two: what they gained together is neither's."""
    made_up_night.end()
    (trial,) = [e for e in open_session().experiments() if e.role == "trial"]
    assert len(trial.members) == 3 and trial.verdict == "keep"
    events = note_team(shared_night)
    title = "fresh gain of its own trials, bpb, no claim"
    assert rows_of(shared_night, events)[0][title] == ["1 shared with others"] * 2
    made_up_night.try_gain(7, 5.0, "one more", NAMES[1])
    made_up_night.end()
    campaign = open_session().read_campaign()
    gain = campaign.search.compare(campaign.kept[-1].n).gain
    events = note_team(shared_night)
    assert rows_of(shared_night, events)[0][title] == [
        "1 shared with others",
        f"{gain:+.4f} in 1, 1 shared with others",
    ]


def test_summary_and_log_show_the_comparison_and_ledgers_of_one_agent_have_none(shared_night):
    made_up_night.note(shared_night)
    one = summarize_night(open_session())
    assert "hits per idea" not in one
    log = lambda *words: CliRunner().invoke(__main__.app, ["log", *words], env={"COLUMNS": "200"})  # noqa: E731
    assert "hits per idea" not in log().output
    note_team(shared_night)
    text = summarize_night(open_session())
    (table, sentence) = describe_agents(
        open_session().read_campaign(), Journal(shared_night).last_night()
    )
    assert table in text and sentence in text and "| kept |" in table
    assert "hits per idea" in log().output and "that may be luck" in log().output


def test_agents_without_a_verdict_are_not_compared(repository, runs):  # noqa: F811
    made_up_night.begin(runs)
    made_up_night.try_gain(0, 1.0, "an idea", NAMES[0])
    rows, sentences = rows_of(repository, note_team(repository))
    assert "when each has had an idea with a verdict" in sentences
    assert rows["of the whole night: ideas with a verdict"] == ["1", "0"] and "kept" not in rows


def test_the_log_of_one_has_its_ideas_and_the_trials_that_they_were_in(shared_night):
    made_up_night.end()
    everything = open_session().experiments()
    by = lambda name: [e.n for e in tables.experiments_by(name, everything)]  # noqa: E731
    own = [e.n for e in everything if e.role == "try" and e.by == "tuner"]
    (trial,) = [e.n for e in everything if e.role == "trial"]
    assert by("tuner") == [*own, trial]
    assert by("claude -p") == by("claude") and trial in by("claude")
    assert by("codex") == [] and by("somebody") == [everything[-1].n]  # the closing comparison
