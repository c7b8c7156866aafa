"""The score: bits per byte of a saved model, from its logits."""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

from ratchet.arena.budget import parse_budget
from ratchet.arena.definition import ARENAS, load_arena
from ratchet.arena.files import Refused, write_json
from ratchet.arena.hardware.cpu import settle
from ratchet.arena.hardware.device import matmul_peak, use
from ratchet.arena.model_process import Invalid, ModelProcess
from ratchet.arena.probes import CONTROLS, CUTS, TOO_GOOD, judge, probe_rows
from ratchet.arena.progress import ProgressLine
from ratchet.arena.tokenizer import BOS, SPECIALS, load_tokenizer, token_bytes, token_dtype

SCORE_ROWS = 4, 16  # rows that are scored at a time on a CPU, on other devices
# the summary's lines: their keys in result.json, how to print them
SUMMARY = dict(
    val_bpb=".6f",
    arena="",
    budget="",
    official="",
    seed="",
    train_seconds=".1f",
    rehearsal_seconds=".1f",
    total_seconds=".1f",
    score_seconds=".1f",
    steps="",
    tokens_M=".3f",
    tokens_per_second=".0f",
    flops_per_token=".4g",
    mfu_percent=".1f",
    peak="",
    params_M="",
    peak_memory_mb=".0f",
    device="",
    probes="",
    isolation="",
)
# what the default train.py reaches: arena, seconds, CPU cores at least, lowest and highest val_bpb
# (LOG.md)
EXPECTED = [
    ("pocket", 20, 2, 1.5, 2.7),
    ("pocket", 300, 2, 1.15, 1.35),
]
NEXT_COMMANDS = {
    "uv run ratchet speak": "what the model has learnt to say",
    "uv run ratchet doctor": "is this machine fit for experiments?",
    "uv run ratchet calibrate --budget 20s": "measure the noise: the first step of a night",
}


def feed(model, inputs, targets, order, cuts=(), count=lambda rows: None):
    """Nats of each target, [n, T], computed here in float32 from the model's logits; rows are fed
    in `order`.

    `cuts` maps rows to positions; the second result maps these rows to a token other than the
    target, drawn from the model's own prediction there. A batch that finds no memory is tried again
    with half the rows. count(rows) is called with how many have been fed.
    """
    nats, drawn, start = np.empty(targets.shape, np.float32), {}, 0
    while start < len(order):
        part = order[start : start + model.batch]
        try:
            logits = model(
                inputs[np.resize(part, model.batch)]
            )  # always one shape: the same kernels
        except MemoryError:
            model.batch //= 2
            if model.batch:
                continue
            raise Invalid("there is no memory for the logits of one row") from None
        for row, own in zip(part, logits):
            own = own.to(
                torch.float32, copy=True
            )  # so that the model can't change them between two looks
            own -= own.amax(
                -1, keepdim=True
            )  # exact; else large logits lose the logarithm of the sum
            target = torch.from_numpy(targets[row].astype(np.int64)).to(own.device)[:, None]
            nats[row] = (own.logsumexp(-1) - own.gather(1, target)[:, 0]).cpu()
            if row in cuts:
                others = own[cuts[row]].index_fill(0, target[cuts[row]], -math.inf)
                drawn[row] = int(torch.multinomial(others.softmax(-1).nan_to_num(1.0), 1))
        start += len(part)
        count(len(part))
    return nats, drawn


