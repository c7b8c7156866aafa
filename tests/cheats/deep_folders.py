"""Makes folders in folders, deeper than a program can follow that deletes or copies them
(karpathy/autoresearch hole 21)."""

import os

RUNS = 2
EXPECT = {"crash"}  # its own end; the second run begins in new folders


def train(run, model, step):
    for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR"):
        place = os.open(os.environ[name], os.O_RDONLY)
        for _ in range(1500):
            os.mkdir(100 * "d", dir_fd=place)
            place, above = os.open(100 * "d", os.O_RDONLY, dir_fd=place), place
            os.close(above)
    for _ in run.batches(8):
        raise SystemExit("the referee lives")
