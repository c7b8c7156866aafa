"""Training tokens as a file that one run alone has.

Whoever has a file open can leave something on it, though it can't write to it: extended attributes,
dates, rights, an owner, flags, which of its pages are in memory. On a file without a name that is
gone with the run.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

from ratchet.referee import limits
from ratchet.referee.devices.memory import free_memory

SEALS = "F_SEAL_WRITE", "F_SEAL_GROW", "F_SEAL_SHRINK", "F_SEAL_SEAL"  # memfd_create(2)


def copy_without_name(path: Path, folder: Path) -> IO[bytes]:
    """A copy of a file, open for reading, that no folder holds: it is gone once it is closed.

    It lies in memory, sealed, where there is room (Linux), else on the disk of that folder. Raises
    OSError when there is no room either.
    """
    in_memory = fits_into_memory(path.stat().st_size)
    copy = sealable_file() if in_memory else tempfile.TemporaryFile(dir=folder)
    with open(path, "rb") as file:
        shutil.copyfileobj(file, copy, 2**24)
    copy.flush()
    copy.seek(0)
    if in_memory:
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, sum(getattr(fcntl, name) for name in SEALS))
    try:
        read_only = os.open(f"/proc/self/fd/{copy.fileno()}", os.O_RDONLY)
    except OSError:  # there is no /proc
        return copy
    copy.close()
    return open(read_only, "rb")


def fits_into_memory(size: int) -> bool:
    """Whether so many bytes are a small part of the memory that is free."""
    return hasattr(os, "memfd_create") and size <= limits.TOKENS_MEMORY_SHARE * free_memory()


def sealable_file() -> IO[bytes]:
    """A new file in memory."""
    return open(os.memfd_create("train.tokens", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b")
