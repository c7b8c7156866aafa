"""Several agents in one night: they are asked in turns, credited, compared."""

import math
import re
import time

import made_up_night
import pytest
from conftest import open_session
from test_experiments import problems, repository, runs  # noqa: F401
from test_night import place, script  # noqa: F401
from typer.testing import CliRunner

from ratchet import __main__, tables
from ratchet.arena.files import Refused
from ratchet.executors import open_executor
from ratchet.experiments import verbs
from ratchet.night.agent import Agent, Answer
from ratchet.night.driver import run_night
from ratchet.night.journal import Journal
from ratchet.night.status import Limits, last_exit_code, night_status, used_by
from ratchet.night.summary import describe_agents, summarize_night
from ratchet.night.team.authors import Author, open_authors, whose_turn
from ratchet.night.team.comparison import (
    compare_agents,
    compare_rates,
    mean_interval,
    wilson_interval,
)

NAMES = "claude -p", "tuner"


# --------------------------------------------------------------------------------------------------
# Intervals


def test_intervals_are_those_of_their_papers():
    """Newcombe 1998: Statistics in Medicine 17, page 857 (81 of 263), page 873 (10 of 10, 0 of 10)."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert compare_rates(10, 0, 10)[:] == pytest.approx((1.0, 0.6075, 1.0), abs=1e-4)
    assert wilson_interval(0, 10)[0] == 0 and wilson_interval(10, 10)[1] == 1
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.4841), abs=1e-4)
    assert mean_interval([1.5]) == (1.5, math.inf)
    alike = compare_rates(3, 3, 12)
    assert alike.value == 0 and alike.low == pytest.approx(-alike.high) and not alike.is_settled
    assert compare_rates(10, 0, 10).is_settled
    wider = compare_rates(6, 2, 10, level=0.025)
    narrower = compare_rates(6, 2, 10)
    assert wider.low < narrower.low and wider.high > narrower.high


@pytest.mark.parametrize("count, most", [(8, 0.08), (20, 0.06)])
def test_differences_between_equals_are_seldom_more_than_luck(count, most):
    """All pairs of outcomes of two agents that are equally good, as often as they come."""
    counts = range(count + 1)
    settled = [(a, b) for a in counts for b in counts if compare_rates(a, b, count).is_settled]
    for rate in (0.05, 0.1, 0.2, 0.3, 0.325, 0.4, 0.5):
        chance = [math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in counts]
        assert sum(chance[a] * chance[b] for a, b in settled) < most


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
    empty = dict(call=len(tries) + 1, by=names[0], outcome="nothing", reason="no change", **price)
    journal.append("answer", **empty, mends=None)
    down = empty | {"call": len(tries) + 2, "outcome": "service", "reason": "429"}
    journal.append("answer", **down, mends=None)
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
    rows, sentences = compare_agents(campaign, events)
    return {title: cells for title, *cells in rows}, sentences


def test_agents_are_compared_at_equal_numbers_of_ideas(shared_night):
    made_up_night.end()
    rows, sentences = rows_of(shared_night, note_team(shared_night))
    assert rows[""] == ['"claude -p"', '"tuner"']
    hits = rows["of its first 3 ideas: hits per idea (95 %)"]
    assert hits == ["2: 0.67 (0.21 to 0.94)", "1: 0.33 (0.06 to 0.79)"]
    assert rows["of the whole night: ideas with a verdict"] == ["3", "4"]
    first, other = rows["mean gain of first runs, sigma (95 %)"]
    first, other = (float(words.split()[0]) for words in (first, other))
    assert (
        0.3 < first < 4 and -4 < other < -0.3
    )  # (4 + 4 - 4) / 3, (-4 + 4 - 4) / 3, sigma is vague
    assert rows["kept"] == ["2", "1"] and rows["failed"] == ["0", "0"]
    assert rows["calls"] == ["4, 1 without an idea; 1 without service", "0"]
    assert rows["cost"] == ["1.50 dollars, 3,000 tokens", "not told"]
    difference = '"tuner" minus "claude -p", -0.33 (-0.72 to +0.32): that may be luck.'
    assert sentences == f"Hits per idea, {difference}"
    assert night_status(shared_night)["calls"] == 4
    words = "Cost: 4 calls of the agent, 1 more without service, 1.50 dollars, 3,000 tokens"
    assert words in summarize_night(open_session())


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


def log_words():
    """What `log` prints, without the ends of lines, which depend on the terminal."""
    return " ".join(CliRunner().invoke(__main__.app, ["log"]).output.split())


def test_summary_and_log_show_the_comparison_and_ledgers_of_one_agent_have_none(shared_night):
    made_up_night.note(shared_night)
    one = summarize_night(open_session())
    assert "hits per idea" not in one
    assert "may be luck" not in log_words()
    note_team(shared_night)
    text = summarize_night(open_session())
    (table, sentence) = describe_agents(
        open_session().read_campaign(), Journal(shared_night).last_night()
    )
    assert table in text and sentence in text and "| kept |" in table
    assert "kept" in log_words() and "that may be luck" in log_words()


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


# --------------------------------------------------------------------------------------------------
# Turns


def answers_in_journal(home, *answers):
    """A night of "a" and "b"; answers: (by, outcome), or (by, outcome, mends)."""
    journal = Journal(home)
    journal.append("begins", agent="a, b", agents=["a", "b"], limits={}, baseline=1)
    for call, (by, outcome, *mends) in enumerate(answers, 1):
        reason = "429" if outcome == "service" else ""
        event = dict(call=call, by=by, outcome=outcome, reason=reason, mends=(mends or [None])[0])
        journal.append("answer", **event)
    return journal


@pytest.mark.parametrize(
    "answers, turn",
    [
        ([], "a"),
        ([("a", "idea")], "b"),
        ([("b", "idea")], "a"),
        ([("a", "idea"), ("b", "nothing")], "a"),
        ([("a", "idea"), ("b", "idea"), ("a", "idea", 1)], "a"),  # a repair is no turn
        ([("a", "idea"), *[("b", "idea")] * 5], "a"),  # a was away, and makes up for nothing ...
        ([("a", "idea"), *[("b", "idea")] * 5, ("a", "idea")], "b"),
    ],
)
def test_the_one_whose_last_turn_is_longest_ago_is_next(tmp_path, answers, turn):
    both = [Author("a"), Author("b")]
    journal = answers_in_journal(tmp_path, *answers)
    assert whose_turn(both, journal).name == turn
    both[0].dropped_out = "it fails"
    assert whose_turn(both, journal).name == "b"
    both[1].wait = both[1].find_wait(journal) or "a wait"
    assert whose_turn(both, journal) is None


def test_failures_are_counted_for_each(tmp_path):
    answers = [("a", "nothing"), ("b", "idea")] * 9 + [("a", "crash")]
    journal, both = answers_in_journal(tmp_path, *answers), [Author("a"), Author("b")]
    assert [len(each.list_failures(journal)) for each in both] == [10, 0]
    assert "10 answers in a row could not be tried (the last: crash" in both[0].reason_to_drop_out(
        journal, ""
    )
    assert not both[1].reason_to_drop_out(journal, "")
    both[1].errors = 10
    assert "(the last: OSError)" in both[1].reason_to_drop_out(journal, "OSError")
    (tmp_path / "other").mkdir()
    journal = answers_in_journal(tmp_path / "other", ("a", "idea"), ("a", "service"), ("b", "idea"))
    assert both[0].find_wait(journal).reason == "429" and not both[1].find_wait(journal)


def test_the_same_agent_twice_is_refused(tmp_path):
    with pytest.raises(Refused, match='--agent "tuner" is given twice: name another'):
        open_authors(["tuner", "tuner"], tmp_path)


# --------------------------------------------------------------------------------------------------
# Whole nights


def two_scripts(folder, *turns, last="pass"):
    """Two agents that do the same: [commands, what to share]."""
    commands = []
    for name in ("one", "other"):
        (folder / name).mkdir()
        commands.append(script(folder / name, *turns, last=last)[0])
    return commands, [folder / name / "state" for name in ("one", "other")]


def turns_of(home):
    """Who was asked, in order, repairs left out."""
    answers = Journal(home).list_answers()
    return [event["by"] for event in answers if event["mends"] is None]


def check_credit(home):
    """Each experiment is of the agent that gave its commit's first form."""
    events = Journal(home).last_night()
    by = {event["call"]: event["by"] for event in events if event["kind"] == "answer"}
    for event in events:
        if event["kind"] == "done" and "n" in event:
            assert open_session().experiment(event["n"]).by == by[event["call"]]
        if event["kind"] == "answer" and event["mends"]:
            assert by[event["mends"]] == event["by"]


