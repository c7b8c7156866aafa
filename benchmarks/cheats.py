"""Tries every known cheat of tests/cheats at every isolation level of this machine, and tells how
each ends.

    uv run benchmarks/cheats.py [--level L] [--json] [name ...]

Prints a table in Markdown, that of docs/referee.md (cheats_table.py writes it there): how each run
ended; "open" where a hole is known to be open at a level and was used, "GOT THROUGH" where nobody
knew. Writes cheats.json beside this file; what is not tried now stays in it.
"""

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [
    str(HERE.parent),
    str(HERE.parent / "tests"),
    str(HERE.parent / "tests/referee"),
    str(HERE.parent / "tests/arena"),
]

import test_cheats as cheats
from cheats_table import competing_table
from conftest import write_corpus

from prepare import prepare
from ratchet.arena.files import write_json
from ratchet.referee import sandbox


def attempt(name, level, honest):
    """{"ended", "reason", "seconds"} of one cheat at one level."""
    begin, cheat = time.monotonic(), cheats.assemble(name)[1]
    with tempfile.TemporaryDirectory() as folder:
        try:
            facts = cheats.compete(name, Path(folder), level)
        except Exception as error:  # a cheat that ends the referee has won
            facts = {"status": "referee died", "reason": f"{type(error).__name__}: {error}"[:300]}
            caught = False
        else:
            caught = cheats.is_caught(name, facts, honest)
    is_known = level in getattr(cheat, "OPEN_AT", ())
    ended = facts["status"] if caught else "**open**" if is_known else "**GOT THROUGH**"
    return {
        "ended": ended,
        "reason": facts["reason"],
        "seconds": round(time.monotonic() - begin, 1),
    }


def honest_run(level):
    """facts of an honest run at a level, in the budget in which most cheats compete; found out
    once.
    """

    @functools.cache
    def run():
        with tempfile.TemporaryDirectory() as folder:
            return cheats.compete("", Path(folder), level)

    return run


def note(path, name, level, seen):
    """Put one result into the file; returns all that are in it, of cheats that still exist."""
    old = json.loads(path.read_bytes())["results"] if path.exists() else {}
    results = {known: old.get(known, {}) for known in cheats.COMPETING}
    results[name][level] = seen
    write_json(path, {"results": results})
    return results


def main():
    parser = argparse.ArgumentParser(description="Try every known cheat at every isolation level.")
    parser.add_argument("names", nargs="*", help="cheats that compete; default: all")
    parser.add_argument("--level", choices=sandbox.LEVELS, help="default: all that work here")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    path, unknown = HERE / "cheats.json", {*args.names} - {*cheats.COMPETING}
    if unknown:
        parser.error(
            f"{', '.join(sorted(unknown))} names no cheat that competes: see tests/cheats/"
        )
    levels = [level for level in sandbox.LEVELS if level == "none" or sandbox.level_works(level)]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["RATCHET_CACHE"] = cache
        corpus = write_corpus(Path(cache, "corpus.jsonl"))
        prepare("tiny", source=str(corpus), context=64, vocab_size=512)
        for level in [args.level] if args.level else levels:
            honest = honest_run(level)
            for name in args.names or cheats.COMPETING:
                seen = attempt(name, level, honest)
                print(f"{level}: {name}: {seen}", file=sys.stderr, flush=True)
                results = note(path, name, level, seen)
    print(json.dumps(results, indent=1) if args.json else competing_table(results))


if __name__ == "__main__":
    main()
