"""Shares memory of a GPU between two processes, as scorer and model do: sharing.py cuda:0 python.

The second, this file again, is started by a script that stands in for Python. On some systems all
calls succeed and nothing is shared (pytorch/pytorch issue 112340, WSL2); so what one writes the
other reads.
"""

import subprocess
import sys

import torch

from ratchet.arena.hardware.shared_memory import create_cuda_tensor, open_cuda_tensor

SECONDS = 120  # for the other process to start, import PyTorch and write
SHAPE = (1,)


def write_one(device: torch.device, handle: bytes) -> None:
    """In the other process."""
    open_cuda_tensor(handle, SHAPE, torch.float32, device).fill_(1)
    torch.cuda.synchronize(device)


def share(device: torch.device, python: str) -> None:
    """Exits with a reason if the other process's number doesn't arrive."""
    numbers, handle = create_cuda_tensor(SHAPE, torch.float32, device)
    argv = [python, __file__, str(device), "", handle.hex()]
    try:
        code = subprocess.run(argv, timeout=SECONDS).returncode
    except subprocess.TimeoutExpired:
        sys.exit(f"the other process was silent for {SECONDS} seconds")
    if code:
        sys.exit(f"the other process ended with code {code}")
    if numbers.item() != 1:
        sys.exit("what one process writes the other doesn't see")


if __name__ == "__main__":
    _, name, script, *rest = sys.argv
    if rest:
        write_one(torch.device(name), bytes.fromhex(rest[0]))
    else:
        share(torch.device(name), script)
