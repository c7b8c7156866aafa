"""benchmarks/gpu.py from its first stage to its last, on a null GPU with a tiny model."""

import json
import subprocess
import sys

import nullgpu
import pytest
from conftest import ROOT

from ratchet.referee import sandbox


def run_benchmark(machine, *options, **variables):
    program = ROOT / "tests/nullgpu/programs/gpu_benchmark.py"
    argv = [sys.executable, program, *map(str, options)]
    environment = nullgpu.environment(machine) | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(argv, env=environment, capture_output=True, encoding="utf-8")


@pytest.mark.slow
def test_the_whole_flow(null_gpu, arena, cache, tmp_path):
    path = tmp_path / "gpu.json"
    # compiled or not is no difference to the flow, and takes minutes
    variables = {"RATCHET_CACHE": str(cache), "TORCHDYNAMO_DISABLE": "1"}
    options = arena.corpus, "--rehearse", "--minutes", 60, "--results", path
    done = run_benchmark(null_gpu, *options, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all done\n"), done.stdout
    kept = json.loads(path.read_text(encoding="utf-8"))
    stages = [key.split(" gpu-rehearsal")[0] for key in kept]
    levels = [f"referee {level}" for level in sandbox.LEVELS]
    assert stages == ["hand", "doctor", *levels, "pieces", "minute", "minute", "full", "full"]
    by_name = dict(zip(stages, kept.values()))
    assert {run["status"] for run in kept.values() if "val_bpb" in run} == {"ok"}
    for level in filter(sandbox.level_works, sandbox.LEVELS[:2]):
        assert by_name[f"referee {level}"]["status"] == "ok", by_name
        assert by_name[f"referee {level}"]["isolation"] == level
    assert {finding[0] for finding in map(list, map(dict.values, by_name["doctor"]))} >= {"device"}
    not_everywhere = "cudnn", "flash4"  # not on a null GPU, or an optional package
    for name, piece in by_name["pieces"].items():
        assert name.startswith(not_everywhere) or isinstance(piece["ms"], float), by_name
    assert run_benchmark(null_gpu, *options, **variables).stdout.endswith("all done\n")
    assert json.loads(path.read_text(encoding="utf-8")) == kept, "what is done is kept"
