"""Times all-reduce between processes that torchrun starts: the first writes {bytes: seconds}.

torchrun --standalone --nproc-per-node=2 ratchet/model/allreduce.py out.json
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.distributed as distributed

SIZES = [2**power for power in range(8, 29, 2)]  # bytes: 256 B to 256 MiB
LEAST_REPEATS = 3  # of a size
MOST_REPEATS = 30
SECONDS = 1.0  # of a size, after which there is no further repeat
SMALL_BYTES = 2**20  # up to this size the clock is read once in some calls
SMALL_CALLS = 10
WARM_UP_CALLS = 3  # make connections and buffers


def time_all_reduce(data: torch.Tensor) -> float:
    """Seconds of one all-reduce, as this process sees it."""
    calls = SMALL_CALLS if data.nbytes <= SMALL_BYTES else 1
    distributed.barrier()
    begin = time.perf_counter()
    for _ in range(calls):
        distributed.all_reduce(data)
    if data.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / calls


def largest_of_all(value: float, device: str) -> float:
    """The largest of all processes' values."""
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor.item()


def time_size(size: int, device: str) -> float:
    """Median seconds of an all-reduce of so many bytes of float32."""
    data, times = torch.zeros(size // 4, device=device), []
    for _ in range(WARM_UP_CALLS):
        time_all_reduce(data)
    while len(times) < LEAST_REPEATS or (len(times) < MOST_REPEATS and sum(times) < SECONDS):
        times.append(largest_of_all(time_all_reduce(data), device))
    return statistics.median(times)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    times = {size: time_size(size, device) for size in SIZES}
    if distributed.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(times), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
