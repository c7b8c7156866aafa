"""The ledger has every fact of every run, one JSON object a line, appended and never changed.

Each line names the SHA-256 of the line before it: nobody can edit, drop or move one unnoticed.
Whoever notes the head hash elsewhere can also tell that nothing was cut off at the end. There are
three kinds:

    opens    an experiment begins: the sources that it compares (its arms), arena, budget, device
    run      one run of one arm: seed, status, nats and bytes, probes, seconds of each phase
    closes   the verdict; an idea that is out may run again, and gets another one

The verdict of a trial is also that of the ideas that it `decides`.

Facts are stored, everything else (scores, champion, sigma) is derived by who reads; `line`, a row's
number, is added to it then. An experiment that never closes was interrupted; the same command goes
on with it.
"""

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ratchet.arena.files import Full, Refused, append_line, sha256
from ratchet.arena.results import bits_per_byte
from ratchet.experiments.goals import VAL_BPB, Goal

FREE_BYTES = 2**30  # of disk, without which no run begins: a full disk must not cost a finished one
CUT_OFF = (
    "ledger.jsonl, line {} is cut off and does not count: if a command was killed, "
    "the next that writes mends it; if the file was copied, copy it again"
)

CANDIDATE, CHAMPION = 0, 1  # arms of a try, and of a trial
BASELINE = 2  # a third one of a trial whose goal is not val_bpb
Row = dict[str, Any]  # the facts of a line


class Broken(Refused):
    """The ledger is not what was written; says which line, why, and what to do."""

    def __init__(self, sentence):
        super().__init__(f"ledger.jsonl, {sentence}")


@dataclass
class Experiment:
    """What the lines of one number say: those of its first line by name, its runs, its verdict.

    What a role has no use for, or an older ledger did not note, has the default.
    """

    n: int
    line: int  # of the ledger, in which it was opened
    role: str  # calibrate, try, trial, compare, closing or audit
    time: str  # when it was opened, as "2026-11-23T09:17:38Z"
    opens: Row  # its first line, whole
    salt: str = ""  # what its seeds are drawn from
    arms: list[Row] = field(default_factory=list)  # name, commit, file, source, size of each
    arena: str = ""
    seal: str = ""  # of the arena
    budget: str = ""
    device: str = ""  # its kind, as "cpu: Intel(R) Xeon(R) Processor, 2 cores"
    isolation: str = ""
    machinery: str = ""  # hash of all sealed files
    busy: bool = False
    limits: dict[str, float] = field(default_factory=dict)  # {name of a measure: limit}
    goal: Goal = VAL_BPB
    idea: str = ""
    by: str = ""  # who had the idea
    parent: str = ""  # commit of the champion that a try is held against
    rule: str = ""  # by which a calibration's campaign decides: points, or "" in older ledgers
    profile: dict[str, Any] = field(default_factory=dict)  # verdicts.Profile of a try or a trial
    members: list[int] = field(default_factory=list)  # ideas that a trial tries together
    alone: list[int] = field(default_factory=list)  # ideas that collide with these
    may_tie: bool = False  # whether it may be kept as it leaves less code
    as_good: bool = False  # whether a trial keeps what isn't worse
    quick: bool = False  # of older ledgers: decided by one run
    gain: float | None = None  # in bpb, that was expected of the idea
    near: int | None = None  # number of an earlier experiment that the idea is like
    seeds: int = 0  # of each arm
    sealed: dict[str, str] = field(default_factory=dict)  # {path: hash} of all sealed files
    runs: list[Row] = field(default_factory=list)
    decisions: list[Row] = field(default_factory=list)  # its lines with a verdict
    closes: Row = field(default_factory=dict)  # the last verdict's line, {} before there is one

    @property
    def verdict(self) -> str:
        return self.closes.get("verdict", "")

    @property
    def has_own_verdict(self) -> bool:
        """Whether its verdict isn't that of a trial of several ideas."""
        return self.closes.get("n", self.n) == self.n

    @property
    def is_decided(self) -> bool:
        """Whether it has a verdict that no trial will change."""
        return self.verdict not in ("", "hit")

    @property
    def reason(self) -> str:
        return self.closes.get("reason", "")

    @property
    def comparison_key(self) -> tuple:
        """What two sources must share to be compared: seal, budget, device, limits, goal."""
        goal = () if self.goal.is_val_bpb else (self.goal,)
        return self.seal, self.budget, self.device, *sorted(self.limits.items()), *goal

    def next_seed(self) -> int:
        """It follows from the runs that count so far, so that stopping a run draws no other."""
        done = sum(map(is_valid, self.runs))
        return int(sha256(f"{self.salt} {done}".encode())[:12], 16) % 10**9

    def scores(self, arm: int, *phases: str) -> list[float]:
        """Scores of the valid runs of one arm, in the order in which they were run."""
        return [score_of(run, self.goal) for run in self.valid_runs(arm, *phases)]

    def valid_runs(self, arm: int, *phases: str) -> list[Row]:
        """Those of one arm, in these phases or in any, in the order in which they were run."""
        of_arm = [run for run in self.runs if run["arm"] == arm and is_valid(run)]
        return [run for run in of_arm if not phases or run["phase"] in phases]

    def deciding_runs(self) -> list[Row]:
        """Those of arm 0 on fresh seeds, else of its search, else of its verb."""
        for phases in (("confirm",), ("search", "screen")):
            if runs := self.valid_runs(CANDIDATE, *phases):
                return runs
        return self.valid_runs(CANDIDATE, self.role)

    def deciding_scores(self) -> list[float]:
        """The scores of these."""
        return [score_of(run, self.goal) for run in self.deciding_runs()]


