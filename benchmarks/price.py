"""Measures what a new train.py costs: val_bpb of two trees, seed by seed, in turns.

    uv run benchmarks/price.py OLD NEW                              60 s on pocket, 3 seeds
    uv run benchmarks/price.py OLD NEW --arena corpus --budget 300s --seeds 3

OLD and NEW are folders with train.py and all that it imports, two worktrees say. What is done is
kept in results/price.json beside this file: the same command goes on, and a changed source is run
again.
"""

import argparse
import json
from pathlib import Path

from recipe import CONTROL, Stage, Variant, key_of, load, measure, ratio, results, show, spread


def stage_of(args):
    """The two trees as variants; the old one is the control."""
    arms = [
        Variant(name, "train.py", root=Path(folder).resolve())
        for name, folder in ((CONTROL, args.old), ("new", args.new))
    ]
    return Stage("price", args.arena, args.budget, args.seeds, tuple(arms))


def summary(stage, path):
    """{"old", "new": [mean, standard error], "ratio": [new / old, its standard error]} of val_bpb."""
    runs, scores = load(path), {}
    for variant in stage.variants:
        rows = [runs.get(key_of(stage, variant, seed), {}) for seed in range(stage.seeds)]
        scores[variant.name] = [row["val_bpb"] for row in rows if row.get("status") == "ok"]
    old, new = scores[CONTROL], scores["new"]
    if min(len(old), len(new)) < 2:
        return None
    return {"old": spread(old), "new": spread(new), "ratio": ratio(new, old)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", help="folder of the old tree")
    parser.add_argument("new", help="folder of the new tree")
    parser.add_argument("--arena", default="pocket")
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--minutes", type=float, default=600, help="no run begins that would take longer"
    )
    args = parser.parse_args()
    stage, path = stage_of(args), results("price")
    done = measure([stage], path, args.device, args.minutes)
    show([stage], path)
    print(json.dumps(summary(stage, path)))
    print("all done" if done else "not all done: the same command goes on")


if __name__ == "__main__":
    main()
