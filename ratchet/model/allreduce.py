"""Times all-reduce between the processes that torchrun starts; the first one writes {bytes:
seconds}.

torchrun --standalone --nproc-per-node=2 ratchet/allreduce.py out.json
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.distributed as distributed

SIZES = [2**power for power in range(8, 29, 2)]  # 256 B to 256 MiB
REPEATS, SECONDS = 30, 1.0  # of a size at most; three repeats at least
CALLS, SMALL = 10, 2**20  # of a small message between two looks at the clock


def time_one(data, device):
    """Of one all-reduce, as this process sees it."""
    calls = CALLS if data.nbytes <= SMALL else 1
    distributed.barrier()
    begin = time.perf_counter()
    for _ in range(calls):
        distributed.all_reduce(data)
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / calls


def slowest_of_all(value, device):
    """The largest of all processes' values."""
    told = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(told, distributed.ReduceOp.MAX)
    return told.item()


def measure_sizes(device):
    """{bytes: median seconds}, float32."""
    found = {}
    for size in SIZES:
        data, times = torch.zeros(size // 4, device=device), []
        for _ in range(3):
            time_one(data, device)  # connections, buffers
        while len(times) < 3 or (len(times) < REPEATS and sum(times) < SECONDS):
            times.append(slowest_of_all(time_one(data, device), device))
        found[size] = statistics.median(times)
    return found


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    found = measure_sizes(device)
    if distributed.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
