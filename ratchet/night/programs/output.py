"""Reads what an agent printed: its words, what it used, why it failed.

JSON is found wherever it stands: an object, an array, objects in lines or over many, with warnings
before, between, behind them. Seen of claude-code 2.1 (json, json with --verbose, stream-json),
codex-cli 0.169 (exec --json), gemini-cli 0.61 (json, stream-json), opencode 1.18 (--format json).
Everything else is plain text, in which the lines of aider 0.86 are known.
"""

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from typing import Any, NamedTuple

from ratchet.referee.scoring import number_or_zero

JSON_STARTS = re.compile(r'\{\s*"|\[\s*\{')  # one try a line
MOST_WASTED = 2**28  # characters that are looked at in vain
MOST_DETAILS = 4000  # characters
MOST_DEPTH = 5  # of errors within errors
# Characters that a regular expression sees of a line, of a report of tokens: what an agent prints
# may be megabytes long, and a search that takes quadratic time would stop all threads.
LINE_CHARACTERS, REPORT_CHARACTERS = 2000, 500
MOST_DOLLARS, MOST_TOKENS = 1000, 10**9  # of one call; more is a mistake, or a lie
# Lines that say nothing of an answer: what programs say of themselves, frames of a traceback.
NOISE = re.compile(
    r"""(
    at\ .*:\d+\)?$ | at\ \S+\ \(.* | \W*$ | status:\ \d+$
    | npm\ (warn|notice) | \[STARTUP\] | Ripgrep\ is | Warning:\ (256-color|Input\ is\ not)
    | WARNING:\ proceeding, | \(node:\d+\)
    | Aider\ v\d | (Main\ )?[mM]odel:\ .*\ edit\ format$ | (Git\ repo|Repo-map|Tokens|Cost):\s
    | Added\ .*\ to\ the\ chat
    | Update\ git\ (name|email) | HTTPSConnectionPool\( | Applied\ edit\ to | Creating\ empty\ file
    | https://aider\.chat/ | Retrying\ in\ \d | tokens\ used$
    )""",
    re.VERBOSE,
)
AIDER_COUNT = re.compile(r"(?<![\d.])([\d.]{1,12})([kM]?) (sent|received|cache hit)")
AIDER_COST = re.compile(r"Cost: \$([\d.]+) message")
AIDER_ERROR = re.compile(r"^litellm\.\w+:.*(?:\n(?!litellm\.|Retrying).+)*", re.MULTILINE)
THOUSANDS = {"": 1, "k": 1000, "M": 1_000_000}
SOUNDS_BAD = re.compile(
    r"error|fail|denied|invalid|limit|unable|cannot|can't|could not|not found|no such|exception"
    r"|not logged|refused|missing|unknown|unexpected|quota|expired",
    re.IGNORECASE,
)


class Output(NamedTuple):
    """What an agent printed, as far as it is understood; of one event, or of all.

    `input` has what was written to a cache, and nothing that was read from one.
    """

    messages: tuple[str, ...] = ()  # that it answered with
    error: str | None = None  # why it failed; "" where it says that it did not
    details: str = ""  # all that came with the error
    status: int = 0  # of HTTP, which it failed with
    resets: float | None = None  # Unix time at which it says that a limit does
    input: int = 0  # tokens
    output: int = 0  # tokens
    cached: int = 0  # tokens that were read from a cache
    cost: float = 0.0  # in dollars
    has_cost: bool = False  # whether it names one, were it zero
    rest: str = ""  # what it printed beside events: all of plain text

    @property
    def text(self) -> str:
        """All that it answered; all of plain text."""
        return "\n".join(self.messages) or self.rest

    @property
    def last_message(self) -> str:
        """What it answered in the end; of plain text the last lines."""
        return self.messages[-1] if self.messages else "\n".join(self.last_lines())

    @property
    def tokens(self) -> int:
        return self.input + self.output

    @property
    def tells_cost(self) -> bool:
        """Whether the cost is one: a program that knows no price says 0 of many tokens."""
        return self.has_cost and (self.cost > 0 or self.tokens == 0)

    def last_lines(self, most: int = 8) -> list[str]:
        """The last lines beside events, of those that say anything."""
        lines = map(str.strip, self.rest.splitlines())
        return [line for line in lines if not NOISE.match(line[:LINE_CHARACTERS])][-most:]

    def last_words(self) -> str:
        """What it said when it failed, as well as that can be told; "" of one that said nothing."""
        lines = self.last_lines(20)
        bad = [line for line in lines if SOUNDS_BAD.search(line)]
        return self.error or " ".join((bad or lines or self.messages)[-1:])


