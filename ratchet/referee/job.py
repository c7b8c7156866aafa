"""A job: one run to do, on whatever machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ratchet.arena.budget import parse_budget
from ratchet.arena.definition import Arena
from ratchet.arena.files import work_folder
from ratchet.referee import limits
from ratchet.referee.devices.choice import torch_name
from ratchet.referee.devices.lock import unique_name
from ratchet.referee.early_stopping import Milestone
from ratchet.referee.source import Source


class Job(NamedTuple):
    """Everything that a run depends on.

    source, seed, budget, arena: what to run; a budget is one like "300s", "20e6tok", "1e15flop"
    target: new folder for what the run leaves
    compiled: folder of the kept compiler caches
    splits: what to score, of "val", "test"
    is_baseline: its compiler cache is kept for others to begin with
    device: like "cuda:0" or "cpu:0/2", chosen by the executor that does it
    milestones: of the champion, to end a run that can't catch up with it
    limits: {name of a measure: limit} of the campaign
    measured: names of further measures that it must be measured for: of the campaign's goal
    """

    source: Source
    seed: int
    budget: str
    arena: Arena
    target: Path
    compiled: Path
    splits: tuple[str, ...] = ("val",)
    is_baseline: bool = False
    device: str = "cpu"
    milestones: tuple[Milestone, ...] = ()
    limits: Mapping[str, float] = {}
    measured: tuple[str, ...] = ()

    @property
    def clock_seconds(self) -> float:
        """On the clock at most; the arena's own budget tells it for tokens or FLOPs."""
        return parse_budget(self.budget).seconds or limits.TOKENS_SHARE * self.arena.seconds

    @property
    def asked_measures(self) -> set[str]:
        """Names of the measures that are asked for: some are taken only then."""
        return {*self.limits, *self.measured}

    @property
    def torch_device(self) -> str:
        """What PyTorch calls the device."""
        return torch_name(self.device)

    @property
    def live_folder(self) -> Path:
        """Where it runs: the same for all runs on a device, as compiler caches know their path."""
        return work_folder() / ".live" / unique_name(self.device)
