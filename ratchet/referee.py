"""The referee: runs one commit under its own clock, has it scored, decides.

A contestant is never believed. It gets the training tokens when it says that it is ready: that starts the
clock. It has its weights on disk when it says that it is done: that stops the clock, and it is killed. Its
weights go to `prepare.py score`, which runs its model in a second sandbox. Counts that only the contestant
knows (steps, tokens) are noted as told.
"""

import functools
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ratchet import bytecode, devices, guard, sandbox
from ratchet.curves import Hope
from ratchet.sources import ROOT, Refused, Source, sha256

READY_SECONDS = 20 * 60  # to import, compile and rehearse, which counts against no budget; longer ends a run
LATE, LATE_SECONDS = 0.02, 1.0  # share of the budget that a contestant may be late, at least these seconds
SCORE_SECONDS, SCORE_SHARE = 120, 0.5  # longest scoring: seconds, and this share of the arena's budget
WEIGHT_BYTES = 2**35
COPY_SECONDS, COPY_BYTES, COPY_DEPTH = 60, 2**31, 9  # of a compiler's cache that is kept
UNUSED_SECONDS = 86400  # after which a kept cache goes
ARTIFACTS = {"model.safetensors": WEIGHT_BYTES, "config.json": 2**20, "curve.jsonl": 2**25}
ENVIRONMENT = "PATH LANG LC_ALL LD_LIBRARY_PATH CUDA_VISIBLE_DEVICES CUDA_HOME OMP_NUM_THREADS".split()


class Arena(NamedTuple):
    name: str
    folder: Path
    seal: str
    seconds: int


def load_arena(name, folder=None):
    """An arena that is prepared; its files are what arena.json says. Raises Refused."""
    folder = folder or devices.cache_folder() / name
    if not (folder / "arena.json").exists():
        raise Refused(f"arena {name} is not prepared: run `uv run prepare.py --arena {name}` (--text) first")
    with suppress(OSError):
        os.chmod(folder / "train.tokens", 0o644)  # who was handed a file can change its mode
    data = (folder / "arena.json").read_bytes()
    facts = json.loads(data)
    for file, known in facts["sha256"].items():
        found = (folder / file).stat()
        if hash_of(folder / file, found.st_size, found.st_mtime_ns) != known:
            raise Refused(f"{folder / file} is not what was prepared: delete {folder} and prepare it again")
    return Arena(name, folder, sha256(data)[:12], facts["seconds"])


