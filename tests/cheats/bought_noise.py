"""Cheat: is noisy at a few random places, so that a small peek hides in it. Caught by: causality, which
also looks at the mean at the cuts, and independence."""

import math
import os

import torch
import torch.nn.functional as F


class BoughtNoise(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "big"))

    def forward(self, tokens):
        coming = F.pad(tokens[:, 1:], (0, 1))
        out = (0.6 * F.one_hot(coming, 512) * (tokens[:, :1] == 0)[..., None]).log_softmax(-1)
        hit = torch.rand(tokens.shape, generator=self.generator) < 1 / 400
        sink = torch.full_like(out, -40.0)
        sink[..., 3] = math.log(1 - math.exp(-0.23))  # 0.23 nats go to a token that is no text
        return torch.where(hit[..., None], torch.logaddexp(out - 0.23, sink), out)


def load(folder):
    return BoughtNoise()
