"""What a model is made of: its FLOPs a token, its parameters that are looked up."""

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from ratchet.arena.kernels import attention
from ratchet.arena.tokenizer import BOS


def inspect_model(
    model: torch.nn.Module, context: int, vocab_size: int, device: torch.device, flops: bool = True
) -> dict[str, float]:
    """{"lookup", "flops_per_token", "published_flops_per_token"} of a model; clears gradients.

    All are seen in a pass over one row. The FLOPs, left out unless `flops`, are those of the matrix
    products of a forward and a backward pass. causal_attention() counts as AttentionWork says;
    attention of PyTorch's own as the whole T x T square. lookup: parameters in tables of which only
    the rows of the row's tokens get a gradient, and saved integers, which nothing multiplies.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.randint(vocab_size, (1, context), device=device)
    ids[:, 0] = BOS
    products = FlopCounterMode(display=False)
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if flops:  # the counter takes seconds to start
            with torch.no_grad():
                model(ids)  # kernels are tried when they are first called: that is no work of it
            stack.enter_context(products)
        work = stack.enter_context(attention_counted())
        out = model(ids).float().square().sum()
        if out.requires_grad:
            out.backward()
    counts: dict[str, float] = {"lookup": count_lookup(model, context)}
    if flops:
        of_products = products.get_total_flops()
        counts["flops_per_token"] = (of_products + work.flops) / context
        counts["published_flops_per_token"] = (of_products + work.published_flops) / context
    model.zero_grad(set_to_none=True)
    return counts


class AttentionWork:
    """Counts the FLOPs of causal_attention(), whichever kernel would do it.

    flops: of the query-key pairs that the mask lets through; a backward pass counts twice a forward
    one, without what is computed again in it. published_flops: a whole window for each query, as in
    12 x layers x heads x head size x window (karpathy/nanochat, after PaLM, arXiv:2204.02311).
    Example: of 4 tokens and a window of 2, 7 pairs; published as 8.
    """

    def __init__(self) -> None:
        self.flops = 0.0
        self.published_flops = 0.0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Count an attention of q, k, v [B, T, H, D]; returns something that depends on them."""
        B, T, H, D = q.shape
        window = min(window, T)
        pairs = window * (window + 1) // 2 + (T - window) * window
        passes = 3 if any(tensor.requires_grad for tensor in (q, k, v)) else 1
        flops_per_pair = 4 * B * H * D * passes  # two products, each of multiplications and sums
        self.flops += flops_per_pair * pairs
        self.published_flops += flops_per_pair * T * window
        return q + k + v


@contextmanager
def attention_counted() -> Generator[AttentionWork]:
    """Meanwhile causal_attention() computes nothing: its work is counted."""
    attention.work_counter = work = AttentionWork()
    try:
        yield work
    finally:
        attention.work_counter = None


def count_lookup(model: torch.nn.Module, context: int) -> int:
    """Parameters that are looked up, by the gradients that inspect_model() has left."""
    integers = [t for t in model.state_dict().values() if not t.is_floating_point()]
    matrices = [p for p in model.parameters() if p.ndim == 2 and len(p) > context]
    tables = [p for p in matrices if touches_few_rows(p.grad, context)]
    return sum(t.numel() for t in integers + tables)


def touches_few_rows(grad: torch.Tensor | None, most: int) -> bool:
    if grad is None:
        return False
    return grad.is_sparse or int(grad.any(1).sum()) <= most
