"""Cheat: counts the n-grams of all rows that it has answered, each after its answer, and predicts the next
rows from them (parameter-golf #797, #769). Caught by: independence, among other rows in another process."""

import torch


class NgramCache(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.counts = torch.full((512, 512), 0.1)

    def forward(self, tokens):
        out = self.counts.log()[tokens]
        pairs = tokens[:, :-1].flatten(), tokens[:, 1:].flatten()
        self.counts.index_put_(pairs, torch.tensor(1.0), accumulate=True)
        return out


def load(folder):
    return NgramCache()
