"""Runs train.py as it is with several seeds, one after the other, and writes what the runs differ by.

    uv run benchmarks/noise.py 3 [contestant.py]      conditions come by environment, as for train.py

Writes train-<arena>-<device>.json beside this file: every run's facts, mean and sigma of val_bpb.
On a GPU the same command checks the CUDA path: compiling, rehearsal, clock, score, probes, throughput.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FACTS = "seed val_bpb status budget steps tokens tokens_per_second mfu_percent peak_flops peak_of params"
FACTS += " lookup flops_per_token peak_memory_mb rehearsal_seconds train_seconds score_seconds total_seconds"
FACTS += " device_name torch arena seal probes"


def run_once(contestant, seed):
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"RATCHET_SEED": str(seed), "RATCHET_RUN": folder}
        environment["PYTHONPATH"] = str(HERE.parent)
        subprocess.run([sys.executable, contestant], env=environment, check=True)
        result = json.loads((Path(folder) / "result.json").read_text())
    return {key: result[key] for key in FACTS.split()}


def main():
    seeds, contestant = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else str(HERE.parent / "train.py")
    runs = []
    for seed in range(seeds):
        runs.append(run_once(contestant, seed))
        scores = [run["val_bpb"] for run in runs]
        summary = {"n": len(runs), "mean": statistics.mean(scores)}
        summary["sigma"] = statistics.stdev(scores) if len(scores) > 1 else None
        device = runs[0]["device_name"].split(":")[0].replace(" ", "-")
        path = HERE / f"{Path(contestant).stem}-{runs[0]['arena']}-{device}.json"
        path.write_text(json.dumps({"summary": summary, "runs": runs}, indent=1) + "\n")
        print(path, summary, flush=True)


if __name__ == "__main__":
    main()
