"""Experiments: what each verb runs, in which order, until its question is answered.

What an experiment does next follows from its lines in the ledger alone (`next_step`). So an interrupted one
goes on where it stopped, and `verify` can find out whether every verdict is the one that its runs demand.
"""

import copy
import math
import re
import secrets
import shutil
import subprocess
import sys
from contextlib import contextmanager
from itertools import filterfalse

from ratchet import curves, devices, guard, pool, progress, referee, relay, repository, sources, verdicts
from ratchet.campaign import CANDIDATE, CHAMPION, MOST_TEXT, Campaign
from ratchet.ledger import Ledger, bpb, counts, disturbed
from ratchet.running import working_on
from ratchet.sources import Refused
from ratchet.verdicts import Verdict

MIN_SEEDS = 2  # of a calibration: one run has no sigma
TOLD = "idea", "by", "gain", "near"  # facts of an experiment that don't tell whether it is the same one
RUN_TRIES = 3  # runs in a row that shared their device, or failed ones of a champion, before a verb gives up


class Shared(Refused):
    """Other programs use the device: the same command goes on when they have ended."""


def failure(runs):
    """The verdict that a run which gave no score forces, or None."""
    for run in filterfalse(disturbed, runs):
        if run["status"] == "hopeless":
            return Verdict("discard", f"it could not catch up: {run['reason']}")
        if run["status"] in ("crash", "timeout", "overtime", "invalid"):
            return Verdict(run["status"], run["reason"])
        if run["status"] != "ok":
            return Verdict("crash", f"{run['status']}: {run['reason']}")
    return None


def next_step(e, campaign):
    """What a try does next: (arm, phase) of a run, or the verdict that ends it."""
    own = [run for run in e.runs if run["arm"] == CANDIDATE]
    if decision := failure(own):
        return decision
    if kept := campaign.kept_beside(e):
        return Verdict("overtaken", f"experiment {kept[-1].n} became the champion meanwhile")
    reference = e.scores(CHAMPION, "reference")
    before = reference or campaign.recent(e.arms[CHAMPION]["source"], e)
    screened, tried = e.scores(CANDIDATE, "screen"), e.scores(CANDIDATE, "confirm")
    champion = e.scores(CHAMPION, "champion")
    if not before:
        return CHAMPION, "reference"
    if not screened:
        return CANDIDATE, "screen"
    noise = campaign.noise(before=e.line)
    if e.quick:
        return verdicts.decide_quick(screened[0], before, noise)
    if not verdicts.screen(screened[0], before, noise):
        what = verdicts.figures(verdicts.compare(screened[:1], before, noise), noise)
        return Verdict("discard", f"worse on its first seed: {what}")
    if len(tried) == len(champion):
        verdict = verdicts.decide(tried, before + champion, noise, e.arms[0]["size"] < e.arms[1]["size"])
        if verdict.verdict:
            return verdict
    first = CANDIDATE if min(len(tried), len(champion)) % 2 == 0 else CHAMPION  # in turns, against drift
    arm = first if len(tried) == len(champion) else CANDIDATE if len(tried) < len(champion) else CHAMPION
    return arm, "confirm" if arm == CANDIDATE else "champion"


