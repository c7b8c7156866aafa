"""The tokenizer: byte-level BPE, one for everybody."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line needs the constants only, and soon
    import numpy as np
    from tokenizers import Tokenizer

SPECIALS = ["<|bos|>", "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>"]  # of no bytes
BOS = 0  # the token that begins a document, and every row
# GPT-4's split, but digits in groups of 1-2: a small vocabulary has no room for 1000 three-digit
# numbers
SPLIT = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
SPLIT += r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
TOKENIZER_DOCUMENTS = 100_000  # it learns from so many
TOKENIZER_CHARACTERS = 10_000  # of each of these


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of `vocab_size` tokens, specials included; of fewer if the texts
    are too short.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    beginnings = (text[:TOKENIZER_CHARACTERS] for text in texts)
    tokenizer.train_from_iterator(itertools.islice(beginnings, TOKENIZER_DOCUMENTS), trainer)
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of the arena in a folder."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())
    tokenizer.encode_special_tokens = True  # a text that spells <|bos|> is text
    return tokenizer


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """[V] raw bytes of each token, 0 for specials.

    The byte-level alphabet has one character for a byte.
    """
    import numpy as np

    tokens = [tokenizer.id_to_token(number) or "" for number in range(tokenizer.get_vocab_size())]
    return np.array([0 if token in SPECIALS else len(token) for token in tokens])


def token_dtype(vocab_size: int) -> np.dtype:
    """The type in which tokens are stored: uint16 if that has room for them."""
    import numpy as np

    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def encode_documents(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The tokens of each text: [BOS, ...]."""
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [[BOS, *encoding.ids] for encoding in encodings]
