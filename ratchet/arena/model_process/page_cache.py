"""The page cache of files that all processes of a model may read.

A page that is not in memory yet tells, by the time that it takes to be read, that no earlier
process has read it: so all are read before the first one begins. None can drop them again (the
sandbox refuses that), but the kernel may, when a process takes all memory: its own counters tell.

Sources: cachestat(2), proc_vmstat(5).
"""

import ctypes
import math
import mmap
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

LIBC = ctypes.CDLL(None)
CACHESTAT = 451  # the number of the call on all machines
VMSTAT = Path("/proc/vmstat")
TAKEN_BACK = "pgsteal_", "pginodesteal", "kswapd_inodesteal", "slabs_scanned", "drop_"
MOST_SHARE = 0.5  # of free memory that the files may fill
CHUNK_BYTES = 2**20
COUNTS_BYTES = 40  # of struct cachestat


class SharedFiles(NamedTuple):
    """Files that all processes of a model may read: those at and below `roots`, but for `hidden`.

    taken_back: what count_taken_back() said when they were read the last time
    """

    roots: list[str] = []
    hidden: list[str] = []
    taken_back: dict[str, int] | None = None

    def in_memory(self) -> "SharedFiles":
        """Have all of them in memory: they are read if the kernel has taken anything back."""
        counts = count_taken_back()
        if not self.roots or (counts and self.taken_back == counts):
            return self
        read_into_memory([*list_files(self.roots, self.hidden)])
        return self._replace(taken_back=counts)


def count_taken_back() -> dict[str, int]:
    """What the kernel has taken back from the page cache since it started; {} if it hides that."""
    try:
        text = VMSTAT.read_text(encoding="ascii")
    except OSError:
        return {}
    counts = dict(map(str.split, text.splitlines()))
    return {name: int(count) for name, count in counts.items() if name.startswith(TAKEN_BACK)}


def list_files(roots: Iterable[str], hidden: Iterable[str]) -> Iterator[tuple[str, int]]:
    """(path, bytes) of regular files; each name is looked up, as that reads the disk, too."""
    for root in filter(os.path.isfile, roots):
        yield root, os.stat(root).st_size
    hidden = {*map(os.path.realpath, hidden)}
    for root in map(os.path.realpath, roots):
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if f"{folder}/{name}" not in hidden]
            for name in names:
                with suppress(OSError):
                    status = os.lstat(path := f"{folder}/{name}")
                    if stat.S_ISREG(status.st_mode):
                        yield path, status.st_size


def read_into_memory(files: Sequence[tuple[str, int]]) -> bool:
    """Read what is not in memory of files (path, bytes); False if there is no room for all."""
    if sum(size for _, size in files) > MOST_SHARE * psutil.virtual_memory().available:
        return False
    for path, size in files:
        with suppress(OSError), open(path, "rb", buffering=0) as file:
            if not is_in_memory(file.fileno(), size):
                while file.read(CHUNK_BYTES):
                    pass
    return True


def is_in_memory(descriptor: int, size: int) -> bool:
    """Whether all pages of an open file are in memory; False where the kernel doesn't tell."""
    whole, counts = struct.pack("2Q", 0, 0), ctypes.create_string_buffer(COUNTS_BYTES)
    if LIBC.syscall(ctypes.c_long(CACHESTAT), descriptor, whole, counts, 0):
        return False
    (pages,) = struct.unpack_from("Q", counts)
    return pages >= math.ceil(size / mmap.PAGESIZE)