def parse_output(log: str) -> Output:
    """What an agent printed: JSON of a program that is known, else plain text.

    Examples: `{"type": "result", "result": "Done.", "total_cost_usd": 0.25, ...}`, "IDEA: wider".
    """
    events, rest = split_events(log)
    parts = [*filter(None, map(read_event, join_pieces(events)))]
    if not parts:
        return drop_incredible(read_plain(log))
    messages = tuple(itertools.chain.from_iterable(part.messages for part in parts))
    total = reduce(add_outputs, (drop_incredible(part)._replace(messages=()) for part in parts))
    return drop_incredible(total)._replace(messages=messages, rest=rest)


def drop_incredible(output: Output) -> Output:
    """Without a cost, without tokens that no call can have: as if it had named none."""
    if output.cost > MOST_DOLLARS:
        output = output._replace(cost=0.0, has_cost=False)
    if max(output.input, output.output, output.cached) > MOST_TOKENS:
        is_cost = output.cost > 0
        output = output._replace(input=0, output=0, cached=0, has_cost=is_cost)
    return output


def add_outputs(first: Output, second: Output) -> Output:
    """Two as one. What happened last says whether it failed."""
    has_end = second.error is not None
    return Output(
        messages=first.messages + second.messages,
        error=second.error if has_end else first.error,
        details=second.details if has_end else first.details,
        status=second.status if has_end else first.status,
        resets=second.resets or first.resets,
        input=first.input + second.input,
        output=first.output + second.output,
        cached=first.cached + second.cached,
        cost=first.cost + second.cost,
        has_cost=first.has_cost or second.has_cost,
    )


def split_events(log: str) -> tuple[list[dict], str]:
    """(objects of JSON in a log, those of arrays one by one; the text around them)."""
    decoder, events, rest = json.JSONDecoder(), [], []
    position = copied = wasted = 0
    while wasted < MOST_WASTED and (found := JSON_STARTS.search(log, position)):
        start, value = found.start(), None
        try:
            value, position = decoder.raw_decode(log, start)
        except json.JSONDecodeError as error:  # it counts the lines before
            wasted += error.pos + 32 * (error.pos - start)
        except (ValueError, RecursionError):
            wasted += 2**22
        if isinstance(value, dict) or is_list_of_objects(value):
            events += value if isinstance(value, list) else [value]
            rest.append(log[copied:start])
            copied = position
        else:
            position = (log.find("\n", start) + 1) or len(log)
    return events, "".join([*rest, log[copied:]])


def join_pieces(events: list[dict]) -> list[dict]:
    """Messages that came in pieces, as gemini streams them, as one event each."""
    joined = []
    for is_piece, group in itertools.groupby(events, lambda event: event.get("delta") is True):
        same = [*group]
        if is_piece:
            content = "".join(str(event.get("content", "")) for event in same)
            same = [same[0] | {"content": content}]
        joined += same
    return joined


def is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


# --------------------------------------------------------------------------------------------------
# Events


def read_event(event: dict) -> Output | None:
    """One event of any program, None of one that is not known."""
    for read in (read_claude, read_codex, read_gemini, read_opencode):
        if output := read(event):
            return output
    return None


