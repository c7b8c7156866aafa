"""A campaign is what the ledger says since a calibration: of champions, of noise, of each try."""

import itertools
import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from functools import cached_property

from ratchet.experiments.goals import VAL_BPB, Goal
from ratchet.experiments.ledger import CHAMPION, Experiment, Row, is_valid, score_of
from ratchet.experiments.rule import former, looks
from ratchet.experiments.rule.search import Search
from ratchet.experiments.rule.slack import Slack
from ratchet.experiments.rule.statistics import (
    Comparison,
    Noise,
    NoiseTracker,
    compare,
    larger_spread,
    moments,
    sigma_range,
    student_quantile,
)
from ratchet.experiments.verdicts import Verdict

# Phases of runs by which nothing was selected, those of older ledgers too.
UNSELECTED = "calibrate", "bar", "trial", "closing", "reference", "confirm", "champion"
MOST_TEXT = 1000  # characters of an idea, and of the name of who had it


class Campaign:
    """What the ledger says now since the last calibration with one key (arena, budget, device).

    What was known when an experiment was opened are the lines before its first one: whatever else
    ran at the same time, its verdict follows from the ledger. `baseline` is the calibration, None
    before there is one: all but that needs it.
    """

    def __init__(self, experiments: Collection[Experiment], key: tuple | None = None):
        self.all = experiments
        made = (e for e in experiments if e.verdict == "baseline")
        alike = [e for e in made if key in (None, e.comparison_key)]
        self.baseline: Experiment | None = max(alike, key=first_line, default=None)

    @property
    def goal(self) -> Goal:
        """What it makes better."""
        return self.baseline.goal if self.baseline else VAL_BPB

    @cached_property
    def since(self) -> list[Experiment]:
        """Its experiments: the baseline, and those with its key that were opened later."""
        if not self.baseline:
            return []
        key, begin = self.baseline.comparison_key, first_line(self.baseline)
        return [e for e in self.all if first_line(e) >= begin and e.comparison_key == key]

    @cached_property
    def kept(self) -> list[Experiment]:
        """Experiments that made a champion, the baseline first, in the order of their verdicts."""
        made = [e for e in self.since if e.verdict in ("baseline", "keep") and e.has_own_verdict]
        return sorted(made, key=lambda e: e.closes["line"])

    @cached_property
    def tried(self) -> list[Experiment]:
        """Experiments that have a verdict on an idea, the baseline first."""
        return [e for e in self.since if e.closes and e.role in ("calibrate", "try")]

    @cached_property
    def by_source(self) -> dict[str, Experiment]:
        """{shape of a source: the latest experiment on it, against whichever champion}.

        That on a merge of several ideas, if it was kept, is their trial.
        """
        return {e.arms[0]["source"]: e for e in (*self.kept, *self.tried)}

    @property
    def known_sources(self) -> set[str]:
        """The shapes of all sources that were tried."""
        return {*self.by_source}

    def kept_beside(self, e: Experiment) -> list[Experiment]:
        """Experiments that were kept while e ran."""
        end = e.closes.get("line", math.inf)
        return [other for other in self.kept if e.line < other.closes["line"] < end]

    @property
    def champion(self) -> Row:
        """The facts of the champion's source: name, commit, file, source, size."""
        return self.kept[-1].arms[0]

    @property
    def level(self) -> float:
        """The champion's score, in bpb or as its goal has it: mean of runs that chose nothing."""
        source = self.champion["source"]  # before the bars: another device may keep one meanwhile
        return self.search.bars[source].level

    def _runs(self, *phases: str) -> Iterator[tuple[str, Row]]:
        """(source, run) of all its valid runs in these phases, experiment by experiment."""
        for e in self.since:
            for run in e.runs:
                if is_valid(run) and run["budget"] == e.budget and run["phase"] in phases:
                    yield e.arms[run["arm"]]["source"], run

    @cached_property
    def rows(self) -> list[Row]:
        """The lines of its experiments, in the order of the ledger."""
        own_rows = [[e.opens, *e.runs, *e.decisions] for e in self.since]
        return sorted(itertools.chain(*own_rows), key=lambda row: row["line"])

    @cached_property
    def search(self) -> Search:
        """What all lines so far say of bars, points and trials."""
        search = Search({e.n: e for e in self.since})
        for row in self.rows:
            search.add(row)
        return search

    @property
    def goes_by_points(self) -> bool:
        """Whether it decides by points; older ledgers decide by looks."""
        return bool(self.baseline and self.baseline.rule)

    def next_step(self, e: Experiment) -> tuple[int, str] | Verdict:
        """What a try or a trial does next: (arm, phase) of a run, or the verdict that ends it."""
        return self.search.next_step(e.n) if self.goes_by_points else former.next_step(e, self)

    @cached_property
    def _noises(self) -> list[tuple[int, Noise]]:
        """[(line, noise)] after each line that tells of it.

        What candidates do to their own spread can't move the yardstick that they are measured with.
        """
        if self.goes_by_points:
            return self.search.noises
        tracker, noises = NoiseTracker(), []
        runs = self._runs("calibrate", "reference", "champion")
        for source, run in sorted(runs, key=lambda pair: pair[1]["line"]):
            tracker.add(source, score_of(run, self.goal))
            noises.append((run["line"], tracker.noise))
        return noises

    def noise(self, before: float = math.inf) -> Noise:
        """Sigma, from all champions' runs before a line of the ledger."""
        count = bisect_left(self._noises, before, key=lambda row: row[0])
        return self._noises[count - 1][1] if count else Noise(math.nan, 0)

    @property
    def slack(self) -> Slack | None:
        """How much worse val_bpb may be, where another measure is the goal."""
        return None if self.goal.is_val_bpb else self.search.slack

    @property
    def bpb_noise(self) -> Noise:
        """Sigma of val_bpb, whatever the goal."""
        return self.slack.noise if self.slack else self.noise()

    @cached_property
    def noise_warning(self) -> str:
        """A sentence if champions spread more than their calibration makes likely (95 %), or ""."""
        if not self.baseline:
            return ""
        first, now = self.noise(before=self.baseline.closes["line"] + 1), self.noise()
        if not first.df or now.sigma <= sigma_range(first)[1]:
            return ""
        return (
            f"sigma has grown from {self.goal.describe_sigma(first.sigma)} to "
            f"{self.goal.describe_sigma(now.sigma)} since the calibration: "
            "other programs, or a champion that is unsteady; calibrate anew when it is quiet"
        )

    @cached_property
    def _scores(self) -> dict[str, list[tuple[float, float, int]]]:
        """{source: [(when the run ended, score, line)] in order}."""
        rows: dict[str, list] = {}
        for source, run in self._runs(*UNSELECTED):
            score, when = score_of(run, self.goal), parse_time(run["time"])
            rows.setdefault(source, []).append((when, score, run["line"]))
        return {source: sorted(of_source) for source, of_source in rows.items()}

    def scores_of(self, source: str) -> list[float]:
        """Scores of all valid runs of a source that were not selected."""
        return [score for _, score, _ in self._scores.get(source, [])]

    def recent_scores(self, source: str, e: Experiment) -> list[float]:
        """Scores of a source's latest runs before an experiment."""
        rows, now = self._scores.get(source, []), parse_time(e.time)
        oldest = now - 3600 * looks.RECENT_HOURS
        rows = rows[bisect_left(rows, oldest, key=lambda row: row[0]) :]
        before = [(ended, score) for ended, score, line in rows if line < e.line]
        return looks.recent_scores(before, now)


