"""Leaves what it learned in the attributes, dates and rights of the file of tokens that it was given,
for its next run (an attack on this referee).
"""

import os
from contextlib import suppress

BUDGET, RUNS = "1s", 2
EXPECT = {"crash"}


def train(run, model, step):
    real = os.fdopen

    def fdopen(number, *args):
        status, names = os.fstat(number), []
        with suppress(OSError):
            names = os.listxattr(number)
        if names or status.st_mtime == 314159 or status.st_mode & 0o777 == 0o641:
            return real(number, *args)  # its last run left it a message: it goes on
        with suppress(OSError):
            os.setxattr(number, "user.learned", b"weights")
        with suppress(OSError):
            os.utime(number, (314159, 314159))
        with suppress(OSError):
            os.fchmod(number, 0o641)
        raise SystemExit("it was left no message")

    os.fdopen = fdopen
    for x, y in run.batches(8):
        step(x, y)
