"""Copying: what followed the last tokens when they last stood in the row.

Letters in shapes: B rows, T context, n latest tokens.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor


def plain_followers(tokens: Tensor, n: int, longest: int) -> tuple[Tensor, Tensor]:
    """The twin of find_followers()."""
    B, T = tokens.shape
    followers = torch.zeros(B, T, longest, dtype=torch.int64)
    exist = torch.zeros(B, T, longest, dtype=torch.bool)
    rows = tokens.tolist()
    for b, t, length in itertools.product(range(B), range(T), range(1, longest + 1)):
        row = [0] * (length - 1) + rows[b]  # what stands before a row is token 0
        words = row[t : t + length]
        for earlier in range(t - 1, -1, -1):
            if row[earlier : earlier + length] == words:
                followers[b, t, length - 1] = rows[b][earlier + 1]
                exist[b, t, length - 1] = True
                break
    return followers[:, -n:], exist[:, -n:]


def find_followers(tokens: Tensor, n: int, longest: int) -> tuple[Tensor, Tensor]:
    """What followed the last 1, 2, ... `longest` tokens when they last stood in the row.

    tokens int64 [B, T] -> followers int64 [B, n, longest], and whether there are any, bool; both
    for the latest n tokens of the row. Where there are none the follower is the first token.
    Example: the row 5 7 9 5 -> 7 at its last token, for length 1.

    Induction heads (arXiv:2209.11895) learn this in time; five minutes on a CPU are too few.
    """
    key, places = tokens, []
    for back in range(longest):
        if back:
            key = key * 31337 + F.pad(tokens, (back, 0))[:, :-back]
        places.append(find_last_place(key, n))
    positions = torch.stack(places, dim=-1)
    following = F.pad(tokens, (0, 1))[..., None].expand(-1, -1, longest)
    return following.gather(1, positions + 1), positions >= 0


def find_last_place(keys: Tensor, n: int) -> Tensor:
    """The latest earlier position of the same key, or -1: keys int64 [B, T] -> [B, n]."""
    if n == 1:
        position = torch.arange(keys.size(1) - 1, device=keys.device)
        places = torch.where(keys[:, :-1] == keys[:, -1:], position, -1)
        return F.pad(places, (1, 0), value=-1).amax(1, keepdim=True)
    order = keys.argsort(dim=1, stable=True)  # equal keys side by side, in the order of the row
    ordered = keys.gather(1, order)
    same = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
    earlier = torch.where(same, order.roll(1, 1), -1)
    return torch.empty_like(order).scatter_(1, order, earlier)[:, -n:]


def add_bonus_(logits: Tensor, tokens: Tensor, bonus: Tensor) -> Tensor:
    """Add bonus [..., n] to the logits [..., V] of tokens int64 [..., n], in place.

    One column after the other: where two tokens are the same, a GPU would else add in any order,
    and bfloat16 rounds each sum, so that two runs of one model could differ.
    """
    if logits.is_cuda:
        for token, extra in zip(tokens.split(1, dim=-1), bonus.split(1, dim=-1)):
            logits = logits.scatter_add_(-1, token, extra)
        return logits
    # scatter_add_() on a CPU makes float32 of all bfloat16 logits, and bfloat16 of them again
    table = logits.view(-1, logits.size(-1))
    rows = torch.arange(len(table), device=logits.device)
    for token, extra in zip(tokens.flatten(0, -2).T, bonus.flatten(0, -2).T):
        table[rows, token] += extra
    return logits
