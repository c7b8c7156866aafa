"""Files that a contestant may have written are opened by one function, which nothing can stop."""

import ast
import json
import os

import pytest
from conftest import ROOT

from ratchet.arena.files import open_untrusted, read_untrusted
from ratchet.referee import early_stopping, limits, supervisor
from ratchet.report.data import read_architecture

OPENS = {"open", "read_text", "read_bytes", "fromfile", "memmap", "safe_open", "load_file"}
OPENS |= {"read_json"}
# Files of the source that open others by themselves, and whose files these are: no contestant's
OPEN_THEIR_OWN = {
    "ratchet/arena/model_process/page_cache.py": "libraries and the system's",
    "ratchet/arena/model_process/rooms.py": "copies of what the referee has taken",
    "ratchet/referee/libraries/mirror.py": "libraries",
    "ratchet/referee/libraries/selection.py": "libraries",
    "prepare.py": "the arena's",
    "ratchet/arena/definition.py": "the arena's",
    "ratchet/arena/files.py": "the one function; what it writes, what others name as trusted",
    "ratchet/arena/hardware/cpu.py": "the kernel's",
    "ratchet/arena/hardware/device.py": "the kernel's",
    "ratchet/arena/hardware/quota.py": "the kernel's",
    "ratchet/arena/hardware/weights.py": "the contestant itself, of its weights",
    "ratchet/arena/log.py": "the contestant itself, of its curve",
    "ratchet/arena/model_process/process.py": "the model itself, of its log",
    "ratchet/arena/run.py": "the contestant itself, of its tokens and its source",
    "ratchet/arena/score.py": "the arena's rows; weights after the referee has taken them away",
    "ratchet/arena/text/hub.py": "the arena's",
    "ratchet/arena/text/readers.py": "the user's text",
    "ratchet/arena/text/rows.py": "the arena's",
    "ratchet/arena/tokenizer.py": "the arena's",
    "ratchet/commits.py": "git's",
    "ratchet/executors/slurm.py": "of a job: Ratchet's own",
    "ratchet/executors/travel.py": "the arena's",
    "ratchet/experiments/ledger.py": "the ledger",
    "ratchet/experiments/running.py": "locks",
    "ratchet/experiments/seal.py": "Ratchet's own source",
    "ratchet/experiments/sources.py": "a train.py that the user names",
    "ratchet/model/decode_process.py": "the model itself, in its sandbox",
    "ratchet/model/export.py": "the arena's tokenizer; what it writes",
    "ratchet/model/links.py": "the user's, Ratchet's own",
    "ratchet/model/modelling.py": "PyTorch's source",
    "ratchet/model/sample.py": "the arena's",
    "ratchet/model/scaling.py": "the arena's",
    "ratchet/night/agent.py": "Ratchet's own: what it asked, what it logged",
    "ratchet/night/contract.py": "the user's",
    "ratchet/night/detached/starting.py": "the log of a command that it starts",
    "ratchet/night/detached/waiting.py": "the same log",
    "ratchet/night/driver.py": "no file: its queue",
    "ratchet/night/journal.py": "the journal",
    "ratchet/night/programs/home.py": "the user's settings, without links",
    "ratchet/night/programs/installation.py": "the user's programs",
    "ratchet/night/prompt.py": "the user's program.md",
    "ratchet/referee/devices/cores.py": "the kernel's",
    "ratchet/referee/devices/lock.py": "locks",
    "ratchet/referee/devices/memory.py": "the kernel's",
    "ratchet/referee/devices/nvidia.py": "the kernel's",
    "ratchet/referee/devices/unmapped.py": "the kernel's",
    "ratchet/referee/foreign_load.py": "the kernel's",
    "ratchet/referee/sandbox.py": "what it tries to open, to see whether it may",
    "ratchet/referee/supervisor.py": "the kernel's; the log that it writes",
    "ratchet/referee/tokens/private_copy.py": "the arena's",
    "ratchet/referee/tokens/stream.py": "the arena's",
    "ratchet/report/data.py": "measurements of Ratchet's own",
    "ratchet/report/decoding.py": "the same",
    "ratchet/report/render.py": "the page's own",
}
# of files that a contestant may have written
NAMES = {"curve.jsonl", "config.json", "model.safetensors", "run.json", "result.json", "run.log"}
NAMES |= {"score.log", "test.json"}
# where these are opened all the same
TAKE_PART = {"ratchet/arena/log.py", "ratchet/arena/score.py", "ratchet/model/decode_process.py"}


