"""Executors do runs: on this machine, on nodes of a Ray cluster, as jobs of a Slurm cluster."""

from collections.abc import Sequence

from ratchet.arena.files import Refused
from ratchet.executors.base import Executor, Tell, say_nothing
from ratchet.executors.local import LocalExecutor
from ratchet.executors.ray import RayExecutor
from ratchet.executors.slurm import SlurmExecutor

EXECUTORS: dict[str, type[Executor]] = {
    "local": LocalExecutor,
    "ray": RayExecutor,
    "slurm": SlurmExecutor,
}


def open_executor(
    on: str | None = None,
    devices: Sequence[str] | None = None,
    slots: int | None = None,
    tell: Tell = say_nothing,
) -> Executor:
    """The executor that the command line asks for, `local` by default. Raises Refused.

    on: its name. devices, slots, tell: see Executor.
    """
    if (on or "local") not in EXECUTORS:
        raise Refused(f"--on {on} is not known: choose one of {', '.join(EXECUTORS)}")
    if slots is not None and slots < 1:
        raise Refused(f"--slots {slots} would do no run at all: say how many at a time, 1 or more")
    return EXECUTORS[on or "local"](devices or (), slots, tell)


def list_executors() -> str:
    """All executors and where each runs things, for the help of --on."""
    return "; ".join(f"{name}: {executor.location}" for name, executor in EXECUTORS.items())
