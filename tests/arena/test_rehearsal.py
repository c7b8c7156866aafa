"""A run by hand from its rehearsal to its last line: nothing is silent, nothing misleads."""

import json
import math
import os
import re
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from test_train import SMALL, start

import train
from ratchet.arena import kernels
from ratchet.arena.hardware import compiling
from ratchet.arena.hardware.device import data_sheet_flops, free_device_memory, matmul_peak
from ratchet.arena.progress import ProgressLine
from ratchet.arena.rehearsal import compile_events, release_memory, snapshot
from ratchet.arena.results import describe_budget, describe_flops, print_outlook
from ratchet.arena.run import Run


@pytest.fixture
def run(arena, tmp_path, monkeypatch):
    return Run(arena, torch.device("cpu"), 0, "5s", tmp_path)


@pytest.fixture
def model():
    return torch.nn.Sequential(torch.nn.Embedding(512, 8), torch.nn.Linear(8, 512))


# --------------------------------------------------------------------------------------------------
# The rehearsal


def test_the_clock_begins_with_the_first_batch_however_long_the_rehearsal(run, model):
    run.rehearse(lambda x, y: time.sleep(0.2), 2, model)
    run.rehearsal_seconds += 1e4
    next(iter(run.batches(2)))
    assert run.seconds < 1 and run.progress < 0.5


def test_a_rehearsal_that_never_ends_is_ended(run, model, monkeypatch, capsys):
    ended = threading.Event()
    monkeypatch.setattr("ratchet.arena.run.REHEARSAL_SECONDS", 0.2)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set() if code == 1 else None)
    run.rehearse(lambda x, y: ended.wait(10), 2, model, calls=1)
    assert ended.is_set() and "not ready to train after" in capsys.readouterr().err
    assert json.loads((run.folder / "result.json").read_text("utf-8"))["status"] == "crash"


