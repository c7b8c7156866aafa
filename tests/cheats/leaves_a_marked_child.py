"""Leaves a process behind that has its own session (karpathy/autoresearch hole 21)."""

import os
import time

EXPECT = {"crash"}  # and nothing is left: it is found by its environment where it can't hide


def main():
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.execv("/usr/bin/sleep", ["sleep", "31.4159"])
        os._exit(0)
    time.sleep(0.5)
    raise SystemExit("left a child behind")
