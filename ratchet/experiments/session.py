"""A session runs experiments in one arena, with one budget, in a slot of an executor.

`open_session` begins anew in any arena; `join_campaign` takes arena and budget from the latest
calibration. An interrupted experiment goes on where it stopped, since what it does next follows
from its lines in the ledger alone (campaign.py).
"""

import copy
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratchet import commits
from ratchet.arena.budget import parse_budget
from ratchet.arena.definition import Arena, default_arena, find_arena
from ratchet.arena.files import ROOT, Refused, sha256, work_folder
from ratchet.experiments import progress, seal
from ratchet.experiments.campaign import Campaign
from ratchet.experiments.goals import VAL_BPB, Goal
from ratchet.experiments.ledger import (
    CANDIDATE,
    CHAMPION,
    Experiment,
    Ledger,
    Row,
    bpb,
    is_disturbed,
    is_valid,
    score_of,
)
from ratchet.experiments.verdicts import Verdict
from ratchet.referee import compiler_cache, early_stopping
from ratchet.referee.early_stopping import Milestone
from ratchet.referee.job import Job
from ratchet.referee.source import Source

MIN_SEEDS = 2  # of a calibration: one run has no sigma
# Facts of an experiment that don't tell whether it is the same one.
REMARKS = ("idea", "by", "gain", "near")
LEVEL_RUNS = 4  # of the champion, the latest ones, whose curves tell where a run must be half-way
# Runs in a row that shared their device, or failed ones of a champion, before a verb gives up.
RUN_TRIES = 3


class DeviceShared(Refused):
    """Other programs use the device: the same command goes on when they have ended."""


