"""The cores of the CPU that this process may use."""

import os
import platform
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

SHARE = r"cpu:(0|[1-9][0-9]{0,3})/([2-9]|[1-9][0-9]{1,3})"  # of the CPU: which, of how many
SYS = Path("/sys")


def physical_core(number: int) -> tuple[int, ...]:
    """(socket, physical core) of a logical core; those of one stay together in a share."""
    topology = SYS / f"devices/system/cpu/cpu{number}/topology"
    try:
        ids = [(topology / name).read_text("utf-8") for name in ("physical_package_id", "core_id")]
        return tuple(map(int, ids))
    except (OSError, ValueError):
        return 0, number


def allowed_cores() -> list[list[int]]:
    """The logical cores of each physical one that may be used: [[0, 4], [1, 5]]; [] on macOS."""
    threads: dict[tuple[int, ...], list[int]] = {}
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    for number in sorted(allowed):
        threads.setdefault(physical_core(number), []).append(number)
    return [threads[core] for core in sorted(threads)]


CORES = allowed_cores()  # before any thread is pinned to some of them


def cores_of(device: str) -> set[int]:
    """The logical cores of a device: all, or the share that cpu:0/4 names (which may be empty)."""
    share = re.fullmatch(SHARE, device)
    part, parts = map(int, share.groups()) if share else (0, 1)
    size = len(CORES) // parts if part < parts else 0
    return {number for core in CORES[part * size : (part + 1) * size] for number in core}


def is_share(device: str | None) -> bool:
    """Whether a name like cpu:0/4 is that of a share of the CPU, with cores in it."""
    return bool(device and re.fullmatch(SHARE, device) and cores_of(device))


def core_classes(numbers: set[int]) -> dict[int, str]:
    """The class of logical cores: "fast" or "slow" (Intel's hybrids), or a capacity (Arm)."""
    atoms = SYS / "devices/cpu_atom/cpus"  # for example "8-15"
    listed = atoms.read_text("utf-8") if atoms.exists() else ""
    slow = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", listed):
        slow |= {*range(int(first), int(last or first) + 1)}
    classes = {}
    for number in numbers:
        capacity = SYS / f"devices/system/cpu/cpu{number}/cpu_capacity"
        name = "slow" if number in slow else "fast"
        classes[number] = capacity.read_text("utf-8").strip() if capacity.exists() else name
    return classes


def describe_classes(numbers: set[int]) -> str:
    """How many cores of each class there are: "4 fast, 8 slow"; "" if all of the CPU are alike."""
    classes = core_classes({*numbers, *range(psutil.cpu_count())})
    counts = Counter(classes[number] for number in sorted(numbers))
    alike = len({*classes.values()}) == 1
    return "" if alike else ", ".join(f"{count} {name}" for name, count in counts.items())


@contextmanager
def pinned_to(device: str) -> Iterator[None]:
    """Let this thread, with what it starts, use only the cores of a device."""
    if not re.fullmatch(SHARE, device):
        yield
        return
    os.sched_setaffinity(0, cores_of(device))
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores_of("cpu"))


def cpu_name(used: int | None = None) -> str:
    """Model and cores of the CPU: "AMD EPYC 9554, 4 of 8 cores" if only some are `used`."""
    info, count = Path("/proc/cpuinfo"), psutil.cpu_count()
    models = re.findall("model name.*: (.*)", info.read_text("utf-8")) if info.exists() else []
    share = f"{used} of " if used not in (None, 0, count) else ""
    return f"{(models or [platform.processor() or platform.machine()])[0]}, {share}{count} cores"
