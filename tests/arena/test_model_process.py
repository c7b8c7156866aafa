"""The model's process: what it may answer, how long, how much it may work."""

import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
import types
from unittest import mock

import pytest
import torch
from conftest import score

from ratchet.arena.budget import (
    ANSWER_SECONDS,
    START_SECONDS,
    answer_limit,
    load_limit,
    work_limit,
)
from ratchet.arena.files import Refused
from ratchet.arena.hardware import cpu
from ratchet.arena.hardware.shared_memory import create_shared
from ratchet.arena.model_process import meter
from ratchet.arena.model_process.meter import WorkMeter
from ratchet.arena.model_process.process import Invalid, ModelProcess
from ratchet.arena.model_process.server import load_contestant


@pytest.mark.parametrize("weights, silence", [(0, 30), (2**26, 31), (2**32, 94)])
def test_a_large_model_may_be_silent_for_longer_while_it_loads(weights, silence):
    """Otherwise a table of gigabytes could not be scored where the disk is slow."""
    assert load_limit(weights) == silence


def test_kernels_may_be_compiled_for_the_first_answer_alone(model_process):
    """A GPU's kernels are tried and compiled then, without a cache, in each process."""
    limits = []
    model_process._ask = lambda question, seconds: limits.append(seconds) or {}
    model_process.answer_seconds = START_SECONDS
    for _ in range(2):
        model_process(model_process.tokens.numpy())
    assert limits == [START_SECONDS, ANSWER_SECONDS]


def test_where_no_memory_is_shared_nothing_is_scored(model_process):
    """Under WSL2 no call fails, and the logits that arrive are zeros: a uniform model's."""
    model_process._ask = lambda *question: {}
    with pytest.raises(Refused, match="another one doesn't see: .* doctor --device cpu"):
        model_process.load_model()


@pytest.mark.parametrize("text", [b"5", b"null", b"[" * 9999, b"not json", b"x" * 20_000])
def test_an_answer_that_is_none_is_invalid(text, model_process):
    theirs = model_process.theirs
    threading.Thread(target=theirs.sendall, args=(text + b"\n",), daemon=True).start()
    with pytest.raises(Invalid):
        model_process._ask({"rows": 1}, ANSWER_SECONDS)


def test_where_processes_may_not_talk_a_sandbox_is_named(model_process):
    """As in that of a coding agent, which forbids sendto(2): this is no fault of the model."""

    def sendall(data):
        raise PermissionError(1, "Operation not permitted")

    model_process.channel = types.SimpleNamespace(sendall=sendall)
    with pytest.raises(
        Refused, match=r"talk to each other \(Operation not permitted\): start your"
    ):
        model_process._ask({"rows": 1}, ANSWER_SECONDS)


def test_a_silent_model_is_invalid_though_it_sends_byte_after_byte(model_process):
    model_process.theirs.sendall(b"{")
    with pytest.raises(Invalid, match="was silent for 0 seconds"):
        model_process._ask({"rows": 1}, 0.1)


@pytest.fixture
def model_process():
    """A ModelProcess without a process: `theirs` is the other end of its socket."""
    process = object.__new__(ModelProcess)
    process.channel, process.theirs = socket.socketpair()
    process.device = torch.device("cpu")
    process.work = WorkMeter(os.getpid(), process.device)
    process.tokens, process.logits = torch.zeros(1, 2), torch.zeros(1, 2, 2)
    process.most_answer_seconds = math.inf
    with process.channel, process.theirs:
        yield process


# --------------------------------------------------------------------------------------------------
# Work that no answer needs: load() or an answer that trains


def surplus(answers, load=0.0):
    work = WorkMeter(os.getpid(), torch.device("meta"))  # measured in seconds
    work.answers, work.total = answers, sum(answers) + load
    return work.surplus()


def test_an_answer_that_fails_is_all_surplus():
    """It may have trained before it said that there is no memory."""
    work = WorkMeter(os.getpid(), torch.device("meta"))
    with pytest.raises(MemoryError), work.measured(an_answer=True):
        time.sleep(0.1)
        raise MemoryError
    assert not work.answers and work.surplus() >= 0.1


def test_answers_that_all_take_equally_long_are_no_surplus():
    assert surplus([1.0] * 50) == 0
    assert surplus([2.9, *[1.0] * 50]) == 0  # the first makes kernels ready


def test_most_answers_leave_no_time_to_train(model_process):
    assert (answer_limit(300, 2), answer_limit(20, 2)) == (18, 2)
    model_process.most_answer_seconds = 2.0
    model_process.work.answers = [9.0, 1.0, 1.0]  # the first makes kernels ready
    model_process.refuse_slow_answers()
    model_process.work.answers = [9.0, 9.0]
    model_process.refuse_slow_answers()
    model_process.work.answers = [2.5, 2.5, 2.5]
    with pytest.raises(Invalid, match="most answers took 2.5 s of CPU time, 2.0 s are allowed"):
        model_process.refuse_slow_answers()


