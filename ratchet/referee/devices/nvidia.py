"""What the driver of an NVIDIA GPU tells about it."""

import os
from contextlib import suppress
from typing import Any

# causes that nvmlDeviceGetCurrentClocksEventReasons tells, in our words; idleness is none
THROTTLE_CAUSES = {
    "SwThermalSlowdown": "heat",
    "HwThermalSlowdown": "heat",
    "HwPowerBrakeSlowdown": "power brake",
}


def open_gpu(device: str) -> tuple[Any, Any] | None:
    """(library, handle) of a device like cuda:0, or None where it is no NVIDIA GPU."""
    if not device.startswith("cuda"):
        return None
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


def read_joules(device: str) -> float | None:
    """Energy that a GPU has used since its driver was loaded; None where nothing tells it."""
    if gpu := open_gpu(device):
        nvml, handle = gpu
        with suppress(nvml.NVMLError):
            return nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    return None


def throttle_cause(device: str) -> str:
    """Why the clocks of a GPU are held down, for example "heat"; "" if they are not."""
    if gpu := open_gpu(device):
        nvml, handle = gpu
        with suppress(nvml.NVMLError):
            bits = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
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
