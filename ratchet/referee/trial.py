"""One run of one contestant, under the referee's clock.

A contestant is never believed. It gets the training tokens when it says that it is ready: that
starts the clock. In a budget of seconds they are a file of its own; in one of tokens or FLOPs it
asks for them, until the budget is spent. It has its weights on disk when it says that it is done:
that stops the clock, and it is killed before anything else is done. Its weights go to `prepare.py
score`, which runs its model in a second sandbox. Counts that only the contestant knows (in a budget
of seconds its steps and tokens) are recorded as its claims.
"""

import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import IO, Any

from ratchet.arena.budget import parse_budget
from ratchet.arena.model_process.rooms import copy_contract
from ratchet.referee import limits, sandbox
from ratchet.referee.compiler_cache import give_compiler_cache, keep_compiler_cache
from ratchet.referee.devices.choice import describe_device
from ratchet.referee.devices.lock import hold_device
from ratchet.referee.devices.nvidia import read_joules, throttle_cause
from ratchet.referee.early_stopping import EarlyStopping
from ratchet.referee.environment import contestant_environment
from ratchet.referee.folders import all_at_once, remove_folder
from ratchet.referee.foreign_load import ForeignLoad
from ratchet.referee.job import Job
from ratchet.referee.libraries.mirror import strip_folder
from ratchet.referee.measures import (
    GpuMemory,
    measure_files,
    measure_rehearsal,
    refuse_overlimit,
    refuse_unmeasured,
)
from ratchet.referee.scoring import (
    number_or_zero,
    read_shared_files,
    score_submission,
    take_submission,
)
from ratchet.referee.supervisor import (
    EndedEarly,
    WatchedProcess,
    kill_marked,
    parse_message,
    read_tail,
    sleep_or_cancel,
)
from ratchet.referee.tokens.private_copy import copy_without_name
from ratchet.referee.tokens.stream import TokenStream

Tokens = IO[bytes] | TokenStream
Record = dict[str, Any]  # what is found out about a run, as the ledger keeps it
COUNTS = "steps", "tokens", "flops_per_token"  # that the contestant claims


class Clock:
    """The referee's own: which phase a run is in, for how many seconds its phases took."""

    def __init__(self) -> None:
        self.phase, self.since = "start", time.monotonic()
        self.seconds: dict[str, float] = {}

    def enter_phase(self, phase: str, now: float | None = None) -> None:
        """End one phase, begin another; `now` if that was at another moment than this."""
        now = now or time.monotonic()
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self.since
        self.phase, self.since = phase, now


# --------------------------------------------------------------------------------------------------
# The story of a run


def run_trial(job: Job) -> Record:
    """Run one contestant with one seed, have it scored; the device is held meanwhile.

    status: ok, crash, timeout (no submit), overtime (late), invalid (its score or its files),
    stopped (half-way, too far behind the champion), overlimit (a limit of the campaign), or what it
    took too much of: memory, output, processes, disk.
    """
    level = sandbox.best_level()
    with hold_device(job.device, pause=sleep_or_cancel):
        clock = Clock()  # not before: another run may have had the device for minutes
        record = open_record(job, level, clock)
        prepare_folders(job)
        try:
            read_shared_files(level)
            claims = compete(job, level, clock, record)
            told = record["flops_per_token"]
            if parse_budget(job.budget).unit == "flop":
                record["flops_per_token"] = 0  # so that they are counted anew
            folder = take_submission(job, record, claims)
            record |= measure_files(folder / "model", packed="packed_mb" in job.asked_measures)
            refuse_overlimit(record, job.limits)
            record |= with_foreign_load(record, score_submission(job, level, folder))
            refuse_cheap_steps(job, told, record["flops_per_token"])
            refuse_overlimit(record, job.limits)
            refuse_unmeasured(record, sorted(job.asked_measures))
        except Exception as error:  # whatever a contestant provokes is a row
            record["status"], record["reason"] = describe_end(error)
        clock.enter_phase("end")
        record["throttled"] = throttle_cause(job.device)
        record["tail"] = read_tail(job.live_folder / "run.log")
        keep_files(job)
    return record