def read_claude(event: dict) -> Output | None:
    """`claude -p --output-format json`, stream-json; programs that took over its events."""
    kind = event.get("type")
    if kind == "rate_limit_event":
        info = object_at(event, "rate_limit_info")
        is_rejected = info.get("status") == "rejected"
        return Output(resets=(number_at(info, "resetsAt") or None) if is_rejected else None)
    if kind == "assistant" and "message" in event:
        return Output(() if event.get("error") else tuple(words_in(event["message"])))
    if kind != "result" or "stats" in event:
        return Output() if kind in ("system", "user") else None
    has_failed = event.get("is_error") or str(event.get("subtype")).startswith("error")
    words = event.get("result") if isinstance(event.get("result"), str) else ""
    errors = event.get("errors") if isinstance(event.get("errors"), list) else []
    error = words or "; ".join(map(message_of, errors)) or str(event.get("subtype"))
    usage = object_at(event, "usage")
    return Output(
        messages=() if has_failed else (words,),
        error=error if has_failed else "",
        status=int(number_at(event, "api_error_status")) if has_failed else 0,
        input=count_at(usage, "input_tokens", "cache_creation_input_tokens"),
        output=count_at(usage, "output_tokens"),
        cached=count_at(usage, "cache_read_input_tokens"),
        cost=number_at(event, "total_cost_usd"),
        has_cost=type(event.get("total_cost_usd")) in (int, float),
    )


def read_codex(event: dict) -> Output | None:
    """`codex exec --json`. What it reads from a cache is part of what it calls input."""
    kind, item = event.get("type"), object_at(event, "item")
    if kind == "turn.completed":
        usage = object_at(event, "usage")
        cached = count_at(usage, "cached_input_tokens")
        fresh = max(0, count_at(usage, "input_tokens") - cached)
        return Output(error="", input=fresh, output=count_at(usage, "output_tokens"), cached=cached)
    if kind in ("turn.failed", "error") and not event.get("severity"):
        return read_failure(event)
    if item.get("type") == "agent_message":
        return Output((str(item.get("text") or item.get("result") or ""),))
    is_known = str(kind).startswith(("thread.", "turn.", "item."))
    return Output() if is_known else None


def read_gemini(event: dict) -> Output | None:
    """`gemini --output-format json`, stream-json."""
    kind, stats = event.get("type"), object_at(event, "stats")
    if kind == "message" and isinstance(event.get("content"), str):
        return Output((event["content"],) if event.get("role") == "assistant" else ())
    if kind == "error":  # with its severity
        return read_failure(event) if event["severity"] == "error" else Output()
    is_end = kind == "result" or kind is None and ("session_id" in event or "stats" in event)
    if not is_end:
        return None
    failure = read_failure(event) if event.get("error") else Output(error="")
    words = event.get("response")
    counts = sum_gemini(stats)
    messages = (words,) if isinstance(words, str) else ()
    return add_outputs(counts, failure)._replace(messages=messages)


def sum_gemini(stats: dict) -> Output:
    """Tokens of all models; a stream names the sums."""
    models = object_at(stats, "models").values()
    counts = [object_at(model, "tokens") for model in models if isinstance(model, dict)]
    counts = [*filter(None, counts)]
    if not counts:
        return Output(
            input=count_at(stats, "input"),
            output=count_at(stats, "output_tokens"),
            cached=count_at(stats, "cached"),
        )
    cached = sum(count_at(each, "cached") for each in counts)
    prompt = sum(count_at(each, "prompt") for each in counts)
    return Output(
        input=max(0, prompt - cached),
        output=sum(count_at(each, "candidates", "thoughts", "tool") for each in counts),
        cached=cached,
    )


def read_opencode(event: dict) -> Output | None:
    """`opencode run --format json`: one step after another, each with its cost."""
    kind, part = event.get("type"), object_at(event, "part")
    if kind == "text":
        return Output((str(part.get("text") or ""),))
    if kind != "step_finish":
        return Output() if "sessionID" in event else None
    tokens = object_at(part, "tokens")
    cache = object_at(tokens, "cache")
    return Output(
        error="" if part.get("reason") == "stop" else None,
        input=count_at(tokens, "input") + count_at(cache, "write"),
        output=count_at(tokens, "output", "reasoning"),
        cached=count_at(cache, "read"),
        cost=number_at(part, "cost"),
        has_cost="cost" in part,
    )