@dataclass
class Session:
    """What all runs of a verb share; slot: where they execute, an executors.base.Slot."""

    home: Path  # of the repository, its ledger and runs/
    ledger: Ledger
    slot: Any
    arena: Arena
    budget: str  # of each run, as "300s"
    busy: bool = False  # whether runs count that other programs disturb
    limits: Mapping[str, float] = field(default_factory=dict)  # {name of a measure: limit}
    goal: Goal = VAL_BPB
    half_stop: bool = True  # whether an idea's first run may be stopped half-way
    tell: Callable[[str], Any] = lambda text: None
    on_verdict: Callable[[Experiment], Any] = lambda experiment: None

    def with_slot(self, slot: Any) -> "Session":
        """The same session on another slot, with the same ledger."""
        other = copy.copy(self)
        other.slot = slot
        return other

    def conditions(self) -> dict[str, Any]:
        """What must be the same when scores are compared, beside arena and budget."""
        return self.slot.conditions()

    def compiler_caches(self) -> Path:
        """Folder of kept compiler caches: they are of no use on another kind of device."""
        return self.home / "runs/.compiled" / sha256(self.conditions()["device"].encode())[:12]

    def experiments(self) -> list[Experiment]:
        """All experiments of the ledger, in the order in which they were opened."""
        return [*self.ledger.experiments().values()]

    def experiment(self, n: int) -> Experiment:
        """An experiment as the ledger has it now."""
        return self.ledger.experiments()[n]

    def read_campaign(self) -> Campaign:
        """The campaign on this kind of device, as the ledger has it now."""
        return latest_campaign(self.experiments(), self.conditions()["device"])

    def check_seal(self) -> None:
        """Raise Refused when what judges has changed since the campaign's calibration."""
        baseline = self.read_campaign().baseline
        if not baseline:
            return
        arena = find_arena(self.arena.name)
        for name, value in (self.conditions() | {"seal": arena.seal}).items():
            if baseline.opens.get(name) == value:
                continue
            if name == "machinery":
                raise Refused(seal.describe_change(baseline.sealed))
            changed = f"arena {arena.name}" if name == "seal" else name
            raise Refused(
                f"{changed} has changed since the calibration: undo that, or {seal.REMEDY}"
            )

    def open_experiment(self, role: str, arms: Sequence[Source], **more: Any) -> int:
        """Open an experiment, or go on with the same one if it never closed; returns its number."""
        line = {
            "role": role,
            "arms": [source.describe_source() for source in arms],
            "arena": self.arena.name,
            "seal": self.arena.seal,
            "budget": self.budget,
            "busy": self.busy,
            "limits": dict(self.limits),
            "goal": self.goal._asdict(),
        }
        line |= self.conditions() | more
        for e in self.experiments():
            same = all(e.opens.get(key) == line[key] for key in line if key not in REMARKS)
            if same and not e.closes:
                self.tell(f"going on with experiment {e.n}, which was interrupted")
                return self.keep_commit(e.n, arms[0])
        n = self.ledger.append("opens", salt=secrets.token_hex(8), **line)
        return self.keep_commit(n, arms[0])

    def keep_commit(self, n: int, source: Source) -> int:
        """Keep an experiment's commit in reach, whatever becomes of its branch; returns n."""
        if source.commit:
            commits.git("update-ref", f"refs/ratchet/{n}", source.commit)
        return n

    def champion_for(self, source: Source) -> str:
        """The commit that a source is tried against: one that was begun keeps its champion."""
        campaign = self.read_campaign()
        begun = (e for e in campaign.since if e.role == "try" and not e.closes)
        wanted = source.commit, self.busy
        same = [e for e in begun if (e.arms[CANDIDATE]["commit"], e.busy) == wanted]
        return same[-1].parent if same else campaign.champion["commit"]

    def run_arm(self, n: int, arm: int, phase: str, source: Source, **options: Any) -> Row:
        """Run an arm once, into the ledger; again, some times, if other programs disturbed it.

        options: of Job, as seed, budget, splits. Returns the facts of the run. Raises DeviceShared,
        Full.
        """
        for _ in range(RUN_TRIES):
            self.ledger.check_room(work_folder())
            e = self.experiment(n)
            job = self.make_job(e, arm, phase, source)._replace(**options)
            at = progress.experiment_progress(e, self.experiments(), phase, job.budget)
            words = f"{phase} run of {source.name}, {job.budget}, seed {job.seed}"
            self.tell(f"experiment {n}, {at}: {words}")
            run = self.slot.run(job, self.tell)
            folder = str(job.target.relative_to(self.home))
            run |= {"arm": arm, "phase": phase, "folder": folder, "busy": self.busy}
            self.ledger.append("run", n=n, **run)
            self.tell(f"  {n}: {describe_run(run, self.goal)}")
            if not is_disturbed(run):
                return run
            self.tell(
                "  it does not count, as other programs used the machine: again, with its seed"
            )
        raise DeviceShared(
            f"experiment {n} waits: {describe_disturbance(run)}; close them and run the same "
            "command again, or calibrate and go on with --busy to count such runs"
        )

    def make_job(self, e: Experiment, arm: int, phase: str, source: Source) -> Job:
        """The next run of an experiment, for the slot."""
        may_stop = self.half_stop and phase == "search" and not e.scores(CANDIDATE)
        return Job(
            source,
            seed=self.choose_seed(e, phase),
            budget=self.budget,
            arena=self.arena,
            target=self.home / "runs" / str(e.n) / f"{len(e.runs)}-{phase}-{arm}",
            compiled=self.compiler_caches(),
            milestones=self.champion_milestones(e) if may_stop else (),
            limits=self.limits,
            measured=self.goal.measured,
        )

    def choose_seed(self, e: Experiment, phase: str) -> int:
        """The seed of an experiment's next run: in a search one that the champion has had."""
        if phase != "search":
            return e.next_seed()
        shared = Campaign(self.experiments(), e.comparison_key).search.shared_seed(e.n)
        return e.next_seed() if shared is None else shared

    def champion_milestones(self, e: Experiment) -> tuple[Milestone, ...]:
        """Of the champion's latest runs: what a run that can catch up has reached by then."""
        source = e.arms[CHAMPION]["source"]
        runs = [
            run
            for other in self.experiments()
            if other.comparison_key == e.comparison_key
            for run in other.runs
            if run["source"] == source and run["budget"] == self.budget and is_valid(run)
        ]
        curves = []
        for run in runs[-LEVEL_RUNS:]:
            points, _ = early_stopping.read_curve(self.home / run["folder"] / "curve.jsonl")
            curves.append(early_stopping.to_shares(points, self.budget))
        return tuple(early_stopping.find_milestones(curves))

    def close_experiment(self, n: int, verdict: Verdict, **more: Any) -> Experiment:
        """Write the verdict, unless it is there, and do what follows from it.

        more: what else its line says.
        """
        e = self.experiment(n)
        line = e.runs[-1]["line"] if e.runs else 0
        if verdict.verdict != e.verdict or line > e.closes["line"]:
            self.ledger.append("closes", n=n, **verdict._asdict(), **more)
        return self.settle(self.experiment(n))

    def point_at_champion(self) -> None:
        """Point the ref at the champion that was made last.

        When a command begins, too: the one before may have been killed between a verdict and this.
        """
        made = [e for e in self.experiments() if e.verdict in ("keep", "baseline")]
        last = max(made, key=lambda e: e.closes["line"])
        champion = Campaign(self.experiments(), last.comparison_key).champion["commit"]
        commits.git("update-ref", "refs/ratchet/champion", champion)

    def settle(self, e: Experiment) -> Experiment:
        """Point the ref at a new champion, or take away what only champions and hits keep."""
        if e.verdict in ("keep", "baseline"):
            self.point_at_champion()
            return e
        for weights in (self.home / "runs" / str(e.n)).glob("*/model.safetensors"):
            weights.unlink()
        if e.role in ("try", "trial") and e.verdict != "hit":
            cache = self.compiler_caches() / compiler_cache.cache_name(e.arms[0]["file"])
            shutil.rmtree(cache, ignore_errors=True)
        return e


