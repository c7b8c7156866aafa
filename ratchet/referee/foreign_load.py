"""What other programs use of a device while a run has it."""

import functools
import itertools
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ratchet.referee import limits
from ratchet.referee.devices.cores import cores_of
from ratchet.referee.devices.nvidia import running_processes
from ratchet.referee.supervisor import WatchedProcess

KERNEL_PARENT = 2  # number of the process whose children are kernel threads, on Linux
LEAST_SECONDS = 2  # that can be judged: the kernel's figures tick 100 times a second


class OtherProcess(NamedTuple):
    """One that is no part of the run: its seconds of CPU, whether the device's cores serve it."""

    cpu_seconds: float
    may_use_cores: bool


class Snapshot(NamedTuple):
    """What was used until a moment.

    time: of the clock, in seconds
    busy_seconds: for which the device's cores have served others
    others: by (number, time of its start)
    """

    time: float
    busy_seconds: float
    others: dict[tuple[int, float], OtherProcess]


class ForeignLoad:
    """What other programs use of a device between begin() and measure()."""

    def __init__(self, device: str, process: WatchedProcess) -> None:
        self.device, self.process, self.cores = device, process, cores_of(device)
        self.start: Snapshot | None = None

    def begin(self) -> None:
        """Called when the clock starts."""
        self.start = self._snapshot()

    def measure(self) -> dict[str, Any]:
        """{"foreign_cpu": share of its cores, "foreign_gpu": processes, "shared": too much}.

        {} before begin(). Only what other processes are seen to have used counts: a contestant that
        hides its own time, by not waiting for its children, would else spoil runs that it dislikes.
        """
        if not self.start:
            return {}
        end = self._snapshot()
        seconds = end.time - self.start.time
        used = min(foreign_seconds(self.start, end), end.busy_seconds - self.start.busy_seconds)
        cores_used = max(0.0, used) / max(seconds, 1e-9)
        share = cores_used / (len(self.cores) or psutil.cpu_count())
        others = self._others_on_gpu()
        most = limits.FOREIGN_CPU_SHARE[self.device.partition(":")[0]]
        shared = bool(others or (share > most and seconds >= LEAST_SECONDS))
        return {"foreign_cpu": round(share, 3), "foreign_gpu": others, "shared": shared}

    def _snapshot(self) -> Snapshot:
        tree = {process.pid for process in self.process.list_processes()}
        own_seconds, others = 0.0, {}
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                spent = sum(process.cpu_times()[:4])
                if process.pid in tree or self._is_of_session(process.pid):
                    own_seconds += spent
                elif process.pid != os.getpid() and not is_kernel_thread(process):
                    key = process.pid, process.create_time()
                    others[key] = OtherProcess(spent, self._may_use_cores(process))
        own_seconds = max(own_seconds, self.process.looks.cpu_seconds)  # it has ended, at last
        return Snapshot(time.monotonic(), self._busy_seconds() - own_seconds, others)

    def _is_of_session(self, number: int) -> bool:
        """Whether a process, which may have ended, is of the contestant's session."""
        with suppress(OSError):
            return os.getsid(number) == self.process.popen.pid
        return False

    def _may_use_cores(self, process: psutil.Process) -> bool:
        """Whether a process isn't confined to other cores than these."""
        return not self.cores or not self.cores.isdisjoint(process.cpu_affinity())

    def _busy_seconds(self) -> float:
        """For how long its cores were busy since the machine was started."""
        times = core_times()
        return sum(busy_seconds(times[number]) for number in self.cores & times.keys() or times)

    def _others_on_gpu(self) -> int:
        tree = {process.pid for process in self.process.list_processes()}
        running = [number for number in running_processes(self.device) if number not in tree]
        return len([number for number in running if not self._is_of_session(number)])  # or it dies


def is_kernel_thread(process: psutil.Process) -> bool:
    """Whether a process is the kernel's: what it writes to disks may be the contestant's files."""
    return process.ppid() == KERNEL_PARENT and is_kernel_visible()


@functools.cache
def is_kernel_visible() -> bool:
    """Whether the parent of kernel threads is there; in a container its number is another's."""
    with suppress(psutil.Error, OSError):
        return psutil.Process(KERNEL_PARENT).name() == "kthreadd"
    return False


def foreign_seconds(start: Snapshot, end: Snapshot) -> float:
    """CPU time that other processes have spent on the device's cores between two snapshots."""
    unknown = OtherProcess(0.0, False)
    seconds = 0.0
    for key, other in end.others.items():
        before = start.others.get(key, unknown)
        if other.may_use_cores or before.may_use_cores:
            seconds += max(0.0, other.cpu_seconds - before.cpu_seconds)
    for key, before in start.others.items():
        if before.may_use_cores and key not in end.others:
            seconds -= before.cpu_seconds  # it has ended: all that it used is now its parent's
    return seconds


def core_times() -> dict[int, Any]:
    """{number of a logical core: its psutil times}; one that is offline is missing."""
    numbers, stat = itertools.count(), Path("/proc/stat")
    if stat.exists():
        lines = re.findall(r"^cpu(\d+) ", stat.read_text(encoding="utf-8"), re.MULTILINE)
        numbers = map(int, lines)
    return dict(zip(numbers, psutil.cpu_times(percpu=True)))


def busy_seconds(times: Any) -> float:
    """For how long one core was busy since the machine was started, given its psutil times."""
    return sum(times[:8]) - times.idle - getattr(times, "iowait", 0) - getattr(times, "steal", 0)
