"""Measures train.py against the plain control on this CPU: speed, quality, and what each step
brought.

    uv run prepare.py --text my_corpus/ --arena corpus --context 512 --vocab-size 4096
    uv run benchmarks/cpu.py [--arena corpus] [--minutes 600] [--stage speed|pocket|corpus|steps]

Quality takes 7 minutes a run. What is done is kept in results/cpu.json; the same command goes on.
"""

import argparse

from recipe import WITHOUT_TABLES, Stage, Variant, carry_out, presets, results

CONTROL_SIZES = dict(depth=4, heads=4, batch_size=32, windows=[2, 2, 2, 1], table_bits=0)
AS_CONTROL = presets(**CONTROL_SIZES) + WITHOUT_TABLES
PLAIN = Variant("plain", "benchmarks/plain.py")
DEFAULT = Variant("default", "train.py")


def stages(arena):
    code = Variant("our code, its architecture", "train.py", AS_CONTROL)
    trunk = Variant("our sizes", "train.py", presets(table_bits=0) + WITHOUT_TABLES)
    memory = Variant("copying and a memory", "examples/contestants/memory.py")
    return [
        Stage("speed", "pocket", "40s", 3, (PLAIN, code)),
        Stage("pocket", "pocket", "300s", 3, (PLAIN, DEFAULT)),
        Stage("corpus", arena, "300s", 3, (PLAIN, DEFAULT)),
        Stage("steps", "pocket", "60s", 3, (PLAIN, code, trunk, DEFAULT, memory)),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arena", default="corpus", help="an arena that is larger than one budget")
    parser.add_argument(
        "--minutes", type=float, default=600, help="no run begins that would take longer"
    )
    parser.add_argument(
        "--stage", choices=["speed", "pocket", "corpus", "steps"], help="this one alone"
    )
    args = parser.parse_args()
    wanted = [stage for stage in stages(args.arena) if args.stage in (None, stage.name)]
    carry_out(wanted, results("cpu"), "cpu", args.minutes)


if __name__ == "__main__":
    main()
