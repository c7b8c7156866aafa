"""Tables of embeddings of which a step touches few rows: their optimizer's step.

Letters in shapes: R rows of the table, C width, n rows with a gradient, the same one maybe often.
"""

import torch
from torch import Tensor

from ratchet.arena.kernels.trial import kernel_works, once, random_tensors, triton_op


def plain_rowwise_adam_(
    table: Tensor,
    variance: Tensor,
    count: Tensor,
    rows: Tensor,
    grads: Tensor,
    lr: float,
    beta2: float,
    weight_decay: float,
) -> None:
    """The twin of rowwise_adam_()."""
    sparse = torch.sparse_coo_tensor(
        rows[None], grads.float(), table.shape, check_invariants=False
    ).coalesce()
    rows, grad = sparse.indices()[0], sparse.values()
    count[rows] += 1
    weight = (1 / count[rows]).clamp_min(1 - beta2)
    variance[rows] = variance[rows].lerp(grad.square().mean(1), weight)
    step = grad / (variance[rows].sqrt() + 1e-10)[:, None]
    table.index_add_(0, rows, step + weight_decay * table[rows], alpha=-lr)


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
    """A step of Adam without momentum, in place, of those rows of a table that have a gradient.

    table [R, C]; variance [R] (one second moment a row, arXiv:1804.04235) and count [R] (steps so
    far) float32, zero at first; rows int64 [n], grads [n, C]: the gradients of a row are summed.
    The second moment is a plain mean at first: weight max(1 / count, 1 - beta2).
    Example: rows [3, 7, 3] -> row 3 moves by grads[0] + grads[2], row 7 by grads[1].

    On a GPU nothing waits for the device, and the sums are in the same order in each run.
    """
    step = plain_rowwise_adam_
    if table.is_cuda and rowwise_adam_works():
        step = torch.ops.ratchet.rowwise_adam_
    step(table, variance, count, rows, grads, lr, beta2, weight_decay)


@once
def rowwise_adam_works() -> bool:
    """Whether the Triton kernel runs on this GPU and agrees with its twin."""

    def run(step):
        (grads,) = random_tensors(1, 100, 40, dtype=torch.float32)
        rows = torch.arange(100, device=grads.device) ** 2 % 60
        state = grads.new_zeros(60, 40), grads.new_zeros(60), grads.new_zeros(60)
        step(*state, rows, grads, 0.1, 0.98, 0.01)
        return state

    return kernel_works(triton_op("rowwise_adam_"), plain_rowwise_adam_, run)
