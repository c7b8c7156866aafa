"""Fused kernels for a contestant to call or to replace, each with a plain twin.

Nothing here is compulsory. A test holds every kernel against its twin, gradients included.

Letters in shapes: B rows, T context, n latest tokens, H heads, D head size, C width, V vocabulary.
"""

import functools
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES = 256  # of blockwise_attention() at a time: 128 are as fast, but twice the code to compile
LOSS_TOKENS = {"cpu": 2**10}  # whose logits exist at the same time; else 2**14

# --------------------------------------------------------------------------------------------------
# Attention


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
    if q.is_cuda and varlen_works(q.dtype):
        return varlen_attention(q, k, v, window)
    return blockwise_attention(q, k, v, window)


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
@functools.cache
def varlen_works(dtype: torch.dtype) -> bool:
    """Whether varlen_attention() runs on this GPU, both ways, and agrees with its twin."""
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


# --------------------------------------------------------------------------------------------------
# Copying


def plain_followers(tokens: Tensor, n: int, longest: int) -> tuple[Tensor, Tensor]:
    """The twin of find_followers()."""
    B, T = tokens.shape
    followers = torch.zeros(B, T, longest, dtype=torch.int64)
    exist = torch.zeros(B, T, longest, dtype=torch.bool)
    rows = tokens.tolist()
    for b, t, length in itertools.product(range(B), range(T), range(1, longest + 1)):
        row = [0] * (length - 1) + rows[b]  # what stands before a row is token 0
        words = row[t : t + length]
        for earlier in range(t - 1, -1, -1):
            if row[earlier : earlier + length] == words:
                followers[b, t, length - 1] = rows[b][earlier + 1]
                exist[b, t, length - 1] = True
                break
    return followers[:, -n:], exist[:, -n:]


def find_followers(tokens: Tensor, n: int, longest: int) -> tuple[Tensor, Tensor]:
    """What followed the last 1, 2, ... `longest` tokens when they last stood in the row.

    tokens int64 [B, T] -> followers int64 [B, n, longest], and whether there are any, bool; both
    for the latest n tokens of the row. Where there are none the follower is the first token.
    Example: the row 5 7 9 5 -> 7 at its last token, for length 1.

    Induction heads (arXiv:2209.11895) learn this in time; five minutes on a CPU are too few.
    """
    key, places = tokens, []
    for back in range(longest):
        if back:
            key = key * 31337 + F.pad(tokens, (back, 0))[:, :-back]
        places.append(find_last_place(key, n))
    positions = torch.stack(places, dim=-1)
    following = F.pad(tokens, (0, 1))[..., None].expand(-1, -1, longest)
    return following.gather(1, positions + 1), positions >= 0


def find_last_place(keys: Tensor, n: int) -> Tensor:
    """The latest earlier position of the same key, or -1: keys int64 [B, T] -> [B, n]."""
    if n == 1:
        position = torch.arange(keys.size(1) - 1, device=keys.device)
        places = torch.where(keys[:, :-1] == keys[:, -1:], position, -1)
        return F.pad(places, (1, 0), value=-1).amax(1, keepdim=True)
    order = keys.argsort(dim=1, stable=True)  # equal keys side by side, in the order of the row
    ordered = keys.gather(1, order)
    same = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
    earlier = torch.where(same, order.roll(1, 1), -1)
    return torch.empty_like(order).scatter_(1, order, earlier)[:, -n:]


# --------------------------------------------------------------------------------------------------
# The loss


def plain_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, cap: float, tokens: Tensor, bonus: Tensor
) -> Tensor:
    """The twin of softcapped_cross_entropy()."""
    logits = (x @ weight.to(x.dtype).T).scatter_add(-1, tokens, bonus)
    capped = cap * torch.tanh(logits.float() / cap)
    return F.cross_entropy(capped.flatten(0, 1), targets.flatten())


def softcapped_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, cap: float, tokens: Tensor, bonus: Tensor
) -> Tensor:
    """Mean loss in nats of the logits cap x tanh((x weight' + bonus of some tokens) / cap).

    x [B, T, C], weight [V, C], targets int64 [B, T], tokens int64 [B, T, n], whose logits get
    bonus [B, T, n]; n may be 0. The logits are never whole: a piece of them is made, used for the
    loss and its gradients, and dropped while it is still in the processor's cache.
    """
    return SoftcappedCrossEntropy.apply(x, weight, targets, cap, tokens, bonus)


class SoftcappedCrossEntropy(torch.autograd.Function):
    """Makes the gradients in its forward pass, as Liger's kernel does (arXiv:2410.10989)."""

    @staticmethod
    def forward(ctx, x, weight, targets, cap, tokens, bonus):
        w, scale, loss = weight.to(x.dtype), 1 / targets.numel(), 0.0
        dx, dweight, dbonus = torch.empty_like(x), torch.zeros_like(weight), torch.empty_like(bonus)
        size = LOSS_TOKENS.get(x.device.type, 2**14)
        whole = (t.flatten(0, 1) for t in (x, targets[..., None], tokens, bonus, dx, dbonus))
        for part, target, token, extra, dpart, dextra in zip(*(t.split(size) for t in whole)):
            logits = (part @ w.T).scatter_add_(1, token, extra)
            nats, slope = loss_and_slope(logits, target[:, 0], cap, scale)
            torch.matmul(slope, w, out=dpart)
            dextra.copy_(slope.gather(1, token))
            dweight.add_(slope.T @ part)
            loss = loss + nats
        ctx.save_for_backward(dx, dweight, dbonus)
        return loss * scale

    @staticmethod
    def backward(ctx, *upstreams):
        (upstream,) = upstreams
        dx, dweight, dbonus = (upstream.to(grad.dtype) * grad for grad in ctx.saved_tensors)
        return dx, dweight, None, None, None, dbonus


def loss_and_slope(
    logits: Tensor, targets: Tensor, cap: float, scale: float
) -> tuple[Tensor, Tensor]:
    """(summed loss in nats, its gradient x scale) of raw logits [n, V]; what is worth compiling."""
    # cap x tanh(raw / cap), in a form that is fast in compiled code; it keeps exp() in range
    z = cap - 2 * cap / (1 + (logits.float() * (2 / cap)).exp())
    lse = z.exp().sum(-1, keepdim=True).log()
    # in float32, as integers are slow in compiled code
    hit = torch.arange(z.size(-1), device=z.device, dtype=torch.float32) == targets[:, None].float()
    slope = ((z - lse).exp() - hit.float()) * (1 - (z / cap).square()) * scale
    return (lse - z.gather(-1, targets[:, None])).sum(), slope.to(logits.dtype)
