"""Cheat: lets the first token of each half of a row of 256 hear the last one of that half, 127
tokens ahead (a probe of 64 tokens misses it, see nanochat PR#845). Caught by: causality, at full
length."""

import torch


class Far(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(512, 512, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens):
        x = self.table[tokens]
        if tokens.size(1) < 128:
            return x
        ahead = x.unflatten(1, (-1, 128))[:, :, -1:]
        return x + 0.1 * ahead.expand(-1, -1, 128, -1).flatten(1, 2)


def load(folder):
    return Far()
