"""The saved model in a process of its own, which never sees a target."""

import importlib.util
import json
import os
import re
import signal
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as multiprocessing

from ratchet.arena.budget import ANSWER_SECONDS, START_SECONDS, load_limit
from ratchet.arena.definition import Arena
from ratchet.arena.files import Refused
from ratchet.arena.hardware.cpu import apply_cpu_workarounds
from ratchet.arena.hardware.device import set_cuda_device, synchronize
from ratchet.arena.inspection import inspect_model
from ratchet.arena.results import weight_bytes

MARK = 1.0  # written into the shared logits before the contestant's code is there
CLOSE_SECONDS = 1  # for which a process that is to end may let go of shared memory
NO_MEMORY = "out of memory|can't allocate memory|not enough memory"  # as errors say it


class Invalid(Exception):
    """A model that cannot be scored, or that failed a probe; says why."""


class ModelProcess:
    """The scorer's end: token rows go in, logits come out through a shared buffer.

    number: of this process, 0 or 1; where a referee runs, each has a sandbox of its own.
    """

    def __init__(
        self, folder: Path, arena: Arena, device: torch.device, batch: int, number: int = 0
    ) -> None:
        self.batch = batch
        self.load_seconds = load_limit(weight_bytes(folder))
        # for the first answer: a GPU's kernels are compiled for it
        self.answer_seconds = START_SECONDS if device.type == "cuda" else ANSWER_SECONDS
        spawn = multiprocessing.get_context("spawn")
        if "RATCHET_PYTHON" in os.environ:  # starts Python in a sandbox
            spawn.set_executable(os.environ["RATCHET_PYTHON"] + str(number))
        shape = batch, arena.context, arena.vocab_size
        shared = device if device.type == "cuda" else "cpu"
        self.tokens = torch.zeros(shape[:2], dtype=torch.int64).share_memory_()
        self.logits = torch.zeros(shape, device=shared).share_memory_()
        self.channel, theirs = spawn.Pipe()
        args = folder, device, theirs, self.tokens, self.logits, number
        self.process = spawn.Process(target=serve_model, args=args, daemon=True)
        # it inherits this: Ctrl-C is for the scorer
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.process.start()
        signal.signal(signal.SIGINT, handler)
        theirs.close()

    def load_model(self) -> float:
        """Let the contestant's code begin; returns the seconds it takes to load the model.

        Raises Refused where CUDA's calls succeed and share nothing, as under Windows (WSL2): all
        logits would be zero. See pytorch/pytorch issues 112340 and 156618.
        """
        self._ask({"mark": True}, START_SECONDS)  # of our code: Python and torch are there
        if not (self.logits[0, 0, 0] == MARK).item():
            problem = "what a process writes into this GPU's memory another one doesn't see"
            raise Refused(f"{problem}: see `uv run ratchet doctor --device {self.logits.device}`")
        begin = time.monotonic()
        self._ask({"load": True}, self.load_seconds)
        return time.monotonic() - begin

    def inspect_model(self, count_flops: bool) -> dict[str, Any]:
        """The figures of inspection.inspect_model(); 0 if the model tells nonsense."""
        answer = self._ask_model({"flops": count_flops})
        keys = ["lookup"]
        if count_flops:
            keys += ["flops_per_token", "published_flops_per_token"]
        figures = {key: answer.get(key) for key in keys}
        return figures if all(map(is_figure, figures.values())) else dict.fromkeys(keys, 0)

    def __call__(self, inputs: np.ndarray) -> torch.Tensor:
        """[n, T] tokens -> [n, T, V] float32 logits, in memory that the model can still write to.

        Raises MemoryError, Invalid.
        """
        self.tokens[: len(inputs)] = torch.from_numpy(inputs.astype(np.int64))
        if self._ask_model({"rows": len(inputs)}).get("memory"):
            raise MemoryError
        return self.logits[: len(inputs)]

    def _ask_model(self, question: dict[str, Any]) -> dict[str, Any]:
        """Ask what the contestant's code answers."""
        seconds, self.answer_seconds = self.answer_seconds, ANSWER_SECONDS
        return self._ask(question, seconds)

    def close(self) -> None:
        """End the process. It lets go of the logits first: else CUDA warns that nobody did."""
        with suppress(OSError):  # it may have died
            self.channel.send_bytes(json.dumps({"close": True}).encode())
            self.channel.poll(CLOSE_SECONDS)
        self.process.kill()
        self.process.join()

    def _ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send JSON, get JSON: what comes from a contestant is never unpickled."""
        begin, watchdog = time.monotonic(), threading.Timer(seconds, self.process.kill)
        watchdog.start()
        try:
            self.channel.send_bytes(json.dumps(question).encode())
            answer = json.loads(self.channel.recv_bytes(10_000))
        except (OSError, EOFError, ValueError, RecursionError):
            silent = time.monotonic() - begin >= seconds
            why = f"was silent for {seconds:.0f} seconds" if silent else "died"
            raise Invalid(f"the model's process {why}, see score.log") from None
        finally:
            watchdog.cancel()
        if not isinstance(answer, dict) or "error" in answer:
            raise Invalid(re.sub(r"[^ -~]", "?", str(answer))[:300])
        return answer


def is_figure(value: Any) -> bool:
    """Whether what a contestant tells can be a count."""
    return type(value) in (int, float) and 0 <= value < 1e18


# --------------------------------------------------------------------------------------------------
# In the model's process


def serve_model(
    folder: Path,
    device: torch.device,
    channel: Any,
    tokens: torch.Tensor,
    logits: torch.Tensor,
    number: int = 0,
) -> None:
    """Import the saved train.py, load the weights, answer. It never sees a target."""
    apply_cpu_workarounds()
    set_cuda_device(device)
    redirect_output(folder, number)
    model = None
    while True:
        question = json.loads(channel.recv_bytes())
        try:
            answer: dict[str, Any] = {}
            if "mark" in question:
                logits[0, 0, 0] = MARK
                synchronize(device)
            elif "load" in question:
                model = load_contestant(folder, device)
            elif "flops" in question:
                answer = try_to_inspect(model, logits, device, question["flops"])
            elif "rows" in question:
                rows = question["rows"]
                answer = write_logits(model, tokens[:rows].to(device, copy=True), logits[:rows])
            elif "close" in question:
                logits.data = logits.new_empty(0)
        except Exception as error:
            traceback.print_exc()
            no_memory = re.search(NO_MEMORY, str(error))
            reason = f"{type(error).__name__}: {error}"[:300]
            answer = {"memory": True} if no_memory else {"error": reason}
        print(end="", flush=True)  # this process will be killed
        channel.send_bytes(json.dumps(answer).encode())


def redirect_output(folder: Path, number: int) -> None:
    """Send what the model prints to score.log, where no referee does so."""
    if number or "RATCHET_PYTHON" not in os.environ:
        # the second process has nothing to read that the first wrote
        log = os.devnull if number else folder / "score.log"
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)


def load_contestant(folder: Path, device: torch.device) -> torch.nn.Module:
    """The model that the train.py of a run's folder loads."""
    spec = importlib.util.spec_from_file_location("train", folder / "train.py")
    assert spec and spec.loader
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    return train.load(folder).to(device).eval()


def try_to_inspect(
    model: Any, logits: torch.Tensor, device: torch.device, count_flops: bool
) -> dict[str, Any]:
    """What inspect_model() sees; {} for a model that can't be inspected, which may be scored."""
    _, context, vocab_size = logits.shape
    try:
        return inspect_model(model, context, vocab_size, device, count_flops)
    except Exception:
        traceback.print_exc()
        return {}


def write_logits(model: Any, tokens: torch.Tensor, logits: torch.Tensor) -> dict[str, Any]:
    """Run the model on tokens [n, T], into logits [n, T, V]."""
    with torch.inference_mode():
        out = model(tokens)
    if out.shape != logits.shape:
        return {"error": f"logits of shape {[*out.shape]}, not {[*logits.shape]}"}
    logits[:] = out
    synchronize(tokens.device)
    return {}
