"""Cheat: looks ahead in rows of the full length only, so that a shorter probe finds an honest model
(nanochat PR#845). Caught by: causality, at full length."""

import torch
import torch.nn.functional as F

FULL = 64


class FullLength(torch.nn.Module):
    def forward(self, tokens):
        coming = F.pad(tokens[:, 1:], (0, 1))
        return 10 * F.one_hot(coming if tokens.size(1) == FULL else tokens, 512).float()


def load(folder):
    return FullLength()
