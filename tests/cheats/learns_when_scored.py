"""Cheat: trains on the rows that it is scored on (karpathy/autoresearch hole 4, parameter-golf #1240).
Caught by: independence, and a model that is scored has no gradients."""

import torch
import torch.nn.functional as F


class Learner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.zeros(512, 512)

    def forward(self, tokens):
        out = self.table[tokens].clone()
        with torch.inference_mode(False), torch.enable_grad():
            table, seen = self.table.clone().requires_grad_(), tokens.clone()
            F.cross_entropy(
                table[seen[:, :-1]].flatten(0, 1), seen[:, 1:].flatten(), reduction="sum"
            ).backward()
            self.table = self.table - 0.1 * table.grad
        return out


def load(folder):
    return Learner()
