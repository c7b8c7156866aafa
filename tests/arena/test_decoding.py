"""decoding.py: the clock of decoding, what is copied, what it is held to."""

import math

import numpy as np
import pytest
import torch
from conftest import LocalDecoding
from test_speak import write_run

from ratchet.arena import decoding
from ratchet.arena.decoding import Clock, KeptLogits, Lengths, divergence, tokens_per_second
from ratchet.arena.model_process.process import Invalid
from ratchet.arena.score import read_rows

CPU = torch.device("cpu")


class FakeProcess:
    """Takes 0.5 s for prompts and 0.01 s for a token, on a clock of its own; knows what it got."""

    def __init__(self, rows=16, vocab=5, most=99):
        self.logits, self.now, self.most = torch.zeros(rows, 1, vocab), 0.0, most
        self.asked = []

    def begin_decoding(self, prompts, total):
        return self.answer(prompts, 0.5)

    def decode_token(self, tokens, position):
        return self.answer(tokens[:, None], 0.01)

    def answer(self, tokens, seconds):
        if len(tokens) > self.most:
            raise MemoryError
        self.now += seconds
        self.asked.append(tokens)
        self.logits[: len(tokens), 0] = tokens[:, -1:].float()
        return self.logits[: len(tokens), 0]

    def load_model(self):
        pass

    def close(self):
        pass


@pytest.fixture
def process(monkeypatch):
    fake = FakeProcess()
    monkeypatch.setattr(decoding, "time", type("time", (), {}))
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(decoding.time, name, lambda: fake.now, raising=False)
    return fake


def some_rows(count, context=12):
    """Rows [n, T] all of whose tokens differ."""
    return np.arange(count * context).reshape(count, context)


# --------------------------------------------------------------------------------------------------
# The clock


def test_a_repeat_is_timed_from_the_first_logits_to_the_last(process):
    clock = Clock(process, some_rows(9), np.random.default_rng(0), KeptLogits())
    moments = clock.time_repeat(2, Lengths(prompt=6, new=4), 10)
    assert moments == pytest.approx([0, 0.5, 0.51, 0.52, 0.53])
    assert [each.shape for each in process.asked] == [(2, 6), (2, 1), (2, 1), (2, 1)]


def test_tokens_a_second_are_those_of_nearly_all_repeats():
    """The slowest eighth is left out, as others make one slower; what else is slow counts."""
    fast, slow = [0, 9, 9.1, 9.2, 9.3], [0, 1, 1.5, 2, 2.5]
    generator = np.random.default_rng(0)
    assert tokens_per_second(1, [fast] * 7 + [slow], generator) == pytest.approx(10)
    assert tokens_per_second(1, [slow] + [fast] * 6, generator) == pytest.approx(7 / 1.1)
    assert tokens_per_second(1, [fast] * 4 + [slow] * 4, generator) == pytest.approx(7 / 1.9)
    assert tokens_per_second(8, [slow], generator) == pytest.approx(16)
    assert tokens_per_second(1, [[0, 9, 9.5]], generator) == pytest.approx(2)  # it took too long


def test_the_count_begins_at_a_token_that_nobody_knows():
    """What a model does ahead while the prompts are read helps with the first tokens alone."""
    ahead = [0.0, 60.0] + [60.001] * 8 + [60.001 + i for i in range(1, 24)]
    generator = np.random.default_rng(0)
    rates = {round(tokens_per_second(1, [ahead], generator), 2) for _ in range(99)}
    assert len(rates) == 8 and min(rates) == pytest.approx(1, abs=0.05)


def test_no_row_is_decoded_twice_while_there_are_others(process):
    rows = some_rows(4 * 6)
    Clock(process, rows, np.random.default_rng(0), KeptLogits()).time_batch(4, [Lengths(6, 2)])
    first = [tokens[:, 0].tolist() for tokens in process.asked if tokens.size(1) > 1]
    assert sorted(sum(first, [])) == rows[:, 0].tolist()


def test_a_model_is_told_no_token_before_its_turn(process):
    """The tokens of a question are in the memory that it reads, and none that come later."""
    rows = some_rows(5)
    Clock(process, rows, np.random.default_rng(0), KeptLogits()).time_repeat(5, Lengths(6, 5), 11)
    for number, tokens in enumerate(process.asked):
        assert (tokens % 12).max() == 5 + number


def test_slow_models_are_stopped_in_time(process):
    process.answer = lambda tokens, seconds: FakeProcess.answer(process, tokens, 300 * seconds)
    clock = Clock(process, some_rows(9), np.random.default_rng(0), KeptLogits())
    repeats = clock.time_batch(1, [Lengths(6, 6)])
    assert len(repeats) == 1 and len(repeats[0]) == 4  # 3 s a token


def test_speeds_are_those_of_one_row_and_of_many(process, arena, monkeypatch):
    monkeypatch.setattr(decoding, "DecodingProcess", lambda *_: process)
    inputs, generator = some_rows(200, arena.context), np.random.default_rng(0)
    speeds = decoding.measure_decoding("", arena, CPU, inputs, generator, KeptLogits())
    assert speeds == pytest.approx({"user_tps": 100, "batch_tps": 1600, "batch_rows": 16})
    process.most = 4
    speeds = decoding.measure_decoding("", arena, CPU, inputs, generator, KeptLogits())
    assert speeds == pytest.approx({"user_tps": 100, "batch_tps": 400, "batch_rows": 4})
    process.most = 0
    with pytest.raises(Invalid, match="no memory to decode one row"):
        decoding.measure_decoding("", arena, CPU, inputs, generator, KeptLogits())


