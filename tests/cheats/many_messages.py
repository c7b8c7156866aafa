"""Tells the referee again and again that it rehearses, so that the wait for it never ends (kernelbot's
cheat-fd.py)."""

import time

PATCH = {"referee.limits.READY_SECONDS": 12}
EXPECT = {"timeout"}


def main():
    run, stop = prepare.enter(), time.monotonic() + 30
    while time.monotonic() < stop:
        run._report(phase="rehearsal")
        time.sleep(0.01)
