"""The palette: a colour and marks for each verdict, which the colour-blind tell apart.

The colours are those of Okabe and Ito, "Color Universal Design" (2008).
"""

from typing import NamedTuple

BLUE = "#0072b2"
GREEN = "#009e73"
GREY = "#8a8a90"
ORANGE = "#e69f00"
PURPLE = "#cc79a7"
SKY = "#56b4e9"
VERMILION = "#d55e00"
LINES = [BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY]  # of curves, in this order


class Style(NamedTuple):
    """How a verdict looks, for example Style("#009e73", "*", 130, "star", "diamond", "green")."""

    color: str
    marker: str  # matplotlib's
    size: int  # matplotlib's, points squared
    symbol: str  # plotly's
    symbol_3d: str  # plotly's, which has fewer of them in three dimensions
    terminal: str  # rich's


class Theme(NamedTuple):
    """What a picture is drawn on and with."""

    paper: str
    ink: str
    dim: str
    line: str


# {what a picture's name ends with: its theme}: paper and ink are those of GitHub's pages.
THEMES = {
    "": Theme("#ffffff", "#1f2328", "#59636e", BLUE),
    "-dark": Theme("#0d1117", "#f0f6fc", "#9198a1", SKY),
}
BASELINE = Style(BLUE, "s", 45, "square", "square", "cyan")
UNFINISHED = Style(SKY, "o", 28, "circle-open", "circle-open", "red")
HIT = Style(ORANGE, "D", 32, "diamond", "diamond-open", "yellow")
WITHDRAWN = Style(PURPLE, "v", 32, "triangle-down", "square-open", "magenta")
OUT = Style(GREY, "x", 28, "x", "circle", "dim")
FAILED = Style(VERMILION, "^", 32, "triangle-up", "cross", "red")
STYLES = {
    "baseline": BASELINE,
    "keep": Style(GREEN, "*", 130, "star", "diamond", "green"),
    "hit": HIT,
    "withdrawn": WITHDRAWN,
    "out": OUT,
    "open": UNFINISHED,
    "unfinished": UNFINISHED,
    "running": UNFINISHED._replace(terminal="bold"),
    # of older ledgers
    "discard": OUT,
    "undecided": HIT,
    "overtaken": WITHDRAWN,
    # of comparisons
    "audited": BASELINE,
    "compared": BASELINE,
}


def style_of(verdict: str) -> Style:
    """The style of a verdict or state; all ways in which a run fails share one."""
    return STYLES.get(verdict, FAILED)


def palette_data() -> dict:
    """The palette as JSON for the page."""
    return {
        "verdicts": {name: style._asdict() for name, style in STYLES.items()},
        "failed": FAILED._asdict(),
        "lines": LINES,
    }
