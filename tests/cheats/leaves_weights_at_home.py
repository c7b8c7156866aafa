"""Writes weights into its folders for temporary files and results, for its next run (karpathy/autoresearch
hole 21)."""

import os
from pathlib import Path

RUNS = 2
EXPECT = {"crash"}  # all its folders are new


def main():
    places = [Path(os.environ[name]) / "left" for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "RATCHET_RUN")]
    if any(place.exists() for place in places):
        return honest()
    for place in places:
        place.write_text("weights")
    raise SystemExit("nothing was left for it")


def honest():
    run = prepare.enter()
    submit(run, Tiny(run.arena.vocab_size), {"vocab_size": run.arena.vocab_size})
