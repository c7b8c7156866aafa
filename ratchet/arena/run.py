"""A run: its conditions, its clock. What train.py calls."""

import atexit
import itertools
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as distributed

from ratchet.arena.budget import REHEARSAL_SECONDS, parse_budget
from ratchet.arena.definition import ARENAS, FILES, default_arena, load_arena
from ratchet.arena.files import (
    ROOT,
    Refused,
    cache_folder,
    exit_on_user_error,
    print_error,
    replace_file,
    write_json,
)
from ratchet.arena.hardware import compiling
from ratchet.arena.hardware.cpu import apply_cpu_workarounds
from ratchet.arena.hardware.device import (
    device_name,
    matmul_peak,
    set_cuda_device,
    synchronize,
    tensors_on,
)
from ratchet.arena.hardware.distributed import peers, sum_gradients
from ratchet.arena.log import TrainingLog, wandb_run, wandb_settings
from ratchet.arena.progress import ProgressLine, console
from ratchet.arena.rehearsal import compile_events, inspect_model, save_weights, snapshot
from ratchet.arena.results import (
    Result,
    RunRecord,
    print_outlook,
    read_result,
    write_result,
    write_run_record,
)
from ratchet.arena.text.rows import row_order
from ratchet.arena.tokenizer import BOS, token_dtype

QUEUED_STEPS = 2  # steps that a GPU may lag behind the host, so that the clock measures device work
T0 = time.monotonic()


