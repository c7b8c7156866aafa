"""The referee: one run watched from outside, and what it does with processes, logs and files."""

import ast
import dataclasses
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import ROOT, make_repository

from ratchet.arena.definition import find_arena
from ratchet.arena.files import Refused, cache_folder
from ratchet.arena.hardware.quota import cpu_quota
from ratchet.arena.results import write_run_record
from ratchet.executors import open_executor
from ratchet.experiments import sources
from ratchet.referee import (
    compiler_cache,
    foreign_load,
    limits,
    sandbox,
    scoring,
    supervisor,
    trial,
)
from ratchet.referee.devices import cores
from ratchet.referee.devices.choice import choose_device, describe_device
from ratchet.referee.devices.cores import cores_of, pinned_to
from ratchet.referee.devices.lock import hold_device
from ratchet.referee.folders import copy_regular_files, remove_folder
from ratchet.referee.job import Job
from ratchet.referee.source import fingerprint
from ratchet.untrusted_text import clean_text


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch):
    """Tests share their machine with other programs."""
    monkeypatch.setattr(
        "ratchet.referee.limits.FOREIGN_CPU_SHARE", dict.fromkeys(limits.FOREIGN_CPU_SHARE, 99.0)
    )


def job(tmp_path, **more):
    source = sources.read_source(ROOT / "tests/contestant.py", files=True)
    arena = find_arena("tiny")
    job = Job(source, 7, "20000tok", arena, tmp_path / "run", tmp_path / "compiled")
    return job._replace(**more)


def test_a_run_is_watched_and_scored(arena, tmp_path):
    facts = trial.run_trial(job(tmp_path, budget="1s"))
    assert facts["status"] == "ok", facts
    assert facts["isolation"] == sandbox.best_level() and facts["seed"] == 7 and not facts["shared"]
    assert facts["val"]["bytes"] == arena.val_bytes and all(
        passed for passed, _ in facts["val"]["probes"].values()
    )
    assert 0.9 < facts["seconds"]["train"] < 1.25 and {"start", "rehearsal", "score"} <= {
        *facts["seconds"]
    }
    assert facts["params"] == 16 * 512 * 2 + 512 and facts["tokens"] == facts["steps"] * 8 * 64
    assert 100 < facts["peak_memory_mb"] < 4000 and 100 < facts["score_memory_mb"] < 4000
    files = ("model.safetensors", "config.json", "train.py")
    sizes = [(tmp_path / "run" / name).stat().st_size for name in files]
    assert facts["file_bytes"] == sum(sizes) > 16 * 512 * 2
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {
        "train.py",
        "config.json",
        "model.safetensors",
        "run.json",
        "result.json",
        "run.log",
        "score.log",
    }
    assert not [*(cache_folder() / ".live").iterdir()]
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"memory_gb": 0.05}, r"its memory_gb is 0\.\d+ GB: at most 0.05"),
        ({"memory_gb": 50, "params_m": 0.016}, r"its params_m is 0.016896 M: at most 0.016"),
    ],
)
def test_a_run_beyond_a_limit_is_not_trained(arena, tmp_path, limits, reason):
    facts = trial.run_trial(job(tmp_path, budget="60s", limits=limits))
    assert facts["status"] == "overlimit" and re.search(reason, facts["reason"]), facts
    assert "train" not in facts["seconds"] and "val" not in facts
    assert facts["params"] == 16_896 and facts["file_bytes"] > 4 * facts["params"]
    status, why, _ = trial.preflight(job(tmp_path, limits=limits))
    assert status == "overlimit" and re.search(reason, why)


@pytest.mark.slow
def test_a_limit_that_nobody_can_measure_here_is_not_passed(arena, tmp_path):
    facts = trial.run_trial(job(tmp_path, budget="20000tok", limits={"joules": 1e9}))
    assert facts["status"] == "invalid" and "joules could not be measured" in facts["reason"], facts


