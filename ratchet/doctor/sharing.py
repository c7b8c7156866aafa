"""Shares memory of a GPU between two processes, as scorer and model do: sharing.py cuda:0 python.

The second is started by a script that stands in for Python. On some systems all calls succeed and
nothing is shared (pytorch/pytorch issue 112340, WSL2); so what one writes the other reads.
"""

import os
import sys

import torch
import torch.multiprocessing as multiprocessing

SECONDS = 120  # for the other process to start, import PyTorch and write


def write_one(numbers: torch.Tensor) -> None:
    """In the other process."""
    numbers.fill_(1)
    if numbers.is_cuda:
        torch.cuda.synchronize(numbers.device)


def main(device: str, python: str) -> None:
    """Exits with a reason if the other process's number doesn't arrive."""
    spawn = multiprocessing.get_context("spawn")
    spawn.set_executable(python)
    numbers = torch.zeros(1, dtype=torch.uint8, device=device).share_memory_()
    process = spawn.Process(target=write_one, args=(numbers,), daemon=True)
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        sys.exit(f"the other process was silent for {SECONDS} seconds")
    if process.exitcode:
        sys.exit(f"the other process ended with code {process.exitcode}")
    if numbers.item() != 1:
        sys.exit("what one process writes the other doesn't see")


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # at a usual end PyTorch looks for memory that the other never let go of
