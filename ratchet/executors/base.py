"""The interface between an experiment and the devices that do its runs.

An `Executor` has slots, each of which does one run at a time. All of them are on devices of one
kind, as only scores of one kind can be compared. The ledger is written by the process that
submits: a run that a dying node took along was never there. It is done again, with the same seed,
on another node.

To add one, write a module like slurm.py with a subclass of `Executor` and one of `Task`, then add
its line to the registry in __init__.py.
"""

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, ClassVar, Literal

from ratchet.arena.files import Refused
from ratchet.referee import supervisor
from ratchet.referee.job import Job

NODE_TRIES = 5  # nodes that may die under one run before it is given up
PATIENT_SECONDS = 10  # after which the user is told why a task has not begun

Verb = Literal["run", "preflight"]
Conditions = dict[str, str]
Outcome = dict[str, Any] | tuple[str, str, list[str]] | None
Tell = Callable[[str], None]


def say_nothing(text: str) -> None:
    """A `Tell` for callers that show nothing."""


class NodeDied(Exception):
    """A task ended without an outcome, for a reason that is not its own."""


class Task(ABC):
    """A job that was submitted to an executor."""

    poll_seconds: ClassVar[float] = 0.1  # between two looks whether it is done

    @abstractmethod
    def is_done(self) -> bool:
        """Whether outcome() can be asked for. Raises Refused."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """What the job came to; what a run leaves is in job.target then.

        run: the facts of the run, as trial.run_trial() gives them. preflight: None when the
        contestant comes to its first step, else (status, reason, last lines of its log). Raises
        NodeDied when another node should do the job, Refused when none can.
        """

    @abstractmethod
    def cancel(self) -> None:
        """End the job, whether it runs or still waits. Nobody asks for its outcome any more."""

    def waiting_for(self) -> str:
        """Why the job has not begun, as a sentence without its full stop; "" when it has."""
        return ""


class OwnTask(Task):
    """A task that the asking thread does itself, once it asks for the outcome.

    A device of this machine works so, as its cores are pinned by thread.
    """

    def __init__(self, work: Callable[[], Outcome]) -> None:
        self.work = work

    def is_done(self) -> bool:
        return True

    def outcome(self) -> Outcome:
        return self.work()

    def cancel(self) -> None:
        """Nothing is under way; supervisor.cancelled ends the work itself."""


class Executor(ABC):
    """Something that does runs, in one or more slots.

    name: what the command line calls it: --on slurm. location: where it runs things, for the help.
    slot_count: runs that it does at a time; slots are numbered from 0.
    """

    name: ClassVar[str]
    location: ClassVar[str]
    slot_count: int = 1

    @abstractmethod
    def __init__(
        self, devices: Sequence[str] = (), slots: int | None = None, tell: Tell = say_nothing
    ) -> None:
        """Find the devices and what kind they are of. Raises Refused.

        devices: names of devices of this machine, like "cuda:0" (--device and --devices).
        slots: runs at a time (--slots), by default as many as the executor thinks right.
        """

    @abstractmethod
    def conditions(self) -> Conditions:
        """What must be the same for two scores to be compared, beside the arena and the budget.

        For example {"device": "NVIDIA H100", "driver": "570.1", "torch": "2.13.0",
        "isolation": "bubblewrap", "machinery": "0d4c..."}.
        """

    @abstractmethod
    def submit(self, verb: Verb, job: Job, slot: int) -> Task:
        """Hand a job in without waiting for it; job.device is for the executor to fill in."""

    def device(self, slot: int) -> str:
        """How a message calls the device of a slot."""
        return self.conditions()["device"]

    def option(self, slot: int) -> str:
        """What a command line adds to choose this slot: " --on slurm", or ""."""
        return f" --on {self.name}"

    def slots(self) -> list["Slot"]:
        """All slots, in order."""
        return [Slot(self, number) for number in range(self.slot_count)]

    def execute(self, verb: Verb, job: Job, slot: int = 0, tell: Tell = say_nothing) -> Outcome:
        """Do a job: on another node when one dies, not at all when the work is cancelled.

        Raises Refused, supervisor.Cancelled, KeyboardInterrupt.
        """
        for _ in range(NODE_TRIES):
            task = self.submit(verb, job, slot)
            wait_for(task, tell)
            try:
                return task.outcome()
            except NodeDied as error:
                death = error
                tell(f"  {death}: the job is done again")
        raise Refused(f"{NODE_TRIES} times in a row a job got lost on {self.name}: {death}")


class Slot:
    """One slot of an executor: does one run at a time."""

    def __init__(self, executor: Executor, number: int = 0) -> None:
        self.executor, self.number = executor, number

    def conditions(self) -> Conditions:
        """See Executor.conditions()."""
        return self.executor.conditions()

    @property
    def device(self) -> str:
        """How a message calls its device."""
        return self.executor.device(self.number)

    @property
    def option(self) -> str:
        """What a command line adds to choose it."""
        return self.executor.option(self.number)

    def run(self, job: Job, tell: Tell = say_nothing) -> Outcome:
        """The facts of a run, once it has ended."""
        return self.executor.execute("run", job, self.number, tell)

    def preflight(self, job: Job, tell: Tell = say_nothing) -> Outcome:
        """Why a contestant does not come to its first step, or None."""
        return self.executor.execute("preflight", job, self.number, tell)


def wait_for(task: Task, tell: Tell = say_nothing) -> None:
    """Return when a task is done; whatever ends the waiting before that cancels the task."""
    begin, reported = time.monotonic(), set()
    try:
        while not task.is_done():
            if time.monotonic() - begin >= PATIENT_SECONDS:
                report_waiting(task.waiting_for(), reported, tell)
            supervisor.sleep_or_cancel(task.poll_seconds)
    except BaseException:
        task.cancel()
        raise


def report_waiting(reason: str, reported: set[str], tell: Tell) -> None:
    """Tell why a task waits, each reason once, and that it has begun to run."""
    if reason in reported or not (reason or reported):
        return
    reported.add(reason)
    tell(reason or "it has begun")


def refuse_devices(executor: type[Executor], devices: Sequence[str]) -> None:
    """For executors that choose devices themselves. Raises Refused."""
    if devices:
        raise Refused(
            f"--on {executor.name} chooses devices itself: leave out --device and --devices"
        )


def import_extra(module: str, extra: str) -> ModuleType:
    """A library that only one executor needs. Raises Refused."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise Refused(f"{module} is not installed: run `uv sync --extra {extra}`") from None
