"""Tries the sandbox: what it must forbid, and what it must let through."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ratchet.arena.model_process.rooms import copy_contract
from ratchet.doctor.device import error_line, run_program
from ratchet.doctor.findings import Finding
from ratchet.doctor.surroundings import REMEDY
from ratchet.referee import sandbox
from ratchet.referee.devices.choice import torch_name
from ratchet.referee.devices.nvidia import WSL_NODE
from ratchet.referee.environment import with_home

SHARING = Path(__file__).with_name("sharing.py")


def check_sandbox(level: str, why: str = "") -> Iterator[Finding]:
    """The level of isolation, then each attempt to break out; why: no level can be tried, or ""."""
    if why:
        yield Finding("isolation", False, why, REMEDY)
        return
    install = "install bubblewrap (apt install bubblewrap)"
    if sys.platform != "linux":
        install = "use Linux: there is no sandbox on this system"
    yield Finding("isolation", level == sandbox.LEVELS[0], level, install)
    for claim, holds, detail in sandbox.prove_claims(level):
        advice = f"not blocked at level {level}: {install}"
        yield Finding(f"  {claim}", holds, detail or "tried", advice)


def check_sharing(device: str, level: str) -> Finding:
    """Whether a model in the sandbox can hand its logits over in the GPU's memory (CUDA IPC)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = shutil.copy(SHARING, folder)
        copy_contract(folder)
        view = sandbox.View(write=(folder,), device=device, own_pids=False)
        python = sandbox.write_python(folder / "python", view, level)
        argv = [sys.executable, program, torch_name(device), str(python)]
        printed, errors = run_program(argv, folder, with_home(folder))
    well = printed is not None
    seen = "it works" if well else error_line(errors)
    update = "without it no run is scored on this GPU"
    if WSL_NODE.exists():
        update += ": update WSL (`wsl --update`) and the driver of Windows, or use Linux itself"
    return Finding("shared memory", well, seen, update)
