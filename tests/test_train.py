"""train.py: each part against a plain one, the contract, and whole runs as a user starts them."""

import itertools
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
from ratchet.arena.run import Run
from ratchet.arena.score import SUMMARY
from ratchet.arena.tokenizer import BOS, load_tokenizer, token_bytes

SMALL = dict(
    vocab_size=512, context=64, depth=3, width=128, head_size=64, windows="SHL", dtype="float32"
)
SMALL |= dict(tables=(9, 8), memory=10)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = train.GPT(**SMALL)
    model.init_weights()
    for parameter in model.parameters():  # as if trained: nothing is zero, nothing hides
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.head.memory.learn(*torch.randint(4, (2, 8, 64)))
    return model


# --------------------------------------------------------------------------------------------------
# Parts


@pytest.mark.parametrize("window", [1, 5, 16, 40])
def test_attention_equals_a_loop_over_positions(window, monkeypatch):
    monkeypatch.setattr(train, "QUERIES", 6)  # three blocks, the last one shorter
    q, k, v = torch.randn(3, 2, 16, 3, 8)
    out = train.blockwise(q, k, v, window)
    for t in range(16):
        seen = slice(max(0, t - window + 1), t + 1)
        scores = torch.einsum("bhd,bshd->bhs", q[:, t], k[:, seen]) / math.sqrt(8)
        expected = torch.einsum("bhs,bshd->bhd", scores.softmax(-1), v[:, seen])
        torch.testing.assert_close(out[:, t], expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("window", [100, 200])
def test_compiled_attention_has_the_gradients_of_pytorchs_own(window):
    inputs, grads = torch.randn(3, 2, 200, 2, 16), []
    distance = torch.arange(200)[:, None] - torch.arange(200)

    def fused(q, k, v, window):
        mask = (distance >= 0) & (distance < window)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    for attend in (torch.compile(train.blockwise, dynamic=False), fused):
        leaves = [t.clone().requires_grad_() for t in inputs]
        attend(*leaves, window).square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "rows, context, vocab_size, piece", [(1, 1, 5, 8), (3, 37, 501, 2), (8, 16, 128, 4)]
)
def test_the_loss_some_rows_at_a_time_is_the_cross_entropy_of_the_logits(
    rows, context, vocab_size, piece, compiled
):
    torch.manual_seed(0)
    loss_of = torch.compile(train.capped_loss, dynamic=False) if compiled else train.capped_loss
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
            first = train.first_place(tokens, vocab_size)
            loss = train.HeadLoss.apply(
                x, weight, bonus, copied, bias, first, targets, loss_of, piece
            )
        else:
            seen = F.one_hot(tokens, vocab_size).cumsum(1) > 0
            logits = (x @ weight.T).scatter_add(-1, copied, bonus[..., :3]) + bonus[
                ..., 3:
            ] * bias * seen
            capped = train.SOFTCAP * torch.tanh(logits / train.SOFTCAP)
            loss = F.cross_entropy(capped.flatten(0, 1), targets.flatten())
        (3 * loss).backward()
        results.append((loss.detach(), *(leaf.grad for leaf in leaves)))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def test_the_chosen_attention_runs_here():
    assert train.choose_attention(torch.device("cpu"), torch.float32) is train.blockwise


def test_rotation_keeps_lengths_and_knows_only_distances():
    frequencies = 100.0 ** -(torch.arange(4) / 4)
    angles = torch.arange(9)[:, None] * frequencies
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    q, k = torch.randn(1, 1, 1, 8).expand(1, 9, 1, 8), torch.randn(1, 1, 1, 8).expand(1, 9, 1, 8)
    turned_q, turned_k = train.rotate(q, cos, sin), train.rotate(k, cos, sin)
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


def test_ngrams_know_the_last_tokens_and_nothing_else():
    torch.manual_seed(0)
    pairs, triples = train.NGrams(8, (12,)), train.NGrams(8, (12, 12))
    x = torch.randint(512, (2, 20))
    x[1, 10:13] = x[0, 5:8]
    y = x.clone()
    y[:, 15] += 1
    for ngrams, memory in ((pairs, 2), (triples, 3)):
        out, changed = ngrams(x), ngrams(y)
        moved = (out != changed).any(-1)
        assert moved[:, 15 : 15 + memory].all() and moved.sum() == 2 * memory
        torch.testing.assert_close(out[1, 12], out[0, 7])
    assert torch.equal(pairs(x)[1, 11], pairs(x)[0, 6])
    assert not torch.equal(triples(x)[1, 11], triples(x)[0, 6])
    whole, pairs.dropout = pairs(x), 0.5
    left = pairs(x)
    torch.testing.assert_close(left, 2 * whole * (left != 0))
    assert 0 < (left == 0).all(-1).sum() < x.numel()
    pairs.dropout = 0.0
    from_bos = torch.tensor([[BOS, 7, 9]])
    assert torch.equal(pairs(from_bos)[0, 2], pairs(torch.tensor([[7, 9]]))[0, 1])


def test_repeats_are_what_a_slow_search_finds():
    tokens = torch.randint(4, (3, 40))
    copied, there = train.repeats(tokens, tokens.size(1))
    for row, t, n in itertools.product(range(3), range(40), range(train.COPY)):
        text = [BOS] * n + tokens[row].tolist()  # text[t : t + n + 1] ends with token t
        places = [s for s in range(t) if text[s : s + n + 1] == text[t : t + n + 1]]
        assert there[row, t, n] == bool(places)
        assert not places or copied[row, t, n] == tokens[row, places[-1] + 1]


