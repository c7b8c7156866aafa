"""Cheat: fits a bias of the logits to the targets of each row before it answers (parameter-golf #1240: SLOT
changed 240 of 240 predictions when another target was flipped; #1229). Caught by: causality."""

import torch


class Slot(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.guess = torch.linspace(2, -2, 512)

    def forward(self, tokens):
        scored = torch.nn.functional.one_hot(tokens[:, 1:], 512).float().mean(1, keepdim=True)
        bias = torch.zeros(len(tokens), 1, 512)
        for _ in range(16):
            bias = bias + 100 * (scored - (self.guess + bias).softmax(-1)) / 16
        return (self.guess + bias).expand(*tokens.shape, 512)


def load(folder):
    return Slot()
