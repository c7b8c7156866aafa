"""Devices: what this machine has, what they are called, how they feel, who holds them."""

import fcntl
import importlib.metadata
import math
import os
import platform
import re
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from ratchet.arena.files import Refused, work_folder


def nvml(device):
    """(library, handle) of a CUDA device, or None where there is no NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        index = int(device.partition(":")[2] or 0)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        name = str(index) if visible is None else visible.split(",")[index].strip()
        if name.isdigit():
            return pynvml, pynvml.nvmlDeviceGetHandleByIndex(int(name))
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(name)
    except (pynvml.NVMLError, ValueError, IndexError):
        return None


def here():
    """Names of the devices here, best first."""
    found = []
    while nvml(name := f"cuda:{len(found)}"):
        found.append(name)
    mac = sys.platform == "darwin" and platform.machine() == "arm64"
    return found + ["mps"] * mac + ["cpu"]


def choose(name=None):
    """The device of this name, by default the best here; cpu:0/4 is the first quarter of the CPU's
    cores.

    Raises Refused.
    """
    is_share = name and re.fullmatch(SHARE, name) and cores(name)
    if is_share and (granted := quota()) < len(cores("cpu")):
        what = f"{name} would share {granted:g} CPUs' time with the others, for more is not granted here"
        raise Refused(
            f"{what}: leave it out, or have cores granted (docker: --cpuset-cpus, not --cpus)"
        )
    if not name or name in here() or is_share:
        return name or here()[0]
    shares = (
        f"; or a share of its {len(CORES)} cores, like cpu:0/2 and cpu:1/2"
        if len(CORES) > 1
        else ""
    )
    raise Refused(f"there is no device {name!r} here: choose one of {', '.join(here())}{shares}")


def torch_name(device):
    """What PyTorch calls a device."""
    return "cpu" if device.startswith("cpu") else device


SYS, MEMBER = Path("/sys"), Path("/proc/self/cgroup")


def socket_and_core(number):
    """Of a logical core: those that share a physical one are in one share of the CPU."""
    folder = SYS / f"devices/system/cpu/cpu{number}/topology"
    try:
        return tuple(
            int((folder / name).read_text(encoding="utf-8"))
            for name in ("physical_package_id", "core_id")
        )
    except (OSError, ValueError):
        return 0, number


def cores_allowed():
    """[numbers of the logical cores of a physical one] that this process may use, in order; [] on
    macOS.
    """
    found, allowed = {}, os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    for number in sorted(allowed):
        found.setdefault(socket_and_core(number), []).append(number)
    return [found[place] for place in sorted(found)]


SHARE = r"cpu:(0|[1-9][0-9]{0,3})/([2-9]|[1-9][0-9]{1,3})"  # of the CPU: which, of how many
CORES = cores_allowed()  # before any thread is pinned to some of them


def cores(device):
    """Set of the logical cores of a device: all, or the share that cpu:0/4 names, which may have
    none.
    """
    part, parts = map(int, share.groups()) if (share := re.fullmatch(SHARE, device)) else (0, 1)
    size = len(CORES) // parts if part < parts else 0
    return {number for core in CORES[part * size : (part + 1) * size] for number in core}


def classes(numbers):
    """How many logical cores there are of each class, as text; "" where all of this machine are
    alike.
    """
    slow = SYS / "devices/cpu_atom/cpus"  # of Intel's hybrids; others tell a capacity
    ranges = (
        re.findall(r"(\d+)(?:-(\d+))?", slow.read_text(encoding="utf-8")) if slow.exists() else []
    )
    slow = {
        number for first, last in ranges for number in range(int(first), int(last or first) + 1)
    }

    def of(number):
        told = SYS / f"devices/system/cpu/cpu{number}/cpu_capacity"
        return (
            told.read_text(encoding="utf-8").strip()
            if told.exists()
            else "slow"
            if number in slow
            else "fast"
        )

    every = {number: of(number) for number in {*numbers, *range(psutil.cpu_count())}}
    found = Counter(every[number] for number in sorted(numbers))
    return (
        ", ".join(f"{n} {name}" for name, n in found.items()) if len({*every.values()}) > 1 else ""
    )


def quota():
    """How many CPUs' time this process is granted: by control groups (versions 1 and 2), by its
    Slurm job.

    Infinity without a limit.
    """
    slurm = (os.environ.get(f"SLURM_CPUS_{name}", "") for name in ("PER_TASK", "ON_NODE"))
    groups, granted = (
        SYS / "fs/cgroup",
        [math.inf, *(int(cpus) for cpus in slurm if cpus.isdigit())],
    )
    memberships = MEMBER.read_text(encoding="utf-8").splitlines() if MEMBER.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in memberships):
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = groups / controllers / path.lstrip("/")
        for group in (folder, *folder.parents):
            with suppress(OSError, ValueError):  # "max 100000": no limit; -1 in version 1
                files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
                words = " ".join((group / name).read_text(encoding="utf-8") for name in files)
                most, period = map(int, words.split())
                granted += [most / period] * (most > 0)
    return min(granted)


@contextmanager
def pinned(device):
    """Let this thread, and what it starts, use the cores of a device alone."""
    if not re.fullmatch(SHARE, device):
        yield
        return
    os.sched_setaffinity(0, cores(device))
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores("cpu"))


def cpu_name(used=None):
    """Model and cores of the CPU; used: how many of them, if not all."""
    info, count = Path("/proc/cpuinfo"), psutil.cpu_count()
    names = (
        re.findall("model name.*: (.*)", info.read_text(encoding="utf-8")) if info.exists() else []
    )
    share = f"{used} of " if used not in (None, 0, count) else ""
    return f"{(names or [platform.processor() or platform.machine()])[0]}, {share}{count} cores"


def describe(device):
    """{"device": the kind that scores can be compared on, "driver", "torch"}."""
    kind = f"{device.partition(':')[0]}: {cpu_name(len(cores(device)))}"
    kind += f" ({told})" if (told := classes(cores(device))) else ""
    kind += f", {granted:g} CPUs' time" if (granted := quota()) < len(cores("cpu")) else ""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    kind += f", {threads} of OMP_NUM_THREADS" if threads.isdigit() else ""
    facts = {"device": kind, "driver": "", "torch": importlib.metadata.version("torch")}
    if device.startswith("cuda") and (found := nvml(device)):
        library, handle = found
        facts |= {
            "device": library.nvmlDeviceGetName(handle),
            "driver": library.nvmlSystemGetDriverVersion(),
        }
    return facts


def joules(device):
    """Energy that the device has used since its driver was loaded, or None."""
    if device.startswith("cuda") and (found := nvml(device)):
        with suppress(found[0].NVMLError):
            return found[0].nvmlDeviceGetTotalEnergyConsumption(found[1]) / 1000
    return None


def throttled(device):
    """Why the device's clocks are held down, or "". Power and heat limits, not idleness."""
    if not device.startswith("cuda") or not (found := nvml(device)):
        return ""
    library, handle = found
    words = {
        "SwThermalSlowdown": "heat",
        "HwThermalSlowdown": "heat",
        "HwPowerBrakeSlowdown": "power brake",
    }
    with suppress(library.NVMLError):
        bits = library.nvmlDeviceGetCurrentClocksEventReasons(handle)
        held = {
            w for k, w in words.items() if bits & getattr(library, f"nvmlClocksEventReason{k}", 0)
        }
        return ", ".join(sorted(held))
    return ""


