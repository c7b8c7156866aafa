"""How much of the CPU's time this process is granted; known without PyTorch."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIPS = Path("/proc/self/cgroup")  # the control groups that this process is in


def control_groups(controller: str) -> Iterator[tuple[Path, bool]]:
    """(folder, whether of version 1) of this process's control groups that may limit something."""
    lines = MEMBERSHIPS.read_text(encoding="utf-8").splitlines() if MEMBERSHIPS.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if not controllers or controller in controllers.split(","):
            folder = CGROUPS / controllers / path.lstrip("/")
            for group in (folder, *folder.parents):  # of version 1: in a container it may be above
                yield group, bool(controllers)


def cgroup_quota() -> float:
    """How many CPUs' time control groups (versions 1 and 2) grant; infinity without a limit."""
    granted = [math.inf]
    for group, is_first in control_groups("cpu"):
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if is_first else ("cpu.max",)
        with suppress(OSError, ValueError):  # "max 100000": no limit; -1 in version 1
            words = " ".join((group / name).read_text(encoding="utf-8") for name in files)
            quota, period = map(int, words.split())
            granted += [quota / period] * (quota > 0)
    return min(granted)


def cpu_quota() -> float:
    """How many CPUs' time its control groups, its Slurm job grant; infinity without a limit."""
    slurm = (os.environ.get(f"SLURM_CPUS_{name}", "") for name in ("PER_TASK", "ON_NODE"))
    return min([cgroup_quota(), *(int(cpus) for cpus in slurm if cpus.isdigit())])