def check_turns_of_each_part(home, folder):
    """A night that is killed after any line of its journal goes on with the one who was next."""
    folder.mkdir()
    journal, part = Journal(home), Journal(folder)
    lines = journal.path.read_text(encoding="utf-8").splitlines(keepends=True)
    authors = [Author(name) for name in journal.last_night()[0]["agents"]]
    turns = turns_of(home)
    for count in range(1, len(lines)):
        part.path.write_text("".join(lines[:count]), encoding="utf-8")
        if len(had := turns_of(folder)) < len(turns):
            assert whose_turn(authors, part).name == turns[len(had)]


ANY = "open('train.py', 'w').write(f'QUALITY = {1 + random.random()}')"
NEW = f"import random, time; random.seed(time.time_ns()); {ANY}"
SLIP = NEW.replace("}')", "}\\nBROKEN = 1\\n')")


def test_two_agents_and_the_tuner_take_turns(place, tmp_path):  # noqa: F811
    """A repair goes back to the agent whose idea it was, and each has a folder of its own."""
    where = f"open({str(tmp_path)!r} + '/folders', 'a').write(os.getcwd() + '\\n'); "
    commands, share = two_scripts(tmp_path, where + SLIP, where + NEW, last=where + NEW)
    agents = [*commands, "tuner"]
    options = {"share": [*share, tmp_path]}
    run_night(open_session(), agents, Limits(experiments=6), **options)
    (begin,) = [each for each in Journal(place).read_events() if each["kind"] == "begins"]
    assert begin["agents"] == agents and begin["agent"] == ", ".join(sorted(agents))
    turns = turns_of(place)
    assert turns == (agents * len(turns))[: len(turns)] and len(turns) >= 6
    repairs = [event for event in Journal(place).list_answers() if event["mends"]]
    assert {each["by"] for each in repairs} == {*commands}
    assert problems() == []
    check_credit(place)
    check_turns_of_each_part(place, tmp_path / "part")
    folders = (tmp_path / "folders").read_text(encoding="utf-8").split()
    assert len({*folders}) == 2
    text = summarize_night(open_session())
    assert "of the whole night: ideas with a verdict" in text
    (closing,) = [e for e in open_session().experiments() if e.role == "closing"] or [None]
    assert not closing or closing.by == begin["agent"]
    used = used_by(Journal(place), open_session().experiments(), 0.0)
    runs_of_night = [run for e in open_session().experiments()[1:] for run in e.runs]
    spent = sum(sum(run["seconds"].values()) for run in runs_of_night)
    assert used.device_seconds == pytest.approx(spent)


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_turns_and_credit_are_right_after_any_kill(place, tmp_path, runs, stop):  # noqa: F811
    """The agents are named in another order when the night goes on."""
    commands, share = two_scripts(tmp_path, last=NEW)
    runs.stop_at = len(runs.jobs) + stop
    night = lambda names: run_night(open_session(), names, Limits(experiments=4), share)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        night(commands)
    night(commands[::-1])
    kinds = [event["kind"] for event in Journal(place).read_events()]
    assert [k for k in kinds if k in ("begins", "resumes", "ends")] == ["begins", "resumes", "ends"]
    turns = turns_of(place)
    assert turns == (commands * len(turns))[: len(turns)]
    check_credit(place)
    assert problems() == [] and len(Journal(place).list_verdicts()) == 4


