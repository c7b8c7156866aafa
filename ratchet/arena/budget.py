"""How long a run may take: the grammar of a budget, limits of what no budget bounds."""

import math
import re

from ratchet.arena.files import Refused

REHEARSAL_SECONDS = 20 * 60  # who isn't ready to train by then never will be
ANSWER_SECONDS = 30  # for a model that is scored to load, or to answer one batch


def parse_budget(text):
    """(amount, unit) of 300s (seconds on the clock), 20e6tok (tokens) or 1e15flop (model FLOPs)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)(s|tok|flop)", text)
    if not match or not 0 < float(match[1]) < math.inf:
        raise Refused(
            f"budget {text!r} is not understood: write 300s, 20e6tok or 1e15flop, more than zero"
        )
    return float(match[1]), match[2]