def measure(folder, arena, device, batch, count_flops, split, line):
    """Score a split with one process of the model, probe it with another that has no memory of the
    first.

    line: a ProgressLine that is kept up to date.
    """
    done = 0

    def count_rows(number):
        nonlocal done
        done += number
        total = len(every) + len(watched)
        line.detail = f"row {done:,} of {total:,}, {line.seconds_left(done, total)}"

    dtype, generator = (
        token_dtype(arena.vocab_size),
        np.random.default_rng(),
    )  # whose seed nobody can know
    rows = np.fromfile(arena.folder / f"{split}.rows", dtype).reshape(-1, arena.context + 1)
    canaries = generator.integers(len(SPECIALS), arena.vocab_size, (4, arena.context + 1)).astype(
        dtype
    )
    canaries[:, 0] = BOS
    every, count = np.concatenate([rows, canaries]), len(rows)
    sizes = token_bytes(load_tokenizer(arena.folder))
    watched = generator.choice(
        count, min(count, CONTROLS + max(CUTS, count // 8)), replace=False
    ).tolist()
    cuts = {row: int(generator.integers(arena.context - 1)) for row in watched[CONTROLS:]}
    models = [ModelProcess(folder, arena, device, batch, number) for number in range(2)]
    try:
        seconds = models[0].load()
        facts = models[0].ask({"flops": count_flops})
        order = generator.permutation(len(every))
        nats, drawn = feed(models[0], every[:, :-1], every[:, 1:], order, cuts, count_rows)
        changed, models[1].batch = (
            probe_rows(rows, watched, cuts, drawn, generator),
            models[0].batch,
        )
        models[0].close()  # before the contestant's code starts in the other: the two can't talk
        models[1].load()
        order = generator.permutation(len(watched))
        again, _ = feed(models[1], changed, rows[watched, 1:], order, count=count_rows)
    finally:
        for model in models:
            model.close()
    nats[sizes[every[:, 1:]] == 0] = 0.0  # specials are no text: what a model makes of them is free
    again[sizes[rows[watched, 1:]] == 0] = 0.0
    if not (np.isfinite(nats).all() and np.isfinite(again).all()):
        raise Invalid("finite: a probability is zero or not a number")
    facts = {key: facts.get(key) for key in ["lookup"] + ["flops_per_token"] * count_flops}
    if not all(type(value) in (int, float) and 0 <= value < 1e18 for value in facts.values()):
        facts = dict.fromkeys(facts, 0)
    total, size = float(nats[:count].sum(dtype=np.float64)), int(sizes[rows[:, 1:]].sum())
    probes = judge(
        arena, nats[:count], nats[count:], np.abs(again - nats[watched]), [*cuts.values()]
    )
    probes["bytes"] = [size == getattr(arena, f"{split}_bytes"), f"{size} bytes"]
    bpb = total / math.log(2) / size
    probes["plausible"] = [bpb > TOO_GOOD or arena.name not in ARENAS, f"{bpb:.3f} bits per byte"]
    return facts | {
        "nats": total,
        "bytes": size,
        "val_bpb": bpb,
        "probes": probes,
        "load_seconds": seconds,
    }


def score(folder, batch=None, split="val"):
    """Score what submit() left in `folder`, write result.json, print the summary; exit code 1 if
    invalid.

    The test split is for `ratchet audit` alone; its facts, of the same names, go to test.json.
    """
    from safetensors import safe_open

    settle()
    begin, run = time.monotonic(), json.loads((folder / "run.json").read_text(encoding="utf-8"))
    use(device := torch.device(run["device"]))
    arena = load_arena(Path(run["arena_folder"]), "tokenizer.json", f"{split}.rows")
    if arena.seal != run["seal"]:
        raise Refused(
            f"{folder} was trained in another arena than {arena.folder} is now: scores can't be compared"
        )
    result = run | {
        "status": "ok",
        "official": "no",
        "isolation": "none",
        "probes": {},
        "lookup": 0,
    }
    batch = batch or SCORE_ROWS[device.type != "cpu"]
    try:
        with ProgressLine("scoring") as line:
            result |= measure(folder, arena, device, batch, not run["flops_per_token"], split, line)
        failed = [
            f"{name}: {seen}" for name, (passed, seen) in result["probes"].items() if not passed
        ]
        if failed:
            raise Invalid("; ".join(failed))
    except Invalid as error:
        result |= {"status": "invalid", "reason": str(error)}
    path = folder / {"val": "result.json", "test": "test.json"}[split]
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if old.get("status") == "invalid":  # probes are drawn anew: nobody may try until they miss
        result |= {"status": "invalid", "reason": old["reason"]}
    with safe_open(folder / "model.safetensors", "np") as weights:
        result["params"] = sum(
            math.prod(weights.get_slice(name).get_shape()) for name in weights.keys()
        )
    if not run["peak_flops"]:  # a run without a rehearsal
        result["peak_flops"], result["peak_of"] = matmul_peak(device)
    result["tokens_per_second"] = rate = run["tokens"] / run["train_seconds"]
    result["mfu_percent"] = 100 * result["flops_per_token"] * rate / result["peak_flops"]
    result["score_seconds"] = time.monotonic() - begin
    result["total_seconds"] = run["unscored_seconds"] + result["score_seconds"]
    write_json(path, result)
    print_summary(result)
    raise SystemExit(result["status"] != "ok")


def print_summary(result):
    """The `key: value` lines of a run."""
    trunk, lookup = (result["params"] - result["lookup"]) / 1e6, result["lookup"] / 1e6
    too_low = " while the machine was busy: too low" * (result["mfu_percent"] > 100)
    probes = ", ".join(
        f"{name} {'ok' if ok else 'FAILED'}" for name, (ok, _) in result["probes"].items()
    )
    shown = result | {
        "arena": f"{result['arena']} ({result['seal']})",
        "device": result["device_name"],
        "tokens_M": result["tokens"] / 1e6,
        "budget": describe_budget(result),
        "peak": f"{result['peak_flops'] / 1e12:.2f} TFLOP/s, {result['peak_of']}, measured"
        + too_low,
        "params_M": f"{trunk:.2f} trunk, {lookup:.2f} lookup",
        "probes": probes,
    }
    print("---")
    for key, form in SUMMARY.items():
        value = f"{shown.get(key, ''):{form if key in shown else ''}}"
        if key == "val_bpb":
            value = f"invalid: {result['reason']}" if "reason" in result else value
            value += " (interrupted)" * result["interrupted"]
        print(f"{key + ':':<18} {value}")
    sys.stdout.flush()


def describe_budget(result):
    """The budget of a run, and what is unusual about it.

    Example: "20s (not the arena's: for trying things out; only 41 % of it was used)"
    """
    amount, unit = parse_budget(result["budget"])
    tokens = result["tokens"]
    used = {
        "s": result["train_seconds"],
        "tok": tokens,
        "flop": tokens * result["flops_per_token"],
    }[unit]
    notes = ["not the arena's: for trying things out"] * result["custom_budget"]
    notes += [f"only {used / amount:.0%} of it was used"] * (used < amount / 2)
    return result["budget"] + (f" ({'; '.join(notes)})" if notes else "")


def print_outlook(result):
    """Tell a newcomer what the number of a run by hand means on such a machine, and what to do
    next.
    """
    seconds, unit = parse_budget(result["budget"])
    cores = torch.get_num_threads()
    rows = [
        row for row in EXPECTED if row[0] == result["arena"] and row[1] == seconds and unit == "s"
    ]
    rows = [row for row in rows if cores >= row[2]] if result["device"] == "cpu" else []
    if rows:
        low, high = rows[-1][3:]
        print(
            f"lower is better: {cores} CPU cores get {low} to {high} here after {seconds:g} s",
            end="",
        )
        print("; yours is slower: is the machine busy?" if result["val_bpb"] > high else "")
    else:
        print("lower is better; what is usual on this device with this budget hasn't been measured")
    print("next:")
    arena = f" --arena {result['arena']}" * (result["arena"] not in ARENAS)
    for command, purpose in NEXT_COMMANDS.items():
        command += arena * ("calibrate" in command)
        print(f"  {command:<42} {purpose}")
    sys.stdout.flush()