def test_one_that_fails_drops_out_and_the_others_go_on(place, tmp_path, monkeypatch):  # noqa: F811
    """Said plainly: while it happens, in the status and in the morning."""
    monkeypatch.setattr("ratchet.night.team.authors.MOST_FAILURES", 3)
    (tmp_path / "fails").mkdir()
    fails, fails_state = script(tmp_path / "fails", "pass", last="raise SystemExit('a slip')")
    works, state = script(tmp_path, last=NEW)
    told = []
    session, share = open_session(tell=told.append), [state.parent, fails_state.parent]
    why = run_night(session, [fails, works], Limits(experiments=5), share)
    assert why == "the limit of 5 experiments is reached"
    turns = turns_of(place)
    assert turns.count(fails) == 3 and turns[:5] == ([fails, works] * 3)[:5]
    assert [line for line in told if "drops out: 3 answers in a row" in line]
    assert [line for line in told if re.match(r'  call 1 of ".*" gave no idea', line)]
    assert re.search(r'last failure was call \d+ of ".*", crash', summarize_night(open_session()))
    assert "dropped out: 3 answers in a row" in summarize_night(open_session())
    assert "3 answers" in night_status(place)[f"end of {fails}"]
    assert last_exit_code(place) == 3
    assert {e.by for e in open_session().experiments() if e.role == "try"} == {works}


