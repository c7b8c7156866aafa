"""Asks the driver of an NVIDIA GPU, and the system, what could disturb a run on it."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from ratchet.doctor.findings import Finding
from ratchet.doctor.machine import LOADED_COPIES, weight_bytes
from ratchet.referee.devices.nvidia import open_gpu, read_joules
from ratchet.referee.devices.visible import whole_card

DEV = Path("/dev")
COMPUTE_MODES = "default", "exclusive thread", "prohibited", "exclusive process"
MPS_PROGRAMS = "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"
IDLE_PERCENT = 5  # that a GPU may seem busy though nobody uses it
FREE_SHARE = 0.9  # of a GPU's memory, below which somebody else has it
GIB = 2**30


def check_gpu(device: str) -> Iterator[Finding]:
    """What the driver tells of a GPU; what it doesn't know is left out."""
    yield check_nodes()
    yield check_mps()
    gpu = open_gpu(device)
    if not gpu:
        return
    nvml, handle = gpu
    card = whole_card(nvml, handle)
    for check in (check_identity, check_mode, check_power, check_errors, check_persistence):
        with suppress(nvml.NVMLError):
            yield check(nvml, card)
    for check in (check_programs, check_memory):
        with suppress(nvml.NVMLError):
            yield check(nvml, handle, device)
    energy = "counted by the driver" if read_joules(device) else "unknown to this driver"
    is_part = card is not handle
    yield Finding("energy", True, "unknown: this is a part of a card (MIG)" if is_part else energy)


def check_nodes() -> Finding:
    """The files in /dev that CUDA opens; under WSL it is one alone."""
    names = ["dxg"] if (DEV / "dxg").exists() else ["nvidiactl", "nvidia-uvm"]
    closed = [name for name in names if not os.access(DEV / name, os.R_OK | os.W_OK)]
    missing = [name for name in closed if not (DEV / name).exists()]
    if missing:
        make = "`sudo nvidia-modprobe -u -c 0` makes them; start a container with --gpus all"
        return Finding("device nodes", False, f"no /dev/{', '.join(missing)}", make)
    allow = "have your user allowed to read and write them (`ls -l /dev/nvidia*` names the group)"
    seen = f"/dev/{', '.join(closed)} can't be opened" if closed else f"/dev/{', '.join(names)}"
    return Finding("device nodes", not closed, seen, allow)


def check_mps() -> Finding:
    """NVIDIA's service that lets programs share a GPU."""
    running = {process.info["name"] for process in psutil.process_iter(["name"])}
    stop = "stop it (echo quit | nvidia-cuda-mps-control): the sandbox can't reach it"
    seen = ", ".join(sorted(running.intersection(MPS_PROGRAMS)))
    return Finding("MPS", not seen, seen or "not running", stop)


# --------------------------------------------------------------------------------------------------
# Of the card


def check_identity(nvml: Any, card: Any) -> Finding:
    """Which of the machine's cards it is."""
    index, bus = nvml.nvmlDeviceGetIndex(card), nvml.nvmlDeviceGetPciInfo(card).busId
    return Finding("card", True, f"GPU {index} of nvidia-smi, at {bus}")


def check_mode(nvml: Any, card: Any) -> Finding:
    """A score takes two processes on the GPU at a time: the scorer and the model's."""
    mode = nvml.nvmlDeviceGetComputeMode(card)
    index = nvml.nvmlDeviceGetIndex(card)
    allow = f"`sudo nvidia-smi -i {index} -c DEFAULT`: scorer and model need it at the same time"
    return Finding("compute mode", mode == 0, COMPUTE_MODES[mode], allow)


def check_power(nvml: Any, card: Any) -> Finding:
    """A card with a lower limit is slower than others of its kind."""
    limits = nvml.nvmlDeviceGetPowerManagementLimit, nvml.nvmlDeviceGetPowerManagementDefaultLimit
    limit, usual = (read(card) // 1000 for read in limits)
    index = nvml.nvmlDeviceGetIndex(card)
    restore = f"`sudo nvidia-smi -i {index} -pl {usual}`, or compare with runs at this limit only"
    seen = f"limit {limit} W" if limit == usual else f"limit {limit} W, not {usual} W"
    return Finding("power", limit >= usual, seen, restore)


def check_errors(nvml: Any, card: Any) -> Finding:
    """Errors of its memory that ECC could not correct since the start; rows to be replaced."""
    seen = []
    with suppress(nvml.NVMLError):
        kind = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        if count := nvml.nvmlDeviceGetTotalEccErrors(card, *kind):
            seen.append(f"{count} uncorrected errors")
    with suppress(nvml.NVMLError):
        _, _, pending, failed = nvml.nvmlDeviceGetRemappedRows(card)
        seen += ["rows wait to be replaced"] * bool(pending) + ["no spare row"] * bool(failed)
    restart = "restart the machine; if it comes again, have the card replaced"
    return Finding("GPU errors", not seen, ", ".join(seen) or "none", restart)


def check_persistence(nvml: Any, card: Any) -> Finding:
    """Without it the driver lets go of a card that nobody uses."""
    is_on = bool(nvml.nvmlDeviceGetPersistenceMode(card))
    seen = "on" if is_on else "off: each start takes seconds longer"
    index = nvml.nvmlDeviceGetIndex(card)
    return Finding("persistence", is_on, seen, f"`sudo nvidia-smi -i {index} -pm 1`")


# --------------------------------------------------------------------------------------------------
# Of what CUDA shows: a card, or an instance of MIG


def check_programs(nvml: Any, handle: Any, device: str) -> Finding:
    """Other programs on it; from within a container they are seen by their work alone."""
    count, percent = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)), 0
    with suppress(nvml.NVMLError):
        percent = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
    seen = f"{count or 'none'}, it is {percent}% busy"
    end = "end them (`nvidia-smi` lists them), or pass --busy to every command"
    return Finding("other programs", not count and percent <= IDLE_PERCENT, seen, end)


def check_memory(nvml: Any, handle: Any, device: str) -> Finding:
    """Enough of it for train.py, which cuts its batches into pieces that fit."""
    memory, weights = nvml.nvmlDeviceGetMemoryInfo(handle), weight_bytes(device)
    seen = f"{memory.free / GIB:.0f} of {memory.total / GIB:.0f} GiB free"
    if memory.total < LOADED_COPIES * weights:
        return Finding("GPU memory", False, seen, "shrink train.py's model, or use arena pocket")
    end = "end what holds it: `nvidia-smi` lists programs"
    return Finding("GPU memory", memory.free > FREE_SHARE * memory.total, seen, end)
