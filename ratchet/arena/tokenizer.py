"""The tokenizer: byte-level BPE, one for everybody."""

import itertools

import numpy as np

BOS, SPECIALS = (
    0,
    ["<|bos|>", "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>"],
)  # tokens of no bytes
# GPT-4's split, but digits in groups of 1-2: a small vocabulary has no room for 1000 three-digit
# numbers
SPLIT = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
SPLIT += r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
TOKENIZER_DOCUMENTS, TOKENIZER_CHARACTERS = (
    100_000,
    10_000,
)  # documents it learns from, characters of each


def train_tokenizer(texts, vocab_size):
    """A byte-level BPE tokenizer of `vocab_size` tokens, specials included, from an iterator of
    texts.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer, level = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    options = dict(special_tokens=SPECIALS, initial_alphabet=level.alphabet(), show_progress=False)
    texts = itertools.islice((text[:TOKENIZER_CHARACTERS] for text in texts), TOKENIZER_DOCUMENTS)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, **options))
    return tokenizer


def load_tokenizer(folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())
    tokenizer.encode_special_tokens = True  # a text that spells <|bos|> is text
    return tokenizer


def token_bytes(tokenizer):
    """[V] raw bytes of each token, 0 for specials; the byte-level alphabet has one character for a
    byte.
    """
    tokens = map(tokenizer.id_to_token, range(tokenizer.get_vocab_size()))
    return np.array([0 if token in SPECIALS else len(token) for token in tokens])


def token_dtype(vocab_size):
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def encode(tokenizer, texts):
    """[[BOS, tokens ...] of each text]."""
    return [
        [BOS, *encoding.ids]
        for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ]
