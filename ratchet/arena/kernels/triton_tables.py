"""The step of a table's optimizer as a Triton kernel: rowwise_adam_() on a GPU."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

GRADIENTS = 8  # of one row that are read at a time


@triton.jit
def rowwise_adam_kernel(
    table,
    variance,
    count,
    rows,
    order,
    grads,
    lr,
    beta2,
    weight_decay,
    n,
    C,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program for each place in `rows`, which are sorted; the first of equal ones does all."""
    start = tl.program_id(0)
    row = tl.load(rows + start).to(tl.int64)
    if row != tl.load(rows + start - 1, mask=start > 0, other=-1):
        column = tl.arange(0, BLOCK_C)
        place = start + tl.arange(0, BLOCK_N)
        grad = tl.zeros([BLOCK_C], tl.float32)
        size = BLOCK_N
        while size == BLOCK_N:  # as long as there may be more of the same row
            same = tl.load(rows + place, mask=place < n, other=-1) == row
            source = tl.load(order + place, mask=same, other=0)
            mask = same[:, None] & (column < C)[None, :]
            part = tl.load(grads + source[:, None] * C + column[None, :], mask=mask, other=0.0)
            grad += tl.sum(part.to(tl.float32), axis=0)
            size = tl.sum(same.to(tl.int32), axis=0)
            place += BLOCK_N
        steps = tl.load(count + row) + 1
        before = tl.load(variance + row)
        now = before + tl.maximum(1 / steps, 1 - beta2) * (tl.sum(grad * grad) / C - before)
        tl.store(count + row, steps)
        tl.store(variance + row, now)
        weight = tl.load(table + row * C + column, mask=column < C).to(tl.float32)
        change = grad / (tl.sqrt(now) + 1e-10) + weight_decay * weight
        tl.store(table + row * C + column, weight - lr * change, mask=column < C)


def rowwise_adam_(
    table: Tensor,
    variance: Tensor,
    count: Tensor,
    rows: Tensor,
    grads: Tensor,
    lr: float,
    beta2: float,
    weight_decay: float,
) -> None:
    """See tables.py."""
    n, C = grads.shape
    rows, order = rows.to(torch.int32).sort(stable=True)  # half the digits to sort by
    args = rows, order, grads.contiguous(), lr, beta2, weight_decay, n, C
    blocks: dict[str, Any] = dict(BLOCK_N=GRADIENTS, BLOCK_C=triton.next_power_of_2(C))
    rowwise_adam_kernel[n,](table, variance, count, *args, **blocks)


torch.library.custom_op(
    "ratchet::rowwise_adam_",
    rowwise_adam_,
    mutates_args=("table", "variance", "count"),
    device_types="cuda",
)
