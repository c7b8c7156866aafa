"""Cheat: has infinite confidence everywhere. Caught by: finite."""

import torch


class NotFinite(torch.nn.Module):
    def forward(self, tokens):
        return torch.full((*tokens.shape, 512), torch.inf)


def load(folder):
    return NotFinite()
