"""Simulated trials of a goal that isn't val_bpb: how often is kept what makes val_bpb worse?

Only the simulation knows how much worse a candidate is. Each decision is made by the code that the
referee calls, ratchet/experiments/rule/slack.py. All candidates gain enough of the goal, so that
val_bpb alone decides. Unit: sigma, the true standard deviation of a run's val_bpb. The table goes
into docs/limits.md.

    uv run benchmarks/goals.py
"""

import argparse
import random
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cheats_table import replace_block

from ratchet.experiments.comparisons import compare_arms
from ratchet.experiments.rule.slack import Slack, place_in_slack
from ratchet.experiments.verdicts import TIE_RUNS

WORSE = -0.5, 0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0  # sigma
SEEDS = 5  # of a calibration
BETWEEN = 40  # runs of other ideas between two trials
TRIALS = 12  # of a night
CLOSINGS = 4, 8, 20  # seeds of a closing comparison
PAGE = Path(__file__).resolve().parent.parent / "docs/limits.md"


class Campaign:
    """The baseline's bar of val_bpb, and a champion that is worse than it by `level`."""

    def __init__(self, chance: random.Random):
        self.draw = lambda level: chance.gauss(level, 1.0)
        self.slack = Slack("baseline", [self.draw(0.0) for _ in range(SEEDS)])
        self.level, self.runs = 0.0, 0

    def pass_time(self) -> None:
        """Other ideas have their runs."""
        for _ in range(BETWEEN):
            self.slack.drift()

    def has_trial(self, level: float) -> bool:
        """Whether the first run of an idea isn't refused at once."""
        return not self.slack.is_far([self.draw(level)])

    def keeps(self, level: float) -> bool:
        """Whether a trial keeps a candidate that is worse than the baseline by so much."""
        scores = []
        while len(scores) < TIE_RUNS:
            scores.append(self.draw(level))
            self.runs += 1
            self.slack.drift()
            if self.slack.is_far(scores):
                return False
        while self.slack.is_vague:
            self.slack.add(self.draw(0.0))
            self.slack.drift()
            self.runs += 1
        return self.slack.allows(scores)


def measure_candidate(worse: float, count: int, seed: int) -> list[float]:
    """[share that has a trial, share of trials that keep it, runs of a trial]."""
    chance, trials, kept, runs = random.Random(f"{seed} {worse}"), 0, 0, 0
    for _ in range(count):
        campaign = Campaign(chance)
        campaign.pass_time()
        trials += campaign.has_trial(worse)
        kept += campaign.keeps(worse)
        runs += campaign.runs
    return [trials / count, kept / count, runs / count]


def measure_creep(step: float, count: int, seed: int) -> tuple[list[int], list[float]]:
    """(keeps, how much worse the last champion is) of nights whose ideas each add so much."""
    chance, keeps, levels = random.Random(f"{seed} creep {step}"), [], []
    for _ in range(count):
        campaign, kept = Campaign(chance), 0
        for _ in range(TRIALS):
            campaign.pass_time()
            level = campaign.level + step
            if campaign.has_trial(level) and campaign.keeps(level):
                campaign.level, kept = level, kept + 1
        keeps.append(kept)
        levels.append(campaign.level)
    return keeps, levels


def measure_closing(worse: float, seeds: int, count: int, seed: int) -> dict[str, float]:
    """{"within it": share of closing comparisons, ...} where seeds explain nothing."""
    chance, places = random.Random(f"{seed} closing {worse} {seeds}"), Counter()
    for _ in range(count):
        campaign = Campaign(chance)
        levels = 0.0, worse
        arms = [{n: campaign.draw(level) for n in range(seeds)} for level in levels]
        comparison = compare_arms(arms[1], arms[0], arms)
        places[place_in_slack(comparison, campaign.slack.noise.sigma)] += 1
    return {place: times / count for place, times in places.items()}


def candidates_table(count: int, seed: int) -> str:
    heads = "val_bpb is worse by", "first run passes", "trial keeps it", "runs, the baseline's too"
    rows = [f"| {' | '.join(heads)} |", "|---|---|---|---|"]
    for worse in WORSE:
        goes_on, kept, runs = measure_candidate(worse, count, seed)
        rows.append(f"| {worse:g} sigma | {goes_on:.0%} | {kept:.1%} | {runs:.1f} |")
    return "\n".join(rows).replace("%", " %")


def creep_table(count: int, seed: int) -> str:
    heads = f"each of {TRIALS} ideas worsens val_bpb by", "keeps", "in the end it is worse by"
    rows = [f"| {' | '.join(heads)} | in 95 % of nights by at most |", "|---|---|---|---|"]
    for step in (0.0, 0.25, 0.5, 1.0):
        keeps, levels = measure_creep(step, count, seed)
        most = quantiles(levels, n=20)[-1]
        cells = f"{step:g} sigma", f"{fmean(keeps):.1f}", f"{fmean(levels):.2f} sigma"
        rows.append(f"| {' | '.join(cells)} | {most:.2f} sigma |")
    return "\n".join(rows)


def closing_table(count: int, seed: int) -> str:
    heads = "|".join(f" {seeds} seeds: within it, beyond it " for seeds in CLOSINGS)
    rows = [f"| the champion is worse by |{heads}|", "|---" * (len(CLOSINGS) + 1) + "|"]
    for worse in (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0):
        cells = [f"{worse:g} sigma"]
        for seeds in CLOSINGS:
            places = measure_closing(worse, seeds, count, seed)
            cells.append(f"{places.get('within it', 0):.0%}, {places.get('beyond it', 0):.0%}")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows).replace("%", " %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=4000, help="for each figure")
    options = parser.parse_args()
    count, seed = options.trials, options.seed
    tables = [candidates_table(count, seed), creep_table(count // 4, seed)]
    tables.append(closing_table(count, seed))
    print(*tables, sep="\n\n")
    text = PAGE.read_text("utf-8")
    PAGE.write_text(replace_block(text, "simulated trials", "\n\n".join(tables)), encoding="utf-8")


if __name__ == "__main__":
    main()
