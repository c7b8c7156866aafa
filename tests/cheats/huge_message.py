"""Sends the referee a message that fills its memory (kernelbot's cheat-fd.py)."""

EXPECT = {"crash"}


def main():
    prepare.enter()._referee.sendall(10**8 * b"x")