def open_calls(path):
    """(line, source) of each call that opens a file by its path."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in OPENS:
                yield node.lineno, ast.unparse(node)


def test_files_of_a_contestant_are_opened_by_one_function():
    """A new place that opens files says here whose they are, or takes read_untrusted()."""
    opening = set()
    for path in [ROOT / "prepare.py", *(ROOT / "ratchet").rglob("*.py")]:
        name = str(path.relative_to(ROOT))
        calls = [*open_calls(path)]
        opening |= {name} if calls else set()
        for line, call in calls:
            writes = any(mode in call for mode in ("'w'", "'wb'", "'ab'"))
            theirs = [each for each in NAMES if f"'{each}'" in call]
            assert not theirs or writes or name in TAKE_PART, (name, line, call)
    assert opening <= OPEN_THEIR_OWN.keys(), opening - OPEN_THEIR_OWN.keys()
    assert OPEN_THEIR_OWN.keys() <= opening, OPEN_THEIR_OWN.keys() - opening


def lay_link(path):
    path.with_name("secret").write_text('{"seconds": 1, "tokens": 2, "loss": 3}\n', "utf-8")
    path.symlink_to(path.with_name("secret"))


def lay_second_name(path):
    path.with_name("secret").write_text('{"seconds": 1, "tokens": 2, "loss": 3}\n', "utf-8")
    os.link(path.with_name("secret"), path)


def lay_sparse_file(path):
    with open(path, "wb") as file:
        file.truncate(24 * 2**30)  # it takes no disk


KINDS = {
    "pipe": os.mkfifo,
    "link": lay_link,
    "second name": lay_second_name,
    "sparse": lay_sparse_file,
    "folder": os.mkdir,
    "device": lambda path: os.symlink("/dev/zero", path),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_file_stops_who_reads_it(tmp_path, kind):
    KINDS[kind](path := tmp_path / "curve.jsonl")
    with pytest.raises(OSError, match=r"."):
        read_untrusted(path)
    assert early_stopping.read_curve(path) == ([], 0)
    assert supervisor.read_tail(path) == []
    assert read_architecture(path) == ""


def test_what_grows_while_it_is_read_is_read_to_its_bound(tmp_path, monkeypatch):
    (path := tmp_path / "curve.jsonl").write_bytes(b"x" * 10)
    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", lambda number: (fstat(number), path.write_bytes(b"x" * 99))[0])
    assert read_untrusted(path, 20) == b"x" * 20
    with pytest.raises(OSError, match="it has 99 bytes, 20 are allowed"), open_untrusted(path, 20):
        pass


def test_a_long_line_is_no_point_of_a_curve(tmp_path, monkeypatch):
    good = {"seconds": 5, "tokens": 9, "loss": 3}
    long = good | {"more": "x" * early_stopping.LINE_BYTES}
    text = "".join(json.dumps(line) + "\n" for line in (long, good))
    (path := tmp_path / "curve.jsonl").write_text(text, encoding="utf-8")
    assert early_stopping.read_curve(path) == ([(5.0, 9.0, 3.0)], len(text))
    monkeypatch.setitem(limits.ARTIFACT_BYTES, "curve.jsonl", len(text) - 1)
    assert early_stopping.read_curve(path) == ([], 0)
