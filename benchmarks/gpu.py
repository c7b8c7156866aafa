"""Measures train.py on a CUDA GPU, what matters most first: does it run, how fast, how good.

    uv run benchmarks/gpu.py TEXT [--minutes 9] [--stage hand|doctor|referee|pieces|minute|full]
    uv run benchmarks/gpu.py TEXT --rehearse            the whole flow with a tiny model

TEXT is a file or folder of text; nothing comes from the network. In this order: a run of 20 s by
hand; `ratchet doctor`; a refereed run of 20 s at each level of isolation; parts of a step beside
what roofline.py models; the plain control, our code on its architecture and the default for 60 s;
control and default for 300 s. A call ends within its minutes; what is done is kept in
results/gpu.json beside this file, and the same command goes on. Ratios to the control are what
counts: a score on TEXT is no ClimbMix score.
"""

import argparse
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from recipe import ROOT, Stage, Variant, key_of, load, measure, presets, results, show
from rich.console import Console
from rich.table import Table
from roofline import AS_CONTROL, GPUS, seconds_of

import train
from ratchet.arena.definition import find_arena
from ratchet.arena.files import describe_error, write_json
from ratchet.arena.kernels import attention, loss
from ratchet.referee import sandbox
from ratchet.referee.job import Job
from ratchet.referee.source import Source
from ratchet.referee.trial import run_trial

NAMES = ["hand", "doctor", "referee", "pieces", "minute", "full"]  # of the stages, in their order
SECONDS = {"doctor": 40, "referee": 120, "pieces": 90}  # that one takes, about
TINY = presets(depth=1, heads=1, head_size=64, batch_size=2, table_bits=8)
RATES = {"flash4_attention": "fa3", "cudnn_attention": "cudnn", "varlen_attention": "fa2"}
RUN_FACTS = "status reason isolation seconds steps tokens peak_memory_mb joules throttled".split()


class Scale(NamedTuple):
    """What is measured: its arena, the sizes of the pieces, the stages made of runs."""

    arena: str
    options: str  # of prepare.py
    rows: int
    context: int
    heads: int
    head_size: int
    vocab_size: int
    products: tuple  # sizes of square matrix products
    default: Variant
    hand: Stage
    minute: Stage
    full: Stage


def full_scale():
    plain = Variant("plain", "benchmarks/plain.py")
    code = Variant("our code, its architecture", "train.py", AS_CONTROL)
    default = Variant("default", "train.py")
    return Scale(
        arena="gpu",
        options="--context 2048 --vocab-size 8192",
        rows=64,
        context=2048,
        heads=5,
        head_size=128,
        vocab_size=8192,
        products=(2048, 4096, 8192),
        default=default,
        hand=Stage("hand", "gpu", "20s", 1, (default,)),
        minute=Stage("minute", "gpu", "60s", 3, (plain, default, code)),
        full=Stage("full", "gpu", "300s", 3, (plain, default), overhead=120),
    )


def tiny_scale():
    """All of it within minutes on a null GPU; a tiny train.py stands in for the control, too."""
    arena, tiny = "gpu-rehearsal", Variant("default", "train.py", TINY)
    stage = functools.partial(Stage, arena=arena, budget="1s", seeds=1, overhead=0)
    return Scale(
        arena=arena,
        options="--context 128 --vocab-size 512",
        rows=2,
        context=256,
        heads=1,
        head_size=64,
        vocab_size=512,
        products=(256,),
        default=tiny,
        hand=stage("hand", variants=(tiny,)),
        minute=stage("minute", variants=(tiny._replace(name="plain"), tiny)),
        full=stage("full", variants=(tiny._replace(name="plain"), tiny)),
    )


# --- Doctor and referee ---------------------------------------------------------------------------


