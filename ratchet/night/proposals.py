"""The queue of proposals: ideas that are commits and wait for their verdict.

The queue asks the agent or the tuner, compares the answer with what was tried, commits it, carries
it over to a new champion. Whether a proposal is tried, repaired or given up, the driver decides.
"""

import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from ratchet import commits
from ratchet.arena.files import Refused, is_full, work_folder
from ratchet.experiments.campaign import Campaign, tried_ideas
from ratchet.experiments.ledger import CANDIDATE, CHAMPION
from ratchet.experiments.session import Session
from ratchet.experiments.sources import read_source
from ratchet.experiments.trials import merge_edit
from ratchet.night import service, tuner
from ratchet.night.agent import Agent, Answer
from ratchet.night.journal import Journal
from ratchet.night.prompt import write_prompt
from ratchet.night.service import SERVICE, Wait
from ratchet.referee import supervisor
from ratchet.referee.source import fingerprint
from ratchet.untrusted_text import quote_text

AHEAD = 1  # proposals that wait while the devices are busy, beside one for each
MOST_REPAIRS = 2  # times that an edit goes back to the agent
MOST_FAILURES = 10  # answers in a row that can't be tried, until the agent is asked no more
ALIKE = 0.7  # share of changed lines that two edits have in common, from which on one is flagged
NOTE_SECONDS = 10  # that a pause waits for a whole answer to be noted, as it was paid for
TELL_SECONDS = 600  # between two lines that say that the agent's service is still away
IDLE_SECONDS = 0.2  # until the agent's thread looks again whether another proposal is wanted


class Proposal(NamedTuple):
    """An idea that is a commit and waits for its verdict."""

    call: int  # of the agent: its number in this night
    commit: str
    parent: str  # the champion that it was made from
    idea: str
    gain: float | None  # in bpb, as the agent expects it
    near: int | None  # number of an experiment that it is like
    repairs: int  # how often it went back to the agent
    failure: tuple = ()  # (status, reason, last lines) of its preflight


class CannotRebase(Exception):
    """An edit that can't be made on the champion of now. is_repairable: another edit might do."""

    def __init__(self, reason: str, is_repairable: bool):
        super().__init__(reason)
        self.is_repairable = is_repairable


