"""Arenas of others, homes that are none, cores that are few, constants that changed, progress."""

import errno
import io
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import ROOT, write_corpus
from rich.console import Console

from prepare import main, prepare
from ratchet.arena.budget import Budget, parse_budget
from ratchet.arena.definition import ARENAS, FILES, load_arena
from ratchet.arena.files import Refused, cache_folder, describe_error, work_folder, write_json
from ratchet.arena.hardware.cpu import limit_threads, processor_flags, usable_cores
from ratchet.arena.hardware.device import fastest_dtype
from ratchet.arena.hardware.quota import cgroup_quota
from ratchet.arena.progress import format_duration, reading_line
from ratchet.arena.text.child import run_in_child
from ratchet.arena.text.corpus import WORKERS, Corpus, stream_documents
from ratchet.referee.devices.lock import hold_device
from ratchet.referee.devices.memory import free_memory
from ratchet.referee.environment import inherited_environment

# --------------------------------------------------------------------------------------------------
# Folders


def test_a_prepared_arena_is_used_without_a_lock_or_any_writing(arena, monkeypatch):
    (arena.folder / ".lock").unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in (arena.folder, *arena.folder.iterdir())}

    def read_only(path, mode="r", *args, **kwargs):
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return open(path, mode, *args, **kwargs)

    monkeypatch.setattr("prepare.open", read_only, raising=False)
    monkeypatch.setattr(Path, "mkdir", lambda path, **options: read_only(path, "w"))
    again = prepare("tiny", source=str(arena.corpus), context=64, vocab_size=512)
    assert again.seal == arena.seal == load_arena(arena.folder, *FILES).seal
    assert before == {
        path: path.stat().st_mtime_ns for path in (arena.folder, *arena.folder.iterdir())
    }


def test_an_arena_half_prepared_by_somebody_else_is_refused_by_its_folder(
    arena, tmp_path, monkeypatch, refusal
):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))
    (tmp_path / "tiny").mkdir()

    def denied(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("prepare.open", denied, raising=False)
    sentence = refusal(prepare, "tiny", source=str(arena.corpus))
    assert f"{tmp_path}/tiny/.lock can't be used (Permission denied)" in sentence
    assert "RATCHET_CACHE" in sentence and str(arena.corpus) not in sentence


def test_a_home_that_is_none_is_refused_by_the_variable(monkeypatch, refusal):
    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("RATCHET_CACHE")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    sentence = refusal(prepare, "pocket")
    assert "HOME" in sentence and "RATCHET_CACHE" in sentence
    with pytest.raises(Refused, match="HOME is not set.*RATCHET_CACHE"):
        cache_folder()


def test_a_device_is_held_though_the_arenas_can_only_be_read(tmp_path, monkeypatch):
    (cache := tmp_path / "cache").mkdir()
    monkeypatch.setenv("RATCHET_CACHE", str(cache / "deeper"))
    monkeypatch.setattr("ratchet.arena.files.SHARED_TEMPORARY", tmp_path)
    assert work_folder() == cache / "deeper"
    monkeypatch.setattr("os.access", lambda path, mode: path != cache)
    with hold_device("cpu"):
        assert list((tmp_path / f"ratchet-{os.getuid()}").glob(".device-*")) and not list(
            cache.iterdir()
        )


@pytest.mark.parametrize("kind", ["open to others", "a link", "a file"])
def test_a_work_folder_that_somebody_else_made_is_refused(kind, tmp_path, monkeypatch):
    """Whoever owns it could put a judge of their own into it."""
    monkeypatch.setattr("ratchet.arena.files.SHARED_TEMPORARY", tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    folder = tmp_path / f"ratchet-{os.getuid()}"
    if kind == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "a file":
        folder.touch(mode=0o600)
    else:
        folder.mkdir(mode=0o755)
    with pytest.raises(Refused, match="is not yours alone: .*RATCHET_CACHE"):
        work_folder()


def test_a_home_that_is_no_folder_is_refused_by_its_name(arena, tmp_path, monkeypatch, refusal):
    monkeypatch.delenv("RATCHET_CACHE")
    (tmp_path / "home").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    sentence = refusal(prepare, "mine", source=str(arena.corpus))
    assert f"{tmp_path}/home/.cache" in sentence and "RATCHET_CACHE" in sentence
    assert str(arena.corpus) not in sentence


# --------------------------------------------------------------------------------------------------
# Locales


def test_a_locale_without_umlauts_changes_no_seal_and_local_files_leave_the_home_alone(
    tmp_path, monkeypatch
):
    write_corpus(tmp_path / "c.jsonl", 50)
    text, home, cache = tmp_path / "größe ☃", tmp_path / "home", tmp_path / "cäche"
    text.mkdir()
    home.mkdir()
    texts = [json.loads(line)["text"] for line in (tmp_path / "c.jsonl").read_bytes().splitlines()]
    (text / "naïve 漢字.txt").write_bytes("\n\n".join(texts).encode())
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))
    }
    environment |= {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    environment |= {"HOME": str(home), "RATCHET_CACHE": str(cache)}
    command = [sys.executable, ROOT / "prepare.py", "--text", text, "--arena", "mine"]
    command += ["--vocab-size", "300", "--context", "64"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=100)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "utf-8"))
    arena = prepare("mine", source=str(text), vocab_size=300, context=64)
    assert (cache / "mine/arena.json").read_bytes() == (arena.folder / "arena.json").read_bytes()
    assert arena.source == "größe ☃" and not [*home.rglob("*")]


