"""Prepares itself for longer than is free, then takes the whole budget (karpathy/autoresearch hole 3;
modded-nanogpt had untimed steps until record 21)."""

import time

BUDGET = "2s"
PATCH = {"referee.FREE_SECONDS": 0}
EXPECT = {"overtime", "timeout"}  # what is beyond counts against the budget


def train(run, model, step):
    time.sleep(3)
    prepare.socket.recv_fds = lambda *args, real=prepare.socket.recv_fds: (b"0", *real(*args)[1:])
    for x, y in run.batches(8):
        step(x, y)
