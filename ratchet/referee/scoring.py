"""Has a submitted model scored, in a sandbox of its own."""

import json
import os
import stat
import sys

from ratchet.referee import sandbox, supervisor
from ratchet.referee.environment import copy_contract, inherited
from ratchet.referee.limits import ARTIFACTS, SCORE_SECONDS, SCORE_SHARE


def number(value):
    """A figure that a contestant told, or 0."""
    return value if type(value) in (int, float) and 0 <= value < 1e21 else 0


def collect(out, target):
    """Move what may leave the contestant's folder: regular files of bounded size with no second
    name.
    """
    os.chmod(out, 0o700)
    for name, most in ARTIFACTS.items():
        try:
            facts = os.lstat(out / name)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise supervisor.Ended("invalid", f"{name} is a link or no file")
        if facts.st_size > most:
            raise supervisor.Ended(
                "invalid", f"{name} has {facts.st_size:,} bytes, {most:,} are allowed"
            )
        os.replace(out / name, target / name)


def judge(job, level, facts, told):
    """Have the submitted model scored: raw sums and probes of each split, and what is seen on the
    way.
    """
    folder, arena, seconds = job.live / "score", job.arena, facts["seconds"]
    for name in ("tmp", "model", "judge"):
        (folder / name).mkdir(parents=True)
    collect(job.live / "out", folder / "model")
    (folder / "model/train.py").write_bytes(job.source.text)
    known = {
        key: facts[key]
        for key in ("seed", "budget", "steps", "tokens", "flops_per_token", "peak_memory_mb")
    }
    known |= {"arena": arena.name, "arena_folder": str(arena.folder), "seal": arena.seal}
    known |= {"device": job.torch_device}
    known |= {"train_seconds": seconds["train"], "rehearsal_seconds": seconds.get("rehearsal", 0.0)}
    known |= {
        "unscored_seconds": sum(seconds.values()),
        "custom_budget": job.budget != f"{arena.seconds}s",
    }
    known |= {
        "peak_flops": number(told.get("peak_flops")),
        "peak_of": "told",
        "device_name": facts["device"],
    }
    (folder / "model/run.json").write_text(
        json.dumps(known | {"interrupted": False}), encoding="utf-8"
    )
    copy_contract(folder / "judge")  # anew: the other one was in the contestant's reach
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
    own_pids = not job.device.startswith(
        "cuda"
    )  # the score reads the model's logits in the GPU's memory
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
        with supervisor.Watched(argv, env, folder, folder / "score.log", str(folder)) as process:
            process.wait(SCORE_SECONDS + SCORE_SHARE * job.arena.seconds)
    except supervisor.Ended as end:
        raise supervisor.Ended("invalid", f"scoring: {end}") from None
    path = folder / "model" / {"val": "result.json", "test": "test.json"}[split]
    if not path.exists():
        words = supervisor.tail(folder / "score.log") or ["no output"]
        raise supervisor.Ended("invalid", f"it can't be scored: {words[-1]:.300}")
    return json.loads(path.read_text(encoding="utf-8"))
