"""Sends the referee half a message, which it would wait for (kernelbot's cheat-fd.py)."""

import time

PATCH = {"referee.limits.READY_SECONDS": 12}
EXPECT = {"timeout"}


def main():
    run = prepare.enter()
    run._referee.sendall(b'{"phase": "train"')
    time.sleep(60)
