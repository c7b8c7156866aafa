"""Takes more memory than its limit between two looks, gives it back, and has the kernel forget it
(clear_refs of proc(5))."""

import contextlib

import numpy as np

LIMITS = {"memory_gb": 1.5}  # it takes less than 1 without that
PATCH = {"referee.limits.CHECK_SECONDS": 5}  # the time between two looks, so that it has enough
EXPECT = {"overlimit"}


def train(run, model, step):
    for number, (x, y) in enumerate(run.batches(8)):
        if number == 1:
            much = np.ones(2**28)  # 2 GB
            del much
            with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        step(x, y)
