"""The doctor: looks at what a run depends on, says what to do about it."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import psutil

from ratchet import commits
from ratchet.arena.files import cache_folder
from ratchet.referee import limits, sandbox
from ratchet.referee.devices.choice import describe_device, torch_name
from ratchet.referee.devices.cores import pinned_to
from ratchet.referee.devices.nvidia import throttle_cause
from ratchet.referee.environment import copy_contract, matmul_environment


class Finding(NamedTuple):
    """One check: what was looked at, whether it is well, what was seen, what to do about it."""

    name: str
    well: bool
    seen: str
    advice: str = ""


def matmul_peak(device, level):
    """(FLOP/s, of what) as prepare.py measures it, in the sandbox; (0, why) where torch fails
    there.
    """
    code = "import json, torch; from ratchet.arena.hardware import cpu, device; cpu.settle()"
    code += f"; print(json.dumps(device.matmul_peak(torch.device({torch_name(device)!r}))))"
    with tempfile.TemporaryDirectory() as folder, pinned_to(device):
        copy_contract(Path(folder))
        view = sandbox.View(write=(Path(folder),), device=device)
        argv = sandbox.confined_command([sys.executable, "-c", code], view, level)
        environment = matmul_environment(Path(folder))
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True)
    printed, said = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    words = said.strip().splitlines() or ["no reason given"]
    return json.loads(printed) if not done.returncode else (0.0, words[-1])


def hardware(device, level):
    """(name, well, seen, advice) of the device."""
    facts, (peak, what), why = (
        describe_device(device),
        matmul_peak(device, level),
        throttle_cause(device),
    )
    driver = f", driver {facts['driver']}" if facts["driver"] else ""
    yield "device", True, facts["device"] + driver, ""
    yield (
        "torch",
        peak > 0,
        facts["torch"],
        "it doesn't work on this device in the sandbox: run `uv sync`",
    )
    yield "matmul peak", peak > 0, f"{peak / 1e12:.2f} TFLOP/s ({what})", "mend torch first"
    yield "clocks", not why, why or "not throttled", "cool the device, raise its power cap"


def surroundings(device):
    """(name, well, seen, advice) of the machine and what lies on it."""
    load, memory, disk = (
        psutil.cpu_percent(0.5),
        psutil.virtual_memory(),
        shutil.disk_usage(Path.cwd()),
    )
    quiet = load < 100 * limits.FOREIGN_CPU_SHARE[device.partition(":")[0]]
    arenas = ", ".join(sorted(path.parent.name for path in cache_folder().glob("*/arena.json")))
    busy = "close other programs; or calibrate and try with --busy: the noise grows"
    yield "load", quiet, f"{load:.0f}% of the CPU in use", busy
    free = f"{memory.available / 1e9:.1f} GB free"
    yield "memory", memory.available > 4e9, free, "close programs: a run may need 4 GB"
    yield (
        "disk",
        disk.free > 2e10,
        f"{disk.free / 1e9:.0f} GB free",
        "free some: a night may leave 20 GB",
    )
    yield "arenas", bool(arenas), arenas or "none", "run `uv run prepare.py`"
    yield "git", *commits.examine()


def isolation(level):
    """(name, well, seen, advice) of the sandbox."""
    linux = sys.platform == "linux"
    install = (
        "install bubblewrap (apt install bubblewrap)"
        if linux
        else "use Linux: this system has none"
    )
    yield "isolation", level == sandbox.LEVELS[0], level, install
    for claim, holds, detail in sandbox.prove_claims(level):
        yield f"  {claim}", holds, detail or "tried", f"open at level {level}: {install}"


def examine(device):
    """Findings on a device, this machine, its arenas and its sandbox: what a run depends on."""
    level = sandbox.best_level()
    found = [*hardware(device, level), *surroundings(device), *isolation(level)]
    return [Finding(name, well, seen, "" if well else advice) for name, well, seen, advice in found]
