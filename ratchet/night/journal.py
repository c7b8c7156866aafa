"""The journal: what a night did that is no experiment, one event a line in runs/night.jsonl.

begins    a night, or (`resumes`) the rest of one that was interrupted: who is asked, with which limits
answer    one call of the agent: what came of it, the commit of its idea
tries     an idea is an experiment now, maybe as another commit: the champion may have changed
done      an idea has its verdict, is `stale`, or went back to the agent (`repair`)
pauses    it was interrupted: how long it was active, the devices worked, and waited for ideas
ends      the same, and why
"""

import fcntl
import json
import os
from contextlib import contextmanager, suppress

from ratchet.arena.files import append_line
from ratchet.experiments.campaign import parse_time
from ratchet.experiments.ledger import utc_now


class Journal:
    """Append-only; what a power cut left of a line is passed over."""

    def __init__(self, home):
        self.path, self.seen = (
            home / "runs/night.jsonl",
            (0, []),
        )  # its size, and what was read at that
        self.path.parent.mkdir(exist_ok=True)

    def events(self):
        size, found = self.path.stat().st_size if self.path.exists() else 0, []
        if size == self.seen[0]:
            return self.seen[1]
        for line in self.path.read_text(errors="replace", encoding="utf-8").splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        self.seen = size, found
        return found

    def append(self, kind, **facts):
        """Write one event: all of it, or nothing. Raises Full when there is no room."""
        line = (json.dumps({"kind": kind, "time": utc_now()} | facts) + "\n").encode()
        with self._locked() as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line  # what a power cut left is not a part of this one
            append_line(file, size, line, self.path)

    @contextmanager
    def _locked(self):
        with open(self.path, "a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def night(self):
        """Events of the last night."""
        events = self.events()
        starts = [i for i, event in enumerate(events) if event["kind"] == "begins"]
        return events[starts[-1] :] if starts else []

    def answers(self):
        return [event for event in self.night() if event["kind"] == "answer"]

    def verdicts(self):
        """Numbers of the experiments that the last night brought to a verdict."""
        return [event["n"] for event in self.night() if event["kind"] == "done" and "n" in event]

    def waiting(self):
        """Answers with an idea that has no verdict yet, as they are to be tried."""
        over, commits, found = set(), {}, []
        for event in self.night():
            if event["kind"] == "done" and event["outcome"] != "repair":
                over.add(event["call"])
            elif event["kind"] == "answer":
                over.add(event["mends"])
            elif event["kind"] == "tries":
                commits[event["call"]] = {"commit": event["commit"], "parent": event["parent"]}
        for event in self.answers():
            if event["outcome"] == "idea" and event["call"] not in over:
                found.append(event | commits.get(event["call"], {}))
        return found


def active_seconds(events):
    """How long a night has run, the gaps in which nothing did left out.

    Of a part that came to an end as it says itself: a machine that slept, or a clock that was set,
    doesn't count. Of one that was killed by its first and last event.
    """
    total = part = since = 0.0
    for event in events:
        now = parse_time(event["time"])
        if event["kind"] in ("begins", "resumes"):
            total, part, since = total + part, 0.0, now
        part = event.get("active", max(part, now - since))
    return total + part