class Bench:
    """Where to experiment: the repository with its ledger, a place of the pool, an arena, who to tell."""

    def __init__(self, device=None, arena=None, budget=None, busy=False, tell=lambda text: None, place=None,
                 stop_hopeless=False, wandb=False):  # fmt: skip
        self.home = repository.home()
        self.ledger, self.place = Ledger(self.home), place or pool.Local(device)
        self.busy, self.tell, self.budget, self.stop_hopeless = busy, tell, budget, stop_hopeless
        self.wandb = wandb or relay.asked()
        known = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)(s|tok|flop)", budget or "1s")
        if not known or not 0 < float(known[1]) < math.inf:
            raise Refused(f"budget {budget!r} is not understood: write 300s, 20e6tok or 1e15flop")
        self.arena = arena

    def enter(self):
        """Load the arena, by default the one that fits the device; the smallest is prepared if need be."""
        ready = (devices.cache_folder() / "climbmix/arena.json").exists()
        small = self.conditions()["device"].startswith(("cpu", "mps"))
        name = self.arena or ("pocket" if small or not ready else "climbmix")
        if name == "pocket":
            if not self.prepare(name):
                raise Refused("arena pocket can't be prepared: see above, then give the same command again")
        self.arena = referee.load_arena(name)
        self.budget = self.budget or f"{self.arena.seconds}s"

    def prepare(self, name):
        """Prepare an arena that needs no options, telling what takes long; whether it is there now."""
        command = [sys.executable, sources.ROOT / "prepare.py", "--arena", name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", errors="replace") as process:
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
        return self.home / "runs/.compiled" / sources.sha256(self.conditions()["device"].encode())[:12]

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
        """The campaign that a try belongs to. Raises Refused when there is none, or its judge has changed."""
        now = self.conditions()
        found = Campaign([e for e in self.experiments() if e.opens["device"] == now["device"]])
        if not found.baseline:
            command = f"uv run ratchet calibrate{getattr(self.place, 'option', '')}"
            raise Refused(f"there is no baseline on {now['device']}: run `{command}` first")
        if self.busy and not found.baseline.opens["busy"]:
            what = "the noise was measured without --busy: runs that others disturb can't be held against it"
            raise Refused(f"{what}; leave --busy out, or begin anew with `uv run ratchet calibrate --busy`")
        self.arena, self.budget = referee.load_arena(found.baseline.arena), found.baseline.budget
        for name, value in (now | {"seal": self.arena.seal}).items():
            if found.baseline.opens[name] != value:
                names = {"machinery": "prepare.py or ratchet/", "seal": f"arena {self.arena.name}"}
                what = f"{names.get(name, name)} has changed since the calibration"
                raise Refused(f"{what}: undo that, or begin anew with `uv run ratchet calibrate`")
        return found

    def open(self, role, arms, **more):
        """Open an experiment, or go on with one of the same role, arms and conditions that never closed."""
        facts = {"role": role, "arms": [source.facts() for source in arms], "arena": self.arena.name}
        facts |= {"seal": self.arena.seal, "budget": self.budget, "busy": self.busy}
        facts |= self.conditions() | more
        for e in self.experiments():
            same = all(e.opens.get(key) == value for key, value in facts.items() if key not in TOLD)
            if same and not e.closes:
                self.tell(f"going on with experiment {e.n}, which was interrupted")
                return self.keep(e.n, arms[0])
        return self.keep(self.ledger.append("opens", salt=secrets.token_hex(8), **facts), arms[0])

    def champion_for(self, source, quick):
        """The commit that a try of a source is held against: when it goes on, the one that it began with."""
        campaign, wanted = self.campaign(), (source.commit, quick, self.busy)
        begun = (e for e in campaign.since if e.role == "try" and not e.closes)
        same = [e for e in begun if (e.arms[CANDIDATE]["commit"], e.quick, e.opens["busy"]) == wanted]
        return same[-1].opens["parent"] if same else campaign.champion["commit"]

    def keep(self, n, source):
        """Keep an experiment's commit in reach, whatever becomes of its branch; returns n."""
        if source.commit:
            sources.git("update-ref", f"refs/ratchet/{n}", source.commit)
        return n

    def now(self, n):
        return self.ledger.experiments()[n]

    def run(self, n, arm, phase, source, seed=None, budget=None, splits=("val",), is_baseline=False):
        """One run of an arm, into the ledger. Again when another program used the device, some times."""
        for _ in range(RUN_TRIES):
            self.ledger.check_room(devices.work_folder())
            e, name = self.now(n), f"{phase}-{arm}"
            seed_now = e.seed() if seed is None else seed
            target = self.home / "runs" / str(n) / f"{len(e.runs)}-{name}"
            asked = seed_now, budget or self.budget, self.arena
            at = progress.of_experiment(e, self.experiments(), phase, asked[1])
            self.tell(f"experiment {n}, {at}: {phase} run of {source.name}, {asked[1]}, seed {seed_now}")
            where = target, self.compiled()
            job = referee.Job(source, *asked, *where, tuple(splits), is_baseline)
            if self.stop_hopeless and phase == "screen":
                job = job._replace(reference=self.reference(e))
            facts = self.place.run(job)
            facts |= {"arm": arm, "phase": phase, "folder": str(target.relative_to(self.home))}
            facts["busy"] = self.busy
            self.ledger.append("run", n=n, **facts)
            self.tell(f"  {n}: {result_line(facts)}")
            if not disturbed(facts):
                return facts
            self.tell("  it does not count, as other programs used the machine: again, with its seed")
        raise Shared(
            f"experiment {n} waits: other programs use this machine ({facts['foreign_cpu']:.0%} of its CPU); "
            "close them and run the same command again, or calibrate and go on with --busy to count such runs"
        )

    def reference(self, e):
        """The curve of the champion's latest runs, as a job takes it."""
        same, source = (o for o in self.experiments() if o.key == e.key), e.arms[CHAMPION]["source"]
        found = [run for other in same for run in other.runs if run["source"] == source and counts(run)]
        paths = [self.home / run["folder"] / "curve.jsonl" for run in found[-verdicts.RECENT :]]
        points = (curves.read(path)[0] for path in paths)
        return tuple(curves.reference([curves.shares(each, self.budget) for each in points]))

    def close(self, n, decision):
        if not self.now(n).closes:
            self.ledger.append("closes", n=n, **decision._asdict())
        return self.settle(self.now(n))

    def settle(self, e):
        """What follows from a verdict: the ref points at the champion, or what only champions keep goes."""
        if e.verdict in ("keep", "baseline"):
            champion = Campaign(self.experiments(), e.key).champion["commit"]
            sources.git("update-ref", "refs/ratchet/champion", champion)
            return e
        for weights in (self.home / "runs" / str(e.n)).glob("*/model.safetensors"):
            weights.unlink()
        if e.role == "try":
            shutil.rmtree(self.compiled() / referee.cache_name(e.arms[0]["file"]), ignore_errors=True)
        return e

    def sent(self, e):
        """The experiment; wandb is told of it if the user wants. What goes wrong there harms nothing here."""
        try:
            if self.wandb:
                relay.send(e, self.home)
        except Exception as error:
            self.tell(f"  wandb could not be told: {type(error).__name__}: {error}")
        return e


def result_line(facts):
    """How a run ended, and where its time went."""
    score = f"{bpb(facts):.4f} bpb" if facts["status"] == "ok" else f"{facts['status']}: {facts['reason']}"
    if facts["shared"]:
        score += f", other programs used {facts['foreign_cpu']:.0%} of the CPU"
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in facts["seconds"].items())
    return f"{score} ({spent})"


