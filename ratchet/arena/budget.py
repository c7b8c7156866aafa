"""How much a run may use: the grammar of a budget, with the limits where no budget holds."""

import math
import re
from dataclasses import dataclass

from ratchet.arena.files import Refused

REHEARSAL_SECONDS = 20 * 60  # who isn't ready to train by then never will be
START_SECONDS = 120  # to import PyTorch from a slow disk, or to compile kernels for a first answer
ANSWER_SECONDS = 30  # for that model to load a small file, or to answer one batch
ANSWER_SHARE = 0.03  # of the work of training, which most answers may take
LEAST_SLOW_SECONDS = 2  # that they may take anyway
LOAD_BYTES_PER_SECOND = 2**26  # of a large file, which a slow disk still reads
KERNEL_SECONDS = 60  # for a GPU's kernels to be compiled when they are first called
GPU_WORK_SECONDS = 5  # for kernels to be tried meanwhile
WORK_SECONDS = 1  # that a model may work beside its answers: to import what load() needs
WORK_SHARE = 0.1  # and this share of the CPU seconds that PyTorch takes to start on this machine
WORK_BYTES_PER_SECOND = 2**30  # of weights that are read and copied
GRAMMAR = r"(\d+(?:\.\d+)?(?:e\d+)?)(s|tok|flop)"


def load_limit(weight_bytes: int) -> float:
    """Seconds that a model which is scored may take to load, of a file of so many bytes."""
    return ANSWER_SECONDS + weight_bytes / LOAD_BYTES_PER_SECOND


def answer_limit(train_seconds: float, cores: int) -> float:
    """Seconds that most answers of a model may take: no time to train in, before each of them.

    train_seconds: of its run. cores: that work for each second, 1 on a GPU. Example: 18.0 after
    300 s on two cores. Who is slower in honesty has trained on a few dozen rows.
    """
    return max(LEAST_SLOW_SECONDS, ANSWER_SHARE * train_seconds * cores)


def work_limit(weight_bytes: int, start_seconds: float) -> float:
    """Seconds that a model which is scored may work beside its answers: no time to train in.

    start_seconds: CPU seconds that its process took to import PyTorch: more on a slow machine.
    """
    importing = WORK_SECONDS + WORK_SHARE * start_seconds
    return importing + weight_bytes / WORK_BYTES_PER_SECOND


@dataclass(frozen=True)
class Budget:
    """How much of one unit a run may use. As text: Budget(20e6, "tok") is "20000000tok"."""

    amount: float
    unit: str  # s: seconds on the clock; tok: training tokens; flop: FLOPs of the model

    def __str__(self) -> str:
        return f"{self.amount:.15g}{self.unit}".replace("+", "")

    @property
    def seconds(self) -> float | None:
        """On the clock; None for a budget of tokens or FLOPs."""
        return self.amount if self.unit == "s" else None

    def share_used(self, seconds: float, tokens: float, flops_per_token: float = 0.0) -> float:
        """The share of the budget that a run has used after so many seconds and tokens."""
        used = {"s": seconds, "tok": tokens, "flop": tokens * flops_per_token}
        return used[self.unit] / self.amount


def parse_budget(text: str) -> Budget:
    """The Budget that a text stands for. Raises Refused.

    Example: "20e6tok" -> Budget(20e6, "tok")
    """
    match = re.fullmatch(GRAMMAR, text)
    if not match or not 0 < float(match[1]) < math.inf:
        remedy = "write 300s, 20e6tok or 1e15flop, more than zero"
        raise Refused(f"budget {text!r} is not understood: {remedy}")
    return Budget(float(match[1]), match[2])
