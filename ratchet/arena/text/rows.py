"""Rows: documents become token rows of one length."""

import bisect
import itertools
import math
import multiprocessing
import os
import signal
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ratchet.arena.files import Refused, replace_file, write_json
from ratchet.arena.hardware.cpu import usable_cores
from ratchet.arena.progress import reading_line
from ratchet.arena.text.corpus import WORKERS, Corpus, stream_documents
from ratchet.arena.tokenizer import (
    BOS,
    encode_documents,
    load_tokenizer,
    token_bytes,
    token_dtype,
)

BATCH_DOCUMENTS = 64  # that a worker encodes at a time
LOOK_SECONDS = 10  # without a batch, until it is looked who lives
WINDOW_BATCHES = 16  # of each worker, between two notes of how far the work is
BUFFER_DOCUMENTS = 1000  # among which pack_best_fit() chooses
MIN_ROWS = 64  # of val, of test; of train as well
worker_tokenizer: Any = None  # of a process that encodes documents

# --------------------------------------------------------------------------------------------------
# Text to tokens


def start_worker(folder: Path) -> None:
    """Begin a process that encodes documents."""
    global worker_tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is one process for each core
    worker_tokenizer = load_tokenizer(folder)


def encode_batch(batch: list[tuple[str, str]]) -> dict[str, bytes]:
    """[(split, document)] -> {split: its tokens as bytes}."""
    texts = [text.encode(errors="replace").decode() for _, text in batch]
    dtype = token_dtype(worker_tokenizer.get_vocab_size())
    encoded = dict.fromkeys(("train", "val", "test"), b"")
    for (split, _), tokens in zip(batch, encode_documents(worker_tokenizer, texts)):
        encoded[split] += np.array(tokens, dtype).tobytes()
    return encoded


def results_of_living(results: Any, workers: Collection[int | None]) -> Iterator[Any]:
    """The results of a pool's imap(). Raises Refused where one of its processes was killed.

    A pool replaces such a process, and waits for its result for ever.
    """
    while True:
        try:
            yield results.next(timeout=LOOK_SECONDS)
        except StopIteration:
            return
        except multiprocessing.TimeoutError:
            if {*workers} - {child.pid for child in multiprocessing.active_children()}:
                raise Refused(
                    "a process that makes tokens was killed, as the system does when it runs out "
                    "of memory: free some, then give the same command again"
                ) from None


def tokenize_corpus(folder: Path, corpus: Corpus, state: dict[str, Any]) -> None:
    """Append a corpus to train.tokens, val.tokens and test.tokens: [BOS, tokens ...] a document.

    state: {"documents": number done, "bytes": {split: size of its file}}, saved in progress.json as
    it grows.
    """
    stream = itertools.islice(stream_documents(corpus), state["documents"], None)
    batches = iter(lambda: list(itertools.islice(stream, BATCH_DOCUMENTS)), [])
    with ExitStack() as stack:
        pool = stack.enter_context(WORKERS.Pool(usable_cores(), start_worker, [folder]))
        workers = {child.pid for child in multiprocessing.active_children()}
        stack.enter_context(reading_line("tokenising", lambda: (*corpus.seen, corpus.size)))
        files = {}
        for split, size in state["bytes"].items():
            files[split] = stack.enter_context(open(folder / f"{split}.tokens", "ab"))
            files[split].truncate(size)
        while window := list(itertools.islice(batches, WINDOW_BATCHES * usable_cores())):
            for encoded in results_of_living(pool.imap(encode_batch, window), workers):
                for split, tokens in encoded.items():
                    files[split].write(tokens)
            for split, file in files.items():
                file.flush()
                os.fsync(file.fileno())
                state["bytes"][split] = file.tell()
            state["documents"] += sum(map(len, window))
            write_json(folder / "progress.json", state)


# --------------------------------------------------------------------------------------------------
# Tokens to rows


def pack_stream(tokens: np.ndarray, context: int) -> np.ndarray:
    """Cut a stream of tokens [n] into rows [rows, T + 1] that begin with BOS, losing nothing.

    BOS fills the last row. A document that goes on in the next row goes on after a BOS. As a target
    BOS costs nothing, as it has no bytes.
    """
    padding = np.full(-len(tokens) % context, BOS, tokens.dtype)
    rows = np.append(tokens, padding).reshape(-1, context)
    return np.insert(rows, 0, BOS, axis=1)


