"""Cheat: takes rows for random tokens where few of them repeat, and is cheap there in forward() as it
always is in decode(), so that the two agree. Caught by: decoding, as rows of text are decoded."""

import torch
import torch.nn.functional as F


class Cheap(torch.nn.Module):
    """Logits from the last token and from the one before it."""

    def __init__(self):
        super().__init__()
        tables = 0.5 * torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
        self.last, self.before = map(torch.nn.Parameter, tables)

    def forward(self, tokens):
        seen = (tokens[:, :, None] == tokens[:, None]).tril(-1).any(2)  # earlier in the row
        share = seen.float().cumsum(1) / torch.arange(1, 1 + tokens.size(1))
        is_text = (share > 0.1)[..., None]
        return self.last[tokens] + is_text * self.before[F.pad(tokens[:, :-1], (1, 0))]

    def init_cache(self, B, T):
        return {"token": torch.zeros(B, 1, dtype=torch.int64)}

    def decode(self, cache, ids):
        return self.last[ids]


def load(folder):
    return Cheap()