NAMES = {each.name for each in fields(Experiment)} - {"opens", "runs", "decisions", "closes"}


def opened_by(row: Row) -> Experiment:
    """The experiment that a line opens."""
    known: Row = {"role": "", "time": ""} | {name: row[name] for name in NAMES & row.keys()}
    known["goal"] = Goal(**row.get("goal", {}))
    return Experiment(opens=row, **known)


def bpb(run: Mapping[str, Any], split: str = "val") -> float:
    """Bits per byte of a run's split, from its raw sums; older rows have no charge."""
    part = run[split]
    return bits_per_byte(part["nats"] + part.get("charged_nats", 0.0), part["bytes"])


def score_of(run: Mapping[str, Any], goal: Goal) -> float:
    """What a run is judged by, lower is better: its val_bpb, or log2 of the goal's measure."""
    return bpb(run) if goal.is_val_bpb else goal.log_of(run)


def is_disturbed(run: Mapping[str, Any]) -> bool:
    """Whether another program used a run's device, without --busy: it is made again then."""
    return run["shared"] and not run["busy"]


def is_valid(run: Mapping[str, Any]) -> bool:
    """Whether a run's score may be used: it has one, and nothing disturbed it."""
    return run["status"] == "ok" and not is_disturbed(run)


def parse_lines(data: bytes, first: int = 1, before: str = "") -> tuple[list[Row], str]:
    """([row], hash of the last line) of whole lines, from number `first` on; raises Broken."""
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], first):
        try:
            row = json.loads(line)
            named = row["before"]
        except (ValueError, TypeError, KeyError):
            raise Broken(f"line {number} is no ledger line: restore the file from a copy") from None
        if named != before:
            gap = f"line {number} does not follow line {number - 1}"
            raise Broken(
                f"{gap if number > 1 else 'line 1 is not the first'}: "
                "one of them was edited, moved or dropped; restore the file from a copy"
            )
        rows.append(row | {"line": number})
        before = sha256(line)
    return rows, before