def calibrate(bench, seeds=5, may_replace=lambda question: True):
    """Measure sigma with several seeds of HEAD's train.py, which becomes the first champion.

    may_replace(question): whether a champion that was kept may give way; Refused is raised if not.
    """
    if seeds < MIN_SEEDS:
        raise Refused(f"-n {seeds} is too few: sigma needs at least {MIN_SEEDS} seeds, 5 are sensible")
    sources.check_clean()
    source = sources.read_source("HEAD")
    if e := replaced_by(bench, source):
        what = f"HEAD's train.py will be the champion instead of experiment {e.n}'s"
        if e.verdict == "keep" and not may_replace(f"{what}, which was kept"):
            raise Refused(f"experiment {e.n} stays the champion: give the command again to replace it")
        bench.tell(f"  {what}")
    bench.enter()
    n = bench.open("calibrate", [source], idea="the baseline", seeds=seeds)
    with working_on(bench.home, n):
        return measure_noise(bench, n, source, seeds)


def replaced_by(bench, source):
    """The experiment whose source, another one, a calibration replaces as champion on this device, or None.

    None, too, when a calibration of the source has begun since and has not ended: it was agreed to then.
    """
    device = bench.conditions()["device"]
    own = [e for e in bench.experiments() if e.opens["device"] == device]
    campaign, shape = Campaign(own), source.facts()["source"]
    if not campaign.baseline or campaign.champion["source"] == shape:
        return None
    kept = campaign.kept[-1]
    begun = (e for e in own if e.role == "calibrate" and not e.closes and e.line > kept.closes["line"])
    return None if any(e.arms[0]["source"] == shape for e in begun) else kept


