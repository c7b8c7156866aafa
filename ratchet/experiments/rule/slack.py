"""The slack: how much worse val_bpb may be than the baseline's where another measure is the goal.

One sigma of the baseline, over the whole campaign. A champion is always held against the baseline,
never against the champion before it: so a row of keeps can't spend the slack again and again. The
test is one of non-inferiority, as of ties in verdicts.py: by fresh runs of the candidate, against
the bar of the baseline's val_bpb, which has its own runs where it has become uncertain.
"""

import math
from collections.abc import Sequence

from ratchet.experiments import verdicts
from ratchet.experiments.rule.statistics import Comparison, Noise, pool_noise, student_quantile

LEVEL = 0.9  # one-sided confidence of the test: benchmarks/goals.py has what follows from it
FAR = 1.0  # standard errors beyond the slack: what is as far away has no trial
MOST_VARIANCE = 0.1  # of the bar, in sigma squared: beyond it the baseline runs before a keep


class Slack:
    """What is known of the baseline's val_bpb after some lines of a ledger."""

    def __init__(self, source: str, scores: Sequence[float]) -> None:
        self.source, self.scores = source, [*scores]  # of the baseline: its runs, in bpb
        self.bar = verdicts.bar_of(scores)

    def add(self, score: float) -> None:
        """Count one more run of the baseline."""
        self.scores.append(score)
        self.bar = self.bar.updated(score)

    def drift(self) -> None:
        """Count a run of anything."""
        self.bar = self.bar.drifted()

    @property
    def noise(self) -> Noise:
        """By the baseline's runs alone: no champion moves the yardstick."""
        return pool_noise([self.scores])

    @property
    def most(self) -> float:
        """The val_bpb that a champion may have."""
        return self.bar.level + self.noise.sigma

    @property
    def is_vague(self) -> bool:
        """Whether the baseline must run before a keep is decided."""
        return self.bar.variance > MOST_VARIANCE

    @property
    def runs_left(self) -> int:
        """How often the baseline must run until its level is known well enough."""
        return max(0, math.ceil(1 / MOST_VARIANCE - 1 / self.bar.variance))

    def compare(self, scores: Sequence[float]) -> Comparison:
        """How a candidate's runs compare with the baseline, in bpb; above 0 is better."""
        return verdicts.compare_with_bar(scores, self.bar, self.noise)

    def is_far(self, scores: Sequence[float]) -> bool:
        """Whether nothing is to be expected of a candidate with these runs any more."""
        if not scores:
            return False
        comparison = self.compare(scores)
        return comparison.gain + FAR * comparison.error < -self.noise.sigma

    def allows(self, scores: Sequence[float]) -> bool:
        """Whether these runs show that a candidate is within the slack."""
        return verdicts.is_as_good(self.compare(scores), self.noise, LEVEL)

    def describe(self, scores: Sequence[float]) -> str:
        """Example: "val_bpb +0.0012 ± 0.0040 against the baseline's, slack 0.0050"."""
        return describe_difference(self.compare(scores), self.noise.sigma)


def format_difference(comparison: Comparison) -> str:
    """Of val_bpb from the baseline's, less is better: "+0.0012 ± 0.0045"."""
    return f"{-comparison.gain:+.4f} ± {comparison.high - comparison.gain:.4f}"


def describe_difference(comparison: Comparison, slack: float) -> str:
    """A difference in words; slack: what is allowed, in bpb."""
    difference = format_difference(comparison)
    return f"val_bpb {difference} against the baseline's, slack {slack:.4f}"


def place_in_slack(comparison: Comparison, slack: float) -> str:
    """Whether what a closing comparison or an audit measured of val_bpb is within the slack."""
    df = min(comparison.n, comparison.m) - 1  # of pairs of runs with the same seed
    reach = student_quantile(df, LEVEL) * comparison.error
    if comparison.gain - reach >= -slack:
        return "within it"
    return "beyond it" if comparison.gain + reach < -slack else "too few runs to tell"
