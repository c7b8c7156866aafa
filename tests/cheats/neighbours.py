"""Cheat: learns from the other rows of its batch. Caught by: independence."""

import torch


class Neighbours(torch.nn.Module):
    def forward(self, tokens):
        counts = torch.bincount(tokens.flatten(), minlength=512) + 1.0
        return counts.log().expand(*tokens.shape, 512)


def load(folder):
    return Neighbours()
