"""Trains on for longer than its budget of tokens and tells the number that it should have trained on
(karpathy/autoresearch holes 2 and 20)."""

import time

BUDGET = "20000tok"
EXPECT = {"overtime"}


def train(run, model, step):
    batches = [(x.clone(), y.clone()) for x, y in run.batches(8)]
    stop = time.monotonic() + 5
    while time.monotonic() < stop:
        for x, y in batches:
            step(x, y)
