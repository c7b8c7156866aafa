"""Has a submitted model scored, in a sandbox of its own."""

import os
import sys
from pathlib import Path
from typing import Any

from ratchet.arena.budget import load_limit
from ratchet.arena.definition import Arena
from ratchet.arena.files import is_plain_file, open_untrusted, write_json
from ratchet.arena.model_process.page_cache import SharedFiles
from ratchet.arena.model_process.rooms import copy_contract, list_path, make_room
from ratchet.arena.results import (
    RunRecord,
    read_result,
    read_run_record,
    weight_bytes,
    write_run_record,
)
from ratchet.referee import limits, sandbox
from ratchet.referee.environment import scorer_environment
from ratchet.referee.foreign_load import ForeignLoad
from ratchet.referee.job import Job
from ratchet.referee.measures import DECODING, GpuMemory
from ratchet.referee.supervisor import EndedEarly, WatchedProcess, read_tail

FIGURES = "params", "lookup", "flops_per_token", "mfu_percent"  # of the model, in any result
SPEEDS = *DECODING, "batch_rows"  # in one where it decoded
ROOMS = 5  # more than a split needs
SCORES = "nats", "charged_nats", "bytes", "probes", "probes_version", "load_seconds"  # of a split


shared_files = SharedFiles()  # of the last run: they may be in memory still


def number_or_zero(value: Any) -> float:
    """A figure that a contestant claims, or 0 if it is none: 7 -> 7, "7" -> 0, nan -> 0."""
    return value if type(value) in (int, float) and 0 <= value < 1e21 else 0


def collect_artifacts(out: Path, target: Path, arena: Arena) -> None:
    """Move what may leave the contestant's folder. Raises EndedEarly("invalid").

    Regular files of bounded size that have no second name.
    """
    os.chmod(out, 0o700)
    bounds = {"model.safetensors": limits.weight_bytes(arena)} | limits.ARTIFACT_BYTES
    for name, most in bounds.items():
        try:
            status = os.lstat(out / name)
        except FileNotFoundError:
            continue
        if not is_plain_file(status):
            raise EndedEarly("invalid", f"{name} is a link or no file")
        if status.st_size > most:
            reason = f"{name} has {status.st_size:,} bytes, {most:,} are allowed"
            raise EndedEarly("invalid", reason)
        os.replace(out / name, target / name)
    refuse_large_header(target / "model.safetensors")


def refuse_large_header(path: Path) -> None:
    """Raises EndedEarly("invalid") when a header has data in it, which are no parameters then."""
    if not path.exists():
        return
    with open_untrusted(path, limits.WEIGHT_BYTES) as file:
        length, size = int.from_bytes(file.read(8), "little"), file.seek(0, os.SEEK_END)
    most = limits.HEADER_BYTES + size // limits.HEADER_SHARE
    if most < length < size:
        reason = f"the header of model.safetensors has {length:,} bytes, {most:,} are allowed"
        raise EndedEarly("invalid", reason)


def take_submission(job: Job, record: dict[str, Any], claims: dict[str, Any]) -> Path:
    """Take what is to be scored out of a contestant's reach; returns the folder for its score.

    Raises EndedEarly("invalid").
    """
    folder = job.live_folder / "score"
    for name in ("tmp", "model", "judge"):
        (folder / name).mkdir(parents=True)
    collect_artifacts(job.live_folder / "out", folder / "model", job.arena)
    (folder / "model/train.py").write_bytes(job.source.text)
    write_run_record(folder / "model", known_of_run(job, record, claims))
    copy_contract(folder / "judge")  # anew: the other one was in the contestant's reach
    return folder


def score_submission(job: Job, level: str, folder: Path) -> dict[str, Any]:
    """Raw sums and probes of each split, and figures of the model. Raises EndedEarly("invalid")."""
    scores: dict[str, Any] = {}
    for split in job.splits:
        decoding = split == job.splits[0] and not job.asked_measures.isdisjoint(DECODING)
        result, taken = score_split(job, folder, level, split, decoding)
        scores |= {key: number_or_zero(result[key]) for key in FIGURES}
        scores |= {key: result[key] for key in SPEEDS if key in result}
        scores |= {key: max(value, scores.get(key, 0)) for key, value in taken.items()}
        scores[split] = {key: result.get(key) for key in SCORES}
        if result["status"] != "ok":
            return scores | {"status": "invalid", "reason": result["reason"]}
    return scores


