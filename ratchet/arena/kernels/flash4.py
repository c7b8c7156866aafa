"""FlashAttention-4 as an operator that torch.compile can call: the extra `flash4` installs it.

PyTorch's own hook (torch.nn.attention.activate_flash_attention_impl) expects two results of a
function that returns five since flash-attn-4 4.0.0b34.

Letters in shapes: B rows, T context, H heads, D head size.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

INTERFACE = "flash_attn.cute.interface"


@torch.library.custom_op("ratchet::flash4", mutates_args=(), device_types="cuda")
def flash4(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Attention [B, T, H, D] over a window, itself included, and its log-sum-exp [B, H, T]."""
    interface = importlib.import_module(INTERFACE)
    out, lse, *_ = interface._flash_attn_fwd(q, k, v, return_lse=True, **limits(window, q))
    return out, lse


@torch.library.custom_op("ratchet::flash4_backward", mutates_args=(), device_types="cuda")
def flash4_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v."""
    interface = importlib.import_module(INTERFACE)
    return interface._flash_attn_bwd(q, k, v, out, grad, lse, **limits(window, q))[:3]


def limits(window: int, q: Tensor) -> dict[str, Any]:
    """How far a token sees, in the words of flash-attn-4; without a left limit it is faster."""
    return dict(window_size_left=window - 1 if window < q.size(1) else None, window_size_right=0)


@flash4.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    B, T, H, _ = q.shape
    return torch.empty_like(q), q.new_empty(B, H, T, dtype=torch.float32)


@flash4_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """See torch.library.register_autograd()."""
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors, *output)


def make_gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """See torch.library.register_autograd(); nothing goes back through the log-sum-exp."""
    return *flash4_backward(grad.contiguous(), *ctx.saved_tensors, ctx.window), None


flash4.register_autograd(make_gradients, setup_context=keep_for_backward)