def test_large_weights_and_slow_models_get_longer_to_be_scored(arena, tmp_path):
    def limit(weights=0, tokens=0.0, seconds=1.0):
        with open(tmp_path / "model.safetensors", "wb") as file:
            file.truncate(weights)  # a hole: it takes no disk
        write_run_record(tmp_path, {"tokens": tokens, "train_seconds": seconds})
        return scoring.score_limit(arena, "val", tmp_path)

    scored, usual = arena.val_rows * arena.context, 90 + 120 + arena.seconds / 2
    assert limit(tokens=1e12) == pytest.approx(usual)
    assert limit(tokens=1e12, weights=2**32) == pytest.approx(usual + 3 * 64)
    assert limit(tokens=scored, seconds=100.0) == pytest.approx(usual + 200)
    assert limit(tokens=0) == usual + 4 * arena.seconds, "what it says of its tokens has a bound"


def test_weights_are_bounded_by_what_their_arena_can_fill(arena):
    """What a process can tell another one by reading some pages of them is bounded, too."""
    large = dataclasses.replace(arena, train_tokens=10**9)
    assert limits.weight_bytes(arena) == 2**30
    assert limits.weight_bytes(large) == 16 * 10**9
    assert limits.weight_bytes(dataclasses.replace(arena, train_tokens=10**12)) == 2**35


def test_threads_parse_one_after_the_other(monkeypatch):
    """Else CPython raises a SystemError now and then, hardly ever in a test."""
    parse, active, most = ast.parse, [], []

    def watched(text):
        active.append(text)
        most.append(len(active))
        time.sleep(0.01)
        tree = parse(text)
        active.pop()
        return tree

    monkeypatch.setattr(ast, "parse", watched)
    with ThreadPoolExecutor(4) as pool:
        sources = {*pool.map(lambda _: fingerprint(SOURCE)["source"], range(8))}
    assert len(sources) == 1 and max(most) == 1


def test_a_tail_names_no_folder_of_the_machine(tmp_path):
    (log := tmp_path / "run.log").write_text(
        f'File "{tmp_path}/code/train.py"\nFile "{sys.prefix}/lib/x.py"\n{Path.home()}/y https://a.b\n',
        encoding="utf-8",
    )
    assert supervisor.read_tail(log) == [
        'File "./code/train.py"',
        'File "python/lib/x.py"',
        "~/y https://a.b",
    ]
    assert supervisor.read_tail(tmp_path / "none") == []


