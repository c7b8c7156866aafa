"""The CPU: how many cores a run may keep busy."""

import ctypes
import functools
import math
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch


def cgroup_cores(groups=Path("/sys/fs/cgroup"), member=Path("/proc/self/cgroup")):
    """How many cores' time control groups (versions 1 and 2) grant this process; infinity without a
    limit.
    """
    granted = [math.inf]
    memberships = member.read_text(encoding="utf-8").splitlines() if member.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in memberships):
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = (
            groups / controllers / path.lstrip("/")
        )  # of version 1: in a container it may be above
        for group in (folder, *folder.parents):
            with suppress(OSError, ValueError):  # "max 100000": no limit; -1 in version 1
                files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
                words = " ".join((group / name).read_text(encoding="utf-8") for name in files)
                quota, period = map(int, words.split())
                granted += [quota / period] * (quota > 0)
    return min(granted)


def usable_cores():
    """How many cores this process may keep busy: of its affinity, its control groups, its Slurm
    job.
    """
    slurm = (os.environ.get(f"SLURM_CPUS_{name}", "") for name in ("PER_TASK", "ON_NODE"))
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(
        1, int(min(allowed, cgroup_cores(), *(int(cores) for cores in slurm if cores.isdigit())))
    )


def limit_threads():
    """Give torch and tokenizers no more threads than usable_cores(); torch obeys OMP_NUM_THREADS if
    set.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", str(usable_cores()))
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


@functools.cache
def settle():
    """Keep freed memory, so that large CPU tensors aren't mapped and zeroed anew; avoid broken AMX."""
    # what the processor says it can do is believed: else each process has the compiler prove it,
    # for seconds
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    if sys.platform == "linux" and "amx_tile" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        # some virtual machines announce matrix tiles and kill who uses them: a child tries
        if not (child := os.fork()):
            signal.alarm(10)  # a fork of a process with threads may hang
            torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    limit_threads()
