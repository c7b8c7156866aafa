"""speak.py and decoder.py: which model, its text, its speed; figures against slow arithmetic."""

import itertools
import json
import random
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, LocalDecoding, LocalModel, make_repository
from made_up_curves import make_curve
from safetensors.torch import save_model
from test_train import SMALL
from typer.testing import CliRunner

import train
from ratchet import __main__
from ratchet.arena.files import Refused
from ratchet.arena.model_process import decoders
from ratchet.experiments.ledger import Ledger
from ratchet.model import bench_process, decode_process, sample, serve_bench
from ratchet.model import find as find_model
from ratchet.referee import sandbox
from ratchet.referee.source import fingerprint
from ratchet.report import data as report_data
from ratchet.report.decoding import read_curves

LIMITS = {"bandwidth": 1e10, "peak_flops": 1e12}


def write_run(folder, arena, source=None):
    """The folder of a finished run of a small default model."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = train.GPT(**SMALL)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    save_model(model, str(folder / "model.safetensors"))
    (folder / "train.py").write_text(
        source or (ROOT / "train.py").read_text(encoding="utf-8"), encoding="utf-8"
    )
    facts = {
        "arena": "tiny",
        "arena_folder": str(arena.folder),
        "seal": arena.seal,
        "device": "cpu",
    }
    facts |= {
        "val_bpb": 2.5,
        "budget": "1e5tok",
        "train_seconds": 8.0,
        "steps": 4,
        "tokens": 4 * 8 * 64,
    }
    facts |= {"params": 3_000_000, "lookup": 1_000_000, "device_name": "a test", "status": "ok"}
    for name, value in {"config": SMALL, "run": facts, "result": facts}.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(arena, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "2026-01-31_120000", arena)


@pytest.fixture(scope="module")
def model(run):
    return train.load(run).eval()


# --------------------------------------------------------------------------------------------------
# Arithmetic


def test_figures_of_a_batch_are_medians_of_its_repeats():
    tpots = [0.3, 0.2, 0.1]
    seen = {"first": [0.5, 0.7, 0.6], "tpots": tpots, "slow_gap": 0.3, "bytes": 5e8, "flops": 1e9}
    point = serve_bench.batch_figures(8, seen, LIMITS)
    assert (point["ttft"], point["tpot"]) == (0.6, 0.2)
    assert point["interactivity"] == pytest.approx(5) and point["rate"] == pytest.approx(8 * 5)
    assert point["interactivity_p99"] == pytest.approx(1 / 0.3)
    assert point["bound"] == pytest.approx(
        0.05
    )  # 5e8 bytes at 1e10 a second: more than 1e9 FLOPs at 1e12
    assert serve_bench.least_seconds(1e6, 1e12, LIMITS) == pytest.approx(1.0)


def test_time_per_token_is_the_time_after_the_first_over_the_tokens_after_it(bench):
    """The moments are those of the start, then of a token each: G = 4."""
    server = bench()
    server.load_model()
    server.clock.time_batch = lambda *_: [[0.0, 0.5, 0.6, 0.8, 0.9], [1.0, 1.7, 1.8, 1.9, 2.0]]
    server.model.ask_model = lambda do, **question: {"bytes": 7, "flops": "many"}
    times = server.time_batch(2, 20, 4, 2)
    assert times["first"] == pytest.approx([0.5, 0.7])
    assert times["tpots"] == pytest.approx([0.4 / 3, 0.1])
    assert times["slow_gap"] == pytest.approx(0.2)
    assert (times["bytes"], times["flops"]) == (7, 0)


def test_the_frontier_is_what_no_other_point_beats():
    chance = random.Random(0)
    for _ in range(50):
        points = [
            {"interactivity": chance.randrange(8), "rate": chance.randrange(8)}
            for _ in range(chance.randrange(12))
        ]

        def beaten(p, points=points):
            at_least = [
                q
                for q in points
                if q["interactivity"] >= p["interactivity"] and q["rate"] >= p["rate"]
            ]
            return any(
                (q["interactivity"], q["rate"]) != (p["interactivity"], p["rate"]) for q in at_least
            )

        expected = {(p["interactivity"], p["rate"]) for p in points if not beaten(p)}
        assert {
            (p["interactivity"], p["rate"]) for p in serve_bench.pareto_frontier(points)
        } == expected


def test_batches_double_up_to_the_largest():
    assert serve_bench.powers_of_two(1) == [1] and serve_bench.powers_of_two(20) == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("length", [5, 40])
def test_bytes_of_a_step_are_those_of_weights_keys_and_values_by_hand(model, length):
    """Windows of 16, 32 and 64 tokens; float32; the activations that products read, too."""
    heads, vocab, batch = SMALL["heads"], SMALL["vocab_size"], 3
    width = heads * SMALL["head_size"]
    weights = 3 * (12 * width**2 + heads * train.GATE_INPUTS) + (vocab + train.COPY) * width
    inputs = 3 * (7 * width + train.GATE_INPUTS) + 2 * width  # of each linear map, for a token
    seen = sum(min(window, length + 1) for window in (16, 32, 64))  # the new token sees itself
    attention = 3 * width + 2 * width * seen
    with torch.no_grad(), decoders.ReadBytes() as read:
        cache = model.init_cache(batch, 64)
        model.decode(cache, torch.randint(4, (batch, length)))
        read.total = 0
        model.decode(cache, torch.randint(4, (batch, 1)))
    assert read.total == 4 * (weights + batch * (inputs + attention))


# --------------------------------------------------------------------------------------------------
# Decoding


def greedy(decoding, steps):
    token, said = decoding.prefill(512).argmax(-1, keepdim=True), []
    for _ in range(steps):
        said.append(token)
        token = decoding.decode_token(token).argmax(-1, keepdim=True)
    return torch.cat(said, dim=1)


def test_decoding_with_and_without_a_cache_says_the_same(model):
    prompt = torch.randint(4, 512, (3, 9))
    kinds = decoders.CachedDecoding, decoders.RecomputedDecoding
    with torch.no_grad():
        both = [greedy(kind(model, model.decode, prompt, 64), 20) for kind in kinds]
    assert torch.equal(*both) and both[0].shape == (3, 20)


def test_a_long_prompt_is_taken_in_pieces(model, monkeypatch):
    prompt = torch.randint(4, 512, (2, 50))
    with torch.no_grad():
        whole = decoders.CachedDecoding(model, model.decode, prompt, 64).prefill(512)
        monkeypatch.setattr("ratchet.arena.model_process.decoders.LOGITS", 2 * 512 * 7)
        torch.testing.assert_close(
            decoders.CachedDecoding(model, model.decode, prompt, 64).prefill(512), whole
        )


def test_tokens_are_drawn_as_asked():
    logits = torch.tensor([[0.0, 2.0, 1.0, -5.0]]).expand(4000, 4)
    draw = lambda **more: decode_process.choose_token(  # noqa: E731
        logits, **dict(temperature=1.0, top_k=0, generator=torch.Generator().manual_seed(1)) | more
    )
    assert (draw(temperature=0) == 1).all()
    assert {*draw(top_k=2).flatten().tolist()} == {1, 2}
    shares = torch.bincount(draw().flatten(), minlength=4) / 4000
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.03, rtol=0)
    hot = torch.bincount(draw(temperature=5.0).flatten(), minlength=4) / 4000
    torch.testing.assert_close(hot, (logits[0] / 5).softmax(-1), atol=0.03, rtol=0)
    assert torch.equal(draw(), draw())


def test_a_model_speaks_in_its_sandbox(run):
    ask = dict(tokens=12, temperature=0.8, top_k=50)
    said = []
    for seed in (3, 4):
        sample.sample_text(
            run,
            "The people",
            2,
            show=lambda *words, seed=seed: said.append((seed, *words)),
            **ask,
            seed=seed,
        )
    texts = [
        "".join(text for *which, text in said if which == [seed, number])
        for seed in (3, 4)
        for number in (0, 1)
    ]
    assert texts[1] == texts[2] != texts[0] and all(texts)  # sample n has seed + n


def test_a_prompt_that_is_too_long_is_one_sentence(run):
    with pytest.raises(Refused, match="the prompt has .* tokens, the model sees 64: shorten it"):
        sample.sample_text(
            run, "of the people " * 100, 1, tokens=5, temperature=0.0, top_k=0, seed=0
        )


@pytest.mark.parametrize(
    "change, why",
    [
        ("raise ValueError('no such thing')", "no such thing"),
        ("__import__('os')._exit(3)", "exit code 3"),
        pytest.param("open('/etc/shadow').read()", "shadow", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_breaks_is_one_sentence(arena, tmp_path, change, why):
    source = (
        (ROOT / "train.py")
        .read_text(encoding="utf-8")
        .replace("def load(folder):", f"def load(folder):\n    {change}", 1)
    )
    with pytest.raises(Refused, match=f"the model's process ended: .*{why}"):
        sample.sample_text(
            write_run(tmp_path / "run", arena, source),
            "x",
            1,
            tokens=5,
            temperature=0.0,
            top_k=0,
            seed=0,
        )


@pytest.fixture
def bench(run, monkeypatch):
    """bench(folder) -> what has the clock, asked and answering in this process, as the model does."""
    monkeypatch.setattr(bench_process, "DecodingProcess", LocalDecoding)
    monkeypatch.setattr(bench_process, "ModelProcess", LocalModel)
    monkeypatch.setattr(bench_process, "matmul_peak", lambda device: (1e12, "a guess"))
    monkeypatch.setitem(bench_process.BANDWIDTH_BYTES, "cpu", 2**20)

    class AskedHere(bench_process.BenchServer):
        level, context, vocab_size = "none", 64, 512
        request = sample.Decoder.request

        def send_question(self, question):
            self.answer = {"done": True} | bench_process.answer_question(self, **question)

        def read_answer(self, seconds):
            return self.answer

    return lambda folder=run: AskedHere(folder, torch.device("cpu"), 4)


def measure(server, most=4, prompt=20, new=6, eager=True):
    return serve_bench.measure_model(server, most, prompt, new, eager, lambda text: None)


def test_decoding_is_measured(run):
    found = serve_bench.measure_decoding(run, "cpu", 4, prompt=20, new=6, eager=True)
    assert [point["rows"] for point in found["points"]] == [1, 2, 4] and found["cached"]
    assert found["run"].endswith("2026-01-31_120000") and found["frontier"]
    assert found["source"] == fingerprint((run / "train.py").read_bytes())["source"]
    assert found["seal"] == json.loads((run / "run.json").read_bytes())["seal"]
    for point in found["points"]:
        assert 0 < point["bound"] < point["tpot"] and point["rate"] == pytest.approx(
            point["rows"] / point["tpot"]
        )
    assert found["against"]["recomputed"] > 0 and found["against"]["cached"] > 0
    assert found["isolation"] == sandbox.best_level()
    more = [point["bytes"] for point in found["points"]]
    assert more[2] - more[1] == 2 * (more[1] - more[0])  # weights once, the rest for each row


def test_a_row_has_an_end(run, monkeypatch):
    monkeypatch.setattr(
        serve_bench, "open_bench", lambda *_: nullcontext(SimpleNamespace(context=64))
    )
    with pytest.raises(Refused, match="60 \\+ 6 tokens are too many: the model sees 64"):
        serve_bench.measure_decoding(run, "cpu", 4, prompt=60, new=6, eager=True)


def test_a_model_without_a_cache_recomputes_and_says_so(arena, tmp_path, bench):
    source = (ROOT / "train.py").read_text(encoding="utf-8").replace("init_cache(", "no_cache(")
    found = measure(bench(write_run(tmp_path / "run", arena, source)), most=1, new=3, eager=False)
    assert (found["cached"], found["compiled"], len(found["points"])) == (False, False, 1)


def test_a_step_that_cannot_be_compiled_is_measured_as_it_is(arena, tmp_path, bench, monkeypatch):
    def break_down(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", break_down)
    told = []
    found = serve_bench.measure_model(bench(), 1, 20, 3, False, told.append)
    assert found["compiled"] is False and "  not compiled: no compiler" in told


@pytest.mark.parametrize(
    "old, new, why",
    [
        ("return self(ids, cache", "return 0.5 * self(ids, cache", "decode.. is not forward"),
        (
            "        return self(ids, cache=cache)\n",
            "        raise MemoryError\n",
            "too little memory",
        ),
        (
            "        return self(ids, cache=cache)\n",
            "        raise ValueError(chr(27) + '[31mred')\n",
            "ValueError: .*red",
        ),
    ],
)
def test_a_model_that_decodes_wrongly_is_one_sentence(arena, tmp_path, bench, old, new, why):
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    assert old in source
    folder = write_run(tmp_path / "run", arena, source.replace(old, new, 1))
    with pytest.raises(Refused, match=why) as refusal:
        measure(bench(folder), most=2, new=3)
    assert "\x1b" not in str(refusal.value)


# --------------------------------------------------------------------------------------------------
# The command line


@pytest.fixture
def verb(arena, tmp_path, monkeypatch):
    """verb(words ...) -> output, in a repository with one run by hand."""
    make_repository(tmp_path / "repository")
    write_run(tmp_path / "repository/runs/2026-01-31_120000", arena)
    monkeypatch.chdir(tmp_path / "repository")

    def invoke(*words):
        done = CliRunner().invoke(__main__.app, [*words])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    return invoke


@pytest.mark.slow
def test_the_verbs_show_and_keep_what_they_measure(verb, run, tmp_path, monkeypatch, capsys):
    assert "My fellow citizens" in verb("speak", "My fellow citizens", "--tokens", "5")
    assert len(verb("speak", "--tokens", "9").split("---")) == 3
    long = "--tokens", "9999", "--temperature", "0.5", "--samples", "1"  # more than the model sees
    assert "The people" in verb("speak", str(run), "The people", *long)
    short = "--rows", "2", "--prompt", "8", "--new", "4", "--eager"
    assert "with a KV cache, not compiled" in verb("serve-bench", *short)
    with monkeypatch.context() as patch:
        patch.setattr(
            "ratchet.model.serve_bench.measure_decoding",
            lambda *_, **__: read_curves(Path(report_data.MEASURED[0]))[-1],
        )
        assert json.loads(verb("serve-bench", *short, "--json"))["points"][1]["rows"] == 2
    assert "external" in verb("scaling", "--links", "external", "--devices", "4")
    kept = [json.loads(Path(name).read_bytes()) for name in report_data.MEASURED]
    (curve,) = kept[0]["curves"]
    assert [len(curve["points"]), len(kept[1]["decoding"]), len(kept[1]["training"])] == [2, 3, 3]
    verb("export", str(run), str(tmp_path / "out"))
    assert (tmp_path / "out/modeling_ratchet.py").exists()
    monkeypatch.setattr(sys, "argv", ["ratchet", "export", "champion", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as end:  # a run by hand is no champion
        __main__.main()
    assert (
        end.value.code == 2 and "there is no champion with weights here" in capsys.readouterr().err
    )


def test_several_models_are_measured_one_by_one_and_drawn_together(verb, arena, monkeypatch):
    other = write_run(Path("runs/2026-02-01_000000"), arena, "SEED = 1\n")
    measured = iter([make_curve("x/first", "a"), make_curve("x/second", "b", 2.0)] * 2)
    monkeypatch.setattr("ratchet.model.commands.measure_decoding", lambda *_: next(measured))
    said = verb("serve-bench", "runs/2026-01-31_120000", str(other))
    assert said.index("x/first: 256 tokens") < said.index("x/second: 256 tokens")
    assert "B x/second: cpu; 256 tokens, then 64; compiled" in said and "1,778" in said
    assert [curve["source"] for curve in read_curves(Path(report_data.MEASURED[0]))] == ["a", "b"]
    both = json.loads(verb("serve-bench", "runs/2026-01-31_120000", str(other), "--json"))
    assert [curve["run"] for curve in both] == ["x/first", "x/second"]
    path, device = Path(report_data.MEASURED[0]), "cpu"
    monkeypatch.setattr(find_model, "describe_device", lambda name: {"device": name})
    seconds = find_model.measured_token_seconds(path, Path("x/second"), device)
    assert seconds == pytest.approx(9 / 16 * 1e-3)
    assert find_model.measured_token_seconds(path, Path("x/third"), device) is None


# --------------------------------------------------------------------------------------------------
# Which model


def test_a_run_is_found_by_its_folder_its_number_or_as_the_latest(arena, tmp_path):
    ledger = Ledger(tmp_path)
    with pytest.raises(Refused, match="no trained model yet"):
        find_model.find_run(ledger, tmp_path)
    older, newer = (
        write_run(tmp_path / f"runs/2026-0{month}-01_000000", arena) for month in (1, 2)
    )
    assert find_model.find_run(ledger, tmp_path) == newer
    assert find_model.find_run(ledger, tmp_path, str(older)) == older
    for name in ("champion", "baseline"):
        with pytest.raises(Refused, match=f"there is no {name} with weights here"):
            find_model.find_run(ledger, tmp_path, name)
    for name in ("7", "0", "elsewhere"):
        with pytest.raises(Refused, match=f"{name} names no run that has left a model"):
            find_model.find_run(ledger, tmp_path, name)
    (newer / "config.json").unlink()
    with pytest.raises(Refused, match="lacks config.json"):
        find_model.find_run(ledger, tmp_path)
    (newer / "result.json").write_text('{"status": "invalid"}', encoding="utf-8")
    assert find_model.find_run(ledger, tmp_path) == older


def test_a_first_word_is_a_run_where_it_can_only_be_one(run):
    assert find_model.name_and_prompt([]) == (None, "")
    assert find_model.name_and_prompt(["of the people", "by the people"]) == (
        None,
        "of the people by the people",
    )
    assert find_model.name_and_prompt(["and/or"]) == (None, "and/or")
    assert find_model.name_and_prompt(["x" * 5000]) == (
        None,
        "x" * 5000,
    )  # longer than names of files may be
    for name in ("12", "champion", "baseline", str(run), "runs/gone"):
        assert find_model.name_and_prompt([name, "hello"]) == (name, "hello")


def test_the_champion_is_the_last_kept_and_leaves_its_last_run(tmp_path, monkeypatch):
    counter = itertools.count()

    def close(role, verdict, weights=True):
        arm = {"name": "x", "commit": "c", "file": "f", "source": f"s{next(counter)}", "size": 1}
        facts = {
            "role": role,
            "arms": [arm, arm],
            "arena": "tiny",
            "seal": "s",
            "budget": "1s",
            "device": "cpu",
        }
        n = ledger.append("opens", **facts, salt="a", busy=False)
        folder = f"runs/{n}/0-confirm-0"
        good = dict(
            status="ok",
            shared=False,
            busy=False,
            seed=1,
            budget="1s",
            val={"nats": 1.0, "bytes": 1},
        )
        ledger.append("run", n=n, arm=0, phase="confirm", folder=folder, **good)
        if weights:
            (tmp_path / folder).mkdir(parents=True)
            for name in find_model.NEEDED:
                (tmp_path / folder / name).touch()
        ledger.append("closes", n=n, verdict=verdict, reason="")
        return tmp_path / folder

    ledger = Ledger(tmp_path)
    first, kept = close("calibrate", "baseline"), close("try", "keep")
    close("try", "discard", weights=False)
    assert (
        find_model.find_run(ledger, tmp_path)
        == find_model.find_run(ledger, tmp_path, "champion")
        == kept
    )
    assert find_model.find_run(ledger, tmp_path, "1") == first
    assert find_model.find_run(ledger, tmp_path, "baseline") == first
    with pytest.raises(Refused, match="3 names no run that has left a model"):
        find_model.find_run(ledger, tmp_path, "3")