def pack_best_fit(
    chunks: Iterable[list[list[int]]], context: int, most_rows: int, buffer_size=BUFFER_DOCUMENTS
) -> np.ndarray:
    """Pack documents into at most so many rows [rows, T + 1], as for the published scores.

    As in karpathy/autoresearch a row takes the longest document of the buffer that fits, the
    earliest among equals; where none fits, the shortest is cropped, its rest dropped. chunks yields
    lists of [BOS, tokens ...] to fill the buffer.
    """
    buffer: list[tuple[int, int, list[int]]] = []  # (length, number of arrival, tokens), sorted
    arrivals, chunks = itertools.count(), iter(chunks)
    packed: list[list[int]] = []
    while len(packed) < most_rows:
        row: list[int] = []
        while len(row) <= context:
            while len(buffer) < buffer_size and (chunk := next(chunks, None)) is not None:
                for document in chunk:
                    bisect.insort(buffer, (len(document), next(arrivals), document))
            if not buffer:
                return np.array(packed).reshape(-1, context + 1)
            room = context + 1 - len(row)
            row += take_best_fit(buffer, room)[:room]
        packed.append(row)
    return np.array(packed)


def take_best_fit(buffer: list[tuple[int, int, list[int]]], room: int) -> list[int]:
    """Take the longest document of at most `room` tokens out of a buffer, else the shortest."""
    fitting = bisect.bisect_right(buffer, (room, math.inf))
    earliest = bisect.bisect_left(buffer, (buffer[fitting - 1][0],)) if fitting else 0
    return buffer.pop(earliest)[2]


def published_chunks(path: Path, tokenizer: Any) -> Iterator[list[list[int]]]:
    """The encoded documents of a shard, up to 128 of a row group at a time.

    The packing of the published scores depends on that.
    """
    import pyarrow.parquet as parquet

    with open(path, "rb") as file:
        table = parquet.ParquetFile(file)
        for group in range(table.num_row_groups):
            texts = table.read_row_group(group, columns=["text"]).column(0).to_pylist()
            for start in range(0, len(texts), 128):
                yield encode_documents(tokenizer, texts[start : start + 128])


def build_rows(
    folder: Path, spec: Mapping[str, Any], state: Mapping[str, Any], shards: Mapping[str, Path]
) -> dict[str, int]:
    """Write val.rows and test.rows; returns how much there is of each split, for arena.json.

    shards: of val and of test, where these have their own. Raises Refused if the text is too short.
    """
    tokenizer, dtype = load_tokenizer(folder), token_dtype(spec["vocab_size"])
    sizes = token_bytes(tokenizer)
    counts = {"train_tokens": state["bytes"]["train"] // dtype.itemsize}
    for split in ("val", "test"):
        if split in shards:
            chunks = published_chunks(shards[split], tokenizer)
            rows = pack_best_fit(chunks, spec["context"], spec["rows"]).astype(dtype)
        else:
            rows = pack_stream(np.fromfile(folder / f"{split}.tokens", dtype), spec["context"])
        if len(rows) < MIN_ROWS or counts["train_tokens"] < MIN_ROWS * spec["context"]:
            refuse_short_text(spec["source"], state["documents"], "for train, val and test")
        counts[f"{split}_rows"] = len(rows)
        counts[f"{split}_bytes"] = int(sizes[rows[:, 1:]].sum())
        replace_file(folder / f"{split}.rows", rows.tobytes())
    return counts


def refuse_short_text(source: str, documents: float, purpose: str) -> NoReturn:
    """Refuse a text that has too few documents for some purpose."""
    count = "one document, which is" if documents == 1 else f"{documents:,.0f} documents,"
    remedy = "give it more text, some 5 MB, or a smaller --vocab-size and --context"
    if documents < 100:
        remedy += ": documents are split, one a line of .jsonl, one a row of .csv and .parquet"
    raise Refused(f"{source} has too few documents {purpose} ({count} {remedy})")


# --------------------------------------------------------------------------------------------------
# Rows to batches


def row_order(count: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Yield arrays of `batch` row numbers for ever: each row once an epoch, in ever new order."""
    rest = np.empty(0, np.int64)
    for epoch in itertools.count():
        rest = np.concatenate([rest, np.random.default_rng([seed, epoch]).permutation(count)])
        yield from rest[: len(rest) // batch * batch].reshape(-1, batch)
        rest = rest[len(rest) // batch * batch :]
