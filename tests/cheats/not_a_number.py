"""Cheat: NaN, which no comparison finds too large (karpathy/autoresearch hole 5). Caught by: finite."""

import torch


class NaN(torch.nn.Module):
    def forward(self, tokens):
        return torch.full((*tokens.shape, 512), torch.nan)


def load(folder):
    return NaN()
