"""A chart of points on two logarithmic axes, drawn with characters."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

LIGHT = "·"  # of a line
SEVERAL = "*"  # marks at one place
MARGIN = 7  # characters left of the chart


class Series(NamedTuple):
    """Points with a mark, above 0. is_line: they are joined by dots."""

    mark: str
    points: Sequence[tuple[float, float]]
    is_line: bool = False


class Scale(NamedTuple):
    """A logarithmic axis of so many characters."""

    low: float  # log10
    high: float
    size: int

    def place(self, value: float) -> int:
        """The character of a value."""
        share = (math.log10(value) - self.low) / ((self.high - self.low) or 1)
        return round(share * (self.size - 1))

    def ticks(self) -> Iterator[tuple[int, str]]:
        """(character, label) of 1, 2, 5, 10, 20 and so on."""
        for power in range(math.floor(self.low), math.ceil(self.high) + 1):
            for digit in (1, 2, 5):
                if self.low <= math.log10(digit * 10.0**power) <= self.high:
                    yield self.place(digit * 10.0**power), short_number(digit * 10.0**power)


def make_scale(values: Iterable[float], size: int) -> Scale:
    logs = [math.log10(value) for value in values]
    return Scale(min(logs) - 0.02, max(logs) + 0.02, size)


def short_number(value: float) -> str:
    """Examples: 0.5 -> "0.5", 20000 -> "20k", 1500000 -> "1.5M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def draw_chart(
    series: Sequence[Series], x_name: str, y_name: str, width: int = 76, height: int = 18
) -> str:
    """The chart as lines of at most `width` characters; what comes first is drawn over."""
    points = [point for each in series for point in each.points]
    x, y = (
        make_scale(column, size) for column, size in zip(zip(*points), (width - MARGIN, height))
    )
    grid = [[" "] * x.size for _ in range(y.size)]
    for each in series:
        if each.is_line:
            draw_line(grid, [(x.place(a), y.place(b)) for a, b in each.points])
            continue
        for a, b in each.points:
            row = grid[y.place(b)]
            taken = row[x.place(a)] not in (" ", LIGHT, each.mark)
            row[x.place(a)] = SEVERAL if taken else each.mark
    labels = dict(y.ticks())
    lines = [
        f"{labels.get(number, ''):>{MARGIN - 2}} {'┤' if number in labels else '│'}{''.join(row)}"
        for number, row in reversed([*enumerate(grid)])
    ]
    return "\n".join([y_name, *(line.rstrip() for line in lines), *x_axis(x), x_name.rjust(width)])


def draw_line(grid: list[list[str]], places: Sequence[tuple[int, int]]) -> None:
    """Join places, (column, row) each, by dots."""
    for (a, b), (c, d) in pairwise(places):
        steps = max(abs(c - a), abs(d - b), 1)
        for step in range(steps + 1):
            share = step / steps
            grid[round(b + share * (d - b))][round(a + share * (c - a))] = LIGHT


def x_axis(x: Scale) -> tuple[str, str]:
    """The line below a chart, and its labels: as many as don't touch each other."""
    line, labels, end = ["─"] * x.size, "", 0
    for place, label in x.ticks():
        begin = min(place - len(label) // 2, x.size - len(label)) + MARGIN
        if begin > end:
            line[place] = "┬"
            labels = labels.ljust(begin) + label
            end = len(labels)
    return " " * (MARGIN - 1) + "└" + "".join(line), labels
