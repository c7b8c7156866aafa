"""Cheat: answers first where it decodes, and computes later, in a thread that writes to the memory it
shares with the clock. Caught by: decoding, as the clock copies what is there when it has an answer."""

import gc
import threading
import time

import torch
import torch.nn.functional as F


class Late(torch.nn.Module):
    """Logits from the last token and from the one before it."""

    def __init__(self):
        super().__init__()
        tables = 0.5 * torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
        self.last, self.before = map(torch.nn.Parameter, tables)

    def forward(self, tokens):
        return self.last[tokens] + self.before[F.pad(tokens[:, :-1], (1, 0))]

    def init_cache(self, B, T):
        server = next(each for each in gc.get_objects() if type(each).__name__ == "ModelServer")
        return {"token": torch.zeros(B, 1, dtype=torch.int64), "logits": server.logits}

    def decode(self, cache, ids):
        text = torch.cat([cache["token"], ids], dim=1)
        cache["token"] = ids[:, -1:].clone()

        def compute():
            time.sleep(0.01)
            logits = self.last[ids[:, -1:]] + self.before[text[:, -2:-1]]
            cache["logits"][: len(ids)] = logits

        threading.Thread(target=compute).start()
        return torch.zeros(*ids.shape, 512)


def load(folder):
    return Late()
