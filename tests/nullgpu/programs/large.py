"""large.py TRAIN_PY FOLDER: the large preset as it comes, compiled, a step of it noted.

FOLDER/step.json is what benchmarks/step_recorder.py writes, with the most memory that was reserved
from the beginning on, and how many frames the compiler took (ok) and saw (total).
"""

import ctypes
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "benchmarks"))

import step_recorder
import torch

from ratchet.arena.run import Run


class WholeRun(step_recorder.RecordedRun):
    """With its rehearsal."""

    _try_steps = Run._try_steps

    def finish(self, **facts):
        nullgpu = ctypes.CDLL(os.environ["LD_PRELOAD"])
        nullgpu.nullgpu_peak.restype = ctypes.c_size_t
        frames = dict(torch._dynamo.utils.counters["frames"])
        super().finish(reserved_bytes=nullgpu.nullgpu_peak(), frames=frames, **facts)


torch._dynamo.config.fail_on_recompile_limit_hit = True
step_recorder.RecordedRun = WholeRun
step_recorder.main()
