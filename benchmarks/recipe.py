"""Runs variants of a contestant in turns, seed by seed, and prints what each reaches against the
control.

A stage is a set of variants that share arena and budget: cpu.py and gpu.py list theirs. Results go
to one JSON file, run by run: a stage can be interrupted and goes on; a run whose source has changed
is done again.
"""

import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.table import Table

from ratchet.arena.files import write_json

FACTS = "val_bpb status reason steps tokens tokens_per_second mfu_percent peak_flops params lookup"
FACTS += (
    " flops_per_token peak_memory_mb rehearsal_seconds train_seconds score_seconds total_seconds"
)
FACTS += " device_name torch seal"
CONTROL = "plain"


def presets(**changes):
    """Code that changes all presets of train.py."""
    return f"PRESETS = {{name: preset | {changes!r} for name, preset in PRESETS.items()}}\n\n\n"


# code that leaves out of train.py what the published baseline has not: n-grams and copying
WITHOUT_TABLES = """
COPY = 0
NGrams.forward = lambda self, text: torch.zeros((), device=text.device)
RowAdam.step = lambda self: None


def find_followers(tokens, n, longest):
    return 2 * [tokens.new_zeros(len(tokens), n, 0)]


"""


class Variant(NamedTuple):
    """A contestant: a file of a tree, its knobs overridden by lines of code."""

    name: str
    file: str
    override: str = ""
    root: Path = ROOT

    def text(self):
        text, guard = (
            (self.root / self.file).read_text(encoding="utf-8"),
            'if __name__ == "__main__":',
        )
        return text.replace(guard, f"{self.override}\n{guard}") if self.override else text


class Stage(NamedTuple):
    """Variants to be compared; overhead: seconds of a run that are not its budget, about."""

    name: str
    arena: str
    budget: str
    seeds: int
    variants: tuple
    overhead: int = 90


def run_once(variant, stage, seed, device):
    """The facts of one run by hand, and the seconds until its first training step."""
    with tempfile.TemporaryDirectory() as folder:
        contestant, out = Path(folder) / "train.py", Path(folder) / "out"
        contestant.write_text(variant.text(), encoding="utf-8")
        told = {
            "ARENA": stage.arena,
            "SEED": seed,
            "BUDGET": stage.budget,
            "RUN": out,
            "DEVICE": device,
        }
        environment = os.environ | {f"RATCHET_{key}": str(value) for key, value in told.items()}
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, contestant],
            env=environment | {"PYTHONPATH": str(variant.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        seconds = time.monotonic() - begin
        if not (out / "result.json").exists():
            return {"status": "crash", "reason": done.stdout[-2000:]}
        result = json.loads((out / "result.json").read_bytes())
    facts = {key: result.get(key) for key in FACTS.split()}
    known = result["train_seconds"] + result["score_seconds"]
    return facts | {
        "seconds_before_training": result["total_seconds"] - known,
        "wall_seconds": seconds,
    }


def key_of(stage, variant, seed):
    files = [variant.root / "prepare.py", *sorted((variant.root / "ratchet/arena").rglob("*.py"))]
    contract = "".join(file.read_text(encoding="utf-8") for file in files)
    source = hashlib.sha256((variant.text() + contract).encode()).hexdigest()[:10]
    return f"{stage.name} {stage.arena} {stage.budget} {variant.name} {source} seed {seed}"


def measure(stages, path, device, minutes):
    """Do the runs that are missing, as far as the minutes reach. Returns True if nothing is
    missing.
    """
    stop = time.monotonic() + 60 * minutes
    for stage in stages:
        for seed in range(stage.seeds):
            for variant in stage.variants[:: 1 if seed % 2 == 0 else -1]:
                runs, key = load(path), key_of(stage, variant, seed)
                if runs.get(key, {}).get("status") == "ok":
                    continue
                if time.monotonic() + float(stage.budget[:-1]) + stage.overhead > stop:
                    return False
                runs[key] = facts = run_once(variant, stage, seed, device)
                write_json(path, runs)
                shown = {
                    k: facts.get(k) for k in ("status", "val_bpb", "tokens_per_second", "steps")
                }
                print(key, shown, flush=True)
    return True


def carry_out(stages, path, device, minutes):
    """Measure as far as the minutes reach, show what there is."""
    done = measure(stages, path, device, minutes)
    show(stages, path)
    print("all done" if done else "not all done: the same command goes on")


def results(name):
    """Path of a benchmark's results."""
    path = HERE / f"results/{name}.json"
    path.parent.mkdir(exist_ok=True)
    return path


def load(path):
    return json.loads(path.read_bytes()) if path.exists() else {}


def spread(values):
    """(mean, standard error of the mean)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.mean(values), error


def ratio(ours, control):
    """(ratio of the means, its standard error)."""
    (a, da), (b, db) = spread(ours), spread(control)
    return a / b, a / b * math.hypot(da / a, db / b)


def show(stages, path):
    """Print a table for each stage: means with standard errors, and ratios to the control."""
    runs, console = load(path), Console(highlight=False, width=110)
    for stage in stages:
        table = Table(title=f"{stage.name}: arena {stage.arena}, {stage.budget}")
        for column in "variant|n|tokens/s|x control|MFU %|val_bpb|sigma|x control|GB".split("|"):
            table.add_column(column, justify="left" if column == "variant" else "right")
        found = {}
        for variant in stage.variants:
            rows = [runs.get(key_of(stage, variant, seed)) for seed in range(stage.seeds)]
            found[variant.name] = [row for row in rows if row and row["status"] == "ok"]
        for name, rows in found.items():
            if rows:
                table.add_row(name, *cells(rows, found.get(CONTROL)))
        console.print(table)


def cells(rows, control):
    rates, scores = ([row[key] for row in rows] for key in ("tokens_per_second", "val_bpb"))
    ratios = ["", ""]
    if control and rows is not control:
        both = (rates, "tokens_per_second"), (scores, "val_bpb")
        ratios = [
            "{:.3f} ± {:.3f}".format(*ratio(ours, [row[key] for row in control]))
            for ours, key in both
        ]
    mean = lambda key: statistics.mean(row[key] for row in rows)  # noqa: E731
    sigma = f"{statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    return (
        str(len(rows)),
        f"{mean('tokens_per_second'):,.0f}",
        ratios[0],
        f"{mean('mfu_percent'):.1f}",
        f"{mean('val_bpb'):.4f}",
        sigma,
        ratios[1],
        f"{mean('peak_memory_mb') / 1024:.1f}",
    )
