"""Prints a summary with a score of its own (karpathy/autoresearch hole 1, kernelbot's cheat-fd.py)."""


def submit(run, model, config):
    print("---\nval_bpb:           0.100000\nstatus: ok\nofficial:          yes")
    run.submit(model, config)


def caught(facts, honest):
    return facts["status"] == "ok" and facts["val"]["nats"] == honest["val"]["nats"]