def test_a_rehearsal_that_never_ends_is_ended_though_its_folder_is_gone(run, monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    run.folder = run.folder / "gone"
    with pytest.raises(FileNotFoundError):
        run._end_rehearsal()
    assert codes == [1]


@pytest.mark.parametrize("broken", ["snapshot", "inspect_model"])
def test_a_rehearsal_that_fails_leaves_no_timer_behind(run, model, monkeypatch, broken):
    """Else it would end the training of one that went well the second time."""

    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(f"ratchet.arena.run.{broken}", fail)
    with pytest.raises(torch.OutOfMemoryError):
        run.rehearse(lambda x, y: None, 2, model)
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert not any(
        timer.function == run._end_rehearsal and not timer.finished.is_set() for timer in timers
    )


def test_long_work_tells_of_itself_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("ratchet.arena.progress.PLAIN_SECONDS", 0.02)
    monkeypatch.setattr("ratchet.arena.progress.console", Console(soft_wrap=True))
    with ProgressLine("scoring") as line:
        line.detail = f"row 120 of 240, {line.time_left(120, 240)}"
        time.sleep(0.2)
    assert re.match(r"scoring: row 120 of 240, 0 s left, 0 s so far\n", capsys.readouterr().out)


def test_short_work_says_nothing_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("ratchet.arena.progress.console", Console(soft_wrap=True))
    with ProgressLine("scoring"):
        pass
    assert capsys.readouterr().out == ""


def test_a_rehearsal_tells_which_part_is_compiled_and_how_long_it_takes(monkeypatch):
    from torch._dynamo.callback import CompilationCallbackHandler

    handler, line = CompilationCallbackHandler(), SimpleNamespace(detail="")
    module = SimpleNamespace(callback_handler=handler)
    monkeypatch.setitem(sys.modules, "torch._dynamo.callback", module)
    clock = SimpleNamespace(monotonic=iter([0.0, 4.0, 5.0, 11.0, 12.0, 13.0]).__next__)
    monkeypatch.setattr("ratchet.arena.rehearsal.time", clock)
    seen = []
    with compile_events(line, 2):
        for _ in range(3):
            handler.run_start_callbacks(None)
            seen.append(line.detail)
            handler.run_end_callbacks(None)
    assert seen == [
        "compiling part 1 of 2",
        "compiling part 2 of 2, about 4 s left",
        "compiling part 3",
    ]
    assert not handler.start_callbacks and not handler.end_callbacks


def test_what_was_being_compiled_before_breaks_nothing(monkeypatch):
    from torch._dynamo.callback import CompilationCallbackHandler

    handler, line = CompilationCallbackHandler(), SimpleNamespace(detail="")
    module = SimpleNamespace(callback_handler=handler)
    monkeypatch.setitem(sys.modules, "torch._dynamo.callback", module)
    with compile_events(line, 2):
        handler.run_end_callbacks(None)
    assert line.detail == ""


def test_a_rehearsal_needs_no_compiler(run, model, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo.callback", raising=False)
    run.rehearse(lambda x, y: None, 2, model)
    assert run.flops_per_token > 0


def test_a_type_without_units_for_it_is_not_measured_with_large_matrices(monkeypatch):
    """On a CPU without AVX-512 one product of 2048 in bfloat16 takes a minute."""
    sizes = []

    def multiply(a, b):
        sizes.append((len(a), a.dtype))
        time.sleep(0.01 * (a.dtype == torch.bfloat16))

    monkeypatch.setattr(torch, "mm", multiply)
    rate, description = matmul_peak(torch.device("cpu"))
    assert description == "float32 matmul of 2048" and rate > 1e12
    assert (256, torch.bfloat16) in sizes and (2048, torch.bfloat16) not in sizes


# --------------------------------------------------------------------------------------------------
# What is compiled


@pytest.mark.parametrize(
    "budget, cores, dtype, parts",
    [
        ("20s", 2, "bfloat16", []),
        ("60s", 2, "bfloat16", ["loss"]),
        ("300s", 2, "bfloat16", ["loss", "layers"]),
        ("300s", 16, "bfloat16", ["loss", "layers", "muon"]),
        ("1e6tok", 2, "bfloat16", ["loss", "layers"]),
        ("300s", 2, "float32", []),
        ("300s", 8, "float32", ["loss", "layers"]),
    ],
)
def test_a_part_is_compiled_where_the_budget_earns_it_back(
    run, monkeypatch, budget, cores, dtype, parts
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(run, "arena", replace(run.arena, seconds=300))
    run = Run(run.arena, torch.device("cpu"), 0, budget, run.folder)
    seconds = run.time_limit or run.arena.seconds
    worth = compiling.worth_compiling(declared(dtype), run.device, seconds)
    assert [part.name for part in worth] == parts


def declared(dtype):
    model = train.GPT(**(SMALL | {"dtype": dtype}))
    return train.compilable_parts(model, train.make_optimizers(model)[0])


def test_all_is_compiled_on_a_gpu():
    parts = declared("bfloat16")
    assert compiling.worth_compiling(parts, torch.device("cuda:0"), 1) == parts


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad")  # the compiler's own
def test_what_is_compiled_computes_the_same_and_can_be_undone():
    torch.manual_seed(0)
    model = train.GPT(**SMALL)
    muon, *_ = train.make_optimizers(model)
    x, y = torch.randint(512, (2, 2, 64))
    eager = model(x, y).item()
    before = kernels.loss.loss_and_slope, muon.update
    undo = compiling.compile_parts(train.compilable_parts(model, muon)[:1])
    assert kernels.loss.loss_and_slope is not before[0] and muon.update is before[1]
    assert model(x, y).item() == pytest.approx(eager, abs=1e-5)
    undo()
    assert (kernels.loss.loss_and_slope, muon.update) == before
    assert model(x, y).item() == eager


@pytest.mark.parametrize("works, ends", [(True, [1]), (False, [1, 0])])
def test_what_can_not_be_compiled_fails_unless_nothing_can(run, model, monkeypatch, works, ends):
    """Else an agent would never learn that its edit runs uncompiled."""
    tried = []

    def compile_parts(parts):
        tried.append(len(parts))
        return lambda: tried.append(0)

    def step(x, y):
        if tried[-1]:
            raise RuntimeError("no")

    monkeypatch.setattr(compiling, "worth_compiling", lambda parts, *_: parts)
    monkeypatch.setattr(compiling, "compile_parts", compile_parts)
    monkeypatch.setattr(compiling, "compiler_works", lambda device: works)
    part = compiling.Part("model", [model], 1, 1, 1.0)
    with pytest.raises(RuntimeError) if works else nullcontext():
        run.rehearse(step, 2, model, parts=[part])
    assert tried == ends


def test_a_step_that_does_not_fit_into_memory_goes_through_fewer_rows(run, model, capsys):
    seen = []

    def step(x, y):
        for piece, _, share in run.pieces(x, y):
            seen.append((len(piece), share))
            if len(piece) > 2:
                raise torch.OutOfMemoryError

    run.rehearse(step, 8, model, calls=1)
    assert seen == [(8, 1.0), (4, 0.5), *[(2, 0.25)] * 4]
    assert "a step goes through 2 rows at a time" in capsys.readouterr().out


def test_a_step_that_never_fits_says_so(run, model):
    def step(x, y):
        for _ in run.pieces(x, y):
            raise torch.OutOfMemoryError

    def step_without_pieces(x, y):
        raise torch.OutOfMemoryError

    for each in (step_without_pieces, step):
        with pytest.raises(torch.OutOfMemoryError):
            run.rehearse(each, 8, model, calls=1)


@pytest.mark.slow
def test_without_a_compiler_a_run_is_eager_and_good(arena, cache, tmp_path):
    process = start(tmp_path / "run", cache, RATCHET_BUDGET="20000tok", PATH="", CXX="")
    out, err = process.communicate(timeout=300)
    result = json.loads((tmp_path / "run/result.json").read_text("utf-8"))
    assert result["status"] == "ok" and process.returncode == 0, out + err
    assert out.count("torch.compile does not work here, running without") == 1
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_a_cold_compiler_gives_the_same_weights_as_a_warm_one(arena, cache, tmp_path):
    weights = []
    for name in ("cold", "warm"):
        conditions = dict(TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"), TMPDIR=str(tmp_path))
        process = start(tmp_path / name, cache, RATCHET_BUDGET="20000tok", **conditions)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


# --------------------------------------------------------------------------------------------------
# The end


def test_a_run_without_a_step_has_no_score(run, model, capsys):
    with pytest.raises(SystemExit) as end:
        run.submit(model)
    assert end.value.code == 1 and "no step was trained" in capsys.readouterr().err
    assert json.loads((run.folder / "result.json").read_text("utf-8"))["status"] == "crash"
    assert not (run.folder / "model.safetensors").exists()


def test_a_rehearsal_leaves_nothing_in_what_is_trained_beside_the_model(model):
    other = torch.nn.Linear(2, 2)
    before = other.weight.detach().clone()
    optimizer = torch.optim.AdamW([*model.parameters(), *other.parameters()])
    restore = snapshot(model, [optimizer])
    other(torch.ones(2)).sum().backward()
    optimizer.step()
    restore()
    assert torch.equal(other.weight, before) and other.weight.grad is None


def test_a_submitted_model_and_its_optimizers_keep_no_memory(model):
    """They are known: nobody searches a process for tensors, in which compilers leave traps."""
    average = torch.nn.Linear(8, 512)  # what is submitted may be another than what was trained
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.arange(4)).sum().backward()
    optimizer.step()
    table, grad = model[0].weight, model[0].weight.grad
    moments = [value for state in optimizer.state.values() for value in state.values()]
    batch = [torch.arange(4), torch.arange(4)]
    release_memory(average, [optimizer], batch)
    held = [*average.parameters(), *model.parameters(), *moments, *batch]
    assert {tensor.untyped_storage().nbytes() for tensor in held} == {0}
    assert table.grad is None and grad is not None


@pytest.mark.parametrize("held, said", [(2**20, ""), (3 * 2**30, "3.0 GB of the GPU's memory are")])
def test_what_a_contestant_holds_besides_is_told(monkeypatch, capsys, held, said):
    calls = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty"))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: calls.append("reserved") or held)
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    free_device_memory()
    assert calls == ["reset", "empty", "reserved"]
    assert capsys.readouterr().out.startswith(said)


RESULT = dict(arena="pocket", device="cpu", val_bpb=1.2, tokens=4e6, flops_per_token=1e7)


@pytest.mark.parametrize(
    "budget, seconds, custom, text",
    [
        ("300s", 290.0, False, "300s"),
        ("300s", 120.0, False, "300s (only 40% of it was used)"),
        ("20s", 19.0, True, "20s (not the arena's: for trying things out)"),
        ("8e6tok", 1.0, False, "8e6tok"),
        ("1e15flop", 1.0, False, "1e15flop (only 4% of it was used)"),
    ],
)
def test_a_summary_says_when_little_of_the_budget_was_used(budget, seconds, custom, text):
    result = RESULT | dict(budget=budget, train_seconds=seconds, custom_budget=custom)
    assert describe_budget(result) == text


@pytest.mark.parametrize(
    "figures, flops, mfu",
    [
        (dict(), "3e+08", "40.0"),
        (dict(published_flops_per_token=3e8), "3e+08", "40.0"),
        (
            dict(published_flops_per_token=4e8),
            "3e+08 (4e+08 as published: windows in full)",
            "40.0",
        ),
        (
            dict(published_flops_per_token=4e8, data_sheet_flops=989.5e12),
            "3e+08 (4e+08 as published: windows in full)",
            "40.0 (40.4 as published: of 989.5 TFLOP/s, the data sheet's)",
        ),
        (
            dict(data_sheet_flops=1e15),
            "3e+08",
            "40.0 (30.0 as published: of 1000.0 TFLOP/s, the data sheet's)",
        ),
    ],
)
def test_a_summary_says_what_published_figures_would(figures, flops, mfu):
    result = dict(flops_per_token=3e8, mfu_percent=40.0, tokens_per_second=1e6, **figures)
    assert describe_flops(result) == (flops, mfu)


@pytest.mark.parametrize(
    "name, flops",
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 0.0),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 0.0),
        ("NVIDIA GeForce GTX 1080", 0.0),
        ("cpu: AMD EPYC, 2 threads", 0.0),
    ],
)
def test_the_data_sheet_of_a_card_is_known_by_its_name(name, flops):
    assert data_sheet_flops(name) == flops


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, "2 CPU cores get 1.15 to 1.35 here after 300 s\n"),
        ({"val_bpb": 2.0}, "yours is slower: is the machine busy?"),
        ({"arena": "mine"}, "hasn't been measured"),
        ({"budget": "1e6tok"}, "hasn't been measured"),
        ({"device": "cuda:0"}, "hasn't been measured"),
    ],
)
def test_a_newcomer_is_told_what_a_score_means_and_what_to_do_next(
    monkeypatch, capsys, change, words
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    print_outlook(RESULT | {"budget": "300s"} | change)
    out = capsys.readouterr().out
    assert words in out and len(re.findall("^  uv run ratchet", out, re.M)) == 3


def test_the_text_has_been_seen_is_said_only_when_it_has(arena, monkeypatch, capsys, tmp_path):
    """A budget that is spent before the first step is another matter."""
    run = Run(arena, torch.device("cpu"), 0, "0.001s", tmp_path)
    run.rehearse = lambda *args, **options: None
    submitted = []
    run.submit = lambda *args: submitted.append(run.steps) or run._log.close()
    monkeypatch.setattr("prepare.enter", lambda: run)
    train.main()
    assert submitted == [1] and "has been seen" not in capsys.readouterr().out
    assert math.isfinite(json.loads((tmp_path / "curve.jsonl").read_text("utf-8"))["loss"])


def test_training_ends_after_its_epochs_and_says_so(arena, capsys, tmp_path):
    run = Run(arena, torch.device("cpu"), 0, "300s", tmp_path)
    seen = [run.progress for _ in run.batches(8, epochs=1 / 64)]
    assert 0 <= run.tokens - arena.train_tokens / 64 < 8 * 64
    assert seen[0] < 0.1 and seen == sorted(seen) and seen[-1] > 0.9 and run.progress == 1
    assert "has been seen 0.015625 times" in capsys.readouterr().out
