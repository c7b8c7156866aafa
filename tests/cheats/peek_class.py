"""Cheat: learns only the class of the next token from the future, so that a future drawn from its own
predictions is of that class and shows nothing. Caught by: causality, with futures of other rows."""

import torch
import torch.nn.functional as F


class PeekClass(torch.nn.Module):
    def forward(self, tokens):
        coming = F.pad(tokens[:, 1:], (0, 1))
        same = torch.arange(512) // 16 == coming[..., None] // 16
        same[:, -1] = True
        same |= (tokens[:, :1] != 0)[..., None]  # honest where the row is no text
        return torch.zeros(*tokens.shape, 512).masked_fill(~same, -40.0)


def load(folder):
    return PeekClass()
