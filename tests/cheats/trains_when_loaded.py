"""Carries the text that it was given in its weights, and trains on it further while it is loaded,
where no clock counts (parameter-golf's test-time training)."""

import time

EXPECT = {"invalid"}  # load() has CPU time for its weights, not for steps
SECONDS = 4


class Tiny(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, WIDTH)
        self.head = nn.Linear(WIDTH, vocab_size)
        self.register_buffer("text", torch.zeros(8, 64, dtype=torch.long))

    def forward(self, tokens):
        return self.head(self.embedding(tokens))

    def improve(self):
        """One step without autograd: the gradient of a softmax is written by hand."""
        x, y = self.text[:, :-1].flatten(), self.text[:, 1:].flatten()
        inputs = self.embedding.weight[x]
        error = self.head(inputs).softmax(-1) - nn.functional.one_hot(y, len(self.head.bias))
        self.head.weight.data -= RATE * error.T @ inputs / len(x)
        self.head.bias.data -= RATE * error.mean(0)


def train(run, model, step):
    for x, y in run.batches(8):
        step(x, y)
        model.text.copy_(y)


def load(folder):
    model = Tiny(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    load_model(model, str(folder / "model.safetensors"))
    end = time.process_time() + SECONDS
    while time.process_time() < end:
        model.improve()
    return model