def seat(device):
    """A name of the device that no other has: machines may share a home, or give one name to
    several.
    """
    name = device
    if device.startswith("cuda") and (found := nvml(device)):
        name = found[0].nvmlDeviceGetUUID(found[1])
    return re.sub(r"[^\w-]", "", f"{platform.node()}-{name.replace('/', 'of')}")


def parts(device):
    """Names of what only one run may use at a time, in order: the cores of a CPU, or the device."""
    own = sorted(cores(device)) if device.startswith("cpu") else []
    return [seat(f"core-{number}") for number in own] or [seat(device)]


def overlap(first, second):
    """Whether two devices have a part in common."""
    return not {*parts(first)}.isdisjoint(parts(second))


@contextmanager
def exclusive(device, tell=lambda text: None, pause=time.sleep):
    """Hold a device: waits, by `pause`, while another run of this user has a part. A dying process
    lets go.

    This thread and what it starts are on the device's cores meanwhile.
    """
    work_folder().mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for part in parts(device):
            file = stack.enter_context(open(work_folder() / f".device-{part}.lock", "ab"))
            if not lock(file):
                tell(f"  {device} is in use by another run: waiting for it")
                while not lock(file):
                    pause(0.2)
        with pinned(device):
            yield


def lock(file):
    """Lock an open file; False if somebody else has."""
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
