"""Fixes what is measured: text, tokens, rows, clock, score. Sealed: nobody edits it during
research.

    uv run prepare.py                                   this machine's arena: climbmix with CUDA, or pocket
    uv run prepare.py --text my_corpus/ --arena mine    your own text
    uv run prepare.py score runs/2026-01-31_120000      score a finished run again

Covered: one tokenizer and one set of rows for everybody; a clock that counts everything from the
first real batch to submit(); a score from logits: one process runs the model and never sees a
target, another, which never imports train.py, computes the score; probes for the known ways to
cheat a language-model score. Not covered here: a contestant that attacks this code or its files
from inside train.py's own process. Nobody watches a run that was started by hand, so it is
unofficial.

Letters in shapes: B rows, T context, V vocabulary. A stored row has T + 1 tokens: its inputs are
all but the last, its targets all but the first.
"""

import argparse
import fcntl
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import torch

from ratchet.arena.definition import ARENAS, FILES, constants, label, load_arena
from ratchet.arena.files import (
    Refused,
    cache_folder,
    exit_on_user_error,
    hash_file,
    replace_file,
    write_json,
)
from ratchet.arena.hardware.cpu import limit_threads
from ratchet.arena.hardware.distributed import join_shares, own_share  # noqa: F401
from ratchet.arena.progress import ProgressLine, console, reading_line
from ratchet.arena.rows import build_rows, refuse_little, tokenize
from ratchet.arena.run import (
    QUEUED_STEPS,  # noqa: F401
    open_run,
    read_conditions,
)
from ratchet.arena.score import score
from ratchet.arena.text.corpus import TEST_SHARD, VAL_SHARD, WORKERS, Corpus, documents, find_corpus
from ratchet.arena.text.hub import fetch_shards, growth, hub_caches, hub_dataset
from ratchet.arena.tokenizer import (
    BOS,  # noqa: F401
    SPECIALS,
    TOKENIZER_DOCUMENTS,
    train_tokenizer,
)

# what a model's process inherits: no secrets that are kept in variables
ENVIRONMENT = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_",
    "LD_",
    "PYTHON",
    "CUDA_",
    "OMP_",
    "TORCH",
    "TRITON_",
    "SLURM_CPUS_",
    "RATCHET_PYTHON",
    "RATCHET_RUN",
)


def begin_child(function, *args):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    with exit_on_user_error(variable="RATCHET_CACHE"):
        function(*args)


def in_child(task, measure, function, *args):
    """Call function in a process: its memory goes with it, Ctrl-C ends it whatever its threads wait
    for.
    """
    (process := WORKERS.Process(target=begin_child, args=(function, *args), daemon=True)).start()
    try:
        with reading_line(task, measure):
            process.join()
    finally:
        process.kill()
    if process.exitcode < 0:
        raise Refused(
            f"{task}: its process was killed (signal {-process.exitcode}): is there enough memory? Retry"
        )
    if process.exitcode:
        raise SystemExit(process.exitcode)


def build_tokenizer(folder, corpus, vocab_size):
    texts = (text for split, text in documents(corpus) if split == "train")
    tokenizer = train_tokenizer(texts, vocab_size)
    if tokenizer.get_vocab_size() != vocab_size:
        refuse_little(corpus.source, corpus.seen[0], f"for {vocab_size} tokens")
    replace_file(folder / "tokenizer.json", tokenizer.to_str())


def build_arena(folder, spec, corpus):
    """From text to arena.json; what an interrupted preparation has finished is kept."""
    limit_threads()
    source, held_out, path = spec["source"], [], folder / "progress.json"
    state = {"spec": spec, "documents": 0, "bytes": dict.fromkeys(("train", "val", "test"), 0)}
    if path.exists() and (old := json.loads(path.read_text(encoding="utf-8")))["spec"] == spec:
        state = old
    else:
        (folder / "tokenizer.json").unlink(missing_ok=True)
        write_json(path, state)
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

        in_child(
            "training the tokenizer", measure, build_tokenizer, folder, corpus, spec["vocab_size"]
        )
    tokenize(folder, corpus, state)
    with ProgressLine("packing rows"):
        facts = spec | {"source": label(source)} | build_rows(folder, spec, state, held_out)
        facts["sha256"] = {name: hash_file(folder / name) for name in FILES}
    write_json(folder / "arena.json", facts)
    for name in ("progress.json", "val.tokens", "test.tokens"):
        (folder / name).unlink()


