"""The CUDA path on a null GPU: whole runs, what they launch, what they leave. Nothing is computed."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nullgpu
import pytest
import roofline
import torch
from conftest import ROOT, make_repository

import train
from ratchet.arena.files import write_json
from ratchet.arena.inspection import inspect_model
from ratchet.arena.results import IF_MEASURED, SUMMARY
from ratchet.experiments.ledger import Ledger
from ratchet.referee import sandbox

MAIN = 'if __name__ == "__main__":'
# what is added to a copy of train.py: a tiny model in any arena, not compiled, as that takes a
# minute of CPU; a mark in the log at each step
ADDED = """
import ctypes, os
PRESETS["large"] = PRESETS["small"] | dict(table_bits=10)
os.environ["TORCHDYNAMO_DISABLE"] = "1"
mark = ctypes.CDLL(os.environ["LD_PRELOAD"]).nullgpu_mark
unmarked_step = train_step


def train_step(run, model, optimizers, x, y):
    mark(f"step {run.steps}".encode() if run.seconds else b"rehearsal")
    return unmarked_step(run, model, optimizers, x, y)


"""
PROGRAMS = Path(__file__).resolve().parent / "programs"


def write_contestant(path, added=ADDED):
    """A copy of train.py with something added before it begins."""
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    path.write_text(source.replace(MAIN, added + MAIN), encoding="utf-8")
    return path


def run_program(machine, argv, log=None, folder=None, timeout=300, **variables):
    """Run Python on a machine of null GPUs to a good end; returns (what it printed, its errors)."""
    environment = nullgpu.environment(machine, log) | {"PYTHONPATH": str(ROOT)} | variables
    argv = [sys.executable, *map(str, argv)]
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=timeout
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def last_json(printed):
    """What the last line of a program's output says."""
    return json.loads(printed[0].splitlines()[-1])


@pytest.fixture(scope="session")
def four_cards(null_gpu, tmp_path_factory):
    """The folder of a machine with four null GPUs."""
    folder = tmp_path_factory.mktemp("four_cards")
    return nullgpu.make_machine(folder, [nullgpu.H100] * 4, built=null_gpu)


@pytest.fixture(scope="module")
def finished(four_cards, arena, cache, tmp_path_factory):
    """A run by hand on the last of four cards, scored: what it left, printed and noted.

    With torchrun, as a run of one process that doesn't share its work.
    """
    top = tmp_path_factory.mktemp("by_hand")
    contestant = write_contestant(top / "train.py")
    conditions = {"ARENA": "tiny", "CACHE": cache, "RUN": top / "run", "BUDGET": "4096tok"}
    conditions["DEVICE"] = "cuda:3"
    conditions = {f"RATCHET_{name}": str(value) for name, value in conditions.items()}
    argv = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", contestant]
    printed = "".join(run_program(four_cards, argv, log=top / "log", **conditions))
    logs = {path.stem: [*nullgpu.read_log(path)] for path in (top / "log").glob("*.log")}
    (training,) = [records for records in logs.values() if any(r.kind == "#" for r in records)]
    return SimpleNamespace(
        folder=top / "run", printed=printed, conditions=conditions, logs=logs, training=training
    )


# --------------------------------------------------------------------------------------------------
# A run by hand


