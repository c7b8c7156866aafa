"""Service: when an agent is asked again whose calls fail for want of it.

A usage limit, an overloaded server, a lost network pass by waiting; a missing login does not. All
follows from the answers in the journal, so that a night that was killed goes on waiting.
"""

import re
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from ratchet.arena.progress import format_duration
from ratchet.experiments.campaign import parse_time
from ratchet.untrusted_text import quote_text

SERVICE = "service"  # the outcome of an answer
WORKED = "idea", "repeat"  # outcomes of answers that an agent can give only if it works
FIRST_SECONDS, MOST_SECONDS = 60, 1800  # of a wait where no time is told: it doubles each time
TOLD_SECONDS = 6 * 3600  # the most that is waited until a time that is told: it may be a mistake
REASON_CHARACTERS = 300
LOGIN = re.compile(
    r"\blog(ged)?[ -]?in\b|/login|sign(ed)?[ -]?in\b|api[ _-]?key|auth|credential|\b401\b",
    re.IGNORECASE,
)
PASSES = re.compile(r"limit|quota|overload|\b429\b|\b5\d\d\b", re.IGNORECASE)

AnswerEvent = Mapping[str, Any]  # of the journal


class Wait(NamedTuple):
    """A time in which an agent is not asked."""

    until: float  # Unix time
    reason: str  # why the last call failed
    call: int  # its number
    failures: int  # calls in a row that failed so


def count_failures(answers: Sequence[AnswerEvent]) -> int:
    """How many of the last answers in a row failed for want of service."""
    return sum(1 for _ in takewhile(lambda each: each["outcome"] == SERVICE, reversed(answers)))


def find_wait(answers: Sequence[AnswerEvent]) -> Wait | None:
    """The wait that follows the last answer, be it over or not; None if there is none.

    Until the time that was told, 6 hours at most; else, or if service failed again then, for 1, 2,
    4 ... 30 minutes.
    """
    failures = count_failures(answers)
    if not failures or is_missing_login(answers):
        return None
    last = answers[-1]
    asked, told = parse_time(last["time"]), last.get("resume_at") or 0.0
    until = asked + min(FIRST_SECONDS * 2 ** min(failures - 1, 20), MOST_SECONDS)
    if told > asked:
        told = min(told, asked + TOLD_SECONDS)
        until = told if failures == 1 else max(told, until)
    return Wait(until, last["reason"], last["call"], failures)


def is_missing_login(answers: Sequence[AnswerEvent]) -> bool:
    """Whether the first calls of a night, two at most, failed for want of a login."""
    return len(answers) <= 2 and all(
        each["outcome"] == SERVICE and not each.get("resume_at") and lacks_login(each["reason"])
        for each in answers
    )


def lacks_login(reason: str) -> bool:
    """Whether service failed for want of a login, by the words of the program."""
    return bool(LOGIN.search(reason) and not PASSES.search(reason))


def name_outcome(answer: AnswerEvent) -> str:
    """What came of a call, as the reader is told: "login" where service failed for want of one."""
    is_login = answer["outcome"] == SERVICE and lacks_login(answer["reason"])
    return "login" if is_login else answer["outcome"]


def reason_to_stop(answers: Sequence[AnswerEvent]) -> str:
    """Why it is of no use to ask once more after a night's first two calls, or "".

    They failed alike, and not by what passes.
    """
    if len(answers) != 2 or any(each["outcome"] in WORKED for each in answers):
        return ""
    first, second = ((each["outcome"], shape_of(each)) for each in answers)
    if is_missing_login(answers) or (first == second and first[0] != SERVICE):
        return f"the first two calls failed alike, {describe_failure(answers[-1])}"
    return ""


def shape_of(answer: AnswerEvent) -> str:
    """Why it failed, without what differs from call to call: numbers, names, how it was put."""
    reason = answer["reason"]
    if answer["outcome"] == "nothing":  # the agent's own answer is quoted
        reason = reason.partition(': "')[0]
    return re.sub(r"\b[^\W\d]*\d\w*", "0", reason.lower())


def describe_failure(answer: AnswerEvent) -> str:
    """Example: 'crash: "not logged in (exit code 1)"'."""
    return f"{name_outcome(answer)}: {quote_text(answer['reason'], REASON_CHARACTERS)}"


def describe_wait(wait: Wait) -> str:
    """Example: 'waiting for the agent's service until 03:10, 42 min: "429 overloaded"'."""
    left = format_duration(max(0.0, wait.until - time.time()))
    reason = quote_text(wait.reason, REASON_CHARACTERS)
    what = "login" if lacks_login(wait.reason) else "service"
    return f"waiting for the agent's {what} until {format_moment(wait.until)}, {left}: {reason}"


def last_failure(answers: Sequence[AnswerEvent]) -> AnswerEvent | None:
    """The last answer that gave no idea to try, if there is one."""
    return next((each for each in reversed(answers) if each["outcome"] != "idea"), None)


def has_worked(answers: Sequence[AnswerEvent]) -> bool:
    """Whether the agent ever gave an idea, be it one that was tried before."""
    return any(each["outcome"] in WORKED for each in answers)


def format_moment(moment: float) -> str:
    """A Unix time on the user's clock: "03:10"; with its date if that is another day."""
    there = time.localtime(moment)
    is_today = there[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if is_today else "%Y-%m-%d %H:%M", there)
