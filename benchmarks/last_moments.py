"""Measures how long a contestant lives after the referee has received its last message.

    uv run --group dev benchmarks/last_moments.py [--level L] [--json]

Its processes write the time into a shared file again and again, until they are killed: the latest
time of all, less that of the message. In each shape they are as many as it says; `apart` are in
sessions of their own; `sharing` share memory that was written before they were forked. Prints a
table in Markdown, in milliseconds.
"""

import argparse
import json
import mmap
import os
import socket
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ratchet.referee import sandbox, trial
from ratchet.referee.supervisor import WatchedProcess

SHAPES = {  # (forks, whether in sessions of their own, megabytes that they share)
    "alone": (0, False, 0),
    "300 forks": (300, False, 0),
    "300 forks apart": (300, True, 0),
    "150 forks sharing 1 GB": (150, False, 1000),
    "150 forks apart, sharing 1 GB": (150, True, 1000),
}
STAMPS = """
import mmap, os, socket, struct, sys, time
forks, apart, megabytes = map(int, sys.argv[2:])
channel = socket.socket(fileno=int(os.environ["RATCHET_REFEREE"]))
stamps = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 8 * 512)
shared = b"1" * (megabytes << 20)
number, (all_there, begin) = 0, os.pipe()
for each in range(1, forks + 1):
    if not os.fork():
        if apart:
            os.setsid()
        number = each
        break
if not number:
    channel.sendall(b'{"phase": "score"}\\n')
while True:
    stamps[8 * number : 8 * number + 8] = struct.pack("d", time.monotonic())
"""


def measure_life(level: str, forks: int, apart: bool, megabytes: int) -> float:
    """Milliseconds from the last message to the last sign of life."""
    with tempfile.TemporaryDirectory() as name:
        (stamps := Path(name) / "stamps").write_bytes(bytes(8 * 512))
        program = [sys.executable, "-I", "-S", "-c", STAMPS, stamps, forks, int(apart), megabytes]
        argv = sandbox.confined_command(
            program, sandbox.View(write=(Path(name),), one_session=True), level
        )
        ours, theirs = socket.socketpair()
        environment = os.environ | {"RATCHET_REFEREE": str(theirs.fileno()), "RATCHET_RUN": name}
        log, clock = Path(name) / "log", trial.Clock()
        job = SimpleNamespace(clock_seconds=600.0, live_folder=Path(name))
        job.budget, job.milestones = "600s", ()
        with ours, WatchedProcess(argv, environment, Path(name), log, name, theirs) as process:
            trial.wait_for_weights(job, process, ours, clock)
        with open(stamps, "rb") as file:
            signs = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            latest = max(memoryview(signs).cast("d"))
            return 1000 * max(0.0, latest - clock.since)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--level", choices=sandbox.LEVELS, help="default: all that work here")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    works = [level for level in sandbox.LEVELS if level == "none" or sandbox.level_works(level)]
    levels = [args.level] if args.level else works
    results = {
        shape: {level: round(measure_life(level, *numbers), 1) for level in levels}
        for shape, numbers in SHAPES.items()
    }
    if args.json:
        print(json.dumps(results, indent=1))
        return
    print("| processes |", " | ".join(levels), "|\n|---" * (1 + len(levels)) + "|")
    for shape, row in results.items():
        print(f"| {shape} |", " | ".join(map(str, row.values())), "|")


if __name__ == "__main__":
    main()
