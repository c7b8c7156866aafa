"""Contestants that are random mixtures of tricks: the referee ends each, and nothing is left."""

import fcntl
import os
import stat
import threading
from pathlib import Path

import psutil
import pytest
import tricks
from conftest import ROOT
from test_cheats import BUSY, compete

from ratchet.referee import limits, sandbox, scoring, trial
from ratchet.referee.job import Job
from ratchet.referee.source import Source
from ratchet.referee.supervisor import EndedEarly, is_alive

TEXT = (ROOT / "tests/referee/tricks.py").read_text(encoding="utf-8")
LEVELS = [level for level in sandbox.LEVELS[:2] if sandbox.level_works(level)]  # they kill
HANGS = 120  # seconds after which a referee will never end
STATUS = {
    "ok",
    "crash",
    "timeout",
    "overtime",
    "invalid",
    "memory",
    "output",
    "processes",
    "disk",
}
SHORT = {
    "READY_SECONDS": 1.0,
    "WAIT_SECONDS": 1.0,
    "EXIT_SECONDS": 0.5,
    "MOST_PROCESSES": 50,
    "LOG_BYTES": 2**18,
    "COPY_SECONDS": 2,
    "FOREIGN_CPU_SHARE": BUSY,
}
NODES = "/dev/null", "/dev/zero", "/proc/uptime", "/proc/stat", os.__file__
pytestmark = pytest.mark.skipif(not LEVELS, reason="tricks need a sandbox")


def describe_file(path, with_contents=True):
    """All that a run could change of a file."""
    status = os.lstat(path)
    lasts = stat.S_ISREG(status.st_mode) and not str(path).startswith("/proc")
    dates = status.st_mtime_ns if lasts else 0
    names = os.listxattr(path, follow_symlinks=False) if os.access(path, os.R_OK) else []
    attributes = {name: os.getxattr(path, name) for name in names}
    contents = path.read_bytes() if with_contents and path.is_file() else b""
    return status.st_mode, status.st_uid, dates, attributes, hash(contents)


def is_free(path):
    """Whether nobody holds a lock on it."""
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def look_around(arena):
    """All that a run could leave on this machine."""
    files = {str(path): describe_file(path) for path in arena.folder.rglob("*")}
    files |= {path: describe_file(Path(path), False) for path in NODES}
    left = [*Path("/dev/shm").glob("redteam-left*"), *Path("/tmp").glob("redteam-left*")]
    return {
        "files": files,
        "free": [is_free(path) for path in arena.folder.rglob("*") if path.is_file()],
        "left": left,
        "mounts": len(Path("/proc/self/mountinfo").read_bytes().splitlines()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": [
            child for child in psutil.Process().children(recursive=True) if is_alive(child)
        ],
        "sleepers": [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if tricks.LEFT in (process.info["cmdline"] or [])
        ],
    }


def collect_only(job, level, record, claims):
    """Stands in for score_submission(): takes the files, scores nothing, as that takes seconds."""
    (job.live_folder / "score/model", job.arena).mkdir(parents=True)
    scoring.collect_artifacts(job.live_folder / "out", job.live_folder / "score/model", job.arena)
    if not (job.live_folder / "score/model/model.safetensors").exists():
        raise EndedEarly("invalid", "no weights")
    return {}


def run_mixture(seed, arena, folder, level):
    """The record of one mixture; raises TimeoutError if the referee hangs."""
    source = Source(f"tricks {seed}", "", f"{TEXT}\n\nplay({seed})\n".encode())
    job = Job(source, 1, "1s", arena, folder / "run", folder / "compiled")
    record = {}

    def run():
        record.update(trial.run_trial(job))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(HANGS)
    if thread.is_alive():
        raise TimeoutError(f"the referee never ends mixture {seed}")
    return record, job


def play_mixtures(seeds, arena, folder, monkeypatch):
    """Run each, at the levels in turn; returns the number of runs by status."""
    for name, value in SHORT.items():
        monkeypatch.setattr(limits, name, value)
    monkeypatch.setattr(trial, "score_submission", collect_only)
    sandbox.best_level()  # which starts processes once
    counts = {}
    for seed in seeds:
        monkeypatch.setenv("RATCHET_ISOLATION", LEVELS[seed % len(LEVELS)])
        before = look_around(arena)
        record, job = run_mixture(seed, arena, folder, LEVELS[seed % len(LEVELS)])
        assert record.get("status") in STATUS, (seed, record)
        assert not job.live_folder.exists(), seed
        assert look_around(arena) == before, (seed, record)
        counts[record["status"]] = counts.get(record["status"], 0) + 1
    return counts


def test_some_mixtures_of_tricks_end_and_leave_nothing(arena, tmp_path, monkeypatch):
    play_mixtures(range(8), arena, tmp_path, monkeypatch)


@pytest.mark.slow
def test_random_mixtures_of_tricks_end_and_leave_nothing(arena, tmp_path, monkeypatch):
    """An honest run after all these is as it was, to the last bit."""
    runs = []
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        runs.append(compete("", tmp_path / name, sandbox.best_level()))
        if name == "before":
            with monkeypatch.context() as patch:
                counts = play_mixtures(range(200), arena, tmp_path, patch)
    assert {"ok", "crash", "timeout", "invalid"} <= {*counts}, counts
    assert [run["status"] for run in runs] == ["ok", "ok"]
    assert runs[0]["val"]["nats"] == runs[1]["val"]["nats"]