def compete(job: Job, level: str, clock: Clock, record: Record) -> Record:
    """The contestant's part of a run; returns what it claims. Raises EndedEarly."""
    with ExitStack() as stack, start_contestant(job, level) as (process, channel):
        gpu = GpuMemory(job.device, process)
        process.looks.more.append(gpu)
        try:
            prepare_tokens = begin_to_copy_tokens(job, stack)
            request = wait_until_ready(process, channel, clock)
            refuse_large_rehearsal(job, process, gpu, record)
            keep_compiler_cache(job)
            tokens = stack.enter_context(prepare_tokens(request))
            before = read_joules(job.device)
            with foreign_load_recorded(job, process, record):
                hand_over_tokens(tokens, channel, clock)
                claims = wait_for_weights(job, process, channel, clock)
            record["joules"] = joules_since(job.device, before)
        finally:
            record |= memory_record(process, gpu)
        record |= {name: number_or_zero(claims.get(name)) for name in COUNTS}
        refuse_late_weights(job, clock)
        if isinstance(tokens, TokenStream):
            record |= tokens.counts()
            tokens.refuse_late_weights(clock.since)
    return claims


def joules_since(device: str, before: float | None) -> float | None:
    """Energy that a GPU has used since read_joules() said so much; None where nothing tells it."""
    now = read_joules(device)
    return None if now is None or before is None else now - before


def preflight(job: Job) -> tuple[str, str, list[str]] | None:
    """Bring a contestant to its first training step, no further; the device is held meanwhile.

    Returns (status, reason, last lines of its log) if it doesn't come so far, else None. This is no
    run.
    """
    with hold_device(job.device, pause=sleep_or_cancel):
        try:
            prepare_folders(job)
            with start_contestant(job, sandbox.best_level()) as (process, channel):
                gpu = GpuMemory(job.device, process)
                process.looks.more.append(gpu)
                wait_until_ready(process, channel, Clock())
                refuse_large_rehearsal(job, process, gpu, record={})
                keep_compiler_cache(job)
        except Exception as error:  # whatever a contestant provokes
            return *describe_end(error), read_tail(job.live_folder / "run.log")
        finally:
            remove_folder(job.live_folder)


# --------------------------------------------------------------------------------------------------
# Its steps


def open_record(job: Job, level: str, clock: Clock) -> Record:
    """What is known of a run before it starts; the seconds of its phases come later."""
    record = {"seed": job.seed, "budget": job.budget, "status": "ok", "reason": ""}
    record |= {"isolation": level} | describe_device(job.device) | job.source.describe_source()
    return record | {"shared": False, "on": job.device, "seconds": clock.seconds}


def describe_end(error: Exception) -> tuple[str, str]:
    """(status, reason) of a run that ended with an error."""
    if isinstance(error, EndedEarly):
        return error.status, str(error)
    return "crash", f"{type(error).__name__}: {error}"[:300]


def prepare_folders(job: Job) -> None:
    """Fresh folders: code (the contract, the contestant), out, tmp, cache (its compiler's)."""
    live = job.live_folder
    kill_marked(str(live / "out"), str(live / "score"))
    remove_folder(live)
    for name in ("code", "out", "tmp"):
        (live / name).mkdir(parents=True)
    copy_contract(live / "code")
    strip_folder(live / "code")
    (live / "code/train.py").write_bytes(job.source.text)
    give_compiler_cache(job)


@contextmanager
def start_contestant(job: Job, level: str) -> Iterator[tuple[WatchedProcess, socket.socket]]:
    """(its process, the referee's end of its socket); it is killed when the block ends."""
    live, arena = job.live_folder, job.arena.folder
    view = sandbox.View(
        read=(live / "code", arena / "arena.json", arena / "tokenizer.json"),
        write=(live / "out", live / "cache", live / "tmp"),
        device=job.device,
        one_session=True,
        mapped_only=True,
        file_bytes=limits.weight_bytes(job.arena),
    )
    argv = sandbox.confined_command([sys.executable, str(live / "code/train.py")], view, level)
    ours, theirs = socket.socketpair()
    environment = contestant_environment(job) | {"RATCHET_REFEREE": str(theirs.fileno())}
    log, mark = live / "run.log", environment["RATCHET_RUN"]
    with ours, WatchedProcess(argv, environment, live / "code", log, mark, theirs) as process:
        process.looks.counts_unmapped = "memory_gb" in job.limits
        yield process, ours


def wait_until_ready(process: WatchedProcess, channel: socket.socket, clock: Clock) -> Record:
    """What the contestant says when it is ready to train. Raises EndedEarly."""
    deadline = time.monotonic() + limits.READY_SECONDS
    minutes = limits.READY_SECONDS / 60
    too_late = f"it was not ready to train after {minutes:g} minutes of rehearsal"
    now = time.monotonic()
    while True:
        message, now = process.receive_message(channel, deadline - now, too_late)
        if message.get("phase") == "train":
            return message
        clock.enter_phase("rehearsal", now)
        process.supervise()  # else messages without end would keep this from being done


