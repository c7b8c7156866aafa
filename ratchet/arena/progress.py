"""Progress of long work: a live line in a terminal, else a plain line every 10 s."""

import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

LIVE_SECONDS = 0.5  # between two looks at long work, in a terminal
PLAIN_SECONDS = 10  # elsewhere
console = Console(highlight=False, soft_wrap=True, markup=False)


class ProgressLine:
    """Shows what long work does: a live line in a terminal, else a plain line every 10 s.

    describe() -> how far it is; by default `detail`, which may change at any time:
    with ProgressLine("scoring") as line: line.detail = "row 12 of 240"
    """

    def __init__(self, name: str, describe: Callable[[], str] | None = None) -> None:
        self.name, self.detail, self.begin = name, "", time.monotonic()
        self.describe = describe or (lambda: self.detail)
        self._ended = threading.Event()
        self._live = console.status(Text(name), spinner="line") if console.is_terminal else None
        self._thread = threading.Thread(target=self._keep_showing, daemon=True)

    def __enter__(self) -> "ProgressLine":
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._live:
            self._live.stop()

    def __str__(self) -> str:
        passed = f"{format_duration(time.monotonic() - self.begin)} so far"
        return f"{self.name}: {', '.join(filter(None, [self.describe(), passed]))}"

    def time_left(self, done: float, total: float) -> str:
        """About how long the rest takes if it goes on like this: "8 s left"."""
        passed = time.monotonic() - self.begin
        return f"{format_duration(passed * (total / done - 1))} left"

    def _keep_showing(self) -> None:
        while not self._ended.wait(LIVE_SECONDS if self._live else PLAIN_SECONDS):
            if self._live:
                self._live.update(Text(str(self)))
            else:
                console.print(Text(str(self)))


def format_duration(seconds: float) -> str:
    """Example: 8 s, 12 min, 2.1 h"""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def reading_line(task: str, measure: Callable[[], tuple[float, float, float]]) -> ProgressLine:
    """A ProgressLine on text that is read or downloaded.

    measure() -> (documents, bytes, bytes of all) so far; 0 where nobody knows.
    """
    _, start, _ = measure()

    def describe() -> str:
        count, size, total = measure()
        parts = []
        if count:
            parts.append(f"{count:,.0f} documents")
        if size:
            whole = f" of {total / 1e6:,.1f}" if total else ""
            parts.append(f"{size / 1e6:,.1f}{whole} MB")
        if start < size < total:
            parts.append(line.time_left(size - start, total - start))
        return ", ".join(parts)

    line = ProgressLine(task, describe)
    return line