def test_kept_caches_are_whole_and_go_when_they_are_not_used(arena, tmp_path, monkeypatch):
    mine, arrived = job(tmp_path, is_baseline=True), threading.Barrier(2)
    mine.live_folder.joinpath("cache").mkdir(parents=True)
    mine.live_folder.joinpath("cache/kernel").write_text("code", encoding="utf-8")
    names = {compiler_cache.cache_name(mine.source.describe_source()["file"]), "baseline"}
    for name in ("old", "baseline"):
        mine.compiled.joinpath(name).mkdir(parents=True)
        os.utime(mine.compiled / name, (0, 0))

    def together(*words):
        arrived.wait()
        copy(*words)
        arrived.wait()

    copy = copy_regular_files
    monkeypatch.setattr("ratchet.referee.compiler_cache.copy_regular_files", together)
    threads = [
        threading.Thread(target=compiler_cache.keep_compiler_cache, args=(mine,)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in mine.compiled.iterdir()} == names
    assert (
        mine.compiled / compiler_cache.cache_name(mine.source.describe_source()["file"]) / "kernel"
    ).read_text(encoding="utf-8") == "code"
    remove_folder(mine.live_folder)


@pytest.mark.slow
def test_the_same_seed_and_tokens_give_the_same_score(arena, tmp_path):
    first, second = (trial.run_trial(job(tmp_path, splits=("val", "test"))) for _ in range(2))
    assert (
        first["val"]["nats"] == second["val"]["nats"]
        and first["test"]["nats"] == second["test"]["nats"]
    )
    assert first["test"]["bytes"] == arena.test_bytes != arena.val_bytes


def test_a_changed_arena_is_refused(arena, tmp_path, monkeypatch):
    copy = tmp_path / "cache/tiny"
    shutil.copytree(arena.folder, copy)
    monkeypatch.setenv("RATCHET_CACHE", str(copy.parent))
    assert find_arena("tiny").seal == arena.seal
    with open(copy / "val.rows", "r+b") as file:
        file.write(b"\x05\x05")
    with pytest.raises(Refused, match=r"val\.rows is not what was prepared"):
        find_arena("tiny")
    with pytest.raises(Refused, match=r"prepare\.py --arena nowhere"):
        find_arena("nowhere")


SOURCE = b'"""Doc."""\nx = 1  # why\n\n\ndef f(a):\n    "Doc."\n    return a\n'


def test_layout_and_comments_make_no_new_source():
    same = b"x = 1\ndef f(a):\n\n  return (a)\n"
    # a docstring that goes leaves `pass`: still the same as any other docstring
    assert (
        fingerprint(SOURCE)["source"] == fingerprint(SOURCE.replace(b"why", b"because"))["source"]
    )
    assert (
        fingerprint(SOURCE)["source"]
        == fingerprint(SOURCE.replace(b"Doc.", b"Other words."))["source"]
    )
    assert (
        fingerprint(same)["source"]
        == fingerprint(b"x = 1\ndef f(a):\n    return a  # it\n")["source"]
    )
    assert fingerprint(SOURCE)["source"] != fingerprint(SOURCE.replace(b"1", b"2"))["source"]
    assert fingerprint(b"x = (")["size"] == 5  # no Python: characters are counted
    assert fingerprint(b"f('')")["size"] + 20 < fingerprint(b"f('" + b"x = 1;" * 99 + b"')")["size"]


def test_less_code_is_a_smaller_source():
    assert fingerprint(b"a = f(1, 2)\n")["size"] < fingerprint(b"a = f(1, 2, 3)\n")["size"]
    assert fingerprint(b"a = 1\n")["size"] == fingerprint(b"# words\n\na = 1  # more\n")["size"]


def test_a_log_cannot_speak_to_the_terminal():
    dirty = b"a\x1b[31mred\x1b[0m\x1b]0;title\x07 \x08\x00b\rc\x9b\xff\n\ttab \xe2\x80\xae"
    assert clean_text(dirty) == "ared b\nc\ufffd\ufffd\n\ttab "


@pytest.mark.parametrize(
    "value, seen", [(3, 3), (2.5, 2.5), (-1, 0), (float("nan"), 0), ("7", 0), (True, 0), (1e30, 0)]
)
def test_what_a_contestant_tells_is_a_number_or_nothing(value, seen):
    assert scoring.number_or_zero(value) == seen


def watched(tmp_path, code, **environment):
    argv = [sys.executable, "-I", "-S", "-c", code]
    return supervisor.WatchedProcess(
        argv, os.environ | environment, tmp_path, tmp_path / "log", "no mark"
    )


def test_messages_without_end_keep_no_deadline_off(tmp_path):
    ours, theirs = socket.socketpair()
    with ours, theirs, watched(tmp_path, "import time; time.sleep(60)") as process:
        theirs.sendall(b"{}\n" * 9)
        with pytest.raises(supervisor.EndedEarly, match="it was too late"):
            process.receive_message(ours, -1.0, "it was too late")


@pytest.mark.parametrize(
    "limit, value, code, status",
    [
        ("LOG_BYTES", 1000, "while True: print('x' * 100)", "output"),
        ("MEMORY_SHARE", 0.001, "x = b'1' * 10**8; import time; time.sleep(60)", "memory"),
        (
            "MOST_PROCESSES",
            2,
            "import os, time; [os.fork() for _ in range(3)]; time.sleep(60)",
            "processes",
        ),
        ("LEAST_DISK_BYTES", 2**62, "import time; time.sleep(60)", "disk"),
        ("POLL_SECONDS", 0.05, "import time; time.sleep(60)", "timeout"),
    ],
)
def test_what_takes_too_much_is_stopped(tmp_path, monkeypatch, limit, value, code, status):
    monkeypatch.setattr(limits, limit, value)
    with watched(tmp_path, code) as process, pytest.raises(supervisor.EndedEarly) as end:
        process.wait(5 if status != "timeout" else 0.3)
    assert end.value.status == status
    assert process.popen.returncode is not None and process.list_processes() == []


def test_nothing_outlives_its_run(tmp_path):
    """A grandchild in a session of its own, whose parent is gone, is found by its mark."""
    daemon = "import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork(): os._exit(0)\n time.sleep(99)"
    with watched(tmp_path, daemon, RATCHET_RUN="no mark") as process:
        process.wait(5)
        begin = time.monotonic()
        while len(supervisor.find_marked("no mark")) != 1 and time.monotonic() < begin + 5:
            time.sleep(0.01)
        assert len(supervisor.find_marked("no mark")) == 1
    assert supervisor.find_marked("no mark") == []


SAYS_SO = """
import os, socket, time
channel = socket.socket(fileno=int(os.environ["RATCHET_REFEREE"]))
shared = b"1" * 10**7
for _ in range(20):
    if not os.fork():
        os.setsid()
        time.sleep(60)
channel.sendall(b'{"phase": "score", "steps": 7}\\n')
time.sleep(60)
"""


@contextmanager
def says_that_it_is_done(tmp_path):
    """(process, the referee's end of its socket) of one with forks that share memory."""
    ours, theirs = socket.socketpair()
    program = [sys.executable, "-I", "-S", "-c", SAYS_SO]
    argv = sandbox.confined_command(program, sandbox.View(), sandbox.best_level())
    environment = os.environ | {"RATCHET_REFEREE": str(theirs.fileno())}
    log, mark = tmp_path / "log", "no mark"
    with ours, supervisor.WatchedProcess(argv, environment, tmp_path, log, mark, theirs) as process:
        yield process, ours


def wait_for_weights(process, channel):
    job = SimpleNamespace(clock_seconds=20.0, live_folder=Path(), budget="20s", milestones=())
    return trial.wait_for_weights(job, process, channel, trial.Clock())


def test_nothing_is_done_between_the_last_message_and_the_kill(tmp_path):
    calls = []
    with says_that_it_is_done(tmp_path) as (process, channel):
        sys.setprofile(lambda _, event, what: calls.append((event, getattr(what, "__name__", ""))))
        try:
            assert wait_for_weights(process, channel) == {"phase": "score", "steps": 7}
        finally:
            sys.setprofile(None)
    names = [name for event, name in calls if event == "c_call"]
    last_receive = len(names) - names[::-1].index("recv")
    between = names[last_receive : names.index("killpg", last_receive)]
    assert {*between} <= {"monotonic", "endswith", "splitlines", "close", "clear"}, between


@pytest.mark.parametrize("level", ["bubblewrap", "landlock"])
def test_a_contestants_children_stay_in_its_session(level):
    """So one signal ends them all, without a namespace of their own, too."""
    if not sandbox.level_works(level):
        pytest.skip("it doesn't work on this machine")
    code = "import os\nbefore = os.getsid(0), os.getpgid(0)\n"
    code += "if not os.fork(): os.setsid(); "
    code += "print(before == (os.getsid(0), os.getpgid(0)), flush=True); os._exit(0)\nos.wait()"
    for one_session in (True, False):
        view = sandbox.View(one_session=one_session)
        argv = sandbox.confined_command([*sandbox.PYTHON, "-c", code], view, level)
        done = subprocess.run(argv, capture_output=True, encoding="utf-8")
        assert done.stdout.split() == [str(one_session)], done


def test_slow_looks_delay_neither_a_message_nor_the_kill(tmp_path, monkeypatch):
    """Each look lasts until all is over; before, the message waited for it, and so did the kill."""
    looking, over = threading.Event(), threading.Event()

    def look_for_long(process):
        looking.set()
        over.wait()
        return 0

    monkeypatch.setattr(limits, "MEMORY_SHARE", 0.0)
    monkeypatch.setattr(supervisor, "proportional_bytes", look_for_long)
    with says_that_it_is_done(tmp_path) as (process, channel):
        assert looking.wait(20)
        wait_for_weights(process, channel)
        process.kill()
        assert not supervisor.find_marked("no mark") and process.list_processes() == []
        assert not over.is_set()
        over.set()


def test_a_round_over_shared_memory_goes_on_at_the_next_look(tmp_path, monkeypatch):
    """One process a look here, as the time of each is up at once: the limit still holds."""
    monkeypatch.setattr(limits, "CHECK_SECONDS", 0)
    sizes = {pid: 100 for pid in range(5)}
    processes = [SimpleHashable(pid) for pid in sizes]
    looks = supervisor.Looks(SimpleNamespace(popen=SimpleNamespace(pid=-1)), 350)
    looks.processes = processes
    monkeypatch.setattr(supervisor, "resident_bytes", lambda process: 1000)
    monkeypatch.setattr(supervisor, "highest_bytes", lambda process: 0)
    monkeypatch.setattr(supervisor, "proportional_bytes", lambda process: sizes[process.pid])
    now = iter(range(1000))
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: next(now) // 3))
    rounds = 0
    with pytest.raises(supervisor.EndedEarly, match="of memory"):
        while True:
            looks._check_memory()
            rounds += 1
    assert 1 <= rounds <= len(sizes) and looks.peak_bytes == 500


@dataclass(frozen=True)
class SimpleHashable:
    pid: int


def test_long_environments_are_not_read_to_their_end():
    """What a look for marks reads has a bound for each process."""
    long = {f"A{i}": "=" * 100_000 for i in range(10)}
    near, far = {"RATCHET_RUN": "near"} | long, long | {"RATCHET_RUN": "far"}
    with ExitStack() as stack:
        for environment in (near, far):
            sleeper = subprocess.Popen(["sleep", "60"], env=environment)
            stack.callback(stack.enter_context(sleeper).kill)
        assert len(supervisor.find_marked("near")) == 1
        assert supervisor.find_marked("far") == []


def test_a_device_has_one_run_at_a_time(cache):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom ratchet.referee.devices.lock import hold_device\n"
    code += "with hold_device('cpu'): print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert holder.stdout.readline() == "held\n"
    ends = []
    threading.Timer(0.5, lambda: (ends.append("killed"), holder.kill())).start()
    with hold_device("cpu"):
        assert ends == ["killed"], "the lock dies with the process, and not before"
    holder.communicate()


def test_foreign_load_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("ratchet.referee.limits.FOREIGN_CPU_SHARE", {"cpu": 0.2})
    with watched(tmp_path, "import time; time.sleep(60)") as process:
        load = foreign_load.ForeignLoad("cpu", process)
        load.begin()
        burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        time.sleep(2.2)
        seen = load.measure()
        burner.kill()
        burner.wait()
    assert seen["foreign_cpu"] > 0.5 / psutil.cpu_count() and seen["shared"]


def test_a_run_that_ends_early_is_known_to_have_been_disturbed(tmp_path, monkeypatch):
    """Else `stopped`, for the sake of other programs, would be a verdict."""
    seen = {"foreign_cpu": 0.9, "foreign_gpu": 0, "shared": True}
    process = SimpleNamespace(
        peak_bytes=0,
        list_processes=list,
        popen=SimpleNamespace(pid=-1),
        looks=SimpleNamespace(cpu_seconds=0.0, more=[]),
    )
    monkeypatch.setattr(
        "ratchet.referee.trial.start_contestant", lambda job, level: nullcontext((process, None))
    )
    monkeypatch.setattr("ratchet.referee.trial.keep_compiler_cache", lambda job: None)
    monkeypatch.setattr("ratchet.referee.trial.wait_until_ready", lambda *_: {"rows": 8})
    monkeypatch.setattr("ratchet.referee.trial.hand_over_tokens", lambda *_: None)
    monkeypatch.setattr(
        foreign_load.ForeignLoad, "measure", lambda load: seen if load.start else {}
    )

    job = SimpleNamespace(device="cpu", clock_seconds=20.0, budget="1e6tok", seed=0, limits={})
    job.arena = SimpleNamespace(folder=tmp_path, vocab_size=512, context=64)
    (tmp_path / "train.tokens").write_bytes(bytes(1000))
    for status in ("stopped", "timeout", "crash"):

        def wait_for_weights(*_, **__):
            raise supervisor.EndedEarly(status, "it is slow")  # noqa: B023

        monkeypatch.setattr("ratchet.referee.trial.wait_for_weights", wait_for_weights)
        facts = {"shared": False}
        with pytest.raises(supervisor.EndedEarly):
            trial.compete(job, "none", trial.Clock(), facts)
        assert facts["shared"] == (status != "crash")  # a crash is its own fault


def test_a_run_whose_decoding_was_disturbed_is_disturbed(tmp_path, monkeypatch):
    """Else a busy moment would make a decoder slow."""
    seen = {"foreign_cpu": 0.9, "foreign_gpu": 0, "shared": True}
    process = SimpleNamespace(
        wait=lambda seconds: 0, looks=SimpleNamespace(more=[]), peak_bytes_of_others=2**20
    )
    for name, stand_in in {
        "WatchedProcess": lambda *_: nullcontext(process),
        "score_limit": lambda *_: 1.0,
        "make_rooms": lambda *_: (tmp_path / "rooms").mkdir(exist_ok=True),
        "read_shared_files": lambda level: SimpleNamespace(_asdict=dict),
        "read_result": lambda *_: {"status": "ok"},
    }.items():
        monkeypatch.setattr(scoring, name, stand_in)
    monkeypatch.setattr(
        foreign_load.ForeignLoad, "begin", lambda load: setattr(load, "start", "begun")
    )
    monkeypatch.setattr(
        foreign_load.ForeignLoad, "measure", lambda load: seen if load.start else {}
    )
    job = SimpleNamespace(device="cpu", limits={}, arena=None)
    for decoding in (True, False):
        _, taken = scoring.score_split(job, tmp_path, "none", "val", decoding)
        assert taken == {"score_memory_mb": 1} | (seen if decoding else {})
    calm = {"foreign_cpu": 0.1, "foreign_gpu": 0, "shared": False}
    assert trial.with_foreign_load(calm, {"val": 1} | seen) == {"val": 1} | seen
    assert trial.with_foreign_load(seen, {}) == seen == trial.with_foreign_load(seen, calm)


def test_what_a_contestant_leaves_behind_is_no_other_program(tmp_path):
    """Its children are the referee's when it has ended itself, and stay in its session."""
    code = "import os, time; os._exit(0) if os.fork() else time.sleep(60)"
    with watched(tmp_path, code) as process:
        assert process.wait(20) == 0 and not process.popen.poll()
        load = foreign_load.ForeignLoad("cpu", process)
        left = [
            number
            for number in psutil.pids()
            if load._is_of_session(number) and number != process.popen.pid
        ]
        assert len(left) == 1 and not load._is_of_session(os.getpid())


def test_shares_of_the_cpu_have_cores_of_their_own(halves):
    """What runs in one half is no load for the other, is on its cores, and can't leave them."""
    first, second = map(choose_device, halves)
    assert cores_of(first) and cores_of(first) <= cores_of("cpu") - cores_of(second)
    assert describe_device(first) == describe_device(second) != describe_device("cpu")
    too_many = f"cpu:0/{len(cores.CORES) + 1}"
    for name in ("cpu:2/2", "cpu:0/0", "cpu:0/99999", too_many, "cpu:1", "cpu:00/2", "cpu:0/1"):
        with pytest.raises(Refused, match="cpu:0/2"):
            choose_device(name)
    with hold_device(first):
        burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        assert [*psutil.Process(burner.pid).cpu_affinity()] == sorted(cores_of(first))
    assert os.sched_getaffinity(0) == cores_of("cpu")
    burner.kill()
    burner.wait()


def test_cores_that_are_not_alike_and_quotas_are_told(halves, tmp_path, monkeypatch):
    """Halves with other cores are devices of another kind; a quota can't be shared out."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("ratchet.referee.devices.cores.SYS", tmp_path)
    monkeypatch.setattr("ratchet.arena.hardware.quota.CGROUPS", tmp_path / "fs/cgroup")
    first, second = halves
    plain = describe_device(first)["device"]
    (folder := tmp_path / "devices/cpu_atom").mkdir(parents=True)
    slow = sorted(cores_of(second))
    (folder / "cpus").write_text(f"{slow[0]}-{slow[-1]}\n", encoding="utf-8")
    assert describe_device(first)["device"] == f"{plain} ({len(cores_of(first))} fast)"
    assert describe_device(second)["device"] == f"{plain} ({len(slow)} slow)"
    with pytest.raises(Refused, match="of one kind"):
        open_executor(devices=halves)
    (tmp_path / "fs/cgroup").mkdir(parents=True)
    (tmp_path / "fs/cgroup/cpu.max").write_text("max 100000\n", encoding="utf-8")
    assert choose_device(first) == first and cpu_quota() == math.inf
    (tmp_path / "fs/cgroup/cpu.max").write_text("150000 100000\n", encoding="utf-8")
    assert describe_device("cpu")["device"].endswith(", 1.5 CPUs' time")
    with pytest.raises(Refused, match="1.5 CPUs' time"):
        choose_device(first)


def test_a_contestant_stays_on_the_cores_that_it_is_given(halves):
    """Those of a share, and those that taskset leaves to all of the CPU."""
    code = f"import os; os.sched_setaffinity(0, {cores_of('cpu')})"

    def leaves(name, starts_on):
        program, view = [sys.executable, "-c", code], sandbox.View(device=name)
        with pinned_to(starts_on):
            argv = sandbox.confined_command(program, view, sandbox.best_level())
            return subprocess.run(argv, capture_output=True, encoding="utf-8")

    assert leaves("cpu", "cpu").returncode == 0 or os.cpu_count() > len(cores_of("cpu"))
    for name in ("cpu", halves[0]):
        assert "PermissionError" in leaves(name, halves[0]).stderr


def test_devices_that_share_cores_are_held_by_one_run_at_a_time(halves, arena):
    class Waited(Exception):
        pass

    def wait(seconds):
        raise Waited

    for first, second in (("cpu", halves[1]), (halves[0], "cpu")):
        with hold_device(first), pytest.raises(Waited):
            with hold_device(second, pause=wait):
                pass
    with hold_device(halves[0]), hold_device(halves[1], pause=wait):
        pass


@pytest.mark.parametrize(
    "goes_at_first, goes_at_last, ran_here, foreign",
    [({0, 1}, {0, 1}, 0, 0), ({0}, {0, 1}, 0, 0), ({0, 1}, {0}, 4, 0.4), ({0, 1}, {0, 1}, 4, 0.4)],
)
def test_only_load_on_its_own_cores_is_foreign(
    halves, monkeypatch, goes_at_first, goes_at_last, ran_here, foreign
):
    """A stranger that has run for 1000 seconds runs 10 more, some of them on the share's core."""
    stranger, own = Stranger(98, 1000.0, goes_at_first), Stranger(99, 5.0, {1})
    now, busy = [0.0], {0: 1000.0, 1: 5.0}
    monkeypatch.setattr("ratchet.referee.devices.cores.CORES", [[0], [1]])
    monkeypatch.setattr("ratchet.referee.foreign_load.core_times", lambda: busy)
    monkeypatch.setattr("ratchet.referee.foreign_load.busy_seconds", float)
    monkeypatch.setattr(psutil, "process_iter", lambda: [stranger, own])
    monkeypatch.setattr(
        "ratchet.referee.foreign_load.time", SimpleNamespace(monotonic=lambda: now[0])
    )
    contestant = SimpleNamespace(
        list_processes=lambda: [own],
        popen=SimpleNamespace(pid=-1),
        looks=SimpleNamespace(cpu_seconds=0.0),
    )
    load = foreign_load.ForeignLoad("cpu:1/2", contestant)
    load.begin()
    stranger.spent, stranger.goes = stranger.spent + 10, goes_at_last
    own.spent, now[0] = own.spent + 10 - ran_here, 10.0
    busy.update({0: 1010.0 - ran_here, 1: 15.0})
    assert load.measure()["foreign_cpu"] == pytest.approx(foreign)


def test_threads_of_the_kernel_are_no_other_programs(monkeypatch):
    """A contestant could have its disk written to, by them, until its run doesn't count."""
    writer = SimpleNamespace(ppid=lambda: foreign_load.KERNEL_PARENT)
    for name, is_one in {"kthreadd": True, "bash": False}.items():
        foreign_load.is_kernel_visible.cache_clear()
        parent = SimpleNamespace(name=lambda name=name: name)
        monkeypatch.setattr(psutil, "Process", lambda number, parent=parent: parent)
        assert foreign_load.is_kernel_thread(writer) == is_one
    foreign_load.is_kernel_visible.cache_clear()
    assert not foreign_load.is_kernel_thread(SimpleNamespace(ppid=lambda: 1))


@dataclass
class Stranger:
    pid: int
    spent: float
    goes: set

    def create_time(self):
        return 0.0

    def ppid(self):
        return 1

    def cpu_times(self):
        return (self.spent,)

    def cpu_affinity(self):
        return self.goes


@pytest.mark.slow
def test_the_commands_of_the_readme(arena, tmp_path):
    """A repository of its own, real commands, from doctor to verify."""
    repository = tmp_path / "repository"
    make_repository(repository)

    def ratchet(*words):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "ratchet", *words]
        return subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, encoding="utf-8"
        )

    assert "isolation" in ratchet("doctor").stdout
    calibrated = ratchet("calibrate", "-n", "3", "--arena", "tiny", "--budget", "2s", "--busy")
    assert "baseline" in calibrated.stdout and "sigma" in calibrated.stdout, calibrated
    switch = ["git", "switch", "-C", "try/tiny", "refs/ratchet/champion"]
    subprocess.run(switch, cwd=repository, check=True, capture_output=True)
    text = (repository / "train.py").read_text(encoding="utf-8")
    (repository / "train.py").write_text(
        text.replace("RATE, WIDTH = 0.03", "RATE, WIDTH = 0.00003"), encoding="utf-8"
    )
    subprocess.run(["git", "commit", "-qam", "tiny steps"], cwd=repository, check=True)
    tried = ratchet("try", "tiny steps", "--busy", "--json")
    assert json.loads(tried.stdout)["verdict"] == "discard", tried
    assert "tiny steps" in ratchet("log").stdout and ratchet("show", "2").returncode == 0
    assert "+RATE, WIDTH = 0.00003" in ratchet("diff", "2").stdout
    options = "-n 2 --arena tiny --budget 1s --busy --json --frame tokens".split()
    compared = ratchet("compare", "HEAD~1", "HEAD", *options)
    assert json.loads(compared.stdout)["arms"][1]["gain"] < 0, compared
    assert "test bits per byte" in ratchet("audit", "-n", "2", "--busy").stdout
    verified = ratchet("verify", "--json")
    assert verified.returncode == 0 and json.loads(verified.stdout)["problems"] == []


@pytest.mark.slow
def test_a_killed_referee_leaves_nothing_behind():
    done = subprocess.run(
        [sys.executable, "benchmarks/kills.py", "--kills", "3", "--json"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    counts = json.loads(done.stdout)
    assert counts["kills"] == 3
    for bad in (
        "torn_lines",
        "orphans",
        "locked",
        "failed_commands",
        "tried_twice",
        "problems_found_by_verify",
    ):
        assert counts[bad] == 0, counts
