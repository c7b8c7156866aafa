"""Samples from a trained model, which runs in a process of its own."""

import json
import shutil
import socket
import sys
import tempfile
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
from ratchet.referee.environment import with_home
from ratchet.untrusted_text import clean_text

LOAD_SECONDS = 120
ANSWER_SECONDS = 600
WORDS = 300  # characters of what a model's process says
Tell = Callable[[str], Any]


class Decoder:
    """Asks a process about a model: decode_process.py, or bench_process.py of serve_bench.py."""

    def __init__(self, process, channel: socket.socket, arena: dict[str, Any], level: str):
        self.process = process
        self.channel = channel
        self.level = level  # of isolation
        self.context = arena["context"]
        self.vocab_size = arena["vocab_size"]

    def request(self, do: str, hear: Callable = lambda message: None, **question) -> dict[str, Any]:
        """The answer; hear(message) is called with what comes before it. Raises Refused."""
        self.send_question({"do": do} | question)
        while True:
            message = self.read_answer(ANSWER_SECONDS)
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
    device, level, arena = choose_device(device), sandbox.best_level(), arena_of(run)
    with tempfile.TemporaryDirectory() as name, hold_device(device, tell):
        folder = Path(name)
        (folder / "tmp").mkdir()
        program = copy_program(folder / "code", "decode_process.py")
        readable = [program.parent, *(run / name for name in NEEDED)]
        readable += [arena / "arena.json", arena / "tokenizer.json"]
        view = sandbox.View(tuple(readable), (folder / "tmp",), device)
        argv = [sys.executable, str(program), str(run), torch_name(device)]
        confined = sandbox.confined_command(argv, view, level)
        with ask_process(confined, with_home(folder / "tmp"), folder, arena, level) as decoder:
            yield decoder


def arena_of(run: Path) -> Path:
    """The folder of the arena that a run was trained in, all of it checked. Raises Refused."""
    record = json.loads(read_untrusted(run / "run.json"))
    arena = load_arena(Path(record["arena_folder"]), *FILES)
    if arena.seal != record["seal"]:
        raise Refused(f"{run} was trained in another arena than {arena.folder} is now")
    return arena.folder


def copy_program(code: Path, name: str) -> Path:
    """A program of this package in a new folder, beside a copy of the contract."""
    code.mkdir()
    copy_contract(code)
    return Path(shutil.copy(ROOT / "ratchet/model" / name, code))


@contextmanager
def ask_process(
    argv: list[str], environment: dict[str, str], folder: Path, arena: Path, level: str
) -> Iterator[Decoder]:
    """The Decoder of a program that answers questions, with a folder for all that it leaves."""
    ours, theirs = socket.socketpair()
    environment |= {"RATCHET_SOCKET": str(theirs.fileno()), "RATCHET_RUN": str(folder)}
    log, code = folder / "log", folder / "code"
    watched = supervisor.WatchedProcess(argv, environment, code, log, str(folder), theirs)
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
