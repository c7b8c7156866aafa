"""The process that decodes with a run's model, for `ratchet speak` and `export`.

Started by sample.py in the sandbox, as the model is the contestant's code. Questions and answers
are lines of JSON on a socket; `do` names the method of DecodeServer that answers.

Letters in shapes: B rows, V vocabulary.
"""

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ratchet.arena.definition import load_arena
from ratchet.arena.files import Refused
from ratchet.arena.hardware.cpu import apply_cpu_workarounds
from ratchet.arena.hardware.device import set_cuda_device
from ratchet.arena.model_process.decoders import DecodingModel
from ratchet.arena.model_process.server import load_contestant
from ratchet.arena.tokenizer import BOS, load_tokenizer


def choose_token(
    logits: torch.Tensor, temperature: float, top_k: int, generator: torch.Generator
) -> torch.Tensor:
    """Token ids [B, 1] from logits [B, V]; temperature 0 takes the likeliest."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = logits.float() / temperature
    if top_k:
        least = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator).to(logits.device)


class DecodeServer:
    """Answers questions about one run's model."""

    def __init__(self, folder: Path, device: torch.device, say: Callable, heard: Callable):
        """say(message) sends one; heard() waits until it was."""
        run = json.loads((folder / "run.json").read_bytes())
        self.arena = load_arena(Path(run["arena_folder"]), "tokenizer.json")
        if self.arena.seal != run["seal"]:
            raise Refused(f"{folder} was trained in another arena than {self.arena.folder} is now")
        self.tokenizer = load_tokenizer(self.arena.folder)
        self.device, self.say, self.heard = device, say, heard
        self.model = load_contestant(folder, device)

    def describe_model(self, ask: dict) -> dict:
        names = sorted(self.model.state_dict())
        return {"class": type(self.model).__name__, "names": names}

    def sample_text(self, ask: dict) -> dict:
        """Continue a prompt `samples` times, one after the other; the text is said as it comes."""
        ids = [BOS, *self.tokenizer.encode(ask["prompt"], add_special_tokens=False).ids]
        room = self.arena.context - len(ids)
        if room < 1:
            sizes = f"the prompt has {len(ids)} tokens, the model sees {self.arena.context}"
            return {"error": f"{sizes}: shorten it"}
        most = min(ask["tokens"], room)
        for number in range(ask["samples"]):
            generator = torch.Generator().manual_seed(ask["seed"] + number)
            said, spoken = [], ""
            for token in self.continue_tokens(ids, most, ask, generator):
                said.append(token)
                text = self.tokenizer.decode(said)
                if not text.endswith("\ufffd"):  # else half of a character
                    self.say({"text": text[len(spoken) :], "sample": number})
                    self.heard()
                    spoken = text
        return {"cut": len(said) == room < ask["tokens"]}

    def continue_tokens(
        self, ids: list[int], most: int, ask: dict, generator: torch.Generator
    ) -> Iterator[int]:
        """Tokens after these, until the document ends, `most` at most."""
        prompt = torch.tensor([ids], device=self.device)
        decoding = DecodingModel(self.model).begin(prompt, self.arena.context)
        logits = decoding.prefill(self.arena.vocab_size)
        for left in range(most, 0, -1):
            token = choose_token(logits, ask["temperature"], ask["top_k"], generator)
            if token.item() == BOS:
                break
            yield token.item()
            if left > 1:
                logits = decoding.decode_token(token)


def main() -> None:
    folder, device = Path(sys.argv[1]), torch.device(sys.argv[2])
    number = int(os.environ["RATCHET_SOCKET"])
    apply_cpu_workarounds()
    set_cuda_device(device)
    with socket.socket(fileno=number) as channel, channel.makefile("r") as questions:

        def say(answer):
            channel.sendall(json.dumps(answer).encode() + b"\n")

        server = DecodeServer(folder, device, say, questions.readline)
        say({"ready": True})
        while line := questions.readline():
            ask = json.loads(line)
            try:
                with torch.no_grad():  # torch.compile makes slow code of what inference_mode() made
                    answer = getattr(server, ask["do"])(ask)
            except (torch.OutOfMemoryError, MemoryError):
                answer = {"memory": True}
            except RuntimeError as error:
                if "allocate memory" not in str(error):
                    raise
                answer = {"memory": True}
            say({"done": True} | answer)


if __name__ == "__main__":
    main()
