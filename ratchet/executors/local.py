"""Runs on the devices of this machine."""

import functools
import itertools
from collections.abc import Sequence

from ratchet.arena.files import Refused
from ratchet.executors.base import (
    Conditions,
    Executor,
    OwnTask,
    Task,
    Tell,
    Verb,
    say_nothing,
)
from ratchet.experiments import seal
from ratchet.referee import sandbox, trial
from ratchet.referee.devices.choice import choose_device, describe_device
from ratchet.referee.devices.lock import share_a_part
from ratchet.referee.job import Job
from ratchet.referee.libraries.mirror import contestant_libraries


class LocalExecutor(Executor):
    """Devices of this machine, one slot for each; by default the best one alone."""

    name = "local"
    location = "this machine"

    def __init__(
        self, devices: Sequence[str] = (), slots: int | None = None, tell: Tell = say_nothing
    ) -> None:
        if slots:
            raise Refused("--slots is for clusters: name devices with --devices instead")
        self.tell = tell
        self.devices = [choose_device(name) for name in devices or [None]]
        self.slot_count = len(self.devices)
        refuse_shared(self.devices)
        kinds = {describe_device(device)["device"] for device in self.devices}
        if len(kinds) > 1:
            listed = "; ".join(sorted(kinds))
            raise Refused(f"choose devices of one kind, others can't be compared: {listed}")

    def conditions(self) -> Conditions:
        seals = {"isolation": sandbox.best_level(), "machinery": seal.hash_sealed_files()}
        return describe_device(self.devices[0]) | seals

    def submit(self, verb: Verb, job: Job, slot: int) -> Task:
        if sandbox.best_level() != "none":
            contestant_libraries(self.tell)  # takes a minute, once: not while a run waits
        work = trial.run_trial if verb == "run" else trial.preflight
        return OwnTask(functools.partial(work, job._replace(device=self.devices[slot])))

    def device(self, slot: int) -> str:
        return self.devices[slot]

    def option(self, slot: int) -> str:
        is_default = self.devices[slot] == choose_device()
        return "" if is_default else f" --device {self.devices[slot]}"


def refuse_shared(devices: Sequence[str]) -> None:
    """Raises Refused when two devices are one, or share cores."""
    names = ", ".join(devices)
    if len({*devices}) < len(devices):
        raise Refused(f"a device is named twice in {names}: one run at a time has it")
    if any(share_a_part(*pair) for pair in itertools.combinations(devices, 2)):
        raise Refused(f"{names} share cores: choose devices that don't, like cpu:0/2,cpu:1/2")
