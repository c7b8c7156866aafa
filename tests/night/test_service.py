"""What a night does when its agent fails: waits, says why, stops, pauses; whom it notifies of that."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, open_session
from test_experiments import problems, repository, runs  # noqa: F401
from test_night import PROGRAM, place, script, tried  # noqa: F401
from typer.testing import CliRunner

from ratchet import __main__
from ratchet.arena.files import Refused, sha256, work_folder
from ratchet.experiments.running import only_command
from ratchet.experiments.verdicts import DEFAULT, STRICT
from ratchet.night import notify, service
from ratchet.night.agent import Answer
from ratchet.night.digest import MOST_TOKENS
from ratchet.night.driver import MOST_RETURNS, Night, run_night
from ratchet.night.journal import Journal
from ratchet.night.notify import Notifier
from ratchet.night.proposals import ProposalQueue
from ratchet.night.status import Limits, night_status
from ratchet.night.summary import summarize_night
from ratchet.night.team.authors import Author
from ratchet.referee import sandbox, supervisor

LIMITED = "You've hit your limit"


class StandIn:
    """An agent that gives these answers in turn, then lasts until it is cut short."""

    digest_tokens = MOST_TOKENS

    def __init__(self, *answers):
        self.answers, self.prompts, self.asked_at = [*answers], [], []
        self.is_asked, self.cut_short = threading.Event(), threading.Event()

    def prepare_folder(self, champion, edit=None):
        pass

    def ask(self, prompt, champion, *_):
        self.prompts.append(prompt)
        self.asked_at.append(time.time())
        if self.answers:
            answer = self.answers.pop(0)
            return answer() if callable(answer) else answer
        self.is_asked.set()
        self.cut_short.wait(60)
        raise supervisor.Cancelled

    def save_call(self, folder):
        pass

    def cancel(self):
        self.cut_short.set()

    def clean_up(self):
        pass

    def describe_view(self):
        return []

    def tell_once(self, sentences):
        pass


def idea(quality):
    return Answer("idea", text=f"QUALITY = {quality}\n".encode(), idea=f"quality {quality}")


NEW, TOO_LONG = "the flux has come loose", "prompt is too long"


def failed(reason=LIMITED, seconds=None):
    """A failure of service that is said to pass in so many seconds."""
    return Answer("service", reason, resume_at=seconds and time.time() + seconds)


def make_night(agent, session=None, **limits):
    options = {name: limits.pop(name) for name in ("until", "notify", "profile") if name in limits}
    authors = [Author("stand-in", agent)]
    return Night([session or open_session()], authors, Limits(**limits), **options)


def events(kind, home):
    return [event for event in Journal(home).last_night() if event["kind"] == kind]


# --------------------------------------------------------------------------------------------------
# When it is asked again


def answers(*outcomes, time="2026-01-31T00:00:00Z", **more):
    return [
        {"outcome": outcome, "reason": "429", "call": call, "time": time, "resume_at": None} | more
        for call, outcome in enumerate(outcomes, 1)
    ]


BEGIN = 1769817600.0  # of the time above


@pytest.mark.parametrize(
    "failures, minutes", [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30), (2000, 30)]
)
def test_waits_double_up_to_half_an_hour(failures, minutes):
    given = answers("idea", *["service"] * failures)
    wait = service.find_wait(given)
    assert wait == (BEGIN + 60 * minutes, "429", failures + 1, failures)
    assert service.find_wait([*given, *answers("nothing")]) is None
    assert service.find_wait([*given, *answers("nothing", "service")]).until == BEGIN + 60


def test_a_time_that_is_told_is_waited_for():
    later = BEGIN + 5 * 3600
    assert service.find_wait(answers("service", resume_at=later)).until == later
    assert service.find_wait(answers("service", "service", resume_at=later)).until == later
    soon = answers("service", "service", resume_at=BEGIN + 1)  # it was told so before
    assert service.find_wait(soon).until == BEGIN + 120
    assert service.find_wait(answers("service", resume_at=BEGIN - 1)).until == BEGIN + 60


def test_an_agent_is_asked_again_after_six_hours_whatever_it_told():
    for calls in (["service"], ["service"] * 2, ["idea", "service", "service"]):
        given = answers(*calls, resume_at=BEGIN + 7 * 86400)
        assert service.find_wait(given).until == BEGIN + 6 * 3600


@pytest.mark.parametrize(
    "given, is_stopped",
    [
        (answers("crash", "crash"), True),
        (answers("nothing", "nothing"), True),
        (answers("crash", "nothing"), False),
        (answers("crash"), False),
        (answers("crash", "crash", "crash"), False),
        (answers("idea", "crash"), False),
        (answers("repeat", "repeat"), False),
        (answers("service", "service"), False),
        (answers("service", "service", reason="Not logged in · Please run /login"), True),
        (answers("service", "service", reason="401 invalid x-api-key"), True),
        (answers("service", "service", reason="Rate limit reached for this API key"), False),
    ],
)
def test_two_first_calls_that_fail_alike_are_enough(given, is_stopped):
    assert bool(service.reason_to_stop(given)) == is_stopped


def test_what_differs_from_call_to_call_makes_no_difference():
    first, second = answers("crash", "crash")
    first |= {"reason": "no model (request req_1a2b, 12:03:04)"}
    second |= {"reason": "no model (request req_77f0, 12:03:09)"}
    assert "no model" in service.reason_to_stop([first, second])
    first, second = answers("nothing", "nothing")
    first |= {"reason": 'it left train.py as it was (may it edit?): "I can\'t write files."'}
    second |= {"reason": 'it left train.py as it was (may it edit?): "Permission was denied."'}
    assert "Permission was denied" in service.reason_to_stop([first, second])


def test_a_missing_login_is_asked_for_again_at_once():
    assert service.find_wait(answers("service", reason="Not logged in")) is None
    assert service.find_wait(answers("idea", "service", reason="OAuth token expired: /login"))


# --------------------------------------------------------------------------------------------------
# A night that waits


@pytest.mark.parametrize(
    "reason, name",
    [
        ("Not logged in · Please run /login", "login"),
        ("OAuth token expired", "login"),
        ("Rate limit reached for this API key", "service"),
        ("529 Overloaded", "service"),
    ],
)
def test_a_missing_login_is_called_by_its_name(reason, name):
    (answer,) = answers("service", reason=reason)
    assert service.name_outcome(answer) == name
    assert service.describe_failure(answer) == f'{name}: "{reason}"'
    wait = service.Wait(time.time() + 60, reason, 1, 1)
    assert service.describe_wait(wait).startswith(f"waiting for the agent's {name} until")
    assert service.name_outcome(answer | {"outcome": "crash"}) == "crash"


def test_a_night_waits_for_its_agents_service(place, monkeypatch):  # noqa: F811
    """Its failures are in no prompt, count as no call, and are told with the time."""
    monkeypatch.setattr(service, "FIRST_SECONDS", 1)
    monkeypatch.setattr("ratchet.night.driver.POLL_SECONDS", 0.05)
    told, sent = [], []
    agent = StandIn(*[failed()] * 2, lambda: failed(seconds=0.5), idea(0.9), idea(0.8))
    night = make_night(
        agent,
        open_session(tell=told.append),
        calls=2,
        notify=lambda *words, **values: sent.append(words),
    )
    assert night.run() == "the limit of 2 agent calls is reached" and night.exit_code == 0
    assert len(agent.prompts) == 5 and not any("could not be tried" in p for p in agent.prompts)
    assert [event["call"] for event in events("waits", place)] == [1, 2, 3]
    for event, asked in zip(events("waits", place), agent.asked_at[1:]):
        assert event["reason"] == LIMITED and asked >= event["until"]
    assert [event for event, *_ in sent] == ["waits"] and LIMITED in sent[0][1]
    assert any("call 1 of the agent gave no idea, service" in text for text in told)
    assert any("waiting for the agent's service until" in text for text in told)
    text = summarize_night(open_session())
    assert "It waited for the agent's service for" in text and "3 times" in text
    assert "last failure was call 3, service" in text
    assert "Cost: 2 calls of the agent, 3 more without service" in text
    assert night_status(place)["calls"] == 2
    assert night_status(place)["last failure"].endswith(f'service: "{LIMITED}"')
    (end,) = events("ends", place)
    assert end["waited"] > 0 and end["code"] == 0 and problems() == []


def test_what_worked_and_fails_in_unknown_words_is_waited_for(place, monkeypatch):  # noqa: F811
    """It may pass, whatever it is. What no wait can change counts as a bad answer."""
    monkeypatch.setattr(service, "FIRST_SECONDS", 1)
    crashes = [Answer("crash", f"it failed (exit code 1): {words}") for words in (NEW, TOO_LONG)]
    agent = StandIn(idea(0.9), *crashes, idea(0.8))
    assert "2 experiments is reached" in make_night(agent, experiments=2).run()
    outcomes = [event["outcome"] for event in events("answer", place)]
    assert outcomes == ["idea", "service", "crash", "idea"]
    assert [event["call"] for event in events("waits", place)] == [2]
    assert NEW not in agent.prompts[3] and TOO_LONG in agent.prompts[3]


def test_what_is_to_be_repaired_waits_too(place, monkeypatch):  # noqa: F811
    """A repair that fails for want of service is asked for again; the slip isn't tried as it is."""
    monkeypatch.setattr(service, "FIRST_SECONDS", 1)
    broken = Answer("idea", text=b"QUALITY = 0.9\nBROKEN = 1\n", idea="a slip")
    agent = StandIn(broken, failed(), idea(0.9))
    assert "1 experiment is reached" in make_night(agent, experiments=1).run()
    first, failure, repair = events("answer", place)
    assert (failure["mends"], repair["mends"], repair["repairs"]) == (None, first["call"], 1)
    assert "does not get to its first training step" in agent.prompts[2]
    assert [e.verdict for e in tried()] == ["out"]


