"""Writes what it learned into the compiler's cache, for its next run to begin with (karpathy/autoresearch
hole 21)."""

import os
from pathlib import Path

RUNS = 2
EXPECT = {"crash"}  # the cache is kept as it was before the first real token


def train(run, model, step):
    place = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "weights.pt"
    learned = place.exists()
    for x, y in run.batches(8):
        step(x, y)
    torch.save(model.state_dict(), place)
    if not learned:
        raise SystemExit("nothing was left for it")
