"""Opens the training tokens that it was given anew, to write (karpathy/autoresearch hole 11)."""

import os

EXPECT = {"crash"}
OPEN_AT = {"none"}


def train(run, model, step):
    real = os.fdopen

    def fdopen(number, *args):
        with open(f"/proc/self/fd/{number}", "r+b"):
            return real(number, *args)

    os.fdopen = fdopen
    for x, y in run.batches(8):
        step(x, y)