def ask_doctor(device):
    """The findings of `ratchet doctor`, or why there are none."""
    argv = [sys.executable, "-m", "ratchet", "doctor", "--device", device, "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, encoding="utf-8")
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr[-2000:]


def run_refereed(scale, level, device):
    """The facts of a run under the referee at a level of isolation."""
    if level != "none" and not sandbox.level_works(level):
        return {"status": "no such sandbox here"}
    os.environ["RATCHET_ISOLATION"] = level
    source = Source(scale.default.name, "", scale.default.text().encode())
    with tempfile.TemporaryDirectory() as folder:
        left, compiled = Path(folder) / "run", Path(folder) / "compiled"
        arena, budget = find_arena(scale.arena), scale.hand.budget
        record = run_trial(Job(source, 0, budget, arena, left, compiled, device=device))
    facts = {key: record.get(key) for key in RUN_FACTS}
    return facts if record["status"] == "ok" else facts | {"tail": record.get("tail")}


# --- Pieces ---------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A part of a step; works and rates: as roofline.py has them."""

    name: str
    call: Callable
    works: list
    rates: str | None = "fa2"  # of its attention; None: nothing is published


def milliseconds(function, calls=20):
    """Of one call on the GPU, warm."""
    for _ in range(3):
        function()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / calls


def work(kind, **sizes):
    """One of those that roofline.py models, in bfloat16."""
    return dict(kind=kind, bytes=0, launches=1, dtype="bfloat16", is_ours=False) | sizes


def attention_pieces(scale, device):
    """Each attention that there is, forward and backward."""
    shape = scale.rows, scale.context, scale.heads, scale.head_size
    sizes = dict(zip(("rows", "context", "heads", "head_size"), shape))
    options = dict(device=device, dtype=torch.bfloat16, requires_grad=True)
    for window in (scale.context // 4, scale.context // 2, scale.context):
        q, k, v = (torch.randn(shape, **options) for _ in range(3))
        works = [work("attention", window=window, backward=b, **sizes) for b in (False, True)]
        for name, function in attention.ATTENTIONS.items():
            if name == "cudnn_attention" and window < scale.context:
                continue
            call = functools.partial(torch.compile(function), q, k, v, window)
            backward = functools.partial(call_backward, call)
            yield Piece(f"{name}, window {window}, {[*shape]}", backward, works, RATES.get(name))


def call_backward(function):
    function().sum().backward()


def loss_pieces(scale, device):
    """The head and the loss, forward and backward, each token with train.py's bonuses."""
    width, V, shape = scale.heads * scale.head_size, scale.vocab_size, (scale.rows, scale.context)
    options = dict(device=device, dtype=torch.bfloat16, requires_grad=True)
    x, bonus = torch.randn(*shape, width, **options), torch.randn(*shape, train.COPY, **options)
    weight = torch.randn(V, width, device=device, requires_grad=True)
    targets = torch.randint(V, shape, device=device)
    tokens = torch.randint(V, (*shape, train.COPY), device=device)
    arguments = x, weight, targets, train.SOFTCAP, tokens, bonus
    n = scale.rows * scale.context
    works = [work("matmul", flops=2 * n * width * V)] * 3 + [work("op", bytes=4 * n * V)]

    call = functools.partial(loss.softcapped_cross_entropy, *arguments)
    name = f"head and loss, {[*shape, width]} -> {V}"
    yield Piece(name, functools.partial(call_backward, call), works)


def muon_pieces(scale, device):
    """Orthogonalizing the matrices of nine layers."""
    width = scale.heads * scale.head_size
    for m, n in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width)):
        g, small, large = torch.randn(9, m, n, device=device), min(m, n), max(m, n)
        flops = 2 * 9 * len(train.POLAR_EXPRESS) * (2 * small**2 * large + small**3)
        call = functools.partial(train.orthogonalize, g, torch.bfloat16)
        yield Piece(f"orthogonalizing 9 of [{m}, {n}]", call, [work("matmul", flops=flops)])


def product_pieces(scale, device):
    for size in scale.products:
        a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
        works = [work("matmul", flops=2 * size**3, bytes=6 * size**2)]
        yield Piece(f"product of two matrices of {size}", functools.partial(torch.mm, a, a), works)