def test_a_wait_outlives_the_night_that_began_it(place):  # noqa: F811
    """Whoever resumes it does not ask before, and status says until when."""
    agent = StandIn(failed(seconds=3600))
    journal = Journal(place)
    journal.append("begins", agent="stand-in", limits={}, baseline=1)
    author = Author("stand-in", agent)
    ProposalQueue(open_session(), [author], lambda broken: True).ask_agent(author, None)
    with only_command(place, is_night=True):
        assert night_status(place)["waits"].endswith(f'60 min: "{LIMITED}"')
    resumed = make_night(other := StandIn(idea(0.9)))
    threading.Timer(1, (place / "runs/.stop").touch).start()
    assert resumed.run() == "you stopped it" and not other.prompts
    assert [event["call"] for event in events("waits", place)] == [1]
    assert "waits" not in night_status(place)


def test_a_service_that_comes_back_after_the_nights_end_ends_it(place):  # noqa: F811
    agent = StandIn(idea(0.9), failed(seconds=7200))
    night = make_night(agent, hours=1)
    why = night.run()
    assert f'service fails ("{LIMITED}")' in why and why.endswith("after the night's end")
    assert night.exit_code == 3 and [e.verdict for e in tried()] == ["out"]
    assert not events("waits", place) and LIMITED in summarize_night(open_session())


