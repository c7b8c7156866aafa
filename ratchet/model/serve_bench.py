"""A benchmark of decoding: how fast a trained model makes tokens, by rows of a batch.

Definitions, for a batch of B rows that begin and end together, G tokens each: TTFT = seconds to the
first token; TPOT = (t_end - t_first) / (G - 1); interactivity = 1 / TPOT, tokens/s for one user;
output tokens/s of the device = B (G - 1) / (t_end - t_first). Prompts count in neither. As the rows
of a batch move in step, the two are tied: this is a sweep over batch sizes, not a test of serving
with arrivals. The clock runs in a process of ours, bench_process.py: it sends the model's process
one token of each row at a time and waits for its logits, as that of a score does.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ratchet.arena.files import Refused, read_untrusted, write_json
from ratchet.arena.model_process.page_cache import SharedFiles
from ratchet.arena.model_process.rooms import list_path
from ratchet.arena.results import read_run_record
from ratchet.model.find import run_name
from ratchet.model.sample import Decoder, arena_of, ask_process, clean_words, copy_program
from ratchet.referee import sandbox
from ratchet.referee.devices.choice import choose_device, describe_device, torch_name
from ratchet.referee.devices.lock import hold_device
from ratchet.referee.environment import scorer_environment
from ratchet.referee.scoring import make_rooms
from ratchet.referee.source import fingerprint

SWEEP_SECONDS = 60  # a batch that takes longer is the last
MOST_ROWS = 1024  # of a batch
Tell = Callable[[str], Any]


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to a number. Example: 5 -> [1, 2, 4]."""
    return [2**power for power in range(most.bit_length())]


def measure_decoding(
    run: Path,
    device: str | None = None,
    most: int = MOST_ROWS,
    prompt: int | None = None,
    new: int | None = None,
    eager: bool = False,
    tell: Tell = lambda text: None,
) -> dict[str, Any]:
    """Measure decoding of a run's model at growing batches, as far as memory and patience reach.

    {"points": [batch_figures()], "limits", "against": seconds of a row's last token with and
    without its cache, ...} prompt, new: tokens of a row. Raises Refused.
    """
    from ratchet.arena.decoding import default_lengths  # with PyTorch

    device = choose_device(device)
    with open_bench(run, device, most, tell) as model:
        usual = default_lengths(model.context)
        prompt, new = prompt or usual.prompt, new or usual.new
        if prompt + new >= model.context:
            raise Refused(f"{prompt} + {new} tokens are too many: the model sees {model.context}")
        result = measure_model(model, most, prompt, new, eager, tell)
    return {
        "run": run_name(run),
        "source": fingerprint(read_untrusted(run / "train.py"))["source"],
        "seal": read_run_record(run)["seal"],
        "device": describe_device(device)["device"],
        "isolation": model.level,
        **result,
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


@contextmanager
def open_bench(run: Path, device: str, most: int, tell: Tell) -> Iterator[Decoder]:
    """What asks bench_process.py about a run; the device of this machine is held meanwhile.

    most: rows of the largest batch. Raises Refused.
    """
    level, arena = sandbox.best_level(), arena_of(run)
    with tempfile.TemporaryDirectory() as name, hold_device(device, tell):
        folder = Path(name)
        (folder / "tmp").mkdir()
        program = copy_program(folder / "code", "bench_process.py")
        make_rooms(device, folder, level)
        write_json(list_path(folder / "rooms"), SharedFiles()._asdict())
        argv = [sys.executable, str(program), str(run), torch_name(device), str(most)]
        with ask_process(argv, scorer_environment(folder), folder, arena, level) as model:
            yield model


def measure_model(
    model: Decoder, most: int, prompt: int, new: int, eager: bool, tell: Tell
) -> dict[str, Any]:
    """What a model can do, as measure_decoding() has it. Raises Refused."""
    from ratchet.arena.decoding import REPEATS  # with PyTorch

    limits = model.request("measure_limits")
    cached = model.request("load_model")["cached"]
    compiled = cached and not eager and compile_model(model, tell)
    tail = model.request("time_tail", repeats=REPEATS)
    points = [*sweep_batches(model, most, prompt, new, limits, REPEATS, tell)]
    if not points:
        raise Refused("there is too little memory for a single row: free some")
    tell("comparing with forward()")
    compared = model.request("check_decoding")
    if not compared["passed"]:
        raise Refused(f"decode() is not forward(): {compared['seen']}: mend it in train.py")
    against = {"cached": tail["seconds"], "recomputed": compared["seconds"]}
    return {
        "cached": cached,
        "compiled": compiled,
        "prompt": prompt,
        "new": new,
        "limits": limits,
        "against": against | {"seen": compared["seen"]},
        "points": points,
        "frontier": [point["rows"] for point in pareto_frontier(points)],
    }


def compile_model(model: Decoder, tell: Tell) -> bool:
    """Whether the model's step of one token could be compiled."""
    tell("compiling the model")
    answer = model.request("compile_step")
    compiled = answer.get("compiled") is True
    tell("  compiled" if compiled else f"  not compiled: {clean_words(answer.get('why'))}")
    return compiled


def sweep_batches(
    model: Decoder,
    most: int,
    prompt: int,
    new: int,
    limits: dict[str, Any],
    repeats: int,
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    """Yield batch_figures() of 1, 2, 4, ... rows until memory or patience ends."""
    for rows in powers_of_two(most):
        tell(f"decoding {rows} row{'s' * (rows > 1)} at a time")
        begin = time.monotonic()
        try:
            times = model.request("time_batch", batch=rows, prompt=prompt, new=new, repeats=repeats)
        except Refused as error:
            return tell(f"  {rows} rows: {error}")  # what was measured before stays
        if times.get("memory"):
            return tell(f"  no memory for {rows} rows")
        point = batch_figures(rows, times, limits)
        yield point
        tell("  {rows} rows: {rate:,.0f} tokens/s, {interactivity:,.1f} a user".format(**point))
        if time.monotonic() - begin > SWEEP_SECONDS:
            return tell("  larger batches would take too long")


def batch_figures(rows: int, times: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """The figures of a batch size, from what time_batch() answers.

    Medians over its repeats, p99 over all gaps.
    """
    tpot = statistics.median(times["tpots"])
    return {
        "rows": rows,
        "ttft": statistics.median(times["first"]),
        "tpot": tpot,
        "tpots": times["tpots"],
        "interactivity": 1 / tpot,
        "interactivity_p99": 1 / times["slow_gap"],
        "rate": rows / tpot,
        "bytes": times["bytes"],
        "flops": times["flops"],
        "bound": least_seconds(times["bytes"], times["flops"], limits),
    }


def least_seconds(size: float, flops: float, limits: dict[str, Any]) -> float:
    """Seconds of a step at best: its bytes at the device's bandwidth, or its FLOPs at its peak."""
    return max(size / limits["bandwidth"], flops / limits["peak_flops"])


def pareto_frontier(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points that no other beats in interactivity and tokens/s both, by interactivity."""
    best = []
    for point in sorted(points, key=lambda p: (p["interactivity"], p["rate"])):
        while best and best[-1]["rate"] <= point["rate"]:
            best.pop()
        best.append(point)
    return best
