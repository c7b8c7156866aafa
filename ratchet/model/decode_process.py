"""The process that decodes with a run's model, for `ratchet speak` and its kin.

Started by sample.py in the sandbox, as the model is the contestant's code. Questions and answers
are lines of JSON on a socket; `do` names the method of DecodeServer that answers.

Letters in shapes: B rows, P tokens of a prompt, T context, V vocabulary.
"""

import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ratchet.arena.definition import load_arena
from ratchet.arena.files import Refused, describe_error
from ratchet.arena.hardware.cpu import apply_cpu_workarounds
from ratchet.arena.hardware.device import matmul_peak, set_cuda_device, synchronize
from ratchet.arena.model_process.server import load_contestant
from ratchet.arena.tokenizer import BOS, SPECIALS, load_tokenizer

LOGITS = 2**27  # of a prompt that are made at a time
SECONDS = 15  # of a batch size, after which no third repeat begins
TAIL = 17  # tokens at the end of a full row
BANDWIDTH_BYTES = {"cuda": 2**31}  # else 2**28
PRODUCTS = "mm", "bmm", "addmm", "baddbmm", "_scaled_mm"  # of torch.ops.aten; and all attention


class CachedDecoding:
    """Decoding through init_cache() and decode(): a token costs a token."""

    def __init__(self, model, decode: Callable, prompt: torch.Tensor, total: int):
        """decode: model.decode, or that compiled; prompt int64 [B, P]; total: tokens in the end."""
        self.model, self.decode, self.prompt = model, decode, prompt
        self.cache = model.init_cache(len(prompt), total)

    def prefill(self, vocab_size: int) -> torch.Tensor:
        """Logits [B, V] after the prompt, in pieces: all its logits may not fit into memory."""
        size = max(1, LOGITS // (len(self.prompt) * vocab_size))
        for piece in self.prompt.split(size, dim=1):
            logits = self.model.decode(self.cache, piece)[:, -1]
        return logits

    def decode_token(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] after one more token for each row, int64 [B, 1]."""
        return self.decode(self.cache, ids)[:, -1]


class RecomputedDecoding:
    """Decoding for a model that offers no cache: every token costs the whole row."""

    def __init__(self, model, decode: None, prompt: torch.Tensor, total: int):
        self.model, self.tokens, self.prompt = model, prompt[:, :0], prompt

    def prefill(self, vocab_size: int) -> torch.Tensor:
        return self.decode_token(self.prompt)

    def decode_token(self, ids: torch.Tensor) -> torch.Tensor:
        self.tokens = torch.cat([self.tokens, ids], dim=1)
        return self.model(self.tokens)[:, -1]


class ReadBytes(TorchDispatchMode):
    """Counts the bytes of what products and attention read: weights above all."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in PRODUCTS or "attention" in name or "linear" in name:
            self.total += sum(t.numel() * t.element_size() for t in args if torch.is_tensor(t))
        return func(*args, **(kwargs or {}))


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
        self.decode = self.uncompiled = getattr(self.model, "decode", None)
        self.cached = bool(self.decode) and hasattr(self.model, "init_cache")

    def describe_model(self, ask: dict) -> dict:
        names = sorted(self.model.state_dict())
        return {"cached": self.cached, "class": type(self.model).__name__, "names": names}

    def new_decoding(self, prompt: torch.Tensor, total: int) -> CachedDecoding | RecomputedDecoding:
        kind = CachedDecoding if self.cached else RecomputedDecoding
        return kind(self.model, self.decode, prompt, total)

    def compile_step(self, ask: dict) -> dict:
        """Compile the step of one token, for any number of rows; there is none without a cache."""
        try:
            self.decode = torch.compile(self.model.decode, dynamic=True)
            prompt = self.random_tokens(2, self.arena.context // 2)
            decoding = self.new_decoding(prompt, self.arena.context)
            decoding.decode_token(decoding.prefill(self.arena.vocab_size).argmax(-1, keepdim=True))
        except Exception as error:  # a compiler has a hundred types of them
            self.decode = self.uncompiled
            return {"compiled": False, "why": describe_error(error)[:200]}
        return {"compiled": True}

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
        decoding = self.new_decoding(torch.tensor([ids], device=self.device), self.arena.context)
        logits = decoding.prefill(self.arena.vocab_size)
        for left in range(most, 0, -1):
            token = choose_token(logits, ask["temperature"], ask["top_k"], generator)
            if token.item() == BOS:
                break
            yield token.item()
            if left > 1:
                logits = decoding.decode_token(token)

    def random_tokens(self, rows: int, length: int) -> torch.Tensor:
        """int64 [rows, length], BOS first."""
        shape = rows, length
        ids = torch.randint(len(SPECIALS), self.arena.vocab_size, shape, device=self.device)
        ids[:, 0] = BOS
        return ids

    def time_batch(self, ask: dict) -> dict:
        """Decode some batches greedily: seconds of each to its first token, then to its last one.

        slow_gap: the gap between two tokens that 99 % don't exceed.
        """
        length, new = ask["prompt"], ask["new"]
        ids = self.random_tokens(ask["batch"], length)
        first, spans, gaps = [], [], []
        for number in range(-1, ask["repeats"]):  # the first one warms up
            decoding, times = self.new_decoding(ids, length + new + 1), [time.perf_counter()]
            token = decoding.prefill(self.arena.vocab_size).argmax(-1, keepdim=True)
            self.note_time(times)
            for _ in range(new - 1):
                token = decoding.decode_token(token).argmax(-1, keepdim=True)
                self.note_time(times)
            if number == -1:
                stop = time.monotonic() + SECONDS
            else:
                first.append(times[1] - times[0])
                spans.append(times[-1] - times[1])
                gaps += [b - a for a, b in zip(times[1:], times[2:])]
            if number > 0 and time.monotonic() > stop:
                break
        slow = sorted(gaps)[math.ceil(0.99 * len(gaps)) - 1]
        return {"first": first, "spans": spans, "slow_gap": slow} | self.count_work(decoding, token)

    def note_time(self, times: list[float]) -> None:
        synchronize(self.device)
        times.append(time.perf_counter())

    def count_work(self, decoding, token: torch.Tensor) -> dict:
        """FLOPs of one more step, and bytes that its products read, counted as it is made."""
        decoding.decode = self.uncompiled  # compiled code can't be looked into
        with ReadBytes() as read, FlopCounterMode(display=False) as flops:
            decoding.decode_token(token)
        return {"flops": flops.get_total_flops(), "bytes": read.total}

    def compare_cache(self, ask: dict) -> dict:
        """Seconds of a token near the end of a full row, with the cache and without; medians.

        And by how many nats the two predict it differently at most.
        """
        ids, seconds = self.random_tokens(1, self.arena.context), {"cached": [], "recomputed": []}
        for _ in range(ask["repeats"]):
            decoding = self.new_decoding(ids[:, :-TAIL], self.arena.context)
            decoding.prefill(self.arena.vocab_size)
            steps = ids[:, -TAIL:-1].split(1, dim=1)
            for token in steps:
                seconds["cached"].append(self.time_call(decoding.decode_token, token))
            seconds["recomputed"] += [self.time_call(self.model, ids) for _ in range(2)]
        predictions = decoding.decode_token(ids[:, -1:]), self.model(ids)[:, -1]
        nats = [logits.float().log_softmax(-1) for logits in predictions]
        medians = {name: sorted(times)[len(times) // 2] for name, times in seconds.items()}
        return medians | {"difference": (nats[0] - nats[1]).abs().max().item()}

    def measure_limits(self, ask: dict) -> dict:
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

    def time_call(self, function: Callable, *args) -> float:
        """Seconds of a call, until the device is done."""
        times = [time.perf_counter()]
        function(*args)
        self.note_time(times)
        return times[1] - times[0]

    def launch_floor(self) -> float | None:
        """Seconds that an empty captured graph takes, where there are graphs; else None."""
        if self.device.type != "cuda":
            return None
        graph, data = torch.cuda.CUDAGraph(), torch.zeros(1, device=self.device)
        with torch.cuda.graph(graph):
            data.add_(1)
        return sorted(self.time_call(graph.replay) for _ in range(200))[100]


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
