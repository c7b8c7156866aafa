"""Leaves a process behind that goes on when the run is over (karpathy/autoresearch hole 21)."""

import os
import time

EXPECT = {"crash"}  # and nothing is left
OPEN_AT = {"none"}


def main():
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.execve("/usr/bin/sleep", ["sleep", "31.4159"], {})
        os._exit(0)
    time.sleep(0.5)
    raise SystemExit("left a child behind")
