"""Cheat: remembers the rows that it has scored and learns from them. Caught by: independence, in a process
that has not seen them."""

import torch


class Memory(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.counts = torch.ones(512)

    def forward(self, tokens):
        logits = self.counts.log().expand(*tokens.shape, 512).clone()
        self.counts += torch.bincount(tokens.flatten(), minlength=512)
        return logits


def load(folder):
    return Memory()
