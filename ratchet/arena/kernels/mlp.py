"""The MLP with relu^2: its inner width is written once, after relu^2, and read from there.

Letters in shapes: M tokens, C width, F inner width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ratchet.arena.kernels.trial import kernel_works, once, random_tensors, triton_op


def plain_relu2_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The twin of relu2_mlp()."""
    hidden = F.relu(F.linear(x, up.to(x.dtype))).square()
    return F.linear(hidden, down.to(x.dtype))


def relu2_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """relu(x up')^2 down': the MLP of Primer (arXiv:2109.08668).

    x [..., C], up [F, C] and down [C, F], cast to the type of x -> [..., C].
    """
    aligned = x.is_cuda and x.dtype.itemsize == 2 and up.size(0) % 8 == up.size(1) % 8 == 0
    mlp = fused_relu2_mlp if aligned and fused_mlp_works(x.dtype) else plain_relu2_mlp
    return mlp(x, up, down)


def fused_relu2_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """relu2_mlp() with relu^2 within the products: on NVIDIA GPUs from Hopper on."""
    out = Relu2MLP.apply(x.flatten(0, -2), up.to(x.dtype), down.to(x.dtype))
    return out.view_as(x)


class Relu2MLP(torch.autograd.Function):
    """Keeps what comes out of relu^2 alone: twice its root is the slope of relu^2."""

    @staticmethod
    def forward(ctx, x, up, down):
        hidden = torch.ops.ratchet.linear_relu2(x, up)
        ctx.save_for_backward(x, up, down, hidden)
        return hidden @ down.T

    @staticmethod
    def backward(ctx, *upstreams):
        (grad,) = upstreams
        x, up, down, hidden = ctx.saved_tensors
        before = torch.ops.ratchet.linear_relu2_backward(grad, down, hidden)
        return before @ up, before.T @ x, grad.T @ hidden


@once
def fused_mlp_works(dtype: torch.dtype) -> bool:
    """Whether the Triton kernel runs on this GPU, both ways, and agrees with its twin."""

    def run(mlp):
        x, grad = random_tensors(2, 200, 64, dtype=dtype)
        up, down = random_tensors(2, 320, 64, dtype=dtype)
        # so small that bfloat16 rounds within the tolerance
        leaves = [t.requires_grad_() for t in (x, up / 16, down.T / 16)]
        out = mlp(*leaves)
        out.backward(grad / 16)
        return out, *(leaf.grad for leaf in leaves)

    if torch.cuda.get_device_capability() < (9, 0) or not triton_op("linear_relu2"):
        return False
    return kernel_works(fused_relu2_mlp, plain_relu2_mlp, run)
