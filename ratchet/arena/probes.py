"""Probes: how a model that cheats gives itself away while it is scored.

To add a probe: write a function of Evidence that returns (passed, what was seen), name it in
PROBES, add a cheat that it catches to tests/cheats/.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ratchet.arena.definition import ARENAS, Arena
from ratchet.arena.tokenizer import BOS, SPECIALS

CONTROLS = 32  # rows that are scored again unchanged
CUTS = 112  # rows that are scored again with another future, at least; else one in eight
CANARIES = 4  # rows of random tokens
CHANGES = "token", "future"  # of what comes after the cut, in turn
THIRD_PROCESS = 0.25  # how often a model is asked in three processes, not in two
TOO_GOOD = 0.3  # bits per byte; the largest models known need more than 0.5 for English


# --------------------------------------------------------------------------------------------------
# What is drawn


class SecondLook(NamedTuple):
    """A row that a second process scores again."""

    row: int
    cut: int  # the last position before the change
    change: str  # of its inputs: "nothing", "future" (another row's) or "token" (a likely one)


class ProbePlan(NamedTuple):
    """What a model is asked, by which of its processes. Nobody can know it before.

    Questions are the n rows, then the canaries, then the second looks. Each process gets some of
    all kinds, so that the model can't tell which it is.
    """

    canaries: np.ndarray  # [CANARIES, T + 1] random tokens
    looks: list[SecondLook]  # those without a change first
    processes: int  # one after the other: 0 is the first
    dealt: np.ndarray  # [n + CANARIES + len(looks)] the process that each question goes to

    @property
    def first_look(self) -> int:
        """The number of the question that is the first of the second looks."""
        return len(self.dealt) - len(self.looks)

    @property
    def watched(self) -> list[int]:
        """Rows that are scored twice."""
        return [look.row for look in self.looks]

    @property
    def token_cuts(self) -> dict[int, int]:
        """{row: cut} where a token must be drawn from the model's prediction."""
        return {look.row: look.cut for look in self.looks if look.change == "token"}


def draw_plan(rows: np.ndarray, vocab_size: int, generator: np.random.Generator) -> ProbePlan:
    """Draw the probes of rows [n, T + 1]."""
    count, width = rows.shape
    canaries = generator.integers(len(SPECIALS), vocab_size, (CANARIES, width)).astype(rows.dtype)
    canaries[:, 0] = BOS
    most = min(count, CONTROLS + max(CUTS, count // 8))
    looks = []
    for number, row in enumerate(generator.choice(count, most, replace=False).tolist()):
        change = CHANGES[number % len(CHANGES)] if number >= CONTROLS else "nothing"
        cut = width - 2 if change == "nothing" else int(generator.integers(width - 2))
        looks.append(SecondLook(row, cut, change))
    processes = 3 if generator.random() < THIRD_PROCESS else 2
    dealt = generator.integers(processes, size=count + CANARIES + most)
    for question, look in enumerate(looks, count + CANARIES):
        pair = generator.choice(processes, 2, replace=False)
        if look.change == "token":
            pair.sort()  # the token is drawn from what the model has answered to the row itself
        dealt[look.row], dealt[question] = pair
    return ProbePlan(canaries, looks, processes, dealt)


def change_futures(rows: np.ndarray, plan: ProbePlan, generator: np.random.Generator) -> np.ndarray:
    """Inputs [w, T] of the second looks, with another future after the cut.

    Every second row takes its future from another row. The others change in one token, to one that
    the model itself finds likely there: so a model that looks ahead only where it sees a plausible
    token is caught too. change_tokens() does that when the model has been asked.
    """
    inputs = rows[plan.watched, :-1]
    for again, look in zip(inputs, plan.looks):
        if look.change == "future":
            after = look.cut + 1
            again[after:] = rows[generator.integers(len(rows)), after:-1]
    return inputs


def change_tokens(inputs: np.ndarray, plan: ProbePlan, drawn: Mapping[int, int]) -> None:
    """Change one token in inputs [w, T] of second looks; drawn: {row: token} as known so far."""
    for again, look in zip(inputs, plan.looks):
        if look.change == "token" and look.row in drawn:
            again[look.cut + 1] = drawn[look.row]


# --------------------------------------------------------------------------------------------------
# What is seen


class Evidence(NamedTuple):
    """What a model did with rows of T targets."""

    arena: Arena
    split: str
    nats: np.ndarray  # [n, T] of the split
    canary_nats: np.ndarray  # [CANARIES, T]
    looks: list[SecondLook]
    moved: np.ndarray  # [w, T] by how much nats changed at the second look
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
    noise, changed, cuts = seen.moved[:CONTROLS], seen.moved[CONTROLS:], seen.looks[CONTROLS:]
    leak = max(row[: look.cut + 1].max() for row, look in zip(changed, cuts))
    edge = np.mean([row[look.cut] for row, look in zip(changed, cuts)])
    tight = leak <= max(1e-3, 4 * noise.max()) and edge <= 1e-3 + 4 * noise.mean()
    return tight, f"{leak:.1e} nats from the future, {edge:.1e} at {len(cuts)} cuts"


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