def test_a_model_that_is_fast_in_some_places_alone_is_as_fast_as_on_average(
    process, arena, monkeypatch
):
    """It is ten times as fast in the quarter after the middle of a row."""
    monkeypatch.setattr(decoding, "DecodingProcess", lambda *_: process)
    middle, rows = arena.context // 2, some_rows(200, arena.context)

    def decode_token(tokens, position):
        is_fast = middle <= position < middle + arena.context // 4
        return process.answer(tokens[:, None], 0.001 if is_fast else 0.01)

    process.decode_token = decode_token
    for seed in range(9):
        generator = np.random.default_rng(seed)
        speeds = decoding.measure_decoding("", arena, CPU, rows, generator, KeptLogits())
        assert 100 < speeds["user_tps"] < 200, "129 are true, 1000 would be of the middle alone"


def test_new_tokens_are_of_all_the_context():
    for context, count in {2: 1, 64: 3, 512: 7, 2048: 31}.items():
        drawn = []
        for seed in range(99):
            lengths = decoding.draw_lengths(context, np.random.default_rng(seed))
            assert len(lengths) == count
            assert all(1 <= prompt <= max(1, context - new) for prompt, new in lengths)
            drawn += [prompt + i for prompt, new in lengths for i in range(new - 1)]
        assert {*range(1, context - 9)} <= {*drawn}


def test_half_of_a_row_is_its_prompt():
    assert decoding.default_lengths(512) == (256, 64)
    assert decoding.default_lengths(64) == (32, 16)
    assert decoding.default_lengths(2) == (1, 2)


# --------------------------------------------------------------------------------------------------
# What is copied


def test_logits_are_kept_with_the_row_and_the_position_that_they_belong_to(process):
    kept, rows = KeptLogits(), some_rows(30)
    clock = Clock(process, rows, np.random.default_rng(0), kept)
    clock.time_repeat(16, Lengths(prompt=6, new=3), 9)
    counts = {5: 0, 6: 0, 7: 0}
    for row, answers in kept.by_row.items():
        for position, logits in answers:
            assert logits[0] == rows[row, position]
            counts[position] += 1
    assert counts == dict.fromkeys(counts, decoding.KEPT_ROWS)


def test_what_decode_costs_is_a_divergence_in_nats():
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    assert divergence(p.log() + 3, q.log()).item() == pytest.approx(0.25 * math.log(2))
    assert divergence(p.log(), p.log() - 7).item() == pytest.approx(0, abs=1e-6)
    never = torch.tensor([[0.0, 0.0, -math.inf]])
    assert divergence(never, never).item() == 0
    assert divergence(torch.zeros(1, 3), never).item() > 30


def test_a_small_difference_is_granted_and_a_large_one_is_not():
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    for noise, expected in ((0.0, True), (0.01, True), (0.5, False), (math.nan, False)):
        kept = KeptLogits()
        for position in range(8):
            kept.keep(
                [3], position, logits[position, None] + noise * torch.tensor([1, -1, 0, 1, -1])
            )
        kept.compare(3, logits)
        kept.compare(4, logits)  # was not decoded
        assert len(kept.nats) == 8 and kept.check()[0] is expected, noise
    assert KeptLogits().check()[0] is False


# --------------------------------------------------------------------------------------------------
# Models


@pytest.mark.parametrize("has_cache", [True, False])
def test_the_default_model_decodes_what_it_answers(arena, tmp_path, has_cache):
    """With its cache, and recomputing each row without one."""
    folder = write_run(tmp_path / "run", arena)
    if not has_cache:
        source = (folder / "train.py").read_text(encoding="utf-8").replace("init_cache(", "none(")
        (folder / "train.py").write_text(source, encoding="utf-8")
    inputs, kept = read_rows(arena, "val")[:40, :-1], KeptLogits()
    model = LocalDecoding(folder, arena, CPU, 4)
    model.load_model()
    assert model.ask_model("describe_decoding") == {"has_cache": has_cache}
    clock = Clock(model, inputs, np.random.default_rng(0), kept)
    clock.time_batch(4, [Lengths(32, 8), Lengths(1, 8)], repeats=2)
    model.ask_model("count_step", rows=4, position=40)
    with torch.no_grad():
        for row in range(40):
            answer = model.server.decoder.model(torch.from_numpy(inputs[row, None].astype("int64")))
            kept.compare(row, answer[0])
    assert len(kept.nats) == 3 * 8 * 4 and max(kept.nats) < 1e-5


def test_logits_of_another_shape_are_none(arena, tmp_path):
    folder = write_run(tmp_path / "run", arena)
    source = (folder / "train.py").read_text(encoding="utf-8")
    source = source.replace(
        "return self(ids, cache=cache)", "return self(ids, cache=cache)[..., 1:]"
    )
    (folder / "train.py").write_text(source, encoding="utf-8")
    model = LocalDecoding(folder, arena, CPU, 4)
    model.load_model()
    with pytest.raises(Invalid, match=r"logits of shape \[2, 1, 511\], not \[2, 1, 512\]"):
        model.begin_decoding(torch.ones(2, 9, dtype=torch.int64), 12)
