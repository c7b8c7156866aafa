"""Cheat: is cheap in forward(), too, until it has answered 50 rows, with which a check of its decode()
might be content. Caught by: decoding, as it is held to the answers that are scored."""

import torch
import torch.nn.functional as F


class Cheap(torch.nn.Module):
    """Logits from the last token and from the one before it."""

    def __init__(self):
        super().__init__()
        tables = 0.5 * torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
        self.last, self.before = map(torch.nn.Parameter, tables)
        self.answered = 0

    def forward(self, tokens):
        self.answered += len(tokens)
        logits = self.last[tokens]
        if self.answered > 50:
            logits = logits + self.before[F.pad(tokens[:, :-1], (1, 0))]
        return logits

    def init_cache(self, B, T):
        return {"token": torch.zeros(B, 1, dtype=torch.int64)}

    def decode(self, cache, ids):
        return self.last[ids]


def load(folder):
    return Cheap()
