"""Handles folders that a contestant wrote to."""

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ratchet.arena.files import is_plain_file, open_itself
from ratchet.referee import limits
from ratchet.referee.supervisor import EndedEarly


def copy_regular_files(source: Path, target: Path) -> None:
    """Copy a folder that a contestant can change meanwhile: regular files that have one name.

    Raises EndedEarly("disk") when that is too much, OSError when there is no such folder.
    """
    deadline, bytes_left = time.monotonic() + limits.COPY_SECONDS, limits.COPY_BYTES

    def copy_folder(folder: int, copy: Path, depth: int) -> None:
        nonlocal bytes_left
        copy.mkdir(parents=True)
        for name in os.listdir(folder):
            with suppress(OSError), open_itself(name, folder) as (descriptor, status):
                bytes_left -= status.st_size
                if bytes_left < 0 or time.monotonic() > deadline:
                    raise EndedEarly("disk", "its compiler's cache is too large to keep")
                if stat.S_ISDIR(status.st_mode) and depth:
                    copy_folder(descriptor, copy / name, depth - 1)
                elif is_plain_file(status):
                    (copy / name).write_bytes(os.read(descriptor, status.st_size))

    with open_itself(source, None) as (top, _):
        copy_folder(top, target, limits.COPY_DEPTH)


def remove_folder(folder: Path) -> None:
    """Delete a folder that may lack rights, or be deeper than Python goes."""
    for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        subprocess.run([*command, "--", folder], stderr=subprocess.DEVNULL)


@contextmanager
def all_at_once(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `target` when the block has ended."""
    part = target.with_name(target.name + ".part")
    for folder in (target, part):
        remove_folder(folder)
    part.mkdir(parents=True)
    yield part
    os.replace(part, target)
