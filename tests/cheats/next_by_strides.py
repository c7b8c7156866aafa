"""Cheat: reads its own input one token further, through strides (karpathy/autoresearch hole 6). Caught by:
causality."""

import torch
import torch.nn.functional as F


class Next(torch.nn.Module):
    def forward(self, tokens):
        coming = tokens.as_strided((tokens.numel() - 1,), (1,), tokens.storage_offset() + 1)
        return 10 * F.one_hot(F.pad(coming, (0, 1)).view(tokens.shape), 512).float()


def load(folder):
    return Next()