def measure_pieces(scale, device_name):
    """{name: {"ms", "modelled_ms"}} of parts of a step, forward and backward."""
    torch.cuda.set_device(device := torch.device(device_name))
    loss.loss_and_slope = torch.compile(loss.loss_and_slope, dynamic=False)
    figures = {}
    for make in (attention_pieces, loss_pieces, muon_pieces, product_pieces):
        for piece in make(scale, device):
            modelled = model_piece(piece, torch.cuda.get_device_name())
            figures[piece.name] = {"ms": attempt(piece.call), "modelled_ms": modelled}
        torch.cuda.empty_cache()
    return figures


def model_piece(piece, device_name):
    """Milliseconds that roofline.py models; None of what it doesn't know."""
    key = next((key for key in GPUS if key.upper() in device_name.upper()), None)
    if key is None or piece.rates not in GPUS[key].attention:
        return None
    factor = load(results("roofline")).get("factor", 1.0)
    return 1e3 * factor * sum(seconds_of(work, GPUS[key], piece.rates) for work in piece.works)


def attempt(function):
    try:
        return milliseconds(function)
    except Exception as error:
        return f"does not work here: {describe_error(error):.200}"


def pieces_table(figures):
    table = Table(title="pieces", title_justify="left")
    for column in ("piece", "ms", "modelled ms"):
        table.add_column(column, justify="left" if column == "piece" else "right")
    for name, row in figures.items():
        both = (row["ms"], row["modelled_ms"])
        cells = [f"{x:.3f}" if isinstance(x, float) else str(x or "") for x in both]
        table.add_row(name, *cells)
    return table


# --- The flow -------------------------------------------------------------------------------------


class Flow:
    """Stages in their order, as far as the minutes reach."""

    def __init__(self, scale, path, device, minutes, rehearse=False):
        self.scale, self.path, self.device, self.rehearse = scale, path, device, rehearse
        self.stop = time.monotonic() + 60 * minutes
        self.complete = True

    @property
    def minutes(self):
        """That are left."""
        return (self.stop - time.monotonic()) / 60

    def keep(self, name, seconds, function):
        """The result of a function: what is kept of this very code or, if time is left, anew."""
        stage = self.scale.hand._replace(name=name)
        key, kept = key_of(stage, self.scale.default, 0), load(self.path)
        if key not in kept:
            if 60 * self.minutes < seconds * (not self.rehearse):
                self.complete = False
                return None
            kept[key] = function()
            write_json(self.path, kept)
        return kept[key]

    def run_stage(self, name):
        if name in ("hand", "minute", "full"):
            stage = getattr(self.scale, name)
            self.complete &= measure([stage], self.path, self.device, self.minutes)
            show([stage], self.path)
        elif name == "doctor":
            print(self.keep(name, SECONDS[name], lambda: ask_doctor(self.device)))
        elif name == "referee":
            for level in sandbox.LEVELS:
                run = functools.partial(run_refereed, self.scale, level, self.device)
                print(level, self.keep(f"referee {level}", SECONDS[name], run), flush=True)
        elif figures := self.keep(name, SECONDS[name], self.measure_pieces):
            Console(highlight=False, width=110).print(pieces_table(figures))

    def measure_pieces(self):
        """In a process of its own, that gives its memory back."""
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure_pieces, self.scale, self.device).result()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", help="a file or folder of text")
    parser.add_argument(
        "--minutes", type=float, default=9, help="nothing begins that would take longer"
    )
    parser.add_argument("--stage", choices=NAMES, help="this one alone")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--rehearse", action="store_true", help="with a tiny model, for a second")
    parser.add_argument("--results", type=Path, default=results("gpu"), help="where they are kept")
    args = parser.parse_args()
    scale = tiny_scale() if args.rehearse else full_scale()
    flow = Flow(scale, args.results, args.device, args.minutes, args.rehearse)
    options = ["--arena", scale.arena, "--text", args.text, *scale.options.split()]
    subprocess.run([sys.executable, ROOT / "prepare.py", *options], check=True)
    for name in NAMES:
        if args.stage in (None, name):
            flow.run_stage(name)
    print("all done" if flow.complete else "not all done: the same command goes on")


if __name__ == "__main__":
    main()
