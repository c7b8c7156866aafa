"""The CPU: how many cores a run may keep busy, what to work around."""

import ctypes
import functools
import os
import signal
import sys
from pathlib import Path

import torch

from ratchet.arena.hardware.quota import cpu_quota

INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA"  # oneDNN's variable: the largest set that it may use
TRIALS = 3  # of AMX, until it is taken for broken


def usable_cores() -> int:
    """How many cores this process may keep busy, at least one."""
    has_affinity = hasattr(os, "sched_getaffinity")
    allowed = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, int(min(allowed, cpu_quota())))


def limit_threads() -> None:
    """Give torch and tokenizers no more threads than there are usable cores.

    torch obeys OMP_NUM_THREADS if that is set.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", str(usable_cores()))
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


@functools.cache
def apply_cpu_workarounds() -> None:
    """Keep freed memory, so that large tensors aren't mapped anew; avoid broken AMX."""
    # what the processor says it can do is believed: else each process has the compiler prove it,
    # for seconds
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    choose_instructions()
    limit_threads()


def choose_instructions() -> None:
    """Say in the environment whether oneDNN may use AMX, so that child processes need not try.

    A model's processes must agree: with other instructions their products differ. So a trial that
    fails is made again, and a scorer's choice is that of all its processes.
    """
    if INSTRUCTIONS not in os.environ and has_matrix_tiles():
        works = any(matrix_tiles_work() for _ in range(TRIALS))
        os.environ[INSTRUCTIONS] = "DEFAULT" if works else "AVX512_CORE_BF16"


def has_matrix_tiles() -> bool:
    """Whether the processor announces AMX."""
    return "amx_tile" in processor_flags()


def processor_flags() -> set[str]:
    """What an x86 processor says that it can do, as {"avx2", "avx512_bf16"}; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return next(({*line.split()[2:]} for line in lines if line.startswith("flags")), set())


def matrix_tiles_work() -> bool:
    """Whether AMX works: some virtual machines announce it, but kill who uses it. A child tries."""
    child = os.fork()
    if not child:
        signal.alarm(10)  # a fork of a process with threads may hang
        torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
        os._exit(0)
    return not os.waitpid(child, 0)[1]