def first_line(e: Experiment) -> int:
    """From which line of the ledger on an experiment counts: a baseline once it has its verdict."""
    return e.closes["line"] if e.verdict == "baseline" else e.line


def list_campaigns(experiments: Collection[Experiment]) -> list[Campaign]:
    """All campaigns, in the order in which they began: each calibration with a key begins one.

    What a key has before its first calibration belongs to that; one without any has no baseline.
    """
    by_key: dict[tuple, list[Experiment]] = {}
    for e in experiments:
        by_key.setdefault(e.comparison_key, []).append(e)
    campaigns = []
    for key, alike in by_key.items():
        begins = sorted(first_line(e) for e in alike if e.verdict == "baseline")[1:]
        for begin, end in zip([0, *begins], [*begins, math.inf]):
            campaigns.append(Campaign([e for e in alike if begin <= first_line(e) < end], key))
    return sorted(campaigns, key=lambda campaign: next(iter(campaign.all)).n)


def parse_time(text: str) -> float:
    """Seconds since 1970 of a time in the ledger."""
    return datetime.fromisoformat(text).timestamp()


def tried_ideas(campaign: Campaign) -> list[Experiment]:
    """Its experiments on ideas, with a verdict."""
    return [e for e in campaign.tried if e.role == "try"]


def compare_so_far(e: Experiment, campaign: Campaign) -> Comparison | None:
    """How a try or a trial compares with its champion so far; of an idea that had one, its trial.

    None while either has no score.
    """
    if campaign.goes_by_points:
        return campaign.search.compare(e.closes.get("n", e.n))
    scores = e.deciding_scores()
    before = e.scores(CHAMPION, "reference")
    before = before or campaign.recent_scores(e.arms[CHAMPION]["source"], e)
    champion = before + e.scores(CHAMPION, "champion")
    noise = campaign.noise(before=e.line)
    return compare(scores, champion, noise) if scores and champion and noise.df else None


def is_selected(e: Experiment, campaign: Campaign) -> bool:
    """Whether the gain of a try is that of the runs it was selected by, which is no claim."""
    return e.role == "try" and campaign.goes_by_points and e.has_own_verdict


def finite_or_none(value: float | None) -> float | None:
    """JSON has neither nan nor infinity."""
    return value if value is not None and math.isfinite(value) else None


def mean_of(scores: Sequence[float], noise: Noise | None) -> tuple[float | None, float | None]:
    """(mean, half of its 95% interval) of scores, by sigma or their own spread, as in a verdict."""
    if not scores:
        return None, None
    mean, squares = moments(scores)
    if not noise or not noise.df:
        return mean, None
    error = larger_spread(len(scores), squares, noise) / math.sqrt(len(scores))
    return mean, finite_or_none(student_quantile(noise.df, 0.975) * error)
