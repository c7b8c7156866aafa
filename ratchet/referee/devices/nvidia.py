"""What the driver of an NVIDIA GPU tells about it."""

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from ratchet.referee.devices.visible import visible_gpus, whole_card

# causes that nvmlDeviceGetCurrentClocksEventReasons tells, in our words; idleness is none
THROTTLE_CAUSES = {
    "SwThermalSlowdown": "heat",
    "HwThermalSlowdown": "heat",
    "HwPowerBrakeSlowdown": "power brake",
}

# what NVML's library says when it can't be used: what to do
DRIVER_REMEDIES = {
    "version mismatch": "restart the machine: its driver was updated",
    "Not Loaded": "load NVIDIA's driver (sudo modprobe nvidia), or install it for this kernel",
    "Not Found": "install NVIDIA's driver; start a container with --gpus all",
}
PCI = Path("/sys/bus/pci/devices")
WSL_NODE = Path("/dev/dxg")  # a GPU of Windows


def open_gpu(device: str) -> tuple[Any, Any] | None:
    """(library, handle) of a device like cuda:0, or None where it is no NVIDIA GPU.

    The handle is that of an instance of MIG where CUDA shows one.
    """
    name = re.fullmatch(r"cuda(?::(\d+))?", device)
    if not name:
        return None
    import pynvml

    with suppress(pynvml.NVMLError, IndexError):
        pynvml.nvmlInit()
        return pynvml, visible_gpus(pynvml)[int(name[1] or 0)]
    return None


def read_joules(device: str) -> float | None:
    """Energy that a GPU has used since its driver was loaded; None where nothing tells it.

    Of an instance of MIG nobody knows it: the card's would be its neighbours', too.
    """
    if gpu := open_gpu(device):
        nvml, handle = gpu
        with suppress(nvml.NVMLError):
            if whole_card(nvml, handle) is handle:
                return nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    return None


def throttle_cause(device: str) -> str:
    """Why the clocks of a GPU are held down, for example "heat"; "" if they are not."""
    if gpu := open_gpu(device):
        nvml, handle = gpu
        with suppress(nvml.NVMLError):
            card = whole_card(nvml, handle)
            bits = nvml.nvmlDeviceGetCurrentClocksEventReasons(card)
            causes = set()
            for name, cause in THROTTLE_CAUSES.items():
                if bits & getattr(nvml, f"nvmlClocksEventReason{name}", 0):
                    causes.add(cause)
            return ", ".join(sorted(causes))
    return ""


def running_processes(device: str) -> list[int]:
    """Numbers of the processes that compute on a GPU."""
    if gpu := open_gpu(device):
        nvml, handle = gpu
        with suppress(nvml.NVMLError):
            return [each.pid for each in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    return []


def memory_of_processes(device: str, numbers: Collection[int]) -> int | None:
    """Bytes of a GPU's memory that processes take; None where its driver doesn't tell whose it is.

    So it is in a container, and on Windows.
    """
    if gpu := open_gpu(device):
        nvml, handle = gpu
        with suppress(nvml.NVMLError):
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            taken = [each.usedGpuMemory for each in running if each.pid in numbers]
            return sum(taken) if taken and None not in taken else None
    return None


def used_memory(device: str) -> int | None:
    """Bytes of a GPU's memory that are taken, by whomever; None where there is no such GPU."""
    if gpu := open_gpu(device):
        nvml, handle = gpu
        with suppress(nvml.NVMLError):
            return nvml.nvmlDeviceGetMemoryInfo(handle).used
    return None


def has_nvidia_card() -> bool:
    """Whether an NVIDIA GPU is plugged into this machine, whatever its driver says."""
    for device in PCI.glob("*"):
        with suppress(OSError):
            vendor, kind = ((device / name).read_text("utf-8") for name in ("vendor", "class"))
            if vendor.startswith("0x10de") and kind.startswith("0x03"):  # NVIDIA, a display
                return True
    return WSL_NODE.exists()


def absence_of_gpus() -> tuple[str, str]:
    """(why CUDA shows no GPU although there is one, what to do); ("", "") if that is no fault."""
    import pynvml

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1") or not has_nvidia_card():
        return "", ""
    try:
        pynvml.nvmlInit()
        if visible_gpus(pynvml):
            return "", ""
    except pynvml.NVMLError as error:
        problem, remedies = f"NVIDIA's driver: {error}", [*DRIVER_REMEDIES.items()]
        fitting = [remedy for words, remedy in remedies if words in problem]
        return problem, (fitting or ["see what `nvidia-smi` says"])[0]
    if visible is None:
        return "NVIDIA's driver shows no GPU", "see what `nvidia-smi` says"
    return (
        f"CUDA_VISIBLE_DEVICES={visible} shows no GPU",
        "unset it, or name one of `nvidia-smi -L`",
    )
