"""The queue of proposals: ideas that are commits and wait for their verdict.

The queue asks the agents and the tuner, in turns, compares the answer with what was tried, commits
it, carries it over to a new champion. Whether a proposal is tried, repaired or given up, the driver
decides.
"""

import functools
import queue
import threading
import time
from collections.abc import Callable, Sequence
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
from ratchet.night.programs.failures import is_lasting
from ratchet.night.prompt import write_prompt
from ratchet.night.service import SERVICE, Wait
from ratchet.night.team.authors import Author, short_name, whose_turn
from ratchet.referee import supervisor
from ratchet.referee.source import fingerprint
from ratchet.untrusted_text import quote_text

AHEAD = 1  # proposals that wait while the devices are busy, beside one for each
MOST_REPAIRS = 2  # times that an edit goes back to the agent
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
    gain: float | None  # in bpb or as a ratio of the goal, as the agent expects it
    near: int | None  # number of an experiment that it is like
    repairs: int  # how often it went back to the agent
    failure: tuple = ()  # (status, reason, last lines) of its preflight
    by: str = ""  # the author whose idea it is


class CannotRebase(Exception):
    """An edit that can't be made on the champion of now. is_repairable: another edit might do."""

    def __init__(self, reason: str, is_repairable: bool):
        super().__init__(reason)
        self.is_repairable = is_repairable


