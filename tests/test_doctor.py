"""The doctor says what is wrong with a machine, and what to do about it."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nullgpu
import psutil
import pynvml
import pytest
import torch
from conftest import ROOT
from fake_nvml import GIB, Card, gpus_fixture, whole  # noqa: F401

import train
from ratchet.doctor import device, gpu, isolation, machine, sharing
from ratchet.doctor.examination import examine_machine
from ratchet.doctor.findings import Finding
from ratchet.referee import sandbox
from ratchet.referee.devices import nvidia

NODES = "nvidiactl", "nvidia-uvm", "nvidia0"
BUSY, FULL = SimpleNamespace(gpu=98), SimpleNamespace(total=80 * GIB, free=50 * GIB)


@pytest.fixture(autouse=True)
def dev(monkeypatch, tmp_path):
    """/dev of a machine with an H100; no card is plugged in, no program runs."""
    monkeypatch.setattr(nvidia, "PCI", tmp_path / "pci")
    monkeypatch.setattr(nvidia, "WSL_NODE", tmp_path / "dev/dxg")
    monkeypatch.setattr(isolation, "WSL_NODE", tmp_path / "dev/dxg")
    monkeypatch.setattr(gpu, "DEV", tmp_path / "dev")
    monkeypatch.setattr(psutil, "process_iter", lambda names: [])
    (tmp_path / "dev").mkdir()
    for name in NODES:
        (tmp_path / "dev" / name).touch()
    return tmp_path / "dev"


def seen_of_gpu():
    """{name: what check_gpu() finds of cuda:0}."""
    return {finding.name: finding for finding in gpu.check_gpu("cuda:0")}


def test_a_good_gpu_has_nothing_wrong(gpus):
    gpus(whole(Index=3))
    findings = seen_of_gpu()
    assert [finding for finding in findings.values() if not finding.well] == []
    assert findings["card"].seen == "GPU 3 of nvidia-smi, at 00000000:1B:00.0"
    assert findings["GPU memory"].seen == "79 of 80 GiB free"
    assert findings["energy"].seen == "counted by the driver"


@pytest.mark.parametrize(
    "name, answers, seen, advice",
    [
        ("compute mode", dict(ComputeMode=3), "exclusive process", "nvidia-smi -i 0 -c DEFAULT"),
        ("compute mode", dict(ComputeMode=2), "prohibited", "nvidia-smi -i 0 -c DEFAULT"),
        (
            "power",
            dict(PowerManagementLimit=350_000),
            "350 W, not 700 W",
            "nvidia-smi -i 0 -pl 700",
        ),
        ("GPU errors", dict(TotalEccErrors=2), "2 uncorrected errors", "restart the machine"),
        ("GPU errors", dict(RemappedRows=(0, 1, 1, 1)), "rows wait .*, no spare row", "replaced"),
        ("persistence", dict(PersistenceMode=0), "off", "nvidia-smi -i 0 -pm 1"),
        ("other programs", dict(ComputeRunningProcesses=[7, 8]), "2, it is 0% busy", "--busy"),
        ("other programs", dict(UtilizationRates=BUSY), "none, it is 98% busy", "end them"),
        ("GPU memory", dict(MemoryInfo=FULL), "50 of 80 GiB free", "end what holds it"),
    ],
)
def test_what_the_driver_tells_is_judged(gpus, name, answers, seen, advice):
    gpus(whole(**answers))
    findings = seen_of_gpu()
    finding = findings.pop(name)
    assert not finding.well and advice in finding.advice and re.search(seen, finding.seen)
    assert all(other.well for other in findings.values())


def test_what_a_driver_does_not_tell_is_left_out(gpus):
    """WSL's knows little, and no other file than one."""
    gpus(Card("GPU-8f2a77c1", "NVIDIA GeForce RTX 4090"))
    findings = seen_of_gpu()
    assert {*findings} == {"device nodes", "MPS", "GPU errors", "energy"}
    assert findings["energy"].seen == "unknown to this driver"


def test_an_instance_is_judged_with_its_card(gpus):
    part = whole("MIG-aaaa1111", MemoryInfo=SimpleNamespace(total=40 * GIB, free=39 * GIB))
    gpus(whole(instances=[part], ComputeMode=3, Index=2))
    findings = seen_of_gpu()
    assert findings["card"].seen.startswith("GPU 2 of nvidia-smi")
    assert not findings["compute mode"].well
    assert findings["GPU memory"].seen == "39 of 40 GiB free"
    assert findings["energy"].seen == "unknown: this is a part of a card (MIG)"


def test_a_gpu_that_is_too_small_for_the_large_model_is_named(gpus, monkeypatch):
    gpus(whole(MemoryInfo=SimpleNamespace(total=8 * GIB, free=8 * GIB)))
    assert seen_of_gpu()["GPU memory"].well  # pocket's model is small
    monkeypatch.setattr(machine, "default_arena", lambda on_gpu: "climbmix")
    assert "pocket" in seen_of_gpu()["GPU memory"].advice


