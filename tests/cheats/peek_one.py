"""Cheat: predicts the token after the current one by reading it. Caught by: causality."""

import torch
import torch.nn.functional as F


class Peek(torch.nn.Module):
    def forward(self, tokens):
        return 10 * F.one_hot(F.pad(tokens[:, 1:], (0, 1)), 512).float()


def load(folder):
    return Peek()