class ProposalQueue:
    """Filled by an agent, in a thread of its own, or by the tuner when it is empty.

    open() begins with what the journal says is waiting, close() ends the agent's thread.

    may_ask(broken): whether the agent may be asked once more, for a repair of that proposal if it
    isn't None. begin_wait(wait): called when the agent's service fails; returns why the night can't
    wait for it, or "". devices: how many try proposals at a time.
    """

    def __init__(
        self,
        session: Session,
        agent: Agent | None,
        may_ask: Callable[[Proposal | None], bool],
        begin_wait: Callable[[Wait], str] = lambda wait: "",
        devices: int = 1,
    ):
        self.session, self.agent, self.may_ask = session, agent, may_ask
        self.begin_wait = begin_wait
        self.wait: Wait | None = None  # for the agent's service, while it lasts
        self.waited = 0.0  # seconds, for the agent's service
        self.told_at = 0.0  # when the wait was told last, on the monotonic clock
        self.was_asked = False  # the agent, by this process
        self.is_noting = False  # an answer of the agent's
        self.is_closed = False
        self.ahead = AHEAD + devices
        self.journal = Journal(session.home)
        self.ready = queue.Queue()  # to be tried
        self.broken = queue.Queue()  # to be repaired by the agent
        self.is_over = threading.Event()
        self.dried_up = ""  # why there will be no more
        self.full: Exception | None = None  # of a full disk, which ended the agent's thread
        self.tuner_lock = threading.Lock()
        self.thread = threading.Thread(target=self._keep_asking, daemon=True) if agent else None

    def open(self) -> None:
        for event in self.journal.list_waiting():
            self.put(proposal_of(event))
        if self.thread:
            self.thread.start()

    def close(self, deadline: float) -> None:
        """Cut the agent short. Waits for its thread to end, till that time of the monotonic clock.

        While it notes an answer that is complete, for longer.
        """
        self.is_over.set()
        if not self.thread or self.is_closed:
            return
        self.agent.cancel()
        self.thread.join(max(0.0, deadline - time.monotonic()))
        if self.is_noting:
            self.thread.join(NOTE_SECONDS)
        if not self.thread.is_alive():
            self.agent.clean_up()
            self.is_closed = True

    def put(self, proposal: Proposal) -> None:
        self.ready.put(proposal)

    def take(self, seconds: float) -> Proposal | None:
        """The next proposal, or None when there is none within so many seconds."""
        with self.tuner_lock:
            if not self.agent and self.ready.empty() and self.may_ask(None):
                try:
                    self.ask_tuner()
                except Refused as error:
                    self.dried_up = str(error)
        with suppress(queue.Empty):
            return self.ready.get(timeout=seconds)
        return None

    def repair_collision(self, commit: str) -> None:
        """Have the agent, if there is one, make a hit anew that collides with the champion."""
        calls = {event["call"] for event in self.journal.list_tries() if event["commit"] == commit}
        events = [event for event in self.journal.list_answers() if event["call"] in calls]
        if self.agent and events:
            champion = self.session.read_campaign().champion["commit"]
            self.send_back(proposal_of(events[-1] | {"commit": commit, "parent": champion}))

    def send_back(self, proposal: Proposal) -> None:
        """Have the agent repair it. It comes back as it is when the agent may not be asked."""
        self.broken.put(proposal)

    def rebase(self, proposal: Proposal) -> Proposal:
        """The proposal on the champion of now. Raises CannotRebase."""
        campaign = self.session.read_campaign()
        champion = campaign.champion["commit"]
        if proposal.parent == champion or self._has_begun(proposal, campaign):
            return proposal
        merged = proposal.commit, proposal.parent, champion
        text = merge_edit(*(read_source(commit).text for commit in merged))
        if text is None:
            raise CannotRebase("its edit collides with the new champion's", is_repairable=True)
        if fingerprint(text)["source"] in campaign.known_sources:
            raise CannotRebase("the champion has it, or it was tried", is_repairable=False)
        commit = commits.commit_text([champion], text, proposal.idea)
        return proposal._replace(commit=commit, parent=champion)

    def _has_begun(self, proposal: Proposal, campaign: Campaign) -> bool:
        """Whether its experiment was opened and may go on, or has a verdict."""
        experiments = [
            e
            for e in campaign.since
            if e.role == "try"
            and e.arms[CANDIDATE]["commit"] == proposal.commit
            and (e.closes or e.busy == self.session.busy)
        ]
        return bool(experiments)

    # ----------------------------------------------------------------------------------------------
    # The agent

    def _keep_asking(self) -> None:
        """The agent's thread: keep some proposals ahead, until the night is over."""
        errors = 0
        while not self.is_over.is_set() and not self.dried_up:
            broken, error = None, ""
            try:
                if self.waits_for_service():
                    continue
                broken = self.broken.get_nowait() if not self.broken.empty() else None
                may_ask = self.may_ask(broken)
                if broken and not may_ask:
                    self.put(broken._replace(repairs=MOST_REPAIRS))
                    continue
                if not may_ask or not broken and self.ready.qsize() >= self.ahead:
                    self.is_over.wait(IDLE_SECONDS)
                    continue
                self.ask_agent(broken)
                errors = 0
            except supervisor.Cancelled:
                return
            except Exception as exception:  # of a thread nobody would see it
                if is_full(exception):  # an answer that can't be noted is paid for nothing
                    self.full = exception
                    return
                errors += 1
                error = f"{type(exception).__name__}: {exception}"
                self.session.tell(f"  the agent could not be asked: {quote_text(error)}")
                if broken:
                    self.send_back(broken)
            self.dried_up = self.dried_up or self.reason_to_stop(errors, error)

    def reason_to_stop(self, errors: int, error: str) -> str:
        """Why the agent is asked no more, or "". errors: in a row, error: the last one."""
        failures = self.list_failures()
        if len(failures) + errors >= MOST_FAILURES:
            last = error or service.describe_failure(failures[0])
            return (
                f"{len(failures) + errors} answers in a row could not be tried (the last: {last})"
            )
        return "" if errors else service.reason_to_stop(self.journal.list_answers())

    def waits_for_service(self) -> bool:
        """Whether the agent isn't asked now, as its service fails: rests a little then."""
        wait, begin = service.find_wait(self.journal.list_answers()), time.monotonic()
        if not wait or wait.until <= time.time():
            self.wait = None
            return False
        if self.wait != wait:
            self.wait, self.told_at = wait, begin
            self.dried_up = self.begin_wait(wait)
        elif begin - self.told_at >= TELL_SECONDS:
            self.told_at = begin
            self.session.tell(f"  still {service.describe_wait(wait)}")
        self.is_over.wait(min(IDLE_SECONDS, wait.until - time.time()))
        self.waited += time.monotonic() - begin
        return True

    def list_failures(self) -> list[dict]:
        """The last answers in a row that could not be tried, latest first.

        Failures of service are no fault of the answers: they are passed over.
        """
        answers = reversed(self.journal.list_answers())
        given = (event for event in answers if event["outcome"] != SERVICE)
        return [*itertools.takewhile(lambda event: event["outcome"] != "idea", given)]

    def ask_agent(self, broken: Proposal | None) -> bool:
        """Ask once, for a repair of `broken` if given; note what came of it. True if it is tried.

        Raises Full when there is no room for the answer, Cancelled when it was cut short.
        """
        self.session.ledger.check_room(work_folder())
        campaign = self.session.read_campaign()
        crashed = broken if broken and broken.failure else None
        parent = crashed.parent if crashed else campaign.champion["commit"]
        champion = read_source(parent).text
        edit = read_source(crashed.commit).text if crashed else None
        self.agent.prepare_folder(champion, edit)
        home, most = self.session.home, self.agent.digest_tokens
        prompt = write_prompt(home, campaign, self.list_failures(), broken, most)
        if self.is_over.is_set():
            return True
        self.was_asked = True
        idea = broken.idea if broken else ""
        answer, calls = self.agent.ask(prompt, champion, idea), len(self.journal.list_answers())
        self.is_noting = True
        try:
            return self.take_answer(answer, parent, broken)
        except Exception:  # Ctrl-C at a terminal ends git's processes as well
            if not self.is_over.wait(IDLE_SECONDS) or len(self.journal.list_answers()) > calls:
                raise
            return self.take_answer(answer, parent, broken)
        finally:
            self.is_noting = False

    def take_answer(self, answer: Answer, parent: str, broken: Proposal | None) -> bool:
        """Compare it with what was tried, commit it, note it. True if it is tried."""
        if broken and answer.outcome == SERVICE:  # it is to be repaired all the same
            self.send_back(broken)
            broken = None
        if broken and not answer.idea:
            answer = answer._replace(idea=broken.idea)
        event = answer_event(answer, parent, repairs=broken.repairs + 1 if broken else 0)
        event["folder"] = self.save_call()
        if answer.outcome == "idea":
            event |= self.find_earlier(answer.text, parent)
        if event["outcome"] == "idea":
            event["commit"] = commits.commit_text([parent], answer.text, answer.idea)
        elif broken and broken.failure:  # there is nothing better: it is tried as it is
            event |= {"outcome": "idea", "commit": broken.commit, "repairs": MOST_REPAIRS}
        return self.note_answer(event, mends=broken.call if broken else None)

    def save_call(self) -> str:
        """Keep the prompt and what was printed; returns the folder's name."""
        number = len(self.journal.list_answers()) + 1
        folder = f"runs/calls/{time.strftime('%Y%m%d-%H%M%S')}-{number}"
        self.agent.save_call(self.session.home / folder)
        return folder

    def note_answer(self, event: dict, mends: int | None = None) -> bool:
        """Into the journal and, if it is an idea, the queue. True if it is one."""
        event |= {"call": len(self.journal.list_answers()) + 1, "mends": mends}
        self.journal.append("answer", **event)
        if event["outcome"] == "idea":
            self.put(proposal_of(event))
            return True
        failure = service.describe_failure(event)
        self.session.tell(f"  call {event['call']} of the agent gave no idea, {failure}")
        return False

    def find_earlier(self, text: bytes, parent: str) -> dict:
        """{"outcome": "repeat", "reason"} of a text that was tried, {"near": n} of one like it."""
        campaign, source = self.session.read_campaign(), fingerprint(text)["source"]
        if e := campaign.by_source.get(source):
            return {"outcome": "repeat", "reason": f"the same as experiment {e.n}: {e.verdict}"}
        if source in self.waiting_sources():
            return {"outcome": "repeat", "reason": "the same as an idea that waits for its verdict"}
        changed = changed_lines(read_source(parent).text, text)
        for e in reversed(tried_ideas(campaign)):
            other = changed_by(e.arms[CANDIDATE]["commit"], e.arms[CHAMPION]["commit"])
            if len(changed & other) >= ALIKE * len(changed | other):
                return {"near": e.n}
        return {}

    def waiting_sources(self) -> set[str]:
        """Shapes of the proposals that have no verdict yet."""
        waiting = self.journal.list_waiting()
        return {fingerprint(read_source(event["commit"]).text)["source"] for event in waiting}

    # ----------------------------------------------------------------------------------------------
    # The tuner

    def ask_tuner(self) -> None:
        """Its next proposal into the queue. Raises Refused when it has none."""
        campaign = self.session.read_campaign()
        champion = campaign.champion["commit"]
        text, idea = tuner.propose_edit(
            campaign,
            read_source(champion).text,
            number=len(self.journal.list_answers()),
            known=campaign.known_sources | self.waiting_sources(),
        )
        # without an agent nobody repairs it
        event = answer_event(Answer("idea", idea=idea), champion, repairs=MOST_REPAIRS)
        self.note_answer(event | {"commit": commits.commit_text([champion], text, idea)})


def answer_event(answer: Answer, parent: str, repairs: int) -> dict:
    """What the journal says of an answer."""
    event = answer._asdict()
    del event["text"]
    return event | {"parent": parent, "repairs": repairs, "commit": "", "near": None}


def proposal_of(event: dict) -> Proposal:
    """An event of the journal as a proposal."""
    fields = set(Proposal._fields) - {"failure"}
    return Proposal(**{name: event[name] for name in fields})


# --------------------------------------------------------------------------------------------------
# Edits of train.py


def changed_lines(old: bytes, new: bytes) -> set[tuple[bytes, bytes]]:
    """Lines that one text has alone, without layout: {(b"-", b"A = 1"), (b"+", b"A = 2")}."""
    before, after = (
        {b" ".join(line.split()) for line in text.splitlines()} - {b""} for text in (old, new)
    )
    return {(b"-", line) for line in before - after} | {(b"+", line) for line in after - before}


@functools.cache
def changed_by(commit: str, parent: str) -> set[tuple[bytes, bytes]]:
    """changed_lines() of a commit's train.py against that of another one."""
    return changed_lines(read_source(parent).text, read_source(commit).text)