def memory_record(process: WatchedProcess, gpu: GpuMemory) -> Record:
    """{"peak_memory_mb": the most that it took, "gpu_memory_mb": of a GPU, where it has one}."""
    return {"peak_memory_mb": round(process.peak_bytes / 2**20)} | gpu.record("gpu_memory_mb")


def refuse_large_rehearsal(
    job: Job, process: WatchedProcess, gpu: GpuMemory, record: Record
) -> None:
    """Raises EndedEarly("overlimit") before a run is trained for nothing.

    By what its rehearsal took, and by the weights that it saved there, which are noted in the
    record: those that it submits take their place.
    """
    if job.limits:
        record |= measure_rehearsal(job.live_folder / "out")
        refuse_overlimit(record | memory_record(process, gpu), job.limits)


@contextmanager
def foreign_load_recorded(job: Job, process: WatchedProcess, record: Record) -> Iterator[None]:
    """Record what other programs use of the device meanwhile.

    Of a run that is stopped, too, maybe for their sake; a crash is its own fault.
    """
    load = ForeignLoad(job.device, process)
    load.begin()
    try:
        yield
    except EndedEarly as end:
        record |= load.measure() if end.status != "crash" else {}
        raise
    record |= load.measure()


def begin_to_copy_tokens(job: Job, stack: ExitStack) -> Callable[[Record], Tokens]:
    """What makes the tokens that a run gets, from what it says when it is ready.

    A stream for a budget of tokens or FLOPs; else a file, which is copied while it rehearses.
    """
    if parse_budget(job.budget).seconds is None:
        return partial(TokenStream, job)
    pool = stack.enter_context(ThreadPoolExecutor(1))
    path = job.arena.folder / "train.tokens"
    copy = pool.submit(copy_without_name, path, job.live_folder)
    stack.callback(lambda: copy.exception() or copy.result().close())  # it may never be asked for
    return lambda request: copy.result()


def hand_over_tokens(tokens: Tokens, channel: socket.socket, clock: Clock) -> None:
    """Start the clock by sending the training tokens, as an open file or a socket."""
    clock.enter_phase("train")
    with suppress(OSError):  # a contestant that has gone is noticed next
        socket.send_fds(channel, [b"go"], [tokens.fileno()])


def wait_for_weights(
    job: Job, process: WatchedProcess, channel: socket.socket, clock: Clock
) -> Record:
    """Stop the clock when it says that they are saved, and its life; returns what else it says."""
    seconds = limits.WAIT_SHARE * job.clock_seconds + limits.WAIT_SECONDS
    too_late = f"it should have stopped after {job.clock_seconds:g} s and did not"
    curve = job.live_folder / "out/curve.jsonl"
    process.looks.more.append(EarlyStopping(curve, job.budget, job.milestones))
    now = None
    try:
        line, now = process.receive_line(channel, seconds, too_late)
    finally:
        process.strike()
        clock.enter_phase("score", now)
    return parse_message(line)


def refuse_late_weights(job: Job, clock: Clock) -> None:
    """Raises EndedEarly("overtime")."""
    late = clock.seconds["train"] - job.clock_seconds
    if late > max(limits.LATE_SHARE * job.clock_seconds, limits.LATE_SECONDS):
        reason = f"it submitted {late:.2f} s after its {job.clock_seconds:g} s"
        raise EndedEarly("overtime", reason)


def with_foreign_load(record: Record, scores: Record) -> Record:
    """Scores, whose load by other programs is that of the training, unless theirs was larger."""
    names = "foreign_cpu", "foreign_gpu", "shared"
    return scores | {name: max(record.get(name, 0), scores.get(name, 0)) for name in names}


def refuse_cheap_steps(job: Job, told: float, counted: float) -> None:
    """Raises EndedEarly("invalid") when a token cost more FLOPs than it said, in a budget of these.

    told, counted: FLOPs for a token of training, by the contestant, of the model that was scored
    """
    if parse_budget(job.budget).unit == "flop" and told < limits.TOLD_FLOPS_SHARE * counted:
        reason = f"it said that a token costs {told:.4g} FLOPs, its model takes {counted:.4g}"
        raise EndedEarly("invalid", reason)


def keep_files(job: Job) -> None:
    """Move what a run leaves to its folder."""
    score = job.live_folder / "score"
    model = score / "model"
    left = [*model.iterdir()] if model.exists() else []
    with all_at_once(job.target) as part:
        for path in [*left, job.live_folder / "run.log", score / "score.log"]:
            if path.exists():
                shutil.move(path, part / path.name)
        (part / "train.py").write_bytes(job.source.text)
    remove_folder(job.live_folder)
