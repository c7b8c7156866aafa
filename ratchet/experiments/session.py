"""Experiments: what each verb runs, in which order, until its question is answered.

What an experiment does next follows from its lines in the ledger alone (`next_step`). So an
interrupted one goes on where it stopped, and `verify` can find out whether every verdict is the one
that its runs demand.
"""

import copy
import math
import re
import secrets
import shutil
import subprocess
import sys
from contextlib import contextmanager

from ratchet import commits
from ratchet.arena.files import ROOT, Refused, cache_folder, sha256, work_folder
from ratchet.executors import local
from ratchet.experiments import progress as run_progress
from ratchet.experiments import verdicts
from ratchet.experiments.campaign import CANDIDATE, CHAMPION, Campaign
from ratchet.experiments.ledger import Ledger, bpb, counts, disturbed
from ratchet.referee import compiler_cache, devices, early_stopping, sealed_arena, trial
from ratchet.report import wandb as wandb_relay

MIN_SEEDS = 2  # of a calibration: one run has no sigma
TOLD = (
    "idea",
    "by",
    "gain",
    "near",
)  # facts of an experiment that don't tell whether it is the same one
# runs in a row that shared their device, or failed ones of a champion, before a verb gives up
RUN_TRIES = 3


class Shared(Refused):
    """Other programs use the device: the same command goes on when they have ended."""


