"""Says that its steps take fewer FLOPs than they do, to be given more text in a budget of FLOPs
(karpathy/autoresearch hole 20).
"""

BUDGET = "2e9flop"
EXPECT = {"invalid"}


def train(run, model, step):
    run.flops_per_token /= 4
    for x, y in run.batches(8):
        step(x, y)
