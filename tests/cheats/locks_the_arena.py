"""Removes all permissions from the training tokens that it was given, so that no later run can open
them (karpathy/autoresearch hole 11)."""

import os

BUDGET, RUNS = "1s", 2
EXPECT = {"crash"}  # its own end; the second run gets the tokens, too (as root, in any case)


def train(run, model, step):
    real = os.fdopen

    def fdopen(number, *args):
        os.fchmod(number, 0)
        return real(number, *args)

    os.fdopen = fdopen
    for _ in run.batches(8):
        raise SystemExit("it has the tokens")
