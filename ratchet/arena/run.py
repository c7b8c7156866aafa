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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
import torch
import torch.distributed as distributed
from torch import Tensor

from ratchet.arena.budget import REHEARSAL_SECONDS, parse_budget
from ratchet.arena.definition import ARENAS, FILES, Arena, default_arena, load_arena
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
    PendingNumber,
    data_sheet_flops,
    device_name,
    free_device_memory,
    matmul_peak,
    set_cuda_device,
    synchronize,
)
from ratchet.arena.hardware.distributed import peers, sum_gradients
from ratchet.arena.hardware.weights import rehearse_saving, save_weights
from ratchet.arena.inspection import inspect_model
from ratchet.arena.log import TrainingLog, wandb_run, wandb_settings
from ratchet.arena.progress import ProgressLine, console
from ratchet.arena.rehearsal import compile_events, release_memory, snapshot
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
    """The conditions and the clock of one run: what train.py reads and calls."""

    def __init__(
        self, arena: Arena, device: torch.device, seed: int, budget: str, folder: Path
    ) -> None:
        self.arena = arena
        self.device = device
        self.seed = seed
        self.budget = budget  # for example 300s
        self.folder = folder
        self.steps = 0
        self.tokens = 0
        self.interrupted = False
        self.rehearsal_seconds = 0.0
        self.flops_per_token = 0.0  # counted by rehearse()
        self.published_flops_per_token = 0.0  # the same, with attention's windows in full
        self.peak_flops = 0.0  # FLOP/s of the fastest matrix product, measured by rehearse()
        self.peak_of = ""  # which product that is
        self._budget = parse_budget(budget)
        self._epochs = math.inf  # passes over the text, at most
        self._begin: float | None = None  # when the clock started
        self._clock_of_first: float | None = None  # of several processes, when this step began
        self._durations: deque[float] = deque(maxlen=8)  # seconds of the last steps
        self._saving = 0.0  # seconds that it takes to save the model
        self._optimizers: Sequence[torch.optim.Optimizer] = ()  # that rehearse() was given
        self._batch: Sequence[Tensor] = ()  # the last one, on the device
        self._piece_rows = 0  # rows that go through the model at once; 0: all
        self._in_pieces = False  # whether the step uses pieces()
        self._queue: list[torch.cuda.Event] = []  # of steps that the GPU may still work on
        self._log: TrainingLog | None = None
        self._wandb: Any = None
        descriptor = os.environ.get("RATCHET_REFEREE")  # of a socket, where there is a referee
        self._referee = socket.socket(fileno=int(descriptor)) if descriptor else None

    def rehearse(
        self,
        step: Callable[[Tensor, Tensor], Any],
        rows: int,
        model: torch.nn.Module,
        *optimizers: torch.optim.Optimizer,
        parts: Sequence[compiling.Part] = (),
        calls: int = 3,
    ) -> None:
        """Call step(x, y) on random tokens [rows, T]: all is compiled before the clock runs.

        This is not timed. Then model, optimizers and random number generators are put back bit for
        bit, and gradients are cleared. A step that does not fit into memory is tried again with
        pieces() of half as many rows. After REHEARSAL_SECONDS the run ends.

        parts: what torch.compile may make faster. What the budget does not earn back is left as it
        is, and so is everything where there is no compiler.

        Sets `flops_per_token` and `peak_flops`. Raises Refused where processes can't share rows.
        """
        self._optimizers, (_, processes) = optimizers, peers()
        if rows % processes:
            problem = f"{rows} rows of a step can't be shared by {processes} processes"
            raise Refused(f"{problem}: start another number of them")
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
        self._report(phase="rehearsal")
        restore = snapshot(model, optimizers)
        limit = threading.Timer(REHEARSAL_SECONDS, self._end_rehearsal)
        limit.daemon = True
        limit.start()
        graphs = sum(part.graphs for part in parts)
        try:
            with (
                ProgressLine("rehearsing on random tokens, not timed") as line,
                compile_events(line, graphs),
            ):
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
        counts = inspect_model(model, self.arena.context, self.arena.vocab_size, self.device)
        self.flops_per_token = counts["flops_per_token"]
        self.published_flops_per_token = counts["published_flops_per_token"]
        self.peak_flops, self.peak_of = matmul_peak(self.device)
        self.peak_flops *= peers()[1]
        for _ in range(calls):
            targets = np.random.randint(self.arena.vocab_size, size=(rows, self.arena.context))
            step(*(tensor.to(self.device) for tensor in self._stage(targets, False)))
            synchronize(self.device)
        if peers()[0] == 0:
            self._saving = rehearse_saving(model, self.folder)

    def _end_rehearsal(self):
        """Called by a timer, in a thread of its own: no exception may reach what hangs."""
        try:
            console.show_cursor()
            late = f"after {REHEARSAL_SECONDS / 60:g} minutes of rehearsal"
            with suppress(SystemExit):
                self.fail(f"it was not ready to train {late}: compile less")
        finally:
            os._exit(1)

    def _report(self, **message: Any) -> None:
        """Send the referee a message, if there is one."""
        if self._referee:
            self._referee.sendall(json.dumps(message).encode() + b"\n")

    @property
    def time_limit(self) -> float | None:
        """Seconds of the budget, None for one of tokens or FLOPs."""
        return self._budget.seconds

    @property
    def seconds(self) -> float:
        """Seconds on the clock; 0 before it starts."""
        return time.monotonic() - self._begin if self._begin else 0.0

    def _share_used(self, tokens: int, seconds: float) -> float:
        return self._budget.share_used(seconds, tokens, self.flops_per_token)

    @property
    def progress(self) -> float:
        """The share of the training that is over, in [0, 1]: what schedules are made of.

        It is a share of the budget or, if they end sooner, of the epochs of batches().
        """
        clock = self.seconds if self._clock_of_first is None else self._clock_of_first
        share = self._share_used(self.tokens, clock)
        return min(1.0, max(share, self.epoch / self._epochs))

    @property
    def epoch(self) -> float:
        """Passes over the training text so far. Example: 1.5 in the middle of the second."""
        return self.tokens / self.arena.train_tokens

    def pieces(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield (x, y, weight): the rows of this process, in pieces that fit into memory.

        weight: rows of the piece / rows of the step, by which its mean loss counts in the step's.
        """
        self._in_pieces = True
        rank, processes = peers()
        rows = self._piece_rows or len(x) // processes
        pieces = zip(x.split(rows), y.split(rows))
        for piece_x, piece_y in itertools.islice(pieces, rank, None, processes):
            yield piece_x, piece_y, len(piece_x) / len(x)

    def sum_gradients(self, model: torch.nn.Module, *more: Tensor) -> None:
        """Replace gradients, and more tensors, by their sums over all processes of this run.

        A sparse gradient has equally many rows in all of them.
        """
        sum_gradients(model, *more)

    def log(self, loss: Tensor) -> None:
        """Note the mean cross-entropy of a step, in nats a token; call it within batches().

        Without what is added to the loss that is optimized: by it a run is held against others.
        Writes curve.jsonl, a line for whoever watches, and wandb where it is asked for. A loss that
        is not finite, or twice that of a uniform guess, ends the run: status crash, exit code 1.
        """
        if not self._log:
            self._log = TrainingLog(self, self._wandb)
        self._log.add(PendingNumber(loss))

    def _may_step(self, tokens: int) -> bool:
        """Whether the budget has room for one more step; there is always room for the first."""
        queued_steps = 1 + len(self._queue)
        step_seconds = max(self._durations, default=0.0)
        end = self.seconds + queued_steps * step_seconds + self._saving
        has_room = self.steps == 0 or self._share_used(self.tokens + tokens, end) <= 1
        may_step = has_room and not self.interrupted
        if distributed.is_initialized():  # all have the first one's clock
            of_first = torch.tensor([may_step, self.seconds], dtype=torch.float64)
            distributed.broadcast(of_first, 0)
            may_step, self._clock_of_first = of_first.tolist()
        return bool(may_step)

    def _stage(self, targets: np.ndarray, documents: bool) -> list[Tensor]:
        """One batch on the host, made while the step before it runs."""
        y = torch.from_numpy(targets.astype(np.int64))
        x = torch.nn.functional.pad(y[:, :-1], (1, 0), value=BOS)
        batch = [x, y]
        if documents:
            starts = (x.flatten() == BOS).nonzero()[:, 0]
            batch.append(torch.cat([starts, torch.tensor([x.numel()])]).int())
        if self.device.type == "cuda":
            # torch reuses a pinned buffer only when the copies that read it are done
            return [tensor.pin_memory() for tensor in batch]
        return batch

    def batches(
        self, rows: int, documents: bool = False, epochs: float = math.inf
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield (x, y), int64 [rows, T] on the device, until the budget is spent.

        The first one starts the clock. Every row begins with BOS (token 0), and every token is a
        target once an epoch.

        documents: yield (x, y, starts), where documents begin in x.flatten(), then its length:
        int32 [n + 1], the cu_seqlens of varlen_attn.
        epochs: passes over the text after which training ends, though budget is left.
        """
        self._epochs = epochs
        if self._budget.unit == "flop" and not self.flops_per_token:
            raise RuntimeError(
                "a FLOP budget needs run.rehearse(step, rows, model), which counts FLOPs"
            )
        if self._begin is not None:
            raise RuntimeError("run.batches() starts the clock: it can be called once")
        text = self._start_clock(rows)
        signal.signal(signal.SIGINT, self._interrupt)

        def stage_next() -> list[Tensor] | None:
            targets = next(text, None)
            return None if targets is None else self._stage(targets, documents)

        with ExitStack() as at_the_end, ThreadPoolExecutor(1) as pool:
            at_the_end.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
            staged = pool.submit(stage_next)
            while self._may_step(rows * self.arena.context) and (batch := staged.result()):
                staged, begin = pool.submit(stage_next), self.seconds
                self._batch = [tensor.to(self.device, non_blocking=True) for tensor in batch]
                yield tuple(self._batch)
                self._bound_queue()
                self.steps += 1
                self.tokens += rows * self.arena.context
                self._durations.append(self.seconds - begin)
                if self.epoch >= epochs:
                    passes = f"the text has been seen {epochs:g} times"
                    print(f"{passes}: training ends before the budget")
                    return

    def _start_clock(self, rows: int) -> Iterator[np.ndarray]:
        """The tokens of each batch, [rows, T]. A referee starts its clock when it hands them over.

        These are in a file or, in a budget of tokens or FLOPs, come through a socket that ends.
        """
        if not self._referee:
            self._begin = time.monotonic()
            return self._read_batches(open(self.arena.folder / "train.tokens", "rb"), rows)
        self._report(phase="train", rows=rows, flops_per_token=self.flops_per_token)
        _, files, _, _ = socket.recv_fds(self._referee, 100, 1)
        self._begin = time.monotonic()
        is_file = self.time_limit is not None
        read = self._read_batches if is_file else self._ask_for_batches
        return read(os.fdopen(files[0], "rb"), rows)

    def _read_batches(self, file: BinaryIO, rows: int) -> Iterator[np.ndarray]:
        context = self.arena.context
        with file:
            tokens = np.memmap(file, token_dtype(self.arena.vocab_size), "r")
        table = tokens[: len(tokens) // context * context].reshape(-1, context)
        return (table[numbers] for numbers in row_order(len(table), rows, self.seed))

    def _ask_for_batches(self, file: BinaryIO, rows: int) -> Iterator[np.ndarray]:
        """Ask the referee for no more than is needed: it counts what it hands out."""
        dtype, size = token_dtype(self.arena.vocab_size), rows * self.arena.context
        with file:
            for number in itertools.count():
                if number * size / self.arena.train_tokens >= self._epochs:
                    return
                os.write(file.fileno(), b"?")
                data = file.read(size * dtype.itemsize)
                if len(data) < size * dtype.itemsize:
                    return
                yield np.frombuffer(data, dtype).reshape(rows, -1)

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

    def make_record(self) -> RunRecord:
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
            published_flops_per_token=self.published_flops_per_token,
            peak_flops=self.peak_flops,
            peak_of=self.peak_of,
            data_sheet_flops=data_sheet_flops(device_name(self.device)) * peers()[1],
            peak_memory_mb=peak / 2**20,
            device=str(self.device),
            device_name=device_name(self.device),
            processes=peers()[1],
            torch=torch.__version__,
        )

    def fail(self, why: str) -> NoReturn:
        """End a run that can't be scored, as its loss is not finite: status crash, exit code 1."""
        write_result(self.folder, Result(**self.make_record(), status="crash", reason=why))
        print_error(f"the run failed: {why}")
        raise SystemExit(1)

    def submit(self, model: torch.nn.Module, config: Any = None) -> Result:
        """Stop the clock, save what load(folder) needs, have it scored, print the summary.

        config: any JSON value, saved as config.json beside model.safetensors and train.py. What is
        saved of the model is its state_dict(): a hook there may round a large table to bfloat16. A
        tensor of several names is saved once, under the first: load() has to tie the others.

        Returns the result; if that is invalid, exit code 1. On CUDA model and optimizers are empty
        afterwards, as the scorer needs the memory. A run without a step has no score: it fails.
        Where a referee watches, the process ends when the weights are saved, and so do all but the
        first of several processes.
        """
        if not self.steps:
            why = "run.batches() served no batch"
            if self.interrupted:
                why = "it was interrupted first"
            self.fail(f"no step was trained, so there is nothing to score: {why}; start it again")
        synchronize(self.device)
        record = self.make_record()
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
            self._report(phase="score", **record)
            self._referee.recv(1)  # the clock stops, this process ends
            raise SystemExit
        record["unscored_seconds"] = time.monotonic() - T0
        write_run_record(self.folder, record)
        if self.device.type == "cuda":
            release_memory(model, self._optimizers, self._batch)
            free_device_memory()
        return self._have_scored(record["train_seconds"])

    def _have_scored(self, train_seconds: float) -> Result:
        """Have prepare.py score what is in the folder, in a process of its own."""
        steps = f"{self.steps} step{'s' * (self.steps > 1)}"
        console.print(f"trained {steps} in {train_seconds:.1f} s; scoring {self.folder}")
        argv = [sys.executable, ROOT / "prepare.py", "score", self.folder]
        try:
            if code := subprocess.run(argv).returncode:
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


def read_conditions() -> Conditions:
    """Conditions from the environment, the one place where they come from. Raises Refused."""
    if Path(sys.argv[0]).name == "train.py" and sys.argv[1:]:
        problem = f"train.py takes no {sys.argv[1]!r}"
        raise Refused(f"{problem}: its conditions are variables, like RATCHET_BUDGET=20s")
    names = ("ARENA", "SEED", "BUDGET", "DEVICE", "RUN")
    name, seed, budget, device, folder = (os.environ.get(f"RATCHET_{key}") for key in names)
    rank, processes = (int(os.environ.get(key, 0)) for key in ("RANK", "WORLD_SIZE"))  # of torchrun
    device = choose_device(device, processes)
    seed = seed or "0"
    if not re.fullmatch(r"\d{1,9}", seed):
        problem = f"seed {seed!r} is not understood"
        raise Refused(f"{problem}: RATCHET_SEED is a whole number of up to nine digits")
    name = name or default_arena(on_gpu=device.startswith("cuda"))
    check_arena_is_prepared(name)
    parse_budget(budget or "1s")  # refuses it before anything is prepared
    set_cuda_device(torch.device(device))
    if processes > 1:
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        distributed.init_process_group(backend)
    is_watched = "RATCHET_REFEREE" in os.environ
    return Conditions(name, int(seed), budget, torch.device(device), folder, rank, is_watched)


def choose_device(name: str | None, processes: int) -> str:
    """PyTorch's name of the device of this process. Raises Refused. Example: "cuda:0"."""
    gpus = torch.cuda.device_count()
    devices = [f"cuda:{number}" for number in range(gpus)]
    devices += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    local_rank = int(os.environ.get("LOCAL_RANK", 0))  # of torchrun
    if processes > 1 and (name not in (None, "", "cuda", "cpu") or 0 < gpus <= local_rank):
        problem = f"{processes} processes need a device each, of {gpus} GPUs here"
        raise Refused(f"{problem}: leave RATCHET_DEVICE unset")
    if name == "cuda":
        name = f"cuda:{local_rank}"
    name = name or devices[local_rank if gpus else 0]
    if name not in devices:
        problem = f"there is no device {name!r} here"
        raise Refused(f"{problem}: set RATCHET_DEVICE to one of {', '.join(devices)}")
    return name


def check_arena_is_prepared(name: str) -> None:
    """Raise Refused unless an arena is ready; pocket is prepared where it is needed."""
    if name == "pocket" or (cache_folder() / name / "arena.json").exists():
        return
    option = f"--arena {name}" if name in ARENAS else f"--text YOUR_TEXT --arena {name}"
    ready = sorted(path.parent.name for path in cache_folder().glob("*/arena.json"))
    problem = f"arena {name!r} is not prepared ({', '.join(ready) or 'none'} is)"
    raise Refused(f"{problem}: run `uv run prepare.py {option}` first")


def open_run(conditions: Conditions) -> Run:
    """The Run under these conditions, in a folder of its own with a copy of train.py."""
    name, seed, budget, device, folder, rank, is_watched = conditions
    arena = load_arena(cache_folder() / name, *FILES[: 1 if is_watched else 3])
    if rank:
        folder = be_silent()
    wandb_settings()  # refuses before anything is written
    path = make_run_folder(folder or name_run_folder())
    apply_cpu_workarounds()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    run = Run(arena, device, seed, budget or arena.budget, path)
    run._wandb = wandb_run(run)
    conditions_text = f"arena {name} ({arena.seal}), seed {seed}, budget {run.budget}"
    console.print(f"{conditions_text}, output in {path}")
    return run


def be_silent() -> str:
    """Keep nothing and print nothing, as the first of several processes speaks for all.

    Returns a temporary folder.
    """
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    console.quiet = True
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ["WANDB_MODE"] = "disabled"
    return folder


def name_run_folder() -> str:
    """A folder that is made for this run alone, of several that begin in the same second.

    Example: "runs/2026-11-27_030405", then "runs/2026-11-27_030405-2".
    """
    begun = name = time.strftime("runs/%Y-%m-%d_%H%M%S")
    numbers = itertools.count(2)
    with exit_on_user_error(variable="RATCHET_RUN"):
        Path("runs").mkdir(exist_ok=True)
        while True:
            try:
                Path(name).mkdir()
                return name
            except FileExistsError:
                name = f"{begun}-{next(numbers)}"


def make_run_folder(name: str) -> Path:
    """A folder with a copy of the program that runs, and nothing else. Raises Refused."""
    folder = Path(name).resolve()
    if folder.exists() and {path.name for path in folder.iterdir()} - {"train.py"}:
        raise Refused(f"{folder} is not empty: name a new folder in RATCHET_RUN")
    source = Path(str(sys.modules["__main__"].__file__)).read_bytes()
    with exit_on_user_error(variable="RATCHET_RUN"):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "train.py", source)
    return folder
