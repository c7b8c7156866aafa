"""Runs as jobs of a Slurm cluster, each with one GPU where the cluster has GPUs.

The head talks to Slurm with sbatch, squeue, scancel and sinfo alone: a cluster needs no accounting.
Repository, Python and arenas lie on a file system that all nodes see; job and outcome travel
through a folder in runs/.slurm. SBATCH_* variables choose partition, account and so on, and
RATCHET_SBATCH holds further options of sbatch, like "--cpus-per-task=8 --mem=32G".
"""

import base64
import dataclasses
import functools
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from ratchet import commits
from ratchet.arena.definition import Arena
from ratchet.arena.files import ROOT, Refused, cache_folder, replace_file
from ratchet.executors.base import (
    Conditions,
    Executor,
    NodeDied,
    Outcome,
    Task,
    Tell,
    Verb,
    refuse_devices,
    say_nothing,
    wait_for,
)
from ratchet.executors.travel import OtherKind, execute_here, local_executor, read_arena
from ratchet.referee import supervisor
from ratchet.referee.early_stopping import Milestone
from ratchet.referee.job import Job
from ratchet.referee.source import Source
from ratchet.untrusted_text import clean_text

MARGIN_SECONDS = 3600  # of a job, beside its training: start, rehearsal, scoring
ASK_SECONDS = 3  # between two questions to Slurm's controller, for all jobs together
ARRIVAL_SECONDS = 10  # for an outcome to be seen on a shared file system after its job has ended
COMMAND_SECONDS = 60  # for a command of Slurm to answer
LEAVE_SECONDS = 1  # for scancel to answer: Ctrl-C ends this process soon
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
NO_ANSWER = "Unable to contact slurm controller"
TRANSIENT = (  # what Slurm says when the same question may be answered later
    NO_ANSWER,
    "Communication connection failure",
    "Resource temporarily unavailable",
    "Slurm backup controller in standby mode",
    "Socket timed out on send/recv operation",
    "Zero Bytes were transmitted or received",
)
GPU_OPTIONS = "GPUS", "GPUS_PER_NODE", "GPUS_PER_TASK", "GRES"  # with these the user asks himself
PROGRAM = "import sys; from ratchet.executors import slurm; slurm.main(sys.argv[1])"  # of a job
ADVICE = {  # by how the reason begins
    "ReqNodeNotAvail": "nodes are down, drained or reserved: `sinfo --list-reasons` says why",
    "Nodes required": "nodes are down, drained or reserved: `sinfo --list-reasons` says why",
    "PartitionTimeLimit": "the partition allows less: set SBATCH_TIMELIMIT or SBATCH_PARTITION",
    "PartitionConfig": "the partition has no such node, or allows less time: set SBATCH_PARTITION",
    "BadConstraints": "no node is like that: look at SBATCH_CONSTRAINT and RATCHET_SBATCH",
    "JobHeldUser": "it is held: `scontrol release` lets it go",
    "JobHeldAdmin": "an administrator holds it",
}


