"""The doctor: checks what a run depends on."""

from ratchet.doctor.device import check_compiler, check_device
from ratchet.doctor.findings import Finding, without_needless_advice
from ratchet.doctor.gpu import check_gpu
from ratchet.doctor.isolation import check_sandbox, check_sharing
from ratchet.doctor.machine import check_machine
from ratchet.doctor.surroundings import try_level


def examine_machine(device: str) -> list[Finding]:
    """What a run depends on: the device, this machine, its arenas and its sandbox."""
    (level, why), is_cuda = try_level(), device.startswith("cuda")
    of_gpu = [*check_gpu(device)] if is_cuda else []  # before anything here uses it
    findings = [*check_device(device, level), *of_gpu]
    if is_cuda:
        findings += [check_compiler(device, level), check_sharing(device, level)]
    return without_needless_advice([*findings, *check_machine(device), *check_sandbox(level, why)])
