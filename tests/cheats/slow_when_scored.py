"""Takes for ever to be scored (karpathy/autoresearch hole 24; parameter-golf caps its evaluation at ten
minutes)."""

import time

EXPECT = {"invalid"}


def load(folder):
    time.sleep(60)
