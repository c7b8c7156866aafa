"""Every known way to cheat a referee, one file each in tests/cheats, is tried; none may get
through.
"""

import ast
import subprocess
import types
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT, LocalDecoding, LocalModel, score
from safetensors.torch import save_file
from test_prepare import CHEATS as SCORED_BY_PREPARE

from prepare import prepare
from ratchet.arena.decoding import Clock, KeptLogits, draw_lengths
from ratchet.arena.definition import find_arena
from ratchet.arena.files import Refused, cache_folder, write_json
from ratchet.arena.run import Run
from ratchet.arena.score import read_rows
from ratchet.experiments import sources
from ratchet.experiments.ledger import bpb
from ratchet.referee import folders, limits, sandbox, scoring, supervisor, trial
from ratchet.referee.job import Job
from ratchet.referee.source import Source

FOLDER = ROOT / "tests/cheats"
HONEST = (FOLDER.parent / "contestant.py").read_text(encoding="utf-8")
HERE = "# what a cheat replaces comes here\n"
SEED, BUDGET = 3, "20000tok"  # of a budget in tokens, scores are equal to the last bit
CPU = torch.device("cpu")
BUSY = dict.fromkeys(limits.FOREIGN_CPU_SHARE, 99.0)  # others may use this machine
PORT, VICTIM, LEFT = (
    45871,
    "271828",
    "31.4159",
)  # of a server; of who is to be killed, who is left behind

# cheats that are ready to be scored from the start: {file: the probe that finds it, or what else is
# said}
SCORED = {
    "bought_tolerance": "independence",
    "chunk_recurrence": "causality",
    "leaks_at_full_length": "causality",
    "learns_when_scored": "independence",
    "many_epochs": "causality",
    "next_by_strides": "causality",
    "ngram_cache": "independence",
    "not_a_number": "finite",
    "pairs": "causality",
    "place_in_the_batch": "independence",
    "scores_every_epoch": "causality",
    "slot": "causality",
    "target_in_the_key": "causality",
    "two_passes": "causality",
}
SCORED_APART = {  # in a process of their own
    "own_loss": "logits of shape",
    "small_vocabulary": "logits of shape",
    "strides": "out of bounds",
}
DECODED = {  # where it is measured how fast they decode
    "cheap_at_first": "decoding",
    "cheap_on_noise": "decoding",
    "decodes_later": "decoding",
    "decodes_without_a_layer": "decoding",
}
DECODING = {*DECODED, "decodes_from_memory", "cheap_after_the_middle", "cheap_in_some_rows"}
SCORED_OTHERWISE = {"far_block", "miscounts_bytes", "not_normalised"}  # each has a test of its own
REASONS = SCORED | SCORED_APART | SCORED_BY_PREPARE | DECODED | {"far_block": "causality"}
TRAINING = "learns_when_scored", "many_epochs"
GUESS = """
import torch
def load(folder):
    model = torch.nn.Identity()
    model.forward = lambda tokens: torch.zeros(*tokens.shape, 512)
    return model
"""
# the quickest of those that compete: they end before they are scored
FAST = ["trains_on_val", "edits_the_referee", "outlives_its_run", "huge_message", "floods_the_log"]
FAST_SCORED = ["leaks_at_full_length", "next_by_strides", "decodes_without_a_layer"]


def docstring(name):
    return ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8")))


def is_scored(name):
    """True for a model that its score must find out; the others compete as contestants with new
    parts.
    """
    return docstring(name).startswith("Cheat: ")


NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
COMPETING = [name for name in NAMES if not is_scored(name)]


# --------------------------------------------------------------------------------------------------
# A cheat that competes


def assemble(name):
    """(source, what the file says of itself) of a cheat; without a name of the honest contestant."""
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8") if name else ""
    source = HONEST.replace(HERE, text + "\n\n" + HERE)
    exec(compile(source, f"{name}.py", "exec"), vars(module := types.ModuleType(name or "honest")))
    padding = getattr(module, "PADDING", 0)
    return source + f"# {padding * '0'}\n" * bool(padding), module


@contextmanager
def bait(cache):
    """What a contestant may be after: a ledger, another run, a server, a process to kill."""
    (cache / "ledger.jsonl").write_text("the ledger\n", encoding="utf-8")
    (cache / "runs/1").mkdir(parents=True, exist_ok=True)
    (cache / "runs/1/model.safetensors").write_bytes(b"weights")
    serve = f"import socket\ns = socket.create_server(('127.0.0.1', {PORT}))\n"
    serve += "while True: c = s.accept()[0]; c.sendall(b'weights'); c.close()"
    with ExitStack() as stack:
        for argv in (["sleep", VICTIM], [*sandbox.PYTHON, "-c", serve]):
            process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
            stack.callback(stack.enter_context(process).kill)
        yield


