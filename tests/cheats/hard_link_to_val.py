"""Leaves a hard link to the val rows where its config should be (karpathy/autoresearch hole 10)."""

import os
import sys

EXPECT = {"crash", "invalid"}  # it can't make one; where it can, a file with two names is not taken


def submit(run, model, config):
    os.link(run.arena.folder / "val.rows", run.folder / "config.json")
    sys.modules["ratchet.arena.run"].write_json = lambda path, value: None
    run.submit(model, config)
