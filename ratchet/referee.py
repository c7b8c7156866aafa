"""The referee: runs one commit under its own clock, has it scored, decides.

A contestant is never believed. It gets the training tokens when it says that it is ready: that starts the
clock. It has its weights on disk when it says that it is done: that stops the clock, and it is killed. Its
weights go to `prepare.py score`, which runs its model in a second sandbox. Counts that only the contestant
knows (steps, tokens) are noted as told.
"""

import ast
import hashlib
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
import tokenize
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ratchet import pool, sandbox

ROOT = Path(__file__).resolve().parent.parent  # of the machinery that runs
FREE_SECONDS = 180  # to import, compile and rehearse; what is beyond counts against the budget
READY_SECONDS = 600  # longest wait for `ready`
LATE, LATE_SECONDS = 0.02, 0.25  # share of the budget by which a contestant may be late, or these seconds
SCORE_SECONDS, SCORE_SHARE = 120, 0.5  # longest scoring: seconds, and this share of the arena's budget
SOURCE_BYTES = 200_000  # a larger train.py has data in it
WEIGHT_BYTES = 2**35
ARTIFACTS = {"model.safetensors": WEIGHT_BYTES, "config.json": 2**20, "curve.jsonl": 2**25}
ENVIRONMENT = "PATH LANG LC_ALL LD_LIBRARY_PATH CUDA_VISIBLE_DEVICES CUDA_HOME OMP_NUM_THREADS".split()
TAIL_LINES = 15  # of a log, kept in the ledger


class Refused(Exception):
    """What was asked for can't be done; says what, why, and what to do."""


# ----------------------------------------------------------------------------------------------------
# Sources


class Source(NamedTuple):
    """A train.py: what the user called it, its commit ("" for a file), its text."""

    name: str
    commit: str
    text: bytes

    def facts(self):
        """What the ledger says of it. `source` is equal for texts that differ in layout and comments only."""
        return {"name": self.name, "commit": self.commit, "file": sha256(self.text)} | shape(self.text)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def shape(text):
    """{"source": hash of the syntax tree without docstrings, "size": its tokens}; of any bytes."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    try:
        for node in ast.walk(tree := ast.parse(text)):
            if isinstance(node, documented) and ast.get_docstring(node) is not None:
                node.body[0] = ast.Pass()
        plain = ast.unparse(tree).encode()
        size = sum(1 for _ in tokenize.tokenize(io.BytesIO(plain).readline))
    except (SyntaxError, ValueError, RecursionError):
        plain, size = text, len(text.split())
    return {"source": sha256(plain)[:16], "size": size}


def git(*args):
    """Output of a git command, in bytes. Raises Refused with git's own words."""
    try:
        done = subprocess.run(["git", *args], capture_output=True)
    except FileNotFoundError:
        raise Refused("git is not installed: install it, an experiment is a commit") from None
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise Refused(f"git {args[0]} failed ({words[-1]})")
    return done.stdout


def git_lines(*args):
    return git(*args).decode(errors="replace").splitlines()


def home():
    """The folder of the main working tree, where the ledger is: also when called in another one."""
    return Path(git_lines("rev-parse", "--path-format=absolute", "--git-common-dir")[0]).parent


def read_source(what):
    """The train.py of a path or of a commit."""
    if (path := Path(what)).is_file():
        source = Source(str(what), "", path.read_bytes())
    else:
        try:
            (commit,) = git_lines("rev-parse", "--verify", "--quiet", f"{what}^{{commit}}")
        except Refused:
            raise Refused(f"{what!r} is neither a file nor a commit: name one of them") from None
        source = Source(str(what), commit, git("show", f"{commit}:train.py"))
    if (size := len(source.text)) > SOURCE_BYTES:
        raise Refused(f"train.py of {what} has {size:,} bytes, {SOURCE_BYTES:,} are allowed: no data in it")
    return source


def check_commit(commit):
    """Raise Refused unless train.py is all that a commit changes."""
    changed = git_lines("diff-tree", "--no-commit-id", "--name-only", "-r", "-m", "--root", commit)
    if others := ", ".join(sorted({*changed} - {"train.py"})):
        raise Refused(f"commit {commit[:7]} changes {others}: an experiment may change train.py only")


def check_clean():
    """Raise Refused when the working tree has changes that a commit would lack."""
    if changed := git_lines("status", "--porcelain", "--untracked-files=no"):
        files = ", ".join(line.split()[-1] for line in changed)
        raise Refused(f"{files} changed since the last commit: commit that first, an experiment is a commit")


def machinery():
    """Hash of prepare.py and ratchet/: the seal of what judges."""
    files = [ROOT / "prepare.py", *sorted((ROOT / "ratchet").glob("*.py"))]
    return sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))[:16]


# ----------------------------------------------------------------------------------------------------
# One run


class Arena(NamedTuple):
    name: str
    folder: Path
    seal: str
    seconds: int


