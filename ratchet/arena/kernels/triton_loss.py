"""Loss and gradient of softcapped logits as a Triton kernel: loss_and_slope() on a GPU."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOGITS_OF_A_WARP = 1024  # 32 a thread: they stay in registers


@triton.jit
def loss_and_slope_kernel(logits, targets, nats, cap, scale, V, BLOCK: tl.constexpr):
    """One program for each row of logits, which is read once and written once."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    raw = tl.load(logits + row * V + column, mask=column < V, other=0.0).to(tl.float32)
    z = cap - 2 * cap / (1 + tl.exp(raw * (2 / cap)))  # cap x tanh(raw / cap)
    weight = tl.where(column < V, tl.exp(z), 0.0)
    total = tl.sum(weight, axis=0)
    hit = column == tl.load(targets + row).to(tl.int32)
    tl.store(nats + row, tl.log(total) - tl.sum(tl.where(hit, z, 0.0), axis=0))
    tanh = z / cap
    slope = (weight / total - tl.where(hit, 1.0, 0.0)) * (1 - tanh * tanh) * scale
    tl.store(logits + row * V + column, slope, mask=column < V)


def turn_into_slope_(logits: Tensor, targets: Tensor, cap: float, scale: float) -> Tensor:
    """Summed loss in nats; the raw logits [n, V], V <= 2**14, become its gradient x scale."""
    n, V = logits.shape
    nats = logits.new_empty(n, dtype=torch.float32)
    block = triton.next_power_of_2(V)
    options: dict[str, Any] = dict(BLOCK=block, num_warps=max(1, block // LOGITS_OF_A_WARP))
    loss_and_slope_kernel[n,](logits, targets, nats, cap, scale, V, **options)
    return nats.sum()


torch.library.custom_op(
    "ratchet::turn_into_slope_", turn_into_slope_, mutates_args=("logits",), device_types="cuda"
)
