"""How fast batches are served, and how much memory preparing a text takes.

    uv run benchmarks/data.py TEXT      TEXT as for `prepare.py --text`; a gigabyte shows most

Writes data.json beside this file: tokens per second of run.batches() on one core, seconds and peak
memory (all processes together, shared pages counted once) of a preparation in a cache of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from ratchet.arena.definition import load_arena
from ratchet.arena.run import Run


def memory_of(pid):
    """Proportional set size, in bytes, of a process and those it started (Linux)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return own + sum(map(memory_of, children))


def measure_preparation(text, cache):
    command = [sys.executable, str(HERE.parent / "prepare.py"), "--text", text, "--arena", "bench"]
    begin, peak = time.monotonic(), 0
    process = subprocess.Popen(command, env=os.environ | {"RATCHET_CACHE": cache})
    while process.poll() is None:
        try:
            peak = max(peak, memory_of(process.pid))
        except (OSError, StopIteration):  # a process ended while it was looked at
            pass
        time.sleep(0.5)
    arena = json.loads((Path(cache) / "bench" / "arena.json").read_bytes())
    facts = {key: arena[key] for key in ("source_bytes", "train_tokens", "vocab_size")}
    return facts | {
        "seconds": round(time.monotonic() - begin, 1),
        "peak_memory_mb": round(peak / 2**20),
    }


def measure_batches(cache):
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {0})
    arena = load_arena(Path(cache) / "bench")
    run = Run(arena, torch.device("cpu"), 0, "10s", Path(cache))
    for _ in run.batches(64):
        pass
    rate = round(run.tokens / run.seconds)
    return {"rows": 64, "context": arena.context, "tokens_per_second_per_core": rate}


def main():
    with tempfile.TemporaryDirectory() as cache:
        result = {
            "prepare": measure_preparation(sys.argv[1], cache),
            "batches": measure_batches(cache),
        }
    (HERE / "data.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
