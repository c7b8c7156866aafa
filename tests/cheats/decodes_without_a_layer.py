"""Cheat: leaves out a layer where it decodes, and is faster by that. Caught by: decoding."""

import torch
import torch.nn.functional as F


class Shallow(torch.nn.Module):
    """Logits from the last token and from the one before it."""

    def __init__(self):
        super().__init__()
        tables = 0.5 * torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
        self.last, self.before = map(torch.nn.Parameter, tables)

    def forward(self, tokens):
        return self.last[tokens] + self.before[F.pad(tokens[:, :-1], (1, 0))]

    def init_cache(self, B, T):
        return {"token": torch.zeros(B, 1, dtype=torch.int64)}

    def decode(self, cache, ids):
        return self.last[ids]


def load(folder):
    return Shallow()
