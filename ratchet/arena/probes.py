"""Probes: how a model that cheats gives itself away while it is scored.

To add a probe: write a function of Evidence that returns (passed, what was seen), name it in
PROBES, add a cheat that it catches to tests/cheats/.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ratchet.arena.decoding import KeptLogits
from ratchet.arena.definition import ARENAS, Arena
from ratchet.arena.results import bits_per_byte
from ratchet.arena.tokenizer import BOS, SPECIALS

PROBES_VERSION = 2  # counts up with what is asked or tolerated; in rows that name none it was 1
CONTROLS = 32  # rows that are scored again unchanged
CUTS = 112  # rows that are scored again with another future, at least; else one in eight
CANARIES = 4  # rows of random tokens
THIRD_PROCESS = 0.25  # how often a model is asked in three processes, not in two
DOUBT = 3  # standard errors of what answers differ by, so that luck saves no cheat its charge
TOO_GOOD = 0.3  # bits per byte; the largest models known need more than 0.5 for English


# --------------------------------------------------------------------------------------------------
# What is drawn


class ProbePlan(NamedTuple):
    """What a model is asked, by which of its processes. Nobody can know it before.

    Questions are the n rows, then the canaries, then the second looks at w of the rows. Each
    process gets some of all kinds, so that the model can't tell which it is.
    """

    canaries: np.ndarray  # [CANARIES, T + 1] random tokens
    watched: np.ndarray  # [w] the rows that are looked at again, CONTROLS of them unchanged
    cuts: np.ndarray  # [w - CONTROLS] the last position before the change, of the others
    processes: int  # one after the other
    dealt: np.ndarray  # [n + CANARIES + w] the process that each question goes to


def draw_plan(rows: np.ndarray, vocab_size: int, generator: np.random.Generator) -> ProbePlan:
    """Draw the probes of rows [n, T + 1]."""
    count, width = rows.shape
    canaries = generator.integers(len(SPECIALS), vocab_size, (CANARIES, width)).astype(rows.dtype)
    canaries[:, 0] = BOS
    cuts = generator.integers(width - 2, size=max(CUTS, count // 8))
    looks = CONTROLS + len(cuts)
    watched = generator.choice(count, looks, replace=looks > count)
    processes = 3 if generator.random() < THIRD_PROCESS else 2
    dealt = generator.integers(processes, size=count + CANARIES + looks)
    dealt[-looks:] = (dealt[watched] + generator.integers(1, processes, size=looks)) % processes
    return ProbePlan(canaries, watched, cuts, processes, dealt)


def change_futures(rows: np.ndarray, plan: ProbePlan, generator: np.random.Generator) -> np.ndarray:
    """Inputs [w, T] of the second looks: after its cut, a row goes on as another one does.

    Such a future tells nothing of the row's own one. So what a model loses by it, on average over
    random cuts, is what it gains by looking ahead, however it does so and how far.
    """
    inputs = rows[plan.watched, :-1]
    for again, cut in zip(inputs[CONTROLS:], plan.cuts):
        again[cut + 1 :] = rows[generator.integers(len(rows)), cut + 1 : -1]
    return inputs


# --------------------------------------------------------------------------------------------------
# What is seen


class Tolerance(NamedTuple):
    """Nats by which two answers to the same may differ on a kind of device."""

    most: float  # at any position, where nothing has changed
    mean: float  # there on average
    leak: float  # before a change, at any position and on average,
    noises: float  # or so many times as much as where nothing has changed


# batches have one shape, so a CPU computes each row alike, wherever it stands; a GPU may choose
# another kernel
ON_GPU = Tolerance(most=0.25, mean=2e-3, leak=1e-3, noises=4)
TOLERANCES = {
    "cpu": Tolerance(most=1e-5, mean=1e-5, leak=1e-5, noises=0),
    "cuda": ON_GPU,
    "mps": ON_GPU,
}


class Evidence(NamedTuple):
    """What a model did with rows of T targets."""

    arena: Arena
    split: str
    device: str  # its kind: "cpu", "cuda" or "mps"
    nats: np.ndarray  # [n, T] of the split
    canary_nats: np.ndarray  # [CANARIES, T]
    moved: np.ndarray  # [w, T] by how much nats changed at the second look
    cuts: np.ndarray  # [w - CONTROLS] of the rows whose futures changed: the last of w
    text_bytes: int  # of all targets
    decoded: KeptLogits | None = None  # what it answered while it decoded, if it was to

    @property
    def noise(self) -> np.ndarray:
        """[CONTROLS, T] by how much nats changed where nothing else did."""
        return self.moved[:CONTROLS]

    @property
    def leaks(self) -> np.ndarray:
        """[w - CONTROLS, T] by how much nats changed before a change, the nearest position first.

        NaN where a row has no more.
        """
        leaks = np.full_like(self.moved[CONTROLS:], np.nan)
        for row, moved, cut in zip(leaks, self.moved[CONTROLS:], self.cuts):
            row[: cut + 1] = moved[cut::-1]
        return leaks

    @property
    def charge(self) -> float:
        """Nats a token that a model must pay for answers that differ."""
        means = [self.noise.mean(1), *near_means(self.leaks)]
        return max(upper_bound(each) for each in means)

    @property
    def charged_nats(self) -> float:
        """Nats that are added to the split's."""
        return self.charge * self.nats.size

    @property
    def bpb(self) -> float:
        """Bits per byte: the score."""
        nats = float(self.nats.sum(dtype=np.float64))
        return bits_per_byte(nats + self.charged_nats, self.text_bytes)

    @property
    def uniform(self) -> float:
        """Nats of a model that knows nothing."""
        return math.log(self.arena.vocab_size - len(SPECIALS))


