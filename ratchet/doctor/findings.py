"""What the doctor has seen."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table


class Finding(NamedTuple):
    """One check, for example Finding("disk", True, "151 GB free")."""

    name: str
    well: bool
    seen: str
    advice: str = ""  # what to do about it if it isn't well


def first_remedy(said: str, remedies: Mapping[str, str], otherwise: str) -> str:
    """What to do about an error: the first of {words: remedy} whose words are in it."""
    return next((remedy for words, remedy in remedies.items() if words in said), otherwise)


def without_needless_advice(findings: Iterable[Finding]) -> list[Finding]:
    """The same, with advice only where something is wrong."""
    return [finding._replace(advice="") if finding.well else finding for finding in findings]


def findings_table(findings: list[Finding]) -> Table:
    """A line for each finding, with advice where something is wrong."""
    table = Table("", "check", "found", "what to do", box=None)
    for finding in findings:
        mark = "[green]ok[/]" if finding.well else "[yellow]!![/]"
        table.add_row(mark, *map(escape, finding[:1] + finding[2:]))
    return table
