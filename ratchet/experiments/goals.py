"""Goals: which measure a campaign makes better, val_bpb unless a calibration names another.

Of another measure a run's score is the log2 of its figure, with the sign by which less is better.
So a gain is the log2 of a ratio, and the rule of verdicts.py holds for it as it is. Deterministic
measures, such as the size of a file, have no spread: so sigma has a floor, half of the share that
a change must gain at least.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ratchet.arena.files import Refused
from ratchet.experiments.rule.statistics import Comparison, Noise
from ratchet.referee.measures import LIMITABLE, MEASURES, Measure

SCORE = "val_bpb"
SHARE = 0.02  # that a kept change must gain at least, unless a calibration says otherwise
FLOOR = 0.5  # of the least gain: what sigma is at least


class Goal(NamedTuple):
    """What a campaign makes better: Goal("user_tps", 0.02), by at least 2 % each time."""

    name: str = SCORE
    share: float = 0.0  # of the measure: what a kept change must gain at least

    @property
    def is_val_bpb(self) -> bool:
        return self.name == SCORE

    @property
    def measure(self) -> Measure:
        return MEASURES[self.name]

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of measures that its runs must have been measured for."""
        return () if self.is_val_bpb else (self.name,)

    @property
    def least_gain(self) -> float:
        """The least gain that is kept, in the unit of scores."""
        return math.log2(1 + self.share)

    @property
    def least_sigma(self) -> float:
        return FLOOR * self.least_gain

    @property
    def better(self) -> str:
        """What is better, "more" or "less"."""
        return "more" if not self.is_val_bpb and self.measure.is_speed else "less"

    @property
    def _sign(self) -> int:
        """Of a score that follows from a measure of which more is better: -1."""
        return -1 if self.measure.is_speed else 1

    def log_of(self, run: Mapping[str, Any]) -> float:
        """log2 of a run's measure, less is better; nan where it has none."""
        value = self.measure.read(run)
        return self._sign * math.log2(value) if value and value > 0 else math.nan

    def with_floor(self, noise: Noise) -> Noise:
        """The noise that scores count with."""
        return noise if self.is_val_bpb else Noise(max(noise.sigma, self.least_sigma), noise.df)

    # ----------------------------------------------------------------------------------------------
    # In words

    def figure_of(self, score: float) -> float:
        """The figure that a score stands for: val_bpb itself, 231.0 tokens/s."""
        return score if self.is_val_bpb else 2 ** (self._sign * score)

    def figures_of(self, mean: float | None, half: float | None) -> list[float | None]:
        """[figure, low, high] of a mean score with half of its interval; None where unknown."""
        if mean is None:
            return [None, None, None]
        if half is None:
            return [self.figure_of(mean), None, None]
        return [self.figure_of(mean), *sorted(map(self.figure_of, (mean - half, mean + half)))]

    def ratios_of(self, gain: Sequence[float]) -> list[float]:
        """[ratio, low, high] of the measure, new to old, of [gain, low, high]."""
        ratio, *ends = (2 ** (-self._sign * value) for value in gain)
        return [ratio, *sorted(ends)]

    def gain_of(self, ratio: float) -> float:
        """The gain of a ratio of the measure, new to old: the other way round."""
        return -self._sign * math.log2(ratio)

    def describe_level(self, score: float) -> str:
        """Examples: "1.2345 bpb", "231 tokens/s"."""
        if self.is_val_bpb:
            return f"{score:.4f} bpb"
        return f"{figure_text(self.figure_of(score))} {self.measure.unit}"

    def describe_gain(self, comparison: Comparison) -> str:
        """With its 95 % interval: "+0.0123 ± 0.0045" bpb, or as a ratio, "x1.34 [1.29, 1.40]"."""
        gain, low, high = comparison.gain, comparison.low, comparison.high
        if self.is_val_bpb:
            return f"{gain:+.4f} ± {high - gain:.4f}"
        ratio, low, high = map(figure_text, self.ratios_of((gain, low, high)))
        return f"x{ratio} [{low}, {high}]"

    def reaches(self, score: float, figure: float) -> bool:
        """Whether a score is as good as that of a figure, as 300.0 tokens a second."""
        own = self.figure_of(score)
        return own >= figure if self.better == "more" else own <= figure

    def describe_ratio(self, gain: float) -> str:
        """A gain without its interval: "+0.0123" bpb, "x1.34" of another measure."""
        if self.is_val_bpb:
            return f"{gain:+.4f}"
        return f"x{figure_text(self.ratios_of([gain])[0])}"

    def describe_sigma(self, sigma: float) -> str:
        """Examples: "0.0042 bpb", "3.1 %" of another measure."""
        return f"{sigma:.4f} bpb" if self.is_val_bpb else f"{100 * (2**sigma - 1):,.1f} %"

    def describe_asked(self, gain: float) -> str:
        """What a trial had to gain: "0.00250 bpb were asked for", "x1.02 was asked for"."""
        if self.is_val_bpb:
            return f"{max(gain, 0):.5f} bpb were asked for"
        return f"x{figure_text(self.ratios_of([gain])[0])} was asked for"


VAL_BPB = Goal()


def figure_text(value: float) -> str:
    """Three digits, all whole ones of a large number: 0.0123, 1.34, 23.1, 12,346."""
    if not math.isfinite(value) or value <= 0:
        return str(value)
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def parse_goal(name: str, percent: float | None) -> Goal:
    """Example: ("user_tps", 3.0) -> Goal("user_tps", 0.03). Raises Refused."""
    others = [SCORE, *LIMITABLE]
    if name == SCORE:
        if percent is not None:
            raise Refused("--share is of another goal than val_bpb: leave it out, or name a --goal")
        return VAL_BPB
    if name not in MEASURES:
        raise Refused(f"--goal {name}: there is no such measure: name {', '.join(others)}")
    if MEASURES[name].is_told:
        raise Refused(
            f"--goal {name}: it is told by the contestant's own process, which could lie: "
            f"name {', '.join(others)}"
        )
    share = SHARE if percent is None else percent / 100
    if not 0 < share <= 1:
        raise Refused(f"--share {percent:g}: give percents above 0, 100 at most, as --share 2")
    return Goal(name, share)