def near_means(leaks: np.ndarray) -> list[np.ndarray]:
    """Means [w] of rows [w, T] over the first 1, 2, 4, ... positions, up to all.

    A peek k tokens ahead moves the k positions before a change: it isn't diluted in the mean over
    about as many.
    """
    lengths = [2**power for power in range((leaks.shape[1] - 1).bit_length() + 1)]
    return [np.nanmean(leaks[:, :length], axis=1) for length in lengths]


def upper_bound(values: np.ndarray) -> float:
    """The mean of some values and DOUBT standard errors; 0 if all are 0."""
    return float(values.mean() + DOUBT * values.std(ddof=1) / math.sqrt(len(values)))


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
    allowed, most = TOLERANCES[seen.device], seen.noise.max()
    alike = most <= allowed.most and seen.noise.mean() <= allowed.mean
    return alike, f"{most:.1e} nats in other company"


def check_causality(seen: Evidence) -> tuple[bool, str]:
    """Another future changes no prediction before it."""
    allowed, leaks = TOLERANCES[seen.device], seen.leaks
    most, mean = np.nanmax(leaks), max(each.mean() for each in near_means(leaks))
    tight = most <= max(allowed.leak, allowed.noises * seen.noise.max())
    tight &= mean <= allowed.leak + allowed.noises * seen.noise.mean()
    charged = f", {seen.charge:.1e} charged" * (seen.charge > 0)
    return tight, f"{most:.1e} nats from the future, {mean:.1e} before {len(leaks)} cuts{charged}"


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


def check_decoding(seen: Evidence) -> tuple[bool, str]:
    """Where it was timed, decode() is forward()."""
    assert seen.decoded
    return seen.decoded.check()


PROBES: dict[str, Callable[[Evidence], tuple[bool, str]]] = {
    "finite": check_finite,
    "sane": check_sane,
    "independence": check_independence,
    "causality": check_causality,
    "canary": check_canaries,
    "bytes": check_bytes,
    "plausible": check_plausible,
    "decoding": check_decoding,  # only where it decoded
}


def check_probes(seen: Evidence) -> dict[str, tuple[bool, str]]:
    """{probe: (passed, what was seen)}."""
    results = {}
    for name, check in PROBES.items():
        if name == "decoding" and seen.decoded is None:
            continue
        passed, sight = check(seen)
        results[name] = bool(passed), sight
    return results
