"""Stands in for pynvml: cards, each a dict of what it tells. {"Name": ...}: nvmlDeviceGetName()."""

import ctypes
import sys
from types import SimpleNamespace

import pynvml
import pytest

GIB = 2**30


class Card(dict):
    """A GPU, or an instance of MIG: {"UUID": ...}; instances: of a card that is cut up."""

    def __init__(self, uuid, name="NVIDIA H100 80GB HBM3", instances=None, **answers):
        super().__init__(UUID=uuid, Name=name, **answers)
        self.instances, self.card = instances, None
        for number, instance in enumerate(instances or []):
            instance.card = self
            instance |= {"GpuInstanceId": number + 1, "ComputeInstanceId": 0}


def whole(uuid="GPU-8f2a77c1-0000-1111-2222-333333333333", **answers):
    """An H100 with which nothing is wrong."""
    well = dict(
        ComputeMode=pynvml.NVML_COMPUTEMODE_DEFAULT,
        PersistenceMode=1,
        MemoryInfo=SimpleNamespace(total=80 * GIB, free=79 * GIB, used=GIB),
        UtilizationRates=SimpleNamespace(gpu=0, memory=0),
        ComputeRunningProcesses=[],
        CurrentClocksEventReasons=0,
        PowerManagementLimit=700_000,
        PowerManagementDefaultLimit=700_000,
        TotalEccErrors=0,
        RemappedRows=(0, 0, 0, 0),
        TotalEnergyConsumption=5000,
        PciInfo=SimpleNamespace(busId="00000000:1B:00.0"),
        Index=0,
    )
    return Card(uuid, **well | answers)


class FakeNvml:
    """The module: what a card doesn't tell, and all that isn't here, is not supported."""

    def __init__(self, *cards):
        self.cards = cards

    def nvmlInit(self):
        pass

    def nvmlSystemGetDriverVersion(self):
        return "580.65.06"

    def nvmlDeviceGetCount(self):
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        if index >= len(self.cards):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.cards[index]

    def nvmlDeviceGetMigMode(self, card):
        return [int(card.instances is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, card):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card, index):
        if index >= len(card.instances):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return card.instances[index]

    def nvmlDeviceIsMigDeviceHandle(self, card):
        return ctypes.c_uint(card.card is not None)  # as pynvml does

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, instance):
        return instance.card

    def __getattr__(self, name):
        if not name.startswith("nvmlDeviceGet"):
            return getattr(pynvml, name)

        def ask(card, *_):
            answer = card.get(name.removeprefix("nvmlDeviceGet"))
            if answer is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return answer

        return ask


@pytest.fixture(name="gpus")
def gpus_fixture(monkeypatch):
    """gpus(card, ...) puts these, and no others, into this machine."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)

    def put(*cards):
        fake = FakeNvml(*cards)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return put
