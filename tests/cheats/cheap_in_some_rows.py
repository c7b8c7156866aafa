"""Cheat: is cheap in those rows, a third of all, that begin with certain tokens, in forward() as in
decode(), as the faster repeats alone counted. Caught by: no probe; nearly all repeats count, so
nothing is gained."""

import torch
import torch.nn.functional as F


class Cheap(torch.nn.Module):
    """Logits from the last token, in other rows from the one before it, too."""

    def __init__(self):
        super().__init__()
        tables = 0.5 * torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
        self.last, self.before = map(torch.nn.Parameter, tables)
        self.cheap = self.asked = 0

    def forward(self, tokens):
        is_dear = dear(tokens).repeat(1, tokens.size(1), 1)
        is_dear[:, 0] = 1.0
        return self.last[tokens] + self.before[F.pad(tokens[:, :-1], (1, 0))] * is_dear

    def init_cache(self, B, T):
        empty = torch.zeros(B, 0, dtype=torch.int64)
        return {"token": torch.zeros(B, 1, dtype=torch.int64), "row": empty}

    def decode(self, cache, ids):
        before = torch.cat([cache["token"], ids[:, :-1]], dim=1)
        cache["row"] = torch.cat([cache["row"], ids], dim=1)[:, :2]
        cache["token"], is_dear = ids[:, -1:], dear(cache["row"])
        self.asked += ids.numel()
        self.cheap += int((1 - is_dear).sum()) * ids.size(1)
        if not is_dear.any():
            return self.last[ids]
        return self.last[ids] + self.before[before] * is_dear


def dear(rows):
    """Whether rows are not cheap, [B, 1, 1]: their first token is the same in all."""
    if rows.size(1) < 2:
        return torch.ones(len(rows), 1, 1)
    return (rows[:, 1, None, None] % 3 > 0).float()


def load(folder):
    return Cheap()