class SlurmTask(Task):
    """One job, named after its folder: job.json, script.sh and log, then out/ and outcome.json."""

    poll_seconds = 1.0

    def __init__(self, executor: "SlurmExecutor", folder: Path, target: Path | None = None) -> None:
        self.executor, self.folder, self.target = executor, folder, target
        self.id, self.submitted_at, self.ended_at = "", math.inf, math.inf
        self.may_be_queued = False  # an attempt that had no answer

    def is_done(self) -> bool:
        if not self.id:
            self.try_to_submit()
            return False
        return "outcome.json" in list_folder(self.folder) or self.has_died()

    def try_to_submit(self) -> None:
        """Hand the script to Slurm, unless its controller does not answer now. Raises Refused."""
        if self.may_be_queued:
            cancel_jobs_of(self.folder)
        name = f"--job-name={self.folder.name}"
        sbatch = "sbatch", "--parsable", *extra_options(), name, self.folder / "script.sh"
        done = call_slurm(*sbatch)
        if done.returncode == 0:
            self.id, self.submitted_at = done.stdout.strip().partition(";")[0], time.monotonic()
        elif any(words in done.stderr for words in TRANSIENT):
            self.may_be_queued = True
        else:
            lines = done.stderr.strip().splitlines()
            reason = lines[-1].removeprefix("sbatch: error: ") if lines else "it gives no reason"
            hint = "set SBATCH_PARTITION, SBATCH_ACCOUNT or RATCHET_SBATCH to what it takes"
            raise Refused(f"Slurm refuses the job ({reason}): {hint}")

    def has_died(self) -> bool:
        """Whether Slurm knows of its end, and no outcome has arrived for some seconds since."""
        if self.executor.queue.find_job(self.id, since=self.submitted_at).state not in ENDED:
            self.ended_at = math.inf  # Slurm may have queued it again
            return False
        self.ended_at = min(self.ended_at, time.monotonic())
        return time.monotonic() - self.ended_at > ARRIVAL_SECONDS

    def outcome(self) -> Outcome:
        path = self.folder / "outcome.json"
        if not path.exists():
            raise NodeDied(self.describe_death())
        answer = json.loads(path.read_bytes())
        if "refused" in answer:
            raise Refused(f"Slurm job {self.id} on node {answer['node']}: {answer['refused']}")
        if "failed" in answer:
            raise NodeDied(f"Slurm job {self.id} failed on {answer['node']} ({answer['failed']})")
        if self.target and any((self.folder / "out").iterdir()):
            shutil.rmtree(self.target, ignore_errors=True)
            self.target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.folder / "out", self.target)
        shutil.rmtree(self.folder, ignore_errors=True)
        outcome = answer["outcome"]
        return tuple(outcome) if isinstance(outcome, list) else outcome

    def describe_death(self) -> str:
        """Why there is no outcome, as far as Slurm and the job's log tell."""
        state, log = self.executor.queue.find_job(self.id).state, self.folder / "log"
        if log.exists():
            lines = clean_text(log.read_bytes()).strip().splitlines()
            seen = lines[-1][:200] if lines else "its log is empty"
        else:
            seen = f"no log was written: do all nodes see {self.folder.parent}?"
        return f"Slurm job {self.id} ended as {state} without an outcome ({seen})"

    def cancel(self) -> None:
        cancel_job(self.folder, LEAVE_SECONDS)

    def waiting_for(self) -> str:
        if not self.id:
            return "Slurm's controller does not answer; the job is submitted when it does"
        job = self.executor.queue.find_job(self.id)
        if job.state != "PENDING" or job.reason == "None":
            return ""
        known = (advice for reason, advice in ADVICE.items() if job.reason.startswith(reason))
        advice = next(known, f"`squeue --job {self.id}` shows more")
        return f"Slurm job {self.id} waits ({job.reason}): {advice}"


class SlurmExecutor(Executor):
    """A Slurm cluster; each slot has one job at a time."""

    name = "slurm"
    location = "jobs of a Slurm cluster"

    def __init__(
        self, devices: Sequence[str] = (), slots: int | None = None, tell: Tell = say_nothing
    ) -> None:
        refuse_devices(type(self), devices)
        if not shutil.which("sbatch"):
            raise Refused(
                "no Slurm is here: sbatch is not found, submit from a machine that has it"
            )
        self.folder, self.slot_count = commits.home() / "runs/.slurm", slots or 1
        self.folder.mkdir(parents=True, exist_ok=True)
        self.queue, self.gpus = Queue(), gpus_offered()
        self.lock, self.begun = threading.Lock(), []
        task = self.prepare_task({"verb": "conditions"}, seconds=600)
        wait_for(task, tell)
        try:
            self.kind = task.outcome()
        except NodeDied as error:
            raise Refused(str(error)) from None

    def conditions(self) -> Conditions:
        return self.kind

    def submit(self, verb: Verb, job: Job, slot: int) -> Task:
        self.cancel_left()
        request = {"verb": verb, "kind": self.kind, "job": pack_job(job)}
        return self.prepare_task(request, job.clock_seconds + MARGIN_SECONDS, job.target)

    def prepare_task(
        self, request: dict[str, Any], seconds: float, target: Path | None = None
    ) -> Task:
        """A task whose folder is ready: its first look submits it."""
        with self.lock:
            folder = Path(tempfile.mkdtemp(prefix="ratchet-", dir=self.folder))
            self.begun.append(folder)
        replace_file(folder / "job.json", json.dumps(request))
        replace_file(folder / "script.sh", write_script(folder, seconds, self.gpus))
        return SlurmTask(self, folder, target)

    def cancel_left(self) -> None:
        """Cancel what a head that was killed left in the queue. Only one head has a repository."""
        with self.lock:
            for folder in {*self.folder.glob("ratchet-*")} - {*self.begun}:
                cancel_job(folder, COMMAND_SECONDS)


