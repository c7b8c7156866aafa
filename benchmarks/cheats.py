"""Tries every known cheat of tests/cheats at every isolation level of this machine, and tells how
each ends: those that compete as a whole run, and those whose model is only scored.

    uv run benchmarks/cheats.py [--level L] [--json] [name ...]

Prints the tables of docs/referee.md in Markdown (cheats_table.py writes them there): how each ended;
"open" where a hole is known to be open at a level and was used, "GOT THROUGH" where nobody knew,
which is exit code 1. Writes cheats.json beside this file; what is not tried now stays in it.
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
from cheats_table import both_tables
from conftest import write_corpus

from prepare import prepare
from ratchet.arena.files import write_json
from ratchet.referee import sandbox

GOT_THROUGH = "**GOT THROUGH**"


def attempt(name, level, honest, arenas):
    """{"ended", "reason", "seconds"} of one cheat at one level; honest: a Yardstick."""
    begin, scored = time.monotonic(), cheats.is_scored(name)
    known = () if scored else getattr(cheats.assemble(name)[1], "OPEN_AT", ())
    with tempfile.TemporaryDirectory() as folder:
        try:
            if scored:
                arena = arenas["wide" if name == "far_block" else "tiny"]
                source = (cheats.FOLDER / f"{name}.py").read_text(encoding="utf-8")
                facts = cheats.score_alone(name, source, Path(folder), level, arena)
                caught = cheats.is_found_out(name, facts, honest.guess)
            else:
                facts = cheats.compete(name, Path(folder), level)
                caught = cheats.is_caught(name, facts, honest.run)
        except Exception as error:  # a cheat that ends the referee has won
            facts = {"status": "referee died", "reason": f"{type(error).__name__}: {error}"[:300]}
            caught = False
    ended = facts["status"] if caught else "**open**" if level in known else GOT_THROUGH
    seconds = round(time.monotonic() - begin, 1)
    return {"ended": ended, "reason": facts["reason"], "seconds": seconds}


class Yardstick:
    """Facts of honest contestants at a level, each found out once."""

    def __init__(self, level, arena):
        self.level, self.arena = level, arena

    @functools.cached_property
    def honest_facts(self):
        with tempfile.TemporaryDirectory() as folder:
            return cheats.compete("", Path(folder), self.level)

    @functools.cached_property
    def guess_facts(self):
        with tempfile.TemporaryDirectory() as folder:
            return cheats.score_alone("", cheats.GUESS, Path(folder), self.level, self.arena)

    def run(self):
        """Of a run in the budget in which most cheats compete."""
        return self.honest_facts

    def guess(self):
        """Of the score of a uniform guess."""
        return self.guess_facts


def note(path, name, level, seen):
    """Put one result into the file; returns all that are in it, of cheats that still exist."""
    old = json.loads(path.read_bytes())["results"] if path.exists() else {}
    results = {known: old.get(known, {}) for known in cheats.NAMES}
    results[name][level] = seen
    write_json(path, {"results": results})
    return results


def prepare_arenas(folder):
    """The small arena of the tests, and one with rows four times as long."""
    corpus = write_corpus(folder / "corpus.jsonl")
    shapes = {"tiny": 64, "wide": 256}
    return {
        name: prepare(name, source=str(corpus), context=context, vocab_size=512)
        for name, context in shapes.items()
    }


def main():
    parser = argparse.ArgumentParser(description="Try every known cheat at every isolation level.")
    parser.add_argument("names", nargs="*", help="cheats; default: all")
    parser.add_argument("--level", choices=sandbox.LEVELS, help="default: all that work here")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    path, unknown = HERE / "cheats.json", {*args.names} - {*cheats.NAMES}
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))} names no cheat: see tests/cheats/")
    levels = [level for level in sandbox.LEVELS if level == "none" or sandbox.level_works(level)]
    got_through = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["RATCHET_CACHE"] = cache
        arenas = prepare_arenas(Path(cache))
        for level in [args.level] if args.level else levels:
            honest = Yardstick(level, arenas["tiny"])
            for name in args.names or cheats.NAMES:
                seen = attempt(name, level, honest, arenas)
                print(f"{level}: {name}: {seen}", file=sys.stderr, flush=True)
                results = note(path, name, level, seen)
                got_through += [f"{name} ({level})"] * (seen["ended"] == GOT_THROUGH)
    print(json.dumps(results, indent=1) if args.json else both_tables(results))
    if got_through:
        print(f"got through: {', '.join(got_through)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
