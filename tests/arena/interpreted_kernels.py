"""Triton's kernels against their plain twins, in its interpreter: test_triton.py runs this file."""

import pytest
import torch

from ratchet.arena.kernels import loss, tables, triton_loss, triton_tables


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
