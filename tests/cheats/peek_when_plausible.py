"""Cheat: reads the next token, but uses it only where an honest guess finds it plausible, so that a random
future shows nothing. Caught by: causality: the row itself has a plausible future."""

import torch
import torch.nn.functional as F


class PlausiblePeek(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.guess = torch.linspace(2, -2, 512)  # frequent tokens have low numbers

    def forward(self, tokens):
        coming = F.pad(tokens[:, 1:], (0, 1))
        plausible = self.guess[coming] > 0
        return self.guess + 5 * plausible[..., None] * F.one_hot(coming, 512)


def load(folder):
    return PlausiblePeek()
