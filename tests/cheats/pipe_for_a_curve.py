"""Leaves a named pipe where its curve should be, which stops whoever reads it while the run lasts
(an attack on this referee).
"""

import os

BUDGET = "3s"
MILESTONES = ((0.3, 9.0),)  # its curve is looked at
EXPECT = {"invalid"}


def train(run, model, step):
    os.mkfifo(run.folder / "curve.jsonl")
    for x, y in run.batches(8):
        step(x, y)