def test_what_load_and_a_slow_answer_take_is_surplus():
    assert surplus([1.0] * 50, load=7.0) == pytest.approx(7)
    assert surplus([9.0, *[1.0] * 50]) == pytest.approx(6)


def test_slow_answers_buy_no_slow_first_one():
    assert surplus([30.0, *[10.0] * 50]) == pytest.approx(30 - 12)


def test_answers_shorter_than_a_tick_of_the_clock_are_no_surplus():
    assert surplus([0.0] * 60 + [0.01] * 40) == 0


def test_the_memory_of_a_model_keeps_its_size():
    """Cut short it would kill the scorer; longer it would be nobody's."""
    shared = create_shared((4,), torch.float32, torch.device("cpu"))
    for size in (0, 2**20):
        with pytest.raises(OSError):
            os.ftruncate(shared.descriptor, size)
    os.close(shared.descriptor)


def test_a_train_py_with_dataclasses_is_loaded(tmp_path):
    """These look for their module among those that are imported."""
    (tmp_path / "train.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport torch\n"
        "@dataclass\nclass Config:\n    width: int = 3\n"
        "def load(folder):\n    return torch.nn.Linear(Config().width, 1)\n",
        encoding="utf-8",
    )
    known = dict(sys.modules)
    try:
        assert load_contestant(tmp_path, torch.device("cpu")).in_features == 3
    finally:
        sys.modules.clear()
        sys.modules.update(known)


def test_children_of_a_model_are_counted():
    work = WorkMeter(os.getpid(), torch.device("cpu"))
    subprocess.run([sys.executable, "-c", "for _ in range(10**7): pass"])
    assert work.surplus() > 0.05


def test_no_time_to_train_in_is_left():
    """Beside what reading the weights takes: less than a hundredth of a run on a slow machine."""
    assert work_limit(0, start_seconds=10) == 2 < 0.01 * 300
    assert work_limit(2**30, start_seconds=10) == 3


def test_a_gpu_is_measured_by_how_busy_it_is(monkeypatch):
    """Where its driver tells; else kernels that are compiled need time that nobody can tell apart."""
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 50)
    monkeypatch.setattr(meter, "tree_seconds", lambda pid: 10.0)  # to import PyTorch
    monkeypatch.setattr(
        meter.threading, "Thread", lambda **options: types.SimpleNamespace(start=int)
    )
    work = WorkMeter(os.getpid(), torch.device("cuda:0"))
    with work.measured(an_answer=True):
        work.gpu.busy_seconds += 7
    assert (work.unit, work.answers) == ("GPU time", [7.0])
    busy_limit = work.allowance(0)
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 1 / 0)
    work = WorkMeter(os.getpid(), torch.device("cuda:0"))
    assert work.unit == "time" and work.allowance(0) > 30 > busy_limit


TRAINS = {
    "by autograd": "(w.sum() ** 2).backward()",
    "through the function": "torch.autograd.grad((w.sum() ** 2), w)",
    "in NumPy": "while time.process_time() < end: a = np.tanh(a @ a)",
    "in a child": "if os.fork(): time.sleep(6)\n"
    "    else:\n"
    "        while time.process_time() < 4: a @ a\n"
    "        os._exit(0)",
}


@pytest.mark.slow
@pytest.mark.parametrize("way", TRAINS)
def test_load_has_no_time_to_train(way, finished_run, tmp_path):
    (source := tmp_path / "trains.py").write_text(
        "import os, time\nimport numpy as np\nimport torch\ndef load(folder):\n"
        "    w, a, end = torch.zeros(3, requires_grad=True), np.eye(99), time.process_time() + 4\n"
        f"    {TRAINS[way]}\n"
        "    model = torch.nn.Identity()\n"
        "    model.forward = lambda tokens: torch.zeros(*tokens.shape, 512)\n    return model\n",
        encoding="utf-8",
    )
    result = score(finished_run(source))
    assert result["status"] == "invalid", result
    assert re.search("can't be trained|does not require grad|CPU time", result["reason"]), result


@pytest.mark.parametrize(
    "trials, chosen", [([False, True], "DEFAULT"), ([False] * 3, "AVX512_CORE_BF16")]
)
def test_amx_is_tried_once_for_all_processes(monkeypatch, trials, chosen):
    """A trial that fails by chance would give one process of a model other products."""
    monkeypatch.setenv(cpu.INSTRUCTIONS, "")
    monkeypatch.delenv(cpu.INSTRUCTIONS)
    trial = mock.Mock(side_effect=trials)
    monkeypatch.setattr(cpu, "has_matrix_tiles", lambda: True)
    monkeypatch.setattr(cpu, "matrix_tiles_work", trial)
    cpu.choose_instructions(), cpu.choose_instructions()
    assert os.environ[cpu.INSTRUCTIONS] == chosen and trial.call_count == len(trials)
