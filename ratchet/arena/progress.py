"""Progress of long work: a live line in a terminal, else a plain line every 10 s."""

import threading
import time
from datetime import timedelta

from rich.console import Console
from rich.text import Text

PROGRESS_SECONDS = 0.5, 10  # between two looks at long work: in a terminal, elsewhere
console = Console(highlight=False, soft_wrap=True, markup=False)


class ProgressLine:
    """Shows what long work does: a live line in a terminal, else a plain line every 10 s.

    describe() -> how far it is; by default `detail`, which may change at any time:
    with ProgressLine("scoring") as line: line.detail = "row 12 of 240"
    """

    def __init__(self, name, describe=None):
        self.name, self.detail, self.begin = name, "", time.monotonic()
        self.describe, self._ended = describe or (lambda: self.detail), threading.Event()
        self._live = console.status(Text(name), spinner="line") if console.is_terminal else None
        self._thread = threading.Thread(target=self._keep_showing, daemon=True)

    def __enter__(self):
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        if self._live:
            self._live.stop()

    def __str__(self):
        passed = f"{duration(time.monotonic() - self.begin)} so far"
        return f"{self.name}: {', '.join(filter(None, [self.describe(), passed]))}"

    def seconds_left(self, done, total):
        """About how long the rest takes, as text, if it goes on like this: "8 s left"."""
        return f"{duration((time.monotonic() - self.begin) * (total / done - 1))} left"

    def _keep_showing(self):
        while not self._ended.wait(PROGRESS_SECONDS[self._live is None]):
            (self._live.update if self._live else console.print)(Text(str(self)))


def duration(seconds):
    """Example: 8 s, 0:02:10"""
    return f"{seconds:.0f} s" if seconds < 100 else f"{timedelta(seconds=round(seconds))}"


def reading_line(task, measure):
    """A ProgressLine on text. measure() -> (documents, bytes, bytes of all) so far; 0 where nobody
    knows.
    """
    _, start, _ = measure()

    def describe():
        count, size, total = measure()
        parts = [f"{count:,.0f} documents"] * (count > 0)
        parts += [f"{size / 1e6:,.1f}" + f" of {total / 1e6:,.1f}" * (total > 0) + " MB"] * (
            size > 0
        )
        if start < size < total:
            parts.append(line.seconds_left(size - start, total - start))
        return ", ".join(parts)

    line = ProgressLine(task, describe)
    return line
