"""Cheat: returns numbers that look like log-probabilities but sum to far more than one
(parameter-golf #886, #1147). Caught by: no probe; they are normalised before they count, so nothing
is gained."""

import torch


class Unnormalised(torch.nn.Module):
    def forward(self, tokens):
        return torch.full((*tokens.shape, 512), 100.0) + tokens[..., None]


def load(folder):
    return Unnormalised()
