"""Seconds of an all-reduce between devices: measured here, read from a file, or from a table.

The ring model: an all-reduce of S bytes between n devices takes alpha(n) + 2 (n - 1) / n S /
beta(n). Alpha is what small messages take, beta the bus bandwidth of large ones. Between measured
sizes that are near each other the measured times are interpolated instead; beyond the measured n
alpha grows with log2(n), as trees do, and beta stays, or is that of the network where it is known.
So its time is `measured`, `modelled`, or from an `external` table.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import psutil

from ratchet.arena.files import ROOT, Refused
from ratchet.model.serve_bench import powers_of_two
from ratchet.referee.devices.choice import list_devices
from ratchet.referee.devices.lock import hold_device
from ratchet.referee.environment import allreduce_environment

SMALL_BYTES = 8192  # a message that is all latency
NEAR = 16  # sizes are near each other if one is at most so many times the other
MOST_MEASURED = 8  # devices between which it is measured
MEASURE_SECONDS = 300  # that measuring may take
# NCCL 2.29 on a node of 8 H200, bfloat16: seconds of messages up to 8 KiB, bytes/s on the bus at
# 512 MiB. From NVIDIA's aiconfigurator, systems/data/h200_sxm/comm/nccl; 50 GB/s: its network
# between nodes.
EXTERNAL = {2: (6.3e-6, 315e9), 4: (9.6e-6, 348e9), 8: (16.0e-6, 460e9)}
EXTERNAL_BYTES = 2**29
NODE = 8  # devices
NETWORK = 50e9  # bytes/s


class Links(NamedTuple):
    """What is known of all-reduce, for example Links({2: {256: 1e-5}}, "measured", "here")."""

    times: dict[int, dict[int, float]]  # {devices: {bytes: seconds}}
    tag: str  # measured or external
    source: str
    node: float = math.inf  # devices that are joined by more than the network
    network: float = math.inf  # bytes/s

    def ring_model(self, n: int) -> tuple[float, float, str]:
        """(alpha in seconds, beta in bytes/s, tag) of n devices."""
        if n in self.times:
            return *fit_ring(n, self.times[n]), self.tag
        most = max((known for known in self.times if known < n), default=min(self.times))
        alpha, beta = fit_ring(most, self.times[most])
        beta = min(beta, self.network) if n > self.node else beta
        return alpha * math.log2(n) / math.log2(most), beta, "modelled"

    def all_reduce_seconds(self, n: int, size: float) -> tuple[float, str]:
        """(seconds, tag) of an all-reduce of `size` bytes between n devices."""
        if n == 1:
            return 0.0, self.tag
        known = sorted(self.times.get(n, {}).items())
        for (low, fast), (high, slow) in zip(known, known[1:]):
            if low <= size <= high and (high <= NEAR * low or size in (low, high)):
                share = math.log(size / low) / math.log(high / low)
                return math.exp(math.log(fast) * (1 - share) + math.log(slow) * share), self.tag
        alpha, beta, _ = self.ring_model(n)
        return ring_seconds(n, size, alpha, beta), "modelled"


def ring_seconds(n: int, size: float, alpha: float, beta: float) -> float:
    """Seconds of an all-reduce of `size` bytes between n devices."""
    return alpha + 2 * (n - 1) / n * size / beta


def fit_ring(n: int, times: dict[int, float]) -> tuple[float, float]:
    """(alpha, beta) of {bytes: seconds}: from the small messages, and from the largest one."""
    small = [seconds for size, seconds in times.items() if size <= SMALL_BYTES]
    small = sorted(small or [min(times.values())])
    alpha, largest = small[len(small) // 2], max(times)
    return alpha, 2 * (n - 1) / n * largest / max(times[largest] - alpha, 1e-12)


# --------------------------------------------------------------------------------------------------
# Where times come from


def choose_links(name: str | None, device: str) -> Links:
    """Links that the user names, else those between devices or cores here, else from a table.

    Raises Refused.
    """
    if name and name != "external":
        return read_nccl_tests(name)
    number = psutil.cpu_count()
    if device.startswith("cuda"):
        number = sum(other.startswith("cuda") for other in list_devices())
    if name or number < 2:
        return external_links()
    return measure_links(min(MOST_MEASURED, number), device)


def measure_links(number: int, device: str) -> Links:
    """Links between 2, 4, ... GPUs of this machine, or processes on its CPU. Raises Refused."""
    source = "gloo between processes, which share the cores"
    if device.startswith("cuda"):
        source = "nccl between GPUs"
    with hold_device(device):
        times = {n: measure_all_reduce(n, device) for n in powers_of_two(number)[1:]}
    return Links(times, "measured", f"{source} of this machine")


def measure_all_reduce(n: int, device: str) -> dict[int, float]:
    """{bytes: seconds} between n devices of this machine. Raises Refused."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        argv = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        argv += [f"--nproc-per-node={n}", str(ROOT / "ratchet/model/allreduce.py"), str(out)]
        process = subprocess.Popen(
            argv,
            env=allreduce_environment(Path(folder), device),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            encoding="utf-8",
        )
        with process:
            try:
                _, errors = process.communicate(timeout=MEASURE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                errors = f"TimeoutError: it took more than {MEASURE_SECONDS} s"
            except BaseException:  # Ctrl-C doesn't reach them
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode:
            reasons = re.findall(r"^\S*Error: .*", errors, re.MULTILINE) or ["no reason given"]
            wrong = f"all-reduce between {n} processes can't be measured ({reasons[0][:200]})"
            raise Refused(f"{wrong}: name a table with --links, or say --links external")
        return {int(size): seconds for size, seconds in json.loads(out.read_bytes()).items()}


def external_links() -> Links:
    """Links of a node of 8 H200, from a table that somebody else measured."""
    times = {}
    for n, (alpha, bus_bandwidth) in EXTERNAL.items():
        large_seconds = 2 * (n - 1) / n * EXTERNAL_BYTES / bus_bandwidth
        times[n] = {SMALL_BYTES: alpha, EXTERNAL_BYTES: large_seconds}
    return Links(times, "external", "NCCL on 8 H200, NVIDIA aiconfigurator", NODE, NETWORK)


def read_nccl_tests(path: str) -> Links:
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
        wrong = f"{path} isn't what all_reduce_perf of nccl-tests prints for two ranks or more"
        raise Refused(f"{wrong}: give that")
    return Links({ranks: times}, "measured", f"nccl-tests, {Path(path).name}")