def test_a_run_by_hand_comes_to_its_summary(finished):
    result = json.loads((finished.folder / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "ok" and result["steps"] == 8
    assert (result["device"], result["device_name"]) == ("cuda:3", nullgpu.H100.name)
    for key in {*SUMMARY} - {*IF_MEASURED}:
        assert f"\n{key}:" in finished.printed
    assert "arning" not in finished.printed and "[W" not in finished.printed  # nor PyTorch's own


def test_a_model_is_scored_with_the_attention_that_it_was_trained_with(finished):
    """FlashAttention: there is no cuDNN on a null GPU."""
    score_log = (finished.folder / "score.log").read_text(encoding="utf-8")
    for printed in (finished.printed, score_log):
        assert "attention to all tokens before: varlen_attention\n" in printed


def test_it_keeps_to_its_own_card(finished):
    logs = finished.logs.values()
    assert {record.card for log in logs for record in log if record.kind in "KTGM"} == {3}


def test_flops_are_those_that_a_cpu_counts(finished, arena):
    """Whatever kernels there are, fused or not: a budget of FLOPs is the same everywhere."""
    config = json.loads((finished.folder / "config.json").read_text(encoding="utf-8"))
    model, cpu = train.GPT(**config), torch.device("cpu")
    counts = inspect_model(model, arena.context, arena.vocab_size, cpu)
    result = json.loads((finished.folder / "result.json").read_text(encoding="utf-8"))
    for key in ("flops_per_token", "published_flops_per_token"):
        assert result[key] == counts[key]


def test_the_scorer_shares_its_memory_with_both_processes_of_the_model(finished):
    logs = finished.logs.values()
    shared = Counter(record.text for log in logs for record in log if record.kind == "I")
    assert shared["handle"] == shared["open"] in (2, 3)  # how many is drawn
    assert not [path for pid in finished.logs for path in Path("/dev/shm").glob(f"nullgpu-{pid}-*")]


def test_a_step_hardly_waits_for_the_card(finished):
    """But for the event that bounds the queue."""
    for step in range(4, 7):
        records = nullgpu.between(finished.training, f"step {step}", f"step {step + 1}")
        waits = [r.text for r in records if r.kind == "S" and r.text != "cudaEventSynchronize"]
        assert len(waits) <= 2, waits


def test_whole_windows_launch_a_causal_kernel(finished):
    """FlashAttention's template says: Is_dropout, Is_causal, Is_local; what is local is slower."""
    step = nullgpu.between(finished.training, "step 4", "step 5")
    names = [record.text for record in step if record.kind == "K"]
    for kernel in ("flash_fwd_kernel", "flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel"):
        flags = [re.search("EELb(.)ELb(.)ELb(.)E", name) for name in names if kernel in name]
        assert [flag.groups() for flag in flags] == [("0", "1", "0")] * 2  # layers


def test_nothing_is_left_on_the_card_while_it_is_scored(finished):
    """But two workspaces of cuBLAS, of 32 MiB each, and the block of 2 MiB with the last batch."""
    sizes = {"M": 1, "F": -1}
    left = sum(r.numbers[0] * sizes[r.kind] for r in finished.training if r.kind in sizes)
    assert left <= (2 * 32 + 2) << 20


@pytest.mark.slow  # it was scored by the same command
def test_a_finished_run_is_scored_again(finished, four_cards):
    argv = [ROOT / "prepare.py", "score", finished.folder]
    assert "val_bpb:" in run_program(four_cards, argv, **finished.conditions)[0]


@pytest.mark.parametrize("level", ["bubblewrap", pytest.param("landlock", marks=pytest.mark.slow)])
def test_a_refereed_run_is_scored_in_its_sandbox(level, four_cards, arena, cache, tmp_path):
    if not sandbox.level_works(level):
        pytest.skip(f"{level} doesn't work on this machine")
    contestant = write_contestant(tmp_path / "train.py")
    argv = [PROGRAMS / "referee.py", contestant, tmp_path, "cuda:3", "2048tok"]
    variables = {"RATCHET_CACHE": str(cache), "RATCHET_ISOLATION": level}
    record = last_json(run_program(four_cards, argv, **variables))
    assert (record["status"], record["isolation"], record["reason"]) == ("ok", level, "")
    assert (record["device"], record["on"], record["steps"]) == (nullgpu.H100.name, "cuda:3", 4)


def test_a_retry_with_fewer_rows_compiles_everything_anew(null_gpu, arena, cache):
    printed = run_program(null_gpu, [PROGRAMS / "retry.py"], RATCHET_CACHE=str(cache))
    assert last_json(printed) == [4, [8, 8, 4, 4]]
    assert "no memory for 8 rows at once" in printed[0]


def test_a_model_speaks_and_its_decoding_is_measured(finished, four_cards):
    argv = [PROGRAMS / "decode.py", finished.folder, "cuda:3"]
    figures = last_json(run_program(four_cards, argv, **finished.conditions))
    assert figures["cached"] and [point["rows"] for point in figures["points"]] == [1, 2]
    assert figures["limits"]["floor"] > 0  # of a captured graph


# --------------------------------------------------------------------------------------------------
# A night


@pytest.mark.slow
def test_a_night_keeps_each_run_on_its_card_and_goes_on_without_one_that_fails(
    null_gpu, arena, cache, tmp_path
):
    """The cards are numbered backwards, so that no number is right by chance."""
    (tmp_path / "machine").mkdir()
    machine = nullgpu.make_machine(tmp_path / "machine", [nullgpu.H100] * 4, built=null_gpu)
    make_repository(tmp_path / "home")
    shutil.copy(PROGRAMS / "contestant.py", tmp_path / "home/train.py")
    subprocess.run(["git", "commit", "-qam", "knobs"], cwd=tmp_path / "home", check=True)
    variables = {"RATCHET_CACHE": str(tmp_path), "CUDA_VISIBLE_DEVICES": "3,2,1,0"}
    (tmp_path / "tiny").symlink_to(arena.folder)

    def ratchet(*words):
        argv = [PROGRAMS / "night.py", *words, "--busy"]
        return run_program(machine, argv, folder=tmp_path / "home", **variables)[0]

    ratchet("calibrate", "--arena", "tiny", "--budget", "1000tok", "--seeds", "3")
    nullgpu.break_card(machine, 2)  # cuda:1
    devices = ",".join(f"cuda:{number}" for number in range(4))
    printed = ratchet("night", "--agent", "tuner", "--experiments", "8", "--devices", devices)
    assert "the limit of 8 experiments is reached" in printed
    events = [
        *map(json.loads, (tmp_path / "home/runs/night.jsonl").read_text("utf-8").splitlines())
    ]
    (lost,) = events[-1]["lost"]
    assert "on cuda:1 any more" in lost and "CUDA error 214" in lost
    runs = [run for e in Ledger(tmp_path / "home").experiments().values() for run in e.runs]
    crashed = {run["on"] for run in runs if run["status"] == "crash"}
    cards = {(run["on"], *run["tail"]) for run in runs if run["status"] == "ok"}
    assert crashed == {"cuda:1"} and {run["device"] for run in runs} == {nullgpu.H100.name}
    own = {(f"cuda:{number}", f"card 0000:1{3 - number}:00.0") for number in (0, 2, 3)}
    assert cards == own
    locks = {path.name.split("GPU-")[1][:2] for path in tmp_path.glob("**/.device-*GPU-*.lock")}
    assert locks == {"a1", "a2", "a3", "a4"}


# --------------------------------------------------------------------------------------------------
# The large preset


@pytest.mark.slow
def test_the_large_preset_fits_and_is_compiled_whole(null_gpu, tmp_path):
    """Notes what a step launches and moves in benchmarks/results/nullgpu.json."""
    run_program(null_gpu, [PROGRAMS / "large.py", ROOT / "train.py", tmp_path], timeout=3600)
    seen = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    assert seen["reserved_bytes"] < 72 << 30
    assert seen["frames"]["ok"] == seen["frames"]["total"] > 0 and seen["graph_breaks"] == {}
    step = Counter()
    for work in roofline.read_log((tmp_path / "log").read_text(encoding="utf-8")):
        step[f"launches of {work['kind']}"] += work["launches"]
        step[f"bytes of {work['kind']}"] += work["bytes"] if work["launches"] else 0
        step["waits"] += work["waits"]
    figures = {key: seen[key] for key in ("torch", "tokens", "reserved_bytes", "frames")}
    write_json(ROOT / "benchmarks/results/nullgpu.json", figures | {"step": dict(step)})


# --------------------------------------------------------------------------------------------------
# The machine


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
        assert run_program(machine, ["-c", program], **variables)[0].split() == buses, variables


def test_nvml_tells_of_the_cards(null_gpu, tmp_path):
    cards = [nullgpu.H100._replace(compute_mode=3, processes=[11, 12], throttling=0x40)] * 2
    machine = nullgpu.make_machine(tmp_path, cards, built=null_gpu)
    program = """
import json
import re
from ratchet.referee.devices import choice, nvidia
library, card = nvidia.open_gpu("cuda:1")
print(json.dumps([choice.list_devices(), choice.describe_device("cuda:1")["device"],
    nvidia.running_processes("cuda:1"), nvidia.throttle_cause("cuda:1"),
    library.nvmlDeviceGetComputeMode(card), nvidia.read_joules("cuda:1") > 0]))
"""
    names = ["cuda:0", "cuda:1", "cpu"]
    expected = [names, nullgpu.H100.name, [11, 12], "heat", 3, True]
    assert last_json(run_program(machine, ["-c", program])) == expected
