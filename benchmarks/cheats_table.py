"""Writes the tables of cheats into docs/referee.md.

    uv run benchmarks/cheats_table.py

They come from cheats.json and from the cheats' docstrings. A docstring begins with what the cheat
does, then where it was seen, in parentheses. That of a model which only its score can find out
begins with "Cheat:" and ends with what catches it.
"""

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS = ROOT / "docs/referee.md", ROOT / "benchmarks/cheats.json"
LEVELS = "bubblewrap", "landlock", "none"
CAUGHT = " Caught by: "


def read_docstring(name: str) -> str:
    """What the file of a cheat says of itself, on one line."""
    text = (ROOT / f"tests/cheats/{name}.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    return " ".join(
        re.sub(r"(?<=\w-)\n", "", docstring).split()
    )  # a word that a line's end divides


def is_scored(name: str) -> bool:
    """Whether a cheat attacks the score alone; the others compete."""
    return read_docstring(name).startswith("Cheat: ")


def split_source(sentence: str) -> tuple[str, str]:
    """What a cheat does, and where it was seen.

    Example: "Fills the disk (autoresearch hole 21)." -> ("Fills the disk", "autoresearch hole 21")
    """
    match = re.fullmatch(r"(.*?)(?: \(([^()]*)\))?\.?", sentence)
    return match[1], match[2] or ""


def make_table(header: Sequence[str], rows: list[list[str]]) -> str:
    """Markdown."""
    head, *lines = ("| " + " | ".join(cells) + " |" for cells in [header, *rows])
    return "\n".join([head, "|---" * len(header) + "|", *lines])


def level_columns(results: dict) -> tuple[str, ...]:
    """The isolation levels at which something was tried."""
    return tuple(level for level in LEVELS if any(level in row for row in results.values()))


def competing_table(results: dict) -> str:
    """A row for each cheat that competes, a column for each isolation level.

    results: {name: {level: {"ended": "crash", ...}}}, as in cheats.json.
    """
    levels, rows = level_columns(results), []
    for name, row in sorted(results.items()):
        if not is_scored(name):
            what, seen = split_source(read_docstring(name))
            rows.append([what, *(row.get(level, {}).get("ended", "") for level in levels), seen])
    return make_table(("what it does", *levels, "seen in"), rows)


def scored_table(results: dict) -> str:
    """A row for each cheat that attacks the score alone: what it does, how it ended, what catches
    it.
    """
    levels, rows = level_columns(results), []
    for name, row in sorted(results.items()):
        if is_scored(name):
            sentence, _, catcher = read_docstring(name).removeprefix("Cheat: ").rpartition(CAUGHT)
            what, seen = split_source(sentence)
            ended = [row.get(level, {}).get("ended", "") for level in levels]
            rows.append([what[0].upper() + what[1:], *ended, catcher.removesuffix("."), seen])
    return make_table(("what it does", *levels, "caught by", "seen in"), rows)


def both_tables(results: dict) -> str:
    """Both tables, one after the other."""
    return competing_table(results) + "\n\n" + scored_table(results)


def replace_block(page: str, name: str, text: str) -> str:
    """The page with other text between the comment that begins with `name` and the next one."""
    pattern = rf"(<!-- {re.escape(name)}: .*? -->\n).*?(<!-- end -->)"
    page, count = re.subn(pattern, lambda m: f"{m[1]}\n{text}\n\n{m[2]}", page, flags=re.S)
    if count != 1:
        raise ValueError(f"the page has {count} places for {name!r}: it needs one")
    return page


def write_tables(page: str) -> str:
    """The page with both tables as they are now."""
    results = json.loads(RESULTS.read_bytes())["results"]
    page = replace_block(page, "cheats that compete", competing_table(results))
    return replace_block(page, "cheats that are scored", scored_table(results))


if __name__ == "__main__":
    PAGE.write_text(write_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
