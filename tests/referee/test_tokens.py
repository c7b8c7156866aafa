"""How a run gets its training tokens: a copy that is gone with it, a stream that ends."""

import itertools
import os
import socket
import threading
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_referee import job

from ratchet.arena.run import Run
from ratchet.referee import limits, trial
from ratchet.referee.supervisor import EndedEarly
from ratchet.referee.tokens import private_copy
from ratchet.referee.tokens.stream import TokenStream


def run_by_hand(arena, folder, budget):
    run = Run(arena, torch.device("cpu"), 7, budget, folder)
    run.flops_per_token = 3.0
    return run


def watched_run(arena, folder, budget, monkeypatch):
    """(a Run under a referee, the referee's end of its socket)."""
    ours, theirs = socket.socketpair()
    monkeypatch.setenv("RATCHET_REFEREE", str(theirs.detach()))
    return run_by_hand(arena, folder, budget), ours


def serve(job, channel, end):
    """The referee's part of a budget of tokens or FLOPs; returns its TokenStream."""
    request = eval(channel.recv(1000).replace(b"null", b"None"))
    stream = end.enter_context(TokenStream(job, request))
    trial.hand_over_tokens(stream, channel, trial.Clock())
    return stream


@pytest.mark.parametrize("budget", ["5e3tok", "15e3flop"])
@pytest.mark.parametrize("epochs", [np.inf, 1 / 100])
def test_a_stream_has_the_batches_of_a_run_by_hand(arena, tmp_path, monkeypatch, budget, epochs):
    by_hand = run_by_hand(arena, tmp_path, budget)
    expected = [y for _, y in by_hand.batches(8, epochs=epochs)]
    run, ours = watched_run(arena, tmp_path, budget, monkeypatch)
    with ExitStack() as end, ours:
        streams = []
        referee = threading.Thread(
            target=lambda: streams.append(serve(job(tmp_path, budget=budget), ours, end))
        )
        referee.start()
        batches = [y for _, y in run.batches(8, epochs=epochs)]
        referee.join()
        assert len(batches) == len(expected) > 4 and all(map(torch.equal, batches, expected))
        assert run.tokens == by_hand.tokens == streams[0].counts()["tokens"]
        assert streams[0].counts() == {
            "steps": run.steps,
            "tokens": run.tokens,
            "flops_per_token": 3.0,
        }
        run._referee.close()


def test_nobody_gets_more_text_than_the_budget_has(arena, tmp_path):
    request = {"phase": "train", "rows": 8, "flops_per_token": 0.0}
    with TokenStream(job(tmp_path, budget="5000tok"), request) as stream:
        theirs = socket.socket(fileno=os.dup(stream.fileno()))
        with theirs, suppress(OSError):
            theirs.sendall(b"?" * 100)
        handed_out = sum(map(len, iter(lambda: theirs_read(stream), b"")))
    assert handed_out == 9 * 8 * 64 * 2 and stream.counts()["tokens"] == 9 * 8 * 64 <= 5000


def theirs_read(stream):
    with suppress(OSError):
        return os.read(stream.fileno(), 2**16)
    return b""


@pytest.mark.parametrize(
    "budget, request_, reason",
    [
        ("5000tok", {}, "how many rows"),
        ("5000tok", {"rows": "8"}, "how many rows"),
        ("5000tok", {"rows": True}, "how many rows"),
        ("5000tok", {"rows": 2.5}, "how many rows"),
        ("5000tok", {"rows": -1}, "how many rows"),
        ("5000tok", {"rows": 10**12}, "how many rows"),
        ("5000tok", {"rows": 20}, "room for 4 steps, and one has 1,280 tokens"),
        ("5000flop", {"rows": 8}, "how many rows"),
        ("5000flop", {"rows": 8, "flops_per_token": float("nan")}, "how many rows"),
        ("5000flop", {"rows": 8, "flops_per_token": 1e9}, "room for 4 steps"),
    ],
)
def test_a_stream_is_made_for_sound_requests_only(arena, tmp_path, budget, request_, reason):
    with pytest.raises(EndedEarly, match=reason):
        TokenStream(job(tmp_path, budget=budget), request_)


def test_who_trains_on_after_the_last_batch_is_late(arena, tmp_path):
    """A step takes two seconds here: after the last batch four of them, and one second more."""
    stream = TokenStream(job(tmp_path, budget="5000tok"), {"rows": 8})
    stream.refuse_late_weights(1e9)  # nothing was handed out
    stream.asked = [float(second) for second in range(100, 120, 2)]
    stream.refuse_late_weights(118 + 4 * 2 + 0.9)
    with pytest.raises(EndedEarly, match=r"0\.10 s later than its steps' pace allows"):
        stream.refuse_late_weights(118 + 4 * 2 + 1.1)
    (out := stream.job.live_folder / "out").mkdir(parents=True, exist_ok=True)
    with open(out / "model.safetensors", "wb") as file:
        file.truncate(2**27)  # two seconds more to save it
    stream.refuse_late_weights(118 + 4 * 2 + 2.9)
    stream.ours.close()
    stream.theirs.close()


def test_cheap_steps_are_refused_in_budgets_of_flops_only():
    flops, tokens = SimpleNamespace(budget="1e9flop"), SimpleNamespace(budget="1e9tok")
    trial.refuse_cheap_steps(tokens, 1.0, 100.0)
    trial.refuse_cheap_steps(flops, 100.0, 100.0)
    trial.refuse_cheap_steps(flops, 200.0, 100.0)
    with pytest.raises(
        EndedEarly, match="it said that a token costs 98 FLOPs, its model takes 100"
    ):
        trial.refuse_cheap_steps(flops, 98.0, 100.0)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_copy_has_no_name_and_keeps_nothing(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(limits, "TOKENS_MEMORY_SHARE", float(in_memory))
    (path := tmp_path / "train.tokens").write_bytes(os.urandom(10_000))
    (folder := tmp_path / "live").mkdir()
    with private_copy.copy_without_name(path, folder) as copy:
        assert os.fstat(copy.fileno()).st_ino != path.stat().st_ino
        assert os.fstat(copy.fileno()).st_nlink == 0 and not [*folder.iterdir()]
        assert (np.memmap(copy, np.uint8, "r") == np.fromfile(path, np.uint8)).all()
        with pytest.raises(OSError, match="."):
            os.write(copy.fileno(), b"x")
        if in_memory:
            with open(f"/proc/self/fd/{copy.fileno()}", "r+b", buffering=0) as again:
                with pytest.raises(PermissionError):
                    again.write(b"x")
                with pytest.raises(PermissionError):
                    again.truncate(0)
    assert len({*itertools.islice(iter(path.read_bytes()), 100)}) > 10, "the file itself stays"
