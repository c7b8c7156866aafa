"""The CUDA path on a null GPU: whole runs, what they launch, what they leave. Nothing is computed."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nullgpu
import pytest
from conftest import ROOT

from ratchet.arena.results import SUMMARY

MAIN = 'if __name__ == "__main__":'
# what is added to a copy of train.py: a tiny model in any arena, a mark in the log at each step
ADDED = """
import ctypes, os
PRESETS["large"] = PRESETS["small"] | dict(table_bits=10)
mark = ctypes.CDLL(os.environ["LD_PRELOAD"]).nullgpu_mark
unmarked_step = train_step


def train_step(run, model, optimizers, x, y):
    mark(f"step {run.steps}".encode() if run.seconds else b"rehearsal")
    return unmarked_step(run, model, optimizers, x, y)


"""


def write_contestant(path, added=ADDED):
    """A copy of train.py with something added before it begins."""
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    path.write_text(source.replace(MAIN, added + MAIN), encoding="utf-8")
    return path


def run_program(machine, argv, log=None, **variables):
    """Run a Python program on a machine of null GPUs, to its good end; returns what it printed."""
    environment = nullgpu.environment(machine, log) | {"PYTHONPATH": str(ROOT)} | variables
    argv = [sys.executable, *map(str, argv)]
    done = subprocess.run(argv, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(null_gpu, arena, cache, tmp_path_factory):
    """A run by hand that was scored: its folder, what it printed, the records of its process."""
    top = tmp_path_factory.mktemp("by_hand")
    contestant = write_contestant(top / "train.py")
    conditions = {"ARENA": "tiny", "CACHE": cache, "RUN": top / "run", "BUDGET": "4096tok"}
    conditions = {f"RATCHET_{name}": str(value) for name, value in conditions.items()}
    # to compile takes a minute of CPU; it is tried with the large preset
    conditions |= {"TORCHDYNAMO_DISABLE": "1"}
    printed = run_program(null_gpu, [contestant], log=top / "log", **conditions)
    logs = {int(path.stem): [*nullgpu.read_log(path)] for path in (top / "log").glob("*.log")}
    (training,) = [records for records in logs.values() if any(r.kind == "#" for r in records)]
    return SimpleNamespace(
        folder=top / "run", printed=printed, conditions=conditions, logs=logs, training=training
    )


def test_a_run_by_hand_comes_to_its_summary(finished):
    result = json.loads((finished.folder / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "ok" and result["steps"] == 8
    assert (result["device"], result["device_name"]) == ("cuda:0", nullgpu.H100.name)
    for key in SUMMARY:
        assert f"\n{key}:" in finished.printed
    assert "slower" not in finished.printed  # FlashAttention was taken


def test_the_scorer_shares_its_memory_with_both_processes_of_the_model(finished):
    offers = Counter(r.text for log in finished.logs.values() for r in log if r.kind == "I")
    assert offers == {"handle": 2, "open": 2}
    assert not [*Path("/dev/shm").glob("nullgpu-*")]


def test_a_finished_run_is_scored_again(finished, null_gpu):
    argv = [ROOT / "prepare.py", "score", finished.folder]
    assert "val_bpb:" in run_program(null_gpu, argv, **finished.conditions)


def test_a_card_of_four_that_is_broken_answers_with_an_error(null_gpu, tmp_path):
    machine = nullgpu.make_machine(tmp_path, [nullgpu.H100] * 4, built=null_gpu)
    nullgpu.break_card(machine, 2)
    program = """
import torch
for number in range(torch.cuda.device_count()):
    try:
        print(number, torch.zeros(1, device=f"cuda:{number}").device)
    except Exception as error:
        print(number, error)
"""
    lines = run_program(machine, ["-c", program]).splitlines()
    good = ["0 cuda:0", "1 cuda:1", "2 CUDA error: uncorrectable ECC error encountered", "3 cuda:3"]
    assert [line for line in lines if line[:1].isdigit()] == good


def test_visible_devices_are_chosen_by_number_order_and_id(null_gpu, tmp_path):
    cards = [nullgpu.RTX_4090, nullgpu.H100]  # on the buses 10 and 11
    machine = nullgpu.make_machine(tmp_path, cards, built=null_gpu)
    program = """
import ctypes, os
library, count, bus = ctypes.CDLL(os.environ["LD_PRELOAD"]), ctypes.c_int(), ctypes.create_string_buffer(16)
library.cudaGetDeviceCount(ctypes.byref(count))
for number in range(count.value):
    library.cudaDeviceGetPCIBusId(bus, 16, number)
    print(bus.value[5:7].decode())
"""
    for variables, buses in (
        ({}, ["11", "10"]),  # the fastest first
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ["10", "11"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a1"}, ["10"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["10"]),
        ({"CUDA_VISIBLE_DEVICES": "0,7,1"}, ["11"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
    ):
        assert run_program(machine, ["-c", program], **variables).split() == buses, variables


def test_nvml_tells_of_the_cards(null_gpu, tmp_path):
    cards = [nullgpu.H100._replace(compute_mode=3, processes=[11, 12], throttling=0x40)] * 2
    machine = nullgpu.make_machine(tmp_path, cards, built=null_gpu)
    program = """
import json
from ratchet.referee.devices import choice, nvidia
library, card = nvidia.open_gpu("cuda:1")
print(json.dumps([choice.list_devices(), choice.describe_device("cuda:1")["device"],
    nvidia.running_processes("cuda:1"), nvidia.throttle_cause("cuda:1"),
    library.nvmlDeviceGetComputeMode(card), nvidia.read_joules("cuda:1") > 0]))
"""
    names = ["cuda:0", "cuda:1", "cpu"]
    expected = [names, nullgpu.H100.name, [11, 12], "heat", 3, True]
    assert json.loads(run_program(machine, ["-c", program])) == expected
