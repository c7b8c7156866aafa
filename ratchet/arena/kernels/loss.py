"""The loss: cross-entropy of softcapped logits that never exist as a whole.

Letters in shapes: B rows, T context, n tokens that get a bonus, C width, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ratchet.arena.kernels.copying import add_bonus_
from ratchet.arena.kernels.trial import kernel_works, once, random_tensors, triton_op

LOSS_TOKENS = {"cpu": 2**10}  # whose logits exist at the same time; else 2**14
FUSED_LOGITS = 2**14  # of a token at most: more of them would spill out of the registers


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
            logits = add_bonus_(part @ w.T, token, extra)
            nats, slope = choose_loss(logits)(logits, target[:, 0], cap, scale)
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


def choose_loss(logits: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """The fastest loss_and_slope() of such logits here."""
    fits = logits.is_cuda and logits.size(1) <= FUSED_LOGITS
    return fused_loss_and_slope if fits and fused_loss_works(logits.dtype) else loss_and_slope


def fused_loss_and_slope(
    logits: Tensor, targets: Tensor, cap: float, scale: float
) -> tuple[Tensor, Tensor]:
    """loss_and_slope() in one kernel, CUDA only; the slope takes the place of the logits."""
    return torch.ops.ratchet.turn_into_slope_(logits, targets, cap, scale), logits


@once
def fused_loss_works(dtype: torch.dtype) -> bool:
    """Whether the Triton kernel runs on this GPU and agrees with its twin."""

    def run(loss):
        (logits,) = random_tensors(1, 64, 1000, dtype=dtype)
        targets = torch.arange(64, device=logits.device)
        nats, slope = loss(20 * logits, targets, 15.0, 1.0)
        return nats / 64, slope

    kernel = triton_op("turn_into_slope_") and fused_loss_and_slope
    return kernel_works(kernel, loss_and_slope, run)
