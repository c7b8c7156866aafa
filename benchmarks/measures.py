"""Measures the noise of each measure: train.py as it is, trained again and again on pocket.

    uv run benchmarks/measures.py [--runs 10] [--budget 20s] [--minutes 9.5] [--json]

On the CPU, under the referee, each run with another seed. A run comes first whose compiler finds an
empty cache: it is shown apart, as cold. At the end the weights of the last run decode as often
again, which tells the clock's noise from that of seeds. Results go to results/measures.json run by
run: Ctrl-C loses at most one, the same command goes on. Other programs on the machine make noise of
their own: a load of 0.5 or more is told.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from recipe import HERE, ROOT, results
from rich.console import Console
from rich.table import Table

import prepare
from ratchet.arena.decoding import KeptLogits, measure_decoding
from ratchet.arena.definition import load_arena
from ratchet.arena.files import write_json
from ratchet.arena.model_process.page_cache import SharedFiles
from ratchet.arena.model_process.rooms import list_path
from ratchet.arena.score import read_rows
from ratchet.experiments.ledger import bpb
from ratchet.referee import sandbox, trial
from ratchet.referee.devices.choice import describe_device
from ratchet.referee.environment import scorer_environment
from ratchet.referee.job import Job
from ratchet.referee.measures import MEASURES, read_measures
from ratchet.referee.scoring import make_rooms
from ratchet.referee.source import Source, fingerprint

BUSY_LOAD = 0.5
# so wide that every run meets them: what is limited is measured
LIMITS = {"packed_mb": 1e9, "memory_gb": 1e9, "user_tps": 1e-9}
DECODING_SECONDS = 15  # of a repeat, about
CPU = torch.device("cpu")


def train_once(source, budget, seed, folder):
    """The measures of a run, as {name: value}, with its score; exits when it fails."""
    arena, target = prepare.prepare("pocket"), folder / f"run-{seed}"
    job = Job(source, seed, budget, arena, target, folder / "compiled", limits=LIMITS)
    begin, record = time.monotonic(), trial.run_trial(job)
    if record["status"] != "ok":
        sys.exit(f"run {seed} ended as {record['status']}: {record['reason']}")
    facts = {"val_bpb": bpb(record)} | read_measures(record)
    return facts | {"wall_seconds": time.monotonic() - begin}, target


def decode_once(model, folder):
    """{"user_tps", "batch_tps"} of a model that is done, by the clock that a score has."""
    rooms, environment = folder / "rooms", scorer_environment(folder)
    (folder / "tmp").mkdir(exist_ok=True)
    make_rooms("cpu", folder, sandbox.best_level())
    write_json(list_path(rooms), SharedFiles()._asdict())
    argv = [sys.executable, str(Path(__file__)), "--decode", str(model)]
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"decoding failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def decode_here(model):
    """Print what decode_once() returns: this process has the clock and no model."""
    arena = load_arena(
        Path(json.loads((model / "run.json").read_bytes())["arena_folder"]), "val.rows"
    )
    rows, generator = read_rows(arena, "val")[:, :-1], np.random.default_rng()
    print(json.dumps(measure_decoding(model, arena, CPU, rows, generator, KeptLogits())))


# --------------------------------------------------------------------------------------------------
# Many times


def conditions(budget):
    """What makes results comparable: others are measured anew."""
    text = (ROOT / "train.py").read_bytes()
    device = describe_device("cpu")["device"]
    return {"source": fingerprint(text)["source"], "budget": budget, "device": device} | {
        "torch": torch.__version__,
        "isolation": sandbox.best_level(),
    }


def measure(path, args):
    """Do what is missing of the runs, as far as the minutes reach; returns all results so far."""
    known, stop = conditions(args.budget), time.monotonic() + 60 * args.minutes
    facts = json.loads(path.read_bytes()) if path.exists() else {}
    if facts.get("conditions") != known:
        facts = {"conditions": known, "load_before": os.getloadavg()[0], "cold": [], "runs": []}
        facts["decoding"] = []
    source = Source("train.py", "", (ROOT / "train.py").read_bytes())
    with tempfile.TemporaryDirectory() as name:
        folder, is_cold, target, longest = Path(name), True, None, 0.0
        while len(facts["runs"]) < args.runs and time.monotonic() + longest < stop:
            number = len(facts["cold"]) + len(facts["runs"]) + 1
            run, target = train_once(source, args.budget, number, folder)
            facts["cold" if is_cold else "runs"].append(run)
            is_cold, longest = False, max(longest, run["wall_seconds"])
            write_json(path, facts)
            say(f"run {number}, {len(facts['runs'])} of {args.runs} that count: {brief(run)}")
        while target and len(facts["decoding"]) < args.runs:
            if time.monotonic() + DECODING_SECONDS > stop:
                break
            facts["decoding"].append(decode_once(target, folder))
            write_json(path, facts)
            say(f"decoding {len(facts['decoding'])} of {args.runs}: {brief(facts['decoding'][-1])}")
    return facts


def say(sentence):
    print(sentence, file=sys.stderr, flush=True)


def brief(run):
    """Example: "val_bpb 1.21, user_tps 512"."""
    names = "val_bpb", "memory_gb", "user_tps", "batch_tps", "wall_seconds"
    return ", ".join(f"{name} {run[name]:.4g}" for name in names if name in run)


def noise(values):
    """{"n", "mean", "sd", "relative"} of some values, at least two."""
    spread = stdev(values)
    return {"n": len(values), "mean": mean(values), "sd": spread, "relative": spread / mean(values)}


def summarize(facts):
    """{measure: noise() with its first value when cold} of runs; those of decoding end in "again"."""
    rows = {}
    for suffix, runs in {"": facts["runs"], " again": facts["decoding"]}.items():
        for name in ["val_bpb", *MEASURES]:
            values = [run[name] for run in runs if name in run]
            if len(values) > 1:
                rows[name + suffix] = noise(values)
                if not suffix and facts["cold"]:
                    rows[name]["cold"] = mean(run[name] for run in facts["cold"])
    return rows


def show(facts):
    """The table: noise of each measure, the cold run beside it."""
    table = Table("measure", "unit", title=f"Noise on pocket, {facts['conditions']['budget']}")
    for column in "repeats", "mean", "sd", "relative", "cold":
        table.add_column(column, justify="right")
    for name, row in summarize(facts).items():
        measure = MEASURES.get(name.removesuffix(" again"))
        cells = [str(row["n"]), f"{row['mean']:.5g}", f"{row['sd']:.2g}", f"{row['relative']:.2%}"]
        cold = f"{row['cold']:.5g}" if "cold" in row else ""
        table.add_row(name, measure.unit if measure else "bits/byte", *cells, cold)
    Console().print(table)
    if facts["load_before"] >= BUSY_LOAD:
        print(f"other programs were at work: a load of {facts['load_before']:.1f} before")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10, help="that count, beside the cold one")
    parser.add_argument("--budget", default="20s")
    parser.add_argument(
        "--minutes", type=float, default=9.5, help="no run begins that takes longer"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--decode", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.decode:
        return decode_here(args.decode)
    path = results("measures")
    try:
        facts = measure(path, args)
    except KeyboardInterrupt:
        say(
            f"\nstopped: {path.relative_to(HERE.parent)} has what is done; the same command goes on"
        )
        sys.exit(130)
    print(json.dumps(summarize(facts), indent=1)) if args.json else show(facts)
    if min(len(facts["runs"]), len(facts["decoding"])) < args.runs:
        say("not all is done: the same command goes on")


if __name__ == "__main__":
    main()
