"""The ledger: every fact of every run, one JSON object a line, appended and never changed.

Each line names the SHA-256 of the line before it: nobody can edit, drop or move one unnoticed.
Whoever notes the head hash elsewhere can also tell that nothing was cut off at the end. There are
three kinds:

    opens    an experiment begins: what it compares (its arms), in which arena, with which budget and device
    run      one run of one arm: seed, status, nats and bytes, probes, seconds of each phase, side figures
    closes   the verdict

Facts are stored, everything else (scores, champion, sigma) is derived by who reads; `line`, a row's
place, is added to it then. An experiment that never closes was interrupted; the same command goes
on with it.
"""

import fcntl
import json
import math
import os
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ratchet.arena.files import Full, Refused, append_line, sha256

FREE_BYTES = 2**30  # of disk, without which no run begins: a full disk must not cost a finished one
CUT = (
    "ledger.jsonl, line {} is cut off and does not count: if a command was killed, the next that writes "
    "mends it; if the file was copied, copy it again"
)
KEY = ("seal", "budget", "device")  # what two scores must share to be compared


class Broken(Refused):
    """The ledger is not what was written; says which line, why, and what to do."""

    def __init__(self, sentence):
        super().__init__(f"ledger.jsonl, {sentence}")


@dataclass
class Experiment:
    """What the lines of one number say. `opens` and `closes` are their facts, `runs` those of each
    run.
    """

    opens: dict
    runs: list = field(default_factory=list)
    closes: dict = field(default_factory=dict)

    def __getattr__(self, name):
        try:
            return self.__dict__["opens"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def verdict(self):
        return self.closes.get("verdict", "")

    @property
    def key(self):
        """What its scores may be compared with: arena, budget, device."""
        return tuple(self.opens[name] for name in KEY)

    def seed(self):
        """Of its next run: it follows from what counts so far, so that stopping a run draws no
        other.
        """
        done = sum(map(counts, self.runs))
        return int(sha256(f"{self.salt} {done}".encode())[:12], 16) % 10**9

    def scores(self, arm, *phases):
        """val_bpb of the valid runs of one arm, in the order in which they were run."""
        rows = (
            run for run in self.runs if run["arm"] == arm and (not phases or run["phase"] in phases)
        )
        return [bpb(run) for run in rows if counts(run)]

    def own_scores(self):
        """Those of the candidate that weigh most: on fresh seeds, else of its screening, else of
        its verb.
        """
        return self.scores(0, "confirm") or self.scores(0, "screen") or self.scores(0, self.role)


def bpb(run, split="val"):
    """Bits per byte of a run's split, from its raw sums."""
    part = run[split]
    return part["nats"] / math.log(2) / part["bytes"]


def disturbed(run):
    """True if another program used a run's device, without --busy: it is made again, however it
    ended.
    """
    return run["shared"] and not run["busy"]


def counts(run):
    """True if a run's score may be used: it is valid, and nothing disturbed it."""
    return run["status"] == "ok" and not disturbed(run)


def parse(data, first=1, before=""):
    """([facts], hash of the last line) of whole lines, from number `first` on; raises Broken."""
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], first):
        try:
            row = json.loads(line)
            named = row["before"]
        except (ValueError, TypeError, KeyError):
            raise Broken(f"line {number} is no ledger line: restore the file from a copy") from None
        if named != before:
            what = (
                f"line {number} does not follow line {number - 1}"
                if number > 1
                else "line 1 is not the first"
            )
            raise Broken(
                f"{what}: one of them was edited, moved or dropped; restore the file from a copy"
            )
        rows.append(row | {"line": number})
        before = sha256(line)
    return rows, before


def utc_now():
    """The time as ledger and journal write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def is_json(text):
    with suppress(ValueError):
        return bool(json.loads(text))
    return False


class Ledger:
    """ledger.jsonl in `folder`. Who reads or writes locks it.

    A line is whole or absent: kill -9 may end a write between two pages of memory, what it leaves
    has no end of line and is no line; who writes next takes it away. `held` is a lock for threads:
    while one has it, no other reads or writes through this object.
    """

    def __init__(self, folder):
        self.path, self.held = Path(folder) / "ledger.jsonl", threading.RLock()
        self._forget()

    def _forget(self):
        self._rows, self._found, self._head, self._size = (
            [],
            {},
            "",
            0,
        )  # what was read, and checked, so far
        self._piece = b""  # what comes after the last whole line

    def rows(self):
        """All lines' facts, the chain checked. Raises Broken. A second call reads only what is new."""
        with self.held:
            self._refresh()
            return [*self._rows]

    def _refresh(self):
        if self.path.exists():
            with open(self.path, "rb") as file:
                with suppress(OSError):  # a disk that can only be read may have no locks
                    fcntl.flock(file, fcntl.LOCK_SH)
                self._read(file)

    def _read(self, file):
        if os.fstat(file.fileno()).st_size < self._size:
            self._forget()  # it is another one
        file.seek(self._size)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        rows, self._head = parse(whole, len(self._rows) + 1, self._head)
        self._size += len(whole)
        self._piece = data[len(whole) :]
        for row in rows:
            self._note(row)

    def _mend(self, file):
        """Take away what a killed command left of a line, but end one that only lacks its end."""
        if self._piece and is_json(self._piece):  # no part of an object is one
            self._write(file, self._size + len(self._piece), b"\n")
            self._read(file)
        file.truncate(self._size)

    def _note(self, row):
        if row["kind"] != "opens" and row["n"] not in self._found:
            self._forget()
            what = f"line {row['line']} is of experiment {row['n']}, which no line opens"
            raise Broken(f"{what}: restore the file from a copy")
        self._rows.append(row)
        if row["kind"] == "opens":
            self._found[row["n"]] = Experiment(row)
        elif row["kind"] == "run":
            self._found[row["n"]].runs.append(row)
        else:
            self._found[row["n"]].closes = row

    def cut(self):
        """A sentence on the last line where it has no end, else ""."""
        with self.held:
            number = len(self.rows()) + 1
            return CUT.format(number) if self._piece else ""

    def head(self):
        """Hash of the last line: note it down elsewhere, and nobody can cut the ledger unnoticed."""
        with self.held:
            return self._head if self.rows() else ""

    def experiments(self):
        """{n: Experiment} in the order in which they were opened."""
        with self.held:
            self._refresh()
            return {**self._found}

    def check_room(self, *more):
        """Raise Full when a run should not begin, for want of room here or in one of more folders."""
        for folder in filter(Path.exists, (self.path.parent, *more)):
            if shutil.disk_usage(folder).free < FREE_BYTES:
                raise Full(
                    f"{folder} has less than {FREE_BYTES >> 20} MB left: free some, then try again"
                )

    def append(self, kind, **facts):
        """Write one line; an experiment that opens gets the next number. Returns its number."""
        with self.held, self._locked() as file:
            before = len(self._rows)
            self._read(file)
            self._mend(file)
            if len(self._rows) < before or (kind != "opens" and facts["n"] not in self._found):
                what = f"{self.path} was replaced by one with fewer lines while this command ran"
                raise Broken(f"{what}: restore it, then give the same command again")
            facts.setdefault("n", 1 + max(self._found, default=0))
            head = {"kind": kind, "time": utc_now(), "before": self._head}
            line = json.dumps(head | facts, allow_nan=False)
            self._write(file, self._size, line.encode() + b"\n")
        return facts["n"]

    @contextmanager
    def _locked(self):
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with open(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _write(self, file, size, line):
        append_line(file, size, line, self.path)
