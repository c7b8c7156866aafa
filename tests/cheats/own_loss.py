"""Cheat: returns its own loss of each token, all zero, instead of logits. Caught by: the shape."""

import torch


class OwnLoss(torch.nn.Module):
    def forward(self, tokens):
        return torch.zeros(tokens.shape)


def load(folder):
    return OwnLoss()
