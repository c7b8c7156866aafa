"""A process with its descendants, and what they have used of the CPU."""

from contextlib import suppress

import psutil


def list_tree(pid: int) -> list[psutil.Process]:
    """A process with its descendants; [] if it is gone."""
    with suppress(psutil.Error):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds of a process and of its children that have ended; 0 if it is gone."""
    with suppress(psutil.Error):
        return sum(process.cpu_times()[:4])
    return 0.0