# --------------------------------------------------------------------------------------------------
# Cores


def groups(folder, member, files):
    """(folder of control groups, file that names this process's) with these files."""
    for name, text in files.items():
        (folder / "fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "fs/cgroup" / name).write_text(text, encoding="utf-8")
    (folder / "member").write_text(member, encoding="utf-8")
    return folder / "fs/cgroup", folder / "member"


V1 = "cpu.cfs_quota_us", "cpu.cfs_period_us"
QUOTAS = {
    "none": ("0::/\n", {}, math.inf),
    "v2": ("0::/a/b\n", {"a/b/cpu.max": "250000 100000\n", "a/cpu.max": "max 100000\n"}, 2.5),
    "v2, of the parent": (
        "0::/a/b\n",
        {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"},
        0.5,
    ),
    "v1": (
        "5:cpuset:/a\n4:cpu,cpuacct:/a\n1:name=systemd:/b\n",
        {f"cpu,cpuacct/a/{V1[0]}": "300000\n", f"cpu,cpuacct/a/{V1[1]}": "100000\n"},
        3.0,
    ),
    "v1, in a container": (
        "4:cpu,cpuacct:/docker/0123\n",
        {f"cpu,cpuacct/{V1[0]}": "150000\n", f"cpu,cpuacct/{V1[1]}": "100000\n"},
        1.5,
    ),
    "v1, no limit": (
        "4:cpu:/a\n",
        {f"cpu/a/{V1[0]}": "-1\n", f"cpu/a/{V1[1]}": "100000\n"},
        math.inf,
    ),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_the_quota_of_control_groups_is_read_along_their_path(name, tmp_path, monkeypatch):
    member, files, expected = QUOTAS[name]
    for name, path in zip(("CGROUPS", "MEMBERSHIPS"), groups(tmp_path, member, files)):
        monkeypatch.setattr(f"ratchet.arena.hardware.quota.{name}", path)
    assert cgroup_quota() == expected


MEMORIES = {
    "none": ("0::/\n", {}, 8e9),
    "v2": (
        "0::/a/b\n",
        {
            "a/b/memory.max": "max\n",
            "a/memory.max": "5000\n",
            "a/memory.current": "3000\n",
            "a/memory.stat": "anon 1000\ninactive_file 1500\n",
        },
        3500,
    ),
    "v1": (
        "4:memory:/a\n",
        {
            "memory/a/memory.limit_in_bytes": "5000\n",
            "memory/a/memory.usage_in_bytes": "6000\n",
            "memory/a/memory.stat": "inactive_file 9\ntotal_inactive_file 0\n",
        },
        0,
    ),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_is_free_that_control_groups_grant(name, tmp_path, monkeypatch):
    member, files, expected = MEMORIES[name]
    for name, path in zip(("CGROUPS", "MEMBERSHIPS"), groups(tmp_path, member, files)):
        monkeypatch.setattr(f"ratchet.arena.hardware.quota.{name}", path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8e9))
    assert free_memory() == expected


@pytest.mark.parametrize(
    "granted, asked, threads", [(1.5, "", "1"), (0.5, "", "1"), (1.5, "3", "3"), (4, "", None)]
)
def test_a_contestant_knows_of_a_quota_that_its_sandbox_hides(granted, asked, threads, monkeypatch):
    monkeypatch.setattr("ratchet.referee.environment.cpu_quota", lambda: granted)
    monkeypatch.setattr("ratchet.referee.environment.cores_of", lambda device: {0, 1, 2, 3})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert inherited_environment().get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize(
    "allowed, quota, slurm, expected",
    [
        (8, math.inf, {}, 8),
        (8, 2.5, {}, 2),
        (8, 0.5, {}, 1),
        (8, math.inf, {"PER_TASK": "4"}, 4),
        (8, math.inf, {"ON_NODE": "6"}, 6),
        (2, 6.0, {"PER_TASK": "4", "ON_NODE": "64"}, 2),
    ],
)
def test_usable_cores_are_those_of_the_smallest_grant(allowed, quota, slurm, expected, monkeypatch):
    for name in ("PER_TASK", "ON_NODE"):
        monkeypatch.delenv(f"SLURM_CPUS_{name}", raising=False)
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_CPUS_{name}", value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {*range(allowed)}, raising=False)
    monkeypatch.setattr("ratchet.arena.hardware.quota.cgroup_quota", lambda: quota)
    assert usable_cores() == expected


@pytest.mark.parametrize(
    "flags, expected",
    [("avx2 avx512f", "float32"), ("avx512f avx512_bf16", "bfloat16"), ("amx_bf16", "bfloat16")],
)
def test_the_faster_type_is_what_the_processor_has_not_what_a_clock_says(
    flags, expected, tmp_path, monkeypatch
):
    text = f"processor : 0\nflags\t\t: fpu {flags}\n\nprocessor : 1\nflags\t\t: none\n"
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr("ratchet.arena.hardware.cpu.Path", lambda path: tmp_path / "cpuinfo")
    monkeypatch.setattr(time, "perf_counter", None)  # no clock is asked
    assert fastest_dtype(torch.device("cpu")) == expected
    assert processor_flags() == {"fpu", *flags.split()}


@pytest.mark.parametrize("explicit, expected", [("", 1), ("7", 3)])
def test_threads_follow_the_cores_unless_somebody_asked_for_others(explicit, expected, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", explicit)
    monkeypatch.setenv("RAYON_NUM_THREADS", "")
    monkeypatch.delenv("RAYON_NUM_THREADS")
    monkeypatch.setattr("ratchet.arena.hardware.cpu.usable_cores", lambda: 1)
    try:
        torch.set_num_threads(3)
        limit_threads()
        assert torch.get_num_threads() == expected and os.environ["RAYON_NUM_THREADS"] == "1"
    finally:
        torch.set_num_threads(before)


def test_preparing_starts_as_many_workers_as_there_are_usable_cores(arena, tmp_path, monkeypatch):
    counts, pool = [], WORKERS.Pool
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))
    monkeypatch.setattr("ratchet.arena.text.rows.usable_cores", lambda: 1)
    monkeypatch.setattr(
        WORKERS, "Pool", lambda count, *args: counts.append(count) or pool(count, *args)
    )
    again = prepare("tiny", source=str(arena.corpus), context=64, vocab_size=512)
    assert counts == [1] and again.seal == arena.seal


# --------------------------------------------------------------------------------------------------
# Constants


@pytest.mark.parametrize(
    "name, value",
    [
        ("SPLIT", r"\w+|\W"),
        ("SPECIALS", ["<|bos|>"]),
        ("TOKENIZER_CHARACTERS", 5),
        ("OWN_SHARE", 0.1),
    ],
)
def test_an_arena_of_another_constant_is_refused_by_its_name(
    name, value, arena, monkeypatch, refusal
):
    monkeypatch.setattr(f"ratchet.arena.definition.{name}", value)
    sentence = refusal(prepare, "tiny")
    assert (
        f"another {name} " in sentence
        and str(arena.folder) in sentence
        and "prepare the arena again" in sentence
    )


def test_an_arena_of_the_house_is_refused_when_its_sizes_have_changed(
    arena, tmp_path, monkeypatch, refusal
):
    facts = json.loads((arena.folder / "arena.json").read_bytes()) | ARENAS["climbmix"]
    write_json(tmp_path / "arena.json", facts | {"name": "climbmix", "source": "climbmix:3"})
    assert load_arena(tmp_path).context == 2048
    monkeypatch.setitem(ARENAS["climbmix"], "context", 1024)
    assert "another context " in refusal(load_arena, tmp_path)


@pytest.mark.parametrize("name, value", [("SPLIT", r"\w+|\W"), ("SPECIALS", ["<|bos|>"])])
def test_an_arena_made_before_constants_were_noted_is_compared_by_its_tokenizer(
    name, value, arena, tmp_path, monkeypatch, refusal
):
    facts = json.loads((arena.folder / "arena.json").read_bytes())
    del facts["constants"]
    write_json(tmp_path / "arena.json", facts)
    (tmp_path / "tokenizer.json").write_bytes((arena.folder / "tokenizer.json").read_bytes())
    assert load_arena(tmp_path, "tokenizer.json").vocab_size == 512
    monkeypatch.setattr(f"ratchet.arena.definition.{name}", value)
    assert f"another {name} " in refusal(load_arena, tmp_path, "tokenizer.json")


def test_an_interrupted_preparation_does_not_go_on_with_another_split(arena, tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))

    def broken(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ratchet.arena.tokenizer.SPLIT", r"\w+|\W")
        patch.setattr("ratchet.arena.definition.SPLIT", r"\w+|\W")
        patch.setattr("prepare.tokenize_corpus", broken)
        with pytest.raises(KeyboardInterrupt):
            prepare("tiny", source=str(arena.corpus), context=64, vocab_size=512)
    assert (tmp_path / "tiny/tokenizer.json").exists()
    assert prepare("tiny", source=str(arena.corpus), context=64, vocab_size=512).seal == arena.seal


# --------------------------------------------------------------------------------------------------
# Progress


def test_progress_is_a_plain_line_now_and_then_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr("ratchet.arena.progress.PLAIN_SECONDS", 0.01)
    steps = iter(range(1, 10**6))
    with reading_line("reading [/x]", lambda: (1000 * (n := next(steps)), 1e6 * n, 9e9)):
        while next(steps) < 100:
            time.sleep(0.02)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1 and lines[0].startswith("reading [/x]: ")
    assert all(
        " documents, " in line and " of 9,000.0 MB, " in line and " left" in line for line in lines
    )


def test_progress_is_a_live_line_in_a_terminal(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100, markup=False)
    monkeypatch.setattr("ratchet.arena.progress.console", terminal)
    monkeypatch.setattr("ratchet.arena.progress.LIVE_SECONDS", 0.01)
    with reading_line("reading", lambda: (5, 2e6, 0)):
        time.sleep(0.3)
    text = terminal.file.getvalue()
    assert "reading: 5 documents, 2.0 MB, 0 s so far" in text and text.endswith("\x1b[2K")


def test_progress_ends_with_what_it_shows():
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), reading_line("reading", lambda: (0, 0, 0)):
        assert set(threading.enumerate()) != before
        raise KeyboardInterrupt
    assert set(threading.enumerate()) <= before


def test_a_child_counts_for_its_parent_and_its_end_is_that_of_the_program(refusal):
    corpus = Corpus("pocket")
    run_in_child("reading", lambda: (*corpus.seen, 0), count_documents, corpus)
    assert corpus.seen[0] > 1000 and corpus.seen[1] > 1e7
    assert "reading: its process was killed (signal 9)" in refusal(
        run_in_child, "reading", lambda: (0, 0, 0), kill_oneself
    )


def count_documents(corpus):
    for _ in stream_documents(corpus):
        pass


def kill_oneself():
    os.kill(os.getpid(), 9)


def test_an_error_of_several_lines_keeps_its_remedy():
    assert (
        describe_error(ValueError("no config\nchoose one of\n\t['a', 'b']"))
        == "no config choose one of ['a', 'b']"
    )
    assert (
        describe_error(ValueError()) == "ValueError"
        and len(describe_error(ValueError("x" * 9999))) == 500
    )


def test_a_split_that_is_none_of_a_score_is_refused(tmp_path, monkeypatch, refusal):
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["prepare.py", "score", str(tmp_path), "--split", "train"])
    assert "say val or test" in refusal(main)
    assert Path(tmp_path / "run.json").read_text(encoding="utf-8") == "{}"


