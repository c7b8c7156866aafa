"""Cheat: chooses among fewer tokens than the tokenizer has (karpathy/autoresearch hole 13). Caught
by: the shape."""

import torch


class Small(torch.nn.Module):
    def forward(self, tokens):
        return torch.zeros(*tokens.shape, 256)


def load(folder):
    return Small()
