"""The journal: what a night did beside its experiments, one event a line in runs/night.jsonl.

begins    a night: who is asked (`agents`, in turns, if there are several), with which limits
resumes   the rest of a night that was interrupted
answer    one call of an agent: whose, what came of it, the commit of its idea
drops     one of several agents is asked no more: why
waits     the agent's service failed: until when (Unix time) it is not asked, after which call
tries     an idea is an experiment now, maybe as another commit: the champion may have changed
done      an idea has its verdict, was given up (`stale`), or goes back to the agent (`repair`)
pauses    the night was interrupted: how long it was active, waited for the agent's service; how
          long the devices worked, waited for ideas
ends      the same, when a limit was reached or the agent failed: why, and the exit code
"""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ratchet.arena.files import append_line
from ratchet.experiments.campaign import parse_time
from ratchet.experiments.ledger import utc_now


class Journal:
    """Append-only. A line that a power cut left unfinished is passed over.

    An event is a dict, {"kind": "tries", "time": "2026-01-31T04:05:06Z", "call": 3, ...}.
    """

    def __init__(self, home: Path):
        self.path = home / "runs/night.jsonl"
        self.path.parent.mkdir(exist_ok=True)
        self._size, self._events = 0, []  # of the file when it was read, and what was in it

    def read_events(self) -> list[dict]:
        """All events of all nights, in order."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != self._size:
            events = []
            for line in self.path.read_text(errors="replace", encoding="utf-8").splitlines():
                with suppress(ValueError):
                    events.append(json.loads(line))
            self._size, self._events = size, events
        return self._events

    def append(self, kind: str, **values) -> None:
        """Write one event: all of it, or nothing. Raises Full when there is no room."""
        line = (json.dumps({"kind": kind, "time": utc_now()} | values) + "\n").encode()
        with self._locked() as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line  # an unfinished line is no part of this one
            append_line(file, size, line, self.path)

    @contextmanager
    def _locked(self) -> Iterator:
        with open(self.path, "a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def last_night(self) -> list[dict]:
        """Events of the last night; [] before the first."""
        events = self.read_events()
        starts = [i for i, event in enumerate(events) if event["kind"] == "begins"]
        return events[starts[-1] :] if starts else []

    def list_answers(self, by: str | None = None) -> list[dict]:
        """What was answered in the last night, one event for each call; by one of several agents.

        Answers of an older night don't say whose they are, as it had one.
        """
        answers = [event for event in self.last_night() if event["kind"] == "answer"]
        return [event for event in answers if by in (None, event.get("by", by))]

    def list_drops(self) -> dict[str, str]:
        """{agent: why it is asked no more} of several, since the night began or was resumed."""
        drops: dict[str, str] = {}
        for event in self.last_night():
            if event["kind"] == "resumes":
                drops = {}
            elif event["kind"] == "drops":
                drops[event["by"]] = event["reason"]
        return drops

    def list_tries(self) -> list[dict]:
        """What became experiments in the last night, one event each time that one was begun."""
        return [event for event in self.last_night() if event["kind"] == "tries"]

    def list_verdicts(self) -> list[int]:
        """Numbers of the experiments that the last night brought to a verdict."""
        done = [event for event in self.last_night() if event["kind"] == "done"]
        return [event["n"] for event in done if "n" in event]

    def has_verdict(self, call: int) -> bool:
        """Whether the idea of an answer was an experiment that is decided."""
        done = [event for event in self.last_night() if event["kind"] == "done"]
        return any(event["call"] == call and "n" in event for event in done)

    def list_waiting(self) -> list[dict]:
        """Answers whose idea has no verdict yet, with the commit and parent to be tried now."""
        finished, moved = set(), {}
        for event in self.last_night():
            if event["kind"] == "done" and event["outcome"] != "repair":
                finished.add(event["call"])
            elif event["kind"] == "answer":
                finished.add(event["mends"])
            elif event["kind"] == "tries":
                moved[event["call"]] = {"commit": event["commit"], "parent": event["parent"]}
        ideas = [event for event in self.list_answers() if event["outcome"] == "idea"]
        waiting = [event for event in ideas if event["call"] not in finished]
        return [event | moved.get(event["call"], {}) for event in waiting]


def active_seconds(events: list[dict]) -> float:
    """How long a night has run, without the gaps between its parts.

    A part that came to an end says so itself: the time that a machine slept, or by which a clock
    was set, doesn't count. A part that was killed counts from its first event to its last.
    """
    total = part = begin = 0.0
    for event in events:
        now = parse_time(event["time"])
        if event["kind"] in ("begins", "resumes"):
            total, part, begin = total + part, 0.0, now
        part = event.get("active", max(part, now - begin))
    return total + part


def list_parts(events: list[dict]) -> list[tuple[float, float]]:
    """[(begin, end)] of the parts of a night, in seconds since 1970.

    One that was killed lasts until the next, the last one for ever unless it has ended.
    """
    parts: list[tuple[float, float]] = []
    for event in events:
        now = parse_time(event["time"])
        if event["kind"] in ("begins", "resumes"):
            parts = [(begin, min(end, now)) for begin, end in parts] + [(now, math.inf)]
        elif event["kind"] in ("pauses", "ends"):
            parts[-1] = parts[-1][0], now
    return parts


def agents_of(begin: dict) -> list[str]:
    """Who has the ideas of a night; begin: its first event."""
    return begin.get("agents") or [begin["agent"]]