def read_failure(event: dict) -> Output:
    """An event by which a program says that it failed."""
    error = event.get("error") or event.get("message") or event.get("result")
    return Output(
        error=message_of(error) or "it names no reason",
        details=json.dumps(event)[:MOST_DETAILS],
        status=status_of(error),
    )


# --------------------------------------------------------------------------------------------------
# Values of events, which may be of any type


def object_at(value: dict, key: str) -> dict:
    """What stands there if that is an object, else {}."""
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def number_at(value: dict, key: str) -> float:
    return number_or_zero(value.get(key))


def count_at(value: dict, *keys: str) -> int:
    """The sum of these numbers, as far as they are any."""
    return int(sum(number_at(value, key) for key in keys))


def words_in(message: Any) -> Iterator[str]:
    """The texts of a message of Anthropic's."""
    blocks = message.get("content") if isinstance(message, dict) else None
    for block in blocks if isinstance(blocks, list) else ():
        if isinstance(block, dict) and block.get("type") == "text":
            yield str(block.get("text"))


def layers_of(error: Any, depth: int = MOST_DEPTH) -> Iterator[dict]:
    """An error, then the errors in it, JSON in their words included: the innermost comes last."""
    if isinstance(error, str) and error.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            error = json.loads(error)
    if isinstance(error, dict) and depth:
        yield error
        for key in ("data", "error", "message"):
            yield from layers_of(error.get(key), depth - 1)


def message_of(error: Any) -> str:
    """Words of an error. Example: {"error": {"message": "no such model"}} -> "no such model"."""
    layers = [*layers_of(error)]
    if not layers:
        return error if isinstance(error, str) else ""
    words = [layer.get(key) for layer in layers for key in ("name", "type", "message")]
    words = [each for each in words if isinstance(each, str)]
    plain = [each for each in words if not each.lstrip().startswith("{")]
    return (plain or words or [""])[-1]


def status_of(error: Any) -> int:
    """The status of HTTP that an error names, else 0."""
    keys = ("statusCode", "status_code", "status", "code")
    values = [layer.get(key) for layer in layers_of(error) for key in keys]
    codes = [value for value in values if type(value) is int and 400 <= value < 600]
    return codes[-1] if codes else 0


# --------------------------------------------------------------------------------------------------
# Plain text


def read_plain(log: str) -> Output:
    """Plain text; aider's lines on tokens, costs, errors are understood.

    Example: "Tokens: 2.1k sent, 300 received. Cost: $0.01 message, $0.02 session."
    """
    reports = [*re.finditer(r"^Tokens: .*sent.*(?:\n.*session\.$)?", log, re.MULTILINE)]
    counts = {"sent": 0, "received": 0, "cache hit": 0}
    costs = []
    for report in reports:
        for number, unit, name in AIDER_COUNT.findall(report[0][:REPORT_CHARACTERS]):
            counts[name] += round(as_number(number) * THOUSANDS[unit])
        costs += map(as_number, AIDER_COST.findall(report[0][:REPORT_CHARACTERS]))
    errors = [*AIDER_ERROR.finditer(log)]
    has_failed = errors and not (reports and reports[-1].start() > errors[-1].start())
    return Output(
        error=" ".join(errors[-1][0].split()) if has_failed else None,
        input=max(0, counts["sent"] - counts["cache hit"]),
        output=counts["received"],
        cached=counts["cache hit"],
        cost=sum(costs),
        has_cost=bool(costs),
        rest=log,
    )


def as_number(words: str) -> float:
    """Digits and dots as a number, 0 if they are none."""
    with suppress(ValueError):
        return number_or_zero(float(words))
    return 0.0
