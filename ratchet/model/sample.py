"""Samples from a trained model, which runs in a process of its own."""

import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ratchet.arena.definition import FILES, load_arena
from ratchet.arena.files import ROOT, Refused, read_untrusted
from ratchet.arena.model_process.rooms import copy_contract
from ratchet.model.find import NEEDED
from ratchet.referee import sandbox, supervisor
from ratchet.referee.devices.choice import choose_device, torch_name
from ratchet.referee.devices.lock import hold_device
from ratchet.referee.environment import decoder_environment
from ratchet.untrusted_text import clean_text

LOAD_SECONDS = 120
ANSWER_SECONDS = 600
WORDS = 300  # characters of what a model's process says
Tell = Callable[[str], Any]


class Decoder:
    """Asks a model's process, decode_process.py, which is confined as a contestant is."""

    def __init__(self, process, channel: socket.socket, arena: dict[str, Any], level: str):
        self.process = process
        self.channel = channel
        self.level = level  # of isolation
        self.context = arena["context"]
        self.vocab_size = arena["vocab_size"]

    def request(self, do: str, hear: Callable = lambda message: None, **question) -> dict[str, Any]:
        """The answer; hear(message) is called with what comes before it. Raises Refused."""
        deadline = time.monotonic() + ANSWER_SECONDS
        self.send_question({"do": do} | question)
        while True:
            message = self.read_answer(deadline - time.monotonic())
            if "error" in message:
                raise Refused(clean_words(message["error"]))
            if message.get("memory") and do != "time_batch":
                raise Refused("there is too little memory for this model on this device: free some")
            if message.get("done"):
                return message
            hear(message)
            self.send_question({})  # heard: two messages at once would pass for one

    def send_question(self, question: dict[str, Any]) -> None:
        with suppress(OSError):  # that the process has ended is noticed when an answer is read
            self.channel.sendall(json.dumps(question).encode() + b"\n")

    def read_answer(self, seconds: float) -> dict[str, Any]:
        too_long = "the model was silent for too long"
        try:
            return self.process.receive_message(self.channel, seconds, too_long)[0]
        except supervisor.EndedEarly as end:
            raise Refused(f"the model's process ended: {end}") from None


def clean_words(text: Any) -> str:
    """What a model's process says, as text that no terminal obeys."""
    return clean_text(str(text).encode(errors="replace"))[:WORDS]


@contextmanager
def open_decoder(
    run: Path, device: str | None = None, tell: Tell = lambda text: None
) -> Iterator[Decoder]:
    """The Decoder of a run's folder; the device of this machine is held meanwhile."""
    device, level = choose_device(device), sandbox.best_level()
    record = json.loads(read_untrusted(run / "run.json"))
    arena = load_arena(Path(record["arena_folder"]), *FILES).folder
    with tempfile.TemporaryDirectory() as folder, hold_device(device, tell):
        code, scratch = Path(folder) / "code", Path(folder) / "tmp"
        code.mkdir()
        scratch.mkdir()
        copy_contract(code)
        shutil.copy(ROOT / "ratchet/model/decode_process.py", code)
        readable = [code, *(run / name for name in NEEDED)]
        readable += [arena / "arena.json", arena / "tokenizer.json"]
        view = sandbox.View(tuple(readable), (scratch,), device)
        program = [sys.executable, str(code / "decode_process.py"), str(run), torch_name(device)]
        argv = sandbox.confined_command(program, view, level)
        ours, theirs = socket.socketpair()
        environment = decoder_environment(Path(folder), theirs.fileno())
        log = Path(folder) / "log"
        watched = supervisor.WatchedProcess(argv, environment, code, log, folder, theirs)
        with ours, watched as process:
            decoder = Decoder(process, ours, json.loads((arena / "arena.json").read_bytes()), level)
            decoder.read_answer(LOAD_SECONDS)
            yield decoder


def sample_text(
    run: Path,
    prompt: str,
    samples: int,
    device: str | None = None,
    show: Callable[[int, str], Any] = print,
    tell: Tell = lambda text: None,
    **options: float,
) -> None:
    """Continue a prompt; show(number of the sample, piece of its text) is called as the text comes.

    options: tokens, temperature, top_k, seed. Raises Refused.
    """

    def hear(message):
        show(message.get("sample"), clean_words(message.get("text")))

    with open_decoder(run, device, tell) as model:
        answer = model.request("sample_text", hear, prompt=prompt, samples=samples, **options)
        if answer.get("cut"):
            tell(f"\ncut short: the model sees {model.context} tokens")
