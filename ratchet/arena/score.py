"""The score: bits per byte of a saved model, from its logits."""

import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ratchet.arena.decoding import KeptLogits, measure_decoding
from ratchet.arena.definition import Arena, load_arena
from ratchet.arena.files import Refused
from ratchet.arena.hardware.cpu import apply_cpu_workarounds
from ratchet.arena.hardware.device import matmul_peak, set_cuda_device
from ratchet.arena.model_process.process import Invalid, ModelProcess
from ratchet.arena.model_process.rooms import shared_files
from ratchet.arena.probes import (
    PROBES_VERSION,
    Evidence,
    ProbePlan,
    change_futures,
    check_probes,
    draw_plan,
)
from ratchet.arena.progress import ProgressLine
from ratchet.arena.results import (
    Result,
    print_summary,
    read_result,
    read_run_record,
    write_result,
)
from ratchet.arena.tokenizer import load_tokenizer, token_bytes, token_dtype

CPU_ROWS = 4  # that are scored at a time
GPU_ROWS = 16
Look = Callable[[int, torch.Tensor], None]  # at the logits of a row


def score(
    folder: Path, batch: int | None = None, split: str = "val", decoding: bool = False
) -> Result:
    """Score what submit() left in a folder: write result.json, print the summary, return it.

    batch: rows scored at a time. decoding: measure how fast it decodes, too. The test split is for
    `ratchet audit` alone: its result, with the same keys, goes to test.json. Raises Refused.
    """
    begin, run = time.monotonic(), read_run_record(folder)
    apply_cpu_workarounds()
    device = torch.device(run["device"])
    set_cuda_device(device)
    arena = load_arena(Path(run["arena_folder"]), "tokenizer.json", f"{split}.rows")
    if arena.seal != run["seal"]:
        other = f"{folder} was trained in another arena than {arena.folder} is now"
        raise Refused(f"{other}: scores can't be compared")
    if batch is None:
        batch = CPU_ROWS if device.type == "cpu" else GPU_ROWS
    batch = min(batch, max(arena.val_rows, arena.test_rows))
    values: dict[str, Any] = {**run, "official": "no", "isolation": "none"}
    values |= {"probes": {}, "lookup": 0}
    count_flops = not run["flops_per_token"]
    values |= score_split(folder, arena, device, batch, count_flops, split, decoding)
    values["params"] = count_parameters(folder)
    earlier = read_result(folder, split)
    if earlier and earlier["status"] == "invalid" and earlier["probes"]:  # until they miss it
        values |= {"status": "invalid", "reason": earlier["reason"]}
    if not run["peak_flops"]:  # a run without a rehearsal
        values["peak_flops"], values["peak_of"] = matmul_peak(device)
    rate = run["tokens"] / run["train_seconds"]
    values["tokens_per_second"] = rate
    values["mfu_percent"] = 100 * values["flops_per_token"] * rate / values["peak_flops"]
    values["score_seconds"] = time.monotonic() - begin
    values["total_seconds"] = run["unscored_seconds"] + values["score_seconds"]
    result = cast(Result, values)
    write_result(folder, result, split)
    print_summary(result)
    return result


def score_split(
    folder: Path,
    arena: Arena,
    device: torch.device,
    batch: int,
    count_flops: bool,
    split: str,
    decoding: bool,
) -> dict[str, Any]:
    """What the rows of a split add to a Result: its status is ok, or invalid with a reason."""
    measured = {}
    try:
        with ProgressLine("scoring") as line:
            measured = measure_split(
                folder, arena, device, batch, count_flops, split, decoding, line
            )
        results = measured["probes"].items()
        if failed := [f"{name}: {seen}" for name, (passed, seen) in results if not passed]:
            raise Invalid("; ".join(failed))
    except Invalid as error:
        return measured | {"status": "invalid", "reason": str(error)}
    return measured | {"status": "ok"}


def measure_split(
    folder: Path,
    arena: Arena,
    device: torch.device,
    batch: int,
    count_flops: bool,
    split: str,
    decoding: bool,
    line: ProgressLine,
) -> dict[str, Any]:
    """Score the rows of a split, probe the model; before that have it decode. Raises Invalid.

    line: tells how far it is.
    """
    generator = np.random.default_rng()  # whose seed nobody can know
    rows = read_rows(arena, split)
    plan = draw_plan(rows, arena.vocab_size, generator)
    every = np.concatenate([rows, plan.canaries])
    inputs = np.concatenate([every[:, :-1], change_futures(rows, plan, generator)])
    targets = np.concatenate([every[:, 1:], rows[plan.watched, 1:]])
    count, kept, speeds = row_counter(line, len(targets)), KeptLogits(), {}
    if decoding:
        line.detail = "decoding"
        speeds = measure_decoding(folder, arena, device, rows[:, :-1], generator, kept)
    with closing(models_in_turn(folder, arena, device, batch, plan.processes)) as models:
        nats, figures = ask_models(
            models, inputs, targets, plan, generator, count, kept.compare, count_flops
        )
    sizes = token_bytes(load_tokenizer(arena.folder))
    nats[sizes[targets] == 0] = 0.0  # specials are no text: what a model makes of them is free
    if not np.isfinite(nats).all():
        raise Invalid("finite: a probability is zero or not a number")
    text_bytes = int(sizes[rows[:, 1:]].sum())
    nats, canary_nats, again = np.split(nats, [len(rows), len(every)])
    moved = np.abs(again - nats[plan.watched])
    seen = Evidence(arena, split, device.type, nats, canary_nats, moved, plan.cuts, text_bytes)
    seen = seen._replace(decoded=kept if decoding else None)
    return figures | {
        **speeds,
        "nats": float(nats.sum(dtype=np.float64)),
        "charged_nats": seen.charged_nats,
        "bytes": text_bytes,
        "val_bpb": seen.bpb,
        "probes": check_probes(seen),
        "probes_version": PROBES_VERSION,
    }