def test_the_memory_gives_what_a_slow_search_finds_and_hides_a_row_from_itself(monkeypatch):
    monkeypatch.setattr(train, "TRACE", 8)
    memory = train.Memory(16)
    texts, targets = torch.randint(3, (2, 30)), torch.randint(1, 90, (2, 30))
    x = torch.randint(3, (1, 50))
    x[0, 20:] = texts[0]
    assert not memory(x)[1].any()
    memory.learn(texts, targets)
    memory.learn(texts, targets)  # once more changes nothing
    for training in (True, False):
        following, known = memory.train(training)(x)
        for t, n, way in itertools.product(
            range(50), range(1, train.RECALL + 1), range(train.WAYS)
        ):
            row, own = [BOS] * 8 + texts[way].tolist(), [BOS] * 8 + x[0].tolist()
            ends = [
                s for s in range(8, 38) if row[s + 1 - n : s + 1] == own[8 + t + 1 - n : 8 + t + 1]
            ]
            answers, place = {targets[way, s - 8].item() for s in ends}, (n - 1) * train.WAYS + way
            if training:  # the places are shared: one that is hidden may hide another
                itself = [s for s in ends if row[s - 7 : s + 1] == own[t + 1 : t + 9]]
                assert not known[0, t, place] or ends != itself
            else:
                assert known[0, t, place] == bool(ends)
            assert not known[0, t, place] or following[0, t, place].item() in answers
    assert train.Memory(0)(x)[0].shape == (1, 50, 0)


def test_the_rows_of_a_table_are_used_evenly():
    ngrams = train.NGrams(1, (12,))
    ngrams.tables[0].weight.data = torch.arange(2.0**12)[:, None]
    pairs = torch.cartesian_prod(torch.arange(128), torch.arange(128))  # 4 for each row
    used = ngrams(pairs)[:, 1].flatten().long().bincount(minlength=2**12)
    assert (
        used > 0
    ).float().mean() > 0.95 and used.max() < 20  # of random ones 98 %, at most about 14


def test_row_adam_is_adam_with_one_second_moment_for_a_row():
    torch.manual_seed(0)
    table = torch.nn.Embedding(10, 4, sparse=True)
    optimizer = train.RowAdam(table.parameters(), lr=0.1)
    expected, variance, count = table.weight.detach().clone(), torch.zeros(10), torch.zeros(10)
    for ids in ([1, 3, 3], [3, 7, 7], [1, 1, 1]):
        direction = torch.randn(3, 4)
        (table(torch.tensor(ids)) * direction).sum().backward()
        grad = torch.zeros(10, 4).index_add_(0, torch.tensor(ids), direction)
        for row in {*ids}:
            count[row] += 1
            mean, b = grad[row].square().mean(), train.TABLE_BETA2
            variance[row] = b * variance[row] + (1 - b) * mean
            step = grad[row] / (variance[row] / (1 - b ** count[row])).sqrt()
            expected[row] -= 0.1 * (step + train.TABLE_WEIGHT_DECAY * expected[row])
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(table.weight.detach(), expected)


def test_schedules_go_from_full_rate_to_the_last_share(model):
    optimizers = train.make_optimizers(model)
    top = [group["top_lr"] for optimizer in optimizers for group in optimizer.param_groups]
    for progress, share in ((0.0, 1.0), (1 - train.WARMDOWN, 1.0), (1.0, train.FINAL_LR)):
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
    run, state = Run(arena, torch.device("cpu"), 0, "1e6tok", tmp_path), model.state_dict()
    state, results = {key: value.clone() for key, value in state.items()}, []
    for rows in (4, 1):
        model.load_state_dict(state)
        loss = train.make_step(run, model, train.make_optimizers(model), rows)(x, y)
        results.append((loss, [p.detach().clone() for p in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)


PEERS = """
import sys, torch, prepare, train
from ratchet.arena.hardware.cpu import settle
from ratchet.arena.run import Run
from safetensors.torch import load_file, save_file
torch.distributed.init_process_group("gloo")
torch.set_num_threads(1)
settle()
folder, rows = sys.argv[1], 4
given = load_file(folder + "/given.safetensors")
x, y = given.pop("x"), given.pop("y")
model = train.GPT(**__SMALL__)
model.load_state_dict(given)
run = Run(__ARENA__, torch.device("cpu"), 0, "1e6tok", folder)
step = train.make_step(run, model, train.make_optimizers(model), rows // prepare.peers()[1])
losses = torch.stack([step(x, y) for _ in range(3)])
if prepare.peers()[0] == 0:
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
    step = train.make_step(run, model, train.make_optimizers(model), 4)
    torch.testing.assert_close(
        out.pop("losses"), torch.stack([step(x, y) for _ in range(3)]), atol=1e-3, rtol=0
    )
    assert torch.equal(out["head.memory.entries"], model.head.memory.entries)
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
    monkeypatch.setattr("ratchet.arena.run.matmul_peak", lambda device: (1e12, "a guess"))
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


@pytest.mark.parametrize("pieces", [[64], [1] * 64, [7, 1, 1, 30, 1, 24]])
def test_decoding_gives_the_logits_of_the_whole_row(model, pieces):
    """Windows, n-grams, repeats and memory included. The future is not there yet: it is causal,
    too.
    """
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
    model.init_weights()
    x, y = torch.randint(512, (2, 2, 64))
    assert model(x, y).item() == pytest.approx(math.log(512), abs=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run(arena, tmp_path, capsys):
    log = train.Log(Run(arena, torch.device("cpu"), 0, "1s", tmp_path), SMALL)
    log(torch.tensor(5.0))
    with pytest.raises(SystemExit) as end:
        log(torch.tensor(math.nan))
    assert end.value.code == 1 and "loss is nan at step 0" in capsys.readouterr().err
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["status"] == "crash"


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
    np.testing.assert_allclose(losses[0][:3], losses[1][:3], atol=0.002)
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
