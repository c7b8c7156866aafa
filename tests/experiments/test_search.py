"""The search: what it decides while lines come in, on however many devices, `verify` decides again."""

import functools
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest

from ratchet.experiments import verify
from ratchet.experiments.campaign import Campaign
from ratchet.experiments.ledger import CANDIDATE, CHAMPION, Ledger, is_disturbed
from ratchet.experiments.rule.search import Search
from ratchet.experiments.verdicts import (
    BOLD,
    CLOSING,
    DEFAULT,
    DRIFT,
    PROFILES,
    STRICT,
    Bar,
    Verdict,
)

SIGMA = 0.01
BASELINE = "baseline"
FAILURES = ("crash", "timeout", "overtime", "invalid", "memory")


class Lines:
    """Lines of a ledger, made one by one, and what a search makes of them."""

    def __init__(self):
        self.book = Ledger(Path("nowhere"))
        self.experiments, self.rows = self.book._experiments, self.book._rows
        self.search = Search(self.experiments)

    def add(self, kind, n, **row):
        row |= {"kind": kind, "n": n, "line": len(self.rows) + 1, "time": "2026-01-31T04:05:06Z"}
        self.book._add_row(row)
        self.search.add(row)
        return row

    def open(self, role, *sources, **more):
        """Open an experiment on these sources; returns its number."""
        n = 1 + len(self.experiments)
        arms = [{"source": name, "commit": name, "file": name, "size": 100} for name in sources]
        more = {"seal": "seal", "budget": "5s", "device": "cpu", "busy": False} | more
        self.add("opens", n, role=role, arms=arms, parent=sources[-1], **more)
        return n

    def run(self, n, arm, phase, bpb=None, status="ok", shared=False):
        """A run's line: of a score, or of how it failed."""
        e = self.experiments[n]
        run = {"arm": arm, "phase": phase, "status": status, "reason": "why", "shared": shared}
        run |= {"busy": False, "budget": e.budget, "file": e.arms[arm]["file"]}
        if status == "ok":
            run["val"] = {"nats": bpb * math.log(2) * 1000, "bytes": 1000}
        return self.add("run", n, **run)

    def close(self, n, verdict, **more):
        self.add("closes", n, **verdict._asdict(), **more)

    def decide(self, n):
        """Write the verdict that an experiment's lines demand."""
        step = self.search.next_step(n)
        assert isinstance(step, Verdict), step
        self.close(n, step, decides=self.search.decided_members(n, step.verdict))
        return step.verdict

    def calibrate(self, scores):
        n = self.open("calibrate", BASELINE, rule="points")
        for score in scores:
            self.run(n, CANDIDATE, "calibrate", score)
        self.close(n, Verdict("baseline", ""))


