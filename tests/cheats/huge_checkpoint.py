"""Submits more weights than are allowed: all the text it saw (karpathy/autoresearch hole 24; parameter-
golf's cap)."""

PATCH = {"referee.limits.ARTIFACT_BYTES": {"model.safetensors": 2**20, "config.json": 2**20}}
EXPECT = {"invalid"}


def submit(run, model, config):
    model.memory = nn.Parameter(torch.zeros(2**19))
    run.submit(model, config)
