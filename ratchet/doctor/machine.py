"""Looks at the machine: its load, memory, disk, arenas, repository."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from ratchet import commits
from ratchet.arena.definition import default_arena
from ratchet.arena.files import cache_folder
from ratchet.doctor.findings import Finding
from ratchet.referee import limits
from ratchet.referee.devices.memory import free_memory

LARGE_BYTES = 6e9  # of the weights of train.py's large model; a small one's are nothing
MEMORY_BYTES = 4e9  # that a run may need beside weights
DISK_BYTES = 2e10  # that a night may leave beside weights
LOADED_COPIES = 2  # of the weights in memory: the file's, the model's
KEPT_COPIES = 20  # on disk: an experiment's 13 runs until its verdict, the champions'


def weight_bytes(device: str) -> float:
    """Bytes of the weights of train.py's model on this device, about."""
    on_gpu = device.startswith("cuda")
    return LARGE_BYTES if on_gpu and default_arena(on_gpu) != "pocket" else 0.0


def check_machine(device: str) -> Iterator[Finding]:
    """Load, memory, disk, arenas, git."""
    load, weights = psutil.cpu_percent(0.5), weight_bytes(device)
    memory, least_memory = free_memory(), MEMORY_BYTES + LOADED_COPIES * weights
    disk, least_disk = shutil.disk_usage(Path.cwd()).free, DISK_BYTES + KEPT_COPIES * weights
    arenas = ", ".join(sorted(path.parent.name for path in cache_folder().glob("*/arena.json")))
    is_quiet = load < 100 * limits.FOREIGN_CPU_SHARE[device.partition(":")[0]]
    close = "close other programs, or pass --busy to every command: scores get noisier"
    yield Finding("load", is_quiet, f"{load:.0f}% of the CPU in use", close)
    close = f"close programs: a run may need {least_memory / 1e9:.0f} GB"
    yield Finding("memory", memory > least_memory, f"{memory / 1e9:.1f} GB free", close)
    free = f"free some space: a night can write {least_disk / 1e9:.0f} GB"
    yield Finding("disk", disk > least_disk, f"{disk / 1e9:.0f} GB free", free)
    yield Finding(
        "arenas",
        bool(arenas),
        arenas or "none",
        "`uv run prepare.py` makes one; train.py makes pocket itself",
    )
    yield Finding("git", *commits.examine_repository())
