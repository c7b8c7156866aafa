"""probes.py: who is asked what, what answers that differ cost."""

import itertools
import math
from contextlib import closing

import numpy as np
import pytest
import torch
from conftest import ROOT, LocalModel, score
from safetensors.torch import save_file

from ratchet.arena import probes
from ratchet.arena import score as scoring
from ratchet.arena.model_process.process import Invalid
from ratchet.arena.probes import (
    CANARIES,
    CONTROLS,
    CUTS,
    Evidence,
    change_futures,
    check_probes,
    draw_plan,
    near_means,
    upper_bound,
)
from ratchet.arena.results import bits_per_byte
from ratchet.arena.score import read_rows

NOISY = """
import torch
class Noisy(torch.nn.Module):
    def forward(self, tokens):
        return SIZE * torch.rand(*tokens.shape, 512)
def load(folder):
    return Noisy()
"""
CHEAT = (ROOT / "tests/cheats/bought_tolerance.py").read_text(encoding="utf-8")
# what it changes to get a GPU's tolerance for its peek
BARGAINS = {
    "a temperature of each process": {},
    "of each position": {'"process"  #': '"position"  #'},
    "of each row": {'"process"  #': '"row"  #'},
    "of each batch": {'"process"  #': '"batch"  #'},
    "nothing, for a tiny peek": {"= 3e-3": "= 9e-4", "= 1e-3": "= 0.0"},
    "for a peek 8 tokens ahead": {"3e-3, 1": "3e-3, 8"},
}


@pytest.fixture
def local(monkeypatch):
    monkeypatch.setattr("ratchet.arena.score.ModelProcess", LocalModel)


@pytest.fixture
def submit(finished_run, tmp_path, arena):
    """submit(source of a model) -> the folder of its run, whose weights are the best guess that
    needs no context: another temperature makes it worse.
    """
    counts = np.bincount(read_rows(arena, "val")[:, 1:].flat, minlength=512)
    guess = torch.from_numpy(np.where(np.arange(512) < 4, 0.01, counts + 0.01)).log().float()

    def make(source):
        (path := tmp_path / "contestant.py").write_text(source, encoding="utf-8")
        folder = finished_run(path)
        save_file({"guess": guess}, folder / "model.safetensors")
        return folder

    return make


@pytest.fixture
def on_gpu(monkeypatch):
    """This device is judged as a GPU is."""
    monkeypatch.setitem(probes.TOLERANCES, "cpu", probes.TOLERANCES["cuda"])


def evidence(arena, moved, cuts, device="cpu"):
    """What was seen of a model that knows nothing, whose answers moved by so much."""
    nats = np.full((600, 64), math.log(508), np.float32)
    sizes = arena, "val", device, nats, nats[:CANARIES], np.float32(moved), np.array(cuts)
    return Evidence(*sizes, arena.val_bytes)


# --------------------------------------------------------------------------------------------------
# Who is asked what


def test_no_process_can_tell_its_role_from_what_it_is_asked():
    """Each gets rows, canaries and second looks, in any order."""
    generator, rows = np.random.default_rng(0), np.zeros((600, 65), np.uint16)
    plans = [draw_plan(rows, 512, generator) for _ in range(200)]
    sooner = canaries = 0
    for plan in plans:
        again = plan.dealt[-len(plan.watched) :]
        assert len(plan.dealt) == 600 + CANARIES + CONTROLS + CUTS
        assert {*plan.dealt.tolist()} == {*range(plan.processes)}
        assert (plan.dealt[plan.watched] != again).all()
        sooner += (plan.dealt[plan.watched] > again).mean()
        shares = [
            np.bincount(part, minlength=plan.processes) / len(part)
            for part in (plan.dealt[:600], plan.dealt[plan.watched], again)
        ]
        assert all(0.15 < share.min() for share in shares), shares
        canaries += (plan.dealt[600 : 600 + CANARIES] == 0).mean()
    assert sooner / len(plans) == pytest.approx(0.5, rel=0.05)
    assert 0.4 < canaries / len(plans) < 0.5
    assert 30 < sum(plan.processes == 3 for plan in plans) < 70


def test_a_contestant_starts_when_the_one_before_it_has_ended(monkeypatch):
    """Only libraries may load meanwhile; and none is left, whatever happens."""
    events, numbers, cpu = [], itertools.count(), torch.device("cpu")

    class Model:
        def __init__(self, folder, arena, device, batch):
            self.number = next(numbers)
            events.append(f"start {self.number}")

        def close(self):
            events.append(f"close {self.number}")

    monkeypatch.setattr(scoring, "ModelProcess", Model)
    with closing(scoring.models_in_turn("", "", cpu, 4, 3)) as models:
        for model in models:
            events.append(f"use {model.number}")
    begin = "start 0, start 1, use 0, close 0, start 2, use 1, close 1, use 2, close 2"
    assert ", ".join(events).startswith(begin)
    events.clear()
    with pytest.raises(Invalid), closing(scoring.models_in_turn("", "", cpu, 4, 2)) as models:
        next(models)
        raise Invalid
    assert {"close 3", "close 4"} <= {*events}


def test_a_changed_future_is_that_of_another_row(arena):
    generator, rows = np.random.default_rng(0), read_rows(arena, "val")
    plan = draw_plan(rows, arena.vocab_size, generator)
    again = change_futures(rows, plan, generator)
    assert (again[:CONTROLS] == rows[plan.watched[:CONTROLS], :-1]).all()
    assert len(again) == CONTROLS + len(plan.cuts) and {*plan.cuts.tolist()} <= {*range(63)}
    for inputs, row, cut in zip(again[CONTROLS:], plan.watched[CONTROLS:], plan.cuts):
        assert (inputs[: cut + 1] == rows[row, : cut + 1]).all()
        assert (inputs[cut + 1 :] == rows[:, cut + 1 : -1]).all(1).any()
    assert (again[CONTROLS:] != rows[plan.watched[CONTROLS:], :-1]).any(1).mean() > 0.9


