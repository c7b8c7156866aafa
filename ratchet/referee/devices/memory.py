"""How much of the machine's memory is free."""

from contextlib import suppress

import psutil

from ratchet.arena.hardware.quota import control_groups


def free_memory() -> float:
    """Bytes that are free on this machine, or those that control groups still grant if fewer are.

    What files leave in memory counts as free, as it goes when it is needed.
    """
    free = [float(psutil.virtual_memory().available)]
    for group, is_first in control_groups("memory"):
        names = ("limit_in_bytes", "usage_in_bytes") if is_first else ("max", "current")
        with suppress(OSError, ValueError):  # "max": no limit
            limit, used = (int((group / f"memory.{n}").read_text("utf-8")) for n in names)
            stat = (group / "memory.stat").read_text("utf-8").split()
            figures = dict(zip(stat[::2], stat[1::2]))
            files = figures.get("total_inactive_file" if is_first else "inactive_file", 0)
            free.append(limit - used + int(files))
    return max(0.0, min(free))
