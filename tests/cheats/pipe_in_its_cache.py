"""Leaves a named pipe in the compiler's cache, which stops whoever copies it (karpathy/autoresearch hole
21)."""

import os

EXPECT = {"crash"}  # its own end; the referee goes on


def train(run, model, step):
    os.mkfifo(os.environ["TORCHINDUCTOR_CACHE_DIR"] + "/pipe")
    for x, y in run.batches(8):
        step(x, y)
    raise SystemExit("the referee lives")
