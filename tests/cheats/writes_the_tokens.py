"""Writes to the training tokens that it was given, opened anew (karpathy/autoresearch hole 11)."""

import os

BUDGET = "1s"
EXPECT = {"crash"}


def train(run, model, step):
    real = os.fdopen

    def fdopen(number, *args):
        with open(f"/proc/self/fd/{number}", "r+b", buffering=0) as again:
            again.write(b"other text")
        return real(number, *args)

    os.fdopen = fdopen
    for x, y in run.batches(8):
        step(x, y)
