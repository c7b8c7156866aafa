"""Keeps memory in a file without a name, which no process has mapped (memfd_create(2))."""

import os

LIMITS = {"memory_gb": 1.5}  # it takes less than 1 without that
EXPECT = {"crash"}  # it is refused
OPEN_AT = ("none",)


def train(run, model, step):
    for number, (x, y) in enumerate(run.batches(8)):
        if number == 1:
            files = [os.memfd_create("much") for _ in range(4)]
            for file in files:
                for _ in range(5):
                    os.write(file, bytes(10**8))
        step(x, y)
