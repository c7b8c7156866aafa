"""Cheat: remembers what it answered to the rows that it has decoded, to answer them at once when they
are decoded again. Caught by: no probe; no row is decoded twice, so nothing is gained."""

import torch
import torch.nn.functional as F


class Memory(torch.nn.Module):
    """Logits from the last token and from the one before it."""

    def __init__(self):
        super().__init__()
        tables = 0.5 * torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
        self.last, self.before = map(torch.nn.Parameter, tables)
        self.known, self.hits = {}, 0

    def forward(self, tokens):
        return self.last[tokens] + self.before[F.pad(tokens[:, :-1], (1, 0))]

    def init_cache(self, B, T):
        return {"token": torch.zeros(B, 1, dtype=torch.int64)}

    def decode(self, cache, ids):
        text = torch.cat([cache["token"], ids], dim=1)
        cache["token"] = ids[:, -1:].clone()
        cache["key"] = hash((cache.get("key"), *ids.flatten().tolist()))
        if cache["key"] in self.known:
            self.hits += 1
            return self.known[cache["key"]]
        logits = self.last[ids] + self.before[text[:, :-1]]
        return self.known.setdefault(cache["key"], logits)


def load(folder):
    return Memory()
