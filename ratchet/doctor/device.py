"""Tries a device as a contestant would: in the sandbox."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ratchet.arena.model_process.rooms import copy_contract
from ratchet.doctor.findings import Finding, first_remedy
from ratchet.referee import sandbox
from ratchet.referee.devices.choice import describe_device, torch_name
from ratchet.referee.devices.cores import pinned_to
from ratchet.referee.devices.nvidia import absence_of_gpus, throttle_cause
from ratchet.referee.environment import matmul_environment

SECONDS = 300  # that a try may take: a broken driver can hang
PEAK = """
import json, torch
from ratchet.arena.hardware import cpu, device
cpu.apply_cpu_workarounds()
print(json.dumps(device.matmul_peak(torch.device({device!r}))))
"""
COMPILED = """
import torch
torch.compile(lambda x: x * 2 + 1)(torch.ones(2**16, device={device!r}))
torch.cuda.synchronize()
"""
# what PyTorch says when it can't use a GPU: what to do
TORCH_REMEDIES = {
    "not compiled with CUDA": "this PyTorch is for CPUs: `uv sync --reinstall-package torch`",
    "driver on your system is too old": "update NVIDIA's driver: this PyTorch needs a newer one",
    "driver version is insufficient": "update NVIDIA's driver: this PyTorch needs a newer one",
    "no kernel image": "this PyTorch has no kernels for this GPU: choose another device",
    "busy or unavailable": "see compute mode and other programs below",
    "system not yet initialized": "`sudo systemctl start nvidia-fabricmanager`",
    "unsupported display driver": "restart the machine: driver and library differ",
    "out of memory": "end what holds the GPU's memory: `nvidia-smi` lists it",
    "unknown error": "see device nodes below; else restart the machine",
    "No CUDA GPUs": "see device nodes below: the sandbox shows what /dev/nvidia* there is",
}
COMPILER_REMEDIES = {
    "C compiler": "install one (apt install gcc), or set CC",
    "Python.h": "install Python's headers (apt install python3-dev), or `uv python install`",
    "libcuda": "set TRITON_LIBCUDA_PATH to the folder of libcuda.so.1",
    "ldconfig": "set TRITON_LIBCUDA_PATH to the folder of libcuda.so.1",
}


def run_program(
    argv: list[str], folder: Path, environment: dict[str, str]
) -> tuple[bytes | None, str]:
    """(what a program prints, None if it fails; its stderr); it is killed after SECONDS."""
    try:
        done = subprocess.run(
            argv, cwd=folder, env=environment, capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return None, f"TimeoutError: it took more than {SECONDS} s"
    return None if done.returncode else done.stdout, done.stderr.decode(errors="replace")


def run_confined(code: str, device: str, level: str) -> tuple[bytes | None, str]:
    """run_program() of code that runs in the sandbox, with the contract."""
    with tempfile.TemporaryDirectory() as name, pinned_to(device):
        folder = Path(name)
        copy_contract(folder)
        view = sandbox.View(write=(folder,), device=device)
        program = [sys.executable, "-c", code.format(device=torch_name(device))]
        argv = sandbox.confined_command(program, view, level)
        return run_program(argv, folder, matmul_environment(folder))


def error_line(errors: str) -> str:
    """The line of a program's stderr that says why it failed: PyTorch says more below it."""
    lines = [line for line in errors.strip().splitlines() if not line.startswith("[W")]  # warnings
    lines = lines or ["no reason given"]
    reasons = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    return (reasons or lines)[-1]


def check_device(device: str, level: str) -> Iterator[Finding]:
    """Device, torch, speed, clocks; a GPU that can't be used."""
    description = describe_device(device)
    printed, errors = run_confined(PEAK, device, level)
    peak, kind = json.loads(printed) if printed else (0.0, error_line(errors))
    throttled = throttle_cause(device)
    driver = f", driver {description['driver']}" if description["driver"] else ""
    yield Finding("device", True, description["device"] + driver)
    otherwise = "torch fails on this device in the sandbox: run `uv sync`"
    install = first_remedy(errors, TORCH_REMEDIES, otherwise)
    yield Finding("torch", peak > 0, description["torch"], install)
    yield Finding("matmul peak", peak > 0, f"{peak / 1e12:.2f} TFLOP/s ({kind})", "fix torch first")
    cool = "cool the device or raise its power limit"
    yield Finding("clocks", not throttled, throttled or "not throttled", cool)
    problem, remedy = absence_of_gpus()
    if problem:
        yield Finding("GPU", False, problem, remedy)


def check_compiler(device: str, level: str) -> Finding:
    """Whether torch.compile works there: Triton needs a C compiler and Python's headers."""
    printed, errors = run_confined(COMPILED, device, level)
    well = printed is not None
    remedy = first_remedy(errors, COMPILER_REMEDIES, "fix torch first")
    return Finding("torch.compile", well, "it works" if well else error_line(errors), remedy)
