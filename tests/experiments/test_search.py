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
from ratchet.experiments.rule.search import MOST_STOPPED, Search
from ratchet.experiments.verdicts import (
    CLOSING,
    DEFAULT,
    DRIFT,
    PROFILES,
    SEED_SHARE,
    STRICT,
    TIE_RUNS,
    Bar,
    Verdict,
)

SIGMA = 0.01
BASELINE = "baseline"
TWO = DEFAULT._replace(batch=2, step=1.0, hit=0.5, runs=3, z=1.0, most_variance=0.25)
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
        self.add("opens", n, role=role, arms=arms, **{"parent": sources[-1]} | more)
        return n

    def run(self, n, arm, phase, bpb=None, status="ok", shared=False, seed=None):
        """A run's line: of a score, or of how it failed; the seed is a fresh one by default."""
        e = self.experiments[n]
        run = {"arm": arm, "phase": phase, "status": status, "reason": "why", "shared": shared}
        run |= {"busy": False, "budget": e.budget, "file": e.arms[arm]["file"]}
        run["seed"] = len(self.rows) if seed is None else seed
        if status == "ok":
            run["val"] = {"nats": bpb * math.log(2) * 1000, "bytes": 1000}
        return self.add("run", n, **run)

    def close(self, n, verdict, **more):
        self.add("closes", n, **verdict._asdict(), **more)

    def decide(self, n):
        """Write the verdict that an experiment's lines demand."""
        step = self.search.next_step(n)
        assert isinstance(step, Verdict), step
        self.close_as(n, step)
        return step.verdict

    def close_as(self, n, verdict):
        more = {}
        if self.experiments[n].role == "trial":
            more["decides"] = self.search.decided_members(n, verdict.verdict)
        self.close(n, verdict, **more)

    def calibrate(self, scores):
        n = self.open("calibrate", BASELINE, rule="points")
        for score in scores:
            self.run(n, CANDIDATE, "calibrate", score)
        self.close(n, Verdict("baseline", ""))


# --------------------------------------------------------------------------------------------------
# Decisions worked by hand


def calibrated(*ideas, profile=TWO, **more):
    """A search with a bar of 1.5 bpb and a sigma of 0.01, and tries of sources with these names."""
    lines = Lines()
    lines.calibrate([1.5 + SIGMA * math.sqrt(2) * way for way in (-1, 1, 0, 0, 0)])
    for name in ideas:
        lines.open("try", name, BASELINE, salt=name, profile=profile._asdict(), **more)
    return lines


def hits(*ideas, **more):
    """The same after a run of each that gains 5 sigma."""
    lines = calibrated(*ideas, **more)
    for n in range(2, 2 + len(ideas)):
        lines.run(n, CANDIDATE, "search", 1.45)
        assert lines.decide(n) == "hit"
    return lines


def hold_trial(lines, members, score, champion=BASELINE, profile=TWO, **more):
    """The verdict of a trial whose runs all have this score."""
    name = f"merge of {members}"
    n = lines.open("trial", name, champion, profile=profile._asdict(), members=members, **more)
    while not isinstance(step := lines.search.next_step(n), Verdict):
        lines.run(n, *step, 1.5 if step[0] == CHAMPION else score)
    return lines.decide(n)


def test_only_the_champions_own_runs_move_its_bar():
    lines = calibrated("idea")
    search = lines.search
    assert search.bars == {BASELINE: Bar(pytest.approx(1.5), 1 / 5)} and search.noise.df == 4
    assert search.noise.sigma == pytest.approx(SIGMA)
    lines.run(2, CANDIDATE, "search", 1.4)
    assert search.bars[BASELINE] == (pytest.approx(1.5), 1 / 5 + DRIFT) and search.noise.df == 4
    lines.run(2, CHAMPION, "bar", 1.6)
    level, variance = search.bars[BASELINE]
    weight = (0.2 + DRIFT) / (1.2 + DRIFT)
    assert level == pytest.approx(1.5 + 0.1 * weight)
    assert variance == pytest.approx(weight + DRIFT) and search.noise.df == 5
    before = search.bars
    lines.run(2, CHAMPION, "bar", status="crash")
    lines.run(2, CHAMPION, "bar", 1.9, shared=True)
    assert search.bars == before


def test_a_part_of_the_champions_luck_with_a_seed_is_expected_of_an_idea():
    lines = calibrated("idea")
    search = lines.search
    luck = dict(search.luck[BASELINE])
    assert len(luck) == 5 and sum(luck.values()) == pytest.approx(0)
    seed, least = min(luck.items(), key=lambda pair: pair[1])
    lines.run(2, CANDIDATE, "search", 1.5 + least, seed=seed)
    expected = -(1 - SEED_SHARE) * least / SIGMA
    assert search.pursuits[2].gains == pytest.approx([expected]) and luck == search.luck[BASELINE]
    lines.run(2, CANDIDATE, "search", 1.47)  # on a fresh seed
    assert search.pursuits[2].gains[1] == pytest.approx(3)
    run = lines.run(2, CHAMPION, "bar", 1.6)
    assert search.luck[BASELINE][run["seed"]] == pytest.approx(
        1.6 - search.bars[BASELINE].level, abs=0.01
    )