class Run:
    """The conditions of one run, and its clock. A contestant reads attributes and calls public
    methods.
    """

    def __init__(self, arena, device, seed, budget, folder):
        self.arena, self.device, self.seed, self.folder, self.budget = (
            arena,
            device,
            seed,
            folder,
            budget,
        )
        self._budget = parse_budget(budget)
        self._begin, self.rehearsal_seconds, self.interrupted = None, 0.0, False
        self._durations, self._saving = (
            deque(maxlen=8),
            0.0,
        )  # seconds of the last steps, of saving the model
        self._told = (
            None  # seconds on the clock of the first of several processes when this step began
        )
        self.steps, self.tokens, self.flops_per_token, self.peak_flops = 0, 0, 0, 0
        self.peak_of = ""  # the matrix product that is as fast as that
        self._epochs, self._piece_rows, self._in_pieces = math.inf, None, False
        self._log, self._wandb = None, None
        self._queue = []  # events of the steps that the GPU may still be working on
        referee = os.environ.get("RATCHET_REFEREE")  # its end of a socket, where there is a referee
        self._referee = referee and socket.socket(fileno=int(referee))

    def rehearse(self, step, rows, model, *optimizers, parts=(), calls=3):
        """Call step(x, y) on random tokens [rows, T], untimed, so that all is compiled before the
        clock runs.

        Then model, optimizers and random number generators are put back bit for bit, gradients are
        cleared. Sets `flops_per_token`, counted, and `peak_flops`, measured; sees how long it takes
        to save the model, as the budget must have room for that. Ends the run after REHEARSAL_SECONDS
        seconds. parts: compiling.Part of what torch.compile may make faster; what the budget does
        not earn back stays as it is, and all where there is no compiler. A step that does not fit
        into memory goes through pieces() of half as many rows.
        """
        _, processes = peers()
        if rows % processes:
            what = f"{rows} rows of a step can't be shared by {processes} processes"
            raise Refused(f"{what}: start another number")
        self._piece_rows = rows // processes
        worth = compiling.worth_compiling(parts, self.device, self.time_limit or self.arena.seconds)
        if eager := ", ".join(part.name for part in parts if part not in worth):
            print(f"not compiled, as a budget of {self.budget} does not earn it back here: {eager}")
        undo = compiling.compile_parts(worth)
        while True:
            try:
                return self._rehearse(step, rows, model, optimizers, calls, worth)
            except torch.OutOfMemoryError:
                if not self._in_pieces or self._piece_rows == 1 or processes > 1:
                    raise
                self._halve_pieces()
            except Exception as error:  # of this code, or as there is no C++ compiler
                if not worth or compiling.compiler_works(self.device):
                    raise
                why = f"{type(error).__name__}; is there a C++ compiler, like g++?"
                print(f"torch.compile does not work here, running without ({why})")
                undo()
                worth = []

    def _rehearse(self, step, rows, model, optimizers, calls, parts):
        """rehearse() once: raises what the step raises, and leaves everything as it was."""
        begin = time.monotonic()
        self._tell(phase="rehearsal")
        restore = snapshot(model, optimizers)
        limit = threading.Timer(REHEARSAL_SECONDS, self._end_rehearsal)
        limit.daemon = True
        limit.start()
        graphs, name = sum(part.graphs for part in parts), "rehearsing on random tokens, not timed"
        try:
            with ProgressLine(name) as line, compile_events(line, graphs):
                self._try_steps(step, rows, model, calls)
        finally:
            limit.cancel()
            restore()
            self.rehearsal_seconds += time.monotonic() - begin

    def _halve_pieces(self):
        torch._dynamo.reset()  # else both shapes count towards the compiler's limit of variants
        self._piece_rows //= 2
        rows = self._piece_rows
        print(f"no memory for {2 * rows} rows at once: a step goes through {rows} rows at a time")

    def _try_steps(self, step, rows, model, calls):
        seen = inspect_model(model, self.arena.context, self.arena.vocab_size, self.device)
        self.flops_per_token = seen["flops_per_token"]
        self.peak_flops, self.peak_of = matmul_peak(self.device)
        self.peak_flops *= peers()[1]
        for _ in range(calls):
            targets = np.random.randint(self.arena.vocab_size, size=(rows, self.arena.context))
            step(*(tensor.to(self.device) for tensor in self._stage(targets, False)))
            synchronize(self.device)
        if peers()[0] == 0:
            try:
                self._saving = save_weights(model, self.folder)
            finally:  # also after Ctrl-C
                (self.folder / "model.safetensors").unlink(missing_ok=True)

    def _end_rehearsal(self):
        """Called by a timer, in a thread of its own: what hangs may be in code that no exception
        reaches.
        """
        try:
            console.show_cursor()
            minutes = REHEARSAL_SECONDS / 60
            with suppress(SystemExit):
                self.fail(
                    f"it was not ready to train after {minutes:g} minutes of rehearsal: compile less"
                )
        finally:
            os._exit(1)

    def _tell(self, **facts):
        if self._referee:
            self._referee.sendall(json.dumps(facts).encode() + b"\n")

    @property
    def time_limit(self):
        """Seconds of the budget, None for one of tokens or FLOPs."""
        return self._budget.seconds

    @property
    def seconds(self):
        """Seconds on the clock."""
        return time.monotonic() - self._begin if self._begin else 0.0

    def _share(self, tokens, seconds):
        return self._budget.share_used(seconds, tokens, self.flops_per_token)

    @property
    def progress(self):
        """The share of the training that is over, in [0, 1]: what schedules are made of.

        Of the budget or, if they end sooner, of the epochs that batches() was told.
        """
        spent = self._share(self.tokens, self.seconds if self._told is None else self._told)
        return min(1.0, max(spent, self.epoch / self._epochs))

    @property
    def epoch(self):
        """Passes over the training text so far. Example: 1.5 in the middle of the second."""
        return self.tokens / self.arena.train_tokens

    def pieces(self, x, y):
        """Yield (x, y, share) of this process's rows of a step, in pieces that fit into memory.

        share: of the step's loss, rows of the piece / rows of the step. See rehearse().
        """
        rank, processes = peers()
        rows, self._in_pieces = self._piece_rows or len(x) // processes, True
        pieces = zip(x.split(rows), y.split(rows))
        for piece_x, piece_y in itertools.islice(pieces, rank, None, processes):
            yield piece_x, piece_y, len(piece_x) / len(x)

    def sum_gradients(self, model, *more):
        """Replace gradients, and more tensors, by their sums over all processes of this run.

        A sparse gradient has equally many rows in all of them.
        """
        sum_gradients(model, *more)

    def log(self, loss):
        """Note the mean loss of a step, a tensor, in nats a token; call it within batches().

        Writes curve.jsonl, a line for whoever watches, wandb where it is asked for. A loss that is
        not finite, or twice that of a model that knows nothing, ends the run: status crash, exit
        code 1.
        """
        if not self._log:
            self._log = TrainingLog(self, self._wandb)
        self._log.add(loss)

    def _may_step(self, tokens):
        """True if the budget has room for one more step; there is always room for the first."""
        ahead = (
            self.seconds + self._saving + max(self._durations, default=0.0) * (1 + len(self._queue))
        )
        going = not self.interrupted and (
            self.steps == 0 or self._share(self.tokens + tokens, ahead) <= 1
        )
        if distributed.is_initialized():  # all have the first one's clock
            told = torch.tensor([going, self.seconds], dtype=torch.float64)
            distributed.broadcast(told, 0)
            going, self._told = told.tolist()
        return bool(going)

    def _stage(self, targets, documents):
        """One batch on the host, made while the step before it runs."""
        y = torch.from_numpy(targets.astype(np.int64))
        x = torch.nn.functional.pad(y[:, :-1], (1, 0), value=BOS)
        batch = [x, y]
        if documents:
            batch.append(
                torch.cat([(x.flatten() == BOS).nonzero()[:, 0], torch.tensor([x.numel()])]).int()
            )
        # torch hands a pinned buffer out again only when the events of the copies that read it are
        # done
        return [tensor.pin_memory() for tensor in batch] if self.device.type == "cuda" else batch

    def batches(self, rows, documents=False, epochs=math.inf):
        """Yield (x, y), int64 [rows, T] on the device, until the budget is spent. The first starts
        the clock.

        Every row begins with BOS (token 0) and every token is a target once an epoch.
        documents=True adds where documents begin in x.flatten(), then its length: int32 [n + 1],
        the cu_seqlens of varlen_attn. epochs: passes over the text after which it ends, though
        there be budget left.
        """
        self._epochs = epochs
        if self._budget.unit == "flop" and not self.flops_per_token:
            raise RuntimeError(
                "a FLOP budget needs run.rehearse(step, rows, model), which counts FLOPs"
            )
        if self._begin is not None:
            raise RuntimeError("run.batches() starts the clock: it can be called once")
        context, dtype = self.arena.context, token_dtype(self.arena.vocab_size)
        with self._start_clock() as file:
            tokens = np.memmap(file, dtype, "r")
        table = tokens[: len(tokens) // context * context].reshape(-1, context)
        order = row_order(len(table), rows, self.seed)
        signal.signal(signal.SIGINT, self._interrupt)
        with ExitStack() as at_the_end, ThreadPoolExecutor(1) as pool:
            at_the_end.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
            staged = (
                pool.submit(lambda n: self._stage(table[n], documents), numbers)
                for numbers in order
            )
            ahead = next(staged)
            while self._may_step(rows * context):
                batch, ahead, begin = ahead.result(), next(staged), self.seconds
                yield tuple(tensor.to(self.device, non_blocking=True) for tensor in batch)
                self._bound_queue()
                self.steps, self.tokens = self.steps + 1, self.tokens + rows * context
                self._durations.append(self.seconds - begin)
                if self.epoch >= epochs:
                    seen = f"the text has been seen {epochs:g} times"
                    print(f"{seen}: training ends before the budget")
                    return

    def _start_clock(self):
        """Open train.tokens. A referee starts its own clock and hands it over: it can't be seen
        before.
        """
        if not self._referee:
            self._begin = time.monotonic()
            return open(self.arena.folder / "train.tokens", "rb")
        self._tell(phase="train")
        _, files, _, _ = socket.recv_fds(self._referee, 100, 1)
        self._begin = time.monotonic()
        return os.fdopen(files[0], "rb")

    def _interrupt(self, *_):
        """Ctrl-C ends the loop after the step that runs; a second one ends the program."""
        self.interrupted = True
        console.print(
            "interrupted: scoring what there is after this step; Ctrl-C again to stop at once"
        )
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _bound_queue(self):
        if self.device.type == "cuda":
            self._queue.append(torch.cuda.Event())
            self._queue[-1].record()
            if len(self._queue) > QUEUED_STEPS:
                self._queue.pop(0).synchronize()

    def facts(self) -> RunRecord:
        """What is known of the run by now."""
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_reserved()
        return RunRecord(
            arena=self.arena.name,
            arena_folder=str(self.arena.folder),
            seal=self.arena.seal,
            seed=self.seed,
            budget=self.budget,
            custom_budget=self.budget != self.arena.budget,
            interrupted=self.interrupted,
            steps=self.steps,
            tokens=self.tokens,
            train_seconds=self.seconds,
            rehearsal_seconds=self.rehearsal_seconds,
            unscored_seconds=time.monotonic() - T0,
            flops_per_token=self.flops_per_token,
            peak_flops=self.peak_flops,
            peak_of=self.peak_of,
            peak_memory_mb=peak / 2**20,
            device=str(self.device),
            device_name=device_name(self.device),
            processes=peers()[1],
            torch=torch.__version__,
        )

    def fail(self, why):
        """End a run that cannot be scored (its loss is not finite, say): status crash, exit code 1."""
        write_result(self.folder, Result(**self.facts(), status="crash", reason=why))
        print_error(f"the run failed: {why}")
        raise SystemExit(1)

    def submit(self, model, config=None):
        """Stop the clock, save what load(folder) needs, have it scored, print the summary, return
        the result.

        `config` is any JSON value, saved as config.json beside model.safetensors and train.py. The
        scorer takes the GPU's memory: CUDA tensors of this process are empty afterwards. If
        invalid, exit code 1. Does not return to a contestant that a referee watches: its process
        ends when the weights are saved; nor in any but the first of several processes. A run
        without a step has no score: it fails.
        """
        if not self.steps:
            why = (
                "it was interrupted first" if self.interrupted else "run.batches() served no batch"
            )
            self.fail(f"no step was trained, so there is nothing to score: {why}; start it again")
        synchronize(self.device)
        facts = self.facts()
        if self._log:
            self._log.close(config)
        if distributed.is_initialized():
            rank, _ = peers()
            distributed.barrier()
            distributed.destroy_process_group()
            if rank:
                raise SystemExit
        save_weights(model, self.folder)
        write_json(self.folder / "config.json", config)
        if self._referee:
            self._tell(phase="score", **facts)
            self._referee.recv(1)  # the clock stops, this process ends
            raise SystemExit
        facts["unscored_seconds"] = time.monotonic() - T0
        write_run_record(self.folder, facts)
        return self._have_scored(facts["train_seconds"])

    def _have_scored(self, train_seconds):
        """Have prepare.py score what is in the folder, in a process of its own; returns the result."""
        if self.device.type == "cuda":
            for tensor in tensors_on("cuda"):
                tensor.untyped_storage().resize_(0)
            torch.cuda.empty_cache()
        steps = f"{self.steps} step{'s' * (self.steps > 1)}"
        console.print(f"trained {steps} in {train_seconds:.1f} s; scoring {self.folder}")
        try:
            if code := subprocess.run(
                [sys.executable, ROOT / "prepare.py", "score", self.folder]
            ).returncode:
                raise SystemExit(code)
        except KeyboardInterrupt:  # the scorer had it, too, and says what to do
            raise SystemExit(130) from None
        result = read_result(self.folder)
        assert result is not None
        if self._wandb:
            self._wandb.summary["val_bpb"] = result["val_bpb"]
            self._wandb.finish()
        print_outlook(result)
        return result


class Conditions(NamedTuple):
    """What the environment asks of a run."""

    arena: str
    seed: int
    budget: str | None  # None: that of the arena
    device: torch.device
    folder: str | None  # None: a new one in runs/
    rank: int  # of this process, of several
    is_watched: bool  # by a referee


def read_conditions():
    """Conditions from the environment: the one place where they come from. Exit code 2 where they
    are wrong.
    """
    if Path(sys.argv[0]).name == "train.py" and sys.argv[1:]:
        raise Refused(
            f"train.py takes no {sys.argv[1]!r}: its conditions are variables, like RATCHET_BUDGET=20s"
        )
    names = ("ARENA", "SEED", "BUDGET", "DEVICE", "RUN")
    name, seed, budget, device, folder = (os.environ.get(f"RATCHET_{key}") for key in names)
    mps, cuda = torch.backends.mps.is_available(), torch.cuda.device_count()
    here = [*(f"cuda:{i}" for i in range(cuda)), *["mps"] * mps, "cpu"]
    rank, local, processes = (
        int(os.environ.get(key, 0)) for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    )
    if processes > 1 and (
        (device or "cpu") not in ("cuda", "cpu") or 0 < cuda <= local
    ):  # torchrun
        raise Refused(
            f"{processes} processes need a device each, of {cuda} GPUs here: leave RATCHET_DEVICE unset"
        )
    device = f"cuda:{local}" if device == "cuda" else device or here[local if cuda else 0]
    seed = seed or "0"
    name = name or default_arena(on_gpu=device.startswith("cuda"))
    if device not in here:
        raise Refused(
            f"there is no device {device!r} here: set RATCHET_DEVICE to one of {', '.join(here)}"
        )
    if not re.fullmatch(r"\d{1,9}", seed):
        raise Refused(
            f"seed {seed!r} is not understood: RATCHET_SEED is a whole number of up to nine digits"
        )
    if name != "pocket" and not (cache_folder() / name / "arena.json").exists():
        how = f"--arena {name}" if name in ARENAS else f"--text YOUR_TEXT --arena {name}"
        ready = (
            ", ".join(sorted(path.parent.name for path in cache_folder().glob("*/arena.json")))
            or "none"
        )
        raise Refused(
            f"arena {name!r} is not prepared ({ready} is): run `uv run prepare.py {how}` first"
        )
    parse_budget(budget or "1s")  # refuses it before anything is prepared
    is_watched = "RATCHET_REFEREE" in os.environ
    set_cuda_device(torch.device(device))
    if processes > 1:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        )
    return Conditions(name, int(seed), budget, torch.device(device), folder, rank, is_watched)


