"""Measures train.py against the plain control on this CPU: speed on the control's architecture, then quality.

    uv run prepare.py --text my_corpus/ --arena corpus --context 512 --vocab-size 4096
    uv run benchmarks/cpu.py [--arena corpus] [--minutes 600] [--stage speed|pocket|corpus]

Quality takes 7 minutes a run. What is done is kept in cpu.json beside this file; the same command goes on.
"""

import argparse

from recipe import HERE, Stage, Variant, measure, show

AS_CONTROL = 'PRESETS = dict.fromkeys(PRESETS, dict(depth=4, rows=32, windows="HHHL", tables=()))'
PLAIN = Variant("plain", "benchmarks/plain.py")
DEFAULT = Variant("default", "train.py")


def stages(arena):
    code = Variant("our code, its architecture", "train.py", AS_CONTROL)
    return [
        Stage("speed", "pocket", "40s", 3, (PLAIN, code)),
        Stage("pocket", "pocket", "300s", 3, (PLAIN, DEFAULT)),
        Stage("corpus", arena, "300s", 3, (PLAIN, DEFAULT)),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arena", default="corpus", help="an arena that is larger than one budget")
    parser.add_argument("--minutes", type=float, default=600, help="no run begins that would take longer")
    parser.add_argument("--stage", choices=["speed", "pocket", "corpus"], help="this one alone")
    args = parser.parse_args()
    wanted = [stage for stage in stages(args.arena) if args.stage in (None, stage.name)]
    path = HERE / "results/cpu.json"
    path.parent.mkdir(exist_ok=True)
    done = measure(wanted, path, "cpu", args.minutes)
    show(wanted, path)
    print("all done" if done else "not all done: the same command goes on")


if __name__ == "__main__":
    main()