def models_in_turn(
    folder: Path, arena: Arena, device: torch.device, batch: int, processes: int
) -> Generator[ModelProcess]:
    """Processes of a model, one after the other, which can't talk to each other.

    Each one ends before the contestant's code starts in the next. That has its libraries by then,
    but on a GPU: what the first leaves in /dev/shm is removed before the next looks there.
    """
    with ExitStack() as stack:

        def start_next() -> ModelProcess:
            model = ModelProcess(folder, arena, device, batch)
            stack.callback(model.close)
            return model

        files, model = shared_files(), start_next()
        for left in reversed(range(processes)):
            coming = start_next() if left and device.type != "cuda" else None
            files = files.in_memory()  # as if nobody had read any of them
            yield model
            model.close()
            if left:
                model = coming or start_next()


def ask_models(
    models: Iterable[ModelProcess],
    inputs: np.ndarray,
    targets: np.ndarray,
    plan: ProbePlan,
    generator: np.random.Generator,
    count: Callable[[int], None],
    look: Look,
    count_flops: bool,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Nats [q, T] of all questions of a plan, figures of the model. Raises Invalid.

    inputs, targets: [q, T]. Each model is asked in the same way for what is dealt to it.
    """
    nats, seconds, batch = np.empty(targets.shape, np.float32), [], sys.maxsize
    for number, model in enumerate(models):
        seconds.append(model.load_model())
        model.batch = min(batch, model.batch)  # one shape: the same kernels
        order = generator.permutation(np.flatnonzero(plan.dealt == number))
        nats[order] = score_rows(model, inputs, targets, order, count, look)
        batch = model.batch
        model.check_work()
        if number + 1 == plan.processes:
            figures = model.inspect_model(count_flops) | {"load_seconds": max(seconds)}
    return nats, figures


def read_rows(arena: Arena, split: str) -> np.ndarray:
    """[n, T + 1] tokens of a split."""
    rows = np.fromfile(arena.folder / f"{split}.rows", token_dtype(arena.vocab_size))
    return rows.reshape(-1, arena.context + 1)


def row_counter(line: ProgressLine, total: int) -> Callable[[int], None]:
    """count(rows), which tells a ProgressLine how many rows have been scored."""
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        line.detail = f"row {done:,} of {total:,}, {line.time_left(done, total)}"

    return count


def score_rows(
    model: Any,
    inputs: np.ndarray,
    targets: np.ndarray,
    order: np.ndarray | Sequence[int],
    count: Callable[[int], None] = lambda rows: None,
    look: Look = lambda row, logits: None,
) -> np.ndarray:
    """Nats [m, T] of the targets of the m rows in `order`, in float32 from the model's logits.

    Rows of inputs and targets [n, T] are fed model.batch at a time; a batch that finds no memory is
    tried again with half the rows. look(row, logits [T, V]) is called for each. Raises Invalid.
    """
    nats = np.empty((len(order), targets.shape[1]), np.float32)
    start = 0
    while start < len(order):
        part = order[start : start + model.batch]
        try:
            logits = model(inputs[np.resize(part, model.batch)])  # one shape: the same kernels
        except MemoryError:
            model.batch //= 2
            if model.batch:
                continue
            raise Invalid("there is no memory for the logits of one row") from None
        for number, (row, row_logits) in enumerate(zip(part, logits), start):
            logs = log_weights(row_logits)
            look(int(row), logs)
            target = torch.from_numpy(targets[row].astype(np.int64)).to(logs.device)[:, None]
            of_target = logs.gather(1, target)[:, 0]
            nats[number] = (logs.exp_().sum(-1).log_() - of_target).cpu()
        start += len(part)
        count(len(part))
    return nats


def log_weights(logits: torch.Tensor) -> torch.Tensor:
    """A row's logits [T, V] in float32, the largest 0, in memory that the model can't write to."""
    logs = logits.to(torch.float32, copy=True)
    logs -= logs.amax(-1, keepdim=True)  # exact; else large ones lose the logarithm of the sum
    return logs


def count_parameters(folder: Path) -> int:
    """Numbers in model.safetensors."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]
    return sum(map(math.prod, shapes))
