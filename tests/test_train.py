"""train.py: each part against a plain one, the contract, and whole runs as a user starts them."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, LocalModel, score
from safetensors.torch import load_file, save_file, save_model

import train
from ratchet.arena.results import SUMMARY
from ratchet.arena.run import Run
from ratchet.arena.tokenizer import BOS, load_tokenizer, token_bytes

SMALL = dict(vocab_size=512, context=64, depth=3, heads=2, head_size=64, windows=[4, 2, 1])
SMALL |= dict(table_bits=9, dtype="float32")


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = train.GPT(**SMALL)
    for parameter in model.parameters():  # as if trained: nothing is zero, nothing hides
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


# --------------------------------------------------------------------------------------------------
# Parts


def test_rotation_keeps_lengths_and_knows_only_distances():
    frequencies = 100.0 ** -(torch.arange(4) / 4)
    angles = torch.arange(9)[:, None] * frequencies
    rotary = torch.stack([angles.cos(), angles.sin()])[:, :, None]
    q, k = torch.randn(1, 1, 1, 8).expand(1, 9, 1, 8), torch.randn(1, 1, 1, 8).expand(1, 9, 1, 8)
    turned_q, turned_k = train.rotate(q, rotary), train.rotate(k, rotary)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
    products = (turned_q[0, :, 0] @ turned_k[0, :, 0].T).diagonal(offset=-3)
    torch.testing.assert_close(products, products[:1].expand_as(products))


@pytest.mark.parametrize("shape", [(3, 32, 64), (2, 96, 32)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    x = train.orthogonalize(
        torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.float32
    )
    values = torch.linalg.svdvals(x)
    assert values.min() > 0.6 and values.max() < 1.3


def test_muon_treats_a_batch_of_matrices_as_it_treats_each_alone():
    torch.manual_seed(0)
    together = [torch.nn.Parameter(torch.randn(8, 16)) for _ in range(3)]
    alone = [torch.nn.Parameter(p.detach().clone()) for p in together]
    optimizers = [train.Muon(together, torch.float32)] + [
        train.Muon([p], torch.float32) for p in alone
    ]
    for _ in range(3):
        for p, q in zip(together, alone, strict=True):
            p.grad = torch.randn(8, 16)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(together, alone, strict=True):
        torch.testing.assert_close(p, q)


def test_muon_decays_only_weights_that_the_step_shrinks_too():
    p = torch.nn.Parameter(torch.ones(4, 4))
    p.data[:2] = -1
    free, decayed = (train.Muon([p], torch.float32) for _ in range(2))
    steps = []
    for optimizer, decay in ((free, 0.0), (decayed, 0.5)):
        optimizer.param_groups[0].update(lr=0.1, weight_decay=decay)
        q, before = optimizer.param_groups[0]["params"][0], p.detach().clone()
        q.grad = torch.ones(4, 4) + torch.eye(4)
        optimizer.step()
        steps.append(before - p.detach())
        p.data = before
    shrinks = steps[0] * p.detach() > 0
    torch.testing.assert_close(steps[1] - steps[0], 0.05 * p.detach() * shrinks)
    assert shrinks.any() and not shrinks.all()


def vectors(ngrams, tokens):
    return ngrams(F.pad(tokens, (train.NGRAMS - 1, 0), value=BOS))


def test_ngrams_know_the_last_tokens_and_nothing_else(monkeypatch):
    torch.manual_seed(0)
    x = torch.randint(512, (2, 20))
    x[1, 10:13] = x[0, 5:8]
    y = x.clone()
    y[:, 15] += 1
    for longest in (2, 3, 4):
        monkeypatch.setattr(train, "NGRAMS", longest)
        ngrams = train.NGrams(8, 12)
        torch.nn.init.normal_(ngrams.table.weight)
        out, changed = vectors(ngrams, x), vectors(ngrams, y)
        moved = (out != changed).any(-1)
        assert moved[:, 15 : 15 + longest].all() and moved.sum() == 2 * longest
        known = longest <= 3  # of the three tokens that stand in both rows
        assert torch.equal(out[1, 12], out[0, 7]) == known
        from_bos = torch.tensor([[BOS, 7, 9]])
        assert torch.equal(vectors(ngrams, from_bos)[0, 2], vectors(ngrams, from_bos[:, 1:])[0, 1])
    ngrams.dropout = 0.5
    left = vectors(ngrams, x)
    torch.testing.assert_close(left, 2 * out * (left != 0))
    assert 0 < (left == 0).all(-1).sum() < x.numel()
    torch.testing.assert_close(vectors(ngrams.eval(), x), out)


def test_the_rows_of_a_table_are_used_evenly():
    ngrams = train.NGrams(1, 12)
    used = torch.zeros(2**12)

    def count(table, args, out):
        used.add_(args[0].flatten().bincount(minlength=2**12))

    ngrams.table.register_forward_hook(count)
    pairs = torch.cartesian_prod(
        torch.arange(128), torch.arange(128)
    )  # 2 n-grams each, 8 for each row
    vectors(ngrams, pairs)
    assert used.sum() == 2 * 2 * 2**14
    assert (used > 0).float().mean() > 0.95


def test_row_adam_is_adam_with_one_second_moment_for_a_row():
    torch.manual_seed(0)
    table = torch.nn.Embedding(10, 4, sparse=True)
    optimizer = train.RowAdam(table.weight, lr=0.1)
    expected, variance, count = table.weight.detach().clone(), torch.zeros(10), torch.zeros(10)
    for ids in ([1, 3, 3], [3, 7, 7], [1, 1, 1]):
        direction = torch.randn(3, 4)
        (table(torch.tensor(ids)) * direction).sum().backward()
        grad = torch.zeros(10, 4).index_add_(0, torch.tensor(ids), direction)
        for row in {*ids}:
            count[row] += 1
            mean, b = grad[row].square().mean(), train.TABLE_BETA2
            share = max(1 - b, 1 / count[row])
            variance[row] = (1 - share) * variance[row] + share * mean
            step = grad[row] / variance[row].sqrt()
            expected[row] -= 0.1 * (step + train.TABLE_WEIGHT_DECAY * expected[row])
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(table.weight.detach(), expected)


def test_schedules_go_from_full_rate_to_zero(model):
    optimizers = train.make_optimizers(model)
    top = [group["peak_lr"] for optimizer in optimizers for group in optimizer.param_groups]
    for progress, share in ((0.0, 1.0), (1 - train.WARMDOWN, 1.0), (1.0, 0.0)):
        train.set_schedules(optimizers, progress)
        rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
        assert rates == pytest.approx([share * lr for lr in top])
    assert all(
        group["weight_decay"] == 0 for optimizer in optimizers for group in optimizer.param_groups
    )


def test_every_parameter_is_in_one_optimizer(model):
    grouped = [
        p for o in train.make_optimizers(model) for group in o.param_groups for p in group["params"]
    ]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


def test_a_step_in_parts_is_the_step(model, arena, tmp_path):
    x, y = torch.randint(512, (2, 4, 64))
    run = Run(arena, torch.device("cpu"), 0, "1e6tok", tmp_path)
    state, results = {key: value.clone() for key, value in model.state_dict().items()}, []
    for rows in (4, 1):
        model.load_state_dict(state)
        run._piece_rows = rows
        loss = train.train_step(run, model, train.make_optimizers(model), x, y)
        results.append((loss, [p.detach().clone() for p in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)


PEERS = """
import sys, torch, prepare, train
from ratchet.arena.hardware.cpu import apply_cpu_workarounds
from ratchet.arena.run import Run
from safetensors.torch import load_file, save_file
torch.distributed.init_process_group("gloo")
torch.set_num_threads(1)
apply_cpu_workarounds()
folder = sys.argv[1]
given = load_file(folder + "/given.safetensors")
x, y = given.pop("x"), given.pop("y")
model = train.GPT(**__SMALL__)
model.load_state_dict(given)
run = Run(__ARENA__, torch.device("cpu"), 0, "1e6tok", folder)
optimizers = train.make_optimizers(model)
losses = torch.stack([train.train_step(run, model, optimizers, x, y) for _ in range(3)])
if torch.distributed.get_rank() == 0:
    save_file({"losses": losses, **model.state_dict()}, folder + "/out.safetensors")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_as_one_does(model, arena, tmp_path):
    """The same losses and the same weights, up to the order in which floats are added."""
    given = {key: value.clone() for key, value in model.state_dict().items()}
    x, y = torch.randint(512, (2, 4, 64))
    save_file(given | {"x": x, "y": y}, tmp_path / "given.safetensors")
    facts = f"__import__('types').SimpleNamespace(train_tokens={arena.train_tokens})"
    program = PEERS.replace("__SMALL__", repr(SMALL)).replace("__ARENA__", facts)
    (tmp_path / "peers.py").write_text(program, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*launch, tmp_path / "peers.py", tmp_path], env=environment, check=True, timeout=120
    )
    out = load_file(tmp_path / "out.safetensors")
    run = Run(arena, torch.device("cpu"), 0, "1e6tok", tmp_path)
    optimizers = train.make_optimizers(model)
    losses = torch.stack([train.train_step(run, model, optimizers, x, y) for _ in range(3)])
    torch.testing.assert_close(out.pop("losses"), losses, atol=1e-3, rtol=0)
    for (
        name,
        parameter,
    ) in model.named_parameters():  # what a matrix learns in a step is 0.01 and more
        torch.testing.assert_close(out[name], parameter.detach(), atol=4e-3, rtol=1e-2, msg=name)


