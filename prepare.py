"""Fixes what is measured: text, tokens, rows, clock, score. Nobody edits it during research.

    uv run prepare.py                                   climbmix if there is CUDA, else pocket
    uv run prepare.py --text my_corpus/ --arena mine    your own text
    uv run prepare.py score runs/2026-01-31_120000      score a finished run again

Covered: one tokenizer and one set of rows for everybody; a clock that counts everything from the
first real batch to submit(); a score from logits: one process runs the model and never sees a
target, another, which never imports train.py, computes the score; probes for the known ways to
cheat a language-model score. Not covered here: a contestant that attacks this code or its files
from inside train.py's own process. Nobody watches a run that was started by hand, so it is
unofficial.

The story: text -> tokenizer -> tokens -> rows -> a sealed arena. Then come the contract with
train.py, which is `enter` and `score`, and the command line.
"""

import argparse
import fcntl
import io
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from ratchet.arena.definition import (
    ARENAS,
    FILES,
    Arena,
    load_arena,
    shaping_constants,
    source_label,
)
from ratchet.arena.files import (
    Refused,
    cache_folder,
    exit_on_user_error,
    hash_file,
    read_json,
    replace_file,
    write_json,
)
from ratchet.arena.hardware.cpu import limit_threads
from ratchet.arena.hardware.distributed import join_shares, own_share
from ratchet.arena.progress import ProgressLine, console
from ratchet.arena.run import Run, open_run, read_conditions
from ratchet.arena.score import score
from ratchet.arena.text.child import run_in_child
from ratchet.arena.text.corpus import (
    TEST_SHARD,
    VAL_SHARD,
    WORKERS,
    Corpus,
    find_corpus,
    stream_documents,
)
from ratchet.arena.text.hub import fetch_shards, hub_caches, load_hub_dataset, measure_growth
from ratchet.arena.text.rows import build_rows, refuse_short_text, tokenize_corpus
from ratchet.arena.tokenizer import BOS, SPECIALS, TOKENIZER_DOCUMENTS, train_tokenizer

# what train.py may use of this file
__all__ = ["BOS", "SPECIALS", "enter", "exit_on_user_error", "join_shares", "own_share", "score"]

PLAIN_OPTIONS = {"column": "text", "split": "train"}  # arena.json names only others
MIN_OPTIONS = {"shards": 1, "context": 2, "vocab_size": 256 + len(SPECIALS), "seconds": 1}
# what the process of a scored model inherits: no secrets that are kept in variables
# (what referee/environment.py gives the scorer for it must be here, too)
ENVIRONMENT = tuple(
    "PATH HOME TMPDIR LANG LC_ LD_ PYTHON PYTORCH_ CUDA_ CC OMP_ ONEDNN_ TORCH TRITON_ SLURM_CPUS_"
    " RATCHET_ROOMS RATCHET_RUN".split()
)

# --------------------------------------------------------------------------------------------------
# Text


def fetch_text(corpus: Corpus) -> dict[str, Path]:
    """Download what a corpus lacks; returns the shards of val and test that climbmix has."""
    source = corpus.source
    if source.startswith("climbmix:"):
        numbers = [*range(int(source.split(":")[1])), VAL_SHARD, TEST_SHARD]
        folder, total = cache_folder() / ".shards", WORKERS.RawValue("d")
        paths = [folder / f"shard_{number:05d}.parquet" for number in numbers]
        growth = measure_growth(folder, total=total)
        run_in_child("downloading ClimbMix", growth, fetch_shards, paths, total)
        *corpus.files, val, test = paths
        return {"val": val, "test": test}
    if source != "pocket" and not corpus.files:
        growth = measure_growth(*hub_caches(corpus))
        run_in_child(f"downloading {source}", growth, load_hub_dataset, corpus)
        corpus.data = load_hub_dataset(corpus)
    return {}


# --------------------------------------------------------------------------------------------------
# Tokenizer


def learn_tokenizer(folder: Path, corpus: Corpus, vocab_size: int) -> None:
    """Write tokenizer.json, in a process of its own."""

    def measure() -> tuple[float, float, float]:  # ends when enough is known, or the text
        count, size = corpus.seen
        return count, size, min(corpus.size, size * TOKENIZER_DOCUMENTS / max(count, 1))

    run_in_child("training the tokenizer", measure, build_tokenizer, folder, corpus, vocab_size)


def build_tokenizer(folder: Path, corpus: Corpus, vocab_size: int) -> None:
    """Train the tokenizer on the train split."""
    texts = (text for split, text in stream_documents(corpus) if split == "train")
    tokenizer = train_tokenizer(texts, vocab_size)
    if tokenizer.get_vocab_size() != vocab_size:
        refuse_short_text(corpus.source, corpus.seen[0], f"for {vocab_size} tokens")
    replace_file(folder / "tokenizer.json", tokenizer.to_str())


