"""A GPU of CUDA's and a GPU of the driver's are one card."""

import importlib
import os
import subprocess
import sys

import nullgpu
import pynvml
import pytest
import torch
from conftest import ROOT
from fake_nvml import Card, gpus_fixture, whole  # noqa: F401

import prepare
from ratchet.arena.files import Refused
from ratchet.arena.hardware import device
from ratchet.referee import environment
from ratchet.referee.devices import nvidia
from ratchet.referee.devices.choice import choose_device, describe_device, list_devices
from ratchet.referee.devices.lock import unique_name
from ratchet.referee.devices.nvidia import open_gpu, read_joules, throttle_cause

UUIDS = "GPU-8f2a77c1-11", "GPU-8f2b0000-22", "GPU-5fd4f087-33"
INSTANCES = "MIG-aaaa1111-1", "MIG-aaaa2222-2"


def shown_uuids():
    """UUIDs of what the command line calls cuda:0, cuda:1, ..."""
    shown = [open_gpu(name) for name in list_devices() if name.startswith("cuda")]
    return [nvml.nvmlDeviceGetUUID(handle) for nvml, handle in shown]


@pytest.mark.parametrize(
    "visible, indices",
    [
        (None, [0, 1, 2]),
        ("", []),
        ("1", [1]),
        ("2, 0", [2, 0]),
        ("-1", []),
        ("0,-1,1", [0]),
        ("1,7,2", [1]),
        ("0,0", []),
        ("1gpu2,2x", [1, 2]),
        ("x,1", []),
        ("1,", [1]),
        (UUIDS[2], [2]),
        ("GPU-5", [2]),
        ("GPU-8f2b,GPU-8f2a", [1, 0]),
        ("GPU-5,GPU-8f2,GPU-8f2a", [2]),  # the second name fits two
        ("GPU-5,GPU-0,GPU-8f2a", [2]),
        ("GPU-5,GPU-5fd4", []),  # one card by two names
        ("GPU-5,1", [2]),
        ("1,GPU-5", [1]),
    ],
)
def test_gpus_are_those_that_cuda_shows(gpus, monkeypatch, visible, indices):
    gpus(*map(whole, UUIDS))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert shown_uuids() == [UUIDS[index] for index in indices]
    # as PyTorch reads it, which says that it reads as CUDA does
    monkeypatch.setattr(torch.cuda, "_raw_device_count_nvml", lambda: len(UUIDS))
    monkeypatch.setattr(torch.cuda, "_raw_device_uuid_nvml", lambda: [*UUIDS])
    assert torch.cuda._device_count_nvml() == len(indices)
    assert [*map(torch.cuda._get_nvml_device_index, range(len(indices)))] == indices


@pytest.mark.parametrize(
    "visible, shown",
    [
        (None, INSTANCES[:1]),
        ("0,1", INSTANCES[:1]),
        ("1", UUIDS[1:2]),
        (INSTANCES[1], INSTANCES[1:]),
        ("MIG-aaaa2", INSTANCES[1:]),
        ("MIG-aaaa", []),
        (",".join(reversed(INSTANCES)), INSTANCES[1:]),
        (f"MIG-{UUIDS[0]}/2/0", INSTANCES[1:]),
        (f"MIG-{UUIDS[0]}/3/0", []),
    ],
)
def test_of_a_card_that_is_cut_up_cuda_shows_one_instance(gpus, monkeypatch, visible, shown):
    gpus(whole(UUIDS[0], instances=[*map(Card, INSTANCES)]), whole(UUIDS[1]))
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert shown_uuids() == [*shown]


def test_a_card_that_is_cut_up_but_has_no_instance_is_not_shown(gpus):
    gpus(whole(UUIDS[0], instances=[]), whole(UUIDS[1]))
    assert shown_uuids() == [UUIDS[1]]


def test_an_instance_has_its_own_name_and_lock_and_no_energy(gpus, monkeypatch):
    """Its card's energy would be its neighbours', too; its card's heat is its own."""
    kind = "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    instances = [Card(uuid, kind, TotalEnergyConsumption=9000) for uuid in INSTANCES]
    heat = pynvml.nvmlClocksEventReasonHwThermalSlowdown
    gpus(whole(instances=instances, CurrentClocksEventReasons=heat))
    locks = set()
    for uuid in INSTANCES:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", uuid)
        locks.add(unique_name("cuda:0"))
        assert describe_device("cuda:0")["device"] == kind
        assert read_joules("cuda:0") is None
        assert throttle_cause("cuda:0") == "heat"
    assert len(locks) == 2


