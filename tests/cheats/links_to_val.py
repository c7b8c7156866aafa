"""Leaves a symbolic link to the val rows where its config should be, for the referee to follow
(karpathy/autoresearch hole 10; pygpubench's exploits/ have the like)."""

import sys

EXPECT = {"invalid"}


def submit(run, model, config):
    (run.folder / "config.json").symlink_to(run.arena.folder / "val.rows")
    sys.modules["ratchet.arena.run"].write_json = lambda path, value: None
    run.submit(model, config)
