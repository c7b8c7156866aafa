"""The campaign: what the ledger says since the last calibration, of champions, of noise, of each
try.
"""

import math
from bisect import bisect_left
from datetime import datetime
from functools import cached_property

from ratchet.experiments import verdicts
from ratchet.experiments.ledger import bpb, counts
from ratchet.experiments.verdicts import Noise

CANDIDATE, CHAMPION = 0, 1  # arms of a try
MOST_TEXT = 1000  # characters of an idea, and of the name of who had it


class Campaign:
    """What the ledger says now since the last calibration, on one key (arena, budget, device).

    What was known when an experiment was opened are the lines before its first one: whatever else
    ran at the same time, its verdict follows from the ledger.
    """

    def __init__(self, experiments, key=None):
        self.all = experiments
        baselines = [e for e in experiments if e.verdict == "baseline" and key in (None, e.key)]
        self.baseline = baselines[-1] if baselines else None

    @cached_property
    def since(self):
        """Its experiments: those on its key, from the baseline on."""
        return [e for e in self.all if e.n >= self.baseline.n and e.key == self.baseline.key]

    @cached_property
    def kept(self):
        """Experiments that made a champion, the baseline first."""
        return [e for e in self.tried if e.verdict in ("baseline", "keep")]

    @cached_property
    def tried(self):
        """Experiments that have a verdict on a source, the baseline first."""
        return [e for e in self.since if e.closes and e.role in ("calibrate", "try")]

    @cached_property
    def known(self):
        """The shapes of all sources that were tried, against whichever champion."""
        return {e.arms[0]["source"] for e in self.tried}

    def kept_beside(self, e):
        """Experiments that were kept while e ran."""
        end = e.closes.get("line", math.inf)
        return [other for other in self.kept if e.line < other.closes["line"] < end]

    @property
    def champion(self):
        """The facts of the champion's source."""
        return self.kept[-1].arms[0]

    def _runs(self, *phases):
        """(source, run) of all valid runs since the baseline on its key, in the order of the
        ledger.
        """
        for e in self.since:
            for run in e.runs:
                if counts(run) and run["budget"] == e.budget and run["phase"] in phases:
                    yield e.arms[run["arm"]]["source"], run

    @cached_property
    def _noises(self):
        """[(line, squared deviations, degrees of freedom)] of champions' runs up to the one in that
        line.

        What candidates do to their own spread can't move the yardstick that they are measured with.
        The deviations of a source are added up run by run (Welford 1962).
        """
        groups, squares, df, found = {}, 0.0, 0, []
        runs = self._runs("calibrate", "reference", "champion")
        for source, run in sorted(runs, key=lambda pair: pair[1]["line"]):
            count, mean = groups.get(source, (0, bpb(run)))
            shift = bpb(run) - mean
            groups[source] = count + 1, mean + shift / (count + 1)
            squares += shift * (bpb(run) - groups[source][1])
            df += count > 0
            found.append((run["line"], squares, df))
        return found

    def noise(self, before=math.inf):
        """Sigma, from all champions' runs before a line of the ledger."""
        count = bisect_left(self._noises, before, key=lambda row: row[0])
        _, squares, df = self._noises[count - 1] if count else (0, 0.0, 0)
        return Noise(math.sqrt(squares / df) if df else math.nan, df)

    @cached_property
    def unrest(self):
        """A sentence if champions spread more than their calibration makes likely (95 %), else ""."""
        if not self.baseline:
            return ""
        first, now = self.noise(before=self.baseline.closes["line"]), self.noise()
        if not first.df or now.sigma <= verdicts.sigma_range(first)[1]:
            return ""
        grown = (
            f"sigma has grown from {first.sigma:.4f} to {now.sigma:.4f} bpb since the calibration"
        )
        return f"{grown}: other programs, or a champion that is unsteady; calibrate anew when it is quiet"

    @cached_property
    def _by_source(self):
        """{source: [(when it ended, score, line)] in order}."""
        found = {}
        for source, run in self._runs("calibrate", "reference", "confirm", "champion"):
            found.setdefault(source, []).append((seconds(run["time"]), bpb(run), run["line"]))
        return {source: sorted(rows) for source, rows in found.items()}

    def scores_of(self, source):
        """Scores of all valid runs of a source that were not selected."""
        return [score for _, score, _ in self._by_source.get(source, [])]

    def recent(self, source, e):
        """Scores of a source's latest runs before an experiment."""
        rows, now = self._by_source.get(source, []), seconds(e.time)
        rows = rows[bisect_left(rows, now - 3600 * verdicts.RECENT_HOURS, key=lambda row: row[0]) :]
        return verdicts.recent([(at, score) for at, score, line in rows if line < e.line], now)


def campaigns(experiments):
    """[Campaign] of all experiments, in the order in which they began: each calibration on a key
    begins one.

    What a key has before its first calibration belongs to that; one without any has no baseline.
    """
    found = []
    for key in dict.fromkeys(e.key for e in experiments):
        own = [e for e in experiments if e.key == key]
        begins = [e.n for e in own if e.verdict == "baseline"][1:]
        for begin, end in zip([0, *begins], [*begins, math.inf]):
            found.append(Campaign([e for e in own if begin <= e.n < end], key))
    return sorted(found, key=lambda campaign: campaign.all[0].n)


def seconds(text):
    """Of a time in the ledger, since 1970."""
    return datetime.fromisoformat(text).timestamp()


def device_seconds(experiments, begin):
    """Seconds of the device that a night's tries took; begin: the event of its journal."""
    own = (
        e for e in experiments if e.role == "try" and e.opens["by"] == begin["agent"][:MOST_TEXT]
    )
    runs, first = (run for e in own for run in e.runs), seconds(begin["time"])
    return sum(sum(run["seconds"].values()) for run in runs if seconds(run["time"]) >= first)


def tries(campaign):
    """Its experiments on ideas, with a verdict."""
    return [e for e in campaign.tried if e.role == "try"]


def standing(e, campaign):
    """How a try compares with its champion so far, by fresh seeds if there are any; None without a
    score.
    """
    own = e.own_scores()
    before = e.scores(CHAMPION, "reference") or campaign.recent(e.arms[CHAMPION]["source"], e)
    others, noise = before + e.scores(CHAMPION, "champion"), campaign.noise(before=e.line)
    return verdicts.compare(own, others, noise) if own and others and noise.df else None


def finite(value):
    return value if value is not None and math.isfinite(value) else None


def mean_of(scores, noise):
    """(mean, half of its 95% interval) of scores, by the campaign's sigma or their own, as in a
    verdict.
    """
    if not scores:
        return None, None
    mean, squares = verdicts.moments(scores)
    if not noise or not noise.df:
        return mean, None
    spread = verdicts.spread(len(scores), squares, noise)
    return mean, finite(verdicts.student(noise.df, 0.975) * spread / math.sqrt(len(scores)))
