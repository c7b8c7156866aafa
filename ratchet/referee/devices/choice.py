"""Which devices this machine has, by the names that the command line takes."""

import functools
import importlib.metadata
import os
import platform
import sys

from ratchet.arena.files import Refused
from ratchet.arena.hardware.quota import cpu_quota
from ratchet.referee.devices import cores
from ratchet.referee.devices.cores import cores_of
from ratchet.referee.devices.nvidia import absence_of_gpus, open_gpu
from ratchet.referee.devices.visible import CUDA_ORDER


def list_devices() -> list[str]:
    """Names of the devices, best first, for example ["cuda:0", "cuda:1", "cpu"]."""
    gpus = []
    while open_gpu(name := f"cuda:{len(gpus)}"):
        gpus.append(name)
    is_apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return gpus + ["mps"] * is_apple + ["cpu"]


def choose_device(name: str | None = None) -> str:
    """The device of this name, by default the best; cpu:0/4 is the first quarter of the cores.

    Raises Refused.
    """
    names, quota = list_devices(), cpu_quota()
    if cores.is_share(name) and quota < len(cores_of("cpu")):
        raise Refused(
            f"{name} can't be set apart: all cores together are granted {quota:g} CPUs' time; "
            "leave it out, or have cores granted (docker: --cpuset-cpus, not --cpus)"
        )
    if not name or name in names or cores.is_share(name):
        refuse_other_order(name or names[0], names)
        return name or names[0]
    advice = f"choose one of {', '.join(names)}"
    if len(cores.CORES) > 1:
        advice += f"; or a share of its {len(cores.CORES)} cores, like cpu:0/2 and cpu:1/2"
    problem, remedy = absence_of_gpus() if name.startswith("cuda") else ("", "")
    if problem:
        raise Refused(f"there is no device {name!r} here ({problem}): {remedy}; or {advice}")
    raise Refused(f"there is no device {name!r} here: {advice}")


def refuse_other_order(name: str, names: list[str]) -> None:
    """Raises Refused where CUDA_DEVICE_ORDER has CUDA count several GPUs otherwise than we do."""
    order = os.environ.get("CUDA_DEVICE_ORDER")
    several = name.startswith("cuda") and "cuda:1" in names
    if several and order not in (None, *CUDA_ORDER.values()):
        raise Refused(
            f"CUDA_DEVICE_ORDER is {order}, but {name} is counted here as nvidia-smi counts: unset "
            "it, and choose by --device, or by a UUID of `nvidia-smi -L` in CUDA_VISIBLE_DEVICES"
        )


def torch_name(device: str) -> str:
    """What PyTorch calls a device: "cpu" for cpu:0/4."""
    return "cpu" if device.startswith("cpu") else device


@functools.cache
def torch_version() -> str:
    """That is installed: of a package's metadata all is parsed to tell, so a process asks once."""
    return importlib.metadata.version("torch")


def describe_device(device: str) -> dict[str, str]:
    """{"device": the kind, within which scores can be compared, "driver", "torch"}.

    Example of a kind: "cpu: AMD EPYC 9554, 4 of 8 cores", "NVIDIA H100 80GB HBM3".
    """
    if gpu := open_gpu(device):
        nvml, handle = gpu
        kind, driver = nvml.nvmlDeviceGetName(handle), nvml.nvmlSystemGetDriverVersion()
        return {"device": kind, "driver": driver, "torch": torch_version()}
    numbers, quota = cores_of(device), cpu_quota()
    kind = f"{device.partition(':')[0]}: {cores.cpu_name(len(numbers))}"
    if classes := cores.describe_classes(numbers):
        kind += f" ({classes})"
    if quota < len(cores_of("cpu")):
        kind += f", {quota:g} CPUs' time"
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit():
        kind += f", {threads} of OMP_NUM_THREADS"
    return {"device": kind, "driver": "", "torch": torch_version()}