def test_while_it_waits_the_best_of_what_is_out_runs_again(place, monkeypatch):  # noqa: F811
    monkeypatch.setattr("ratchet.night.driver.POLL_SECONDS", 0.05)

    def stops(text):
        if tried() and len(tried()[0].runs) > 2:
            (place / "runs/.stop").touch()

    night = make_night(StandIn(idea(0.9), failed(seconds=3600)), open_session(tell=stops))
    assert night.run() == "you stopped it" and night.exit_code == 0
    assert len(tried()[0].runs) > 2 and problems() == [] and night.idle < 10


def test_no_idea_that_is_out_runs_again_for_ever(place, monkeypatch):  # noqa: F811
    monkeypatch.setattr("ratchet.night.driver.POLL_SECONDS", 0.05)
    monkeypatch.setattr("ratchet.night.driver.Night.measure_bar", lambda *_: False)
    told = []

    def stops(text):
        told.append(text)
        if text.startswith("resting"):
            (place / "runs/.stop").touch()

    make_night(StandIn(idea(0.9), failed(seconds=3600)), open_session(tell=stops)).run()
    assert sum(text.endswith("has another run") for text in told) == MOST_RETURNS


def test_whatever_fails_the_journal_is_consistent(place, monkeypatch):  # noqa: F811
    """Random failures, kills between any two steps: calls have their numbers, and no call comes
    before a wait is over.
    """
    clock, session = [BEGIN], open_session()
    stamp = lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock[0]))  # noqa: E731
    monkeypatch.setattr("ratchet.night.journal.utc_now", stamp)
    real = time.time
    for seed in range(6):
        Journal(place).append("begins", agent="stand-in", limits={}, baseline=1)
        monkeypatch.setattr("ratchet.night.service.time.time", lambda: clock[0])
        asked, author = play_failures(random.Random(seed), clock, session)
        monkeypatch.setattr("ratchet.night.service.time.time", real)
        given, waits = events("answer", place), events("waits", place)
        assert [event["call"] for event in given] == [*range(1, len(asked) + 1)]
        calls = [event["call"] for event in waits]
        assert calls == sorted({*calls}) and len(calls) > 3
        for event in waits:
            assert given[event["call"] - 1]["outcome"] == "service"
            assert all(moment >= event["until"] for moment in asked[event["call"] :])
        assert all(event["outcome"] != "service" for event in author.list_failures(Journal(place)))


