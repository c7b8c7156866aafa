"""The grammar of a budget: 300s, 20e6tok, 1e15flop."""

import math
import re

from ratchet.arena.files import Refused


def parse_budget(text):
    """(amount, unit) of 300s (seconds on the clock), 20e6tok (tokens) or 1e15flop (model FLOPs)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)(s|tok|flop)", text)
    if not match or not 0 < float(match[1]) < math.inf:
        raise Refused(
            f"budget {text!r} is not understood: write 300s, 20e6tok or 1e15flop, more than zero"
        )
    return float(match[1]), match[2]
