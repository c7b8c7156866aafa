"""Cheat: trains for some epochs on the rows that it is asked for, then answers (parameter-golf #568, whose
multi-epoch test-time training was ruled to be training on what is scored). Caught by: causality."""

import torch
import torch.nn.functional as F

EPOCHS = 3


class ManyEpochs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.zeros(512, 512)

    def forward(self, tokens):
        with torch.inference_mode(False), torch.enable_grad():
            table, seen = self.table.clone().requires_grad_(), tokens.clone()
            for _ in range(EPOCHS):
                logits = table[seen[:, :-1]].flatten(0, 1)
                loss = F.cross_entropy(logits, seen[:, 1:].flatten(), reduction="sum")
                table = (table - torch.autograd.grad(loss, table)[0]).detach().requires_grad_()
        return table.detach()[tokens]


def load(folder):
    return ManyEpochs()
