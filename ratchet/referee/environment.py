"""What a process that runs foreign code inherits: its variables, its copy of the contract."""

import os
from pathlib import Path

from ratchet.arena.hardware.quota import cpu_quota
from ratchet.arena.model_process import rooms
from ratchet.referee.devices.cores import cores_of
from ratchet.referee.devices.visible import CUDA_ORDER
from ratchet.referee.job import Job

# A scorer hands on to the model what prepare.ENVIRONMENT names, too.
INHERITED = """
    PATH LANG LC_ALL LD_LIBRARY_PATH CUDA_VISIBLE_DEVICES CUDA_HOME TRITON_LIBCUDA_PATH CC
    OMP_NUM_THREADS ONEDNN_MAX_CPU_ISA
"""


def inherited_environment() -> dict[str, str]:
    """What every process that runs a model's code inherits of this one's environment."""
    kept: dict[str, str] = {
        name: os.environ[name] for name in INHERITED.split() if name in os.environ
    }
    kept |= CUDA_ORDER
    quota = cpu_quota()
    if quota < len(cores_of("cpu")):  # in a sandbox it can't be seen
        kept.setdefault("OMP_NUM_THREADS", str(max(1, int(quota))))
    return kept


def with_home(folder: Path) -> dict[str, str]:
    """What is inherited, and a home folder of its own."""
    return inherited_environment() | dict.fromkeys(("HOME", "TMPDIR"), str(folder))


def contestant_environment(job: Job) -> dict[str, str]:
    """All that a contestant inherits; the referee adds the number of its socket."""
    live = job.live_folder
    conditions = {
        "RATCHET_ARENA": job.arena.name,
        "RATCHET_CACHE": job.arena.folder.parent,
        "RATCHET_RUN": live / "out",
        "RATCHET_SEED": job.seed,
        "RATCHET_BUDGET": job.budget,
        "RATCHET_DEVICE": job.torch_device,
    }
    caches = {
        "XDG_CACHE_HOME": live / "tmp",
        "TORCHINDUCTOR_CACHE_DIR": live / "cache",
        "TRITON_CACHE_DIR": live / "cache/triton",
        # the header would lie in TMPDIR, new for each run: to make it takes longer than it saves
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": 0,
    }
    habits = {"WANDB_MODE": "disabled", "PYTHONUNBUFFERED": 1}
    added = conditions | caches | habits
    return with_home(live / "tmp") | {name: str(value) for name, value in added.items()}


def scorer_environment(folder: Path) -> dict[str, str]:
    """Of `prepare.py score` in a folder, whose models run in the folder's rooms."""
    added = {rooms.VARIABLE: str(folder / "rooms"), "RATCHET_RUN": str(folder)}
    return with_home(folder / "tmp") | added


def matmul_environment(folder: Path) -> dict[str, str]:
    """Of the doctor's measurement of a device, which imports the contract from a folder."""
    return with_home(folder) | {"PYTHONPATH": str(folder)}


def allreduce_environment(folder: Path, device: str) -> dict[str, str]:
    """Of the processes that measure an all-reduce between devices of one kind."""
    added = {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    if not device.startswith("cuda"):
        added["CUDA_VISIBLE_DEVICES"] = ""
    return inherited_environment() | added
