"""Scaling: what more devices would give in training and in decoding, from times of all-reduce.

The ring model: an all-reduce of S bytes between n devices takes alpha(n) + 2 (n - 1) / n S /
beta(n). Alpha is what small messages take, beta the bus bandwidth of large ones. Between measured
sizes that are near each other the measured times are interpolated instead; beyond the measured n
alpha grows with log2(n), as trees do, and beta stays, or is that of the network where it is known.
So its time is `measured`, `modelled`, or from an `external` table; what follows from it for several
devices is modelled.

Data-parallel training: a step takes its compute and an all-reduce of the trunk's gradients, one
after the other. What else train.py sends (gradients of embeddings and tables, Muon's updates) and
what every process does whole comes on top: an upper bound of the efficiency. Tensor-parallel
decoding: two all-reduces a layer, so that a user gets at most 1 / (2 layers alpha(n) + compute / n)
tokens a second.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from ratchet.arena.files import ROOT, Refused
from ratchet.model import find as find_model
from ratchet.model import serve_bench
from ratchet.referee.devices.choice import list_devices
from ratchet.referee.devices.lock import hold_device
from ratchet.referee.environment import allreduce_environment

SMALL_BYTES = 8192  # a message that is all latency
NEAR = 16  # sizes are near each other if one is at most so many times the other
MOST_DEVICES = 1024
ALL_REDUCE_SECONDS = 300  # that measuring may take
GRADIENT_BYTES = 4  # of a parameter
# NCCL 2.29 on a node of 8 H200, bfloat16: seconds of messages up to 8 KiB, bytes/s on the bus at
# 512 MiB. From NVIDIA's aiconfigurator, systems/data/h200_sxm/comm/nccl; 50 GB/s: its network
# between nodes.
EXTERNAL = {2: (6.3e-6, 315e9), 4: (9.6e-6, 348e9), 8: (16.0e-6, 460e9)}
NODE, NETWORK = 8, 50e9


class Links(NamedTuple):
    """What is known of all-reduce: {n: {bytes: seconds}}, the tag of it, where it is from; beyond a
    node.
    """

    times: dict
    tag: str
    source: str
    node: float = math.inf  # devices that are joined by more than the network
    network: float = math.inf  # bytes/s

    def ring_model(self, n):
        """(alpha, beta, tag) of n devices."""
        if n in self.times:
            return *fit_ring(n, self.times[n]), self.tag
        most = max((known for known in self.times if known < n), default=min(self.times))
        alpha, beta = fit_ring(most, self.times[most])
        beta = min(beta, self.network) if n > self.node else beta
        return alpha * math.log2(n) / math.log2(most), beta, "modelled"

    def all_reduce_seconds(self, n, size):
        """(seconds, tag) of an all-reduce of so many bytes between n devices."""
        if n == 1:
            return 0.0, self.tag
        known = sorted(self.times.get(n, {}).items())
        for (low, fast), (high, slow) in zip(known, known[1:]):
            if low <= size <= high and (high <= NEAR * low or size in (low, high)):
                share = math.log(size / low) / math.log(high / low)
                return math.exp(math.log(fast) * (1 - share) + math.log(slow) * share), self.tag
        alpha, beta, _ = self.ring_model(n)
        return ring_seconds(n, size, alpha, beta), "modelled"


def ring_seconds(n, size, alpha, beta):
    """Seconds of an all-reduce of `size` bytes between n devices."""
    return alpha + 2 * (n - 1) / n * size / beta


def fit_ring(n, times):
    """(alpha, beta) of {bytes: seconds}: from the small messages, and from the largest one."""
    small = [seconds for size, seconds in times.items() if size <= SMALL_BYTES] or [
        min(times.values())
    ]
    alpha, largest = sorted(small)[len(small) // 2], max(times)
    return alpha, 2 * (n - 1) / n * largest / max(times[largest] - alpha, 1e-12)


# --------------------------------------------------------------------------------------------------
# Where times come from


def choose_links(name, device):
    """Links that the user names, else those between devices or cores here, else a table from
    elsewhere.
    """
    if name and name != "external":
        return read_nccl_tests(name)
    cuda = (
        sum(other.startswith("cuda") for other in list_devices())
        if device.startswith("cuda")
        else 0
    )
    number = min(8, cuda if device.startswith("cuda") else psutil.cpu_count())
    return external_links() if name or number < 2 else measure_links(number, device)


def measure_links(number, device):
    """Links between 2, 4, ... GPUs of this machine, or processes on its CPU."""
    what = (
        "nccl between GPUs"
        if device.startswith("cuda")
        else "gloo between processes, which share the cores"
    )
    with hold_device(device):
        times = {n: time_all_reduce(n, device) for n in serve_bench.powers_of_two(number)[1:]}
    return Links(times, "measured", f"{what} of this machine")


def time_all_reduce(n, device):
    """{bytes: seconds} between n devices of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        program = [str(ROOT / "ratchet/model/allreduce.py"), str(out)]
        argv = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={n}",
        ]
        environment = allreduce_environment(Path(folder), device)
        with subprocess.Popen(
            argv + program,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            encoding="utf-8",
        ) as process:
            try:
                _, said = process.communicate(timeout=ALL_REDUCE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                said = f"TimeoutError: it took more than {ALL_REDUCE_SECONDS} s"
        if process.returncode:
            why = re.findall(r"^\S*Error: .*", said, re.MULTILINE) or ["no reason given"]
            what = f"all-reduce between {n} processes can't be measured ({why[0][:200]})"
            raise Refused(f"{what}: name a table with --links, or say --links external")
        return {int(size): seconds for size, seconds in json.loads(out.read_bytes()).items()}


def external_links():
    """Links of a node of 8 H200, from a table that somebody else measured."""
    large = 2**29
    times = {
        n: {SMALL_BYTES: alpha, large: 2 * (n - 1) / n * large / busbw}
        for n, (alpha, busbw) in EXTERNAL.items()
    }
    return Links(times, "external", "NCCL on 8 H200, NVIDIA aiconfigurator", NODE, NETWORK)


def read_nccl_tests(path):
    """Links from what all_reduce_perf of nccl-tests printed. Raises Refused."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise Refused(f"{path} can't be read ({why}): give what all_reduce_perf printed") from None
    ranks = len(re.findall(r"^#\s+Rank\s+\d+", text, re.MULTILINE))
    rows = re.findall(r"^\s*(\d+)\s+\d+\s+\w+\s+\w+\s+-?\d+\s+([\d.]+)", text, re.MULTILINE)
    times = {int(size): float(microseconds) / 1e6 for size, microseconds in rows if int(size)}
    if ranks < 2 or len(times) < 2:
        raise Refused(
            f"{path} isn't what all_reduce_perf of nccl-tests prints for two ranks or more: give that"
        )
    return Links({ranks: times}, "measured", f"nccl-tests, {Path(path).name}")


# --------------------------------------------------------------------------------------------------
# What it means for a model


def describe_training(run):
    """What a run says of its training: seconds, rows and gradient bytes of a step; width and
    layers.
    """
    facts = json.loads((run / "result.json").read_bytes())
    if (processes := facts.get("processes", 1)) > 1:
        raise Refused(
            f"{find_model.run_name(run)} was trained by {processes} processes: choose a run of one"
        )
    config = json.loads((run / "config.json").read_bytes())
    width = config.get("width", 0) if isinstance(config, dict) else 0
    context = json.loads((Path(facts["arena_folder"]) / "arena.json").read_bytes())["context"]
    return {
        "step": facts["train_seconds"] / facts["steps"],
        "rows": facts["tokens"] // facts["steps"] // context,
        "gradients": GRADIENT_BYTES * (facts["params"] - facts["lookup"]),
        "layers": count_layers(run, config),
        "width": width,
        "device": facts["device_name"],
    }


def count_layers(run, config):
    """The number of layers: the depth that its config names, else the longest list of modules."""
    if isinstance(config, dict) and isinstance(config.get("depth"), int):
        return config["depth"]
    with open(run / "model.safetensors", "rb") as file:
        names = find_model.read_header(file)
    numbers = {}
    for name in names:
        for list_name, number in re.findall(r"(\w+)\.(\d+)\.", name):
            numbers.setdefault(list_name, set()).add(number)
    return max(map(len, numbers.values()), default=1)


def forecast_scaling(model, links, token_seconds=None, most=MOST_DEVICES):
    """{"training": [...], "decoding": [...]} for 1, 2, 4, ... devices.

    model: as of describe_training(). token_seconds: of a decoded token on one device, batch 1, if it was
    measured.
    """
    training, decoding = [], []
    for n in serve_bench.powers_of_two(most):
        seconds, tag = links.all_reduce_seconds(n, model["gradients"])
        strong = model["step"] / n + seconds
        row = {
            "n": n,
            "all_reduce": seconds,
            "weak": model["step"] / (model["step"] + seconds),
            "tag": tag,
        }
        row["strong"] = (
            model["step"] / (n * strong) if n <= model["rows"] else None
        )  # a device needs a row
        training.append(row)
        if token_seconds:
            small, tag = links.all_reduce_seconds(n, max(256, 2 * model["width"]))
            token = 2 * model["layers"] * small + token_seconds / n
            decoding.append({"n": n, "bound": 1 / token, "all_reduce": small, "tag": tag})
    return {"training": training, "decoding": decoding}


def scaling_report(run, model, links, device, token_seconds=None, most=MOST_DEVICES):
    """All that `ratchet scaling` shows, as JSON; model: as of describe_training()."""
    lines = {n: links.ring_model(n)[:2] for n in links.times}
    table = [
        {"n": n, "bytes": size, "seconds": seconds, "ring": ring_seconds(n, size, *lines[n])}
        for n, times in links.times.items()
        for size, seconds in sorted(times.items())
    ]
    lines = [{"n": n, "alpha": alpha, "beta": beta} for n, (alpha, beta) in lines.items()]
    found = {
        "run": find_model.run_name(run),
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    found |= {
        "model": model,
        "tag": links.tag,
        "source": links.source,
        "device": device,
        "table": table,
    }
    return found | {"lines": lines} | forecast_scaling(model, links, token_seconds, most)
