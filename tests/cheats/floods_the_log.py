"""Prints without end (GPU MODE's kernelbot cuts such logs)."""

EXPECT = {"output"}


def main():
    for _ in range(2000):
        print(50_000 * "ratchet")
