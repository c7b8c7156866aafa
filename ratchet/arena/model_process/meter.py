"""How much a model's process works beside its answers: it may have trained meanwhile."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from statistics import median

import psutil
import torch

from ratchet.arena.budget import GPU_WORK_SECONDS, KERNEL_SECONDS, work_limit
from ratchet.arena.hardware.processes import cpu_seconds, list_tree

SLOW_ANSWER = 3  # times the median, from which on an answer is more than an answer
SLOW_SECONDS = 2  # more than the median, likewise: else slow answers would buy a slow first one
LEAST_ANSWERS = 3  # the first one may make kernels ready
TICK_SECONDS = 0.01  # of the clock of CPU time
SAMPLE_SECONDS = 0.1  # between two looks at a GPU


class WorkMeter:
    """Measures how much a process works, from the moment that it is made.

    In CPU seconds, which other programs hardly change; on a GPU in seconds that it was busy; where
    nobody tells these, in seconds, and kernels that are compiled meanwhile need some.
    """

    def __init__(self, pid: int, device: torch.device) -> None:
        self.pid, self.on_cpu = pid, device.type == "cpu"
        self.start_seconds = tree_seconds(pid)  # that it took to import PyTorch
        self.process = busiest_process(pid)  # of the sandbox's processes the model's
        self.gpu = watch_gpu(device)
        self.total = 0.0  # of all that was measured
        self.answers: list[float] = []

    @property
    def unit(self) -> str:
        """What is measured, in words."""
        return "CPU time" if self.on_cpu else "GPU time" if self.gpu else "time"

    @property
    def tick(self) -> float:
        """Seconds by which what is measured goes on."""
        return SAMPLE_SECONDS if self.gpu else TICK_SECONDS

    def allowance(self, weight_bytes: int) -> float:
        """The largest surplus that is no training."""
        kernels = 0 if self.on_cpu else GPU_WORK_SECONDS if self.gpu else KERNEL_SECONDS
        return kernels + work_limit(weight_bytes, self.start_seconds)

    def now(self) -> float:
        """Seconds of the kind that is measured, since some moment."""
        if self.on_cpu:
            return cpu_seconds(self.process)
        return self.gpu.busy_seconds if self.gpu else time.monotonic()

    @contextmanager
    def measured(self, an_answer: bool = False) -> Generator[None]:
        """Count what is worked meanwhile; that of an answer may be needed, unless it failed."""
        begin = self.now()
        try:
            yield
        finally:  # who says that there is no memory may have trained, too
            seconds = self.now() - begin
            self.total += seconds
        self.answers += [seconds] * an_answer

    @property
    def typical_answer(self) -> float:
        """Seconds of most answers: their median; 0.0 while there are too few to tell."""
        return median(self.answers) if len(self.answers) >= LEAST_ANSWERS else 0.0

    def surplus(self) -> float:
        """Seconds of all else: of load(), of answers much slower than others, of children."""
        typical = max(median(self.answers or [0.0]), self.tick)
        usual = min(SLOW_ANSWER * typical, typical + SLOW_SECONDS)
        needed = sum(min(seconds, usual) for seconds in self.answers)
        if self.on_cpu:  # with children
            return tree_seconds(self.pid) - self.start_seconds - needed
        return self.total - needed


# --------------------------------------------------------------------------------------------------
# A GPU


class GpuUsage:
    """Seconds that a GPU is busy, whoever keeps it so, as its driver tells now and then."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.busy_seconds = device, 0.0
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(SAMPLE_SECONDS)
            busy, now = torch.cuda.utilization(self.device) / 100, time.monotonic()
            self.busy_seconds += busy * (now - last)
            last = now


def watch_gpu(device: torch.device) -> GpuUsage | None:
    """Begin to watch a GPU; None where its driver doesn't tell how busy it is."""
    if device.type != "cuda":
        return None
    try:
        torch.cuda.utilization(device)
    except Exception:  # of NVML, or as pynvml is missing
        return None
    return GpuUsage(device)


# --------------------------------------------------------------------------------------------------
# Processes


def tree_seconds(pid: int) -> float:
    """CPU seconds of a process and its descendants, those that have ended included."""
    return sum(map(cpu_seconds, list_tree(pid)))


def busiest_process(pid: int) -> psutil.Process:
    """Of a process and its descendants the one that has used most CPU time."""
    return max(list_tree(pid), key=cpu_seconds, default=psutil.Process())
