"""The tuner: proposes values for the constants at the top of train.py, without a language model.

It is a control group: does the agent find more than a plain search in equally many experiments?
Each proposal moves one or two constants of the champion, those first that were moved least, by a
tree-structured Parzen estimator (Bergstra et al., 2011; optuna) that has seen all scores of the
campaign, of whatever its goal is. Where the campaign has limits, the estimator draws until a source
is predicted to meet them, from what every run so far was measured to take, that beyond a limit too.
Where val_bpb isn't the goal, what it may be at most is one more limit. It doesn't know which
constants a run uses: those of a preset for other devices cost it experiments, too. The same ledger
gives the same proposal.
"""

import math
import operator
import random
from collections.abc import Collection, Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from ratchet.arena.files import Refused
from ratchet.experiments.campaign import Campaign, tried_ideas
from ratchet.experiments.goals import SCORE
from ratchet.experiments.ledger import CANDIDATE, Experiment, bpb
from ratchet.night.knobs import constant_values, find_constants
from ratchet.referee.measures import Requirement, read_measures
from ratchet.referee.source import fingerprint

MOVED = 1, 1, 2  # how many constants a proposal moves: one of these
# log of how many times as high or low a constant gets, or the odds of a share in (0, 1)
RANGE = math.log(4)
DIGITS = 3  # of a proposed value
DRAWS = 50  # until a source is new
HISTORY = 500  # experiments that it looks back on
RANDOM_TRIALS = 5  # before the estimator is asked
RIDGE = 0.01  # of the regression by which it is predicted what a source takes
MEASURED = "ok", "stopped", "overlimit", "memory"  # runs that came far enough to be measured

Values = dict[str, int | float]  # {name of a constant: value}
Coordinates = dict[str, float]  # {name of a constant: where it is in [-1, 1]}
Excesses = dict[
    str, float
]  # {name of a constraint: log(value / bound)}, above 0 where it isn't met


class Observation(NamedTuple):
    """What is known of a source that was tried."""

    coordinates: Coordinates
    score: float  # lower is better
    excesses: Excesses


def propose_edit(
    campaign: Campaign, champion: bytes, number: int, known: Collection[str]
) -> tuple[bytes, str]:
    """(text, idea) of the next proposal: (b"...", "LR 0.02 -> 0.031").

    champion: its text. number: makes proposals differ. known: the shapes of sources that are not to
    be proposed again. Raises Refused when there is nothing to propose.
    """
    baseline = constant_values(campaign.baseline.arms[0]["commit"])
    centers = {name: value for name, value in baseline.items() if value > 0}
    current = {name: node.value for name, node in find_constants(champion).items()}
    movable = sorted(centers.keys() & current.keys())
    if not movable:
        raise Refused("train.py has no constants at its top to be moved: use another agent")
    chance = random.Random(f"{campaign.baseline.salt} {number}")
    history = read_history(campaign, centers)
    estimator = Estimator(history, seed=chance.randrange(2**31))
    prediction = ExcessPrediction(history)
    proposals = []  # (predicted excess, text, idea) of those that are new
    moves = count_moves(campaign, movable)
    for turn in range(DRAWS):
        # all values of what was moved least may be known: so the order is looser with every turn
        order = {name: moves[name] + (1 + turn) * chance.random() for name in movable}
        names = sorted(movable, key=order.get)[: chance.choice(MOVED)]
        coordinates = estimator.suggest(names)
        values = {name: from_coordinate(coordinates[name], centers[name]) for name in names}
        values = {name: value for name, value in values.items() if value != current[name]}
        text = replace_constants(champion, values)
        if values and fingerprint(text)["source"] not in known:
            changes = [f"{name} {current[name]} -> {values[name]}" for name in sorted(values)]
            excess = prediction.largest(to_coordinates(current | values, centers))
            proposals.append((excess, text, ", ".join(changes)))
            if excess <= 0:
                break
    if not proposals:
        raise Refused("the tuner finds nothing new to propose: use another agent")
    _, text, idea = min(proposals)  # where none may meet the limits, that which is nearest to them
    return text, idea


class Estimator:
    """optuna's tree-structured Parzen estimator, told of all scores so far; lower is better.

    One that isn't feasible counts as worse than any that is (arxiv.org/abs/2606.09889).
    """

    def __init__(self, history: Iterable[Observation], seed: int):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.everywhere = optuna.distributions.FloatDistribution(-1, 1)
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=False, n_startup_trials=RANDOM_TRIALS
        )
        self.study = optuna.create_study(sampler=sampler)
        for coordinates, score, excesses in history:
            space = dict.fromkeys(coordinates, self.everywhere)
            trial = optuna.trial.create_trial(
                params=coordinates, distributions=space, value=score, constraints=excesses
            )
            self.study.add_trial(trial)

    def suggest(self, names: Iterable[str]) -> Coordinates:
        """Where these constants might be better."""
        return self.study.ask(dict.fromkeys(names, self.everywhere)).params


