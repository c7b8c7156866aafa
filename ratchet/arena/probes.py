"""Probes: how a model that cheats gives itself away while it is scored."""

import math

import numpy as np

from ratchet.arena.tokenizer import SPECIALS

CONTROLS, CUTS = (
    32,
    112,
)  # rows probed unchanged, rows probed with a change (at least; else one in eight)
TOO_GOOD = 0.3  # bits per byte; the largest models known need more than 0.5 for English


def probe_rows(rows, watched, cuts, drawn, generator):
    """Inputs of the watched rows with another future after the cut.

    Every second row takes its future from another row. The others change in one token, to one that
    the model itself found likely there: so a model that looks ahead only where it sees a plausible
    token is caught too.
    """
    inputs = rows[watched, :-1]
    for number, row in enumerate(watched):
        if row in cuts and number % 2:
            inputs[number, cuts[row] + 1 :] = rows[
                generator.integers(len(rows)), cuts[row] + 1 : -1
            ]
        elif row in cuts:
            inputs[number, cuts[row] + 1] = drawn[row]
    return inputs


def judge(arena, nats, canaries, moved, cuts):
    """{probe: [passed, what was seen]} from the nats of rows and canaries, and how far watched rows
    moved.
    """
    noise, mean, uniform = moved[:CONTROLS], nats.mean(), math.log(arena.vocab_size - len(SPECIALS))
    edge = np.mean([row[cut] for row, cut in zip(moved[CONTROLS:], cuts)])
    leak = max(row[: cut + 1].max() for row, cut in zip(moved[CONTROLS:], cuts))
    floor, doubt = canaries.mean(), 4 * canaries.std() / math.sqrt(canaries.size)
    tight = leak <= max(1e-3, 4 * noise.max()) and edge <= 1e-3 + 4 * noise.mean()
    alone = noise.max() < 0.25 and noise.mean() < 2e-3
    probes = {
        "finite": (True, f"{nats.size} predictions"),
        "sane": (mean < 2 * uniform, f"{mean:.2f} nats, a uniform guess has {uniform:.2f}"),
        "independence": (alone, f"{noise.max():.1e} nats in other company"),
        "causality": (tight, f"{leak:.1e} nats from the future, {edge:.1e} at {len(cuts)} cuts"),
        "canary": (floor > uniform - 0.01 - doubt, f"{floor:.2f} nats for random tokens"),
    }
    return {name: [bool(passed), seen] for name, (passed, seen) in probes.items()}
