"""Leaves a hard link to the val rows where its config should be (karpathy/autoresearch hole 10)."""

import os

EXPECT = {"crash", "invalid"}  # it can't make one; where it can, a file with two names is not taken


def submit(run, model, config):
    os.link(run.arena.folder / "val.rows", run.folder / "config.json")
    prepare.write_atomically = lambda path, data: None
    run.submit(model, config)
