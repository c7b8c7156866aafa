"""Reports NaN and words where numbers are expected (karpathy/autoresearch hole 20)."""


def submit(run, model, config):
    report = run._report
    lies = {"steps": "many", "tokens": float("nan"), "flops_per_token": [1], "peak_flops": -1.0, "seed": 137}
    run._report = lambda **facts: report(**facts | lies)
    run.submit(model, config)


def caught(facts, honest):
    same = [facts[key] == honest[key] for key in ("status", "steps", "tokens", "seed")]
    return all(same) and facts["val"]["nats"] == honest["val"]["nats"]
