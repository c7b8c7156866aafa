"""What Weights & Biases gets, in its offline mode, and when it gets nothing."""

import json

import pytest
from test_experiments import calibrated, commit, repository, runs  # noqa: F401

from ratchet import experiments, relay
from ratchet.experiments import Bench


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def texts(folder):
    """All that was written for wandb, as bytes."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.filterwarnings("ignore")
def test_a_run_there_for_each_run_here(calibrated, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WANDB_MODE", "offline")
    commit("breaks", quality=1.2, more='STATUS = "crash"')
    bench = Bench(wandb=True)

    def run(job, quick=bench.place.run):
        facts = quick(job)
        job.target.mkdir(parents=True)
        line = json.dumps({"seconds": 1.5, "tokens": 77, "loss": 3.25})
        (job.target / "curve.jsonl").write_text(line + "\n")
        return facts

    bench.place.run = run
    e = experiments.attempt(bench, "an idea like no other", by="somebody")
    folders = [*(calibrated / "runs/wandb").glob("offline-run-*")]
    assert e.verdict == "crash" and len(folders) == len(e.runs) == 1
    seen = texts(folders[0])
    for word in (b"an idea like no other", b"experiment-2", b"crash", b"somebody", b"3.25"):
        assert word in seen, word


def test_nothing_is_sent_unless_it_is_asked_for(calibrated, monkeypatch):  # noqa: F811
    calls, told = [], []
    monkeypatch.setattr(relay, "send", lambda *args: calls.append(args) or 1 / 0)
    commit("worse", quality=0.5)
    experiments.attempt(Bench(), "worse")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    experiments.attempt(Bench(), "worse", again=True)
    assert calls == []
    monkeypatch.delenv("WANDB_MODE")
    e = experiments.attempt(Bench(tell=told.append), "worse", again=True)
    assert len(calls) == 1 and e.verdict == "discard" and "could not be told" in told[-1]