# --------------------------------------------------------------------------------------------------
# A sealed arena


def build_arena(folder: Path, spec: dict[str, Any], corpus: Corpus) -> None:
    """From text to arena.json; what an interrupted preparation has finished is kept."""
    limit_threads()
    state = begin_or_go_on(folder, spec)
    shards = fetch_text(corpus)
    if not (folder / "tokenizer.json").exists():
        learn_tokenizer(folder, corpus, spec["vocab_size"])
    tokenize_corpus(folder, corpus, state)
    with ProgressLine("packing rows"):
        counts = build_rows(folder, spec, state, shards)
        seal_arena(folder, spec | {"source": source_label(spec["source"])} | counts)


def begin_or_go_on(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """progress.json: how far a preparation of this spec has come, for tokenize_corpus()."""
    path = folder / "progress.json"
    if path.exists():
        state = read_json(path)
        if state["spec"] == spec:
            return state
    (folder / "tokenizer.json").unlink(missing_ok=True)
    state = {"spec": spec, "documents": 0, "bytes": dict.fromkeys(("train", "val", "test"), 0)}
    write_json(path, state)
    return state


def seal_arena(folder: Path, values: dict[str, Any]) -> None:
    """Write arena.json, whose hash is the seal; take away what nobody needs any more."""
    hashes = {name: hash_file(folder / name) for name in FILES}
    write_json(folder / "arena.json", values | {"sha256": hashes})
    for name in ("progress.json", "val.tokens", "test.tokens"):
        (folder / name).unlink()


def prepare(name: str, source: str | None = None, **options: Any) -> Arena:
    """Prepare an arena, go on with an interrupted preparation, or find it ready. Raises Refused.

    source: "pocket", "climbmix:<train shards>", a path, the id of a dataset. options: column and
    split of the text, context, vocab_size, seconds. None stands for the default.
    """
    asked = {
        key: value for key, value in options.items() if value not in (None, PLAIN_OPTIONS.get(key))
    }
    check_name(name, source, asked)
    corpus = choose_corpus(name, source, asked)
    expected = asked if source is None or corpus is None else asked | describe_text(corpus)
    folder = cache_folder() / name
    if not (folder / "arena.json").exists():  # else it may be somebody else's, to be read only
        if corpus is None:
            remedy = f"choose {' or '.join(ARENAS)}, or give your text with --text"
            raise Refused(f"there is no arena {name!r}: {remedy}")
        build_alone(folder, specify(name, corpus, asked), corpus)
    arena = load_arena(folder)
    for key, value in expected.items():
        if getattr(arena, key) != value:
            remedy = f"choose an --arena, or delete {folder}"
            raise Refused(f"arena {name} has other options or another text: {remedy}")
    return arena


def family_of(source: str) -> str | None:
    """The arena of the house that a source is of. Example: "climbmix:3" -> "climbmix"."""
    family = source.split(":")[0]
    return family if family in ARENAS else None


def check_name(name: str, source: str | None, asked: dict[str, Any]) -> None:
    """Refuse a name that can't be a folder's, or other options for an arena of the house."""
    is_other = bool(asked) or (source is not None and family_of(source) != name)
    if (name in ARENAS and is_other) or not re.fullmatch(r"\w[\w.-]*", name):
        remedy = "name your own with --arena (letters, digits, - and _)"
        raise Refused(f"arena {name!r} can't be made so: {remedy}")


def choose_corpus(name: str, source: str | None, asked: dict[str, Any]) -> Corpus | None:
    """The text of an arena; None if neither a source nor the name tells it."""
    if source is None and name in ARENAS:
        source = ARENAS[name]["source"]
    if source is None:
        return None
    if family_of(source):
        return Corpus(source)
    return find_corpus(source, asked.get("column", "text"), asked.get("split"))


def specify(name: str, corpus: Corpus, asked: dict[str, Any]) -> dict[str, Any]:
    """How to make an arena, as arena.json says it: the order of the keys is part of the seal."""
    family = family_of(corpus.source)
    sizes = ARENAS[family] if family else ARENAS[arena_to_prepare()] | {"rows": None}
    spec = {"name": name} | sizes | {"source": corpus.source} | asked
    if not family:
        spec["source_bytes"] = corpus.size
    return spec | {"constants": shaping_constants()}


def describe_text(corpus: Corpus) -> dict[str, Any]:
    """What an Arena says of a text that is not loaded yet."""
    source = {"source": source_label(corpus.source)}
    if family_of(corpus.source):
        return source
    options = {"column": corpus.column, "split": corpus.split}
    return source | options | {"source_bytes": corpus.size}


def build_alone(folder: Path, spec: dict[str, Any], corpus: Corpus) -> None:
    """build_arena(), unless somebody else has finished meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second preparation waits
        if not (folder / "arena.json").exists():
            console.print(f"preparing arena {spec['name']} in {folder}")
            build_arena(folder, spec, corpus)


def arena_to_prepare() -> str:
    """The name of the arena that fits this machine."""
    return "climbmix" if torch.cuda.is_available() else "pocket"


# --------------------------------------------------------------------------------------------------
# The contract


def enter() -> Run:
    """The run that the environment asks for: what train.py begins with.

    Prepares the arena `pocket` if that is asked for and missing.
    """
    with exit_on_user_error(variable="RATCHET_CACHE"):
        conditions = read_conditions()
        if not conditions.is_watched:  # else the rows are out of sight
            prepare(conditions.arena)
        return open_run(conditions)


# --------------------------------------------------------------------------------------------------
# The command line


def parse_arguments() -> argparse.Namespace:
    """What is asked for. Raises Refused."""
    parser = argparse.ArgumentParser(
        description="Prepare an arena, or score a finished run again. "
        "Without options: pocket or, on a CUDA GPU, climbmix (1.7 GB).",
    )
    parser.add_argument(
        "score", nargs="*", metavar="score RUN", help="the folder of a finished run"
    )
    parser.add_argument(
        "--batch", type=int, help="rows scored at a time; changes no digit of the score"
    )
    parser.add_argument(
        "--split", help="with --text: of the dataset (default train); with score: val or test"
    )
    parser.add_argument(
        "--decoding", action="store_true", help="with score: measure how fast it decodes, too"
    )
    parser.add_argument("--arena", help=f"{', '.join(ARENAS)}, or a name for your own")
    parser.add_argument(
        "--text", help="a text file, a folder of them, or the id of a Hugging Face dataset"
    )
    parser.add_argument("--column", help="the column that holds the text (default text)")
    parser.add_argument(
        "--shards", type=int, help="train shards of climbmix, 60M tokens each (default 16)"
    )
    parser.add_argument("--context", type=int, help="tokens in a row of your own arena")
    parser.add_argument("--vocab-size", type=int, help="tokens in the vocabulary of your own arena")
    parser.add_argument(
        "--seconds", type=int, help="training seconds of your own arena (default 300)"
    )
    arguments = parser.parse_args()
    for key, least in MIN_OPTIONS.items():
        value = getattr(arguments, key)
        if value is not None and value < least:
            raise Refused(f"--{key.replace('_', '-')} must be at least {least}")
    return arguments


def score_again(arguments: argparse.Namespace) -> None:
    """`prepare.py score RUN`; exit code 1 if the run is invalid."""
    folder = Path(arguments.score[-1]).resolve()
    if arguments.score[:-1] != ["score"] or not (folder / "run.json").exists():
        words = " ".join(arguments.score)
        raise Refused(f"{words!r} names no finished run: say `prepare.py score runs/...`")
    if arguments.split not in (None, "val", "test"):
        raise Refused(f"--split {arguments.split} can't be scored: say val or test")
    if arguments.batch is not None and arguments.batch < 1:
        raise Refused(f"--batch {arguments.batch} scores no row: say how many at a time")
    for key in [key for key in os.environ if not key.startswith(ENVIRONMENT)]:
        del os.environ[key]
    command = f"uv run prepare.py score {shlex.quote(os.path.relpath(folder))}"
    with exit_on_user_error(go_on=f"`{command}` scores the run", variable="RATCHET_CACHE"):
        split, decoding = arguments.split or "val", arguments.decoding
        result = score(folder, batch=arguments.batch, split=split, decoding=decoding)
    raise SystemExit(result["status"] != "ok")


def main() -> None:
    """Do what the command line asks for."""
    for stream in (sys.stdout, sys.stderr):  # names may have characters that the terminal hasn't
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = parse_arguments()
    if arguments.score:
        score_again(arguments)
    source = f"climbmix:{arguments.shards}" if arguments.shards else None
    name = "climbmix" if arguments.shards else arena_to_prepare()
    if arguments.text is not None:
        # a folder may have the name of an arena
        source = f"./{arguments.text}" if family_of(arguments.text) else arguments.text
        name = "own"
    options = {key: getattr(arguments, key) for key in ("column", "split", *MIN_OPTIONS)}
    del options["shards"]
    arena = prepare(arguments.arena or name, source=source, **options)
    tokens = f"{arena.train_tokens:,} train tokens"
    console.print(f"arena {arena.name} ({arena.seal}) is ready: {tokens}")
    console.print(f"next: RATCHET_ARENA={arena.name} uv run train.py")


if __name__ == "__main__":
    with exit_on_user_error(variable="RATCHET_CACHE"):
        main()