class Bench:
    """Where to experiment: the repository with its ledger, a place of the pool, an arena, who to
    tell.
    """

    def __init__(
        self,
        device=None,
        arena=None,
        budget=None,
        busy=False,
        tell=lambda text: None,
        place=None,
        stop_hopeless=False,
        wandb=False,
    ):
        self.home = commits.home()
        self.ledger, self.place = Ledger(self.home), place or local.Local(device)
        self.busy, self.tell, self.budget, self.stop_hopeless = busy, tell, budget, stop_hopeless
        self.wandb = wandb or wandb_relay.asked()
        known = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)(s|tok|flop)", budget or "1s")
        if not known or not 0 < float(known[1]) < math.inf:
            raise Refused(f"budget {budget!r} is not understood: write 300s, 20e6tok or 1e15flop")
        self.arena = arena

    def enter(self):
        """Load the arena, by default the one that fits the device; the smallest is prepared if need
        be.
        """
        ready = (cache_folder() / "climbmix/arena.json").exists()
        small = self.conditions()["device"].startswith(("cpu", "mps"))
        name = self.arena or ("pocket" if small or not ready else "climbmix")
        if name == "pocket":
            if not self.prepare(name):
                raise Refused(
                    "arena pocket can't be prepared: see above, then give the same command again"
                )
        self.arena = sealed_arena.load_arena(name)
        self.budget = self.budget or f"{self.arena.seconds}s"

    def prepare(self, name):
        """Prepare an arena that needs no options, telling what takes long; whether it is there now."""
        command = [sys.executable, ROOT / "prepare.py", "--arena", name]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, encoding="utf-8", errors="replace"
        ) as process:
            for line in process.stdout:
                if not line.startswith(("arena ", "next: ")):  # said where it is all that is wanted
                    self.tell(f"  {line.rstrip()}")
        return process.returncode == 0

    def at(self, place):
        """The same bench at another place, with the same ledger."""
        other = copy.copy(self)
        other.place = place
        return other

    @contextmanager
    def alone(self):
        """Nobody else experiments in this repository meanwhile."""
        (self.home / "runs").mkdir(exist_ok=True)
        with open(self.home / "runs/.lock", "ab") as file:
            if not devices.lock(file):
                raise Refused("another experiment is running in this repository: wait for it")
            yield

    def compiled(self):
        """The folder of kept compiler caches: they are of no use on another kind of device."""
        return self.home / "runs/.compiled" / sha256(self.conditions()["device"].encode())[:12]

    def is_busy(self):
        """True while somebody experiments in this repository."""
        try:
            with self.alone():
                return False
        except Refused:
            return True

    def conditions(self):
        """What must be the same when scores are compared, beside the arena and the budget."""
        return self.place.conditions()

    def experiments(self):
        return [*self.ledger.experiments().values()]

    def campaign(self):
        """The campaign that a try belongs to. Raises Refused when there is none, or its judge has
        changed.
        """
        now = self.conditions()
        found = Campaign([e for e in self.experiments() if e.opens["device"] == now["device"]])
        if not found.baseline:
            command = f"uv run ratchet calibrate{getattr(self.place, 'option', '')}"
            raise Refused(f"there is no baseline on {now['device']}: run `{command}` first")
        if self.busy and not found.baseline.opens["busy"]:
            what = "the noise was measured without --busy: runs that others disturb can't be held against it"
            raise Refused(
                f"{what}; leave --busy out, or begin anew with `uv run ratchet calibrate --busy`"
            )
        self.arena, self.budget = (
            sealed_arena.load_arena(found.baseline.arena),
            found.baseline.budget,
        )
        for name, value in (now | {"seal": self.arena.seal}).items():
            if found.baseline.opens[name] != value:
                names = {"machinery": "prepare.py or ratchet/", "seal": f"arena {self.arena.name}"}
                what = f"{names.get(name, name)} has changed since the calibration"
                raise Refused(f"{what}: undo that, or begin anew with `uv run ratchet calibrate`")
        return found

    def open(self, role, arms, **more):
        """Open an experiment, or go on with one of the same role, arms and conditions that never
        closed.
        """
        facts = {
            "role": role,
            "arms": [source.facts() for source in arms],
            "arena": self.arena.name,
        }
        facts |= {"seal": self.arena.seal, "budget": self.budget, "busy": self.busy}
        facts |= self.conditions() | more
        for e in self.experiments():
            same = all(e.opens.get(key) == value for key, value in facts.items() if key not in TOLD)
            if same and not e.closes:
                self.tell(f"going on with experiment {e.n}, which was interrupted")
                return self.keep(e.n, arms[0])
        return self.keep(self.ledger.append("opens", salt=secrets.token_hex(8), **facts), arms[0])

    def champion_for(self, source, quick):
        """The commit that a try of a source is held against: when it goes on, the one that it began
        with.
        """
        campaign, wanted = self.campaign(), (source.commit, quick, self.busy)
        begun = (e for e in campaign.since if e.role == "try" and not e.closes)
        same = [
            e for e in begun if (e.arms[CANDIDATE]["commit"], e.quick, e.opens["busy"]) == wanted
        ]
        return same[-1].opens["parent"] if same else campaign.champion["commit"]

    def keep(self, n, source):
        """Keep an experiment's commit in reach, whatever becomes of its branch; returns n."""
        if source.commit:
            commits.git("update-ref", f"refs/ratchet/{n}", source.commit)
        return n

    def now(self, n):
        return self.ledger.experiments()[n]

    def run(
        self, n, arm, phase, source, seed=None, budget=None, splits=("val",), is_baseline=False
    ):
        """One run of an arm, into the ledger. Again when another program used the device, some
        times.
        """
        for _ in range(RUN_TRIES):
            self.ledger.check_room(work_folder())
            e, name = self.now(n), f"{phase}-{arm}"
            seed_now = e.seed() if seed is None else seed
            target = self.home / "runs" / str(n) / f"{len(e.runs)}-{name}"
            asked = seed_now, budget or self.budget, self.arena
            at = run_progress.of_experiment(e, self.experiments(), phase, asked[1])
            self.tell(
                f"experiment {n}, {at}: {phase} run of {source.name}, {asked[1]}, seed {seed_now}"
            )
            where = target, self.compiled()
            job = trial.Job(source, *asked, *where, tuple(splits), is_baseline)
            if self.stop_hopeless and phase == "screen":
                job = job._replace(reference=self.reference(e))
            facts = self.place.run(job)
            facts |= {"arm": arm, "phase": phase, "folder": str(target.relative_to(self.home))}
            facts["busy"] = self.busy
            self.ledger.append("run", n=n, **facts)
            self.tell(f"  {n}: {result_line(facts)}")
            if not disturbed(facts):
                return facts
            self.tell(
                "  it does not count, as other programs used the machine: again, with its seed"
            )
        raise Shared(
            f"experiment {n} waits: other programs use this machine ({facts['foreign_cpu']:.0%} of its CPU); "
            "close them and run the same command again, or calibrate and go on with --busy to count such runs"
        )

    def reference(self, e):
        """The curve of the champion's latest runs, as a job takes it."""
        same, source = (o for o in self.experiments() if o.key == e.key), e.arms[CHAMPION]["source"]
        found = [
            run for other in same for run in other.runs if run["source"] == source and counts(run)
        ]
        paths = [self.home / run["folder"] / "curve.jsonl" for run in found[-verdicts.RECENT :]]
        points = (early_stopping.read(path)[0] for path in paths)
        return tuple(
            early_stopping.reference([early_stopping.shares(each, self.budget) for each in points])
        )

    def close(self, n, decision):
        if not self.now(n).closes:
            self.ledger.append("closes", n=n, **decision._asdict())
        return self.settle(self.now(n))

    def settle(self, e):
        """What follows from a verdict: the ref points at the champion, or what only champions keep
        goes.
        """
        if e.verdict in ("keep", "baseline"):
            champion = Campaign(self.experiments(), e.key).champion["commit"]
            commits.git("update-ref", "refs/ratchet/champion", champion)
            return e
        for weights in (self.home / "runs" / str(e.n)).glob("*/model.safetensors"):
            weights.unlink()
        if e.role == "try":
            shutil.rmtree(
                self.compiled() / compiler_cache.cache_name(e.arms[0]["file"]), ignore_errors=True
            )
        return e

    def sent(self, e):
        """The experiment; wandb is told of it if the user wants. What goes wrong there harms
        nothing here.
        """
        try:
            if self.wandb:
                wandb_relay.send(e, self.home)
        except Exception as error:
            self.tell(f"  wandb could not be told: {type(error).__name__}: {error}")
        return e


def result_line(facts):
    """How a run ended, and where its time went."""
    score = (
        f"{bpb(facts):.4f} bpb"
        if facts["status"] == "ok"
        else f"{facts['status']}: {facts['reason']}"
    )
    if facts["shared"]:
        score += f", other programs used {facts['foreign_cpu']:.0%} of the CPU"
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in facts["seconds"].items())
    return f"{score} ({spent})"


def valid_or_failed(e, arm):
    """The runs of an arm, without those that were disturbed."""
    return (run for run in e.runs if run["arm"] == arm and not disturbed(run))
