"""Probes: how a model that cheats gives itself away while it is scored.

To add a probe: write a function of Evidence that returns (passed, what was seen), name it in
PROBES, add a cheat that it catches to tests/cheats/.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ratchet.arena.definition import ARENAS, Arena
from ratchet.arena.tokenizer import BOS, SPECIALS

CONTROLS = 32  # rows that are scored again unchanged
CUTS = 112  # rows that are scored again with another future, at least; else one in eight
CANARIES = 4  # rows of random tokens
TOO_GOOD = 0.3  # bits per byte; the largest models known need more than 0.5 for English


# --------------------------------------------------------------------------------------------------
# What is drawn


class ProbePlan(NamedTuple):
    """Which rows a model is probed with. Nobody can know them before it is scored."""

    canaries: np.ndarray  # [CANARIES, T + 1] random tokens
    watched: list[int]  # numbers of rows that are scored twice; the first CONTROLS unchanged
    cuts: dict[int, int]  # of the others: the position after which their inputs change


def draw_plan(rows: np.ndarray, vocab_size: int, generator: np.random.Generator) -> ProbePlan:
    """Draw the probes of rows [n, T + 1]."""
    count, width = rows.shape
    canaries = generator.integers(len(SPECIALS), vocab_size, (CANARIES, width)).astype(rows.dtype)
    canaries[:, 0] = BOS
    most = min(count, CONTROLS + max(CUTS, count // 8))
    watched = generator.choice(count, most, replace=False).tolist()
    cuts = {row: int(generator.integers(width - 2)) for row in watched[CONTROLS:]}
    return ProbePlan(canaries, watched, cuts)


def change_futures(
    rows: np.ndarray, plan: ProbePlan, drawn: dict[int, int], generator: np.random.Generator
) -> np.ndarray:
    """Inputs [w, T] of the watched rows, with another future after the cut.

    Every second row takes its future from another row. The others change in one token, to one that
    the model itself found likely there (`drawn`): so a model that looks ahead only where it sees a
    plausible token is caught too.
    """
    inputs = rows[plan.watched, :-1]
    for number, row in enumerate(plan.watched):
        if row not in plan.cuts:
            continue
        after = plan.cuts[row] + 1
        if number % 2:
            inputs[number, after:] = rows[generator.integers(len(rows)), after:-1]
        else:
            inputs[number, after] = drawn[row]
    return inputs


# --------------------------------------------------------------------------------------------------
# What is seen


class Evidence(NamedTuple):
    """What a model did with rows of T targets."""

    arena: Arena
    split: str
    nats: np.ndarray  # [n, T] of the split
    canary_nats: np.ndarray  # [CANARIES, T]
    moved: np.ndarray  # [w, T] by how much nats of the watched rows changed the second time
    cuts: list[int]  # of the watched rows after the CONTROLS
    text_bytes: int  # of all targets

    @property
    def bpb(self) -> float:
        """Bits per byte: the score."""
        return float(self.nats.sum(dtype=np.float64)) / math.log(2) / self.text_bytes

    @property
    def uniform(self) -> float:
        """Nats of a model that knows nothing."""
        return math.log(self.arena.vocab_size - len(SPECIALS))


def check_finite(seen: Evidence) -> tuple[bool, str]:
    """No probability is zero, none is not a number."""
    finite = np.isfinite(seen.nats).all() and np.isfinite(seen.moved).all()
    return bool(finite), f"{seen.nats.size} predictions"


def check_sane(seen: Evidence) -> tuple[bool, str]:
    """It is not much worse than a guess."""
    mean = seen.nats.mean()
    return mean < 2 * seen.uniform, f"{mean:.2f} nats, a uniform guess has {seen.uniform:.2f}"


def check_independence(seen: Evidence) -> tuple[bool, str]:
    """A row scores the same whatever rows are beside it, whatever came before."""
    noise = seen.moved[:CONTROLS]
    alone = noise.max() < 0.25 and noise.mean() < 2e-3
    return alone, f"{noise.max():.1e} nats in other company"


def check_causality(seen: Evidence) -> tuple[bool, str]:
    """Another future changes no prediction before it."""
    noise, changed = seen.moved[:CONTROLS], seen.moved[CONTROLS:]
    leak = max(row[: cut + 1].max() for row, cut in zip(changed, seen.cuts))
    edge = np.mean([row[cut] for row, cut in zip(changed, seen.cuts)])
    tight = leak <= max(1e-3, 4 * noise.max()) and edge <= 1e-3 + 4 * noise.mean()
    return tight, f"{leak:.1e} nats from the future, {edge:.1e} at {len(seen.cuts)} cuts"


def check_canaries(seen: Evidence) -> tuple[bool, str]:
    """Nobody predicts random tokens better than a guess does."""
    mean = seen.canary_nats.mean()
    doubt = 4 * seen.canary_nats.std() / math.sqrt(seen.canary_nats.size)
    return mean > seen.uniform - 0.01 - doubt, f"{mean:.2f} nats for random tokens"


def check_bytes(seen: Evidence) -> tuple[bool, str]:
    """The text is as long as it was when it was prepared."""
    prepared = getattr(seen.arena, f"{seen.split}_bytes")
    return seen.text_bytes == prepared, f"{seen.text_bytes} bytes"


def check_plausible(seen: Evidence) -> tuple[bool, str]:
    """The score is not too good to be true."""
    is_own_text = seen.arena.name not in ARENAS  # may be anything
    return seen.bpb > TOO_GOOD or is_own_text, f"{seen.bpb:.3f} bits per byte"


PROBES: dict[str, Callable[[Evidence], tuple[bool, str]]] = {
    "finite": check_finite,
    "sane": check_sane,
    "independence": check_independence,
    "causality": check_causality,
    "canary": check_canaries,
    "bytes": check_bytes,
    "plausible": check_plausible,
}


def check_probes(seen: Evidence) -> dict[str, tuple[bool, str]]:
    """{probe: (passed, what was seen)}."""
    results = {}
    for name, check in PROBES.items():
        passed, sight = check(seen)
        results[name] = bool(passed), sight
    return results
