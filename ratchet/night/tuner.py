"""The tuner: proposes values for the constants at the top of train.py, without a language model.

It is a control group: does the agent find more than a plain search in equally many experiments?
Each proposal moves one or two constants of the champion, those first that were moved least, by a
tree-structured Parzen estimator (Bergstra et al., 2011; optuna) that has seen all scores of the
campaign. It doesn't know which constants a run uses: those of a preset for other devices cost it
experiments, too. The same ledger gives the same proposal.
"""

import math
import random
from collections.abc import Collection, Iterable

from ratchet.arena.files import Refused
from ratchet.experiments.campaign import Campaign, tried_ideas
from ratchet.experiments.ledger import CANDIDATE
from ratchet.night.knobs import constant_values, find_constants
from ratchet.referee.source import fingerprint

MOVED = 1, 1, 2  # how many constants a proposal moves: one of these
# log of how many times as high or low a constant gets, or the odds of a share in (0, 1)
RANGE = math.log(4)
DIGITS = 3  # of a proposed value
DRAWS = 50  # until a source is new
HISTORY = 500  # experiments that it looks back on
RANDOM_TRIALS = 5  # before the estimator is asked

Values = dict[str, int | float]  # {name of a constant: value}
Coordinates = dict[str, float]  # {name of a constant: where it is in [-1, 1]}


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
    estimator = Estimator(read_history(campaign, centers), seed=chance.randrange(2**31))
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
            return text, ", ".join(changes)
    raise Refused("the tuner finds nothing new to propose: use another agent")


class Estimator:
    """optuna's tree-structured Parzen estimator, told of all scores so far; lower is better."""

    def __init__(self, history: list[tuple[Coordinates, float]], seed: int):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.everywhere = optuna.distributions.FloatDistribution(-1, 1)
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=False, n_startup_trials=RANDOM_TRIALS
        )
        self.study = optuna.create_study(sampler=sampler)
        for coordinates, score in history:
            space = dict.fromkeys(coordinates, self.everywhere)
            trial = optuna.trial.create_trial(params=coordinates, distributions=space, value=score)
            self.study.add_trial(trial)

    def suggest(self, names: Iterable[str]) -> Coordinates:
        """Where these constants might be better."""
        return self.study.ask(dict.fromkeys(names, self.everywhere)).params


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


def read_history(campaign: Campaign, centers: Values) -> list[tuple[Coordinates, float]]:
    """Constants and mean score of the latest sources that were tried.

    One without a score counts as the worst.
    """
    rows = []
    for e in campaign.tried[-HISTORY:]:
        values = constant_values(e.arms[CANDIDATE]["commit"])
        coordinates = {
            name: to_coordinate(values[name], centers[name]) for name in centers if name in values
        }
        coordinates = {name: at for name, at in coordinates.items() if at is not None}
        scores = e.scores(CANDIDATE)
        rows.append((coordinates, sum(scores) / len(scores) if scores else None))
    worst = max((score for _, score in rows if score), default=0.0)
    return [(coordinates, score or worst) for coordinates, score in rows]


def count_moves(campaign: Campaign, names: Iterable[str]) -> dict[str, int]:
    """{name: number of tries that changed this constant}."""
    moves = dict.fromkeys(names, 0)
    for e in tried_ideas(campaign):
        after, before = (constant_values(arm["commit"]) for arm in e.arms)
        for name in moves:
            moves[name] += after.get(name) != before.get(name)
    return moves