def play_failures(chance, clock, session):
    """([when each call was made], the author) of a night that is often killed and resumed."""
    asked = []

    def answer():
        asked.append(clock[0])
        kind = chance.choice(["service", "service", "service", "nothing", "crash"])
        resume_at = chance.choice([None, clock[0] + chance.uniform(-100, 9000)])
        return Answer(kind, f"reason {chance.random()}", resume_at=resume_at)

    queue = None
    for _ in range(40):
        clock[0] += chance.choice([0, 5, 70, 700, 5000])
        if not queue or chance.random() < 0.3:  # it was killed; the same command goes on
            night = make_night(StandIn(*[answer] * 99), session)
            night.seconds_before, night.started = 0.0, time.monotonic()
            queue = night.queue
            (author,) = queue.authors.values()
        queue.look_for_wait(author)
        if author.is_available:
            queue.ask_agent(author, None)
    return asked, author


def test_while_it_waits_a_champion_whose_level_is_vague_runs(place, monkeypatch):  # noqa: F811
    monkeypatch.setattr("ratchet.night.driver.POLL_SECONDS", 0.05)

    def looks(text):
        if tried() and tried()[0].closes:
            night.profile = DEFAULT._replace(most_variance=0.1)
            if [run["phase"] for run in tried()[0].runs].count("bar") > 1:
                (place / "runs/.stop").touch()

    night = make_night(StandIn(idea(0.9), failed(seconds=3600)), open_session(tell=looks))
    assert night.run() == "you stopped it"
    (e,) = tried()
    assert e.verdict == "out" and problems() == [] and e.runs[-1]["phase"] == "bar"


# --------------------------------------------------------------------------------------------------
# Why it fails, and the exit code


def test_an_agent_that_never_works_is_quoted_and_stops_the_night(place, tmp_path):  # noqa: F811
    command, state = script(tmp_path, last="raise SystemExit('*no* credit left')")
    words = ["night", "--agent", command, "--share", str(state.parent)]
    said = CliRunner().invoke(__main__.app, words)
    assert isinstance(said.exception, Refused) and "no call of the agent ever" in str(
        said.exception
    )
    assert len(json.loads(state.read_bytes())) == 2
    assert 'failed alike, crash: "' in said.output and "*no* credit left" in said.output
    text = (place / "runs/morning.md").read_text(encoding="utf-8")
    assert "It ended because the first two calls failed alike" in text
    assert "\\*no\\* credit left" in text and "*no* credit" not in text
    assert events("ends", place)[0]["code"] == 2


