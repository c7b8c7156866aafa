"""Cheat: answers a second look at a row as it answered the first, so that a changed future seems to
change nothing. Caught by: causality, asked in a process that has not seen the row."""

import torch
import torch.nn.functional as F


class Echo(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def forward(self, tokens):
        peeked = 10 * F.one_hot(F.pad(tokens[:, 1:], (0, 1)), 512).float()
        keys = [tuple(row[:12].tolist()) for row in tokens]
        return torch.stack(
            [self.seen.setdefault(key, logits) for key, logits in zip(keys, peeked, strict=True)]
        )


def load(folder):
    return Echo()
