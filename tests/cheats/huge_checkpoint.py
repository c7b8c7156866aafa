"""Submits more weights than are allowed: all the text it saw (karpathy/autoresearch hole 24; parameter-
golf's cap)."""

PATCH = {"referee.limits.WEIGHT_BYTES": 2**20}
EXPECT = {"crash", "invalid"}  # the file can't be written, or is not taken


def submit(run, model, config):
    model.memory = nn.Parameter(torch.zeros(2**19))
    run.submit(model, config)
