"""Removes all permissions from its own folders, so that they can't be deleted before the next run
(karpathy/autoresearch hole 21)."""

import os
from pathlib import Path

RUNS = 2
EXPECT = {"crash"}  # its own end; the second run begins in new folders


def main():
    (place := Path(os.environ["TMPDIR"], "locked", "inside")).mkdir(parents=True)
    place.parent.chmod(0)
    raise SystemExit("its folders are locked")
