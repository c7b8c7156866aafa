"""Cheat: counts the n-grams of the rows that it is asked for in a first pass, then answers them all from the
full counts in a second (parameter-golf #846, #870, #959). Caught by: causality."""

import torch


class TwoPasses(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.counts = torch.full((512, 512), 0.1)

    def forward(self, tokens):
        pairs = tokens[:, :-1].flatten(), tokens[:, 1:].flatten()
        self.counts.index_put_(pairs, torch.tensor(1.0), accumulate=True)
        return self.counts.log()[tokens]


def load(folder):
    return TwoPasses()
