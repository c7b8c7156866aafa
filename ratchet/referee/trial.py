"""The referee: runs one commit under its own clock, has it scored, decides.

A contestant is never believed. It gets the training tokens when it says that it is ready: that
starts the clock. It has its weights on disk when it says that it is done: that stops the clock, and
it is killed. Its weights go to `prepare.py score`, which runs its model in a second sandbox. Counts
that only the contestant knows (steps, tokens) are noted as told.
"""

import os
import shutil
import socket
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ratchet.arena.files import sha256, work_folder
from ratchet.referee import devices, foreign_load, sandbox, supervisor
from ratchet.referee.compiler_cache import cache_name, keep_compiled
from ratchet.referee.early_stopping import Hope
from ratchet.referee.environment import copy_contract, environment
from ratchet.referee.folders import all_at_once, remove
from ratchet.referee.limits import LATE, LATE_SECONDS, READY_SECONDS, WEIGHT_BYTES
from ratchet.referee.scoring import judge, number
from ratchet.referee.sealed_arena import Arena
from ratchet.referee.source import Source


class Job(NamedTuple):
    """One run to do: everything that execution needs to know, on whatever machine.

    target: new folder for what the run leaves. compiled: kept compiler caches. splits: what to
    score. reference: the champion's curve, to end a run that can't catch up with it.
    """

    source: Source
    seed: int
    budget: str
    arena: Arena
    target: Path
    compiled: Path
    splits: tuple = ("val",)
    is_baseline: bool = False
    device: str = "cpu"  # chosen by the place that does it
    reference: tuple = ()

    @property
    def seconds(self):
        """On the clock at most: a budget of tokens or FLOPs may take ten times as long as the
        arena's.
        """
        return float(self.budget[:-1]) if self.budget.endswith("s") else 10.0 * self.arena.seconds

    @property
    def torch_device(self):
        """What PyTorch calls the device."""
        return devices.torch_name(self.device)

    @property
    def live(self):
        """Folder in which it runs: the same for all runs on a device, as compiler caches know their
        path.
        """
        return work_folder() / ".live" / devices.seat(self.device)


class Clock:
    """The referee's own: which phase a run is in, and how long its phases took."""

    def __init__(self):
        self.phase, self.since, self.seconds = "start", time.monotonic(), {}

    def enter(self, phase, now=None):
        now = now or time.monotonic()
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self.since
        self.phase, self.since = phase, now


def run(job):
    """Run one contestant with one seed, have it scored; returns the facts of the run.

    status: ok, crash, timeout (no submit), overtime (late), invalid (its score or its files),
    hopeless (if a reference is given), or what it took too much of: memory, output, processes,
    disk. The device is held meanwhile.
    """
    live, level, clock = job.live, sandbox.best_level(), Clock()
    facts = {
        "seed": job.seed,
        "budget": job.budget,
        "status": "ok",
        "reason": "",
        "isolation": level,
    }
    facts |= devices.describe(job.device) | job.source.facts() | {"shared": False, "on": job.device}
    facts["seconds"] = clock.seconds
    with devices.exclusive(job.device, pause=supervisor.pause):
        place(job)
        try:
            told = compete(job, level, clock, facts)
            facts |= judge(job, level, facts, told)
        except supervisor.Ended as end:
            facts |= {"status": end.status, "reason": str(end)}
        except (
            Exception
        ) as error:  # whatever a contestant provokes is a row, not a run that never was
            facts |= {"status": "crash", "reason": f"{type(error).__name__}: {error}"[:300]}
        clock.enter("end")
        facts |= {
            "throttled": devices.throttled(job.device),
            "tail": supervisor.tail(live / "run.log"),
        }
        keep_files(job)
    return facts


def place(job):
    """Fresh folders: code (sealed prepare.py, the contestant), out, tmp, cache.

    The cache is what the compiler made for the same source before its first real token, or for the
    baseline.
    """
    supervisor.end_marked(str(job.live / "out"), str(job.live / "score"))
    remove(job.live)
    for name in ("code", "out", "tmp"):
        (job.live / name).mkdir(parents=True)
    copy_contract(job.live / "code")
    (job.live / "code/train.py").write_bytes(job.source.text)
    known = [job.compiled / name for name in (cache_name(sha256(job.source.text)), "baseline")]
    for folder in [folder for folder in known if folder.exists()][:1]:
        with suppress(OSError):  # another run may take away what nobody has used for long
            os.utime(folder)
            shutil.copytree(folder, job.live / "cache", symlinks=True)
    (job.live / "cache").mkdir(exist_ok=True)


