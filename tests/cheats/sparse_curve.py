"""Leaves a file of 24 GiB without a line where its curve should be, which takes no disk and fills the
memory of whoever reads it (an attack on this referee).
"""

import os

BUDGET = "3s"
MILESTONES = ((0.3, 9.0),)  # its curve is looked at
EXPECT = {"crash"}  # no file may be so long


def train(run, model, step):
    with open(run.folder / "curve.jsonl", "wb") as file:
        os.truncate(file.fileno(), 24 * 2**30)
    for x, y in run.batches(8):
        step(x, y)
