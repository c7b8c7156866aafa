"""The search: what the lines of a campaign say of bars, points and trials, line by line.

Lines are added in the order of the ledger. What an experiment does next follows from those before:
so decisions are the same whether they are made while the runs come in, on however many devices, or
recomputed by `verify`.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ratchet.arena.files import sha256
from ratchet.experiments import verdicts
from ratchet.experiments.goals import VAL_BPB, Goal
from ratchet.experiments.ledger import (
    BASELINE,
    CANDIDATE,
    CHAMPION,
    Experiment,
    Row,
    bpb,
    is_valid,
    score_of,
)
from ratchet.experiments.rule.failures import failed_verdict
from ratchet.experiments.rule.slack import Slack
from ratchet.experiments.rule.statistics import Comparison, Noise, NoiseTracker
from ratchet.experiments.verdicts import Bar, Profile, Verdict

# Phases of runs that tell a champion's level, since nothing was selected by them.
LEVEL_PHASES = ("bar", "closing", "audit")
# First runs in a row that were stopped half-way, after which the champion runs: on a machine that
# has become slower everything is behind the champion's earlier runs.
MOST_STOPPED = 10


@dataclass
class Pursuit:
    """What is known of an idea, or of a trial, after some lines."""

    experiment: Experiment
    seeds: list[int] = field(default_factory=list)  # of its valid runs
    scores: list[float] = field(default_factory=list)  # of these; in a search without luck
    gains: list[float] = field(default_factory=list)  # of these, in sigma over the bar of then
    bpbs: list[float] = field(default_factory=list)  # val_bpb of these, whatever the goal
    failure: Verdict | None = None
    bar: Bar = Bar(math.nan, math.inf)  # what it was held against last
    noise: Noise = Noise(math.nan, 0)  # of then
    verdict: str = ""
    alone: bool = False  # whether its trial is to be one without others

    @property
    def profile(self) -> Profile:
        return Profile(**self.experiment.profile)

    @property
    def base(self) -> str:
        """The source that it is held against."""
        return self.experiment.arms[CHAMPION]["source"]


class Search:
    """Bars, noise, points and verdicts after the lines that were added."""

    def __init__(self, experiments: Mapping[int, Experiment]) -> None:
        self.experiments = experiments  # what they were opened with; their runs are not looked at
        self.slack: Slack | None = None  # where another measure than val_bpb is the goal
        self.champion = ""  # its source
        self.bars: dict[str, Bar] = {}  # {source of a champion: its level}
        self.luck: dict[str, dict[int, float]] = {}  # {source: {seed: score - level}} of these
        self.tracker = NoiseTracker()
        self.pursuits: dict[int, Pursuit] = {}
        self.stopped = 0  # runs in a row
        self.noises: list[tuple[int, Noise]] = []  # (line, noise) after each one

    @property
    def goal(self) -> Goal:
        return next((e.goal for e in self.experiments.values()), VAL_BPB)

    @property
    def noise(self) -> Noise:
        return self.goal.with_floor(self.tracker.noise)

    # ----------------------------------------------------------------------------------------------
    # Lines

    def add(self, row: Row) -> None:
        """Add the next line of the ledger."""
        if row["kind"] == "opens":
            self.pursuits[row["n"]] = Pursuit(self.experiments[row["n"]])
            for n in row.get("alone", ()):
                self.pursuits[n].alone = True
        elif row["kind"] == "run":
            self._add_run(self.pursuits[row["n"]], row)
        else:
            self._add_verdict(self.pursuits[row["n"]], row)
        self.noises.append((row["line"], self.noise))

    def _add_run(self, pursuit: Pursuit, run: Row) -> None:
        e = pursuit.experiment
        if run["arm"] == CANDIDATE and (failure := failed_verdict([run])):
            pursuit.failure = pursuit.failure or failure
        self.stopped = self.stopped + 1 if run["status"] == "stopped" else 0
        if not is_valid(run) or run["budget"] != e.budget:
            return
        source, score, phase = e.arms[run["arm"]]["source"], score_of(run, self.goal), run["phase"]
        if phase in ("search", "trial", "calibrate"):
            pursuit.bpbs.append(bpb(run))
            self._add_score(pursuit, phase, run["seed"], score)
        elif phase in LEVEL_PHASES and source in self.bars:
            self.bars[source] = self.bars[source].updated(score)
            self.luck[source][run["seed"]] = score - self.bars[source].level
            self.tracker.add(source, score)
            if self.slack and source == self.slack.source:
                self.slack.add(bpb(run))
        self.bars = {name: bar.drifted() for name, bar in self.bars.items()}
        if self.slack:
            self.slack.drift()

    def _add_score(self, pursuit: Pursuit, phase: str, seed: int, score: float) -> None:
        if phase == "search" and self.goal.is_val_bpb:  # others hardly depend on a seed
            score = verdicts.without_luck(score, self.luck[pursuit.base].get(seed, 0.0))
        pursuit.seeds.append(seed)
        pursuit.scores.append(score)
        if phase != "calibrate":
            pursuit.bar, pursuit.noise = self.bars[pursuit.base], self.noise
            pursuit.gains.append(verdicts.gain_over(pursuit.bar, score, self.noise.sigma))

    def _add_verdict(self, pursuit: Pursuit, row: Row) -> None:
        e = pursuit.experiment
        pursuit.verdict = row["verdict"]
        if e.role == "trial":
            pursuit.bar, pursuit.noise = self.bars[pursuit.base], self.noise
        for n in row.get("decides", ()):
            self.pursuits[n].verdict = row["verdict"]
        if e.role == "trial" and row["verdict"] != "keep":
            for n in e.members:  # what failed together is tried apart
                self.pursuits[n].alone = True
        if row["verdict"] in ("baseline", "keep"):
            self.champion = e.arms[CANDIDATE]["source"]
            bar = self.bars[self.champion] = verdicts.bar_of(pursuit.scores)
            runs = zip(pursuit.seeds, pursuit.scores)
            self.luck[self.champion] = {seed: score - bar.level for seed, score in runs}
            for score in pursuit.scores:
                self.tracker.add(self.champion, score)
        if row["verdict"] == "baseline" and not self.goal.is_val_bpb:
            self.slack = Slack(self.champion, pursuit.bpbs)

    # ----------------------------------------------------------------------------------------------
    # Decisions

    def next_step(self, n: int) -> tuple[int, str] | Verdict:
        """What a try or a trial does next: (arm, phase) of a run, or the verdict that ends it.

        Example: (CANDIDATE, "search") -> (CHAMPION, "bar") -> (CANDIDATE, "search") -> Verdict.
        """
        pursuit = self.pursuits[n]
        is_trial = pursuit.experiment.role == "trial"
        if pursuit.failure and is_trial:
            failure = pursuit.failure
            return Verdict("withdrawn", f"{failure.verdict}: {failure.reason}")
        if pursuit.failure:
            return pursuit.failure
        if is_trial and pursuit.base != self.champion:
            return Verdict("withdrawn", "there is another champion now: it is tried again")
        verdict = self._judge(pursuit)
        step = self._hold_to_slack(pursuit, verdict, self.slack) if self.slack else verdict
        if step != verdict or verdict.verdict:
            return step
        if pursuit.base == self.champion and self._is_vague(pursuit):
            return CHAMPION, "bar"
        return CANDIDATE, "trial" if is_trial else "search"

    def shared_seed(self, n: int) -> int | None:
        """The seed of an idea's next run: one that its champion has had, None if all were used.

        Each idea has its own order of them, so that none decides on all ideas.
        """
        pursuit = self.pursuits[n]
        unused = self.luck[pursuit.base].keys() - pursuit.seeds
        salt = pursuit.experiment.salt
        return min(unused, key=lambda seed: sha256(f"{salt} {seed}".encode()), default=None)

    def _is_vague(self, pursuit: Pursuit) -> bool:
        """Whether the champion must run before another candidate does."""
        is_uncertain = self.bars[pursuit.base].variance > pursuit.profile.most_variance
        return is_uncertain or self.stopped >= MOST_STOPPED

    def _judge(self, pursuit: Pursuit) -> Verdict:
        e, bar = pursuit.experiment, self.bars[pursuit.base]
        if e.role == "trial":
            return verdicts.decide_trial(
                pursuit.scores,
                bar,
                self.noise,
                pursuit.profile,
                as_good=e.as_good,
                goal=self.goal,
            )
        verdict = verdicts.decide_search(pursuit.gains, bar.variance, pursuit.profile)
        if verdict.verdict == "out" and e.may_tie and verdicts.may_be_a_tie(pursuit.gains):
            return Verdict("hit", f"{verdict.reason}, but it may be as good with less code")
        return verdict

    def _hold_to_slack(
        self, pursuit: Pursuit, verdict: Verdict, slack: Slack
    ) -> tuple[int, str] | Verdict:
        """What follows from a verdict where val_bpb must not get worse meanwhile."""
        is_trial = pursuit.experiment.role == "trial"
        if slack.is_far(pursuit.bpbs):
            words = f"{slack.describe(pursuit.bpbs)}: far beyond it"
            return Verdict("withdrawn" if is_trial else "out", words)
        if verdict.verdict != "keep":
            return verdict
        if slack.is_vague:
            return CHAMPION if slack.source == self.champion else BASELINE, "bar"
        words = f"{verdict.reason}; {slack.describe(pursuit.bpbs)}"
        if slack.allows(pursuit.bpbs):
            return Verdict("keep", f"{words}: within it")
        return Verdict("withdrawn", f"{words}: not shown to be within it")

    def compare(self, n: int) -> Comparison | None:
        """How a try or a trial compares with the bar of its last run; None before that."""
        pursuit = self.pursuits[n]
        if not pursuit.gains or not pursuit.noise.df:
            return None
        return verdicts.compare_with_bar(pursuit.scores, pursuit.bar, pursuit.noise)

    def points_of(self, n: int) -> float | None:
        """Points of an idea after its last run; None before that."""
        pursuit = self.pursuits[n]
        variance = pursuit.bar.drifted().variance
        if not pursuit.gains:
            return None
        return verdicts.count_points(pursuit.gains, variance, pursuit.profile)

    def decided_members(self, n: int, verdict: str) -> list[int]:
        """Numbers of the ideas whose verdict a trial's verdict is.

        What fails together is tried apart, and what began before another champion is tried again.
        """
        pursuit = self.pursuits[n]
        members = pursuit.experiment.members
        if pursuit.experiment.role != "trial":
            return []
        is_decided = verdict == "keep" or (len(members) == 1 and pursuit.base == self.champion)
        return [*members] if is_decided else []

    def list_hits(self, profile: str) -> list[int]:
        """Numbers of the ideas that wait for a trial with a profile of that name."""
        return [
            n
            for n, pursuit in self.pursuits.items()
            if pursuit.verdict == "hit" and pursuit.profile.name == profile
        ]

    def choose_members(self, profile: Profile, is_last: bool = False) -> list[int]:
        """Numbers of the ideas that are to be tried together now, [] while more are awaited.

        is_last: no more will come.
        """
        hits = self.list_hits(profile.name)
        if alone := [n for n in hits if self.pursuits[n].alone]:
            return alone[:1]
        return hits[: profile.batch] if len(hits) >= profile.batch or is_last else []

    def best_parked(self, profile: Profile, without: Collection[int] = ()) -> int | None:
        """The idea that is out with most points, to which a search returns without fresh ones."""
        points = {
            n: verdicts.count_points(p.gains, self.bars[p.base].variance, profile)
            for n, p in self.pursuits.items()
            if n not in without
            and p.verdict == "out"
            and p.gains
            and p.profile.name == profile.name
            and not (self.slack and self.slack.is_far(p.bpbs))
        }
        return max(points, key=points.__getitem__, default=None)
