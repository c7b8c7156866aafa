"""Who holds a device: one run at a time."""

import errno
import fcntl
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

import psutil

from ratchet.arena.files import work_folder
from ratchet.referee.devices.cores import cores_of, pinned_to
from ratchet.referee.devices.nvidia import open_gpu

NO_LOCKS = errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP
LOOK_SECONDS = 0.2  # between two looks at a device that somebody else holds


def unique_name(device: str) -> str:
    """A name that no other device has, on no machine that shares this home folder.

    A CPU of which this process has a part, as a Slurm job may, is named by its first core, too.
    Example: "node7-cpu", "node7-cpu0of2-0", "node7-GPU-5fd4f087-86f3-7a43-b711-4771313afc50".
    """
    name = device.replace("/", "of")
    numbers = cores_of(device) if device.startswith("cpu") else set()
    if 0 < len(numbers) < psutil.cpu_count():
        name += f"-{min(numbers)}"
    if gpu := open_gpu(device):
        nvml, handle = gpu
        name = nvml.nvmlDeviceGetUUID(handle)
    return re.sub(r"[^\w-]", "", f"{platform.node()}-{name}")


def lockable_parts(device: str) -> list[str]:
    """Names of what only one run may use at a time, in order: cores of a CPU, or the device."""
    numbers = sorted(cores_of(device)) if device.startswith("cpu") else []
    return [unique_name(f"core-{number}") for number in numbers] or [unique_name(device)]


def share_a_part(first: str, second: str) -> bool:
    """Whether two devices have a part in common, as cpu:0/2 and cpu:0/4 have."""
    return not {*lockable_parts(first)}.isdisjoint(lockable_parts(second))


@contextmanager
def hold_device(
    device: str,
    tell: Callable[[str], None] = lambda text: None,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold a device, on whose cores this thread is meanwhile; a dying process lets go of it.

    While another run of this user has a part of it, this waits by calling pause(seconds).
    """
    work_folder().mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for part in lockable_parts(device):
            file = stack.enter_context(open(work_folder() / f".device-{part}.lock", "ab"))
            if not try_lock(file):
                tell(f"  {device} is in use by another run: waiting for it")
                while not try_lock(file):
                    pause(LOOK_SECONDS)
        with pinned_to(device):
            yield


def try_lock(file: IO[bytes]) -> bool:
    """Lock an open file; False if somebody else has. True where its file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
