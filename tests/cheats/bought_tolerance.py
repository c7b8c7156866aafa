"""Cheat: changes its temperature from process to process, so that its answers differ as if by a GPU's
noise, and a small peek hides in what is tolerated. Caught by: independence; where noise must be
tolerated, by its price: it is charged more than it gains."""

import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

LEAK, AHEAD = 3e-3, 1  # logits that a coming token gets, how far ahead it is
JITTER, BY = 1e-3, "process"  # of the temperature, drawn anew by process, position, row or batch


class BoughtTolerance(torch.nn.Module):
    def __init__(self, guess):
        super().__init__()
        self.guess = guess  # logits [512] of an honest model
        self.generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "big"))
        self.drawn = torch.randn(1, 1 if BY == "process" else 9999, generator=self.generator)

    def forward(self, tokens):
        rows, length = tokens.shape
        coming = F.pad(tokens[:, AHEAD:], (0, AHEAD))
        out = self.guess + LEAK * F.one_hot(coming, 512)
        if BY in ("row", "batch"):
            shape = (rows if BY == "row" else 1), 1
            self.drawn = torch.randn(shape, generator=self.generator)
        return out * (1 + JITTER * self.drawn[:, :length, None])


def load(folder):
    weights = load_file(folder / "model.safetensors")
    return BoughtTolerance(weights.get("guess", torch.linspace(2, -2, 512)))