def test_a_row_that_is_watched_twice_is_asked_in_another_process_each_time():
    """A small arena has fewer rows than are looked at again; it is probed as much."""
    plan = draw_plan(np.zeros((9, 65), np.uint16), 512, np.random.default_rng(0))
    assert len(plan.watched) == CONTROLS + CUTS == len(plan.cuts) + CONTROLS
    assert (plan.dealt[plan.watched] != plan.dealt[9 + CANARIES :]).all()


# --------------------------------------------------------------------------------------------------
# What differing answers cost


def test_means_before_a_cut_are_of_the_nearest_positions():
    leaks = np.array([[4.0, 2.0, 0.0, 0.0, 4.0], [1.0, 3.0, np.nan, np.nan, np.nan]])
    assert [mean.tolist() for mean in near_means(leaks)] == [[4, 1], [3, 2], [1.5, 2], [2, 2]]


def test_an_upper_bound_is_some_standard_errors_above_the_mean():
    assert upper_bound(np.zeros(5)) == 0
    values = np.array([1.0, 2.0, 3.0])  # of deviation 1
    assert upper_bound(values) == pytest.approx(2 + probes.DOUBT / math.sqrt(3))


def test_a_model_that_answers_alike_is_charged_nothing(arena):
    seen = evidence(arena, np.zeros((CONTROLS + 2, 64)), [3, 62])
    assert (seen.charge, seen.charged_nats) == (0, 0)
    assert "charged" not in check_probes(seen)["causality"][1]


@pytest.mark.parametrize("place", ["controls", "cuts", "far from the cuts"])
def test_a_model_is_charged_for_each_token_what_its_answers_differ_by(place, arena):
    moved, cuts = np.zeros((CONTROLS + 4, 64)), [9, 30, 40, 62]
    if place == "controls":
        moved[:CONTROLS] = 1e-3
    for row, cut in zip(moved[CONTROLS:], cuts):
        if place == "cuts":
            row[cut] = 1e-3
        elif place == "far from the cuts":
            row[: cut + 1] = 1e-3
            row[cut] = 0
        row[cut + 1 :] = 5.0  # which may differ as it likes
    seen = evidence(arena, moved, cuts, "cuda")
    low, high = (0.98e-3, 1.1e-3) if place == "far from the cuts" else (1e-3 - 1e-9, 1e-3 + 1e-9)
    assert low <= seen.charge <= high
    assert seen.charged_nats == pytest.approx(seen.charge * 600 * 64)
    uncharged = evidence(arena, 0 * moved, cuts).bpb
    cost = seen.charge * 600 * 64 / math.log(2) / arena.val_bytes
    assert seen.bpb - uncharged == pytest.approx(cost, rel=1e-6)


@pytest.mark.parametrize("size, status", [(4e-6, "ok"), (4e-5, "invalid")])
def test_a_cpu_must_answer_alike(size, status, submit, local):
    """What floating point may do is charged, more is invalid."""
    result = score(submit(NOISY.replace("SIZE", str(size))))
    assert result["status"] == status, result
    assert 0 < result["charged_nats"] < 1e-5 * 607 * 64 or status == "invalid"
    total = result["nats"] + result["charged_nats"]
    assert result["val_bpb"] == pytest.approx(total / math.log(2) / result["bytes"])


def test_a_gpu_may_answer_a_little_differently(submit, local, on_gpu):
    result = score(submit(NOISY.replace("SIZE", "4e-3")))
    assert result["status"] == "ok" and 1e-3 < result["charged_nats"] / 607 / 64 < 3e-3
    assert f"{result['charged_nats'] / 607 / 64:.1e} charged" in result["probes"]["causality"][1]


def score_bargain(name, submit, repeats):
    """What is gained, in bits per byte: [(before the charge, after it)] of some scorings."""
    source = CHEAT
    for old, new in BARGAINS[name].items():
        source = source.replace(old, new)
    honest = source.replace("self.guess + LEAK *", "self.guess + 0 *")
    folder = submit(honest.replace("JITTER * self", "0 * self"))
    before = score(folder)
    assert before["status"] == "ok" and before["charged_nats"] == 0
    (folder / "train.py").write_text(source, encoding="utf-8")
    gains = []
    for _ in range(repeats):
        result = score(folder)
        raw = bits_per_byte(result["nats"], result["bytes"])
        gains.append((before["val_bpb"] - raw, before["val_bpb"] - result["val_bpb"]))
    return gains


@pytest.mark.parametrize("name", BARGAINS)
def test_tolerance_is_not_for_sale(name, submit, local, on_gpu):
    """Not even where the probes would let it through."""
    gains = score_bargain(name, submit, 2)
    assert all(after <= 0 for _, after in gains), gains
    assert all(before > 0 for before, _ in gains) or "8 tokens" in name, gains


@pytest.mark.slow
@pytest.mark.parametrize("name", BARGAINS)
def test_tolerance_is_not_for_sale_in_twenty_scorings(name, submit, local, on_gpu):
    assert all(after <= 0 for _, after in score_bargain(name, submit, 20))


@pytest.mark.parametrize("name", BARGAINS)
def test_a_cpu_tolerates_none_of_them(name, submit, local):
    source = CHEAT
    for old, new in BARGAINS[name].items():
        source = source.replace(old, new)
    assert score(submit(source))["status"] == "invalid"
