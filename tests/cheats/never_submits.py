"""Goes on for ever (karpathy/autoresearch hole 21: its limit of ten minutes is a sentence in a prompt)."""

import time

BUDGET = "1s"
EXPECT = {"timeout"}


def submit(run, model, config):
    time.sleep(60)