REFUSED = """\
print(json.dumps({{"type": "result", "is_error": True, "result": {words!r}}}))
raise SystemExit(1)
"""


def test_a_missing_login_stops_a_night_at_its_second_call(place, tmp_path):  # noqa: F811
    words = "Not logged in · Please run /login"
    command, state = script(tmp_path, last=REFUSED.format(words=words))
    why = run_night(open_session(), command, Limits(), share=[state.parent])
    assert why.startswith("the first two calls failed alike, login: ") and "/login" in why
    assert len(json.loads(state.read_bytes())) == 2 and not events("waits", place)


def test_a_limit_that_ends_after_the_night_is_known_by_the_programs_words(place, tmp_path):  # noqa: F811
    words = "You've hit your limit · resets in 5 hours"
    command, state = script(tmp_path, last=REFUSED.format(words=words))
    why = run_night(open_session(), command, Limits(hours=2), share=[state.parent])
    assert words in why and "after the night's end" in why
    assert len(json.loads(state.read_bytes())) == 1 and events("ends", place)[0]["code"] == 2


def test_ten_bad_answers_after_an_idea_are_quoted(place):  # noqa: F811
    agent = StandIn(idea(0.9), *[Answer("files", f"it changed {n}") for n in "abcdefghij"])
    night = make_night(agent)
    assert '10 answers in a row could not be tried (the last: files: "it changed j")' in night.run()
    assert night.exit_code == 3 and len(agent.prompts) == 11


def test_a_first_call_that_a_limit_cuts_short_is_no_fault_of_the_agent(place):  # noqa: F811
    night = make_night(agent := StandIn())

    def use_up():
        agent.is_asked.wait(30)
        night.limits = Limits(hours=0)

    threading.Thread(target=use_up).start()
    assert night.run() == "the limit of 0 hours is reached" and night.exit_code == 0


def test_an_agent_that_can_never_be_asked_has_never_worked(place, monkeypatch):  # noqa: F811
    def fails(*_):
        raise OSError("no such folder")

    monkeypatch.setattr(StandIn, "prepare_folder", fails)
    night = make_night(StandIn())
    assert "10 answers in a row could not be tried (the last: OSError" in night.run()
    assert night.exit_code == 2


@pytest.mark.parametrize(
    "limits", [{"experiments": 1}, {"calls": 1}, {"experiments": 1, "calls": 9}]
)
def test_no_more_ideas_are_paid_for_than_can_be_tried(place, limits):  # noqa: F811
    agent = StandIn(*[idea(0.9 - n / 100) for n in range(5)])
    night = make_night(agent, **limits)
    assert "is reached" in night.run() and len(agent.prompts) == 1 == len(tried())


def test_no_idea_is_paid_for_when_no_run_can_end_in_time(place):  # noqa: F811
    """A run takes a second here."""
    night = make_night(agent := StandIn(*[idea(0.9)] * 5), hours=0.9 / 3600)
    assert "hours is reached" in night.run() and not agent.prompts and night.exit_code == 0
    night = make_night(agent, device_seconds=1.9)
    assert "1.9 device seconds is reached" in night.run() and len(agent.prompts) == 1 == len(
        tried()
    )


# --------------------------------------------------------------------------------------------------
# A goal


def test_a_night_ends_when_the_champion_is_as_good_as_was_asked(place):  # noqa: F811
    told = []
    agent = StandIn(*[idea(1.2 + n / 10) for n in range(5)])
    night = make_night(agent, open_session(tell=told.append), until=0.85, profile=STRICT)
    assert "bpb, 0.85 was the goal" in night.run() and night.exit_code == 0
    campaign = open_session().read_campaign()
    assert campaign.search.bars[campaign.champion["source"]].level <= 0.86
    assert [e.role for e in campaign.since][-1] == "closing"
    assert any("bpb, goal 0.85" in text for text in told)
    assert night_status(place)["used"].endswith("bpb, goal 0.85")


