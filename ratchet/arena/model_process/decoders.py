"""Decoding in the model's process: through its cache, or over whole rows where it has none.

Letters in shapes: B rows, P tokens of a prompt, T context, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

LOGITS = 2**27  # of a prompt that are made at a time
PRODUCTS = "mm", "bmm", "addmm", "baddbmm", "_scaled_mm"  # of torch.ops.aten; and all attention


class CachedDecoding:
    """Decoding through init_cache() and decode(): a token costs a token."""

    def __init__(self, model: Any, decode: Any, prompt: Tensor, total: int) -> None:
        """decode: model.decode, or that compiled; prompt int64 [B, P]; total: tokens in the end."""
        self.model, self.decode, self.prompt = model, decode, prompt
        self.cache = model.init_cache(len(prompt), total)

    def prefill(self, vocab_size: int) -> Tensor:
        """Logits [B, V] after the prompt, in pieces: all its logits may not fit into memory."""
        size = max(1, LOGITS // (len(self.prompt) * vocab_size))
        pieces = self.prompt.split(size, dim=1)
        return [self.model.decode(self.cache, piece)[:, -1] for piece in pieces][-1]

    def decode_token(self, ids: Tensor) -> Tensor:
        """Logits [B, V] after one more token for each row, int64 [B, 1]."""
        return self.decode(self.cache, ids)[:, -1]


class RecomputedDecoding:
    """Decoding for a model that offers no cache: every token costs the whole row."""

    def __init__(self, model: Any, decode: Any, prompt: Tensor, total: int) -> None:
        self.model, self.tokens, self.prompt = model, prompt[:, :0], prompt

    def prefill(self, vocab_size: int) -> Tensor:
        """Logits [B, V] after the prompt."""
        return self.decode_token(self.prompt)

    def decode_token(self, ids: Tensor) -> Tensor:
        """Logits [B, V] after one more token for each row, int64 [B, 1]."""
        self.tokens = torch.cat([self.tokens, ids], dim=1)
        return self.model(self.tokens)[:, -1]


class DecodingModel:
    """Begins decodings of a model, with its cache if it has one.

    decode: its decode(), which compile_step() compiles; None without a cache.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.decode = self.uncompiled = getattr(model, "decode", None)
        self.has_cache = bool(self.decode) and hasattr(model, "init_cache")

    def begin(self, prompt: Tensor, total: int) -> CachedDecoding | RecomputedDecoding:
        """prompt: int64 [B, P]; total: tokens of a row in the end, at most."""
        kind = CachedDecoding if self.has_cache else RecomputedDecoding
        return kind(self.model, self.decode, prompt, total)

    def compile_step(self, prompt: Tensor, vocab_size: int) -> None:
        """Compile the step of one token, for any number of rows. Raises what a compiler raises."""
        self.decode = torch.compile(self.model.decode, dynamic=True)
        try:
            decoding = self.begin(prompt, prompt.size(1) + 1)
            decoding.decode_token(decoding.prefill(vocab_size).argmax(-1, keepdim=True))
        except Exception:
            self.decode = self.uncompiled
            raise

    def count_step(
        self, decoding: CachedDecoding | RecomputedDecoding, ids: Tensor
    ) -> dict[str, float]:
        """{"flops", "bytes"} of one more step, and of what its products read."""
        from torch.utils.flop_counter import FlopCounterMode  # it takes long to import

        if isinstance(decoding, CachedDecoding):
            decoding.decode = self.uncompiled  # compiled code can't be looked into
        with ReadBytes() as read, FlopCounterMode(display=False) as flops:
            decoding.decode_token(ids)
        return {"flops": flops.get_total_flops(), "bytes": read.total}


class ReadBytes(TorchDispatchMode):
    """Counts the bytes of what products and attention read: weights above all."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in PRODUCTS or "attention" in name or "linear" in name:
            self.total += sum(t.numel() * t.element_size() for t in args if torch.is_tensor(t))
        return func(*args, **(kwargs or {}))
