"""The tuner: proposes values for the constants at the top of train.py, without a language model.

It is the control group for one: does the agent find more than a plain search at equal experiments?
Each proposal moves one or two constants of the champion, those first that were moved least, by a
tree-structured Parzen estimator (Bergstra et al., 2011; optuna) that has seen all scores of the
campaign. It doesn't know which constants a run uses: those of a preset for other devices cost it
experiments, too. The same ledger gives the same proposal.
"""

import math
import random

from ratchet.arena.files import Refused
from ratchet.experiments import sources
from ratchet.experiments.campaign import CANDIDATE, tried_ideas
from ratchet.night import knobs
from ratchet.referee.source import fingerprint

MOVED = 1, 1, 2  # how many constants a proposal moves: one of these
RANGE = math.log(
    4
)  # a constant goes up to four times as high or low; so do the odds of a share in (0, 1)
DIGITS = 3  # of a proposed value
TRIES = 50  # draws until a source is new
HISTORY = 500  # experiments that it looks back on


def coordinate(value, center):
    """A constant's place in [-1, 1], 0 where the baseline has it; None if that is no place of it."""
    shares = 0 < center < 1
    if value <= 0 or (shares and value >= 1):
        return None
    odds = (
        math.log(value / (1 - value) / (center / (1 - center)))
        if shares
        else math.log(value / center)
    )
    return max(-1.0, min(1.0, odds / RANGE))


def value_at(place, center):
    """The constant at a place: the other way round."""
    if isinstance(center, int):
        return max(1, round(center * math.exp(place * RANGE)))
    if 0 < center < 1:
        odds = center / (1 - center) * math.exp(place * RANGE)
        return float(f"{odds / (1 + odds):.{DIGITS}g}")
    return float(f"{center * math.exp(place * RANGE):.{DIGITS}g}")


def replaced(text, values):
    """Source `text` (bytes) with other numbers for its constants: {name: value}."""
    lines = text.splitlines(keepends=True)
    nodes = knobs.constants(text)
    for name in sorted(
        values, key=lambda name: (nodes[name].lineno, nodes[name].col_offset), reverse=True
    ):
        node = nodes[name]
        line, number = lines[node.lineno - 1], repr(values[name]).encode()
        lines[node.lineno - 1] = line[: node.col_offset] + number + line[node.end_col_offset :]
    return b"".join(lines)


def history(campaign, centers):
    """[({name: place}, score)] of the latest sources that were tried; lower is better."""
    rows = []
    for e in campaign.tried[-HISTORY:]:
        own = knobs.values_of(e.arms[CANDIDATE]["commit"])
        places = {name: coordinate(own[name], centers[name]) for name in centers if name in own}
        scores = e.scores(CANDIDATE)
        places = {name: place for name, place in places.items() if place is not None}
        rows.append((places, sum(scores) / len(scores) if scores else None))
    worst = max((score for _, score in rows if score), default=0.0)
    return [(places, score or worst) for places, score in rows]


def times_moved(campaign, names):
    """{name: number of tries that changed this constant}."""
    found = dict.fromkeys(names, 0)
    for e in tried_ideas(campaign):
        own, before = (knobs.values_of(arm["commit"]) for arm in e.arms)
        for name in names:
            found[name] += own.get(name) != before.get(name)
    return found


def propose(campaign, champion, number, known):
    """(text, idea) of the next proposal: `champion` is a text, `number` makes proposals differ,
    `known` holds the shapes of sources not to be proposed again. Raises Refused."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    baseline = knobs.constants(sources.read_source(campaign.baseline.arms[0]["commit"]).text)
    centers = {name: node.value for name, node in baseline.items() if node.value > 0}
    movable = sorted(centers.keys() & knobs.constants(champion).keys())
    if not movable:
        raise Refused("train.py has no constants at its top to be moved: use another agent")
    draw = random.Random(f"{campaign.baseline.salt} {number}")
    sampler = optuna.samplers.TPESampler(
        seed=draw.randrange(2**31), multivariate=False, n_startup_trials=5
    )
    study = optuna.create_study(sampler=sampler)
    everywhere = optuna.distributions.FloatDistribution(-1, 1)
    for places, score in history(campaign, centers):
        known_places = dict(params=places, distributions=dict.fromkeys(places, everywhere))
        study.add_trial(optuna.trial.create_trial(**known_places, value=score))
    before = {name: node.value for name, node in knobs.constants(champion).items()}
    moved = times_moved(campaign, movable)
    for turn in range(TRIES):
        # all values of what was moved least may be known: so the order is looser with every turn
        disorder = {name: moved[name] + (1 + turn) * draw.random() for name in movable}
        names = sorted(movable, key=disorder.get)[: draw.choice(MOVED)]
        places = study.ask(dict.fromkeys(names, everywhere)).params
        values = {name: value_at(place, centers[name]) for name, place in places.items()}
        values = {name: value for name, value in values.items() if value != before[name]}
        text = replaced(champion, values)
        if values and fingerprint(text)["source"] not in known:
            return text, ", ".join(
                f"{name} {before[name]} -> {values[name]}" for name in sorted(values)
            )
    raise Refused("the tuner finds nothing new to propose: use another agent")