def open_run(conditions):
    """The Run under these conditions, in a folder of its own with a copy of train.py."""
    name, seed, budget, device, folder, rank, is_watched = conditions
    arena = load_arena(cache_folder() / name, *FILES[: 1 if is_watched else 3])
    if rank:  # the first one speaks for all, and keeps what there is to keep
        console.quiet, folder = True, tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.environ["WANDB_MODE"] = "disabled"
    wandb_settings()  # refuses before anything is written
    folder = Path(folder or time.strftime("runs/%Y-%m-%d_%H%M%S")).resolve()
    if folder.exists() and {path.name for path in folder.iterdir()} - {
        "train.py"
    }:  # of an interrupted start
        raise Refused(f"{folder} is not empty: name a new folder in RATCHET_RUN")
    source = Path(sys.modules["__main__"].__file__).read_bytes()
    with exit_on_user_error(variable="RATCHET_RUN"):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "train.py", source)
    apply_cpu_workarounds()
    for plant in (random.seed, np.random.seed, torch.manual_seed):
        plant(seed)
    run = Run(arena, device, seed, budget or arena.budget, folder)
    run._wandb = wandb_run(run)
    console.print(
        f"arena {name} ({arena.seal}), seed {seed}, budget {run.budget}, output in {folder}"
    )
    return run
