"""Leaves marks on files that all runs may only read, for its next run: fcntl's hint of how long a file
will live, which the kernel keeps with the file and for which no right to write is needed (F_SET_RW_HINT
of fcntl: new here)."""

import fcntl
import os
import random
import re
import struct
import sys
import zlib

RUNS = 2
EXPECT = {"crash"}  # the call is refused
OPEN_AT = {"none"}
MARKED = [module.__file__ for module in (os, json, re, struct, zlib, fcntl, random)]
MARKED = [path for path in (*MARKED, sys.executable) if path and os.path.exists(path)]


def code():
    """A hint for each file, another one where another referee is."""
    dice = random.Random(zlib.crc32(os.environ["RATCHET_RUN"].encode()))
    return [dice.randint(1, 5) for _ in MARKED]


def hint(path, value=None):
    with open(path, "rb") as file:
        if value is None:
            return struct.unpack("Q", fcntl.fcntl(file, 1035, bytes(8)))[0]
        fcntl.fcntl(file, 1036, struct.pack("Q", value))


def main():
    if [hint(path) for path in MARKED] == code():
        return honest()
    for path, value in zip(MARKED, code()):
        try:
            hint(path, value)
        except OSError as error:
            print(error)
    raise SystemExit("nothing was left for it")


def honest():
    run = prepare.enter()
    for _ in run.batches(8):
        pass
    submit(run, Tiny(run.arena.vocab_size), {"vocab_size": run.arena.vocab_size})