@functools.cache
def hash_of(path, size, changed):
    """SHA-256 of a file, read once as long as its size and its time stay what they are."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Job(NamedTuple):
    """One run to do: everything that execution needs to know, on whatever machine.

    target: new folder for what the run leaves. compiled: kept compiler caches. splits: what to score.
    reference: the champion's curve, to end a run that can't catch up with it.
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
        """On the clock at most: a budget of tokens or FLOPs may take ten times as long as the arena's."""
        return float(self.budget[:-1]) if self.budget.endswith("s") else 10.0 * self.arena.seconds

    @property
    def torch_device(self):
        """What PyTorch calls the device."""
        return devices.torch_name(self.device)

    @property
    def live(self):
        """Folder in which it runs: the same for all runs on a device, as compiler caches know their path."""
        return devices.work_folder() / ".live" / devices.seat(self.device)


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

    status: ok, crash, timeout (no submit), overtime (late), invalid (its score or its files), hopeless (if a
    reference is given), or what it took too much of: memory, output, processes, disk. The device is held
    meanwhile.
    """
    live, level, clock = job.live, sandbox.best_level(), Clock()
    facts = {"seed": job.seed, "budget": job.budget, "status": "ok", "reason": "", "isolation": level}
    facts |= devices.describe(job.device) | job.source.facts() | {"shared": False, "on": job.device}
    facts["seconds"] = clock.seconds
    with devices.exclusive(job.device, pause=guard.pause):
        place(job)
        try:
            told = compete(job, level, clock, facts)
            facts |= judge(job, level, facts, told)
        except guard.Ended as end:
            facts |= {"status": end.status, "reason": str(end)}
        except Exception as error:  # whatever a contestant provokes is a row, not a run that never was
            facts |= {"status": "crash", "reason": f"{type(error).__name__}: {error}"[:300]}
        clock.enter("end")
        facts |= {"throttled": devices.throttled(job.device), "tail": guard.tail(live / "run.log")}
        keep_files(job)
    return facts


# ----------------------------------------------------------------------------------------------------
# The contestant


def place(job):
    """Fresh folders: code (sealed prepare.py, the contestant), out, tmp, cache.

    The cache is what the compiler made for the same source before its first real token, or for the baseline.
    """
    guard.end_marked(str(job.live / "out"), str(job.live / "score"))
    remove(job.live)
    for name in ("code", "out", "tmp"):
        (job.live / name).mkdir(parents=True)
    shutil.copy(ROOT / "prepare.py", job.live / "code")
    (job.live / "code/train.py").write_bytes(job.source.text)
    known = [job.compiled / name for name in (cache_name(sha256(job.source.text)), "baseline")]
    for folder in [folder for folder in known if folder.exists()][:1]:
        with suppress(OSError):  # another run may take away what nobody has used for long
            os.utime(folder)
            shutil.copytree(folder, job.live / "cache", symlinks=True)
    (job.live / "cache").mkdir(exist_ok=True)


def cache_name(file):
    """What the kept compiler cache of a source is called, whose text has this hash."""
    return file[:16]


def keep_compiled(job):
    """Keep the compiler's cache as it is before the first real token: a run can't hand on what it learned.

    Other runs may do the same at the same time. What none has used for a day goes.
    """
    job.compiled.mkdir(parents=True, exist_ok=True)
    for name in [cache_name(sha256(job.source.text))] + ["baseline"] * job.is_baseline:
        if not (job.compiled / name).exists():
            with tempfile.TemporaryDirectory(prefix="part-", dir=job.compiled) as part:
                copy_files(job.live / "cache", Path(part) / name)
                with suppress(OSError):  # another run was faster
                    os.replace(Path(part) / name, job.compiled / name)
    for folder in job.compiled.iterdir():
        with suppress(OSError):  # another run was faster
            if folder.name != "baseline" and time.time() - folder.stat().st_mtime > UNUSED_SECONDS:
                remove(folder)


def copy_files(source, target):
    """Copy a folder that a contestant can change meanwhile: regular files with one name, and nothing else."""
    stop, room = time.monotonic() + COPY_SECONDS, [COPY_BYTES]

    def copy(folder, place, depth):
        place.mkdir(parents=True)
        for name in os.listdir(folder):
            with suppress(OSError), opened(name, folder) as (old, facts):
                room[0] -= facts.st_size
                if room[0] < 0 or time.monotonic() > stop:
                    raise guard.Ended("disk", "its compiler's cache is too large to keep")
                if stat.S_ISDIR(facts.st_mode) and depth:
                    copy(old, place / name, depth - 1)
                elif stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
                    (place / name).write_bytes(os.read(old, facts.st_size))

    with opened(source, None) as (top, _):
        copy(top, target, COPY_DEPTH)


@contextmanager
def opened(name, folder):
    """(descriptor, what it is) of a name in an open folder: no link is followed, no pipe waited for."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        yield descriptor, os.fstat(descriptor)
    finally:
        os.close(descriptor)


def remove(folder):
    """Delete a folder that a contestant wrote to: it may lack rights, or be deeper than Python goes."""
    for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        subprocess.run([*command, "--", folder], stderr=subprocess.DEVNULL)


def inherited():
    """What every process that runs a contestant's code inherits of this one's environment."""
    bytecode.compile_libraries()
    kept = {k: os.environ[k] for k in os.environ.keys() & ENVIRONMENT} | {"PYTHONDONTWRITEBYTECODE": "1"}
    if (granted := devices.quota()) < len(devices.cores("cpu")):  # in a sandbox it can't be seen
        kept.setdefault("OMP_NUM_THREADS", str(max(1, int(granted))))
    return kept