class RandomLines(Lines):
    """A campaign as the verbs write it: devices that search and hold trials, killed now and then.

    A device's work is a generator: it stops wherever other devices' lines, or a kill, may come
    between.
    """

    def __init__(self, seed):
        super().__init__()
        self.chance = random.Random(seed)
        self.profile = self.chance.choice([*PROFILES.values()])
        self.level = {BASELINE: 1.5}  # bpb, of each source
        self.drift = self.chance.choice([0, 0, 0.02 * SIGMA])  # of all levels, a line
        self.seen = Counter()
        self.calibrate([self.draw_score(BASELINE) for _ in range(5)])
        for _ in range(self.chance.choice((1, 1, 2))):
            self.hold_night(self.chance.randint(1, 8), lines=self.chance.randint(20, 50))

    def happens(self, name, probability):
        happens = self.chance.random() < probability
        self.seen[name] += happens
        return happens

    def draw_score(self, source):
        drift = self.drift * len(self.rows)
        return self.level[source] + drift + SIGMA * self.chance.gauss(0, 1)

    def hold_night(self, devices, lines):
        end = len(self.rows) + lines
        while len(self.rows) < end:
            self.holds_trial, self.at_work = False, set()
            work = [self.work() for _ in range(devices)]
            while len(self.rows) < end and not self.happens("kill", 0.03):
                next(self.chance.choice(work))
        self.holds_trial, self.at_work = False, set()
        for _ in self.hold_trials(is_last=True):
            pass
        if self.search.champion != BASELINE:
            self.measure_gain()

    def work(self):
        while True:
            yield from self.hold_trials()
            n = self.search.best_parked(self.profile, without=self.at_work)
            if n and self.happens("returns", 0.1):
                self.at_work.add(n)
                yield from self.run_arm(n, CANDIDATE, "search")
            else:
                n = self.choose_idea()
                self.at_work.add(n)
            yield from self.run_to_verdict(n)
            self.at_work.discard(n)

    def choose_idea(self):
        """One that a kill has interrupted, or a fresh one."""
        begun = [e.n for e in self.experiments.values() if e.role == "try" and not e.closes]
        begun = [n for n in begun if n not in self.at_work]
        if begun and self.happens("goes on", 0.8):
            return begun[0]
        base, source = self.search.champion, f"idea {len(self.experiments)}"
        effect = self.chance.choice((0, 0, -1, 0.7, 2, 3))
        self.level[source] = self.level[base] - effect * SIGMA
        more = {"profile": self.profile._asdict(), "may_tie": self.happens("may tie", 0.1)}
        return self.open("try", source, base, **more)

    def run_to_verdict(self, n):
        while not isinstance(step := self.search.next_step(n), Verdict):
            yield from self.run_arm(n, *step)
        self.close(n, step, decides=self.search.decided_members(n, step.verdict))
        self.seen[f"{self.experiments[n].role} {step.verdict}"] += 1

    def run_arm(self, n, arm, phase):
        run = None
        while not run or is_disturbed(run):
            yield
            status, source = "ok", self.experiments[n].arms[arm]["source"]
            if self.happens("failure", {"search": 0.05}.get(phase, 0.02)):
                status = self.chance.choice(FAILURES)
            is_first = phase == "search" and not self.search.pursuits[n].scores
            if is_first and self.happens("stopped", 0.1):
                status = "stopped"
            shared = self.happens("disturbed", 0.05)
            run = self.run(n, arm, phase, self.draw_score(source), status, shared)

    def hold_trials(self, is_last=False):
        if self.holds_trial:
            return
        self.holds_trial = True
        while True:
            trials = [e for e in self.experiments.values() if e.role == "trial" and not e.closes]
            n = trials[0].n if trials else None
            if not trials:
                members = self.search.choose_members(self.profile, is_last)
                if not members:
                    break
                n = self.begin_trial(members)
            if n:
                yield from self.run_to_verdict(n)
        self.holds_trial = False

    def begin_trial(self, numbers):
        ideas, base = [self.experiments[n] for n in numbers], self.search.champion
        members, alone = [], []
        for e in ideas:
            may_collide = members or e.parent != base
            collides = may_collide and self.happens("collision", 0.2)
            (alone if collides else members).append(e)
        if not members:
            self.seen["collides with the champion"] += 1
            return self.close(ideas[0].n, Verdict("withdrawn", "it collides"), collides=True)
        source = ideas[0].parent == base and len(ideas) == 1 and ideas[0].arms[0]["source"]
        source = source or f"merge {len(self.experiments)}"
        gains = [self.level[e.parent] - self.level[e.arms[0]["source"]] for e in members]
        self.level[source] = self.level[base] - sum(gains)
        self.seen["batch"] += len(members) > 1
        return self.open(
            "trial",
            source,
            base,
            members=[e.n for e in members],
            alone=[e.n for e in alone],
            profile=self.profile._asdict(),
            as_good=len(members) == 1 and members[0].may_tie,
        )

    def measure_gain(self):
        n = self.open("closing", BASELINE, self.search.champion)
        for letter in CLOSING:
            for _ in self.run_arm(n, int(letter == "A"), "closing"):
                pass
        self.close(n, Verdict("audited", ""))


