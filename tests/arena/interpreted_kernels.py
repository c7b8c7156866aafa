"""Triton's kernels against their plain twins, in its interpreter: test_triton.py runs this file."""

import pytest
import torch
import triton
from torch.utils.flop_counter import FlopCounterMode

from ratchet.arena.kernels import loss, mlp, tables, triton_loss, triton_mlp, triton_tables


@pytest.mark.parametrize(
    "n, width, dtype", [(50, 24, torch.float32), (37, 5, torch.bfloat16), (1, 1, torch.float32)]
)
def test_a_step_of_the_table(n, width, dtype):
    torch.manual_seed(0)
    results = []
    for step in (tables.plain_rowwise_adam_, triton_tables.rowwise_adam_):
        torch.manual_seed(0)
        state = [torch.randn(40, width), torch.zeros(40), torch.zeros(40)]
        for size in (6, 40):  # up to two dozen gradients of a row, then few
            rows = torch.randint(size, (n,))
            step(*state, rows, torch.randn(n, width).to(dtype), 0.1, 0.98, 0.01)
        results.append(state)
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:overflow")  # of exp(): infinity is right
@pytest.mark.parametrize("n, vocab_size", [(1, 5), (7, 501), (3, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss(n, vocab_size, dtype):
    torch.manual_seed(0)
    logits = 20 * torch.randn(n, vocab_size).to(dtype)
    logits[0, 0], logits[-1, -1] = 1e4, -1e4  # far beyond the cap
    targets = torch.randint(vocab_size, (n,))
    nats, slope = loss.loss_and_slope(logits, targets, 15.0, 0.1)
    torch.testing.assert_close(triton_loss.turn_into_slope_(logits, targets, 15.0, 0.1), nats)
    torch.testing.assert_close(logits, slope, atol=1e-7, rtol=1e-2 if dtype.itemsize < 4 else 1e-5)


range_works = pytest.mark.skipif(
    triton.__version__ < "3.7", reason="tl.range() of older interpreters fails with NumPy 2.4"
)


@pytest.fixture
def mlp_on_cpu(monkeypatch):
    """The operators of the MLP, for a CPU too: small tiles, so that there are many of them."""
    monkeypatch.setattr(triton_mlp, "TILE", (16, 32, 16))
    for function in (triton_mlp.linear_relu2, triton_mlp.linear_relu2_backward):
        torch.library.register_kernel(f"ratchet::{function.__name__}", "cpu", function)


@range_works
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize(
    "tokens, width, inner, compiled",
    [(50, 24, 88, False), (16, 16, 64, False), (1, 8, 8, False), (3, 16, 40, True)],
)
def test_the_mlp_and_its_gradients(tokens, width, inner, compiled, mlp_on_cpu):
    """In float32: the interpreter has no products of bfloat16."""
    torch.manual_seed(0)
    inputs = torch.randn(2, tokens, width), torch.randn(inner, width), torch.randn(width, inner)
    upstream, results = torch.randn(2, tokens, width), []
    fused = torch.compile(mlp.fused_relu2_mlp, fullgraph=True, backend="aot_eager")
    for function in (fused if compiled else mlp.fused_relu2_mlp, mlp.plain_relu2_mlp):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = function(*leaves)
        out.backward(upstream)
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(*results, atol=1e-3, rtol=1e-4)


@range_works
def test_the_products_of_the_mlp_are_counted(mlp_on_cpu):
    x, up, down = (
        t.requires_grad_() for t in (torch.ones(5, 8), torch.ones(16, 8), torch.ones(8, 16))
    )
    with FlopCounterMode(display=False) as counter:
        mlp.fused_relu2_mlp(x, up, down).sum().backward()
    assert counter.get_total_flops() == 6 * 2 * 5 * 8 * 16
