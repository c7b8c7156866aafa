"""Attention: causal, over a window, of whole rows or of the latest tokens alone.

Letters in shapes: B rows, T context, n latest tokens, H heads, D head size.
"""

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ratchet.arena.kernels.trial import kernel_works, once, random_tensors, triton_op

# called instead of a kernel while the FLOPs of a model are counted
work_counter: Callable[[Tensor, Tensor, Tensor, int], Tensor] | None = None
QUERIES = 256  # of blockwise_attention() at a time: 128 are as fast, but twice the code to compile


def plain_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """The twin of causal_attention()."""
    position = torch.arange(k.size(1), device=k.device)
    distance = position[-q.size(1) :, None] - position
    mask = (distance >= 0) & (distance < window)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """q [B, n, H, D], k and v [B, T, H, D] -> [B, n, H, D], n = T or, when decoding, fewer.

    The queries are those of the latest n tokens. A token sees itself and the window - 1 tokens
    before it.
    """
    if q.size(1) < k.size(1):
        return decoding_attention(q, k, v, window)
    name = "blockwise_attention"
    if q.is_cuda:  # chosen even where its work is only counted: before anything is compiled
        name = choose_attention(q.dtype, q.size(-1), window >= q.size(1))
    return (work_counter or ATTENTIONS[name])(q, k, v, window)


def decoding_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """For fewer queries than keys: only the keys that one of them may see are read."""
    n, mask = q.size(1), None
    q, k, v = (t[:, -(window + n - 1) :].transpose(1, 2) for t in (q, k, v))
    if n > 1:
        position = torch.arange(k.size(2), device=q.device)
        distance = position[-n:, None] - position
        mask = (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2)


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Some queries at a time against the keys they may see: fast on a CPU when compiled."""
    q, k, v = (t.transpose(1, 2).contiguous() for t in (q, k, v))
    T, out = q.size(2), []
    # in float32, as integers are slow in compiled code
    position = torch.arange(T, device=q.device, dtype=torch.float32)
    for start in range(0, T, QUERIES):
        first, end = max(0, start - window + 1) // QUERIES * QUERIES, min(start + QUERIES, T)
        distance = position[start:end, None] - position[first:end]
        scores = (q[:, :, start:end] @ k[:, :, first:end].mT).float() * q.size(-1) ** -0.5
        scores = scores.masked_fill((distance < 0) | (distance >= window), -torch.inf)
        out.append(scores.softmax(-1).to(v.dtype) @ v[:, :, first:end])
    return torch.cat(out, dim=2).transpose(1, 2)


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """FlashAttention with exact windows (torch.nn.attention.varlen), CUDA only."""
    from torch.nn.attention.varlen import varlen_attn

    B, T = q.shape[:2]
    starts = torch.arange(0, B * T + 1, T, dtype=torch.int32, device=q.device)
    q, k, v = (t.reshape(B * T, *t.shape[2:]) for t in (q, k, v))
    before = window - 1 if window < T else -1  # -1: all, which has a faster kernel
    out = varlen_attn(q, k, v, starts, starts, T, T, window_size=(before, 0))
    assert isinstance(out, Tensor)  # it is a tuple where more is asked for
    return out.view(B, T, *out.shape[1:])


def cudnn_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attention to all tokens before by cuDNN, CUDA only: window >= T."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    attend = torch.ops.aten._scaled_dot_product_cudnn_attention
    return attend(q, k, v, None, compute_log_sumexp=True, is_causal=True)[0].transpose(1, 2)


def flash4_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """FlashAttention-4 (flash4.py), an optional package for Hopper and later."""
    return torch.ops.ratchet.flash4(q, k, v, min(window, q.size(1)))[0]


# --------------------------------------------------------------------------------------------------
# The choice

ATTENTIONS = {
    "flash4_attention": flash4_attention,
    "cudnn_attention": cudnn_attention,
    "varlen_attention": varlen_attention,
    "blockwise_attention": blockwise_attention,
}


@once
def choose_attention(dtype: torch.dtype, head_size: int, whole: bool) -> str:
    """The name of the attention for this GPU: the first that works, by what is published on speed.

    whole: to all tokens before. No stopwatch decides, nor whether there are gradients: the choice
    is the same in all runs on a machine, and where a model is trained and where it is scored.
    """
    names = ["varlen_attention"]
    if torch.cuda.get_device_capability() >= (9, 0):  # on older GPUs they gain nothing
        names = ["cudnn_attention"] * whole + names
        if importlib.util.find_spec("flash_attn") and triton_op("flash4"):
            names = ["flash4_attention"] + names
    works = (name for name in names if attention_works(ATTENTIONS[name], dtype, head_size, whole))
    name = next(works, "blockwise_attention")
    print(f"attention to {'all tokens before' if whole else 'a window'}: {name}")
    return name


def attention_works(
    attention: Callable[..., Tensor], dtype: torch.dtype, head_size: int, whole: bool
) -> bool:
    """Whether a kernel runs on this GPU, both ways, and agrees with its twin."""

    def run(attention):
        leaves = [t.requires_grad_() for t in random_tensors(3, 2, 256, 2, head_size, dtype=dtype)]
        out = attention(*leaves, 256 if whole else 100)
        out.backward(leaves[2].detach() / 8)  # so small that bfloat16 rounds within the tolerance
        return out, *(leaf.grad for leaf in leaves)

    return kernel_works(attention, plain_attention, run)
