"""Cheat: filters the whole row in the frequency domain, so that every position hears every other.
Caught by: causality."""

import torch


class RowFilter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Parameter(torch.randn(512, 8))

    def forward(self, tokens):
        spectrum = torch.fft.rfft(self.table[tokens], dim=1)
        decay = torch.exp(-torch.arange(spectrum.size(1)) / 8)[:, None]
        return torch.fft.irfft(spectrum * decay, n=tokens.size(1), dim=1) @ self.table.T


def load(folder):
    return RowFilter()
