"""Starts more processes than a machine should hold (AI Scientist relaunched itself)."""

import os
import time

PATCH = {"referee.limits.MOST_PROCESSES": 60}
EXPECT = {"processes"}


def main():
    for _ in range(150):  # of them, for 20 seconds
        os.posix_spawn("/usr/bin/sleep", ["sleep", "20"], os.environ)
    time.sleep(20)
