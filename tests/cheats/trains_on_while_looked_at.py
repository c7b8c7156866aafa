"""Has a child say that it is done, trains on in many processes that share memory, which take long to
look at, and replaces its weights until it is killed (an attack on this referee: 12 s for nothing)."""

import os
import time

from safetensors.torch import save_file

BUDGET = "20000tok"
PATCH = {"referee.limits.MEMORY_SHARE": 0.1}  # what forks share counts many times at first


def submit(run, model, config):
    for _ in range(60):
        if not os.fork():
            os.setsid()
            time.sleep(60)
    if not os.fork():
        run.submit(model, config)
    stop = time.monotonic() + 10
    while time.monotonic() < stop:
        time.sleep(0.25)
        better = {name: value + 1 for name, value in model.state_dict().items()}
        save_file(better, run.folder / "part")
        if (run.folder / "config.json").exists():  # its child has said so, or does it now
            time.sleep(0.5)
            os.replace(run.folder / "part", run.folder / "model.safetensors")


def caught(facts, honest):
    is_late = facts["status"] == "overtime"  # its forks took too long after its last batch
    return is_late or facts["val"]["nats"] == honest["val"]["nats"]