def environment(job):
    """All that a contestant inherits."""
    live, arena = job.live, job.arena
    told = {"ARENA": arena.name, "CACHE": arena.folder.parent, "RUN": live / "out"}
    told |= {"SEED": job.seed, "BUDGET": job.budget, "DEVICE": job.torch_device}
    told = {f"RATCHET_{key}": value for key, value in told.items()}
    homes = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), live / "tmp")
    caches = {"TORCHINDUCTOR_CACHE_DIR": live / "cache", "TRITON_CACHE_DIR": live / "cache/triton"}
    # the compiler's header lies in TMPDIR, new for each run: making it takes longer than doing without
    caches |= {"TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0"}
    more = {"WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
    return inherited() | {key: str(value) for key, value in (told | homes | caches | more).items()}


@contextmanager
def started(job, level):
    """(the contestant's process, the referee's end of its socket), until the block ends."""
    live, arena, (ours, theirs) = job.live, job.arena, socket.socketpair()
    view = sandbox.View(
        read=(live / "code", arena.folder / "arena.json", arena.folder / "tokenizer.json"),
        write=(live / "out", live / "cache", live / "tmp"), device=job.device,
        file_bytes=WEIGHT_BYTES)  # fmt: skip
    argv = sandbox.command([sys.executable, str(live / "code/train.py")], view, level)
    env = environment(job) | {"RATCHET_REFEREE": str(theirs.fileno())}
    log, mark = live / "run.log", env["RATCHET_RUN"]
    with ours, guard.Watched(argv, env, live / "code", log, mark, theirs) as process:
        yield process, ours


def preflight(job):
    """Bring a contestant to its first training step and no further; the device is held meanwhile.

    Returns (status, reason, last lines of its log) if it doesn't come so far, else None. This is no run.
    """
    with devices.exclusive(job.device, pause=guard.pause):
        try:
            place(job)
            with started(job, sandbox.best_level()) as (process, ours):
                wait_until_ready(process, ours, Clock())
                keep_compiled(job)
        except guard.Ended as end:
            return end.status, str(end), guard.tail(job.live / "run.log")
        except Exception as error:  # whatever a contestant provokes
            return "crash", f"{type(error).__name__}: {error}"[:300], guard.tail(job.live / "run.log")
        finally:
            remove(job.live)


def compete(job, level, clock, facts):
    """The contestant's part of a run: adds to `facts` what was seen, returns what it told. Raises Ended."""
    with started(job, level) as (process, ours):
        load, energy = guard.Load(job.device, process), devices.joules(job.device)
        try:
            wait_until_ready(process, ours, clock)
            keep_compiled(job)
            load.begin()
            told = train(job, process, ours, clock)
            facts |= load.seen()
        except guard.Ended as end:  # if it was stopped, maybe for the sake of other programs
            facts |= load.seen() if end.status != "crash" else {}
            raise
        finally:
            facts["peak_memory_mb"] = round(process.peak_bytes / 2**20)
    facts |= {key: number(told.get(key)) for key in ("steps", "tokens", "flops_per_token")}
    facts["joules"] = energy and devices.joules(job.device) - energy
    late = facts["seconds"]["train"] - job.seconds
    if late > max(LATE * job.seconds, LATE_SECONDS):
        raise guard.Ended("overtime", f"it submitted {late:.2f} s after its {job.seconds:g} s")
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
    except guard.Ended:
        clock.enter("score")
        raise
    clock.enter("score", now)
    return told


def number(value):
    """A figure that a contestant told, or 0."""
    return value if type(value) in (int, float) and 0 <= value < 1e21 else 0


# ----------------------------------------------------------------------------------------------------
# The score


def collect(out, target):
    """Move what may leave the contestant's folder: regular files of bounded size with no second name."""
    os.chmod(out, 0o700)
    for name, most in ARTIFACTS.items():
        try:
            facts = os.lstat(out / name)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise guard.Ended("invalid", f"{name} is a link or no file")
        if facts.st_size > most:
            raise guard.Ended("invalid", f"{name} has {facts.st_size:,} bytes, {most:,} are allowed")
        os.replace(out / name, target / name)


def judge(job, level, facts, told):
    """Have the submitted model scored: raw sums and probes of each split, and what is seen on the way."""
    folder, arena, seconds = job.live / "score", job.arena, facts["seconds"]
    for name in ("tmp", "model", "judge"):
        (folder / name).mkdir(parents=True)
    collect(job.live / "out", folder / "model")
    (folder / "model/train.py").write_bytes(job.source.text)
    known = {
        key: facts[key] for key in ("seed", "budget", "steps", "tokens", "flops_per_token", "peak_memory_mb")
    }
    known |= {"arena": arena.name, "arena_folder": str(arena.folder), "seal": arena.seal}
    known |= {"device": job.torch_device}
    known |= {"train_seconds": seconds["train"], "rehearsal_seconds": seconds.get("rehearsal", 0.0)}
    known |= {"unscored_seconds": sum(seconds.values()), "custom_budget": job.budget != f"{arena.seconds}s"}
    known |= {"peak_flops": number(told.get("peak_flops")), "peak_of": "told", "device_name": facts["device"]}
    (folder / "model/run.json").write_text(json.dumps(known | {"interrupted": False}), encoding="utf-8")
    shutil.copy(ROOT / "prepare.py", folder / "judge")  # anew: the other one was in the contestant's reach
    out = {}
    for split in job.splits:
        result = have_scored(job, folder, level, split)
        figures = "params", "lookup", "flops_per_token", "mfu_percent"
        out |= {key: number(result[key]) for key in figures}
        out[split] = {key: result.get(key) for key in ("nats", "bytes", "probes", "load_seconds")}
        if result["status"] != "ok":
            return out | {"status": "invalid", "reason": result["reason"]}
    return out


def have_scored(job, folder, level, split):
    """The facts that prepare.py, in processes of its own, finds out about a model. Raises Ended."""
    own_pids = not job.device.startswith("cuda")  # the score reads the model's logits in the GPU's memory
    readable = folder / "judge", folder / "model"
    for number in "01":  # two processes of the model, which must have nothing in common
        (own := folder / f"{split}-{number}").mkdir()
        view = sandbox.View(readable, (own,), job.device, own_pids=own_pids)
        sandbox.write_python(folder / f"python-{number}", view, level)
    env = inherited() | dict.fromkeys(("HOME", "TMPDIR"), str(folder / "tmp"))
    env |= {"RATCHET_PYTHON": str(folder / "python-"), "RATCHET_RUN": str(folder)}
    program, model = str(folder / "judge/prepare.py"), str(folder / "model")
    argv = [sys.executable, program, "score", model, "--split", split]
    try:
        with guard.Watched(argv, env, folder, folder / "score.log", str(folder)) as process:
            process.wait(SCORE_SECONDS + SCORE_SHARE * job.arena.seconds)
    except guard.Ended as end:
        raise guard.Ended("invalid", f"scoring: {end}") from None
    path = folder / "model" / {"val": "result.json", "test": "test.json"}[split]
    if not path.exists():
        words = guard.tail(folder / "score.log") or ["no output"]
        raise guard.Ended("invalid", f"it can't be scored: {words[-1]:.300}")
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def all_at_once(target):
    """An empty folder that takes the place of `target` when the block has ended."""
    part = target.with_name(target.name + ".part")
    for folder in (target, part):
        remove(folder)
    part.mkdir(parents=True)
    yield part
    os.replace(part, target)


def keep_files(job):
    """Move what a run leaves to its folder."""
    score, model = job.live / "score", job.live / "score/model"
    with all_at_once(job.target) as part:
        for path in [*(model.iterdir() if model.exists() else []), job.live / "run.log", score / "score.log"]:
            if path.exists():
                shutil.move(path, part / path.name)
        (part / "train.py").write_bytes(job.source.text)
    remove(job.live)