def load_arena(name):
    """An arena that is prepared; its files are what arena.json says. Raises Refused."""
    folder = pool.cache_folder() / name
    if not (folder / "arena.json").exists():
        raise Refused(f"arena {name} is not prepared: run `uv run prepare.py --arena {name}` first")
    data = (folder / "arena.json").read_bytes()
    facts = json.loads(data)
    for file, known in facts["sha256"].items():
        with open(folder / file, "rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != known:
                raise Refused(
                    f"{folder / file} is not what was prepared: delete {folder} and prepare it again"
                )
    return Arena(name, folder, sha256(data)[:12], facts["seconds"])


class Job(NamedTuple):
    """One run to do: everything that execution needs to know, on whatever machine.

    target: new folder for what the run leaves. compiled: kept compiler caches. splits: what to score.
    """

    source: Source
    seed: int
    budget: str
    arena: Arena
    device: str
    target: Path
    compiled: Path
    splits: tuple = ("val",)
    is_baseline: bool = False

    @property
    def seconds(self):
        """On the clock at most: a budget of tokens or FLOPs may take ten times as long as the arena's."""
        return float(self.budget[:-1]) if self.budget.endswith("s") else 10.0 * self.arena.seconds

    @property
    def live(self):
        """Folder in which it runs: the same for all runs on a device, as compiler caches know their path."""
        return pool.cache_folder() / ".live" / self.device.replace(":", "")


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

    status: ok, crash, timeout (no submit), overtime (late), invalid (its score or its files), or what it took
    too much of: memory, output, processes, disk. The device is held meanwhile.
    """
    live, level, clock = job.live, sandbox.best_level(), Clock()
    facts = {"seed": job.seed, "budget": job.budget, "status": "ok", "reason": "", "isolation": level}
    facts |= pool.describe(job.device) | job.source.facts() | {"shared": False, "seconds": clock.seconds}
    with pool.exclusive(job.device):
        for process in pool.marked(str(live / "out")) + pool.marked(str(live / "score")):
            process.kill()  # of a referee that was killed
        place(job)
        try:
            told = compete(job, level, clock, facts)
            facts |= judge(job, level, facts, told)
        except pool.Ended as end:
            facts |= {"status": end.status, "reason": str(end)}
        clock.enter("end")
        facts |= {"throttled": pool.throttled(job.device), "tail": tail(live / "run.log")}
        keep_files(job)
    return facts


# ----------------------------------------------------------------------------------------------------
# The contestant


def place(job):
    """Fresh folders: code (sealed prepare.py, the contestant), out, tmp, cache.

    The cache is what the compiler made for the same source before its first real token, or for the baseline.
    """
    shutil.rmtree(job.live, ignore_errors=True)
    for name in ("code", "out", "tmp"):
        (job.live / name).mkdir(parents=True)
    shutil.copy(ROOT / "prepare.py", job.live / "code")
    (job.live / "code/train.py").write_bytes(job.source.text)
    known = [job.compiled / name for name in (sha256(job.source.text)[:16], "baseline")]
    for folder in [folder for folder in known if folder.exists()][:1]:
        shutil.copytree(folder, job.live / "cache", symlinks=True)
    (job.live / "cache").mkdir(exist_ok=True)


def keep_compiled(job):
    """Keep the compiler's cache as it is before the first real token: a run can't hand on what it learned."""
    for name in [sha256(job.source.text)[:16]] + ["baseline"] * job.is_baseline:
        if not (job.compiled / name).exists():
            part = job.compiled / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            copy_files(job.live / "cache", part)
            os.replace(part, job.compiled / name)


def copy_files(source, target):
    """Copy a folder that a contestant can change meanwhile: regular files with one name, and nothing else."""
    for folder, _, names, descriptor in os.fwalk(source):
        (place := target / os.path.relpath(folder, source)).mkdir(parents=True, exist_ok=True)
        for name in names:
            how = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with suppress(OSError), open(os.open(name, how, dir_fd=descriptor), "rb") as old:
                facts = os.fstat(old.fileno())
                if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
                    (place / name).write_bytes(old.read())


def inherited():
    kept = {key: os.environ[key] for key in ENVIRONMENT if key in os.environ}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"}


def environment(job):
    """All that a contestant inherits."""
    live, arena = job.live, job.arena
    told = {"ARENA": arena.name, "CACHE": arena.folder.parent, "RUN": live / "out"}
    told |= {"SEED": job.seed, "BUDGET": job.budget, "DEVICE": job.device}
    told = {f"RATCHET_{key}": value for key, value in told.items()}
    homes = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), live / "tmp")
    caches = {"TORCHINDUCTOR_CACHE_DIR": live / "cache", "TRITON_CACHE_DIR": live / "cache/triton"}
    more = {"WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
    return inherited() | {key: str(value) for key, value in (told | homes | caches | more).items()}


def compete(job, level, clock, facts):
    """The contestant's part of a run: adds to `facts` what was seen, returns what it told. Raises Ended."""
    live, arena, (ours, theirs) = job.live, job.arena, socket.socketpair()
    view = sandbox.View(
        read=(live / "code", arena.folder / "arena.json", arena.folder / "tokenizer.json"),
        write=(live / "out", live / "cache", live / "tmp"), device=job.device,
        file_bytes=WEIGHT_BYTES)  # fmt: skip
    argv = sandbox.command([sys.executable, str(live / "code/train.py")], view, level)
    env = environment(job) | {"RATCHET_REFEREE": str(theirs.fileno())}
    log, mark = live / "run.log", env["RATCHET_RUN"]
    with ours, pool.Watched(argv, env, live / "code", log, mark, theirs) as process:
        load, energy = pool.Load(job.device, process), pool.joules(job.device)
        try:
            begin = wait_until_ready(process, ours, clock)
            keep_compiled(job)
            load.begin()
            told = train(job, process, ours, clock, spent=max(0.0, begin - FREE_SECONDS))
            facts |= load.seen()
        finally:
            facts["peak_memory_mb"] = round(process.peak_bytes / 2**20)
    facts |= {key: number(told.get(key)) for key in ("steps", "tokens", "flops_per_token")}
    facts["joules"] = energy and pool.joules(job.device) - energy
    late = facts["seconds"]["train"] - job.seconds
    if late > max(LATE * job.seconds, LATE_SECONDS):
        raise pool.Ended("overtime", f"it submitted {late:.2f} s after its {job.seconds:g} s")
    return told


def wait_until_ready(process, channel, clock):
    """Seconds until the contestant says that it is ready to train."""
    begin = now = time.monotonic()
    while True:
        said, now = process.message(channel, begin + READY_SECONDS - now, "it was never ready to train")
        if said.get("phase") == "train":
            return now - begin
        clock.enter("rehearsal", now)


def train(job, process, channel, clock, spent):
    """Start the clock by handing over the training tokens, stop it when the weights are saved."""
    os.chmod(tokens := job.arena.folder / "train.tokens", 0o644)  # who holds a file can change its mode
    with open(tokens, "rb") as file:
        clock.enter("train")
        socket.send_fds(channel, [f"{spent:.3f}".encode()], [file.fileno()])
    clock.since -= spent
    slow = f"it should have stopped after {job.seconds:g} s and did not"
    try:
        told, now = process.message(channel, 1.1 * job.seconds + 10 - spent, slow)
    except pool.Ended:
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
    for name, most in ARTIFACTS.items():
        try:
            facts = os.lstat(out / name)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise pool.Ended("invalid", f"{name} is a link or no file")
        if facts.st_size > most:
            raise pool.Ended("invalid", f"{name} has {facts.st_size:,} bytes, {most:,} are allowed")
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
    known |= {
        "arena": arena.name,
        "arena_folder": str(arena.folder),
        "seal": arena.seal,
        "device": job.device,
    }
    known |= {"train_seconds": seconds["train"], "rehearsal_seconds": seconds.get("rehearsal", 0.0)}
    known |= {"unscored_seconds": sum(seconds.values()), "custom_budget": job.budget != f"{arena.seconds}s"}
    known |= {"peak_flops": number(told.get("peak_flops")), "peak_of": "told", "device_name": facts["device"]}
    (folder / "model/run.json").write_text(json.dumps(known | {"interrupted": False}))
    shutil.copy(ROOT / "prepare.py", folder / "judge")  # anew: the other one was in the contestant's reach
    out = {}
    for split in job.splits:
        result = have_scored(job, folder, level, split)
        out |= {key: result[key] for key in ("params", "lookup", "flops_per_token", "mfu_percent")}
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
        with pool.Watched(argv, env, folder, folder / "score.log", str(folder)) as process:
            process.wait(SCORE_SECONDS + SCORE_SHARE * job.arena.seconds)
    except pool.Ended as end:
        raise pool.Ended("invalid", f"scoring: {end}") from None
    path = folder / "model" / {"val": "result.json", "test": "test.json"}[split]
    if not path.exists():
        words = tail(folder / "score.log") or ["no output"]
        raise pool.Ended("invalid", f"it can't be scored: {words[-1]:.300}")
    return json.loads(path.read_text())


def tail(log):
    return log.read_text().strip().splitlines()[-TAIL_LINES:] if log.exists() else []


def keep_files(job):
    """Move what a run leaves to its folder, all at once."""
    part = job.target.with_name(job.target.name + ".part")
    for folder in (job.target, part):
        shutil.rmtree(folder, ignore_errors=True)
    part.mkdir(parents=True)
    score, model = job.live / "score", job.live / "score/model"
    for path in [*(model.iterdir() if model.exists() else []), job.live / "run.log", score / "score.log"]:
        if path.exists():
            shutil.move(path, part / path.name)
    (part / "train.py").write_bytes(job.source.text)
    os.replace(part, job.target)
    shutil.rmtree(job.live, ignore_errors=True)
