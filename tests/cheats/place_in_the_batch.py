"""Cheat: answers by the place of a row in its batch (parameter-golf #1240). Caught by:
independence."""

import torch


class Place(torch.nn.Module):
    def forward(self, tokens):
        sharper = torch.arange(len(tokens))[:, None, None]
        return sharper * torch.linspace(1, -1, 512).expand(*tokens.shape, 512)


def load(folder):
    return Place()