def test_no_rows_at_a_time_are_refused(tmp_path, monkeypatch, refusal):
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["prepare.py", "score", str(tmp_path), "--batch", "-1"])
    assert "--batch -1 scores no row" in refusal(main)


# --------------------------------------------------------------------------------------------------
# Budgets


@pytest.mark.parametrize(
    "text, amount, unit, again",
    [
        ("300s", 300.0, "s", "300s"),
        ("0.5s", 0.5, "s", "0.5s"),
        ("20e6tok", 20e6, "tok", "20000000tok"),
        ("1.5e18flop", 1.5e18, "flop", "1.5e18flop"),
    ],
)
def test_a_budget_is_read_and_written_in_one_grammar(text, amount, unit, again):
    budget = parse_budget(text)
    assert budget == Budget(amount, unit) == parse_budget(str(budget)) and str(budget) == again
    assert budget.seconds == (amount if unit == "s" else None)


def test_the_share_of_a_budget_is_counted_in_its_unit():
    assert Budget(10, "s").share_used(5, 1, 1) == 0.5
    assert Budget(10, "tok").share_used(1, 5, 1) == 0.5
    assert Budget(10, "flop").share_used(1, 5, 2) == 1


def test_durations_are_short():
    assert [*map(format_duration, (8.2, 720, 7600))] == ["8 s", "12 min", "2.1 h"]
