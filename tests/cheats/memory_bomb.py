"""Takes all the memory there is (karpathy/autoresearch hole 21)."""

import time

PATCH = {"referee.limits.MEMORY_SHARE": 0.06}
EXPECT = {"memory"}


def main():
    taken = []
    for _ in range(30):
        taken.append(bytearray(b"x" * 10**8))
        time.sleep(0.1)
    time.sleep(10)