def prepare(name, **options):
    """Prepare an arena, go on with an interrupted preparation, or find the arena ready; return it.

    options: source ("pocket", "climbmix:<train shards>", a path, a dataset id), column and split of
    the text, context, vocab_size, seconds.
    """
    plain = {"column": "text", "split": "train"}  # where a text has these, its arena doesn't say so
    wanted = {key: value for key, value in options.items() if value not in (None, plain.get(key))}
    folder, family = cache_folder() / name, wanted.get("source", name).split(":")[0]
    if is_own := "source" in wanted and family not in ARENAS:
        corpus = find_corpus(wanted["source"], wanted.get("column", "text"), wanted.get("split"))
        wanted |= {"source": corpus.source, "source_bytes": corpus.size}
    taken = name in ARENAS and (family != name or wanted.keys() - {"source"})
    if taken or not re.fullmatch(r"\w[\w.-]*", name):
        raise Refused(
            f"arena {name!r} can't be made so: name your own with --arena (letters, digits, - and _)"
        )
    ready = folder / "arena.json"
    if not {name, *wanted} & {*ARENAS, "source"} and not ready.exists():
        raise Refused(
            f"there is no arena {name!r}: choose {' or '.join(ARENAS)}, or give your text with --text"
        )
    if not ready.exists():  # else it may be somebody else's, to be read only
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second preparation waits
            if not ready.exists():
                own = ARENAS["climbmix" if torch.cuda.is_available() else "pocket"] | {"rows": None}
                spec = (
                    {"name": name} | ARENAS.get(family, own) | wanted | {"constants": constants()}
                )
                console.print(f"preparing arena {name} in {folder}")
                build_arena(folder, spec, corpus if is_own else Corpus(spec["source"]))
    arena = load_arena(folder)
    for key, value in ((plain | wanted) if is_own else wanted).items():
        if getattr(arena, key, plain.get(key)) not in (value, label(str(value))):
            raise Refused(
                f"arena {name} has other options or another text: choose an --arena, or delete {folder}"
            )
    return arena


def enter():
    """The run that the environment asks for. Prepares the arena `pocket` if that is asked for and
    missing.
    """
    with exit_on_user_error(variable="RATCHET_CACHE"):
        conditions = read_conditions()
        if not conditions.is_watched:  # else the rows are out of sight
            prepare(conditions.arena)
        return open_run(conditions)


def main():
    parser = argparse.ArgumentParser(description="Prepare an arena, or score a finished run again.")
    parser.add_argument(
        "score", nargs="*", metavar="score RUN", help="the folder of a finished run"
    )
    parser.add_argument(
        "--batch", type=int, help="rows scored at a time; changes no digit of the score"
    )
    parser.add_argument(
        "--split", help="of a dataset (default train); of a score: val, or test for audits"
    )
    parser.add_argument("--arena", help=f"{', '.join(ARENAS)}, or a name for your own")
    parser.add_argument(
        "--text", help="a file of text, a folder of them, a Hugging Face id: see the README"
    )
    parser.add_argument(
        "--column", help="of the text in .jsonl, .csv, .parquet, a dataset (default text)"
    )
    parser.add_argument(
        "--shards", type=int, help="train shards of climbmix, 60M tokens each (default 16)"
    )
    parser.add_argument("--context", type=int, help="tokens in a row of your own arena")
    parser.add_argument("--vocab-size", type=int, help="tokens in the vocabulary of your own arena")
    parser.add_argument("--seconds", type=int, help="of training in your own arena (default 300)")
    args = parser.parse_args()
    for stream in (sys.stdout, sys.stderr):  # names may have characters that the terminal hasn't
        stream.reconfigure(errors="backslashreplace")
    if args.score:
        verb, folder = args.score[0], Path(args.score[-1]).resolve()
        if verb != "score" or len(args.score) != 2 or not (folder / "run.json").exists():
            raise Refused(
                f"{' '.join(args.score)!r} names no finished run: say `prepare.py score runs/...`"
            )
        if args.split not in (None, "val", "test"):
            raise Refused(f"--split {args.split} can't be scored: say val or test")
        for key in [key for key in os.environ if not key.startswith(ENVIRONMENT)]:
            del os.environ[key]
        resume = f"`uv run prepare.py score {shlex.quote(os.path.relpath(folder))}` scores the run"
        with exit_on_user_error(resume, variable="RATCHET_CACHE"):
            score(folder, batch=args.batch, split=args.split or "val")
    options = {
        key: getattr(args, key) for key in ("column", "split", "context", "vocab_size", "seconds")
    }
    for key, least in {
        "shards": 1,
        "context": 2,
        "vocab_size": 256 + len(SPECIALS),
        "seconds": 1,
    }.items():
        if getattr(args, key) is not None and getattr(args, key) < least:
            raise Refused(f"--{key.replace('_', '-')} must be at least {least}")
    source = args.shards and f"climbmix:{args.shards}"
    if args.text is not None:  # a folder may have the name of an arena
        source = f"./{args.text}" if args.text.split(":")[0] in ARENAS else args.text
    machine = "climbmix" if args.shards or torch.cuda.is_available() else "pocket"
    arena = prepare(args.arena or ("own" if args.text else machine), source=source, **options)
    console.print(
        f"arena {arena.name} ({arena.seal}) is ready: {arena.train_tokens:,} train tokens"
    )
    console.print(f"next: RATCHET_ARENA={arena.name} uv run train.py")


if __name__ == "__main__":
    with exit_on_user_error(variable="RATCHET_CACHE"):
        main()