@pytest.mark.parametrize("goal", [0.0, -1.0, float("nan"), float("inf"), 95.0])
def test_a_goal_that_makes_no_sense_is_refused(place, goal):  # noqa: F811
    with pytest.raises(Refused, match="is no goal: the baseline is at"):
        run_night(open_session(), "tuner", Limits(), until=goal)


# --------------------------------------------------------------------------------------------------
# Notifications


def noting(path):
    return f"sh -c 'env | grep ^RATCHET_ > {path}; cat >> {path}'"


def test_a_command_of_yours_is_told_what_happens(tmp_path):
    tell = Notifier(noting(tmp_path / "said"), tmp_path, print)
    tell("keep", 'kept: "$(touch x) \x1b[31m; `rm`"\nlater', experiment=3, bpb=0.9712, gain="+0.01")
    tell.wait()
    said = (tmp_path / "said").read_text(encoding="utf-8").splitlines()
    text = 'kept: "$(touch x) ; `rm`" later'
    wanted = {f"RATCHET_TEXT={text}", text, "RATCHET_EXPERIMENT=3", "RATCHET_GAIN=+0.01"}
    assert wanted | {"RATCHET_EVENT=keep", "RATCHET_BPB=0.9712", "RATCHET_UNTIL="} <= {*said}
    assert [*tmp_path.iterdir()] == [tmp_path / "said"]


@pytest.mark.parametrize(
    "command, words", [("sleep 60", "within"), ("sh -c 'echo no >&2; exit 7'", '7, "no"')]
)
def test_a_command_that_fails_is_told_once_and_breaks_nothing(
    tmp_path, monkeypatch, command, words
):
    monkeypatch.setattr(notify, "MOST_SECONDS", 0.2)
    told = []
    tell = Notifier(command, tmp_path, told.append)
    for _ in range(2):
        tell("ends", "the night ended")
        tell.wait()
    assert len(told) == 1 and words in told[0]


@pytest.mark.parametrize("command", ["no-such-program --x", "sh 'open"])
def test_a_command_that_is_none_is_refused_at_the_start(place, command):  # noqa: F811
    with pytest.raises(Refused, match="--notify"):
        run_night(open_session(), "tuner", Limits(), notify=command)
    assert not Journal(place).read_events()


def test_keeps_and_the_end_are_notified(place, tmp_path, monkeypatch):  # noqa: F811
    agent = StandIn(idea(1.2))
    monkeypatch.setattr("ratchet.night.team.authors.Agent", lambda *words, **more: agent)
    command = f"sh -c 'echo $RATCHET_EVENT $RATCHET_EXPERIMENT $RATCHET_GAIN >> {tmp_path}/said'"
    run_night(open_session(), "stand-in", Limits(experiments=1), notify=command)
    keep, end = sorted((tmp_path / "said").read_text(encoding="utf-8").splitlines(), reverse=True)
    event, number, gain = keep.split()
    assert (event, number) == ("keep", "3") and 0.15 < float(gain) < 0.25 and end == "ends"


# --------------------------------------------------------------------------------------------------
# Ctrl-C