def utc_now() -> str:
    """The time as ledger and journal write it: "2026-11-23T09:17:38Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def is_json(text: bytes) -> bool:
    with suppress(ValueError):
        return bool(json.loads(text))
    return False


class Ledger:
    """ledger.jsonl in `folder`. Who reads or writes locks it.

    A line is whole or absent: kill -9 may end a write between two pages of memory, what it leaves
    has no end of line and is no line; who writes next takes it away. `held` is a lock for threads:
    while one has it, no other reads or writes through this object.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.held = Path(folder) / "ledger.jsonl", threading.RLock()
        self._forget()

    def _forget(self) -> None:
        """Begin to read anew."""
        self._rows: list[Row] = []  # what was read, and checked, so far
        self._experiments: dict[int, Experiment] = {}
        self._head = ""  # hash of the last line
        self._size = 0  # bytes of whole lines
        self._piece = b""  # what comes after the last whole line

    def rows(self) -> list[Row]:
        """All lines' facts, the chain checked; a second call reads only what is new.

        Raises Broken.
        """
        with self.held:
            self._refresh()
            return [*self._rows]

    def _refresh(self) -> None:
        if self.path.exists():
            with open(self.path, "rb") as file:
                with suppress(OSError):  # a disk that can only be read may have no locks
                    fcntl.flock(file, fcntl.LOCK_SH)
                self._read(file)

    def _read(self, file) -> None:
        if os.fstat(file.fileno()).st_size < self._size:
            self._forget()  # it is another one
        file.seek(self._size)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        rows, self._head = parse_lines(whole, len(self._rows) + 1, self._head)
        self._size += len(whole)
        self._piece = data[len(whole) :]
        for row in rows:
            self._add_row(row)

    def _mend(self, file) -> None:
        """Take away what a killed command left of a line, but end one that only lacks its end."""
        if self._piece and is_json(self._piece):  # no part of an object is one
            self._write(file, self._size + len(self._piece), b"\n")
            self._read(file)
        file.truncate(self._size)

    def _add_row(self, row: Row) -> None:
        named = {row["n"], *row.get("decides", ())} if row["kind"] != "opens" else set()
        if unknown := named - self._experiments.keys():
            self._forget()
            stray = f"line {row['line']} is of experiment {min(unknown)}, which no line opens"
            raise Broken(f"{stray}: restore the file from a copy")
        self._rows.append(row)
        if row["kind"] == "opens":
            self._experiments[row["n"]] = opened_by(row)
        elif row["kind"] == "run":
            self._experiments[row["n"]].runs.append(row)
        else:
            self._experiments[row["n"]].decisions.append(row)
            for n in named:
                self._experiments[n].closes = row

    def cut_off_line(self) -> str:
        """A sentence on the last line where it has no end, else ""."""
        with self.held:
            number = len(self.rows()) + 1
            return CUT_OFF.format(number) if self._piece else ""

    def head_hash(self) -> str:
        """Hash of the last line: note it elsewhere, and nobody can cut the ledger unnoticed."""
        with self.held:
            return self._head if self.rows() else ""

    def experiments(self) -> dict[int, Experiment]:
        """{n: Experiment} in the order in which they were opened. Raises Broken."""
        with self.held:
            self._refresh()
            return {**self._experiments}

    def check_room(self, *more: Path) -> None:
        """Raise Full when there is no room for a run, here or in one of more folders."""
        for folder in filter(Path.exists, (self.path.parent, *more)):
            if shutil.disk_usage(folder).free < FREE_BYTES:
                raise Full(
                    f"{folder} has less than {FREE_BYTES >> 20} MB left: free some, then try again"
                )

    def append(self, kind: str, **row: Any) -> int:
        """Write one line; an experiment that opens gets the next number. Returns its number.

        Raises Broken, Full, and ValueError for a number that JSON doesn't have.
        """
        with self.held, self._locked() as file:
            before = len(self._rows)
            self._read(file)
            self._mend(file)
            if len(self._rows) < before or (kind != "opens" and row["n"] not in self._experiments):
                raise Broken(
                    f"{self.path} was replaced by one with fewer lines while this command ran: "
                    "restore it, then give the same command again"
                )
            row.setdefault("n", 1 + max(self._experiments, default=0))
            head = {"kind": kind, "time": utc_now(), "before": self._head}
            line = json.dumps(head | row, allow_nan=False)
            self._write(file, self._size, line.encode() + b"\n")
        return row["n"]

    @contextmanager
    def _locked(self) -> Generator[Any, None, None]:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with open(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _write(self, file, size: int, line: bytes) -> None:
        append_line(file, size, line, self.path)