def test_a_lost_card_leaves_the_others(gpus):
    fake = gpus(*map(whole, UUIDS))
    by_index = fake.nvmlDeviceGetHandleByIndex

    def handle(index):
        if index == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return by_index(index)

    fake.nvmlDeviceGetHandleByIndex = handle
    assert shown_uuids() == [UUIDS[0], UUIDS[2]]


def test_all_that_is_started_counts_gpus_as_the_driver_does(monkeypatch):
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert environment.inherited_environment()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    names = [*environment.inherited_environment(), *environment.INHERITED.split()]
    unknown = [name for name in names if not name.startswith(prepare.ENVIRONMENT)]
    assert unknown == []  # a scorer hands them on to its models


@pytest.mark.parametrize("order", ["", "FASTEST_FIRST"])
def test_a_run_by_hand_counts_so_too_unless_the_user_wants_otherwise(monkeypatch, order):
    monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    if not order:
        monkeypatch.delenv("CUDA_DEVICE_ORDER")
    importlib.reload(device)  # it is read before CUDA is
    assert os.environ["CUDA_DEVICE_ORDER"] == (order or "PCI_BUS_ID")


def test_another_order_of_several_gpus_is_refused(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    gpus(whole())
    assert choose_device() == "cuda:0"
    gpus(*map(whole, UUIDS))
    assert choose_device("cpu") == "cpu"
    with pytest.raises(Refused, match="CUDA_DEVICE_ORDER is FASTEST_FIRST, .* as nvidia-smi"):
        choose_device("cuda:1")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert choose_device("cuda:1") == "cuda:1"


@pytest.mark.parametrize(
    "error, visible, said",
    [
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, None, "mismatch.*: restart the machine"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, None, "Not Loaded.*modprobe"),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, None, "Not Found.*--gpus all"),
        (None, "7", "CUDA_VISIBLE_DEVICES=7 shows no GPU.*unset it"),
    ],
)
def test_why_a_gpu_is_not_shown_is_said(gpus, monkeypatch, tmp_path, error, visible, said):
    monkeypatch.setattr(nvidia, "PCI", tmp_path)
    monkeypatch.setattr(nvidia, "WSL_NODE", tmp_path / "dxg")
    fake = gpus(whole())
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    def fail():
        if error:
            raise pynvml.NVMLError(error)

    fake.nvmlInit = fail
    assert nvidia.absence_of_gpus() == ("", "")  # there is no card
    (card := tmp_path / "0000:1b:00.0").mkdir()
    (card / "vendor").write_text("0x10de\n", encoding="utf-8")
    (card / "class").write_text("0x030200\n", encoding="utf-8")
    with pytest.raises(Refused, match=f"no device 'cuda:0' here .*{said}"):
        choose_device("cuda:0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # who hides it needs no reason
    assert nvidia.absence_of_gpus() == ("", "")


# prints the buses of the cards that a referee means, then those that CUDA means in what it starts
BUSES = """
import ctypes, os
from ratchet.referee import environment
from ratchet.referee.devices.nvidia import open_gpu
from ratchet.referee.devices.choice import list_devices
for name in list_devices()[:-1]:
    nvml, card = open_gpu(name)
    print(nvml.nvmlDeviceGetPciInfo(card).busId.lower())
os.environ |= environment.inherited_environment()
library, count = ctypes.CDLL(os.environ["LD_PRELOAD"]), ctypes.c_int()
library.cudaGetDeviceCount(ctypes.byref(count))
for number in range(count.value):
    bus = ctypes.create_string_buffer(16)
    library.cudaDeviceGetPCIBusId(bus, 16, number)
    print(bus.value.decode().lower())
"""


def test_on_a_machine_of_unlike_cards_a_name_is_that_of_one_card(null_gpu, tmp_path):
    """The faster card is the second one on the bus, and the first one of CUDA's own count."""
    machine = nullgpu.make_machine(tmp_path, [nullgpu.RTX_4090, nullgpu.H100], built=null_gpu)
    environment = nullgpu.environment(machine) | {"PYTHONPATH": str(ROOT)}
    for visible, expected in (
        ("0,1", ["10", "11"]),
        ("1", ["11"]),
        ("GPU-a2,GPU-a1", ["11", "10"]),
        ("1,5,0", ["11"]),
    ):
        variables = environment | {"CUDA_VISIBLE_DEVICES": visible}
        argv = [sys.executable, "-c", BUSES]
        done = subprocess.run(argv, env=variables, capture_output=True, encoding="utf-8")
        buses = [address.split(":")[1] for address in done.stdout.split()]
        assert buses == expected * 2, done.stderr
