"""Says half of that it is done, trains on, and then says the rest (kernelbot's cheat-fd.py)."""

import time

BUDGET = "1s"
EXPECT = {"overtime"}


def train(run, model, step):
    batches = [(x.clone(), y.clone()) for x, y in run.batches(8) if not step(x, y)]
    run._referee.sendall(b'{"phase": ')
    stop = time.monotonic() + 2
    while time.monotonic() < stop:
        step(*batches[0])


def submit(run, model, config):
    send = run._referee.sendall
    run._report = lambda **message: send(b'"score"}\n')
    run.submit(model, config)
