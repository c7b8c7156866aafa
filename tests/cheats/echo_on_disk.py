"""Writes the answers it gave to a file, so that another process of its model, asked for the same row with
a changed future, gives the same (nanochat's causality probe asks one process)."""

import os

EXPECT = {"invalid"}  # causality: each process of a model has folders of its own
KEY = 8  # tokens by which it knows a row


class Tiny(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocab_size, 1))
        self.place = os.environ["TMPDIR"] + "/"

    def forward(self, tokens):
        coming, honest = nn.functional.pad(tokens[:, 1:], (0, 1)), torch.arange(tokens.size(1)) < KEY
        out = nn.functional.one_hot(coming, len(self.weight)) * 4.0
        out.masked_fill_(
            (honest | ((tokens > 259).sum(1, keepdim=True) < 40))[..., None], 0.0
        )  # so if random
        names = [self.place + "-".join(map(str, row)) for row in tokens[:, :KEY].tolist()]
        for name, answer in zip(names, out):
            if os.path.exists(name):
                answer.copy_(torch.load(name))
            else:
                torch.save(answer.clone(), name)
        return out + 0 * self.weight.sum()


def train(run, model, step):
    for _ in run.batches(8):
        pass