# --------------------------------------------------------------------------------------------------
# Contract


def test_the_model_is_causal_stateless_and_independent_by_the_scorers_own_probes(
    model, arena, finished_run, monkeypatch
):
    monkeypatch.setattr("ratchet.arena.score.ModelProcess", LocalModel)
    folder = finished_run(ROOT / "train.py")
    (folder / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
    save_model(model, str(folder / "model.safetensors"))
    result = score(folder)
    assert result["status"] == "ok" or "sane" in result["reason"], result
    assert all(ok for name, (ok, _) in result["probes"].items() if name != "sane")


def test_a_saved_model_is_the_model(model, tmp_path):
    save_model(model, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
    tokens = torch.randint(512, (2, 64))
    with torch.no_grad():
        assert torch.equal(train.load(tmp_path)(tokens), model(tokens))


def test_a_model_is_loaded_without_the_compiler(model, tmp_path, monkeypatch):
    """On the device "meta" some functions of PyTorch import SymPy, for a second or two."""
    save_model(model, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "torch.fx.experimental.symbolic_shapes", None)
    assert train.load(tmp_path).embedding.weight.device.type == "cpu"


@pytest.mark.parametrize("pieces", [[64], [1] * 64, [7, 1, 1, 30, 1, 24]])
def test_decoding_gives_the_logits_of_the_whole_row(model, pieces):
    """Windows and n-grams included. The future is not there yet: it is causal, too."""
    tokens = torch.randint(4, (3, 64))  # few, so that much is repeated
    tokens[:, 0] = BOS
    with torch.no_grad():
        model.eval()
        cache = model.init_cache(3, 64)
        out = torch.cat(
            [model.decode(cache, piece) for piece in tokens.split(pieces, dim=1)], dim=1
        )
        torch.testing.assert_close(out, model(tokens), atol=1e-4, rtol=1e-4)


def test_a_new_model_knows_nothing_and_says_so():
    model = train.GPT(**SMALL)
    x, y = torch.randint(512, (2, 2, 64))
    assert model(x, y).item() == pytest.approx(math.log(512), abs=1e-5)


# --------------------------------------------------------------------------------------------------
# Whole runs, as their users start them


def start(folder, cache, contestant=ROOT / "train.py", **conditions):
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("RATCHET", "WANDB"))
    }
    environment |= {
        "RATCHET_CACHE": str(cache),
        "RATCHET_RUN": str(folder),
        "RATCHET_ARENA": "tiny",
        "PYTHONPATH": str(ROOT),
    } | conditions
    command = [sys.executable, "-W", "default", str(contestant)]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def finished(arena, cache, tmp_path_factory):
    """(folder, output, result) of two runs with one seed and one budget of tokens."""
    runs = []
    for conditions in ({"WANDB_MODE": "offline"}, {}):
        folder = tmp_path_factory.mktemp("runs") / "run"
        process = start(folder, cache, RATCHET_SEED="5", RATCHET_BUDGET="1e5tok", **conditions)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        runs.append((folder, out, json.loads((folder / "result.json").read_text(encoding="utf-8"))))
    return runs