def measure_noise(bench, n, source, seeds):
    """A calibration to its end."""
    while len(bench.now(n).scores(0)) < seeds:
        facts = bench.run(n, 0, "calibrate", source, is_baseline=True)
        if facts["status"] != "ok":
            return bench.close(n, failure([facts]))
    scores = bench.now(n).scores(0)
    noise, mean = verdicts.pooled([scores]), sum(scores) / seeds
    low, high = verdicts.sigma_range(noise)
    what = f"mean {mean:.4f}, sigma {noise.sigma:.4f} bpb (95%: {low:.4f} to {high:.4f}), {seeds} seeds"
    return bench.close(n, Verdict("baseline", what))


def attempt(bench, idea, what="HEAD", quick=False, again=False, by="", parent=None, **told):
    """Try a commit's train.py against the champion: screen, confirm, verdict. Returns the experiment.

    parent: the champion that the idea is meant for; None is returned when that is the champion no more.
    told: gain, in bpb, that was expected of the idea; near, the number of an earlier experiment it is like.
    """
    if what == "HEAD":
        sources.check_clean()
    source, campaign = sources.read_source(what), bench.campaign()
    if what == source.commit:
        source = source._replace(name=what[:7])
    shape = source.facts()["source"]
    known = [e for e in campaign.tried if e.arms[0]["source"] == shape and e.verdict != "overtaken"]
    if known and not again:
        return bench.settle(known[-1])  # which a kill may have cut short
    sources.check_commit(source.commit)
    idea, by = (guard.clean(text.encode(errors="replace"))[:MOST_TEXT] for text in (idea, by))
    more = {"quick": quick, "baseline": campaign.baseline.n, "idea": idea, "by": by} | told
    with bench.ledger.held:  # nobody makes another champion meanwhile
        champion = bench.champion_for(source, quick)
        if parent and parent != champion:
            return None
        arms = source, sources.read_source(champion)._replace(name="champion")
        n = bench.open("try", arms, parent=champion, **more)
    with working_on(bench.home, n):
        return judge(bench, n, arms)


def judge(bench, n, arms):
    """A try to its verdict, run after run."""
    while True:
        bench.campaign()  # refuses when the judge has changed
        with bench.ledger.held:  # no line comes between a verdict and what it follows from
            step = next_step(bench.now(n), Campaign(bench.experiments(), bench.now(n).key))
            ended = isinstance(step, Verdict) and bench.close(n, step)
        if ended:
            return bench.sent(ended)
        facts = bench.run(n, *step, arms[step[0]])
        failed = sum(run["status"] != "ok" for run in valid_or_failed(bench.now(n), CHAMPION))
        if step[0] == CHAMPION and facts["status"] != "ok" and failed % RUN_TRIES == 0:
            what = f"the champion's own run ended as {facts['status']} ({facts['reason']}) {RUN_TRIES} times"
            raise Refused(f"{what}: mend that first")


def valid_or_failed(e, arm):
    """The runs of an arm, without those that were disturbed."""
    return (run for run in e.runs if run["arm"] == arm and not disturbed(run))
