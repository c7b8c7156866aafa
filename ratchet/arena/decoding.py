"""The clock of decoding: tokens of held-out rows go to a model one by one, its logits come back.

The clock runs in this process, the model in another one. From the answer to the prompts to the last
answer it runs without a pause, so that a model has no time of its own; it covers a copy of the
logits of rows that are drawn for each token. Nobody can compute ahead, as what comes next in a row
is told only then, nor answer first and compute later, as the copy would hold something else. What
was copied is held to what forward() says of the same rows in other processes. In a score these are
the very answers that are scored: a model can't answer for its decode() alone. The tokens come from
all over the context, and nearly all of the time counts: a model that is cheap in some rows or
places alone, in forward(), too, is as fast as it is on average.

Letters in shapes: n rows, k of them copied, T context, V vocabulary.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ratchet.arena.definition import Arena
from ratchet.arena.model_process.process import DecodingProcess, Invalid
from ratchet.arena.model_process.rooms import shared_files

BATCH_ROWS = {"cpu": 16}  # that are decoded at a time; else GPU_BATCH_ROWS
GPU_BATCH_ROWS = 256
MOST_NEW = 64  # tokens after the prompt, by default
REPEATS = 5  # after one that warms up, where nobody cheats
BATCH_REPEATS = 8  # in a score
USER_REPEATS = 24  # of one row, which takes so short that others disturb it more
SLOWEST = 1 / 8  # of the repeats, which are left out: other programs only make one slower
PATIENCE_SECONDS = 15  # after which no further repeat begins, once there is one
REPEAT_SECONDS = 5  # after which a repeat ends, wherever it is
KEPT_ROWS = 4  # whose logits are copied with each token
LEAST_LOG = -100.0  # of a probability: none is compared that is smaller

# By which decode() may differ from forward(): nats that it costs at a token (LOG.md)
MEAN_NATS = 1e-3
MOST_NATS = 0.1


class Lengths(NamedTuple):
    """prompt: tokens that a row begins with; new: that follow, the first from the prompt alone."""

    prompt: int
    new: int

    @property
    def total(self) -> int:
        return self.prompt + self.new


def default_lengths(context: int) -> Lengths:
    """Half of the context, then a quarter of it or MOST_NEW. Example: 512 -> (256, 64)."""
    return Lengths(context // 2, max(2, min(MOST_NEW, context // 4)))


def draw_lengths(context: int, generator: np.random.Generator) -> list[Lengths]:
    """Lengths whose new tokens cover the context, from a drawn one on, in a drawn order.

    A model that knew where it is timed could be cheap there alone. Example: 512 -> seven times 64.
    """
    new = default_lengths(context).new
    most = max(1, context - new)
    first = int(generator.integers(1, 1 + min(new, most)))
    prompts = generator.permutation(range(first, most + 1, new))
    return [Lengths(prompt, new) for prompt in prompts.tolist()]


class KeptLogits:
    """What a model answered while it decoded, to be held to what forward() says of the same rows.

    nats: for each position compared, KL(forward() || decode()): what decode() costs there
    """

    def __init__(self) -> None:
        self.by_row: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        self.nats: list[float] = []

    def keep(self, rows: list[int], position: int, logits: Tensor) -> None:
        """Logits [k, V] that were answered to tokens at a position of k rows of the split."""
        for row, answer in zip(rows, logits):
            self.by_row[row].append((position, answer))

    def compare(self, row: int, logits: Tensor) -> None:
        """Take note of what forward() says of a row of the split, [T, V]; of others is nothing."""
        if row not in self.by_row:
            return
        positions, answers = zip(*self.by_row[row])
        of_decode = torch.stack(answers).to(logits.device)
        self.nats += divergence(logits[list(positions)], of_decode).tolist()

    def check(self) -> tuple[bool, str]:
        """Whether decode() is as good as forward(), and what was seen."""
        nats = self.nats or [math.inf]  # nothing compared is nothing shown
        mean, most = np.mean(nats), np.max(nats)
        seen = f"decode() costs {mean:.1e} nats a token, {most:.1e} at most"
        return bool(mean <= MEAN_NATS and most <= MOST_NATS), seen


def divergence(true: Tensor, other: Tensor) -> Tensor:
    """KL(true || other) in nats, of logits [k, V] each -> [k]: what the other costs if one is true.

    Of probabilities that are zero, or nearly so, the logarithm counts as LEAST_LOG.
    """
    p, q = (logits.float().log_softmax(-1).clamp_min(LEAST_LOG) for logits in (true, other))
    return (p.exp() * (p - q)).sum(-1)


# --------------------------------------------------------------------------------------------------
# The clock


class Clock:
    """Has batches of rows decoded by a process, over and over, each time other rows.

    inputs: [n, T] tokens of a split's rows
    """

    def __init__(
        self,
        model: DecodingProcess,
        inputs: np.ndarray,
        generator: np.random.Generator,
        kept: KeptLogits,
    ) -> None:
        self.model, self.generator, self.kept = model, generator, kept
        self.inputs = torch.from_numpy(inputs.astype(np.int64))
        self.drawn = self._draw_rows()

    def _draw_rows(self) -> Iterator[int]:
        """All rows in an order that nobody knows, again and again."""
        while True:
            yield from self.generator.permutation(len(self.inputs))

    def time_batch(
        self, rows: int, lengths: Sequence[Lengths], repeats: int = REPEATS
    ) -> list[list[float]]:
        """The moments of each repeat, as time_repeat() has them. Raises MemoryError, Invalid.

        lengths: of the repeats, in turns; their caches are alike, so that none compiles anew.
        """
        total = max(each.total for each in lengths)
        self.time_repeat(rows, lengths[0], total)  # warms up
        moments, turns, stop = [], cycle(lengths), time.monotonic() + PATIENCE_SECONDS
        while not moments or (len(moments) < repeats and time.monotonic() < stop):
            moments.append(self.time_repeat(rows, next(turns), total))
        return moments

    def time_repeat(self, rows: int, lengths: Lengths, total: int) -> list[float]:
        """Decode rows: the moments of the start, of the first logits, of those of each next token.

        total: tokens that its cache is for. Raises MemoryError, Invalid.
        """
        order = torch.tensor([*islice(self.drawn, rows)])
        prompt, last = lengths.prompt, lengths.total - 1
        copied = [self._draw_copied(rows) for _ in range(lengths.new)]
        tokens, answers = self.inputs[order], []
        moments = [time.perf_counter()]
        logits = self.model.begin_decoding(tokens[:, :prompt], total)
        answers.append(logits.index_select(0, copied[0]).cpu())
        moments.append(time.perf_counter())
        for number, position in enumerate(range(prompt, last), 1):
            logits = self.model.decode_token(tokens[:, position], position)
            answers.append(logits.index_select(0, copied[number]).cpu())
            moments.append(time.perf_counter())
            if moments[-1] - moments[1] > REPEAT_SECONDS:
                break
        for number, answer in enumerate(answers):
            self.kept.keep(order[copied[number].cpu()].tolist(), prompt - 1 + number, answer)
        return moments

    def _draw_copied(self, rows: int) -> Tensor:
        drawn = self.generator.permutation(rows)[:KEPT_ROWS]
        return torch.from_numpy(drawn).to(self.model.logits.device)


def tokens_per_second(
    rows: int, repeats: list[list[float]], generator: np.random.Generator
) -> float:
    """By the mean time of a token in all repeats but the slowest, each from a drawn token of its
    first quarter to its last.

    So it's of little use to work ahead while the prompts are read, where nothing is counted: on
    what would follow the likeliest first tokens. Nor is it to be fast in some of the repeats.
    """
    seconds = []  # of a token
    for moments in repeats:
        first = int(generator.integers(1, 1 + max(1, len(moments) // 4)))
        seconds.append((moments[-1] - moments[first]) / (len(moments) - 1 - first))
    count = math.ceil((1 - SLOWEST) * len(seconds))
    return rows / float(np.mean(sorted(seconds)[:count]))


def measure_decoding(
    folder: Path,
    arena: Arena,
    device: torch.device,
    inputs: np.ndarray,
    generator: np.random.Generator,
    kept: KeptLogits,
) -> dict[str, float]:
    """{"user_tps", "batch_tps", "batch_rows"}: tokens/s of one row, of so many at a time.

    A batch that finds no memory is tried again with half the rows. inputs: [n, T] of a split, of
    which no row is decoded twice if there are enough. Raises Invalid.
    """
    rows = BATCH_ROWS.get(device.type, GPU_BATCH_ROWS)
    left = len(inputs) - USER_REPEATS - 1
    rows = max(1, min(rows, left // (BATCH_REPEATS + 1)))
    lengths = draw_lengths(arena.context, generator)
    with closing(DecodingProcess(folder, arena, device, rows)) as model:
        shared_files().in_memory()  # as if nobody had read any of them
        model.load_model()
        clock = Clock(model, inputs, generator, kept)
        try:
            user = tokens_per_second(1, clock.time_batch(1, lengths, USER_REPEATS), generator)
        except MemoryError:  # not tried again: it could complain until others are quiet
            raise Invalid("there is no memory to decode one row") from None
        while rows:
            try:
                repeats = clock.time_batch(rows, lengths, BATCH_REPEATS)
                batch = tokens_per_second(rows, repeats, generator)
                return {"user_tps": user, "batch_tps": batch, "batch_rows": rows}
            except MemoryError:
                rows //= 2
    raise Invalid("there is no memory to decode one row")
