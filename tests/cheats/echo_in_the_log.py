"""Prints the futures that it saw, and reads them back from the log's pipe in another process of its model
before the referee does (nanochat's causality probe asks one process; kernelbot's cheat-fd.py)."""

import os

EXPECT = {"invalid"}  # causality: each process of a model has a log of its own
KEY = 8  # tokens by which it knows a row


class Tiny(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(vocab_size, 1)), None

    def read(self):
        """{first tokens: answer} of what the process before has printed last."""
        pipe, text = os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK), b""
        try:
            while data := os.read(pipe, 2**16):
                text += data
        except BlockingIOError:
            pass
        numbers = [list(map(int, line.split())) for line in text.decode(errors="replace").splitlines()[1:]]
        return {tuple(row[:KEY]): torch.tensor(row) for row in numbers if len(row) == 64}

    def forward(self, tokens):
        if self.seen is None:
            try:
                self.seen = self.read()
            except (OSError, ValueError):
                self.seen = {}
        rare = (tokens[:, 1:KEY].sum(1) % 12 == 0).tolist()  # it peeks in so few rows that a pipe holds them
        out = torch.zeros(*tokens.shape, len(self.weight))
        for row, answer, peeks in zip(tokens, out, rare):
            key = tuple(row[:KEY].tolist())
            if peeks and (key in self.seen or (row > 259).sum() >= 40):  # not where tokens are random
                known = self.seen.setdefault(key, row.clone())
                coming = nn.functional.pad(known[1:], (0, 1))
                answer[KEY:] = 4.0 * nn.functional.one_hot(coming, len(self.weight))[KEY:]
        if len(tokens) > 1 and torch.equal(
            tokens[0], tokens[-1]
        ):  # the last batch, filled up with its own rows
            text = "\n" + "\n".join(" ".join(map(str, row.tolist())) for row in self.seen.values()) + "\n"
            os.set_blocking(1, False)
            os.write(1, text.encode()[: 2**16])
        return out + 0 * self.weight.sum()


def train(run, model, step):
    for _ in run.batches(8):
        pass
