"""The device of a run: its name, its speed, its queue."""

import gc
import math
import os
import re
import sys
import time
from pathlib import Path

import torch

from ratchet.arena.hardware.cpu import processor_flags

# as nvidia-smi counts, else the fastest comes first; CUDA reads it when it is first used
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
# FLOP/s of dense products in bfloat16 by NVIDIA's data sheets, for the first part of a card's name
# that fits. Published figures of MFU are percentages of these.
DATA_SHEET_FLOPS = {
    "B200": 2250e12,
    "H200": 989.5e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.5e12,
    "A100": 312e12,
    "RTX 4090": 165.2e12,
}
NOTED_BYTES = 2**30  # of memory that a run still holds when it is scored


def set_cuda_device(device):
    """Make a CUDA device the one that events, streams and waiting are about."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def synchronize(device):
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def data_sheet_flops(name: str) -> float:
    """FLOP/s that a data sheet promises of the card of that name; 0.0 where it isn't known."""
    if "MIG" in name or "Laptop" in name:  # a part of a card, a smaller card
        return 0.0
    return next((flops for part, flops in DATA_SHEET_FLOPS.items() if part in name), 0.0)


class PendingNumber:
    """A tensor of one number on its way from a device to the host, while the device works on.

    Tensor.item() would wait for all that the device has been given to do.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._copy = tensor.detach().to("cpu", non_blocking=True)  # pinned memory, if from CUDA
        self._copied = None
        if tensor.device.type != "cpu":
            self._copied = getattr(torch, tensor.device.type).Event()
            self._copied.record()

    def has_come(self) -> bool:
        """Whether item() would not wait."""
        return self._copied is None or self._copied.query()

    def item(self) -> float:
        """The number; waits until it has come, for nothing that was begun later."""
        if self._copied is not None and not self._copied.query():
            self._copied.synchronize()
        return self._copy.item()


def device_name(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if sys.platform == "linux" else ""
    model = re.findall("model name.*: (.*)", info) or [os.uname().machine]
    return f"{device.type}: {model[0]}, {torch.get_num_threads()} threads"


def matmul_rate(size, dtype, device, seconds):
    """FLOP/s of a product of two square matrices, the best seen in so many seconds."""
    matrix, best = torch.randn(size, size, device=device).to(dtype), math.inf
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        begin = time.perf_counter()
        torch.mm(matrix, matrix)
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def matmul_peak(device):
    """(FLOP/s, description) of the fastest large matrix product here: mfu_percent is a percentage
    of it.

    A type that is far behind with small matrices is left out: on a CPU without units for bfloat16
    one large product takes a minute.
    """
    size, dtypes = 8192 if device.type == "cuda" else 2048, (torch.float32, torch.bfloat16)
    small = {dtype: matmul_rate(256, dtype, device, 0.05) for dtype in dtypes}
    dtypes = [dtype for dtype in dtypes if small[dtype] > max(small.values()) / 4]
    rates = {matmul_rate(size, dtype, device, 0.3): dtype for dtype in dtypes}
    return max(rates), f"{str(rates[max(rates)])[6:]} matmul of {size}"


def free_device_memory() -> None:
    """Give back the CUDA memory that no tensor holds; tell of what is held, if that is much."""
    if "torch._inductor.compile_fx" in sys.modules:  # else there is nothing to forget
        torch.compiler.reset()  # graphs have memory of their own
    gc.collect()
    torch.cuda.empty_cache()
    if (held := torch.cuda.memory_reserved()) > NOTED_BYTES:
        who = "held by tensors besides the model and its optimizers"
        print(f"{held / 2**30:.1f} GB of the GPU's memory are {who}: scoring does without them")


def fastest_dtype(device: torch.device) -> str:
    """The name of the faster type of matrix products: "bfloat16" where the hardware has it, or
    "float32".

    An x86 processor is asked what it has: a stopwatch says this or that on a busy machine, and then
    two runs of one source would differ. Another CPU is asked by trying, for some milliseconds.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and (flags := processor_flags()):
        return "bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32"
    seconds = dict.fromkeys((torch.bfloat16, torch.float32), math.inf)
    for dtype in [*seconds] * 5:
        a = torch.randn(512, 512, device=device).to(dtype)
        begin = time.perf_counter()
        (a @ a).sum().item()
        seconds[dtype] = min(seconds[dtype], time.perf_counter() - begin)
    return "bfloat16" if seconds[torch.bfloat16] < seconds[torch.float32] else "float32"
