"""Keeps memory in files that lie in memory, which no process has mapped (tmpfs(5))."""

import contextlib
import tempfile

LIMITS = {"memory_gb": 1.5}  # it takes less than 1 without that
EXPECT = {"overlimit"}
OPEN_AT = ("none",)


def train(run, model, step):
    files = []
    for number, (x, y) in enumerate(run.batches(8)):
        if number == 1:
            for folder in 2 * ("/dev/shm", "/tmp"):
                with contextlib.suppress(OSError):
                    files.append(tempfile.TemporaryFile(dir=folder))
            for file in files:
                for _ in range(8):
                    file.write(bytes(10**8))
        step(x, y)
