"""What Weights & Biases gets, in its offline mode, and when it gets nothing."""

import json
import os
import sys

import pytest
import torch
import wandb
from conftest import open_session
from test_experiments import calibrated, commit, repository, runs  # noqa: F401
from typer.testing import CliRunner

from ratchet import __main__
from ratchet.arena.files import Refused
from ratchet.arena.log import wandb_run, wandb_settings
from ratchet.arena.run import Run
from ratchet.experiments import verbs
from ratchet.report import wandb as wandb_relay

KEY = 8 * "ab12c"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)


def texts(folder):
    """All that was written for wandb, as bytes."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.filterwarnings("ignore")
def test_a_run_there_for_each_run_here(calibrated, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WANDB_MODE", "offline")
    commit("breaks", quality=1.2, more='STATUS = "crash"')
    session = open_session(wandb=True)

    def run(job, tell, quick=session.slot.run):
        facts = quick(job)
        job.target.mkdir(parents=True)
        line = json.dumps({"seconds": 1.5, "tokens": 77, "loss": 3.25})
        (job.target / "curve.jsonl").write_text(line + "\n", encoding="utf-8")
        return facts

    session.slot.run = run
    e = verbs.try_idea(session, "an idea like no other", by="somebody")
    wandb.teardown()  # its process has written all, as when this one ends
    folders = [*(calibrated / "runs/wandb").glob("offline-run-*")]
    assert e.verdict == "crash" and len(folders) == len(e.runs) == 1
    seen = texts(folders[0])
    for word in (b"an idea like no other", b"experiment-2", b"crash", b"somebody", b"3.25"):
        assert word in seen, word


def test_nothing_is_sent_unless_it_is_asked_for(calibrated, monkeypatch):  # noqa: F811
    calls, told = [], []
    monkeypatch.setattr(
        "ratchet.report.wandb.send_experiment", lambda *args: calls.append(args) or 1 / 0
    )
    commit("worse", quality=0.5)
    verbs.try_idea(open_session(), "worse")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    verbs.try_idea(open_session(), "worse", again=True)
    assert calls == []
    monkeypatch.delenv("WANDB_MODE")
    e = verbs.try_idea(open_session(tell=told.append), "worse", again=True)
    assert len(calls) == 1 and e.verdict == "out" and "could not be told" in told[-1]


@pytest.fixture
def no_account(tmp_path, monkeypatch):
    """A user who never logged in, and a process in which wandb wasn't used."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.parametrize(
    "conditions, why",
    [
        ({"WANDB_PROJECT": "mine"}, "wandb has no key: run `uv run wandb login`"),
        ({"WANDB_PROJECT": "mine", "WANDB_API_KEY": "secret"}, "wandb can't log in .*40"),
        ({"WANDB_MODE": "sideways"}, "wandb does not understand its settings"),
    ],
)
def test_what_wandb_lacks_is_one_sentence_before_anything_starts(
    no_account, monkeypatch, conditions, why
):
    for name, value in conditions.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Refused, match=why) as refusal:
        wandb_relay.check_wandb(False)
    assert "secret" not in str(refusal.value)


def test_a_verb_that_would_send_begins_nothing_without_a_key(calibrated, no_account, monkeypatch):  # noqa: F811
    monkeypatch.chdir(calibrated)
    commit("better", quality=1.2)
    before = (calibrated / "ledger.jsonl").read_bytes()
    for words in (["try", "better"], ["night", "--agent", "true"]):
        done = CliRunner().invoke(__main__.app, [*words, "--wandb"])
        assert isinstance(done.exception, Refused)
    assert (calibrated / "ledger.jsonl").read_bytes() == before


def test_wandb_is_needed_only_where_it_is_asked_for(no_account, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert wandb_settings() is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_settings(True) is None
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(Refused, match="uv sync --extra wandb"):
        wandb_settings(True)


@pytest.mark.filterwarnings("ignore")
def test_a_server_that_does_not_answer_costs_the_curves_and_no_more(
    no_account, arena, tmp_path, monkeypatch, capsys
):
    for name, value in {
        "PROJECT": "mine",
        "API_KEY": KEY,
        "BASE_URL": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setattr("ratchet.arena.log.WANDB_SECONDS", 1)
    run = Run(arena, torch.device("cpu"), 0, "1s", tmp_path)
    assert wandb_run(run) is None
    said = "".join(capsys.readouterr())
    assert said.count("\n") == 1 and "wandb gets no curves of this run: Timed out" in said
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert KEY not in said and written and not any(KEY.encode() in data for data in written)
