"""The process that holds the clock of `ratchet serve-bench`, and never imports a run's train.py.

Started by serve_bench.py. The model runs in processes of its own, in the sandbox, as those of a
score do. Questions and answers are lines of JSON on a socket; `do` names the method of BenchServer
that answers.
"""

import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ratchet.arena.decoding import Clock, KeptLogits, Lengths
from ratchet.arena.definition import load_arena
from ratchet.arena.files import Refused
from ratchet.arena.hardware.cpu import apply_cpu_workarounds
from ratchet.arena.hardware.device import matmul_peak, set_cuda_device, synchronize
from ratchet.arena.model_process.process import DecodingProcess, Invalid, ModelProcess, is_figure
from ratchet.arena.results import read_run_record
from ratchet.arena.score import CPU_ROWS, GPU_ROWS, read_rows, score_rows

TAIL = 17  # tokens at the end of a full row
CHECKED_ROWS = 12  # of each batch size, drawn when it is done, that forward() answers, too
FULL_ROWS = 3  # that are timed without a cache
BANDWIDTH_BYTES = {"cuda": 2**31}  # else 2**28
Answer = dict[str, Any]


class BenchServer:
    """Answers questions about the speed of one run's model."""

    def __init__(self, folder: Path, device: torch.device, most: int) -> None:
        """most: rows of the largest batch."""
        self.arena = load_arena(Path(read_run_record(folder)["arena_folder"]), "val.rows")
        self.folder, self.device = folder, device
        self.rows = read_rows(self.arena, "val")
        self.generator, self.kept = np.random.default_rng(), KeptLogits()
        self.model = DecodingProcess(folder, self.arena, device, most)

    def load_model(self) -> Answer:
        self.model.load_model()
        inputs = self.rows[:, :-1]
        self.clock = Clock(self.model, inputs, self.generator, KeptLogits())
        return {"cached": self.model.ask_model("describe_decoding").get("has_cache") is True}

    def compile_step(self) -> Answer:
        """Have the model compile its step of one token; there is none without a cache."""
        why = self.model.ask_model("compile_decoding").get("why")
        return {"compiled": why is None, "why": why}

    def time_batch(self, batch: int, prompt: int, new: int, repeats: int) -> Answer:
        """Decode some batches: seconds of each to its first token, then between two tokens.

        slow_gap: the gap that 99 % don't exceed; bytes, flops: of a step, as the model's process
        tells them.
        """
        moments = self.time_rows(batch, Lengths(prompt, new), repeats)
        gaps = sorted(gap for each in moments for gap in gaps_of(each))
        position = prompt + new - 1
        work = self.model.ask_model("count_step", rows=batch, position=position)
        return {
            "first": [each[1] - each[0] for each in moments],
            "tpots": [(each[-1] - each[1]) / (len(each) - 2) for each in moments],
            "slow_gap": gaps[math.ceil(0.99 * len(gaps)) - 1],
        } | {key: work[key] if is_figure(work.get(key)) else 0 for key in ("bytes", "flops")}

    def time_rows(self, batch: int, lengths: Lengths, repeats: int) -> list[list[float]]:
        """Clock.time_batch(), of whose rows some are noted to be checked."""
        kept = self.clock.kept = KeptLogits()
        moments = self.clock.time_batch(batch, [lengths], repeats)
        for row in self.generator.permutation([*kept.by_row])[:CHECKED_ROWS].tolist():
            self.kept.by_row[row] += kept.by_row[row]
        return moments

    def time_tail(self, repeats: int) -> Answer:
        """Seconds of a token near the end of a full row."""
        context = self.arena.context
        lengths = Lengths(max(1, context - TAIL), min(TAIL, context - 1))
        moments = self.time_rows(1, lengths, repeats)
        return {"seconds": median(gap for each in moments for gap in gaps_of(each))}

    def check_decoding(self) -> Answer:
        """Hold what was kept to what forward() says in another process, which is timed, too.

        The one that decodes ends before. seconds: of a full row.
        """
        self.model.close()
        size = CPU_ROWS if self.device.type == "cpu" else GPU_ROWS
        inputs, targets = self.rows[:, :-1], self.rows[:, 1:]
        with closing(ModelProcess(self.folder, self.arena, self.device, size)) as model:
            model.load_model()
            order = self.generator.permutation([*self.kept.by_row])
            score_rows(model, inputs, targets, order, look=self.kept.compare)
            seconds = [self.time_call(model, inputs[:1]) for _ in range(FULL_ROWS)]
        passed, seen = self.kept.check()
        return {"passed": passed, "seen": seen, "seconds": median(seconds)}

    def measure_limits(self) -> Answer:
        """The device at best: FLOP/s, bytes/s read, on CUDA seconds to start next to nothing."""
        flops, kind = matmul_peak(self.device)
        data = torch.ones(BANDWIDTH_BYTES.get(self.device.type, 2**28) // 4, device=self.device)
        best = min(self.time_call(data.sum) for _ in range(10))
        return {
            "peak_flops": flops,
            "peak_of": kind,
            "bandwidth": data.nbytes / best,
            "floor": self.launch_floor(),
        }

    def time_call(self, function: Callable, *args: Any) -> float:
        """Seconds of a call, until the device is done."""
        begin = time.perf_counter()
        function(*args)
        synchronize(self.device)
        return time.perf_counter() - begin

    def launch_floor(self) -> float | None:
        """Seconds that an empty captured graph takes, where there are graphs; else None."""
        if self.device.type != "cuda":
            return None
        graph, data = torch.cuda.CUDAGraph(), torch.zeros(1, device=self.device)
        with torch.cuda.graph(graph):
            data.add_(1)
        return sorted(self.time_call(graph.replay) for _ in range(200))[100]


def gaps_of(moments: list[float]) -> list[float]:
    """Seconds between two tokens, from the moments of a repeat."""
    return [b - a for a, b in pairwise(moments[1:])]


def answer_question(server: BenchServer, do: str, **question: Any) -> Answer:
    """What a method answers, or what went wrong."""
    try:
        return getattr(server, do)(**question)
    except MemoryError:
        return {"memory": True}
    except (Invalid, Refused) as error:
        return {"error": str(error)}


def main() -> None:
    folder, device, most = Path(sys.argv[1]), torch.device(sys.argv[2]), int(sys.argv[3])
    number = int(os.environ.pop("RATCHET_SOCKET"))  # nothing that the model should know
    apply_cpu_workarounds()
    set_cuda_device(device)
    with socket.socket(fileno=number) as channel, channel.makefile("r") as questions:
        server = BenchServer(folder, device, most)
        channel.sendall(b'{"ready": true}\n')
        for line in questions:  # whoever asks kills all processes when there is no more to ask
            answer = {"done": True} | answer_question(server, **json.loads(line))
            channel.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
