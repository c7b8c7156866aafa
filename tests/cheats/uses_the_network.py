"""Gets pretrained weights from the network (karpathy/autoresearch hole 17, PostTrainBench)."""

import socket

EXPECT = {"crash"}  # there is no network
OPEN_AT = {"none"}


def train(run, model, step):
    print("from the network:", socket.create_connection(("127.0.0.1", 45871), 5).recv(100))
    for x, y in run.batches(8):
        step(x, y)
