"""Answers: what came of a call of an agent, why there is no idea, in its program's words."""

import time
from typing import NamedTuple

from ratchet.night.programs.failures import find_resume_time, is_no_service
from ratchet.night.programs.output import Output
from ratchet.referee.supervisor import EndedEarly
from ratchet.untrusted_text import quote_text

QUOTED_CHARACTERS = 200  # of a program's words, in a reason
REASON_CHARACTERS = 300
CONTEXT_CHARACTERS = 4000  # in which a want of service is looked for: the last


class Answer(NamedTuple):
    """What came of one call.

    outcome: idea, or why there is none: nothing (no change), files (another file was edited), crash
    (the agent failed), service (the same, for want of service: a usage limit, an overloaded or lost
    server, no login; train.py is as it was), timeout, output, memory, processes, disk.
    """

    outcome: str
    reason: str = ""  # a sentence of at most 300 characters
    text: bytes = b""  # of train.py
    idea: str = ""
    gain: float | None = None  # in bpb or as a ratio of the goal, as the agent expects it
    seconds: float = 0.0
    cost: float = 0.0  # in dollars, where the agent reports it
    tokens: int = 0  # input and output, without what was read from a cache
    tells_cost: bool = False  # whether the agent reports one
    cached: int = 0  # tokens that were read from a cache
    resume_at: float | None = None  # Unix time at which service is said to come back


def explain_failure(output: Output, code: int, stopped: EndedEarly | None = None) -> Answer:
    """Of a call that left train.py as it was: whether it lacked service, in the program's words.

    code: its exit code. stopped: why it was ended before it did so itself.
    """
    words = output.last_words()
    context = (output.error or "\n".join(output.last_lines()))[-CONTEXT_CHARACTERS:]
    if is_no_service(context, output.status):
        when = find_resume_time(f"{context}\n{output.details}", time.time(), output.resets)
        reason = quote_text(words, REASON_CHARACTERS)[1:-1]  # whoever shows it quotes it
        return Answer("service", reason or f"status {output.status}", resume_at=when)
    if stopped:
        return Answer(stopped.status, add_words(str(stopped), words))
    how = "it failed" + f" (exit code {code})" * bool(code)
    return Answer("crash", add_words(how, words or "no output"))


def add_words(sentence: str, words: str) -> str:
    """A sentence, behind it the program's own words, if there are any."""
    return f"{sentence}: {quote_text(words, QUOTED_CHARACTERS)}" if words else sentence


def last_words_of(message: str) -> str:
    """The end of a message, as much as is quoted."""
    words = " ".join(message.split())
    return words if len(words) < QUOTED_CHARACTERS else f"… {words[2 - QUOTED_CHARACTERS :]}"


def describe_cost(answer: Answer, has_price: bool) -> list[str]:
    """What the user should know who has set a limit of dollars, in sentences."""
    if answer.tells_cost or answer.outcome in ("service", "crash"):
        return []
    if not answer.tokens + answer.cached:
        return ["the agent tells neither its cost nor its tokens: --dollars can't end this night"]
    if not has_price:
        return [
            "the agent tells no cost: --dollars can't end this night without --price IN,OUT, "
            "dollars per million tokens"
        ]
    return []