class ExcessPrediction:
    """Predicts by how much a source is beyond its limits, from all sources that were tried.

    What a model takes is nearly a product of powers of its constants, as depth x width^2
    parameters are: so its logarithm is linear in the coordinates, and found by ridge regression.
    The Parzen estimator alone looks at one constant at a time, and whether a limit was met, not by
    how much: in a simulation it wasted twice as many runs (LOG.md).
    """

    def __init__(self, history: Sequence[Observation]):
        self.names = sorted({name for each in history for name in each.coordinates})
        measures = {name for each in history for name in each.excesses}
        self.weights = {measure: self._fit(history, measure) for measure in sorted(measures)}

    def _fit(self, history: Iterable[Observation], measure: str) -> list[float]:
        """Weights of the coordinates, the last of a constant 1."""
        import numpy as np  # takes long: only what needs it imports it

        known = [each for each in history if measure in each.excesses]
        inputs = np.array([self._inputs(each.coordinates) for each in known])
        targets = np.array([each.excesses[measure] for each in known])
        penalty = np.diag([RIDGE] * len(self.names) + [0.0])
        return np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets).tolist()

    def _inputs(self, coordinates: Coordinates) -> list[float]:
        """Where each constant is, at the baseline's value if that isn't known; then a 1."""
        return [coordinates.get(name, 0.0) for name in self.names] + [1.0]

    def largest(self, coordinates: Coordinates) -> float:
        """The largest excess over a limit; 0 where there is none."""
        inputs = self._inputs(coordinates)
        products = (sum(map(operator.mul, inputs, each)) for each in self.weights.values())
        return max(products, default=0.0)


def to_coordinates(values: Values, centers: Values) -> Coordinates:
    """Where constants are, those that are known and in range."""
    places = {
        name: to_coordinate(values[name], centers[name]) for name in centers if name in values
    }
    return {name: place for name, place in places.items() if place is not None}


def to_coordinate(value: float, center: float) -> float | None:
    """Where a constant is in [-1, 1], 0 at the baseline's value; None if it is out of range."""
    is_share = 0 < center < 1
    if value <= 0 or (is_share and value >= 1):
        return None
    ratio = value / center
    if is_share:
        ratio *= (1 - center) / (1 - value)
    return max(-1.0, min(1.0, math.log(ratio) / RANGE))


def from_coordinate(coordinate: float, center: int | float) -> int | float:
    """The constant there, of its center's type: the other way round."""
    factor = math.exp(coordinate * RANGE)
    if isinstance(center, int):
        return max(1, round(center * factor))
    value = center * factor
    if 0 < center < 1:
        odds = center / (1 - center) * factor
        value = odds / (1 + odds)
        if value > 0.5:  # digits of what is missing to 1: 0.9995 is no 1
            return round(1 - float(f"{1 - value:.{DIGITS}g}"), 12)
    return float(f"{value:.{DIGITS}g}")


def replace_constants(text: bytes, values: Values) -> bytes:
    """A source with other numbers for its constants."""
    lines = text.splitlines(keepends=True)
    nodes = find_constants(text)
    # from the end, as each one moves what comes after it in its line
    names = sorted(values, key=lambda name: (nodes[name].lineno, nodes[name].col_offset))
    for name in reversed(names):
        node = nodes[name]
        line, number = lines[node.lineno - 1], repr(values[name]).encode()
        lines[node.lineno - 1] = line[: node.col_offset] + number + line[node.end_col_offset :]
    return b"".join(lines)


def read_history(campaign: Campaign, centers: Values) -> list[Observation]:
    """What is known of the latest sources that were tried; one without a score has the worst."""
    rows = []
    for e in campaign.tried[-HISTORY:]:
        values, scores = constant_values(e.arms[CANDIDATE]["commit"]), e.scores(CANDIDATE)
        score = sum(scores) / len(scores) if scores else math.nan
        excesses = list_excesses(e) | excess_of_bpb(e, campaign)
        rows.append(Observation(to_coordinates(values, centers), score, excesses))
    worst = max((row.score for row in rows if math.isfinite(row.score)), default=0.0)
    return [row if math.isfinite(row.score) else row._replace(score=worst) for row in rows]


def list_excesses(e: Experiment) -> Excesses:
    """By how much an experiment's candidate is beyond each limit, as far as it was measured.

    Of several runs that which is furthest beyond counts, as it would end the experiment.
    """
    excesses: Excesses = {}
    runs = [run for run in e.runs if run["arm"] == CANDIDATE and run["status"] in MEASURED]
    for values in map(read_measures, runs):
        for name, limit in e.limits.items():
            if name in values:
                excess = Requirement(name, limit).excess(values[name])
                excesses[name] = max(excesses.get(name, excess), excess)
    return excesses


def excess_of_bpb(e: Experiment, campaign: Campaign) -> Excesses:
    """By how much val_bpb is beyond the slack, where another measure is the goal."""
    runs = e.valid_runs(CANDIDATE)
    if not campaign.slack or not runs:
        return {}
    return {SCORE: math.log(fmean(map(bpb, runs)) / campaign.slack.most)}


def count_moves(campaign: Campaign, names: Iterable[str]) -> dict[str, int]:
    """{name: number of tries that changed this constant}."""
    moves = dict.fromkeys(names, 0)
    for e in tried_ideas(campaign):
        after, before = (constant_values(arm["commit"]) for arm in e.arms)
        for name in moves:
            moves[name] += after.get(name) != before.get(name)
    return moves
