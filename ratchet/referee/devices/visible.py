"""Which NVIDIA GPUs CUDA shows to a process: cuda:0 is the first of them.

NVML counts in the order of the PCI bus, CUDA the fastest first. So all that Ratchet starts gets
CUDA_ORDER in its environment, and both count alike.

Sources: CUDA's programming guide on CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER; the MIG user
guide, "CUDA Device Enumeration"; torch.cuda._parse_visible_devices.
"""

import os
import re
from contextlib import suppress
from typing import Any

CUDA_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def visible_gpus(nvml: Any) -> list[Any]:
    """NVML's handles of the GPUs that CUDA shows, in its order.

    Of instances of MIG that is one alone, with no whole GPU beside it. Raises NVMLError.
    """
    cards = list_cards(nvml)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible and visible.startswith("MIG-"):
        return named_instance(nvml, cards, visible.split(",")[0])
    uuids = [nvml.nvmlDeviceGetUUID(card) for card in cards]
    chosen = [cards[index] for index in chosen_indices(visible, uuids)]
    instances = {index: mig_instances(nvml, card) for index, card in enumerate(chosen)}
    if first := next(filter(None, instances.values()), None):
        return first[:1]
    return [card for index, card in enumerate(chosen) if instances[index] is None]


def list_cards(nvml: Any) -> list[Any]:
    """NVML's handles of all cards that this process may use."""
    cards = []
    for index in range(nvml.nvmlDeviceGetCount()):
        with suppress(nvml.NVMLError):  # it may belong to somebody else, or be lost
            cards.append(nvml.nvmlDeviceGetHandleByIndex(index))
    return cards


def chosen_indices(visible: str | None, uuids: list[str]) -> list[int]:
    """Which of the cards with these UUIDs CUDA_VISIBLE_DEVICES names: indices, starts of UUIDs.

    As CUDA reads it: up to the first name that fits no card or several; none if a name comes twice.
    Example, of three cards: "1,0,7,2" -> [1, 0], "GPU-8f2" -> [2] if the UUID of one begins so.
    """
    if visible is None:
        return [*range(len(uuids))]
    chosen = []
    for name in visible.split(","):
        fitting = indices_that_fit(name, uuids, by_uuid=visible.startswith("GPU-"))
        if len(fitting) != 1:
            break
        chosen += fitting
    return chosen if len({*chosen}) == len(chosen) else []


def indices_that_fit(name: str, uuids: list[str], by_uuid: bool) -> list[int]:
    """Indices of the cards that one name may mean; the first name tells what the others are."""
    if by_uuid:
        starts = [uuid.startswith(name) for uuid in uuids]
        return [index for index, fits in enumerate(starts) if fits and name.startswith("GPU-")]
    number = re.match(r"\s*\+?(\d+)", name)  # as strtoul() reads: what follows doesn't count
    index = int(number[1]) if number else len(uuids)
    return [index] if index < len(uuids) else []


# --------------------------------------------------------------------------------------------------
# MIG: cards that are cut into instances


def mig_instances(nvml: Any, card: Any) -> list[Any] | None:
    """Handles of the instances that a card is cut into; None if it is whole."""
    with suppress(nvml.NVMLError):
        if nvml.nvmlDeviceGetMigMode(card)[0]:
            instances = []
            for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
                with suppress(nvml.NVMLError):  # an index may be free
                    instances.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index))
            return instances
    return None


def named_instance(nvml: Any, cards: list[Any], name: str) -> list[Any]:
    """[the instance of that name], or []: MIG-<its UUID>, MIG-GPU-<card's UUID>/<gi>/<ci>."""
    fitting = []
    for card in cards:
        for instance in mig_instances(nvml, card) or []:
            ids = nvml.nvmlDeviceGetGpuInstanceId, nvml.nvmlDeviceGetComputeInstanceId
            parts = nvml.nvmlDeviceGetUUID(card), *(read(instance) for read in ids)
            older_name = "MIG-" + "/".join(map(str, parts))
            if name == older_name or nvml.nvmlDeviceGetUUID(instance).startswith(name):
                fitting.append(instance)
    return fitting if len(fitting) == 1 else []


def whole_card(nvml: Any, handle: Any) -> Any:
    """The card that an instance of MIG is a part of, or the handle itself."""
    with suppress(nvml.NVMLError):
        if nvml.nvmlDeviceIsMigDeviceHandle(handle):
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    return handle