def test_each_idea_takes_all_seeds_of_its_champion_in_an_order_of_its_own():
    lines, orders = calibrated(*"abcdefgh"), []
    seeds = {*lines.search.luck[BASELINE]}
    for n in range(2, 10):
        order: list[int] = []
        while (seed := lines.search.shared_seed(n)) is not None:
            lines.run(n, CANDIDATE, "search", 1.5, shared=True, seed=seed)  # does not count
            assert lines.search.shared_seed(n) == seed
            lines.run(n, CANDIDATE, "search", 1.5, seed=seed)
            order.append(seed)
        assert len(order) == 5 and {*order} == seeds
        orders.append(order)
    assert len({*map(tuple, orders)}) == 8
    lines.run(2, CHAMPION, "bar", 1.5, seed=77)
    assert {lines.search.shared_seed(n) for n in range(2, 10)} == {77}


def test_a_new_champion_has_the_seeds_of_its_trial():
    lines = hits("one")
    assert hold_trial(lines, [2], 1.45) == "keep"
    trial = lines.experiments[max(lines.experiments)]
    luck = lines.search.luck[lines.search.champion]
    assert luck == {run["seed"]: pytest.approx(0) for run in trial.runs if run["arm"] == CANDIDATE}


def test_points_decide_a_search():
    """A gain of 2 sigma is 1 more than a step: 1 / (1 + 0.2015) points, more than 0.5."""
    lines = calibrated("good", "bad", "near")
    assert lines.search.next_step(2) == (CANDIDATE, "search")
    for n, score in ((2, 1.48), (3, 1.4901), (4, 1.487)):
        lines.run(n, CANDIDATE, "search", score)
    assert (
        lines.search.next_step(2).verdict == "hit" and "+2.0 sigma" in lines.search.next_step(2)[1]
    )
    assert lines.search.next_step(3).verdict == "out"
    assert lines.search.next_step(4) == (CANDIDATE, "search")
    lines.run(4, CANDIDATE, "search", 1.48)
    assert lines.decide(4) == "hit" and lines.search.pursuits[4].gains == pytest.approx([1.3, 2.0])


def test_the_champion_runs_when_its_level_is_uncertain():
    lines = calibrated("idea", profile=TWO._replace(most_variance=0.18))
    assert lines.search.next_step(2) == (CHAMPION, "bar")
    lines.run(2, CHAMPION, "bar", 1.5)
    assert lines.search.next_step(2) == (CANDIDATE, "search")
    lines.search.champion = "another"  # an old one's bar stays as it is
    lines.search.bars[BASELINE] = Bar(1.5, 1.0)
    assert lines.search.next_step(2) == (CANDIDATE, "search")


def test_the_champion_runs_when_one_first_run_after_the_other_was_stopped():
    """A machine that has become slower leaves everything behind the champion's earlier runs."""
    lines = calibrated()
    for _ in range(MOST_STOPPED):
        n = lines.open("try", "idea", BASELINE, profile=TWO._asdict())
        assert lines.search.next_step(n) == (CANDIDATE, "search")
        lines.run(n, CANDIDATE, "search", status="stopped")
        assert lines.decide(n) == "out"
    n = lines.open("try", "idea", BASELINE, profile=TWO._asdict())
    assert lines.search.next_step(n) == (CHAMPION, "bar")
    lines.run(n, CHAMPION, "bar", 1.0)
    assert lines.search.next_step(n) == (CANDIDATE, "search")


def test_a_kept_batch_decides_its_members_and_is_the_new_bar():
    lines = hits("a", "b", "late")
    assert hold_trial(lines, [2, 3], 1.46) == "keep"
    search = lines.search
    assert search.champion == "merge of [2, 3]"
    assert search.bars[search.champion] == Bar(pytest.approx(1.46), pytest.approx(1 / 3))
    assert [search.pursuits[n].verdict for n in (2, 3, 4)] == ["keep", "keep", "hit"]
    assert lines.experiments[2].closes["decides"] == [2, 3]


def test_what_fails_together_is_tried_apart():
    lines = hits("a", "b", "late")
    assert lines.search.choose_members(TWO) == [2, 3]
    assert hold_trial(lines, [2, 3], 1.5) == "withdrawn"
    assert lines.experiments[2].verdict == lines.search.pursuits[3].verdict == "hit"
    assert lines.search.choose_members(TWO) == [2]
    assert (
        hold_trial(lines, [2], 1.5) == "withdrawn" and lines.experiments[2].verdict == "withdrawn"
    )
    assert lines.search.choose_members(TWO) == [3]
    assert hold_trial(lines, [3], 1.46) == "keep" and lines.experiments[3].verdict == "keep"
    assert lines.search.choose_members(TWO) == []
    assert lines.search.choose_members(TWO, is_last=True) == [4]


def test_hits_of_another_profile_wait_for_a_trial_of_their_own():
    lines = hits("a", "b")
    lines.open("try", "c", BASELINE, profile=STRICT._asdict())
    lines.run(4, CANDIDATE, "search", 1.45)
    assert lines.decide(4) == "hit"
    assert lines.search.choose_members(STRICT) == [4]
    assert lines.search.choose_members(TWO) == [2, 3] == lines.search.list_hits(TWO.name)