def open_session(slot: Any, arena: str | None = None, budget: str | None = None, **options):
    """A Session in an arena; by default in the one that fits the device, for the arena's seconds.

    options: busy, limits, goal, half_stop, tell, on_verdict of Session. The smallest arena is
    prepared if it is the one. Raises Refused.
    """
    if budget:
        parse_budget(budget)
    home, tell = commits.home(), options.get("tell", lambda text: None)
    on_gpu = not slot.conditions()["device"].startswith(("cpu", "mps"))
    name = arena or default_arena(on_gpu)
    if name == "pocket" and not prepare_arena(name, tell):
        raise Refused("arena pocket can't be prepared: see above, then give the same command again")
    loaded = find_arena(name)
    return Session(home, Ledger(home), slot, loaded, budget or loaded.budget, **options)


def open_comparison(slot: Any, **options: Any) -> Session:
    """A Session as of open_session(), under limits and goal of the campaign that it belongs to.

    That is the latest one on this kind of device, if it has the same arena and budget.
    """
    session = open_session(slot, **options)
    baseline = session.read_campaign().baseline
    if baseline and (baseline.arena, baseline.budget) == (session.arena.name, session.budget):
        session.limits, session.goal = baseline.limits, baseline.goal
    return session


def join_campaign(slot: Any, busy: bool = False, **options: Any) -> Session:
    """A Session with the arena and the budget of the latest calibration on this kind of device.

    options: half_stop, tell, on_verdict of Session. Raises Refused when there is no
    calibration, when it was without --busy, or when what judges has changed since.
    """
    home, tell = commits.home(), options.get("tell", lambda text: None)
    ledger, device = Ledger(home), slot.conditions()["device"]
    baseline = latest_campaign(ledger.experiments().values(), device).baseline
    if not baseline:
        command = f"uv run ratchet calibrate{slot.option}"
        raise Refused(f"there is no baseline on {device}: run `{command}` first")
    if busy and not baseline.busy:
        raise Refused(
            "the noise was measured without --busy: runs that others disturb can't be held "
            "against it; leave --busy out, or begin anew with `uv run ratchet calibrate --busy`"
        )
    if baseline.busy and not busy:
        tell("  the noise was measured with --busy: without it, what others disturb is void")
    arena = find_arena(baseline.arena)
    options |= {"limits": baseline.limits, "goal": baseline.goal}
    if not baseline.goal.is_val_bpb:
        if options.get("half_stop"):
            tell(f"  the goal is {baseline.goal.name}: no run is stopped half-way, by its loss")
        options["half_stop"] = False
    session = Session(home, ledger, slot, arena, baseline.budget, busy, **options)
    session.check_seal()
    session.point_at_champion()
    return session


def prepare_arena(name: str, tell: Callable[[str], Any]) -> bool:
    """Prepare an arena that needs no options, telling what takes long; whether it is there now."""
    command = [sys.executable, str(ROOT / "prepare.py"), "--arena", name]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, encoding="utf-8", errors="replace"
    ) as process:
        for line in process.stdout or ():
            if not line.startswith(("arena ", "next: ")):  # said where it is all that is wanted
                tell(f"  {line.rstrip()}")
    return process.returncode == 0


def latest_campaign(experiments, device: str) -> Campaign:
    """The campaign that the latest calibration on a kind of device began, if there is one."""
    return Campaign([e for e in experiments if e.device == device])


def describe_run(run: dict[str, Any], goal: Goal) -> str:
    """How a run ended, where its time went: "1.2345 bpb (train 60.0 s, score 5.1 s)".

    Of another goal: "user_tps 231 tokens/s, 1.2345 bpb (...)".
    """
    ok = run["status"] == "ok"
    end = f"{bpb(run):.4f} bpb" if ok else f"{run['status']}: {run['reason']}"
    if ok and not goal.is_val_bpb:
        end = f"{goal.name} {goal.describe_level(score_of(run, goal))}, {end}"
    if run["shared"]:
        end += f", {describe_disturbance(run)}"
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in run["seconds"].items())
    return f"{end} ({spent})"


def describe_disturbance(run: dict[str, Any]) -> str:
    """Example: "other programs used 23% of the CPU"."""
    if others := run.get("foreign_gpu"):
        return f"other programs used the GPU (processes: {others})"
    return f"other programs used {run['foreign_cpu']:.0%} of the CPU"


def valid_or_failed(e: Experiment, arm: int) -> list[Row]:
    """The runs of an arm, without those that were disturbed."""
    return [run for run in e.runs if run["arm"] == arm and not is_disturbed(run)]
