"""The end of the model's process: imports the saved train.py, loads the weights, answers.

Started by process.py. Its standard input is a socket: lines of JSON come in, a line goes out
for each. Token rows and logits lie in shared memory. There is no target anywhere.
"""

import importlib.util
import json
import re
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from ratchet.arena.files import describe_error
from ratchet.arena.hardware.cpu import apply_cpu_workarounds
from ratchet.arena.hardware.device import set_cuda_device, synchronize
from ratchet.arena.hardware.shared_memory import open_shared
from ratchet.arena.inspection import inspect_model
from ratchet.arena.model_process.decoders import DecodingModel
from ratchet.arena.tokenizer import BOS

MARK = 1.0  # written into the shared logits before the contestant's code is there
NO_MEMORY = "out of memory|can't allocate memory|not enough memory"  # as errors say it
MOST_DESCRIPTORS = 2  # of shared memory that come with the first message

Answer = dict[str, Any]


class ModelServer:
    """Answers questions about one model: each method but the first is one."""

    def __init__(self, setting: dict[str, Any], descriptors: list[int]) -> None:
        self.device = torch.device(setting["device"])
        apply_cpu_workarounds()
        set_cuda_device(self.device)
        import_what_models_need()
        tokens, logits, given = setting["tokens"], setting["logits"], iter(descriptors)
        self.tokens = open_shared(tokens, torch.int64, torch.device("cpu"), "", given)
        self.logits = open_shared(logits, torch.float32, self.device, setting["handle"], given)
        self.folder = Path(setting["folder"])
        self.model: Any = None

    def write_mark(self) -> Answer:
        """Show that the memory is shared."""
        self.logits[0, 0, 0] = MARK
        synchronize(self.device)
        return {}

    def load_model(self) -> Answer:
        """Run the contestant's code for the first time. From here on nothing may be learned."""
        torch.set_grad_enabled(False)
        if self.device.type == "cpu":  # a GPU's kernels are tried with their gradients
            use_engine(NoEngine())
        self.model = load_contestant(self.folder, self.device)
        self.decoder = DecodingModel(self.model)
        return {}

    def answer_rows(self, rows: int) -> Answer:
        """Run the model on the first rows of tokens [n, T], into logits [n, T, V]."""
        tokens = self.tokens[:rows].to(self.device, copy=True)
        with torch.inference_mode():
            return self.hand_over(self.model(tokens), rows)

    def hand_over(self, out: torch.Tensor, rows: int) -> Answer:
        """Put what a model said of the first rows where the other end reads it."""
        logits = self.logits[:rows]
        if out.shape != logits.shape:
            return {"error": f"logits of shape {[*out.shape]}, not {[*logits.shape]}"}
        logits[:] = out
        synchronize(self.device)
        return {}

    def begin_decoding(self, rows: int, prompt: int, total: int) -> Answer:
        """Begin to decode the first rows of tokens: their prompts, into logits [n, 1, V].

        total: tokens of a row in the end, at most.
        """
        tokens = self.tokens[:rows, :prompt].to(self.device, copy=True)
        self.decoding = self.decoder.begin(tokens, total)
        return self.hand_over(self.decoding.prefill(self.logits.size(-1))[:, None], rows)

    def decode_token(self, rows: int, position: int) -> Answer:
        """Go on with one token of each row, into logits [n, 1, V]."""
        tokens = self.tokens[:rows, position, None].to(self.device, copy=True)
        return self.hand_over(self.decoding.decode_token(tokens)[:, None], rows)

    def describe_decoding(self) -> Answer:
        """Whether the model has a cache."""
        return {"has_cache": self.decoder.has_cache}

    def compile_decoding(self) -> Answer:
        """Compile the step of one token; {"why": ...} if that can't be done."""
        rows, context = min(2, len(self.tokens)), self.tokens.size(1)
        prompt = torch.full((rows, context // 2), BOS, device=self.device)
        try:
            self.decoder.compile_step(prompt, self.logits.size(-1))
        except Exception as error:  # a compiler has a hundred types of them
            return {"why": describe_error(error)[:200]}
        return {}

    def count_step(self, rows: int, position: int) -> Answer:
        """{"flops", "bytes"} of one more token of each row."""
        tokens = self.tokens[:rows, position, None].to(self.device, copy=True)
        return self.decoder.count_step(self.decoding, tokens)

    def inspect_model(self, count_flops: bool) -> Answer:
        """The figures of inspection.inspect_model(); {} for a model that can't be inspected.

        It needs gradients, so it is the last question: what a model learns here is of no use.
        """
        context, vocab_size = self.tokens.size(1), self.logits.size(-1)
        torch.set_grad_enabled(True)
        use_engine(ENGINE)
        try:
            return inspect_model(self.model, context, vocab_size, self.device, count_flops)
        except Exception:
            traceback.print_exc()
            return {}


ENGINE = torch.autograd.Variable._execution_engine


class NoEngine:
    """In place of PyTorch's engine of backward passes.

    What gets round it has no time: meter.py measures that.
    """

    def run_backward(self, *_: Any, **__: Any) -> NoReturn:
        """Raises RuntimeError."""
        raise RuntimeError("a model that is scored can't be trained")


def use_engine(engine: Any) -> None:
    """Have all backward passes go through this."""
    torch.autograd.Variable._execution_engine = engine


def import_what_models_need() -> None:
    """Import what load() of an ordinary train.py would, so that this isn't counted as its work."""
    import safetensors.torch  # noqa: F401
    import torch.fx.experimental.symbolic_shapes  # noqa: F401  as parameters on "meta" do

    import ratchet.arena.run  # noqa: F401


def load_contestant(folder: Path, device: torch.device) -> torch.nn.Module:
    """The model that the train.py of a run's folder loads."""
    spec = importlib.util.spec_from_file_location("train", folder / "train.py")
    assert spec and spec.loader
    train = importlib.util.module_from_spec(spec)
    sys.modules["train"] = train  # dataclasses look there
    spec.loader.exec_module(train)
    return train.load(folder).to(device).eval()


def answer_question(ask: Callable[..., Answer], arguments: dict[str, Any]) -> Answer:
    """What a question's method answers, or what went wrong."""
    try:
        return ask(**arguments)
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
            return {"memory": True}
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    """Answer until the other end has gone."""
    channel = socket.socket(fileno=0)
    _, descriptors, _, _ = socket.recv_fds(channel, 1, MOST_DESCRIPTORS)
    server = ModelServer(json.loads(sys.argv[1]), descriptors)
    for line in channel.makefile("rb"):
        question = json.loads(line)
        answer = answer_question(getattr(server, question.pop("do")), question)
        print(end="", flush=True)  # this process will be killed
        channel.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
