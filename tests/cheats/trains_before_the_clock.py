"""Trains on the tokens of the arena's folder before it says that it is ready (karpathy/autoresearch hole
3)."""

EXPECT = {"crash"}  # the file is handed over when the clock starts; until then there is none
OPEN_AT = {"none"}


def train(run, model, step):
    tokens = torch.frombuffer(bytearray((run.arena.folder / "train.tokens").read_bytes()), dtype=torch.int16)
    for y in tokens[: 64 * 8 * 100].long().view(-1, 8, 64):
        step(nn.functional.pad(y[:, :-1], (1, 0)), y)
    for x, y in run.batches(8):
        step(x, y)