# --------------------------------------------------------------------------------------------------
# Slurm's commands


class QueuedJob(NamedTuple):
    """What squeue says of a job, such as ("PENDING", "Resources")."""

    state: str
    reason: str


class Queue:
    """What Slurm says of this user's jobs, asked for all tasks together, not too often."""

    def __init__(self) -> None:
        self.lock, self.jobs, self.asked_at = threading.Lock(), {}, -math.inf

    def find_job(self, job_id: str, since: float = -math.inf) -> QueuedJob:
        """A job as it was some seconds ago, but not before `since`, which is monotonic time.

        A job that Slurm has forgotten counts as COMPLETED; one that it can't tell of as UNKNOWN.
        """
        with self.lock:
            now = time.monotonic()
            if now - self.asked_at > ASK_SECONDS or self.asked_at < since <= now:
                self.refresh(now)
            if self.asked_at < since:
                return QueuedJob("UNKNOWN", "None")
            return self.jobs.get(job_id, QueuedJob("COMPLETED", "None"))

    def refresh(self, now: float) -> None:
        """Read the queue; what was known stays when the controller does not answer."""
        mine = f"--user={os.getuid()}"
        done = call_slurm("squeue", "--noheader", "--states=all", mine, "--format=%i|%T|%r")
        if done.returncode == 0:
            rows = (line.split("|", 2) for line in done.stdout.splitlines())
            self.jobs = {job_id: QueuedJob(*rest) for job_id, *rest in rows}
            self.asked_at = now


