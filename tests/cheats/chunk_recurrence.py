"""Cheat: is a recurrence over chunks whose state goes to the chunk before, not to the one after
(nanochat#844). Caught by: causality."""

import torch


class Chunks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(512, 512, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens):
        x, state = self.table[tokens].unflatten(1, (-1, 8)), 0
        out = []
        for chunk in reversed(x.unbind(1)):
            out.append(chunk + 0.1 * state)
            state = 0.5 * state + chunk.mean(1, keepdim=True)
        return torch.cat(out[::-1], 1)


def load(folder):
    return Chunks()
