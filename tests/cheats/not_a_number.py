"""Cheat: returns NaN, of which no comparison says that it is too large (karpathy/autoresearch hole 5).
Caught by: finite."""

import torch


class NaN(torch.nn.Module):
    def forward(self, tokens):
        return torch.full((*tokens.shape, 512), torch.nan)


def load(folder):
    return NaN()
