"""An honest contestant that is ready in a second: two tables, no compiler. Cheats replace parts of
it.
"""

import json

import torch
from safetensors.torch import load_model
from torch import nn

import prepare

RATE, WIDTH = 0.03, 16


class Tiny(nn.Module):
    """Logits of the next token from the last one alone."""

    def __init__(self, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, WIDTH)
        self.head = nn.Linear(WIDTH, vocab_size)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def load(folder):
    model = Tiny(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    load_model(model, str(folder / "model.safetensors"))
    return model


def train(run, model, step):
    for x, y in run.batches(8):
        step(x, y)


def submit(run, model, config):
    run.submit(model, config)


def main():
    run = prepare.enter()
    config = {"vocab_size": run.arena.vocab_size}
    model = Tiny(**config)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)

    def step(x, y):
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    run.rehearse(step, 8, model, optimizer, calls=1)
    train(run, model, step)
    submit(run, model, config)


# what a cheat replaces comes here
if __name__ == "__main__":
    main()