def start_slurm(*command: str | Path, output: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Start a command of Slurm, which outlives this process and is not hit by its Ctrl-C.

    A head that is a Slurm job itself does not hand its variables on.
    """
    kept = ("SLURM_CONF", "SLURM_CONF_SERVER")
    dropped = ("SLURM_", "SQUEUE_", "SINFO_", "SCANCEL_")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith(dropped)
    }
    return subprocess.Popen(
        [*map(str, command)],
        stdout=output,
        stderr=output,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,
    )


def call_slurm(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm. Raises Cancelled: the thread that waits has a job to cancel."""
    supervisor.sleep_or_cancel(0)
    with start_slurm(*command, output=subprocess.PIPE) as process:
        try:
            for _ in range(10 * COMMAND_SECONDS):
                with suppress(subprocess.TimeoutExpired):
                    printed = process.communicate(timeout=0.1)
                    return subprocess.CompletedProcess(command, process.returncode, *printed)
                supervisor.sleep_or_cancel(0)
            return subprocess.CompletedProcess(command, 1, "", NO_ANSWER)
        finally:
            process.kill()


def cancel_jobs_of(folder: Path) -> None:
    """Cancel the job of a folder, if there is one; two if an attempt had no answer."""
    with suppress(FileNotFoundError):
        call_slurm("scancel", "--quiet", f"--name={folder.name}")


def cancel_job(folder: Path, seconds: float) -> None:
    """The same, after Ctrl-C too, and delete the folder.

    A scancel that takes longer goes on by itself; the folder stays then, for cancel_left().
    """
    with suppress(FileNotFoundError, subprocess.TimeoutExpired):
        scancel = start_slurm("scancel", "--quiet", f"--name={folder.name}")
        if scancel.wait(seconds) == 0:
            shutil.rmtree(folder, ignore_errors=True)


def extra_options() -> list[str]:
    """The user's further options of sbatch. Raises Refused."""
    text = os.environ.get("RATCHET_SBATCH", "")
    with suppress(ValueError):  # a quote without its other half
        options = shlex.split(text)
        if all(option.startswith("-") for option in options):
            return options
    hint = "write options with =, quotes in pairs, like --partition=gpu --comment='a night'"
    raise Refused(f"RATCHET_SBATCH is {text!r}: {hint}")


def gpus_offered() -> bool:
    """Whether to ask for a GPU: a partition in question has some, and the user asks for none."""
    options = extra_options()
    asked = any(f"SBATCH_{name}" in os.environ for name in GPU_OPTIONS)
    if asked or any(option.startswith(("--gpus", "--gres")) for option in options):
        return False
    chosen = [option.split("=")[1] for option in options if option.startswith("--partition=")]
    names = ",".join(chosen) or os.environ.get("SBATCH_PARTITION")
    done = call_slurm(
        "sinfo", "--noheader", "--format=%P|%G", *[f"--partition={names}"] * bool(names)
    )
    rows = [line.split("|", 1) for line in done.stdout.splitlines()]
    if not names and any(name.endswith("*") for name, _ in rows):  # the default partition's star
        rows = [row for row in rows if row[0].endswith("*")]
    return any("gpu" in resources for _, resources in rows)


def write_script(folder: Path, seconds: float, gpu: bool) -> str:
    """What sbatch is given. Variables SBATCH_* win over its options."""
    log = str(folder / "log").replace("%", "%%")
    options = {"time": math.ceil(seconds / 60), "output": log, "chdir": ROOT}
    options |= {"gpus-per-node": 1} if gpu else {}
    lines = [f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in options.items()]
    program = [sys.executable, "-c", PROGRAM, str(folder)]
    cache = shlex.quote(str(cache_folder()))
    lines += [f"export RATCHET_CACHE={cache}", f"exec {shlex.join(program)}"]
    return "\n".join(["#!/bin/sh", *lines, ""])


def list_folder(folder: Path) -> set[str]:
    """Names in a folder, read anew: a network's file system may remember that one is absent."""
    try:
        return {*os.listdir(folder)}
    except FileNotFoundError:
        return set()


# --------------------------------------------------------------------------------------------------
# On a node


def pack_job(job: Job) -> dict[str, Any]:
    """A job as JSON."""
    text = base64.b64encode(job.source.text).decode()
    packed = job._asdict() | {"target": str(job.target), "compiled": str(job.compiled)}
    packed["source"] = job.source._asdict() | {"text": text}
    packed["arena"] = dataclasses.asdict(job.arena) | {"folder": str(job.arena.folder)}
    return packed


def unpack_job(packed: dict[str, Any]) -> Job:
    """The other way round."""
    source, arena = packed["source"], packed["arena"]
    fields = {name: Path(packed[name]) for name in ("target", "compiled")}
    fields["source"] = Source(**source | {"text": base64.b64decode(source["text"])})
    fields["arena"] = Arena(**arena | {"folder": Path(arena["folder"])})
    fields |= {name: tuple(packed[name]) for name in ("splits", "measured")}
    fields["milestones"] = tuple(Milestone(*values) for values in packed["milestones"])
    return Job(**packed | fields)


def do_request(folder: Path) -> Outcome:
    """What a job's folder asks for; the files that a run leaves go into its out/."""
    request = json.loads((folder / "job.json").read_bytes())
    if request["verb"] == "conditions":
        return local_executor().conditions()
    job = unpack_job(request["job"])
    read_files = functools.partial(read_arena, job.arena)
    shutil.rmtree(folder / "out", ignore_errors=True)  # of an attempt that Slurm has queued again
    with execute_here(request["verb"], job, request["kind"], read_files) as (outcome, output):
        shutil.copytree(output, folder / "out")
    return outcome


def main(name: str) -> None:
    """The program of the job with that folder: do what it asks for, write down the outcome."""
    signal.signal(signal.SIGTERM, end_job)
    answer = {"node": os.environ.get("SLURMD_NODENAME", "")}
    try:
        answer["outcome"] = do_request(Path(name))
    except OtherKind as error:
        answer["refused"] = f"{error}: SBATCH_CONSTRAINT or SBATCH_PARTITION chooses one kind"
    except Refused as error:
        answer["refused"] = str(error)
    except Exception as error:  # this node may be to blame
        answer["failed"] = f"{type(error).__name__}: {error}"
        sys.excepthook(*sys.exc_info())  # into the log
    replace_file(Path(name) / "outcome.json", json.dumps(answer))


def end_job(number: int, frame: FrameType | None) -> None:
    """Slurm ends the job."""
    raise supervisor.Cancelled