def test_one_whose_service_is_down_waits_and_the_others_go_on(place, tmp_path, monkeypatch):  # noqa: F811
    commands, share = two_scripts(tmp_path, last=NEW)
    ask = Agent.ask

    def limited(self, prompt, champion, idea=""):
        answer, before = ask(self, prompt, champion, idea), Journal(place).list_answers(commands[0])
        if str(tmp_path / "one") in " ".join(self.argv) and len(before) == 1:
            return Answer("service", "429: too many requests", resume_at=time.time() + 3600)
        return answer

    monkeypatch.setattr("ratchet.night.agent.Agent.ask", limited)
    told = []
    why = run_night(open_session(tell=told.append), commands, Limits(experiments=5), share)
    assert why == "the limit of 5 experiments is reached"
    outcomes = [event["outcome"] for event in Journal(place).list_answers(commands[0])]
    assert outcomes == ["idea", "service"]
    turns = turns_of(place)
    assert turns[:4] == commands * 2 and {*turns[4:]} == {commands[1]}
    assert any("waits, the others go on" in line for line in told)
    assert not Journal(place).list_drops()


def test_limits_are_of_all_agents_together(place, tmp_path):  # noqa: F811
    commands, share = two_scripts(tmp_path, last=NEW)
    why = run_night(open_session(), commands, Limits(calls=3), share)
    assert why == "the limit of 3 agent calls is reached" and turns_of(place) == [
        *commands,
        commands[0],
    ]


def test_agents_take_turns_while_two_devices_work(place, tmp_path, halves):  # noqa: F811
    slot = open_executor(devices=halves).slots()[0]
    verbs.calibrate(open_session(arena="tiny", slot=slot), 5)
    commands, share = two_scripts(tmp_path, last=NEW)
    run_night(open_session(slot=slot), commands, Limits(experiments=6), share)
    turns = turns_of(place)
    assert turns == (commands * len(turns))[: len(turns)]
    check_credit(place)
    assert problems() == [] and len(Journal(place).list_verdicts()) == 6
