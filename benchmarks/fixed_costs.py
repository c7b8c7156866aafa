"""Measures what a run costs besides its training: on pocket by the clock, on a GPU by the host's CPU.

    uv run benchmarks/fixed_costs.py [--runs 5] [--name after]
    uv run benchmarks/fixed_costs.py TEXT

Without TEXT: train.py as it is, in pocket, on the CPU, under the referee, for 5 s. The
referee's own clock tells how long each phase took and, for root, a control group of Linux how much
CPU time, which other programs hardly change. The first run, which finds nothing warm, is not
counted. Another checkout is measured by its own copy of this file, under another name.

With TEXT, a file or folder of some 20 MB: the `large` preset. The whole run is done by hand on a
stand-in for a GPU (tests/nullgpu) that computes nothing: start, rehearsal, one step, saving,
loading, scoring. What is measured is CPU time of the host, of all processes together, in seconds;
torch.compile works in one process and its caches are empty. One cost is modelled, as the stand-in
reads no data: a driver copies weights from the file's pages to the GPU by a pass over them.

Results go to results/fixed_costs.json: "pocket" by name, and "large".
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import numpy as np
import torch
from recipe import ROOT, load, results
from rich.console import Console
from rich.table import Table

sys.path.append(str(ROOT / "tests/nullgpu"))

import nullgpu

import prepare
from ratchet.arena.files import write_json
from ratchet.arena.results import read_result, weight_bytes
from ratchet.referee import limits, trial
from ratchet.referee.job import Job
from ratchet.referee.source import Source

BUDGET = "5s"  # that nothing is compiled for
LATE_SECONDS = 60  # that a busy machine may be late
TARGETS = {"start": 4.0, "score": 14.0}  # seconds on two cores, in pocket
PHASES = "start", "rehearsal", "score", "end"  # all but the training
SHARES_OF = 20, 300  # seconds of training, of whose runs the shares are told
BUSY_LOAD = 0.5  # of other programs, from which on CPU time alone tells something
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


# --------------------------------------------------------------------------------------------------
# Pocket


class MeteredClock(trial.Clock):
    """A referee's clock that counts CPU seconds of this process and its descendants, too."""

    def __init__(self, group):
        super().__init__()
        self.group, self.cpu_seconds = group, {}
        self.used = self.read_usage()

    def read_usage(self):
        """CPU seconds of the group so far."""
        lines = (self.group / "cpu.stat").read_text("ascii").splitlines() if self.group else []
        return dict(line.split() for line in lines).get("usage_usec", 0)

    def enter_phase(self, phase, now=None):
        used = self.read_usage()
        self.cpu_seconds[self.phase] = (int(used) - int(self.used)) / 1e6
        self.used = used
        super().enter_phase(phase, now)


@contextmanager
def control_group():
    """The folder of a control group with this process in it; None where that can't be had."""
    mounts = Path("/proc/mounts")
    lines = mounts.read_text("utf-8").splitlines() if mounts.exists() else []
    tops = [Path(line.split()[1]) for line in lines if line.split()[2] == "cgroup2"]
    if not tops or not os.access(tops[0], os.W_OK):
        yield None
        return
    group = tops[0] / f"fixed-costs-{os.getpid()}"
    group.mkdir()
    (group / "cgroup.procs").write_text("0")
    try:
        yield group
    finally:
        (tops[0] / "cgroup.procs").write_text("0")
        with suppress(OSError):  # what was killed last may be in it yet
            group.rmdir()


def time_runs(runs):
    """Clocks of so many runs in pocket under the referee, after one that warms up; their isolation."""
    source = Source("train.py", "", (ROOT / "train.py").read_bytes())
    arena, clocks, limits.LATE_SECONDS = prepare.prepare("pocket"), [], LATE_SECONDS
    with control_group() as group:
        trial.Clock = lambda: clocks.append(MeteredClock(group)) or clocks[-1]
        for seed in range(runs + 1):
            with tempfile.TemporaryDirectory() as temporary:
                target, compiled = Path(temporary, "run"), Path(temporary, "compiled")
                record = trial.run_trial(Job(source, seed, BUDGET, arena, target, compiled))
            if record["status"] != "ok":
                sys.exit(f"a run failed: {record['reason']}")
            clocks[-1].enter_phase("over")
    return clocks[1:], record["isolation"]


def measure_pocket(runs):
    """The facts of pocket: medians of the phases by the clock and in CPU time, shares of a run."""
    load_before = os.getloadavg()[0]
    clocks, isolation = time_runs(runs)
    seconds = {phase: median(clock.seconds[phase] for clock in clocks) for phase in PHASES}
    cpu_seconds = {phase: median(clock.cpu_seconds[phase] for clock in clocks) for phase in PHASES}
    fixed, busy = sum(seconds.values()), load_before > BUSY_LOAD
    return {
        "machine": f"{len(os.sched_getaffinity(0))} cores, {torch.__version__}",
        "isolation": isolation,
        "runs": runs,
        "load_before": load_before,
        "busy": busy,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,  # 0 where they are not known
        "share_of_a_run": {f"{b}s": None if busy else fixed / (fixed + b) for b in SHARES_OF},
    }


def show_pocket(measured):
    """Print what was measured by name, side by side."""
    table = Table("phase", title="Seconds of a run on pocket besides its training")
    for name, facts in measured.items():
        table.add_column(name + ", busy" * facts["busy"], justify="right")
    for phase in PHASES:
        target = f", {TARGETS[phase]:g} at most" if phase in TARGETS else ""
        for key, label in {"seconds": phase + target, "cpu_seconds": f"{phase}, CPU time"}.items():
            table.add_row(label, *[f"{facts[key][phase]:.1f}" for facts in measured.values()])
    for budget in SHARES_OF:
        shares = [facts["share_of_a_run"][f"{budget}s"] for facts in measured.values()]
        cells = ["" if share is None else f"{share:.1%}" for share in shares]
        table.add_row(f"share of a run of {budget} s", *cells)
    Console().print(table)


# --------------------------------------------------------------------------------------------------
# The large preset


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


def measure_large(text):
    """The facts of the large preset, printed."""
    if reason := nullgpu.reason_not_to_build():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        facts = summarize(run_once(folder, text), folder)
    table = Table(title="CPU seconds of the host, on the null GPU")
    table.add_column("what")
    table.add_column("seconds", justify="right")
    for name, seconds in facts["cpu_seconds"].items():
        table.add_row(name, f"{seconds:.2f}")
    for name, seconds in facts["budgeted"].items():
        table.add_row(f"{name} in all, {BUDGETS[name]:g} at most", f"{seconds:.2f}")
    Console().print(table)
    return facts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", help="a file or folder of text, for the large preset")
    parser.add_argument("--runs", type=int, default=5, help="that are counted, in pocket")
    parser.add_argument("--name", default="after", help="of what is measured in pocket")
    args = parser.parse_args()
    path = results("fixed_costs")
    kept = load(path)
    if args.text:
        kept["large"] = measure_large(args.text)
    else:
        kept.setdefault("pocket", {})[args.name] = measure_pocket(args.runs)
        show_pocket(kept["pocket"])
    write_json(path, kept)


if __name__ == "__main__":
    main()
