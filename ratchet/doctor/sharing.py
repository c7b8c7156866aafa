"""Shares a device's memory between two processes, as scorer and model do: sharing.py cuda:0 python.

The second, this file again, is started by a script that stands in for Python. On some systems all
calls succeed and nothing is shared (pytorch/pytorch issue 112340, WSL2); so what one writes the
other reads.
"""

import subprocess
import sys

import torch

from ratchet.arena.hardware.device import synchronize
from ratchet.arena.hardware.shared_memory import create_shared, open_shared

SECONDS = 120  # for the other process to start, import PyTorch and write
SHAPE = (1,)


def write_one(device: torch.device, handle: str, descriptors: list[str]) -> None:
    """In the other process."""
    open_shared(SHAPE, torch.uint8, device, handle, map(int, descriptors)).fill_(1)
    synchronize(device)


def share(device: torch.device, python: str) -> None:
    """Exits with a reason if the other process's number doesn't arrive."""
    numbers, descriptor, handle = create_shared(SHAPE, torch.uint8, device)
    descriptors = [] if descriptor is None else [descriptor]
    argv = [python, __file__, str(device), "", handle, *map(str, descriptors)]
    try:
        code = subprocess.run(argv, timeout=SECONDS, pass_fds=descriptors).returncode
    except subprocess.TimeoutExpired:
        sys.exit(f"the other process was silent for {SECONDS} seconds")
    if code:
        sys.exit(f"the other process ended with code {code}")
    if numbers.item() != 1:
        sys.exit("what one process writes the other doesn't see")


if __name__ == "__main__":
    _, device_name, script, *given = sys.argv
    if given:
        write_one(torch.device(device_name), given[0], given[1:])
    else:
        share(torch.device(device_name), script)
