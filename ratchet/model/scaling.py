"""Scaling: what more devices would give in training and in decoding, by their all-reduce.

Data-parallel training: a step takes its compute and an all-reduce of the trunk's gradients, one
after the other. What else train.py sends (gradients of embeddings and tables, Muon's updates) and
what every process does whole comes on top: an upper bound of the efficiency. Tensor-parallel
decoding: two all-reduces a layer, so that a user gets at most 1 / (2 layers alpha(n) + compute / n)
tokens a second. What follows from all-reduce (links.py) for several devices is modelled.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

from ratchet.arena.files import Refused, open_untrusted, read_untrusted
from ratchet.model.find import read_header, run_name
from ratchet.model.links import Links, ring_seconds
from ratchet.model.serve_bench import powers_of_two
from ratchet.referee import limits

MOST_DEVICES = 1024
GRADIENT_BYTES = 4  # of a parameter
ACTIVATION_BYTES = 2
LEAST_MESSAGE = 256  # bytes


def describe_training(run: Path) -> dict[str, Any]:
    """What a run says of its training. Raises Refused for one of several processes.

    Example: {"step": 0.3, "rows": 8, "gradients": 10**7, "layers": 3, "width": 192,
    "device": "cpu"}: seconds, rows and bytes of a step.
    """
    result = json.loads(read_untrusted(run / "result.json"))
    if (processes := result.get("processes", 1)) > 1:
        name = run_name(run)
        raise Refused(f"{name} was trained by {processes} processes: choose a run of one")
    config = json.loads(read_untrusted(run / "config.json"))
    arena = json.loads((Path(result["arena_folder"]) / "arena.json").read_bytes())
    return {
        "step": result["train_seconds"] / result["steps"],
        "rows": result["tokens"] // result["steps"] // arena["context"],
        "gradients": GRADIENT_BYTES * (result["params"] - result["lookup"]),
        "layers": count_layers(run, config),
        "width": read_width(config),
        "device": result["device_name"],
    }


def read_width(config: Any) -> int:
    """The width that a config names, be it as heads of one size; 0 if it doesn't say."""
    if not isinstance(config, dict):
        return 0
    return config.get("width") or config.get("heads", 0) * config.get("head_size", 0)


def count_layers(run: Path, config: Any) -> int:
    """The depth that a config names, else the length of the longest list of modules."""
    if isinstance(config, dict) and isinstance(config.get("depth"), int):
        return config["depth"]
    with open_untrusted(run / "model.safetensors", limits.WEIGHT_BYTES) as file:
        names = read_header(file)
    numbers = {}
    for name in names:
        for list_name, number in re.findall(r"(\w+)\.(\d+)\.", name):
            numbers.setdefault(list_name, set()).add(number)
    return max(map(len, numbers.values()), default=1)


def forecast_scaling(
    model: dict[str, Any],
    links: Links,
    token_seconds: float | None = None,
    most: int = MOST_DEVICES,
) -> dict[str, list[dict]]:
    """{"training": [...], "decoding": [...]} for 1, 2, 4, ... devices.

    model: as of describe_training(). token_seconds: of a decoded token on one device, batch 1, if
    it was measured.
    """
    numbers = powers_of_two(most)
    training = [training_row(model, links, n) for n in numbers]
    decoding = [decoding_row(model, links, n, token_seconds) for n in numbers if token_seconds]
    return {"training": training, "decoding": decoding}


def training_row(model: dict[str, Any], links: Links, n: int) -> dict[str, Any]:
    """Efficiency of n devices: `strong` for the same batch, split; `weak` for a batch each."""
    seconds, tag = links.all_reduce_seconds(n, model["gradients"])
    step = model["step"]
    has_rows = n <= model["rows"]  # a device needs one
    strong = step / (n * (step / n + seconds)) if has_rows else None
    weak = step / (step + seconds)
    return {"n": n, "all_reduce": seconds, "weak": weak, "tag": tag, "strong": strong}


def decoding_row(
    model: dict[str, Any], links: Links, n: int, token_seconds: float
) -> dict[str, Any]:
    """The most tokens/s that one user gets of n devices."""
    message = max(LEAST_MESSAGE, ACTIVATION_BYTES * model["width"])
    seconds, tag = links.all_reduce_seconds(n, message)
    token = 2 * model["layers"] * seconds + token_seconds / n
    return {"n": n, "bound": 1 / token, "all_reduce": seconds, "tag": tag}


def scaling_report(
    run: Path,
    model: dict[str, Any],
    links: Links,
    device_name: str,
    token_seconds: float | None = None,
    most: int = MOST_DEVICES,
) -> dict[str, Any]:
    """All that `ratchet scaling` shows, as JSON; model: as of describe_training()."""
    rings = {n: links.ring_model(n)[:2] for n in links.times}
    table = [
        {"n": n, "bytes": size, "seconds": seconds, "ring": ring_seconds(n, size, *rings[n])}
        for n, times in links.times.items()
        for size, seconds in sorted(times.items())
    ]
    return {
        "run": run_name(run),
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "model": model,
        "tag": links.tag,
        "source": links.source,
        "device": device_name,
        "table": table,
        "lines": [{"n": n, "alpha": alpha, "beta": beta} for n, (alpha, beta) in rings.items()],
        **forecast_scaling(model, links, token_seconds, most),
    }
