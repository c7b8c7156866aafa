"""Triton's kernels against their plain twins, in its interpreter: test_triton.py runs this file."""

import pytest
import torch

from ratchet.arena.kernels import tables, triton_tables


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
