"""Reads which idea an agent had: from idea.txt, its words, or what it changed."""

import ast
import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ratchet.night.knobs import find_constants
from ratchet.night.programs.folder import read_regular_file
from ratchet.referee.source import parse_source
from ratchet.untrusted_text import clean_text

IDEA_CHARACTERS = 500
LEAST_CHARACTERS = 20  # of a sentence that names an idea: "I change the rate." says too little
LAST_CHARACTERS = 100_000  # of what it said, in which an idea is looked for
MOST_NAMED = 3  # constants or parts that a description of an edit names
# A sentence that says what was done: "I raised the rate to 0.04.", "Widened the heads to 64."
DONE = (
    "add chang clip combin cut decay decreas deepen disabl doubl drop enabl enlarg exten fus halv "
    "increas insert introduc lengthen lower mov normali quadrupl rais reduc remov renam replac "
    "rescal scal shar short shrink simplif soften split swap swept switch tied tripl tun tweak "
    "untied warm widen".split()
)
SAYS_DONE = re.compile(
    rf"^(?:\W*|(?:done|finished|ok)\W+)(?:(?:I|we)(?:'ve|\ have|\ also|\ just|\ now|\ then)*\ +)?"
    rf"(?:(?:{'|'.join(DONE)})\w*|set|made|use|used|gave|put|tried|lets?)\b"
    r"|\b(?:is|are|was|were|has\ been|have\ been)\ (?:now\ )?"
    rf"(?:(?:{'|'.join(DONE)})\w*ed|wider|deeper|larger|smaller|longer|shorter|\d)",
    re.IGNORECASE | re.VERBOSE,
)
# of files alone, or of a conversation
BOOKKEEPING = re.compile(
    r"idea\.txt|\b(to|in) the chat|^\W*(edited|updated|changed) `?train\.py`?\W*$", re.IGNORECASE
)


def read_idea(path: Path, text: str) -> tuple[str, float | None]:
    """(idea, expected gain in bpb or None), from idea.txt, else from what the agent said.

    There they are in lines like `IDEA: wider heads` and `GAIN: 0.004`.
    """
    written = (read_regular_file(path) or b"").decode(errors="replace")
    idea, gain, *_ = [*filter(None, map(str.strip, written.splitlines())), "", ""]
    if not gain:
        idea, gain = idea or last_field("IDEA", text), last_field("GAIN", text)
    idea = clean_text(idea.encode(errors="replace"))[:IDEA_CHARACTERS]
    return idea.removeprefix("IDEA:").strip(), parse_gain(gain)


def last_field(name: str, text: str) -> str:
    """The rest of the last line that begins with `name:`, without Markdown; "" if none does."""
    pattern = rf"^[^\w\n]*{name}[^\w\n]*:(.+)"
    values = re.findall(pattern, text[-LAST_CHARACTERS:], re.MULTILINE)
    return values[-1].strip(" \t*_`") if values else ""


def parse_gain(words: str) -> float | None:
    """The first number in these words, None if it can't be a gain in bpb, nor a ratio."""
    number = re.search(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", words[:100])
    gain = float(number[0]) if number else None
    return gain if gain is not None and abs(gain) < 10 else None


# --------------------------------------------------------------------------------------------------
# Of an agent that doesn't say it


def name_idea(message: str, before: bytes, after: bytes) -> str:
    """What an edit is called whose agent named no idea: never "".

    message: its last one. before, after: train.py.
    Examples: "I raised the learning rate.", "RATE 0.03 -> 0.0301".
    """
    return find_sentence(message) or describe_edit(before, after)


def find_sentence(message: str) -> str:
    """The first sentence that says what was done, "" if none does."""
    text = re.sub(r"```.*?(```|\Z)", "\n", message[-LAST_CHARACTERS:], flags=re.DOTALL)
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        words = clean_text(sentence.encode(errors="replace")).strip(" \t*_`#>-")
        if LEAST_CHARACTERS <= len(words) <= IDEA_CHARACTERS and SAYS_DONE.search(words):
            if not BOOKKEEPING.search(words):
                return words
    return ""


def describe_edit(before: bytes, after: bytes) -> str:
    """An edit in a few words. Examples: "RATE 0.03 -> 0.0301", "3 lines changed in class Block"."""
    old, new = find_constants(before), find_constants(after)
    moved = [name for name in new if name in old and old[name].value != new[name].value]
    knobs = [f"{name} {old[name].value} -> {new[name].value}" for name in moved]
    literals = {line for name in moved for line in lines_of(new[name])}
    places = [place for line, place in changed_places(before, after) if line not in literals]
    count = len(places)
    parts = [list_some(knobs)] if knobs else []
    if count or not knobs:
        where = list_some([*dict.fromkeys(filter(None, places))])
        lines = f"{count} line{'s' * (count != 1)} changed" if count else "train.py changed"
        parts.append(f"{lines} in {where}" if where else lines)
    return clean_text("; ".join(parts).encode(errors="replace"))[:IDEA_CHARACTERS]


def list_some(names: Sequence[str]) -> str:
    """Example: ["a", "b", "c", "d", "e"] -> "a, b, c and 2 more"."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def changed_places(before: bytes, after: bytes) -> Iterator[tuple[int, str]]:
    """(number of its line, class or function that it is in) of each changed line.

    A line that is gone has the number 0: of the new text it is none.
    """
    old, new = before.splitlines(), after.splitlines()
    old_parts, new_parts = part_of_lines(before), part_of_lines(after)
    for tag, i, i_end, j, j_end in difflib.SequenceMatcher(None, old, new).get_opcodes():
        if tag == "delete":
            yield from ((0, old_parts.get(line, "")) for line in range(i + 1, i_end + 1))
        elif tag != "equal":
            yield from ((line, new_parts.get(line, "")) for line in range(j + 1, j_end + 1))


def part_of_lines(text: bytes) -> dict[int, str]:
    """{number of a line: the class or function that it is in, such as "class Block"}."""
    kinds, parts = {ast.ClassDef: "class", ast.FunctionDef: "function"}, {}
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in parse_source(text).body:
            if type(node) in kinds:
                parts |= dict.fromkeys(lines_of(node), f"{kinds[type(node)]} {node.name}")
    return parts


def lines_of(node: ast.stmt | ast.expr) -> range:
    return range(node.lineno, node.end_lineno + 1)