def press_ctrl_c(agent):
    agent.is_asked.wait(30)
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_pauses_while_the_agent_is_asked_and_the_same_command_goes_on(place):  # noqa: F811
    agent = StandIn()
    threading.Thread(target=press_ctrl_c, args=(agent,)).start()
    with pytest.raises(KeyboardInterrupt):
        make_night(agent).run()
    assert [event["kind"] for event in Journal(place).read_events()] == ["begins", "pauses"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    make_night(StandIn(idea(0.9)), experiments=1).run()
    assert [event["kind"] for event in Journal(place).read_events()][2] == "resumes"
    assert [event["call"] for event in events("answer", place)] == [1] and len(tried()) == 1


def test_an_answer_that_is_complete_is_not_lost_by_ctrl_c(place, monkeypatch):  # noqa: F811
    """The agent has ended by itself just before; a git of ours may be hit by Ctrl-C, too."""
    agent, take, failures = StandIn(), ProposalQueue.take_answer, [OSError("git was killed")]

    def ends_by_itself():
        agent.is_asked.set()
        agent.cut_short.wait(30)
        return idea(0.9)

    def fails_once(*words):
        if failures:
            raise failures.pop()
        return take(*words)

    monkeypatch.setattr(ProposalQueue, "take_answer", fails_once)
    agent.answers = [ends_by_itself]
    threading.Thread(target=press_ctrl_c, args=(agent,)).start()
    with pytest.raises(KeyboardInterrupt):
        make_night(agent).run()
    kinds = [event["kind"] for event in Journal(place).read_events()]
    assert kinds == ["begins", "answer", "pauses"]
    make_night(late := StandIn(), experiments=1).run()
    assert not late.prompts and [e.verdict for e in tried()] == ["out"]


def test_a_second_ctrl_c_tears_nothing(place, monkeypatch):  # noqa: F811
    agent, close = StandIn(), ProposalQueue.close

    def closes(queue, deadline):
        os.kill(os.getpid(), signal.SIGINT)
        close(queue, deadline)

    monkeypatch.setattr(ProposalQueue, "close", closes)
    threading.Thread(target=press_ctrl_c, args=(agent,)).start()
    with pytest.raises(KeyboardInterrupt):
        make_night(agent).run()
    assert [event["kind"] for event in Journal(place).read_events()] == ["begins", "pauses"]


def test_ctrl_c_pauses_while_a_service_is_waited_for_or_a_device_is_stuck(place, monkeypatch):  # noqa: F811
    """A run that doesn't end when it is cancelled is left behind."""
    monkeypatch.setattr("ratchet.night.driver.PAUSE_SECONDS", 0.1)
    stuck = threading.Event()
    agent = StandIn(idea(0.9), failed(seconds=3600))
    rest, first = ProposalQueue.look_for_wait, []

    def look(queue, author):
        rest(queue, author)
        if author.wait and begun.is_set() and not first:
            first.append(os.kill(os.getpid(), signal.SIGINT))

    begun = threading.Event()
    monkeypatch.setattr(ProposalQueue, "look_for_wait", look)
    monkeypatch.setattr(
        "ratchet.referee.trial.preflight", lambda job: begun.set() or stuck.wait(30) and None
    )
    night = make_night(agent)
    try:
        with pytest.raises(KeyboardInterrupt):
            night.run()
        assert supervisor.cancelled.is_set()  # so that the program ends at once
        with pytest.raises(Refused, match="left a run behind"):
            make_night(agent).run()
        assert Journal(place).read_events()[-1]["kind"] == "pauses"
    finally:
        stuck.set()
        while any(thread.name.endswith("(work_on)") for thread in threading.enumerate()):
            time.sleep(0.05)
        supervisor.cancelled.clear()


SLEEPS = """\
import pathlib, signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
code = "import time; time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
pathlib.Path(__file__).with_name("begun").touch()
time.sleep(600)
"""


@pytest.fixture(params=["none", "landlock", "bubblewrap"])
def level(request, monkeypatch):
    monkeypatch.setenv("RATCHET_ISOLATION", request.param)
    if sandbox.best_level() != request.param:
        pytest.skip(f"this machine has no {request.param}")


@pytest.mark.slow
def test_ctrl_c_ends_a_sleeping_agent_with_all_its_children(level, place, tmp_path):  # noqa: F811
    """A real night, twice; its agent ignores signals and has a child in a session of its own."""
    (tmp_path / "agent").mkdir()
    agent = tmp_path / "agent/agent.py"
    agent.write_text(SLEEPS, encoding="utf-8")
    command = ["night", "--agent", f"{sys.executable} {agent}", "--share", str(agent.parent)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    mark = str(work_folder() / ".agents" / sha256(str(place).encode())[:12])
    begun = agent.with_name("begun")
    for _ in range(2):
        begun.unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, "-m", "ratchet", *command], env=environment, stderr=subprocess.PIPE
        ) as process:
            while not begun.exists() and process.poll() is None:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1].decode()
        assert process.returncode == 130 and "the same command goes on" in said, said
        assert not supervisor.find_marked(mark)
    kinds = [event["kind"] for event in Journal(place).read_events()]
    assert kinds == ["begins", "pauses", "resumes", "pauses"]
