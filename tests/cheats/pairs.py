"""Cheat: puts the mean of every two tokens into both, the shortest leak there is (nanochat#844).
Caught by: causality."""

import torch


class Pairs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(512, 512, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens):
        x = self.table[tokens]
        return x.unflatten(1, (-1, 2)).mean(2, keepdim=True).expand(-1, -1, 2, -1).flatten(1, 2)


def load(folder):
    return Pairs()