def kill_what_is_left(live):
    """Number of processes that a run left behind, which are killed."""
    left = supervisor.find_marked(str(live / "out")) + supervisor.find_marked(str(live / "score"))
    for process in psutil.process_iter(["cmdline", "status"]):
        if LEFT in (process.info["cmdline"] or []) and process.info["status"] != "zombie":
            left.append(process)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    return len({process.pid for process in left})


def compete(name, folder, level):
    """Facts of the last run of a cheat, or of the honest contestant; "left": processes it left
    behind.
    """
    source, cheat = assemble(name)
    (path := folder / f"{name or 'honest'}.py").write_text(source, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for key, value in {"RATCHET_ISOLATION": level, **getattr(cheat, "ENVIRONMENT", {})}.items():
            patch.setenv(key, value)
        for place, value in {
            "referee.limits.FOREIGN_CPU_SHARE": BUSY,
            **getattr(cheat, "PATCH", {}),
        }.items():
            patch.setattr(f"ratchet.{place}", value)
        stack.enter_context(bait(cache_folder()))
        try:
            contestant = sources.read_source(str(path), files=True)
        except Refused as error:
            return {"status": "refused", "reason": str(error), "isolation": level, "left": 0}
        budget, arena = getattr(cheat, "BUDGET", BUDGET), find_arena("tiny")
        job = Job(contestant, SEED, budget, arena, folder / "run", folder / "compiled")
        more = {
            "milestones": getattr(cheat, "MILESTONES", ()),
            "limits": getattr(cheat, "LIMITS", {}),
        }
        job = job._replace(**more)
        stack.callback(
            subprocess.run, ["rm", "-rf", job.live_folder]
        )  # whatever state it is in: others come after
        for _ in range(getattr(cheat, "RUNS", 1)):
            facts = trial.run_trial(job)
        return facts | {"left": kill_what_is_left(job.live_folder)}


def is_caught(name, facts, honest):
    """Whether a run ended as it should; honest() -> the facts of an honest run in the same budget."""
    cheat = assemble(name)[1]
    if facts["left"]:
        return False
    return (
        cheat.caught(facts, honest())
        if hasattr(cheat, "caught")
        else facts["status"] in cheat.EXPECT
    )


def score_alone(name, source, folder, level, arena):
    """What the referee's scorer finds out about a model that is ready from the start, at a level."""
    contestant = Source("cheat", "", source.encode())
    job = Job(contestant, SEED, BUDGET, arena, folder / "run", folder / "compiled")
    job = job._replace(limits={"user_tps": 1e-3} if name in DECODING else {})
    (job.live_folder / "out").mkdir(parents=True)
    save_file({"weight": torch.zeros(4, 4)}, job.live_folder / "out/model.safetensors")
    record = {"seed": SEED, "budget": BUDGET, "seconds": {"train": 1.0}, "device": "CPU"}
    record |= {"steps": 10, "tokens": 10_000, "flops_per_token": 1.0, "peak_memory_mb": 1}
    facts = {"status": "ok", "reason": "", "left": 0}
    try:
        left = scoring.take_submission(job, record, {"peak_flops": 1e12})
        facts |= scoring.score_submission(job, level, left)
    except supervisor.EndedEarly as end:
        facts |= {"status": end.status, "reason": str(end)}
    facts["left"] = kill_what_is_left(job.live_folder)
    folders.remove_folder(job.live_folder)
    return facts


def is_found_out(name, facts, guess):
    """Whether a score found a cheat out, for the reason that is known, or gave it no more than a
    guess has; guess() -> the facts of a uniform guess.
    """
    if facts["left"] or facts["status"] not in ("ok", "invalid"):
        return False
    if facts["status"] == "invalid":
        refused = name in TRAINING and "can't be trained" in facts["reason"]
        return refused or REASONS.get(name, "nothing") in facts["reason"]
    return bpb(facts) > bpb(guess()) * (1 - 1e-6)


HONEST_FACTS = {}  # of the one honest run that the tests of this and another file share


@pytest.fixture
def run_honestly(arena, tmp_path):
    """run_honestly() -> facts of an honest run at the best level, the same for all who ask."""

    def run():
        if not HONEST_FACTS:
            (tmp_path / "honest").mkdir()
            HONEST_FACTS.update(compete("", tmp_path / "honest", sandbox.best_level()))
        return HONEST_FACTS

    return run


def some_slow(names, fast):
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", some_slow(COMPETING, FAST))
def test_a_cheat_is_caught(name, arena, tmp_path, run_honestly):
    level = sandbox.best_level()
    facts = compete(name, tmp_path, level)
    assert facts["isolation"] == level
    if level not in getattr(assemble(name)[1], "OPEN_AT", ()):
        assert is_caught(name, facts, run_honestly), (
            facts["status"],
            facts["reason"],
            facts.get("tail"),
        )


def test_an_honest_run_is_fine_after_all_these(run_honestly):
    facts = run_honestly()
    assert (facts["status"], facts["left"]) == ("ok", 0), facts
    assert facts["tokens"] == 19_968 and all(
        passed for passed, _ in facts["val"]["probes"].values()
    )


def test_every_cheat_says_where_it_was_seen_and_what_is_expected():
    for name in COMPETING:
        source, cheat = assemble(name)
        text = docstring(name)
        assert text.endswith(").") and "(" in text, name
        assert hasattr(cheat, "caught") != bool(getattr(cheat, "EXPECT", ())), name
        assert "ok" not in getattr(cheat, "EXPECT", ())
        assert {*getattr(cheat, "OPEN_AT", ())} <= {*sandbox.LEVELS}


# --------------------------------------------------------------------------------------------------
# A cheat that is scored


@pytest.fixture
def local(monkeypatch):
    monkeypatch.setattr("ratchet.arena.score.ModelProcess", LocalModel)
    monkeypatch.setattr("ratchet.arena.decoding.DecodingProcess", LocalDecoding)


@pytest.mark.parametrize("name", some_slow(SCORED, FAST_SCORED))
def test_a_score_finds_out(name, finished_run, local):
    result = score(finished_run(FOLDER / f"{name}.py"))
    assert result["status"] == "invalid" and SCORED[name] in result["reason"], result


@pytest.mark.parametrize("name", some_slow(DECODED, FAST_SCORED))
def test_a_model_that_decodes_as_it_does_not_answer_is_found_out(name, finished_run, local):
    result = score(finished_run(FOLDER / f"{name}.py"), decoding=True)
    assert result["status"] == "invalid" and f"{DECODED[name]}: decode() costs" in result["reason"]
    assert result["batch_rows"] == 16 and result["user_tps"] > 0


def decode_rows(folder, arena):
    """The model in a folder, after it has decoded as it does when that is timed."""
    model, generator = LocalDecoding(folder, arena, CPU, 16), np.random.default_rng(0)
    model.load_model()
    clock = Clock(model, read_rows(arena, "val")[:, :-1], generator, KeptLogits())
    for rows in (16, 1):
        clock.time_batch(rows, draw_lengths(arena.context, generator), 12)
    return model.server.decoder.model


def test_nothing_is_gained_by_rows_that_were_decoded_before(finished_run, arena):
    model = decode_rows(finished_run(FOLDER / "decodes_from_memory.py"), arena)
    assert model.known and not model.hits


@pytest.mark.parametrize("name", ["cheap_after_the_middle", "cheap_in_some_rows"])
def test_nothing_is_gained_by_decoding_cheaply_where_forward_is_cheap_too(
    name, finished_run, arena, local
):
    """Of what is timed as large a part is cheap as of what is scored: about a third."""
    folder = finished_run(FOLDER / f"{name}.py")
    result = score(folder, decoding=True)
    assert result["status"] == "ok" and result["probes"]["decoding"][0], result
    model = decode_rows(folder, arena)
    assert 0.1 < model.cheap / model.asked < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORED_APART)