def known_of_run(job: Job, record: dict[str, Any], claims: dict[str, Any]) -> RunRecord:
    """What run.json tells the scorer; its counts and peak_flops are the contestant's claims."""
    arena, seconds = job.arena, record["seconds"]
    return RunRecord(
        arena=arena.name,
        arena_folder=str(arena.folder),
        seal=arena.seal,
        seed=record["seed"],
        budget=record["budget"],
        custom_budget=job.budget != arena.budget,
        interrupted=False,
        steps=record["steps"],
        tokens=record["tokens"],
        train_seconds=seconds["train"],
        rehearsal_seconds=seconds.get("rehearsal", 0.0),
        unscored_seconds=sum(seconds.values()),
        flops_per_token=record["flops_per_token"],
        peak_flops=number_or_zero(claims.get("peak_flops")),
        peak_of="told",
        peak_memory_mb=record["peak_memory_mb"],
        device=job.torch_device,
        device_name=record["device"],
    )


def score_limit(arena: Arena, split: str, model: Path) -> float:
    """Seconds that a split may take to be scored: more for large weights or a slow model."""
    run = read_run_record(model)
    rows = {"val": arena.val_rows, "test": arena.test_rows}[split]
    trained = run["tokens"] or 1  # as it says
    as_in_training = rows * arena.context * run["train_seconds"] / trained
    answering = min(limits.SCORE_SLOWNESS * as_in_training, limits.MOST_SCORE_SHARE * arena.seconds)
    loading = limits.SCORE_LOADS * load_limit(weight_bytes(model))
    return limits.SCORE_SECONDS + limits.SCORE_SHARE * arena.seconds + loading + answering


def make_rooms(device: str, folder: Path, level: str) -> None:
    """Rooms for the processes of a model, each with a script that starts Python in a sandbox."""
    (folder / "rooms").mkdir(exist_ok=True)
    for _ in range(ROOMS):
        room = make_room(folder / "rooms")
        sandbox.write_python(room / "python", room_view(device, room), level)


def room_view(device: str, room: Path) -> sandbox.View:
    """What a process of a model gets."""
    return sandbox.View(
        read=(room / "code", room / "model"),
        write=(room / "tmp",),
        private=(room / "tmp",),
        device=device,
        # the score reads the model's logits in the GPU's memory: that needs process ids in common
        own_pids=not device.startswith("cuda"),
        one_session=True,  # which is killed as one
        counted=True,
        mapped_only=True,
    )


def read_shared_files(level: str) -> SharedFiles:
    """Have all in memory that contestants may read: none sees what an earlier one has read."""
    global shared_files
    if level != "none":
        libraries = sandbox.choose_libraries(sandbox.View(), level)
        files = SharedFiles(libraries.read, libraries.hidden, shared_files.taken_back)
        shared_files = files.in_memory()
    return shared_files


def score_split(
    job: Job, folder: Path, level: str, split: str, decoding: bool
) -> tuple[dict[str, Any], dict[str, float]]:
    """What `prepare.py score` finds out about a model, and what its processes took and suffered.

    Raises EndedEarly("invalid").

    Processes of the model, which have nothing in common, answer it: each has a room. decoding: it
    measures how fast they decode, too, which other programs would spoil: so their load is among the
    figures.
    """
    make_rooms(job.device, folder, level)
    write_json(list_path(folder / "rooms"), read_shared_files(level)._asdict())
    program, model = str(folder / "judge/prepare.py"), str(folder / "model")
    argv = [sys.executable, program, "score", model, "--split", split]
    argv += ["--decoding"] * decoding
    seconds = score_limit(job.arena, split, folder / "model")
    seconds += decoding * limits.DECODING_SECONDS
    environment, log = scorer_environment(folder), folder / "score.log"
    try:
        with WatchedProcess(argv, environment, folder, log, str(folder)) as process:
            gpu = GpuMemory(job.device, process, is_judge=True)
            process.looks.more.append(gpu)
            process.looks.counts_unmapped = "memory_gb" in job.limits
            load = ForeignLoad(job.device, process)
            if decoding:
                load.begin()
            process.wait(seconds)
            foreign_load = load.measure()
    except EndedEarly as end:
        raise EndedEarly("invalid", f"scoring: {end}") from None
    result = read_result(folder / "model", split)
    if result is None:
        last = (read_tail(log) or ["no output"])[-1]
        raise EndedEarly("invalid", f"it can't be scored: {last:.300}")
    memory = {"score_memory_mb": round(process.peak_bytes_of_others / 2**20)}
    return result, memory | gpu.record("gpu_score_memory_mb") | foreign_load
