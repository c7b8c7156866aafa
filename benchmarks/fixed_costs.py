"""Measures what a run of the `large` preset costs besides its training, on the null GPU.

    uv run benchmarks/fixed_costs.py TEXT

The whole run is done by hand on a stand-in for a GPU (tests/nullgpu) that computes nothing: start,
rehearsal, one step, saving, loading, scoring. What is measured is CPU time of the host, of all
processes together, in seconds; torch.compile works in one process and its caches are empty. One cost
is modelled, as the stand-in reads no data: a driver copies weights from the file's pages to the GPU
by a pass over them. TEXT is a file or folder of some 20 MB. Results go to
results/fixed_costs.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from recipe import ROOT, results
from rich.console import Console
from rich.table import Table

sys.path.append(str(ROOT / "tests/nullgpu"))

import nullgpu

from ratchet.arena.files import write_json
from ratchet.arena.results import read_result, weight_bytes

BUDGETS = {"saving": 3.0, "loading": 5.0}  # seconds of CPU
MAIN = 'if __name__ == "__main__":'
# added to a copy of train.py: each phase writes a line when it ends
ADDED = """
import functools
import os
import ratchet.arena.model_process
import ratchet.arena.run


def note(phase, begin=0.0):
    seconds = sum(os.times()[:4]) - begin
    with open(os.environ["RATCHET_RUN"] + ".costs", "a") as file:
        file.write(json.dumps([phase, seconds]) + "\\n")


def noted(phase, owner, name):
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapper(*args, **options):
        begin = sum(os.times()[:4])
        result = function(*args, **options)
        note(phase, begin)
        return result

    setattr(owner, name, wrapper)


if __name__ == "__main__":
    note("imports")
    noted("arena and folder", prepare, "enter")
    noted("saving rehearsed", ratchet.arena.run, "rehearse_saving")
    noted("saving", ratchet.arena.run, "save_weights")
    noted("counting FLOPs", ratchet.arena.run, "inspect_model")
    noted("rehearsal", ratchet.arena.run.Run, "rehearse")
    noted("scoring", ratchet.arena.run.Run, "_have_scored")
    start_clock = ratchet.arena.run.Run._start_clock
    ratchet.arena.run.Run._start_clock = lambda run: note("until the clock") or start_clock(run)
else:
    load_here = load

    def load(folder):
        begin = sum(os.times()[:4])
        model = load_here(folder).to("cuda")
        note("loading", begin)
        return model


"""


def cpu_seconds():
    """Of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run_once(folder, text):
    """Do the whole run in a folder; returns {phase: seconds of each time}."""
    machine = nullgpu.environment(nullgpu.build(folder))
    run = folder / "run"
    conditions = {"ARENA": "costs", "CACHE": folder / "cache", "RUN": run, "BUDGET": "1tok"}
    environment = machine | {f"RATCHET_{name}": str(value) for name, value in conditions.items()}
    environment |= {"PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    environment["TRITON_CACHE_DIR"] = str(folder / "triton")
    sizes = ["--context", "2048", "--vocab-size", "8192"]
    argv = [sys.executable, ROOT / "prepare.py", "--arena", "costs", "--text", text, *sizes]
    subprocess.run(argv, env=environment, check=True)
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    (folder / "train.py").write_text(source.replace(MAIN, "import sys\n" + ADDED + MAIN), "utf-8")
    subprocess.run([sys.executable, folder / "train.py"], env=environment, check=True)
    phases = {}
    for line in Path(f"{run}.costs").read_text(encoding="utf-8").splitlines():
        phase, seconds = json.loads(line)
        phases.setdefault(phase, []).append(seconds)
    return phases


def copy_cost(path, piece=2**26):
    """Seconds of CPU to read a file from the page cache through a buffer, as a driver does."""
    source, buffer = np.memmap(path, np.uint8, "r"), np.ones(piece, np.uint8)
    begin = cpu_seconds()
    for start in range(0, len(source), piece):
        part = source[start : start + piece]
        buffer[: len(part)] = part
    return cpu_seconds() - begin


def summarize(phases, folder):
    """The facts of a run, from its phases and its files."""
    result, size = read_result(folder / "run"), weight_bytes(folder / "run")
    saving, loading = phases["saving"][-1], sum(phases["loading"])
    copies_on = len(phases["loading"]) * copy_cost(folder / "run/model.safetensors")
    start = phases["imports"][0] + phases["arena and folder"][0]
    return {
        "machine": f"{os.cpu_count()} cores, {result['torch']}",
        "device": "null GPU: nothing is computed, seconds are CPU time of the host",
        "weights_gb": size / 1e9,
        "flops_per_token": result["flops_per_token"],
        "published_flops_per_token": result["published_flops_per_token"],
        "cpu_seconds": {
            "from the start to the first step": phases["until the clock"][0],
            "of it imports, arena": start,
            "of it the rehearsal, compiling included": phases["rehearsal"][0],
            "of that counting FLOPs": phases["counting FLOPs"][0],
            "of that saving, twice": phases["saving rehearsed"][0],
            "saving": saving,
            "loading, both processes": loading,
            "loading: copies onto the GPU, modelled": copies_on,
            "scoring in all, three processes": phases["scoring"][0],
        },
        "budgeted": {
            "saving": saving,
            "loading": loading + copies_on,
        },
        "rows_scored": json.loads((folder / "cache/costs/arena.json").read_bytes())["val_rows"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", help="a file or folder of text")
    args = parser.parse_args()
    if reason := nullgpu.reason_not_to_build():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        facts = summarize(run_once(folder, args.text), folder)
    write_json(results("fixed_costs"), facts)
    table = Table(title="CPU seconds of the host, on the null GPU")
    table.add_column("what")
    table.add_column("seconds", justify="right")
    for name, seconds in facts["cpu_seconds"].items():
        table.add_row(name, f"{seconds:.2f}")
    for name, seconds in facts["budgeted"].items():
        table.add_row(f"{name} in all, {BUDGETS[name]:g} at most", f"{seconds:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
