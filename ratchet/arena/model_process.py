"""The saved model in a process of its own, which never sees a target."""

import importlib.util
import json
import os
import re
import signal
import threading
import time
import traceback

import numpy as np
import torch
import torch.multiprocessing as multiprocessing

from ratchet.arena.budget import ANSWER_SECONDS
from ratchet.arena.hardware.cpu import settle
from ratchet.arena.hardware.device import synchronize, use
from ratchet.arena.rehearsal import inspect_model


class Invalid(Exception):
    """A model that cannot be scored, or that failed a probe; says why."""


class ModelProcess:
    """The saved model in a process of its own: token rows go in, logits come out through a shared
    buffer.
    """

    def __init__(self, folder, arena, device, batch, number=0):
        spawn, self.batch = multiprocessing.get_context("spawn"), batch
        if (
            "RATCHET_PYTHON" in os.environ
        ):  # a referee's: they start Python in sandboxes of their own
            spawn.set_executable(os.environ["RATCHET_PYTHON"] + str(number))
        shape, place = (
            (batch, arena.context, arena.vocab_size),
            device if device.type == "cuda" else "cpu",
        )
        self.tokens = torch.zeros(shape[:2], dtype=torch.int64).share_memory_()
        self.logits = torch.zeros(shape, device=place).share_memory_()
        self.channel, theirs = spawn.Pipe()
        args = folder, device, theirs, self.tokens, self.logits, number
        self.process = spawn.Process(target=serve_model, args=args, daemon=True)
        handler = signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # which it inherits: Ctrl-C is for the scorer
        self.process.start()
        signal.signal(signal.SIGINT, handler)
        theirs.close()

    def load(self):
        """Let the contestant's code begin; returns the seconds it takes to load the model."""
        self.ask({})  # answered by our code: Python and torch are there
        begin = time.monotonic()
        self.ask({"load": True})
        return time.monotonic() - begin

    def ask(self, question):
        """Send JSON, get JSON: what comes from a contestant is never unpickled."""
        begin, watchdog = time.monotonic(), threading.Timer(ANSWER_SECONDS, self.process.kill)
        watchdog.start()
        try:
            self.channel.send_bytes(json.dumps(question).encode())
            answer = json.loads(self.channel.recv_bytes(10_000))
        except (OSError, EOFError, ValueError, RecursionError):
            silent = time.monotonic() - begin >= ANSWER_SECONDS
            why = f"was silent for {ANSWER_SECONDS} seconds" if silent else "died"
            raise Invalid(f"the model's process {why}, see score.log") from None
        finally:
            watchdog.cancel()
        if not isinstance(answer, dict) or "error" in answer:
            raise Invalid(re.sub(r"[^ -~]", "?", str(answer))[:300])
        return answer

    def __call__(self, inputs):
        """[n, T] tokens -> [n, T, V] float32 logits, in memory that the model can still write to."""
        self.tokens[: len(inputs)] = torch.from_numpy(inputs.astype(np.int64))
        if self.ask({"rows": len(inputs)}).get("memory"):
            raise MemoryError
        return self.logits[: len(inputs)]

    def close(self):
        self.process.kill()
        self.process.join()


def load_contestant(folder, device):
    spec = importlib.util.spec_from_file_location("train", folder / "train.py")
    spec.loader.exec_module(train := importlib.util.module_from_spec(spec))
    return train.load(folder).to(device).eval()


def serve_model(folder, device, channel, tokens, logits, number=0):
    """The model's process: import the saved train.py, load the weights, answer. It never sees a
    target.
    """
    settle()
    use(device)
    if (
        number or "RATCHET_PYTHON" not in os.environ
    ):  # the second has nothing to read that the first wrote
        log = os.devnull if number else folder / "score.log"
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    while True:
        question, out, answer = json.loads(channel.recv_bytes()), None, {}
        try:
            if "load" in question:
                model = load_contestant(folder, device)
            if "flops" in question:
                answer = inspect_model(model, *logits.shape[1:], device, question["flops"])
            if not (rows := question.get("rows")):
                continue
            with torch.inference_mode():
                out = model(tokens[:rows].to(device, copy=True))
            if out.shape == logits[:rows].shape:
                logits[:rows] = out
                synchronize(device)
            else:
                answer = {"error": f"logits of shape {[*out.shape]}, not {[*logits[:rows].shape]}"}
        except Exception as error:
            traceback.print_exc()
            short = re.search("out of memory|can't allocate memory|not enough memory", str(error))
            answer = (
                {"memory": True} if short else {"error": f"{type(error).__name__}: {error}"[:300]}
            )
            answer = (
                {} if "flops" in question else answer
            )  # a model that can't be inspected can be scored
        finally:
            channel.send_bytes(json.dumps(answer).encode())
