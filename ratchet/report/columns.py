"""The columns of the page's table: an entry of COLUMNS is all that a column needs."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ratchet.claims import list_numbers

Row = dict[str, Any]  # an experiment, as data.experiment_row() makes it


class Column(NamedTuple):
    """A column; whatever `text` returns is escaped by the page, as it may be hostile."""

    heading: str
    value: Callable[[Row], Any]  # a number or a text to sort by; None comes last
    text: Callable[[Row], str]
    kind: str = ""  # of its cells: number, time, mark (in the verdict's colour), idea


def shorten(text: str, most: int) -> str:
    """Example: ("a long idea", 7) -> "a long…"."""
    return text if len(text) <= most else text[: most - 1] + "…"


def score_text(row: Row) -> str:
    """Example: "1.4407 ± 0.0123"."""
    if row["mean"] is None:
        return ""
    return f"{row['mean']:.4f}" + ("" if row["half"] is None else f" ± {row['half']:.4f}")


def gain_text(row: Row) -> str:
    """Examples: "+0.0432 ± 0.0311, with 5, 8", "(+0.0432 ± 0.0311, selected)", a ratio."""
    if "gain" not in row:
        return row.get("gain_words", "")
    sign = "−" if row["gain"] < 0 else "+"
    text = f"{sign}{abs(row['gain']):.4f} ± {(row['high'] - row['low']) / 2:.4f}"
    if row["selected"]:
        return f"({text}, selected)"
    return f"{text}, with {list_numbers(row['with'])}" if row["with"] else text


def idea_text(row: Row) -> str:
    if row["members"]:
        ideas = "; ".join(f"{member['n']} {member['idea']}" for member in row["members"])
        return f"trial of {ideas}"
    return row["idea"] or f"{row['role']}: {', '.join(row['arms'])}; {row['reason']}"


COLUMNS = [
    Column("n", lambda row: row["n"], lambda row: str(row["n"]), "number"),
    Column("UTC", lambda row: row["time"], lambda row: row["time"][5:16].replace("T", " "), "time"),
    Column("verdict", lambda row: row["verdict"], lambda row: row["verdict"], "mark"),
    Column("val_bpb", lambda row: row["mean"], score_text, "number"),
    Column("gain", lambda row: row.get("gain"), gain_text, "number"),
    Column("runs", lambda row: row["runs"], lambda row: str(row["runs"]), "number"),
    Column("by", lambda row: row["by"], lambda row: shorten(row["by"], 24)),
    Column("idea", lambda row: row["idea"], lambda row: shorten(idea_text(row), 240), "idea"),
]


def headings() -> list[dict[str, str]]:
    """What the page needs to know of the columns, for example [{"name": "n", "kind": "number"}]."""
    return [{"name": column.heading, "kind": column.kind} for column in COLUMNS]


def cells_of(row: Row) -> list[dict[str, Any]]:
    """The cells of an experiment's row, for example [{"value": 3, "text": "3"}]."""
    return [{"value": column.value(row), "text": column.text(row)} for column in COLUMNS]
