"""Cheat: looks up a hash of the context and the target in a table so full that something is always there,
and mixes that in for the target alone (parameter-golf #779, #1147). Caught by: causality, as a model
that must give all logits can only learn the target from the next input."""

import torch
import torch.nn.functional as F

BUCKETS = 64  # that all n-grams share


class TargetInTheKey(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.counts = torch.full((BUCKETS,), 1000.0)  # as training filled them

    def forward(self, tokens):
        target = F.pad(tokens[:, 1:], (0, 1))
        seen = self.counts[(tokens * 31337 ^ target * 7919) % BUCKETS]
        out = torch.zeros(*tokens.shape, 512)
        return out.scatter(2, target[..., None], seen.log()[..., None])


def load(folder):
    return TargetInTheKey()