def test_a_model_that_answers_in_a_wrong_way_is_invalid(name, finished_run):
    result = score(finished_run(FOLDER / f"{name}.py"))
    assert result["status"] == "invalid" and SCORED_APART[name] in result["reason"], result


@pytest.fixture
def flat(tmp_path):
    """An honest model that knows nothing."""
    (path := tmp_path / "flat.py").write_text(GUESS, encoding="utf-8")
    return path


@pytest.mark.slow
def test_nothing_is_gained_by_numbers_that_are_not_normalised(finished_run, flat, local):
    known, found = (
        score(finished_run(path, path.stem)) for path in (flat, FOLDER / "not_normalised.py")
    )
    assert found["status"] == "ok" and found["val_bpb"] == pytest.approx(known["val_bpb"], rel=1e-6)


@pytest.mark.slow
def test_nothing_is_gained_by_bytes_that_are_not_there(finished_run, flat):
    known, found = (
        score(finished_run(path, path.stem)) for path in (flat, FOLDER / "miscounts_bytes.py")
    )
    assert found["status"] == "ok", found["reason"]
    assert (found["bytes"], found["val_bpb"]) == (known["bytes"], known["val_bpb"])


@pytest.mark.slow
def test_a_leak_from_far_ahead_is_found(arena, tmp_path, local, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))
    wide = prepare("wide", source=str(arena.corpus), context=256, vocab_size=512)
    run = Run(wide, torch.device("cpu"), 0, "1e4tok", tmp_path)
    run.tokens, run.steps = 10_000, 10
    facts = run.make_record() | {"unscored_seconds": 1.0, "train_seconds": 1.0}
    write_json(tmp_path / "run.json", facts)
    save_file({"weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "train.py").write_text(
        (FOLDER / "far_block.py").read_text(encoding="utf-8"), encoding="utf-8"
    )
    assert "causality" in score(tmp_path)["reason"]


def test_every_file_is_tried():
    scored = {*SCORED, *SCORED_APART, *DECODING, *SCORED_OTHERWISE, *SCORED_BY_PREPARE}
    assert {*NAMES} == scored | {*COMPETING} and not scored & {*COMPETING}
