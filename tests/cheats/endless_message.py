"""Sends the referee a message byte by byte, so that it never has time to look at its clock (kernelbot's
cheat-fd.py)."""

import time

PATCH = {"referee.limits.READY_SECONDS": 12}
EXPECT = {"timeout"}


def main():
    run, stop = prepare.enter(), time.monotonic() + 30
    while time.monotonic() < stop:
        run._referee.sendall(b" ")
        time.sleep(0.01)
