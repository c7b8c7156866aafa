"""Samples from a trained model, which runs in a process of its own."""

import json
import shutil
import socket
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from ratchet.arena.definition import FILES, load_arena
from ratchet.arena.files import ROOT, Refused
from ratchet.model.find import NEEDED
from ratchet.referee import sandbox, supervisor
from ratchet.referee.devices.choice import choose_device, torch_name
from ratchet.referee.devices.lock import hold_device
from ratchet.referee.environment import copy_contract, decoder_environment
from ratchet.untrusted_text import clean_text

LOAD_SECONDS, ANSWER_SECONDS = 120, 600


class Decoder:
    """Asks the model's process, decoder.py, which is confined as a contestant is."""

    def __init__(self, process, channel, arena, level):
        self.process, self.channel, self.level = process, channel, level
        self.context, self.vocab_size = arena["context"], arena["vocab_size"]

    def request(self, do, hear=lambda said: None, **question):
        """Its answer; hear(message) is called with what it says before. Raises Refused."""
        stop = time.monotonic() + ANSWER_SECONDS
        self.send_question({"do": do} | question)
        while True:
            said = self.read_answer(stop - time.monotonic())
            if "error" in said:
                raise Refused(clean_words(said["error"]))
            if said.get("memory") and do != "time_batch":
                raise Refused("there is too little memory for this model on this device: free some")
            if said.get("done"):
                return said
            hear(said)
            self.send_question({})  # heard: two messages at once would pass for one

    def send_question(self, question):
        with suppress(OSError):  # one that has ended is noticed when it is listened to
            self.channel.sendall(json.dumps(question).encode() + b"\n")

    def read_answer(self, seconds):
        try:
            return self.process.receive_message(
                self.channel, seconds, "the model was silent for too long"
            )[0]
        except supervisor.EndedEarly as end:
            raise Refused(f"the model's process ended: {end}") from None


def clean_words(text):
    """What a model's process says, as text that no terminal obeys."""
    return clean_text(str(text).encode(errors="replace"))[:300]


@contextmanager
def open_decoder(run, device=None, tell=lambda text: None):
    """The Decoder of a run's folder, on a device of this machine; the device is held meanwhile."""
    device, level = choose_device(device), sandbox.best_level()
    facts = json.loads((run / "run.json").read_bytes())
    arena = load_arena(Path(facts["arena_folder"]), *FILES).folder
    with tempfile.TemporaryDirectory() as folder, hold_device(device, tell):
        code, own = Path(folder) / "code", Path(folder) / "tmp"
        for place in (code, own):
            place.mkdir()
        copy_contract(code)
        shutil.copy(ROOT / "ratchet/model/decode_process.py", code)
        ours, theirs = socket.socketpair()
        read = [run / name for name in NEEDED] + [
            arena / name for name in ("arena.json", "tokenizer.json")
        ]
        view, name = sandbox.View((code, *read), (own,), device), torch_name(device)
        argv = sandbox.confined_command(
            [sys.executable, str(code / "decode_process.py"), str(run), name], view, level
        )
        env = decoder_environment(Path(folder), theirs.fileno())
        with (
            ours,
            supervisor.WatchedProcess(
                argv, env, code, Path(folder) / "log", folder, theirs
            ) as process,
        ):
            asked = Decoder(process, ours, json.loads((arena / "arena.json").read_bytes()), level)
            asked.read_answer(LOAD_SECONDS)
            yield asked


def sample_text(run, prompt, samples, device=None, show=print, tell=lambda text: None, **options):
    """Continue a prompt; show(number of the sample, piece of its text) is called as the text comes.

    options: tokens, temperature, top_k, seed.
    """
    with open_decoder(run, device, tell) as model:
        hear = lambda said: show(said.get("sample"), clean_words(said.get("text")))  # noqa: E731
        if model.request("sample_text", hear, prompt=prompt, samples=samples, **options).get("cut"):
            tell(f"\ncut short: the model sees {model.context} tokens")
