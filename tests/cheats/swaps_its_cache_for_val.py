"""Puts links to the val rows in place of files in the compiler's cache while the referee copies these, so
that its next run finds the rows there (a race between look and use; kernelbot's replay exploit used a
later run, too)."""

import os
import threading
import time
from pathlib import Path

RUNS = 2
EXPECT = {"crash"}  # what is copied is the file that was looked at
OPEN_AT = {"none"}


def train(run, model, step):
    cache = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    size = run.arena.val_bytes // 10
    if found := [path for path in cache.glob("f*") if not path.is_symlink() and path.stat().st_size > size]:
        print("val:", len(found[0].read_bytes()))
        return batches(run, model, step)
    for number in range(2000):
        (cache / f"f{number}").write_bytes(b"")
    threading.Thread(target=swap, args=(cache, run.arena.folder / "val.rows"), daemon=True).start()
    batches(run, model, step)
    time.sleep(0.5)
    raise SystemExit("nothing was left for it")


def swap(cache, target):
    time.sleep(0.03)  # by then the names are listed
    for number in range(2000):
        (cache / "new").symlink_to(target)
        os.replace(cache / "new", cache / f"f{number}")


def batches(run, model, step):
    for x, y in run.batches(8):
        step(x, y)
