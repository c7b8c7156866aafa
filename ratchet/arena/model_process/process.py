"""The saved model in a process of its own, which never sees a target."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ratchet.arena.budget import ANSWER_SECONDS, START_SECONDS, answer_limit, load_limit
from ratchet.arena.definition import Arena
from ratchet.arena.files import Refused
from ratchet.arena.hardware.cpu import usable_cores
from ratchet.arena.hardware.shared_memory import create_shared, free_cuda_tensor
from ratchet.arena.model_process.meter import WorkMeter
from ratchet.arena.model_process.rooms import VARIABLE, remove_room, take_room
from ratchet.arena.model_process.server import MARK
from ratchet.arena.results import read_run_record, weight_bytes

ANSWER_BYTES = 10_000  # of one answer, which is JSON
COMPILE_SECONDS = 600  # for its step of decoding to be compiled, where nobody waits in line
CLOSE_SECONDS = 10  # for a killed process to be gone, with its children
LOG_BYTES = 2**22  # of what a model may print
FORBIDDEN = (
    "a sandbox around this command forbids its processes to talk to each other ({}): start your "
    "agent without one (codex: `--sandbox danger-full-access`), or run this yourself"
)


class Invalid(Exception):
    """A model that cannot be scored, or that failed a probe; says why."""


class ModelProcess:
    """The scorer's end: token rows go in, logits come out through shared memory.

    A process has a room of its own (rooms.py) and shares nothing with another one of the model:
    beside its standard input, a socket, and its output, a pipe, it inherits no descriptor. All of
    them look alike, so that a model can't know which one it is in.
    """

    positions: int | None = None  # of a row that have logits; None: all
    variables = {"OMP_WAIT_POLICY": "passive"}  # else threads that wait would count as work

    def __init__(self, folder: Path, arena: Arena, device: torch.device, batch: int) -> None:
        self.batch, self.device = batch, device
        cores = usable_cores() if device.type == "cpu" else 1
        trained = read_run_record(folder)["train_seconds"]
        self.most_answer_seconds = answer_limit(trained, cores)
        self.weight_bytes = weight_bytes(folder)
        # for the first answer: a GPU's kernels are compiled for it
        self.answer_seconds = START_SECONDS if device.type == "cuda" else ANSWER_SECONDS
        self.left_before = list_shared_memory(device)
        self.room = take_room(folder)
        shapes = {
            "tokens": (batch, arena.context),
            "logits": (batch, self.positions or arena.context, arena.vocab_size),
        }
        tokens = create_shared(shapes["tokens"], torch.int64, torch.device("cpu"))
        logits = create_shared(shapes["logits"], torch.float32, device)
        self.tokens, self.logits = tokens.tensor, logits.tensor
        setting = {"folder": str(self.room / "model"), "device": str(device)} | shapes
        self.channel = self._start(setting | {"handle": logits.handle}, folder / "score.log")
        descriptors = [one.descriptor for one in (tokens, logits) if one.descriptor is not None]
        with suppress(OSError):  # that it is dead is noticed when it is asked
            socket.send_fds(self.channel, [b"x"], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def _start(self, setting: dict[str, Any], log: Path) -> socket.socket:
        """Start Python in the room; returns the scorer's end of its socket."""
        python, output = sys.executable, open(log, "ab")
        if VARIABLE in os.environ:  # a sandbox, and a log of the referee's
            python, output = str(self.room / "python"), open(os.dup(1), "ab")
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [python, "-m", "ratchet.arena.model_process.server", json.dumps(setting)],
            stdin=theirs.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.room / "code",
            env={**os.environ, **self.variables},
            start_new_session=True,  # Ctrl-C is for the scorer
        )
        theirs.close()
        self.copying = threading.Thread(
            target=copy_output, args=(self.process, output), daemon=True
        )
        self.copying.start()
        return ours

    def load_model(self) -> float:
        """Let the contestant's code begin; returns the seconds it takes to load the model.

        Raises Refused where CUDA's calls succeed and share nothing, as under Windows (WSL2): all
        logits would be zero. See pytorch/pytorch issues 112340 and 156618.
        """
        self._ask({"do": "write_mark"}, START_SECONDS)  # of our code: Python and torch are there
        if not (self.logits[0, 0, 0] == MARK).item():
            problem = "what a process writes into this GPU's memory another one doesn't see"
            raise Refused(f"{problem}: see `uv run ratchet doctor --device {self.device}`")
        self.work = WorkMeter(self.process.pid, self.device)
        begin = time.monotonic()
        with self.work.measured():
            answer = self._ask({"do": "load_model"}, load_limit(self.weight_bytes))
        if answer.get("memory"):
            raise Invalid("there is no memory to load the model")
        return time.monotonic() - begin

    def __call__(self, inputs: np.ndarray) -> torch.Tensor:
        """[n, T] tokens -> [n, T, V] float32 logits, in memory that the model can still write to.

        Raises MemoryError, Invalid.
        """
        self.tokens[: len(inputs)] = torch.from_numpy(inputs.astype(np.int64))
        seconds, self.answer_seconds = self.answer_seconds, ANSWER_SECONDS
        with self.work.measured(an_answer=True):
            self._ask_for_logits({"do": "answer_rows", "rows": len(inputs)}, seconds)
        self.refuse_slow_answers()
        return self.logits[: len(inputs)]

    def refuse_slow_answers(self) -> None:
        """Raises Invalid if most answers take so long that it may train before each of them."""
        seconds, most = self.work.typical_answer, self.most_answer_seconds
        if seconds > most:
            took = f"most answers took {seconds:.1f} s of {self.work.unit}"
            raise Invalid(f"{took}, {most:.1f} s are allowed: it could train in that time")

    def inspect_model(self, count_flops: bool) -> dict[str, Any]:
        """The figures of inspection.inspect_model(); 0 if the model tells nonsense.

        For when all rows have been answered: the model may train here.
        """
        answer = self._ask({"do": "inspect_model", "count_flops": count_flops}, START_SECONDS)
        keys = ["lookup"]
        if count_flops:
            keys += ["flops_per_token", "published_flops_per_token"]
        figures = {key: answer.get(key) for key in keys}
        return figures if all(map(is_figure, figures.values())) else dict.fromkeys(keys, 0)

    def check_work(self) -> None:
        """Raises Invalid if it has worked on more than its answers: it may have trained."""
        surplus, most = self.work.surplus(), self.work.allowance(self.weight_bytes)
        if surplus > most:
            did = f"load() and slow answers took {surplus:.1f} s of {self.work.unit}"
            raise Invalid(f"{did} beside what the answers need, {most:.1f} s are allowed")

    def close(self) -> None:
        """End the process, remove its room. Raises Invalid if something of it is left."""
        self.channel.close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.copying.join(
            CLOSE_SECONDS
        )  # until nobody has its pipe any more: its children are dead
        if self.device.type == "cuda" and self.logits.numel():
            free_cuda_tensor(self.logits)
            self.logits = self.logits.new_empty(0)
        for path in list_shared_memory(self.device) - self.left_before:
            with suppress(OSError):  # it is gone, or somebody else's
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.copying.is_alive() or not remove_room(self.room):
            raise Invalid("it left processes, or folders that can't be removed")

    def _ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send JSON, get JSON: what comes from a contestant is never unpickled."""
        begin = time.monotonic()
        try:
            self.channel.sendall(json.dumps(question).encode() + b"\n")
            answer = json.loads(self._receive_line(begin + seconds))
        except PermissionError as error:
            raise Refused(FORBIDDEN.format(error.strerror)) from None
        except (OSError, ValueError, RecursionError) as error:
            silent = isinstance(error, TimeoutError)
            why = f"was silent for {seconds:.0f} seconds" if silent else "died"
            raise Invalid(f"the model's process {why}, see score.log") from None
        if not isinstance(answer, dict) or "error" in answer:
            raise Invalid(re.sub(r"[^ -~]", "?", str(answer))[:300])
        return answer

    def _ask_for_logits(self, question: dict[str, Any], seconds: float) -> None:
        """Raises MemoryError, too."""
        if self._ask(question, seconds).get("memory"):
            raise MemoryError

    def _receive_line(self, deadline: float) -> bytes:
        """The next line. Raises OSError, as it is silent or dead; ValueError if it is too long."""
        line = b""
        while not line.endswith(b"\n"):
            self.channel.settimeout(max(0.001, deadline - time.monotonic()))
            line += (piece := self.channel.recv(ANSWER_BYTES))
            if not piece:
                raise OSError("it has gone")
            if len(line) > ANSWER_BYTES:
                raise ValueError("too long")
        return line


class DecodingProcess(ModelProcess):
    """The same for a model that decodes: a token of each row goes in, its logits come out.

    What comes next in a row is nowhere in its reach.
    """

    positions = 1
    variables: dict[str, str] = {}

    def begin_decoding(self, prompts: torch.Tensor, total: int) -> torch.Tensor:
        """[n, P] tokens -> [n, V] float32 logits after them, in memory as those of __call__().

        total: tokens of a row in the end, at most. Raises MemoryError, Invalid.
        """
        count, length = prompts.shape
        self.tokens[:count, :length] = prompts
        ask = {"do": "begin_decoding", "rows": count, "prompt": length, "total": total}
        self._ask_for_logits(ask, START_SECONDS)  # it may compile
        return self.logits[:count, 0]

    def decode_token(self, tokens: torch.Tensor, position: int) -> torch.Tensor:
        """[n] tokens, of a position -> [n, V] float32 logits. Raises MemoryError, Invalid."""
        count = len(tokens)
        self.tokens[:count, position] = tokens
        ask = {"do": "decode_token", "rows": count, "position": position}
        self._ask_for_logits(ask, START_SECONDS)
        return self.logits[:count, 0]

    def ask_model(self, do: str, **question: int) -> dict[str, Any]:
        """What it says of itself: describe_decoding, compile_decoding, count_step."""
        return self._ask({"do": do} | question, COMPILE_SECONDS)


def is_figure(value: Any) -> bool:
    """Whether what a contestant tells can be a count."""
    return type(value) in (int, float) and 0 <= value < 1e18


def list_shared_memory(device: torch.device) -> set[Path]:
    """What lies in /dev/shm, which a GPU's processes have in common, or nothing."""
    folder = Path("/dev/shm")
    return {*folder.iterdir()} if device.type == "cuda" and folder.exists() else set()


def copy_output(process: subprocess.Popen[bytes], log: BinaryIO) -> None:
    """Copy what a process prints to a log; one that prints too much is killed."""
    left = LOG_BYTES
    assert process.stdout
    with log, process.stdout:
        while left > 0 and (piece := os.read(process.stdout.fileno(), 2**16)):
            log.write(piece)
            log.flush()
            left -= len(piece)
    if left <= 0:
        process.kill()
