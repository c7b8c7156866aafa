"""The doctor: checks what a run depends on."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.markup import escape
from rich.table import Table

from ratchet import commits
from ratchet.arena.files import cache_folder
from ratchet.referee import limits, sandbox
from ratchet.referee.devices.choice import describe_device, torch_name
from ratchet.referee.devices.cores import pinned_to
from ratchet.referee.devices.nvidia import throttle_cause
from ratchet.referee.environment import copy_contract, matmul_environment

MEMORY_BYTES = 4e9  # that a run may need
DISK_BYTES = 2e10  # that a night may leave


class Finding(NamedTuple):
    """One check, for example Finding("disk", True, "151 GB free")."""

    name: str
    well: bool
    seen: str
    advice: str = ""  # what to do about it if it isn't well


def measure_peak(device: str, level: str) -> tuple[float, str]:
    """(FLOP/s of a large matmul, its type) in the sandbox; (0, reason) where torch fails there."""
    code = "import json, torch; from ratchet.arena.hardware import cpu, device"
    code += "; cpu.apply_cpu_workarounds()"
    code += f"; print(json.dumps(device.matmul_peak(torch.device({torch_name(device)!r}))))"
    with tempfile.TemporaryDirectory() as folder, pinned_to(device):
        copy_contract(Path(folder))
        view = sandbox.View(write=(Path(folder),), device=device)
        argv = sandbox.confined_command([sys.executable, "-c", code], view, level)
        environment = matmul_environment(Path(folder))
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True)
    if not done.returncode:
        return json.loads(done.stdout)
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return 0.0, lines[-1] if lines else "no reason given"


def check_device(device: str, level: str) -> Iterator[Finding]:
    """Device, torch, speed, clocks."""
    description = describe_device(device)
    peak, kind = measure_peak(device, level)
    throttled = throttle_cause(device)
    driver = f", driver {description['driver']}" if description["driver"] else ""
    yield Finding("device", True, description["device"] + driver)
    install = "torch fails on this device in the sandbox: run `uv sync`"
    yield Finding("torch", peak > 0, description["torch"], install)
    yield Finding("matmul peak", peak > 0, f"{peak / 1e12:.2f} TFLOP/s ({kind})", "fix torch first")
    cool = "cool the device or raise its power limit"
    yield Finding("clocks", not throttled, throttled or "not throttled", cool)


def check_machine(device: str) -> Iterator[Finding]:
    """Load, memory, disk, arenas, git."""
    load = psutil.cpu_percent(0.5)
    memory = psutil.virtual_memory().available
    disk = shutil.disk_usage(Path.cwd()).free
    arenas = ", ".join(sorted(path.parent.name for path in cache_folder().glob("*/arena.json")))
    is_quiet = load < 100 * limits.FOREIGN_CPU_SHARE[device.partition(":")[0]]
    close = "close other programs, or pass --busy to every command: scores get noisier"
    yield Finding("load", is_quiet, f"{load:.0f}% of the CPU in use", close)
    close = "close programs: a run may need 4 GB"
    yield Finding("memory", memory > MEMORY_BYTES, f"{memory / 1e9:.1f} GB free", close)
    free = "free some space: a night can write 20 GB"
    yield Finding("disk", disk > DISK_BYTES, f"{disk / 1e9:.0f} GB free", free)
    yield Finding(
        "arenas",
        bool(arenas),
        arenas or "none",
        "`uv run prepare.py` makes one; train.py makes pocket itself",
    )
    yield Finding("git", *commits.examine_repository())


def check_sandbox(level: str) -> Iterator[Finding]:
    """The level of isolation, then each attempt to break out."""
    install = "install bubblewrap (apt install bubblewrap)"
    if sys.platform != "linux":
        install = "use Linux: there is no sandbox on this system"
    yield Finding("isolation", level == sandbox.LEVELS[0], level, install)
    for claim, holds, detail in sandbox.prove_claims(level):
        advice = f"not blocked at level {level}: {install}"
        yield Finding(f"  {claim}", holds, detail or "tried", advice)


def examine_machine(device: str) -> list[Finding]:
    """What a run depends on: the device, this machine, its arenas and its sandbox."""
    level = sandbox.best_level()
    findings = [*check_device(device, level), *check_machine(device), *check_sandbox(level)]
    return [finding._replace(advice="") if finding.well else finding for finding in findings]


def findings_table(findings: list[Finding]) -> Table:
    """A line for each finding, with advice where something is wrong."""
    table = Table("", "check", "found", "what to do", box=None)
    for finding in findings:
        mark = "[green]ok[/]" if finding.well else "[yellow]!![/]"
        table.add_row(mark, escape(finding.name), escape(finding.seen), finding.advice)
    return table
