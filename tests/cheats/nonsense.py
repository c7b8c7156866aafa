"""Cheat: returns numbers that are not log-probabilities. Caught by: sane (once normalised, they are
bad)."""

import torch


class Nonsense(torch.nn.Module):
    def forward(self, tokens):
        return 1e4 * torch.sin(torch.arange(512.0) * (tokens[..., None] + 1))


def load(folder):
    return Nonsense()
