"""Authors: who has the ideas of a night, and whose turn it is.

An author is an agent, or the tuner. What each was asked is in the journal: so a night that was
killed goes on with the one whose turn it was.
"""

import itertools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ratchet.arena.files import Refused, sha256
from ratchet.night import service
from ratchet.night.agent import Agent, mask_secrets
from ratchet.night.journal import Journal
from ratchet.referee.folders import remove_folder
from ratchet.untrusted_text import clean_text, quote_text

TUNER = "tuner"
MOST_FAILURES = 10  # answers in a row that can't be tried, until an author is asked no more


class Author:
    """One who has ideas. agent: None for the tuner."""

    def __init__(self, name: str, agent: Agent | None = None):
        self.name, self.agent = name, agent
        self.dropped_out = ""  # why it is asked no more
        self.errors = 0  # in a row, of asking it: these are not in the journal
        self.wait: service.Wait | None = None  # for its service, while it lasts
        self.told_at = 0.0  # when the wait was told last, on the monotonic clock

    @property
    def is_available(self) -> bool:
        """Whether it may be asked now."""
        return not self.dropped_out and not self.wait

    def list_failures(self, journal: Journal) -> list[dict]:
        """Its last answers in a row that could not be tried, latest first.

        Failures of service are no fault of the answers: they are passed over.
        """
        answers = reversed(journal.list_answers(self.name))
        given = (event for event in answers if event["outcome"] != service.SERVICE)
        return [*itertools.takewhile(lambda event: event["outcome"] != "idea", given)]

    def reason_to_drop_out(self, journal: Journal, error: str) -> str:
        """Why it is asked no more, or "". error: of asking it just now, or ""."""
        failures = self.list_failures(journal)
        count = len(failures) + self.errors
        if count >= MOST_FAILURES:
            last = error or service.describe_failure(failures[0])
            return f"{count} answers in a row could not be tried (the last: {last})"
        return "" if self.errors else service.reason_to_stop(journal.list_answers(self.name))

    def find_wait(self, journal: Journal) -> service.Wait | None:
        """The wait for its service that is not over, if there is one."""
        wait = service.find_wait(journal.list_answers(self.name))
        return wait if wait and wait.until > time.time() else None


def whose_turn(authors: Sequence[Author], journal: Journal) -> Author | None:
    """The one of those that may be asked now whose last turn is longest ago.

    So they alternate, and after a pause nobody makes up for turns that were missed. A repair is no
    turn: it belongs to the idea.
    """
    answers = [event for event in journal.list_answers() if event["mends"] is None]
    last = {event.get("by"): event["call"] for event in answers}
    available = [author for author in authors if author.is_available]
    return min(available, key=lambda author: last.get(author.name, 0), default=None)


def count_calls(answers: Iterable[service.AnswerEvent]) -> int:
    """Calls of agents: the tuner has none, and one that failed for want of service is none."""
    counted = (each for each in answers if each["outcome"] != service.SERVICE)
    return sum(each.get("by") != TUNER for each in counted)


def join_names(names: Sequence[str]) -> str:
    """One name for all, whatever their order: ["tuner", "codex"] -> "codex, tuner"."""
    return ", ".join(sorted(names))


def short_name(name: str) -> str:
    """A name as it is shown in a sentence."""
    return quote_text(name, 60)


def open_authors(commands: Sequence[str], folder: Path, **options: Any) -> list[Author]:
    """The authors of a night, in the order of their first turns.

    commands: of agents, or "tuner". folder: for what agents work in; each of several has one in it.
    options: of Agent. Raises Refused when two are the same, or an agent can't be asked.
    """
    names = [mask_secrets(clean_text(command.encode(errors="replace"))) for command in commands]
    for name in names:
        if names.count(name) > 1:
            raise Refused(
                f"--agent {short_name(name)} is given twice: name another, or give the same "
                "program other options"
            )
    folders = {name: folder / sha256(name.encode())[:8] for name in names}
    if len(names) == 1:
        folders = dict.fromkeys(names, folder)
    elif folder.is_dir():
        for left in {*folder.iterdir()} - {*folders.values()}:  # by a night of others, killed
            remove_folder(left)
    authors = [
        Author(name, None if name == TUNER else Agent(name, folders[name], **options))
        for name in names
    ]
    for author in authors:
        if author.agent:
            author.agent.tell_once(author.agent.describe_view())
    return authors