def test_a_trial_on_an_older_champion_decides_nobody():
    lines = hits("a", "b")
    n = lines.open("trial", "a", BASELINE, profile=TWO._asdict(), members=[2])
    assert hold_trial(lines, [3], 1.46) == "keep"
    step = lines.search.next_step(n)
    assert step.verdict == "withdrawn" and "another champion" in step.reason
    assert lines.search.decided_members(n, "withdrawn") == []
    lines.decide(n)
    assert lines.search.choose_members(TWO) == [2]


def test_a_run_without_a_score_ends_a_trial():
    lines = hits("a")
    n = lines.open("trial", "a", BASELINE, profile=TWO._asdict(), members=[2])
    lines.run(n, CANDIDATE, "trial", status="timeout")
    assert lines.search.next_step(n) == ("withdrawn", "timeout: why")
    lines.decide(n)
    assert lines.experiments[2].verdict == "withdrawn"


def test_noise_is_no_way_to_pass_a_trial():
    """A mean gain of 2 sigma, from scores that scatter eight times as much."""
    lines = hits("a")
    n = lines.open("trial", "a", BASELINE, profile=TWO._asdict(), members=[2])
    for score in (1.38, 1.48, 1.58):
        lines.run(n, CANDIDATE, "trial", score)
    assert lines.decide(n) == "withdrawn"
    assert hold_trial(hits("a"), [2], 1.48) == "keep"


def test_less_code_has_a_trial_of_its_own_where_that_is_asked_for():
    lines = calibrated("smaller", may_tie=True)
    lines.run(2, CANDIDATE, "search", 1.5)
    assert lines.search.next_step(2).verdict == "hit" and lines.decide(2) == "hit"
    assert hold_trial(lines, [2], 1.496, as_good=True) == "keep"
    assert len(lines.search.pursuits[3].scores) == TIE_RUNS
    assert "as good with less code" in lines.experiments[2].reason
    for may_tie, score in ((False, 1.5), (True, 1.5101)):
        lines = calibrated("smaller", may_tie=may_tie)
        lines.run(2, CANDIDATE, "search", score)
        assert lines.search.next_step(2).verdict == "out"


def test_a_search_returns_to_what_has_most_points():
    lines = calibrated("worst", "best", "crash", "open", "hit")
    lines.open("try", "strict", BASELINE, profile=STRICT._asdict())
    for n, score in ((2, 1.52), (3, 1.495), (5, 1.487), (6, 1.4), (7, 1.491)):
        lines.run(n, CANDIDATE, "search", score)
    lines.run(4, CANDIDATE, "search", status="crash")
    for n in (2, 3, 4, 6, 7):
        lines.decide(n)
    assert lines.search.best_parked(TWO) == 3 and lines.search.best_parked(TWO, {3}) == 2
    assert lines.search.best_parked(TWO, {2, 3}) is None and lines.search.best_parked(STRICT) == 7
    lines.run(3, CANDIDATE, "search", 1.47)
    assert lines.decide(3) == "hit"  # of both runs
    assert [row["verdict"] for row in lines.experiments[3].decisions] == ["out", "hit"]


def test_a_comparison_is_with_the_bar_of_then():
    lines = calibrated("idea")
    assert lines.search.compare(2) is None
    lines.run(2, CANDIDATE, "search", 1.48)
    gain, error, *_ = lines.search.compare(2)
    assert gain == pytest.approx(0.02) and error == pytest.approx(SIGMA * math.sqrt(1 + 1 / 5))
    lines.run(2, CHAMPION, "bar", 1.9)
    assert lines.search.compare(2)[:2] == (gain, error)


# --------------------------------------------------------------------------------------------------
# Random campaigns


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
        self.calibrate([self.draw_score(BASELINE, 1 + i) for i in range(5)])
        for _ in range(self.chance.choice((1, 1, 2))):
            self.hold_night(self.chance.randint(1, 8), lines=self.chance.randint(20, 50))

    def happens(self, name, probability):
        happens = self.chance.random() < probability
        self.seen[name] += happens
        return happens

    def draw_score(self, source, seed):
        drift, of_seed = self.drift * len(self.rows), random.Random(seed).gauss(0, 0.7)
        return self.level[source] + drift + SIGMA * (self.chance.gauss(0, 0.7) + of_seed)

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
        self.close_as(n, step)
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
            seed = self.search.shared_seed(n) if phase == "search" else None
            seed = len(self.rows) if seed is None else seed
            score = self.draw_score(source, seed)
            run = self.run(n, arm, phase, score, status, shared, seed)

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
    return [(Verdict(row["verdict"], row["reason"]), row.get("decides", [])) for row in rows]


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
            campaign, row = read_campaign(json.dumps(rows[:count])), rows[count]
            if campaign.baseline and row["kind"] == "closes" and row["verdict"] != "audited":
                step = campaign.search.next_step(row["n"])
                assert step == (row["verdict"], row["reason"]) or row.get("collides")
