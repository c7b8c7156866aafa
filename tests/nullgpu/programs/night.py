"""night.py VERB ...: the command ratchet, whose scores are drawn by the knobs of a train.py."""

import math
import random
import re

import handed_on  # noqa: F401

from ratchet import __main__
from ratchet.referee import trial


def draw_score(job, level, record, claims):
    """Stands in for score_submission(): no second process, no PyTorch."""
    knob, other = (
        float(value) for value in re.findall(rb"^\w+ = ([\d.]+)$", job.source.text, re.MULTILINE)
    )
    bpb = 1 + (knob - 0.3) ** 2 + (other - 0.4) ** 2 + 0.01 * random.gauss(0, 1)
    figures = dict(params=3, lookup=1, flops_per_token=1.0, mfu_percent=1.0)
    return figures | {"val": {"nats": bpb * math.log(2) * 1e6, "bytes": 1e6, "probes": {}}}


trial.score_submission = draw_score
__main__.main()
