"""Files: written whole or not at all, and what is said when the disk is full."""

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


class Full(Exception):
    """There is no room for what is to be written; says where, and what to do."""


def cannot_write(path, error):
    """The Full that a failed write comes to."""
    remedy = "free some disk" if is_full(error) else "mend that"
    return Full(f"{path} can't be written ({error.strerror or error}): {remedy}, then try again")


def is_full(error):
    """Whether an exception says that there is no room."""
    return isinstance(error, Full) or (isinstance(error, OSError) and error.errno in NO_ROOM)


def replace_file(path, data):
    """Write bytes, or text as UTF-8, to a file, whole or not at all: until then it holds what it held.

    Raises Full when there is no room, another OSError when it can't be written at all.
    """
    path, data = Path(path), data.encode("utf-8", errors="replace") if isinstance(data, str) else data
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise (cannot_write(path, error) if is_full(error) else error) from None


def append_line(file, size, line, path):
    """Append a line, in bytes, to an unbuffered file of `size` bytes: all of it, or nothing. Raises Full."""
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError as error:
        file.truncate(size)  # a disk that fills up leaves whole lines
        raise cannot_write(path, error) from None
