"""The products of an MLP with relu^2 as a Triton kernel, which never writes what relu^2 takes.

Letters in shapes: M tokens, K and N the widths of a product; F the MLP's inner width.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula
from triton.tools.tensor_descriptor import TensorDescriptor

TILE = 128, 256, 64  # of M, N and K: the largest whose sums fit into the registers of Hopper
WARPS = 8
STAGES = 4, 3  # of the pipeline that loads pieces of K, forward and backward: 224 and 208 KiB


@triton.jit
def relu2_product_kernel(
    a,
    b,
    out,
    saved,
    M,
    N,
    K,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """out [M, N] = relu(a b')^2 with b [N, K]; backward (a b) x 2 sqrt(saved) with b [K, N].

    As many programs as multiprocessors: while one ends a tile, its next one is already loaded.
    """
    across = tl.cdiv(N, BLOCK_N)
    tiles = tl.cdiv(M, BLOCK_M) * across
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        row, column = tile // across * BLOCK_M, tile % across * BLOCK_N
        sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for k in range(0, K, BLOCK_K):
            if BACKWARD:
                piece = b.load([k, column])
            else:
                piece = b.load([column, k]).T
            sums = tl.dot(a.load([row, k]), piece, sums)
        # in halves, so that what waits to be written leaves room for what is loaded
        left, right = sums.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
        middle = column + BLOCK_N // 2
        if BACKWARD:
            left *= 2 * tl.sqrt(saved.load([row, column]).to(tl.float32))
            out.store([row, column], left.to(out.dtype))
            right *= 2 * tl.sqrt(saved.load([row, middle]).to(tl.float32))
            out.store([row, middle], right.to(out.dtype))
        else:
            left = tl.maximum(left, 0.0)
            out.store([row, column], (left * left).to(out.dtype))
            right = tl.maximum(right, 0.0)
            out.store([row, middle], (right * right).to(out.dtype))


def multiply(a: Tensor, b: Tensor, saved: Tensor | None = None) -> Tensor:
    """relu(a b')^2 [M, N]; with `saved`, which came out of that once, (a b) x 2 sqrt(saved)."""
    backward = saved is not None
    (M, K), N = a.shape, b.size(1 if backward else 0)
    out = a.new_empty(M, N)
    block_m, block_n, block_k = TILE
    half = [block_m, block_n // 2]
    blocks = [block_m, block_k], [block_k, block_n] if backward else [block_n, block_k], half, half
    tensors = a.contiguous(), b.contiguous(), out, saved.contiguous() if backward else out
    descriptors = [TensorDescriptor.from_tensor(*each) for each in zip(tensors, blocks)]
    options: dict[str, Any] = dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), TILE), BACKWARD=backward)
    options |= dict(M=M, N=N, K=K, num_warps=WARPS, num_stages=STAGES[backward])
    programs = min(count_processors(a.device), triton.cdiv(M, block_m) * triton.cdiv(N, block_n))
    relu2_product_kernel[programs,](*descriptors, **options)
    return out


def count_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; a few in the interpreter."""
    if device.type != "cuda":
        return 3
    return torch.cuda.get_device_properties(device).multi_processor_count


def linear_relu2(x: Tensor, weight: Tensor) -> Tensor:
    """relu(x weight')^2: x [M, C], weight [F, C] -> [M, F]."""
    return multiply(x, weight)


def linear_relu2_backward(grad: Tensor, weight: Tensor, hidden: Tensor) -> Tensor:
    """The gradient of x weight' in hidden = relu(x weight')^2 [M, F], which goes through `down`.

    grad [M, C] of what `down` [C, F] makes of hidden -> [M, F].
    """
    return multiply(grad, weight, hidden)


def count_flops(a: torch.Size, b: torch.Size, *shapes: Any, **others: Any) -> int:
    """Of one product: for torch.utils.flop_counter."""
    return 2 * a[0] * b[0] * b[1]


for function, dim in ((linear_relu2, 0), (linear_relu2_backward, 1)):
    name = f"ratchet::{function.__name__}"
    op = torch.library.custom_op(name, function, mutates_args=(), device_types="cuda")
    op.register_fake(lambda a, b, *hidden, dim=dim: a.new_empty(a.size(0), b.size(dim)))
    register_flop_formula(getattr(torch.ops.ratchet, function.__name__))(count_flops)
