"""Folders that a contestant wrote to."""

import os
import stat
import subprocess
import time
from contextlib import contextmanager, suppress

from ratchet.referee import supervisor
from ratchet.referee.limits import COPY_BYTES, COPY_DEPTH, COPY_SECONDS


def copy_files(source, target):
    """Copy a folder that a contestant can change meanwhile: regular files with one name, and
    nothing else.
    """
    stop, room = time.monotonic() + COPY_SECONDS, [COPY_BYTES]

    def copy(folder, place, depth):
        place.mkdir(parents=True)
        for name in os.listdir(folder):
            with suppress(OSError), opened(name, folder) as (old, facts):
                room[0] -= facts.st_size
                if room[0] < 0 or time.monotonic() > stop:
                    raise supervisor.Ended("disk", "its compiler's cache is too large to keep")
                if stat.S_ISDIR(facts.st_mode) and depth:
                    copy(old, place / name, depth - 1)
                elif stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
                    (place / name).write_bytes(os.read(old, facts.st_size))

    with opened(source, None) as (top, _):
        copy(top, target, COPY_DEPTH)


@contextmanager
def opened(name, folder):
    """(descriptor, what it is) of a name in an open folder: no link is followed, no pipe waited
    for.
    """
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        yield descriptor, os.fstat(descriptor)
    finally:
        os.close(descriptor)


def remove(folder):
    """Delete a folder that a contestant wrote to: it may lack rights, or be deeper than Python
    goes.
    """
    for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        subprocess.run([*command, "--", folder], stderr=subprocess.DEVNULL)


@contextmanager
def all_at_once(target):
    """An empty folder that takes the place of `target` when the block has ended."""
    part = target.with_name(target.name + ".part")
    for folder in (target, part):
        remove(folder)
    part.mkdir(parents=True)
    yield part
    os.replace(part, target)
