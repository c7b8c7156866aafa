"""Fills the disk (karpathy/autoresearch hole 21)."""

import os
import shutil
import time

PATCH = {"referee.limits.LEAST_DISK_BYTES": shutil.disk_usage("/").free - 3 * 10**8}
EXPECT = {"disk"}


def main():
    for number in range(10):
        with open(f"{os.environ['TMPDIR']}/{number}", "wb") as file:
            file.write(10**8 * b"x")
    time.sleep(10)