def test_files_that_cuda_opens_are_looked_for(dev, monkeypatch):
    assert gpu.check_nodes().well
    (dev / "nvidia-uvm").unlink()
    finding = gpu.check_nodes()
    assert finding.seen == "no /dev/nvidia-uvm" and "nvidia-modprobe -u" in finding.advice
    (dev / "nvidia-uvm").touch()
    monkeypatch.setattr(gpu.os, "access", lambda path, mode: path.name != "nvidiactl")
    finding = gpu.check_nodes()
    assert finding.seen == "/dev/nvidiactl can't be opened" and "group" in finding.advice
    (dev / "dxg").touch()
    assert gpu.check_nodes() == ("device nodes", True, "/dev/dxg", gpu.check_nodes().advice)


def test_the_service_that_shares_a_gpu_is_named(monkeypatch):
    running = [SimpleNamespace(info={"name": name}) for name in ("init", "nvidia-cuda-mps-server")]
    monkeypatch.setattr(psutil, "process_iter", lambda names: running)
    finding = gpu.check_mps()
    assert not finding.well and finding.seen == "nvidia-cuda-mps-server"
    assert "nvidia-cuda-mps-control" in finding.advice


TOO_OLD = """
Traceback (most recent call last):
  File "<string>", line 5, in <module>
RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update.
"""
NO_KERNEL = """
Traceback (most recent call last):
torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device
CUDA kernel errors might be asynchronously reported at some other API call.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


@pytest.mark.parametrize(
    "errors, seen, advice",
    [
        (TOO_OLD, "RuntimeError: The NVIDIA driver on your system is too old", "update NVIDIA's"),
        (NO_KERNEL, "torch.AcceleratorError: CUDA error: no kernel image", "another device"),
        ("AssertionError: Torch not compiled with CUDA enabled", "Torch not", "is for CPUs"),
        ("RuntimeError: CUDA unknown error - this may be", "unknown error", "device nodes"),
        ("RuntimeError: Error 802: system not yet initialized", "802", "fabricmanager"),
        ("E: CUDA-capable device(s) is/are busy or unavailable", "busy", "compute mode"),
        ("ratchet: this machine can't confine a process", "can't confine", "uv sync"),
        ("", "no reason given", "uv sync"),
    ],
)
def test_why_torch_fails_on_a_gpu_is_told(gpus, monkeypatch, errors, seen, advice):
    gpus(whole())
    monkeypatch.setattr(device, "run_confined", lambda *args: (None, errors))
    findings = {finding.name: finding for finding in device.check_device("cuda:0", "none")}
    assert not findings["torch"].well and advice in findings["torch"].advice
    assert seen in findings["matmul peak"].seen


@pytest.mark.parametrize(
    "errors, advice",
    [
        ("RuntimeError: Failed to find C compiler. Please specify via CC", "apt install gcc"),
        ("main.c:1:10: fatal error: Python.h: No such file or directory", "python3-dev"),
        ("AssertionError: libcuda.so cannot found!", "TRITON_LIBCUDA_PATH"),
        ("RuntimeError: CUDA error: busy", "fix torch first"),
    ],
)
def test_why_nothing_is_compiled_is_told(monkeypatch, errors, advice):
    monkeypatch.setattr(device, "run_confined", lambda *args: (None, errors))
    assert advice in device.check_compiler("cuda:0", "none").advice
    monkeypatch.setattr(device, "run_confined", lambda *args: (b"", "a warning"))
    assert device.check_compiler("cuda:0", "none").well


def test_a_gpu_that_cannot_be_used_is_named_on_the_cpu(gpus, monkeypatch):
    gpus().nvmlInit = lambda: (_ for _ in ()).throw(
        pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    )
    nvidia.WSL_NODE.touch()
    monkeypatch.setattr(device, "run_confined", lambda *args: (b'[1e12, "float32"]', ""))
    finding = [*device.check_device("cpu", "none")][-1]
    assert finding.name == "GPU" and not finding.well and "restart" in finding.advice


def test_the_large_model_needs_what_the_doctor_says():
    """Its weights, counted from train.py: neither much more nor much less."""
    sizes = dict(vocab_size=8192, context=2048, dtype="bfloat16")
    config = train.PRESETS["large"] | sizes
    del config["batch_size"]
    with torch.device("meta"):
        weights = train.GPT(**config).state_dict().values()
    size = sum(weight.nbytes for weight in weights)
    assert machine.LARGE_BYTES / 3 < size < machine.LARGE_BYTES


def test_a_gpu_with_a_large_arena_needs_more_memory_and_disk(monkeypatch):
    monkeypatch.setattr(machine, "default_arena", lambda on_gpu: "climbmix" if on_gpu else "pocket")
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds: 0)
    monkeypatch.setattr(machine, "free_memory", lambda: 8e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5e10))
    of_cpu, of_gpu = (
        {finding.name: finding for finding in machine.check_machine(name)}
        for name in ("cpu", "cuda:0")
    )
    assert of_cpu["memory"].well and of_cpu["disk"].well
    assert not of_gpu["memory"].well and not of_gpu["disk"].well
    assert f"{(4e9 + 2 * machine.LARGE_BYTES) / 1e9:.0f} GB" in of_gpu["memory"].advice


def test_memory_is_shared_with_a_process_in_the_sandbox():
    assert isolation.check_sharing("cpu", sandbox.best_level()).well


@pytest.mark.parametrize(
    "code, reason",
    [
        (0, "what one process writes the other doesn't see"),  # as under WSL, where no call fails
        (1, "the other process ended with code 1"),
        (None, "the other process was silent for 120 seconds"),
    ],
)
def test_memory_that_is_not_shared_is_noticed(monkeypatch, code, reason):
    def run(argv, timeout, pass_fds):
        if code is None:
            raise subprocess.TimeoutExpired(argv, timeout)
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(sharing.subprocess, "run", run)
    with pytest.raises(SystemExit, match=reason):
        sharing.share(torch.device("cpu"), "python")


def test_what_to_do_without_shared_memory_is_told(monkeypatch):
    errors = (
        "RuntimeError: CUDA error: operation not supported\nthe other process ended with code 1"
    )
    monkeypatch.setattr(isolation, "run_program", lambda *args: (None, errors))
    finding = isolation.check_sharing("cuda:0", "none")
    assert not finding.well and finding.seen == "RuntimeError: CUDA error: operation not supported"
    assert "wsl" not in finding.advice
    isolation.WSL_NODE.touch()
    assert "wsl --update" in isolation.check_sharing("cuda:0", "none").advice


def test_a_driver_that_hangs_is_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "SECONDS", 0.1)
    assert device.run_program(["sleep", "60"], tmp_path, {}) == (
        None,
        "TimeoutError: it took more than 0.1 s",
    )


def test_only_a_gpu_is_asked_about_gpus(monkeypatch):
    """The doctor of a CPU is as fast as before."""
    finding = Finding("x", True, "")
    for name in ("check_device", "check_machine", "check_sandbox", "check_gpu"):
        monkeypatch.setattr(f"ratchet.doctor.examination.{name}", lambda *args: [])
    for name in ("check_compiler", "check_sharing"):
        monkeypatch.setattr(f"ratchet.doctor.examination.{name}", lambda *args: finding)
    assert examine_machine("cpu") == [] and examine_machine("cuda:0") == [finding] * 2


# --------------------------------------------------------------------------------------------------
# On a null GPU


DOCTOR = "import handed_on; from ratchet.__main__ import main; main()"


@pytest.fixture
def examine(null_gpu, tmp_path, cache):
    """examine(level, ...) -> {name: finding} of the second of two null GPUs, which isn't alone."""
    cards = nullgpu.RTX_4090, nullgpu.H100._replace(compute_mode=3, processes=(1, 2))
    (folder := tmp_path / "cards").mkdir()
    folder = nullgpu.make_machine(folder, cards, built=null_gpu)

    def call(level, **variables):
        if level != "none" and not sandbox.level_works(level):
            pytest.skip(f"{level} doesn't work on this machine")
        conditions = {"RATCHET_ISOLATION": level, "RATCHET_CACHE": str(cache)}
        conditions["PYTHONPATH"] = f"{ROOT}:{ROOT}/tests/nullgpu/programs"
        environment = nullgpu.environment(folder) | conditions | variables
        argv = [sys.executable, "-c", DOCTOR, "doctor", "--device", "cuda:1", "--json"]
        done = subprocess.run(argv, env=environment, capture_output=True, check=True)
        return {finding["name"]: finding for finding in json.loads(done.stdout)}

    return call


@pytest.mark.slow
@pytest.mark.parametrize("level", sandbox.LEVELS[:2])
def test_a_null_gpu_is_tried_in_the_sandbox(level, examine):
    findings = examine(level)
    assert findings["device"]["seen"].startswith("NVIDIA H100 80GB HBM3, driver 580")
    assert findings["card"]["seen"] == "GPU 1 of nvidia-smi, at 00000000:11:00.0"
    assert findings["compute mode"]["seen"] == "exclusive process"
    assert findings["other programs"]["seen"] == "2, it is 0% busy"
    assert findings["GPU memory"]["seen"] == "79 of 79 GiB free"
    for name in ("torch", "matmul peak", "torch.compile", "shared memory"):
        assert findings[name]["well"], findings[name]
    assert not findings["compute mode"]["well"] and not findings["other programs"]["well"]


@pytest.mark.slow
def test_that_there_is_no_compiler_is_seen(examine, tmp_path):
    for name in ("git", "sleep"):
        (tmp_path / name).symlink_to(shutil.which(name))
    finding = examine("none", PATH=str(tmp_path))["torch.compile"]
    assert not finding["well"] and "apt install gcc" in finding["advice"]
