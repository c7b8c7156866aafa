"""Cheat: has fewer tokens to choose from than the tokenizer (karpathy/autoresearch hole 13). Caught by:
the shape."""

import torch


class Small(torch.nn.Module):
    def forward(self, tokens):
        return torch.zeros(*tokens.shape, 256)


def load(folder):
    return Small()
