"""What a contestant finds around it: its variables, a copy of the contract."""

import os
import shutil

from ratchet.arena.files import ROOT
from ratchet.referee import bytecode, devices

ENVIRONMENT = (
    "PATH LANG LC_ALL LD_LIBRARY_PATH CUDA_VISIBLE_DEVICES CUDA_HOME OMP_NUM_THREADS".split()
)


def inherited():
    """What every process that runs a contestant's code inherits of this one's environment."""
    bytecode.compile_libraries()
    kept = {k: os.environ[k] for k in os.environ.keys() & ENVIRONMENT} | {
        "PYTHONDONTWRITEBYTECODE": "1"
    }
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
    # the compiler's header lies in TMPDIR, new for each run: making it takes longer than doing
    # without
    caches |= {"TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0"}
    more = {"WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
    return inherited() | {key: str(value) for key, value in (told | homes | caches | more).items()}


def copy_contract(folder):
    """Copy what a contestant, or its scorer, imports of Ratchet: prepare.py and ratchet/arena/."""
    shutil.copy(ROOT / "prepare.py", folder)
    (folder / "ratchet").mkdir()
    shutil.copy(ROOT / "ratchet/__init__.py", folder / "ratchet")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ratchet/arena", folder / "ratchet/arena", ignore=ignored)
