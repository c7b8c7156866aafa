"""Attention: causal, over a window, of whole rows or of the latest tokens alone.

Letters in shapes: B rows, T context, n latest tokens, H heads, D head size.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

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
    # chosen even where its work is only counted: before anything is compiled
    kernel = varlen_attention if q.is_cuda and varlen_works(q.dtype) else blockwise_attention
    return (work_counter or kernel)(q, k, v, window)


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


@torch.compiler.assume_constant_result
def varlen_works(dtype: torch.dtype) -> bool:
    """Whether varlen_attention() runs on this GPU, both ways, and agrees with its twin."""
    return try_varlen(dtype)  # the compiler would look into a cached function, and break there


@functools.cache
def try_varlen(dtype: torch.dtype) -> bool:
    """varlen_works(), once."""
    with torch.enable_grad():
        random = torch.randn(3, 2, 256, 2, 64, device="cuda", dtype=dtype)
        q, k, v = (t.requires_grad_() for t in random.unbind())
        try:
            out = varlen_attention(q, k, v, 100)
            out.backward(v)
            torch.testing.assert_close(out, plain_attention(q, k, v, 100), atol=2e-2, rtol=2e-2)
            return True
        except Exception as error:  # there are many types of them
            why = " ".join(str(error).split())
            print(f"varlen_attn does not work here, slower attention instead: {why:.100}")
            return False
