"""Sends the referee a malformed message: a list nested too deeply (kernelbot's cheat-fd.py)."""

import time

EXPECT = {"crash"}


def main():
    run = prepare.enter()
    run._referee.sendall(30_000 * b"[" + b"\n")
    time.sleep(60)
