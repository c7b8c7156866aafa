"""A benchmark of decoding: how fast a trained model makes tokens, by rows of a batch.

Definitions, for a batch of B rows that begin and end together, G tokens each: TTFT = seconds to the
first token; TPOT = (t_end - t_first) / (G - 1); interactivity = 1 / TPOT, tokens/s for one user;
output tokens/s of the device = B (G - 1) / (t_end - t_first). Prompts count in neither. As the rows
of a batch move in step, the two are tied: this is a sweep over batch sizes, not a test of serving
with arrivals.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ratchet.arena.files import Refused
from ratchet.model.find import run_name
from ratchet.model.sample import Decoder, clean_words, open_decoder
from ratchet.referee.devices.choice import choose_device, describe_device

SWEEP_SECONDS = 60  # a batch that takes longer is the last
SAME_NATS = 0.25  # by which decode() and forward() may differ, as the scorer's probe allows
MOST_ROWS = 1024  # of a batch
MOST_NEW = 64  # tokens after the prompt, by default
REPEATS = 5
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
    without its cache, ...} The stopwatch is in the model's own process: a train.py can lie to it.
    prompt, new: tokens of a row. Raises Refused.
    """
    device = choose_device(device)
    with open_decoder(run, device, tell) as model:
        prompt = prompt or model.context // 2
        new = new or max(2, min(MOST_NEW, model.context // 4))
        if prompt + new >= model.context:
            raise Refused(f"{prompt} + {new} tokens are too many: the model sees {model.context}")
        try:
            result = measure_model(model, most, prompt, new, eager, tell)
        except (KeyError, TypeError, ZeroDivisionError, IndexError):
            wrong = "the model's process gave an answer that is none"
            raise Refused(f"{wrong}: see what train.py does") from None
    return {
        "run": run_name(run),
        "device": describe_device(device)["device"],
        "isolation": model.level,
        **result,
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def measure_model(
    model: Decoder, most: int, prompt: int, new: int, eager: bool, tell: Tell
) -> dict[str, Any]:
    """What a model can do, as measure_decoding() has it. Raises Refused."""
    limits = model.request("measure_limits")
    compiled = not eager and compile_model(model, tell)
    against = model.request("compare_cache", repeats=REPEATS)
    if not against["difference"] <= SAME_NATS:
        wrong = f"decode() differs from forward() by {against['difference']:.2f} nats"
        raise Refused(f"{wrong}: mend it in train.py")
    points = [*sweep_batches(model, most, prompt, new, limits, tell)]
    if not points:
        raise Refused("there is too little memory for a single row: free some")
    return {
        "cached": model.request("describe_model")["cached"] is True,
        "compiled": compiled,
        "prompt": prompt,
        "new": new,
        "limits": limits,
        "against": against,
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
    model: Decoder, most: int, prompt: int, new: int, limits: dict[str, Any], tell: Tell
) -> Iterator[dict[str, Any]]:
    """Yield batch_figures() of 1, 2, 4, ... rows until memory or patience ends."""
    for rows in powers_of_two(most):
        tell(f"decoding {rows} row{'s' * (rows > 1)} at a time")
        begin = time.monotonic()
        try:
            times = model.request("time_batch", batch=rows, prompt=prompt, new=new, repeats=REPEATS)
        except Refused as error:
            return tell(f"  {rows} rows: {error}")  # what was measured before stays
        if times.get("memory"):
            return tell(f"  no memory for {rows} rows")
        point = batch_figures(rows, new, times, limits)
        yield point
        tell("  {rows} rows: {rate:,.0f} tokens/s, {interactivity:,.1f} a user".format(**point))
        if time.monotonic() - begin > SWEEP_SECONDS:
            return tell("  larger batches would take too long")


def batch_figures(
    rows: int, new: int, times: dict[str, Any], limits: dict[str, Any]
) -> dict[str, Any]:
    """The figures of a batch size, G = `new` tokens a row, from what time_batch() answers.

    Medians over its repeats, p99 over all gaps.
    """
    tpots = [span / (new - 1) for span in times["spans"]]
    tpot = statistics.median(tpots)
    return {
        "rows": rows,
        "ttft": statistics.median(times["first"]),
        "tpot": tpot,
        "tpots": tpots,
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
