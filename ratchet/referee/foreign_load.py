"""What other programs use of a run's device meanwhile."""

import itertools
import os
import re
import time
from contextlib import suppress
from pathlib import Path

import psutil

from ratchet.referee.devices import cores, nvml
from ratchet.referee.limits import FOREIGN_CPU


class Load:
    """What else used the device between two looks: begin() and seen()."""

    def __init__(self, device, process):
        self.device, self.process, self.cores, self.start = device, process, cores(device), None

    def begin(self):
        self.start = self._look()

    def _look(self):
        """(now, seconds that its cores served others, {other process: (its seconds, whether
        there)}).
        """
        tree, others, busy = {process.pid for process in self.process.tree()}, {}, self._busy()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                spent = sum(process.cpu_times()[:4])
                if process.pid in tree or self._is_own(process.pid):
                    busy -= spent
                elif process.pid != os.getpid():
                    others[process.pid, process.create_time()] = spent, self._may_use(process)
        return time.monotonic(), busy, others

    def _is_own(self, number):
        """Whether a process, which may have ended, is of the contestant's session."""
        with suppress(OSError):
            return os.getsid(number) == self.process.popen.pid
        return False

    def _may_use(self, process):
        """Whether a process isn't confined to other cores than these."""
        return not self.cores or not self.cores.isdisjoint(process.cpu_affinity())

    def _busy(self):
        """Seconds that its cores were busy since the machine was started."""
        times = core_times()
        return sum(busy_seconds(times[number]) for number in self.cores & times.keys() or times)

    def seen(self):
        """{"foreign_cpu": share of its cores that others used, "foreign_gpu": their number,
        "shared"}, or {}.

        Only what other processes are seen to have used: a contestant that hides its own time by not
        waiting for its children would else spoil the runs that it dislikes.
        """
        if not self.start:
            return {}
        (begin, busy, before), (now, busy_now, after) = self.start, self._look()
        used = 0.0
        for process, (spent, here) in after.items():
            spent_before, here_before = before.get(process, (0.0, False))
            used += max(0.0, spent - spent_before) * (here or here_before)
        ended = sum(
            spent for process, (spent, here) in before.items() if here and process not in after
        )
        used = max(0.0, used - ended)  # what it had used before is now among its parent's
        busy_cores = max(0.0, min(used, busy_now - busy)) / max(now - begin, 1e-9)
        share, others = busy_cores / (len(self.cores) or psutil.cpu_count()), self._others()
        limit = FOREIGN_CPU[self.device.partition(":")[0]]
        long_enough = now - begin >= 2  # the clock of the kernel's figures ticks 100 times a second
        shared = bool(others or (share > limit and long_enough))
        return {"foreign_cpu": round(share, 3), "foreign_gpu": len(others), "shared": shared}

    def _others(self):
        if not self.device.startswith("cuda") or not (found := nvml(self.device)):
            return []
        with suppress(found[0].NVMLError):
            own = {process.pid for process in self.process.tree()}
            running = found[0].nvmlDeviceGetComputeRunningProcesses(found[1])
            return [process.pid for process in running if process.pid not in own]
        return []


def core_times():
    """{number of a logical core: its times}; one that is offline is missing."""
    numbers, stat = itertools.count(), Path("/proc/stat")
    if stat.exists():
        numbers = map(
            int, re.findall(r"^cpu(\d+) ", stat.read_text(encoding="utf-8"), re.MULTILINE)
        )
    return dict(zip(numbers, psutil.cpu_times(percpu=True)))


def busy_seconds(times):
    """Of one core since the machine was started."""
    return sum(times[:8]) - times.idle - getattr(times, "iowait", 0) - getattr(times, "steal", 0)