@functools.cache
def draw_campaign(seed):
    """The ledger's lines as they are in the file, and what happened in it."""
    lines = RandomLines(seed)
    return json.dumps(lines.rows), lines.seen


def read_campaign(text):
    """The campaign of a ledger's lines."""
    book = Ledger(Path("nowhere"))
    for row in json.loads(text):
        book._add_row(row)
    return Campaign(book._experiments.values())


def is_decision(row, campaign):
    """Whether a line is a verdict that scores decide."""
    roles = {e.n: e.role for e in campaign.since}
    is_of_rule = row["kind"] == "closes" and roles[row["n"]] in ("try", "trial")
    return is_of_rule and not row.get("collides")


def read_decisions(campaign):
    """[(verdict, members that it decides)] as they were written."""
    rows = [row for row in campaign.rows if is_decision(row, campaign)]
    return [(Verdict(row["verdict"], row["reason"]), row["decides"]) for row in rows]


def replay(campaign):
    """The same, by the lines before each."""
    search, decisions = Search({e.n: e for e in campaign.since}), []
    for row in campaign.rows:
        if is_decision(row, campaign):
            step = search.next_step(row["n"])
            decisions.append((step, search.decided_members(row["n"], step.verdict)))
        search.add(row)
    return decisions


def find_wrong(text):
    return [*verify.wrong_by_points(read_campaign(text))]


CAMPAIGNS = range(1000)
HAPPENED = (
    *("kill", "goes on", "returns", "disturbed", "failure", "stopped", "may tie", "batch"),
    *("collision", "collides with the champion"),
    *("try out", "try hit", "try crash", "try timeout", "trial keep", "trial withdrawn"),
)


def test_verify_replays_a_thousand_campaigns_to_the_same_decisions():
    happened = Counter()
    for seed in CAMPAIGNS:
        text, seen = draw_campaign(seed)
        campaign, happened = read_campaign(text), happened + seen
        assert find_wrong(text) == [], seed
        assert replay(campaign) == read_decisions(campaign), seed
    assert min(happened[name] for name in HAPPENED) > 30, happened


def test_a_verdict_that_was_changed_is_found():
    chance, words = random.Random(0), ("out", "hit", "keep", "withdrawn", "crash")
    for seed in CAMPAIGNS:
        rows = json.loads(draw_campaign(seed)[0])
        roles = {row["n"]: row["role"] for row in rows if row["kind"] == "opens"}
        verdicts = [row for row in rows if row["kind"] == "closes" and row["n"] > 1]
        verdicts = [row for row in verdicts if roles[row["n"]] in ("try", "trial")]
        row = chance.choice(verdicts)
        row["verdict"] = chance.choice([word for word in words if word != row["verdict"]])
        assert find_wrong(json.dumps(rows)), seed


def test_a_score_that_was_changed_is_found_or_every_decision_is_the_same():
    chance, found = random.Random(1), 0
    for seed in CAMPAIGNS:
        rows = json.loads(draw_campaign(seed)[0])
        before = read_decisions(read_campaign(json.dumps(rows)))
        chance.choice([row for row in rows if "val" in row])["val"]["nats"] *= chance.gauss(1, 0.03)
        text = json.dumps(rows)
        if find_wrong(text):
            found += 1
            continue
        after = replay(read_campaign(text))
        assert [(step.verdict, decides) for step, decides in after] == [
            (step.verdict, decides) for step, decides in before
        ]
    assert found > 200


def test_decisions_made_anew_from_all_lines_are_those_made_line_by_line():
    for seed in range(20):
        rows = json.loads(draw_campaign(seed)[0])
        for count in range(len(rows)):
            if rows[count]["kind"] == "closes" and "decides" in rows[count]:
                campaign, n = read_campaign(json.dumps(rows[:count])), rows[count]["n"]
                words = rows[count]["verdict"], rows[count]["reason"]
                assert campaign.search.next_step(n) == words
