"""examples/contestants/memory.py: its parts against slow ones, a few steps, the saved model."""

import importlib.util
import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from safetensors.torch import save_model

from ratchet.arena.run import Run
from ratchet.arena.tokenizer import BOS

SMALL = dict(
    vocab_size=512, context=64, depth=3, width=128, head_size=64, windows="SHL", dtype="float32"
)
SMALL |= dict(tables=(9, 8), memory=10)


@pytest.fixture(scope="module")
def memory():
    path = ROOT / "examples/contestants/memory.py"
    spec = importlib.util.spec_from_file_location("memory", path)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.fixture
def model(memory):
    torch.manual_seed(0)
    model = memory.GPT(**SMALL)
    model.init_weights()
    for parameter in model.parameters():  # as if trained: nothing is zero, nothing hides
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.head.memory.learn(*torch.randint(4, (2, 8, 64)))
    return model


def test_it_learns_in_a_few_steps_and_what_it_saved_is_the_model(memory, arena, tmp_path):
    torch.manual_seed(0)
    model = memory.GPT(**SMALL)
    model.init_weights()
    run = Run(arena, torch.device("cpu"), 0, "3000tok", tmp_path)
    optimizers, losses = memory.make_optimizers(model), []
    for x, y in run.batches(8):
        losses.append(memory.train_step(run, model, optimizers, x, y).item())
    assert losses[-1] < losses[0] - 0.1 and model.head.memory.entries.any()
    save_model(model, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
    with torch.no_grad():
        assert torch.equal(memory.load(tmp_path).eval()(x), model.eval()(x))


def test_decoding_gives_the_logits_of_the_whole_row(model):
    tokens = torch.randint(4, (3, 64))  # few, so that much is repeated
    tokens[:, 0] = BOS
    with torch.no_grad():
        cache = model.eval().init_cache(3, 64)
        pieces = tokens.split([7, 1, 1, 30, 1, 24], dim=1)
        out = torch.cat([model.decode(cache, piece) for piece in pieces], dim=1)
        torch.testing.assert_close(out, model(tokens), atol=1e-4, rtol=1e-4)


def test_every_parameter_is_in_one_optimizer(memory, model):
    optimizers = memory.make_optimizers(model)
    grouped = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


def test_its_parts_can_be_compiled(memory, model):
    parts = memory.compilable_parts(model, memory.make_optimizers(model)[0])
    assert [part.name for part in parts] == ["loss", "block", "norm", "muon"]
    for part in parts:
        for target in part.targets:
            assert isinstance(target, torch.nn.Module) or callable(getattr(*target))


def test_repeats_are_what_a_slow_search_finds(memory):
    tokens = torch.randint(4, (3, 40))
    copied, there = memory.repeats(tokens, tokens.size(1))
    for row, t, n in itertools.product(range(3), range(40), range(memory.COPY)):
        text = [BOS] * n + tokens[row].tolist()  # text[t : t + n + 1] ends with token t
        places = [s for s in range(t) if text[s : s + n + 1] == text[t : t + n + 1]]
        assert there[row, t, n] == bool(places)
        assert not places or copied[row, t, n] == tokens[row, places[-1] + 1]


def test_the_memory_gives_what_a_slow_search_finds_and_hides_a_row_from_itself(memory, monkeypatch):
    monkeypatch.setattr(memory, "TRACE", 8)
    module, memory = memory, memory.Memory(16)
    texts, targets = torch.randint(3, (2, 30)), torch.randint(1, 90, (2, 30))
    x = torch.randint(3, (1, 50))
    x[0, 20:] = texts[0]
    assert not memory(x)[1].any()
    memory.learn(texts, targets)
    memory.learn(texts, targets)  # once more changes nothing
    for training in (True, False):
        following, known = memory.train(training)(x)
        for t, n, way in itertools.product(
            range(50), range(1, module.RECALL + 1), range(module.WAYS)
        ):
            row, own = [BOS] * 8 + texts[way].tolist(), [BOS] * 8 + x[0].tolist()
            ends = [
                s for s in range(8, 38) if row[s + 1 - n : s + 1] == own[8 + t + 1 - n : 8 + t + 1]
            ]
            answers, place = {targets[way, s - 8].item() for s in ends}, (n - 1) * module.WAYS + way
            if training:  # the places are shared: one that is hidden may hide another
                itself = [s for s in ends if row[s - 7 : s + 1] == own[t + 1 : t + 9]]
                assert not known[0, t, place] or ends != itself
            else:
                assert known[0, t, place] == bool(ends)
            assert not known[0, t, place] or following[0, t, place].item() in answers
    assert module.Memory(0)(x)[0].shape == (1, 50, 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "rows, context, vocab_size, piece, compiled",
    [
        (1, 1, 5, 8, False),
        (3, 37, 501, 2, False),
        (8, 16, 128, 4, False),
        (3, 37, 501, 2, True),
        pytest.param(1, 1, 5, 8, True, marks=pytest.mark.slow),
        pytest.param(8, 16, 128, 4, True, marks=pytest.mark.slow),
    ],
)
def test_the_loss_some_rows_at_a_time_is_the_cross_entropy_of_the_logits(
    memory, rows, context, vocab_size, piece, compiled
):
    torch.manual_seed(0)
    loss_of = torch.compile(memory.capped_loss, dynamic=False) if compiled else memory.capped_loss
    x, weight, bias = (
        torch.randn(rows, context, 24),
        torch.randn(vocab_size, 24),
        torch.randn(vocab_size),
    )
    weight[0] *= 100  # logits far beyond the cap
    tokens, targets = torch.randint(vocab_size, (2, rows, context))
    copied = torch.randint(vocab_size, (rows, context, 3))
    inputs, results = (x, weight, torch.randn(rows, context, 4), bias), []
    for in_pieces in (True, False):
        x, weight, bonus, bias = leaves = [t.clone().requires_grad_() for t in inputs]
        if in_pieces:
            first = memory.first_place(tokens, vocab_size)
            loss = memory.HeadLoss.apply(
                x, weight, bonus, copied, bias, first, targets, loss_of, piece
            )
        else:
            seen = F.one_hot(tokens, vocab_size).cumsum(1) > 0
            logits = (x @ weight.T).scatter_add(-1, copied, bonus[..., :3]) + bonus[
                ..., 3:
            ] * bias * seen
            capped = memory.SOFTCAP * torch.tanh(logits / memory.SOFTCAP)
            loss = F.cross_entropy(capped.flatten(0, 1), targets.flatten())
        (3 * loss).backward()
        results.append((loss.detach(), *(leaf.grad for leaf in leaves)))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)