@pytest.mark.slow
def test_a_run_learns_more_than_the_frequency_of_tokens(finished, arena):
    rows = np.fromfile(arena.folder / "val.rows", np.uint16).reshape(-1, 65)[:, 1:]
    train_tokens = np.fromfile(arena.folder / "train.tokens", np.uint16)
    shares = (np.bincount(train_tokens, minlength=512) + 1) / (len(train_tokens) + 512)
    sizes = token_bytes(load_tokenizer(arena.folder))[rows]
    frequencies = -np.log2(shares[rows][sizes > 0]).sum() / sizes.sum()
    assert finished[0][2]["status"] == "ok" and 1.0 < finished[0][2]["val_bpb"] < 0.95 * frequencies


@pytest.mark.slow
def test_the_same_seed_and_tokens_give_the_same_score_bit_for_bit(finished):
    first, second = (result for _, _, result in finished)
    assert first["nats"] == second["nats"] and first["steps"] == second["steps"]


@pytest.mark.slow
def test_the_summary_and_the_result_hold_what_the_readme_promises(finished):
    folder, out, result = finished[0]
    summary = out.split("---\n")[1].split("lower is better")[0]
    keys = [line.split(":")[0] for line in summary.splitlines()]
    assert keys == [*SUMMARY]
    assert f"val_bpb:           {result['val_bpb']:.6f}\n" in out
    assert "official:          no" in out and "for trying things out" in out
    assert (
        result["mfu_percent"] > 0
        and result["flops_per_token"] > 1e6
        and 0 < result["lookup"] < result["params"]
    )
    assert result["tokens"] == result["steps"] * 8 * 64
    curve = [
        json.loads(line)
        for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(curve) == result["steps"] and curve[-1]["loss"] < curve[0]["loss"]


@pytest.mark.slow
def test_wandb_gets_the_curve_when_it_is_asked_for_and_only_then(finished):
    (asked, *_), (silent, *_) = finished
    assert list(asked.glob("wandb/offline-run-*/*.wandb")) and not (silent / "wandb").exists()


@pytest.mark.slow
def test_scoring_again_gives_the_same_number_also_with_another_batch(finished, cache):
    folder, _, result = finished[1]
    command = [sys.executable, str(ROOT / "prepare.py"), "score", str(folder), "--batch", "7"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    again = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert again["val_bpb"] == pytest.approx(result["val_bpb"], abs=1e-5)


@pytest.mark.slow
def test_training_ends_when_the_text_has_been_seen(arena, cache, tmp_path):
    text = (ROOT / "train.py").read_text(encoding="utf-8")
    (tmp_path / "train.py").write_text(
        text.replace("EPOCHS = 2 ", "EPOCHS = 1 / 64 "), encoding="utf-8"
    )
    process = start(tmp_path / "run", cache, tmp_path / "train.py", RATCHET_BUDGET="300s")
    out, err = process.communicate(timeout=300)
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "ok" and "has been seen" in out, out + err
    assert 0 <= result["tokens"] - arena.train_tokens / 64 < 8 * 64


@pytest.mark.slow
def test_a_run_of_two_processes_is_the_run_of_one(finished, cache, tmp_path):
    """One clock, one score, the same tokens: torchrun with gloo, against the run above."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    conditions = dict(
        RATCHET_CACHE=cache, RATCHET_RUN=tmp_path / "run", RATCHET_ARENA="tiny", PYTHONPATH=ROOT
    )
    conditions |= dict(RATCHET_SEED=5, RATCHET_BUDGET="1e5tok", OMP_NUM_THREADS=1)
    environment = os.environ | {key: str(value) for key, value in conditions.items()}
    done = subprocess.run(
        [*launch, ROOT / "train.py"], env=environment, capture_output=True, timeout=400
    )
    result, alone = (
        json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8")),
        finished[1][2],
    )
    assert done.returncode == 0 and result["tokens"] == alone["tokens"], done.stderr
    assert result["val_bpb"] == pytest.approx(alone["val_bpb"], abs=0.02)
    losses = []
    for folder in (tmp_path / "run", finished[1][0]):
        losses.append(
            [
                json.loads(line)["loss"]
                for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()
            ]
        )
    np.testing.assert_allclose(losses[0][:3], losses[1][:3], atol=0.005)
    np.testing.assert_allclose(
        losses[0], losses[1], atol=0.2
    )  # differences grow, as every change of a float does


@pytest.mark.slow
def test_ctrl_c_ends_training_and_scores_what_there_is(arena, cache, tmp_path):
    process = start(tmp_path / "run", cache, RATCHET_BUDGET="300s")
    curve = tmp_path / "run" / "curve.jsonl"
    deadline = time.monotonic() + 120
    while not curve.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert process.returncode == 0 and result["interrupted"] and "(interrupted)" in out, out + err
    assert result["train_seconds"] < 100 and result["status"] == "ok"