class ProposalQueue:
    """Filled by authors in turns, in a thread, or by the tuner alone when it is empty.

    open() begins with what the journal says is waiting, close() ends the thread that asks.

    may_ask(broken): whether an author may be asked once more, for a repair of that proposal if it
    isn't None. begin_wait(wait): called when an agent's service fails; returns why the night can't
    wait for it, or "". devices: how many try proposals at a time.
    """

    def __init__(
        self,
        session: Session,
        authors: Sequence[Author],
        may_ask: Callable[[Proposal | None], bool],
        begin_wait: Callable[[Wait], str] = lambda wait: "",
        devices: int = 1,
    ):
        self.session, self.may_ask, self.begin_wait = session, may_ask, begin_wait
        self.authors = {author.name: author for author in authors}
        self.agents = [author.agent for author in authors if author.agent]
        self.waited = 0.0  # seconds, while there was nobody to ask for want of service
        self.is_noting = False  # an answer of an agent's
        self.is_closed = False
        self.ahead = AHEAD + devices
        self.journal = Journal(session.home)
        self.ready = queue.Queue()  # to be tried
        self.broken = []  # to be repaired by the agents whose ideas they are
        self.is_over = threading.Event()
        self.error: Exception | None = None  # what ended the thread, as a full disk does
        self.tuner_lock = threading.Lock()
        is_tuner_alone = len(authors) == 1 and not self.agents
        thread = threading.Thread(target=self._keep_asking, daemon=True)
        self.thread = None if is_tuner_alone else thread

    @property
    def dried_up(self) -> str:
        """Why there will be no more, once nobody is left to ask."""
        authors = [*self.authors.values()]
        if not all(author.dropped_out for author in authors):
            return ""
        if len(authors) == 1:
            return authors[0].dropped_out
        return "; ".join(f"{short_name(each.name)}: {each.dropped_out}" for each in authors)

    @property
    def wait(self) -> Wait | None:
        """The wait for service that ends first, while there is nobody else to ask."""
        waits = [author.wait for author in self.authors.values() if not author.dropped_out]
        return min(waits, key=lambda wait: wait.until) if waits and all(waits) else None

    def open(self) -> None:
        for event in self.journal.list_waiting():
            self.put(proposal_of(event))
        if self.thread:
            self.thread.start()

    def close(self, deadline: float) -> None:
        """Cut agents short. Waits for their thread to end, till that time of the monotonic clock.

        While it notes an answer that is complete, for longer.
        """
        self.is_over.set()
        if not self.thread or self.is_closed:
            return
        for agent in self.agents:
            agent.cancel()
        self.thread.join(max(0.0, deadline - time.monotonic()))
        if self.is_noting:
            self.thread.join(NOTE_SECONDS)
        if not self.thread.is_alive():
            for agent in self.agents:
                agent.clean_up()
            self.is_closed = True

    def put(self, proposal: Proposal) -> None:
        self.ready.put(proposal)

    def take(self, seconds: float) -> Proposal | None:
        """The next proposal, or None when there is none within so many seconds."""
        with self.tuner_lock:
            if not self.thread and self.ready.empty() and self.may_ask(None):
                (author,) = self.authors.values()
                try:
                    self.ask_tuner(author)
                except Refused as error:
                    author.dropped_out = str(error)
        with suppress(queue.Empty):
            return self.ready.get(timeout=seconds)
        return None

    def repair_collision(self, commit: str) -> None:
        """Have its agent, if it has one, make a hit anew that collides with the champion."""
        calls = {event["call"] for event in self.journal.list_tries() if event["commit"] == commit}
        events = [event for event in self.journal.list_answers() if event["call"] in calls]
        proposals = map(proposal_of, events[-1:])
        for proposal in proposals:
            if self.author_of(proposal).agent:
                champion = self.session.read_campaign().champion["commit"]
                self.send_back(proposal._replace(commit=commit, parent=champion))

    def send_back(self, proposal: Proposal) -> None:
        """Have its agent repair it. It comes back as it is when that may not be asked."""
        self.broken.append(proposal)

    def author_of(self, proposal: Proposal) -> Author:
        """Whose idea it is; one of an older night doesn't say, as that had one author."""
        return self.authors.get(proposal.by) or next(iter(self.authors.values()))

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
    # Agents

    def _keep_asking(self) -> None:
        """The thread that asks: keep some proposals ahead, until the night is over."""
        while not self.is_over.is_set() and not self.dried_up:
            begin = time.monotonic()
            try:
                for author in self.authors.values():
                    self.look_for_wait(author)
                if not self.ask_next():
                    self.is_over.wait(IDLE_SECONDS)
            except supervisor.Cancelled:
                return
            except Exception as exception:  # of a thread nobody would see it
                self.error = exception
                return
            self.waited += time.monotonic() - begin if self.wait else 0.0

    def look_for_wait(self, author: Author) -> None:
        """Note whether an author isn't asked now, as its service fails."""
        wait, now = author.find_wait(self.journal), time.monotonic()
        begins = wait and wait != author.wait
        author.wait = wait
        if begins and not author.dropped_out:
            author.told_at = now
            self.drop_out(author, self.begin_wait(wait))
            if len(self.authors) > 1 and not author.dropped_out:
                self.session.tell(f"  {short_name(author.name)} waits, the others go on")
        elif wait and self.wait and now - author.told_at >= TELL_SECONDS:
            author.told_at = now
            self.session.tell(f"  still {service.describe_wait(wait)}")

    def ask_next(self) -> bool:
        """Ask for a repair, or the one whose turn it is; False if there is nothing to ask for.

        Raises Full when there is no room for the answer, Cancelled when it was cut short.
        """
        if broken := self.next_broken():
            author = self.author_of(broken)
            if author.dropped_out or not self.may_ask(broken):
                if not self.journal.has_verdict(broken.call):  # else it would be tried again
                    self.put(broken._replace(repairs=MOST_REPAIRS))
            else:
                self.ask(author, broken)
            return True
        author = whose_turn([*self.authors.values()], self.journal)
        if not author or self.ready.qsize() >= self.ahead or not self.may_ask(None):
            return False
        self.ask(author)
        return True

    def ask(self, author: Author, broken: Proposal | None = None) -> None:
        """Ask one once, who drops out if that is of no use any more. Raises Full, Cancelled."""
        error = ""
        try:
            self.ask_agent(author, broken) if author.agent else self.ask_tuner(author)
            author.errors = 0
        except supervisor.Cancelled:
            raise
        except Exception as exception:
            if is_full(exception):  # an answer that can't be noted is paid for nothing
                raise
            if not author.agent:
                return self.drop_out(author, str(exception))
            author.errors += 1
            error = f"{type(exception).__name__}: {exception}"
            name = short_name(author.name)
            self.session.tell(f"  {name} could not be asked: {quote_text(error)}")
            if broken:
                self.send_back(broken)
        self.drop_out(author, author.reason_to_drop_out(self.journal, error))

    def next_broken(self) -> Proposal | None:
        """The first that is to be repaired, by one who may be asked or never will be."""
        for proposal in self.broken:
            author = self.author_of(proposal)
            if author.dropped_out or author.is_available:
                self.broken.remove(proposal)
                return proposal
        return None

    def drop_out(self, author: Author, reason: str) -> None:
        """Ask an author no more, if there is a reason; said plainly where others go on."""
        if not reason:
            return
        author.dropped_out = reason
        if len(self.authors) > 1:
            self.journal.append("drops", by=author.name, reason=reason)
            self.session.tell(f"  {short_name(author.name)} drops out: {reason}")

    def lacks_service(self) -> bool:
        """Whether the last call of each author that is left failed for want of service."""
        left = [author for author in self.authors.values() if not author.dropped_out]
        answers = (self.journal.list_answers(author.name) for author in left)
        return bool(left) and all(map(service.count_failures, answers))

    def ask_agent(self, author: Author, broken: Proposal | None) -> bool:
        """Ask once, for a repair of `broken` if given; note what came of it. True if it is tried.

        Raises Full when there is no room for the answer, Cancelled when it was cut short.
        """
        self.session.ledger.check_room(work_folder())
        campaign = self.session.read_campaign()
        crashed = broken if broken and broken.failure else None
        parent = crashed.parent if crashed else campaign.champion["commit"]
        champion = read_source(parent).text
        edit = read_source(crashed.commit).text if crashed else None
        author.agent.prepare_folder(champion, edit)
        failures = author.list_failures(self.journal)
        more = {"digest_tokens": author.agent.digest_tokens}
        more |= {"by": author.name if len(self.authors) > 1 else None}
        more |= {"waiting": [event["idea"] for event in self.journal.list_waiting()]}
        prompt = write_prompt(self.session.home, campaign, failures, broken, **more)
        if self.is_over.is_set():
            return True
        idea, calls = broken.idea if broken else "", len(self.journal.list_answers())
        answer = author.agent.ask(prompt, champion, idea)
        self.is_noting = True
        try:
            return self.take_answer(author, answer, parent, broken)
        except Exception:  # Ctrl-C at a terminal ends git's processes as well
            if not self.is_over.wait(IDLE_SECONDS) or len(self.journal.list_answers()) > calls:
                raise
            return self.take_answer(author, answer, parent, broken)
        finally:
            self.is_noting = False

    def take_answer(
        self, author: Author, answer: Answer, parent: str, broken: Proposal | None
    ) -> bool:
        """Compare it with what was tried, commit it, note it. True if it is tried."""
        if answer.outcome == "crash" and not is_lasting(answer.reason):
            if service.has_worked(self.journal.list_answers(author.name)):
                answer = answer._replace(outcome=SERVICE)  # what worked before fails by what passes
        if broken and answer.outcome == SERVICE:  # it is to be repaired all the same
            self.send_back(broken)
            broken = None
        if broken and not answer.idea:
            answer = answer._replace(idea=broken.idea)
        event = answer_event(answer, parent, repairs=broken.repairs + 1 if broken else 0)
        event |= {"by": author.name, "folder": self.save_call(author.agent)}
        if answer.outcome == "idea":
            event |= self.find_earlier(answer.text, parent)
        if event["outcome"] == "idea":
            event["commit"] = commits.commit_text([parent], answer.text, answer.idea)
        elif broken and broken.failure:  # there is nothing better: it is tried as it is
            event |= {"outcome": "idea", "commit": broken.commit, "repairs": MOST_REPAIRS}
            event |= {"idea": broken.idea, "gain": broken.gain, "near": broken.near}
        return self.note_answer(event, mends=broken.call if broken else None)

    def save_call(self, agent: Agent) -> str:
        """Keep the prompt and what was printed; returns the folder's name."""
        number = len(self.journal.list_answers()) + 1
        folder = f"runs/calls/{time.strftime('%Y%m%d-%H%M%S')}-{number}"
        agent.save_call(self.session.home / folder)
        return folder

    def note_answer(self, event: dict, mends: int | None = None) -> bool:
        """Into the journal and, if it is an idea, the queue. True if it is one."""
        event |= {"call": len(self.journal.list_answers()) + 1, "mends": mends}
        self.journal.append("answer", **event)
        if event["outcome"] == "idea":
            self.put(proposal_of(event))
            return True
        failure = service.describe_failure(event)
        who = short_name(event["by"]) if len(self.authors) > 1 else "the agent"
        self.session.tell(f"  call {event['call']} of {who} gave no idea, {failure}")
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

    def ask_tuner(self, author: Author) -> None:
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
        event |= {"by": author.name, "commit": commits.commit_text([champion], text, idea)}
        self.note_answer(event)


def answer_event(answer: Answer, parent: str, repairs: int) -> dict:
    """What the journal says of an answer."""
    event = answer._asdict()
    del event["text"]
    return event | {"parent": parent, "repairs": repairs, "commit": "", "near": None}


def proposal_of(event: dict) -> Proposal:
    """An event of the journal as a proposal."""
    fields = set(Proposal._fields) - {"failure"}
    return Proposal(**{name: event[name] for name in fields if name in event})


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