@contextmanager
def started(job, level):
    """(the contestant's process, the referee's end of its socket), until the block ends."""
    live, arena, (ours, theirs) = job.live, job.arena, socket.socketpair()
    view = sandbox.View(
        read=(live / "code", arena.folder / "arena.json", arena.folder / "tokenizer.json"),
        write=(live / "out", live / "cache", live / "tmp"),
        device=job.device,
        file_bytes=WEIGHT_BYTES,
    )
    argv = sandbox.command([sys.executable, str(live / "code/train.py")], view, level)
    env = environment(job) | {"RATCHET_REFEREE": str(theirs.fileno())}
    log, mark = live / "run.log", env["RATCHET_RUN"]
    with ours, supervisor.Watched(argv, env, live / "code", log, mark, theirs) as process:
        yield process, ours


def preflight(job):
    """Bring a contestant to its first training step and no further; the device is held meanwhile.

    Returns (status, reason, last lines of its log) if it doesn't come so far, else None. This is no
    run.
    """
    with devices.exclusive(job.device, pause=supervisor.pause):
        try:
            place(job)
            with started(job, sandbox.best_level()) as (process, ours):
                wait_until_ready(process, ours, Clock())
                keep_compiled(job)
        except supervisor.Ended as end:
            return end.status, str(end), supervisor.tail(job.live / "run.log")
        except Exception as error:  # whatever a contestant provokes
            return (
                "crash",
                f"{type(error).__name__}: {error}"[:300],
                supervisor.tail(job.live / "run.log"),
            )
        finally:
            remove(job.live)


def compete(job, level, clock, facts):
    """The contestant's part of a run: adds to `facts` what was seen, returns what it told. Raises
    Ended.
    """
    with started(job, level) as (process, ours):
        load, energy = foreign_load.Load(job.device, process), devices.joules(job.device)
        try:
            wait_until_ready(process, ours, clock)
            keep_compiled(job)
            load.begin()
            told = train(job, process, ours, clock)
            facts |= load.seen()
        except supervisor.Ended as end:  # if it was stopped, maybe for the sake of other programs
            facts |= load.seen() if end.status != "crash" else {}
            raise
        finally:
            facts["peak_memory_mb"] = round(process.peak_bytes / 2**20)
    facts |= {key: number(told.get(key)) for key in ("steps", "tokens", "flops_per_token")}
    facts["joules"] = energy and devices.joules(job.device) - energy
    late = facts["seconds"]["train"] - job.seconds
    if late > max(LATE * job.seconds, LATE_SECONDS):
        raise supervisor.Ended("overtime", f"it submitted {late:.2f} s after its {job.seconds:g} s")
    return told


def wait_until_ready(process, channel, clock):
    """Wait until the contestant says that it is ready to train. Raises Ended after READY_SECONDS."""
    begin = now = time.monotonic()
    slow = f"it was not ready to train after {READY_SECONDS / 60:g} minutes of rehearsal"
    while True:
        said, now = process.message(channel, begin + READY_SECONDS - now, slow)
        if said.get("phase") == "train":
            return
        clock.enter("rehearsal", now)


def train(job, process, channel, clock):
    """Start the clock by handing over the training tokens, stop it when the weights are saved."""
    with open(job.arena.folder / "train.tokens", "rb") as file:
        clock.enter("train")
        with suppress(OSError):  # a contestant that has gone is noticed below
            socket.send_fds(channel, [b"go"], [file.fileno()])
    slow = f"it should have stopped after {job.seconds:g} s and did not"
    try:
        hope = Hope(job.live / "out/curve.jsonl", job.budget, job.reference)
        told, now = process.message(channel, 1.1 * job.seconds + 10, slow, hope)
    except supervisor.Ended:
        clock.enter("score")
        raise
    clock.enter("score", now)
    return told


def keep_files(job):
    """Move what a run leaves to its folder."""
    score, model = job.live / "score", job.live / "score/model"
    with all_at_once(job.target) as part:
        for path in [
            *(model.iterdir() if model.exists() else []),
            job.live / "run.log",
            score / "score.log",
        ]:
            if path.exists():
                shutil.move(path, part / path.name)
        (part / "train.py").write_bytes(job.source.text)
    remove(job.live)
