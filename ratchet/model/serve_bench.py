"""Speaking: samples from a trained model, and how fast it decodes.

Definitions, for a batch of B rows that begin and end together, G tokens each: TTFT = seconds to the
first token; TPOT = (t_end - t_first) / (G - 1); interactivity = 1 / TPOT, tokens/s for one user;
output tokens/s of the device = B (G - 1) / (t_end - t_first). Prompts count in neither. As the rows
of a batch move in step, the two are tied: this is a sweep over batch sizes, not a test of serving
with arrivals.
"""

import statistics
import time

from ratchet.arena.files import Refused
from ratchet.model.find import run_name
from ratchet.model.sample import clean_words, open_decoder
from ratchet.referee.devices.choice import choose_device, describe_device

SWEEP_SECONDS = 60  # a batch that takes longer is the last
SAME = 0.25  # nats by which decode() and forward() may differ, as the scorer's probe allows
MOST_ROWS = 1024  # of a batch
REPEATS = 5


def powers_of_two(most):
    """1, 2, 4, ... up to a number."""
    return [2**power for power in range(most.bit_length())]


def measure_decoding(
    run, device=None, most=MOST_ROWS, prompt=None, new=None, eager=False, tell=lambda text: None
):
    """Measure decoding of a run's model at growing batches, as far as memory and patience reach.

    {"points": [batch_figures()], "limits", "against": seconds of a row's last token with and without its
    cache, ...} The stopwatch is in the model's own process: a train.py that wants to can lie to it.
    Raises Refused.
    """
    device = choose_device(device)
    with open_decoder(run, device, tell) as model:
        prompt = prompt or model.context // 2
        new = new or max(2, min(64, model.context // 4))
        if prompt + new >= model.context:
            raise Refused(f"{prompt} + {new} tokens are too many: the model sees {model.context}")
        try:
            found = measure_model(model, most, prompt, new, eager, tell)
        except (KeyError, TypeError, ZeroDivisionError, IndexError):
            raise Refused(
                "the model's process gave an answer that is none: see what train.py does"
            ) from None
        level = model.level
    facts = {"run": run_name(run), "device": describe_device(device)["device"], "isolation": level}
    return facts | found | {"time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}


def measure_model(model, most, prompt, new, eager, tell):
    """What a Decoder's model can do."""
    limits, compiled = model.request("measure_limits"), False
    if not eager:
        tell("compiling the model")
        seen = model.request("compile_step")
        compiled = seen.get("compiled") is True
        tell("  compiled" if compiled else f"  not compiled: {clean_words(seen.get('why'))}")
    against = model.request("compare_cache", repeats=REPEATS)
    if not against["difference"] <= SAME:
        raise Refused(
            f"decode() differs from forward() by {against['difference']:.2f} nats: mend it in train.py"
        )
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
        "frontier": [p["rows"] for p in pareto_frontier(points)],
    }


def sweep_batches(model, most, prompt, new, limits, tell):
    """Yield the batch_figures() of 1, 2, 4, ... rows until there is no memory, or a batch takes too long."""
    for rows in powers_of_two(most):
        tell(f"decoding {rows} row{'s' * (rows > 1)} at a time")
        begin = time.monotonic()
        try:
            seen = model.request("time_batch", batch=rows, prompt=prompt, new=new, repeats=REPEATS)
        except Refused as error:
            return tell(f"  {rows} rows: {error}")  # what was measured before stays
        if seen.get("memory"):
            return tell(f"  no memory for {rows} rows")
        yield (found := batch_figures(rows, new, seen, limits))
        tell("  {rows} rows: {rate:,.0f} tokens/s, {interactivity:,.1f} a user".format(**found))
        if time.monotonic() - begin > SWEEP_SECONDS:
            return tell("  larger batches would take too long")


def batch_figures(rows, new, seen, limits):
    """The figures of a batch size, G = `new` tokens a row: medians over its repeats, p99 over all
    gaps.
    """
    each = [span / (new - 1) for span in seen["spans"]]
    tpot, bound = statistics.median(each), fastest_step(seen["bytes"], seen["flops"], limits)
    return {
        "rows": rows,
        "ttft": statistics.median(seen["first"]),
        "tpot": tpot,
        "tpots": each,
        "interactivity": 1 / tpot,
        "interactivity_p99": 1 / seen["slow_gap"],
        "rate": rows / tpot,
        "bytes": seen["bytes"],
        "flops": seen["flops"],
        "bound": bound,
    }


def fastest_step(read, flops, limits):
    """Seconds that a step takes at least: its bytes at the device's bandwidth, or its FLOPs at its
    peak.
    """
    return max(read / limits["bandwidth"], flops / limits["peak_flops"])


def pareto_frontier(points):
    """Points that no other beats in both interactivity and tokens/s of the device, by
    interactivity.
    """
    best = []
    for own in sorted(points, key=lambda p: (p["interactivity"], p["rate"])):
        while best and best[-1]["rate"] <= own["rate"]:
            best.pop()
        best.append(own)
    return best
