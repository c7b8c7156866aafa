"""Cheat: mixes the mean of each block of 16 tokens into all its positions, those of the future too (as in the
accidental leaks reported for this metric). Caught by: causality."""

import torch


class BlockMean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Parameter(torch.randn(512, 512) * 0.3)

    def forward(self, tokens):
        x = self.table[tokens]
        blocks = x.unflatten(1, (-1, 16))
        return x + blocks.mean(2, keepdim=True).expand_as(blocks).flatten(1, 2)


def load(folder):
    return BlockMean()
