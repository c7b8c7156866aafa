"""Rows: documents become token rows of one length."""

import bisect
import itertools
import math
import os
import signal
from contextlib import ExitStack

import numpy as np

from ratchet.arena.files import Refused, replace_file, write_json
from ratchet.arena.hardware.cpu import usable_cores
from ratchet.arena.progress import reading_line
from ratchet.arena.text.corpus import WORKERS, documents
from ratchet.arena.tokenizer import BOS, encode, load_tokenizer, token_bytes, token_dtype


def start_worker(folder):
    global worker_tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is one process for each core
    worker_tokenizer = load_tokenizer(folder)


def encode_batch(batch):
    """[(split, document)] -> {split: its tokens as bytes}."""
    tokens = encode(worker_tokenizer, [text.encode(errors="replace").decode() for _, text in batch])
    dtype, out = (
        token_dtype(worker_tokenizer.get_vocab_size()),
        dict.fromkeys(("train", "val", "test"), b""),
    )
    for (split, _), document in zip(batch, tokens):
        out[split] += np.array(document, dtype).tobytes()
    return out


def tokenize(folder, corpus, state):
    """Append the corpus to train.tokens, val.tokens and test.tokens, [BOS document]*, after what is
    there.

    state: {"documents": number done, "bytes": {split: size of its file}}, saved in progress.json as
    it grows.
    """
    stream = itertools.islice(documents(corpus), state["documents"], None)
    batches = iter(lambda: list(itertools.islice(stream, 64)), [])
    with ExitStack() as open_things:
        pool = open_things.enter_context(WORKERS.Pool(usable_cores(), start_worker, [folder]))
        open_things.enter_context(reading_line("tokenising", lambda: (*corpus.seen, corpus.size)))
        paths = {split: folder / f"{split}.tokens" for split in state["bytes"]}
        files = {
            split: open_things.enter_context(open(path, "ab")) for split, path in paths.items()
        }
        for split, file in files.items():
            file.truncate(state["bytes"][split])
        while window := list(itertools.islice(batches, 16 * usable_cores())):
            for split, tokens in itertools.chain(
                *(out.items() for out in pool.imap(encode_batch, window))
            ):
                files[split].write(tokens)
            for split, file in files.items():
                file.flush()
                os.fsync(file.fileno())
                state["bytes"][split] = file.tell()
            state["documents"] += sum(map(len, window))
            write_json(folder / "progress.json", state)


def pack_stream(tokens, context):
    """Cut a flat token stream into rows [n, T + 1] that begin with BOS and lose nothing; BOS fills
    the last.

    A document that goes on in the next row goes on after a BOS. As a target BOS costs nothing, has
    no bytes.
    """
    stream = np.append(tokens, np.full(-len(tokens) % context, BOS, tokens.dtype)).reshape(
        -1, context
    )
    return np.insert(stream, 0, BOS, axis=1)


def pack_best_fit(chunks, context, rows, buffer_size=1000):
    """Pack documents into at most `rows` rows [n, T + 1] as for the published scores
    (karpathy/autoresearch).

    A row takes the longest document of the buffer that fits, the earliest among equals; where none
    fits, the shortest is cropped and its rest dropped. `chunks` yields lists of [BOS, tokens ...]
    to fill the buffer.
    """
    buffer, arrivals, packed, chunks = [], itertools.count(), [], iter(chunks)
    while len(packed) < rows:
        row = []
        while len(row) <= context:
            while len(buffer) < buffer_size and (chunk := next(chunks, None)) is not None:
                for document in chunk:
                    bisect.insort(buffer, (len(document), next(arrivals), document))
            if not buffer:
                return np.array(packed).reshape(-1, context + 1)
            room = context + 1 - len(row)
            fitting = bisect.bisect_right(buffer, (room, math.inf))
            place = bisect.bisect_left(buffer, (buffer[fitting - 1][0],)) if fitting else 0
            row += buffer.pop(place)[2][:room]
        packed.append(row)
    return np.array(packed)


def published_chunks(path, tokenizer):
    """The documents of a shard, tokenised, up to 128 of a row group at a time: the packing depends
    on it.
    """
    import pyarrow.parquet as parquet

    with open(path, "rb") as file:
        for group in range((table := parquet.ParquetFile(file)).num_row_groups):
            texts = table.read_row_group(group, columns=["text"]).column(0).to_pylist()
            for start in range(0, len(texts), 128):
                yield encode(tokenizer, texts[start : start + 128])


def refuse_little(source, documents, purpose):
    count = "one document, which is" if documents == 1 else f"{documents:,.0f} documents,"
    remedy = "give it more text, some 5 MB, or a smaller --vocab-size and --context"
    if documents < 100:
        remedy += ": documents are split, one a line of .jsonl, one a row of .csv and .parquet"
    raise Refused(f"{source} has too few documents {purpose} ({count} {remedy})")


def build_rows(folder, spec, state, held_out):
    """Write val.rows and test.rows, return their facts."""
    tokenizer, dtype = load_tokenizer(folder), token_dtype(spec["vocab_size"])
    sizes = token_bytes(tokenizer)
    facts = {"train_tokens": state["bytes"]["train"] // dtype.itemsize}
    for split, shard in itertools.zip_longest(("val", "test"), held_out):
        if shard:
            chunks = published_chunks(shard, tokenizer)
            rows = pack_best_fit(chunks, spec["context"], spec["rows"]).astype(dtype)
        else:
            rows = pack_stream(np.fromfile(folder / f"{split}.tokens", dtype), spec["context"])
        if len(rows) < 64 or facts["train_tokens"] < 64 * spec["context"]:
            refuse_little(spec["source"], state["documents"], "for train, val and test")
        facts |= {f"{split}_rows": len(rows), f"{split}_bytes": int(sizes[rows[:, 1:]].sum())}
        replace_file(folder / f"{split}.rows", rows.tobytes())
    return facts


def row_order(count, rows, seed):
    """Yield arrays of `rows` row numbers for ever: each row once an epoch, every epoch in a new
    order.
    """
    rest = np.empty(0, np.int64)
    for epoch in itertools.count():
        rest = np.concatenate([rest, np.random.default_rng([seed, epoch]).permutation(count)])
        yield from rest[: len(rest) // rows * rows].reshape(-1, rows)
        rest = rest[len(rest) // rows * rows :]
