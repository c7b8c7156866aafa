"""Kills a process that is not its own (pygpubench, AI Scientist's relaunches)."""

import os
from pathlib import Path

EXPECT = {"crash"}
OPEN_AT = {"none"}


def train(run, model, step):
    numbers = [number for number in os.listdir("/proc") if number.isdigit()]
    found = [n for n in numbers if b"271828" in (Path("/proc") / n / "cmdline").read_bytes()]
    if not found:  # then whoever is its parent
        os.kill(os.getppid(), 9)
        raise SystemExit("there is nobody to kill")
    os.kill(int(found[0]), 9)
    for x, y in run.batches(8):
        step(x, y)
