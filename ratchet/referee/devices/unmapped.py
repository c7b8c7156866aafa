"""Memory that programs have beside what counts as their processes': in files, in shared pages.

A page that no process has mapped is in no process's VmRSS or VmHWM. It lies in a file system in
memory, or in pages that were mapped to be shared and were given up since (madvise(2)), which the
kernel keeps for whoever maps them again. The sandbox refuses what could not be seen here: memfd,
System V's memory (sandbox.py).

Sources: proc(5), tmpfs(5), PR_SET_VMA of prctl(2).
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

BLOCK = 512  # bytes of st_blocks
MAP_FILES = "/proc/{}/map_files/{}-{}"  # the number of a process, begin and end of a mapping
# a mapping to be shared, without a file; a program may give it a name
SHARED = re.compile(
    rb"^(\S+)-(\S+) ..{2}s \S+ \S+ (\d+) +(?:/dev/zero \(deleted\)|\[anon_shmem:.*\])$", re.M
)


def unmapped_bytes(numbers: Iterable[int]) -> int:
    """Bytes that processes have in files in memory, and in pages that they share without a file.

    numbers: ids of the processes. What is mapped of these bytes is in them, too. Of file systems
    those count that this process doesn't see.
    """
    seen = {device for device, _ in file_systems(os.getpid())}
    total, shared, namespaces = 0, {}, set()
    for number in numbers:
        for inode, size in shared_pages(number).items():
            shared[inode] = max(size, shared.get(inode, 0))
        with suppress(OSError):  # it has gone
            namespace = os.readlink(f"/proc/{number}/ns/mnt")
            if namespace not in namespaces:
                namespaces.add(namespace)
                for device, folder in file_systems(number):
                    total += used_bytes(folder) if device not in seen else 0
                    seen.add(device)
    return total + sum(shared.values())


def file_systems(number: int) -> Iterator[tuple[bytes, bytes]]:
    """(device, where this process finds it) of each file system in memory that a process sees."""
    with suppress(OSError):
        with open(f"/proc/{number}/mountinfo", "rb") as file:
            lines = file.read().splitlines()
        for line in lines:
            place, _, kind = line.partition(b" - ")
            if kind.startswith(b"tmpfs "):
                _, _, device, _, folder, *_ = place.split()
                folder = re.sub(rb"\\(\d{3})", lambda code: bytes([int(code[1], 8)]), folder)
                yield device, b"/proc/%d/root%s" % (number, folder)


def used_bytes(folder: bytes) -> int:
    """What is used of a file system; 0 where it can't be seen."""
    with suppress(OSError):
        status = os.statvfs(folder)
        return (status.f_blocks - status.f_bfree) * status.f_frsize
    return 0


def shared_pages(number: int) -> dict[bytes, int]:
    """{inode: bytes} of the memory without a file that a process has mapped to be shared.

    What the kernel keeps of it, where it tells that (it tells root); else as much as is mapped.
    """
    shared: dict[bytes, int] = {}
    with suppress(OSError):
        with open(f"/proc/{number}/maps", "rb") as file:
            mappings = SHARED.findall(file.read())
        for begin, end, inode in mappings:
            link = MAP_FILES.format(number, begin.decode(), end.decode())
            try:
                shared[inode] = os.stat(link).st_blocks * BLOCK
            except OSError:
                shared[inode] = shared.get(inode, 0) + int(end, 16) - int(begin, 16)
    return shared
