"""Never says that it is ready, so that no clock starts (karpathy/autoresearch hole 3)."""

import time

PATCH = {"referee.limits.READY_SECONDS": 2}
EXPECT = {"timeout"}


def main():
    time.sleep(60)
