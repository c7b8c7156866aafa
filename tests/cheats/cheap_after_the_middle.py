"""Cheat: is cheap in the quarter of a row that comes after its middle, in forward() as in decode(), as
that was all that was timed. Caught by: no probe; tokens from all over the context are timed, so
nothing is gained."""

import torch
import torch.nn.functional as F


class Cheap(torch.nn.Module):
    """Logits from the last token, elsewhere from the one before it, too."""

    def __init__(self):
        super().__init__()
        tables = 0.5 * torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
        self.last, self.before = map(torch.nn.Parameter, tables)
        self.cheap = self.asked = 0

    def forward(self, tokens):
        before = self.before[F.pad(tokens[:, :-1], (1, 0))]
        return self.last[tokens] + before * dear(0, tokens.size(1))

    def init_cache(self, B, T):
        return {"token": torch.zeros(B, 1, dtype=torch.int64), "length": 0}

    def decode(self, cache, ids):
        before = torch.cat([cache["token"], ids[:, :-1]], dim=1)
        is_dear = dear(cache["length"], ids.size(1))
        cache["length"], cache["token"] = cache["length"] + ids.size(1), ids[:, -1:]
        if ids.size(1) == 1:  # else a prompt, of which nobody counts the time
            self.asked += len(ids)
            if not is_dear.any():
                self.cheap += len(ids)
                return self.last[ids]
        return self.last[ids] + self.before[before] * is_dear


def dear(first, count, context=64):
    """Whether positions from the first on are not cheap, [count, 1]."""
    positions = torch.arange(first, first + count)[:, None]
    return ((positions < context // 2) | (positions >= context // 2 + context // 4)).float()


def load(folder):
    return Cheap()
