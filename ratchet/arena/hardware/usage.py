"""How much of a processor other processes have used."""

import psutil


def tree_seconds(pid: int) -> float:
    """CPU seconds of a process and its descendants, those that have ended included."""
    try:
        first = psutil.Process(pid)
        return sum(map(cpu_seconds, [first, *first.children(recursive=True)]))
    except psutil.Error:
        return 0.0


def cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds of a process and of the children that it has waited for; 0 if it is gone."""
    try:
        return sum(process.cpu_times()[:4])
    except psutil.Error:
        return 0.0


def busiest_process(pid: int) -> psutil.Process:
    """Of a process and its descendants the one that has used most CPU time."""
    first = psutil.Process(pid)
    return max([first, *first.children(recursive=True)], key=cpu_seconds)
