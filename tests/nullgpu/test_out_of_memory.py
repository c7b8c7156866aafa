"""A null GPU without memory left: PyTorch says so as it does on a real one."""

import subprocess
import sys

import nullgpu

PROGRAM = """
import torch
try:
    torch.empty(100 << 30, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError as error:
    print(error)
"""


def test_pytorch_says_how_much_is_wanted_and_how_much_there_is(null_gpu):
    argv = [sys.executable, "-c", PROGRAM]
    environment = nullgpu.environment(null_gpu)
    done = subprocess.run(argv, env=environment, capture_output=True, encoding="utf-8")
    assert "Tried to allocate 100.00 GiB" in done.stdout, done.stderr
    assert "a total capacity of 79.00 GiB" in done.stdout
