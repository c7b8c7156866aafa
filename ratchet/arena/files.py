"""The ground floor: whole files, hashes, folders of the user, refusals."""

import errno
import hashlib
import json
import os
import stat
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parents[2]  # of the code that runs
SHARED_TEMPORARY = Path("/tmp")  # of all users
RUN_FILE_BYTES = 2**25  # of any file that a run leaves, its weights apart
NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EFBIG

# --------------------------------------------------------------------------------------------------
# Refusals: a user's mistake is one sentence


class Refused(Exception):
    """A user's mistake: one sentence that says what, why, and what to do, without a full stop.

    Example: Refused("seed 'x' is not understood: RATCHET_SEED is a whole number")
    """


class Full(Exception):
    """No room for what is to be written: one sentence, as in Refused."""


def print_error(sentence: str) -> None:
    """Tell the user of an error, with our name before it and a full stop at its end."""
    print(f"ratchet: {sentence.rstrip('.')}.", file=sys.stderr)


@contextmanager
def exit_on_user_error(
    go_on: str = "run the same command again to go on", variable: str | None = None
) -> Generator[None]:
    """End the program with a sentence: exit code 2 for a user's mistake, 130 for Ctrl-C.

    A user's mistake is Refused, Full, or a file that can't be used. go_on: what to do after
    Ctrl-C. variable: of the environment, which names another folder than the one that can't be
    used.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(file=sys.stderr)
        print_error(f"interrupted; {go_on}")
        raise SystemExit(130) from None
    except (Refused, Full) as error:
        print_error(str(error))
        raise SystemExit(2) from None
    except OSError as error:
        if not error.filename and not is_full(error):
            raise
        print_error(describe_unusable(error, variable))
        raise SystemExit(2) from None


def describe_unusable(error: OSError, variable: str | None = None) -> str:
    """The sentence on a file or a folder that can't be used."""
    path = error.filename or "the disk"
    remedy = f"fix that, or set {variable}, and retry" if variable else "fix that and retry"
    return f"{path} can't be used ({error.strerror}): {remedy}"


def describe_error(error: BaseException) -> str:
    """What an error says: one line of 500 characters at most, without a full stop.

    A full disk is raised again: it must not pass for something else.
    """
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return " ".join(str(error).split())[:500].rstrip(".") or type(error).__name__


# --------------------------------------------------------------------------------------------------
# Files


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room."""
    return isinstance(error, Full) or (isinstance(error, OSError) and error.errno in NO_ROOM)


def cannot_write(path: Path | str, error: OSError) -> Full:
    """The Full to raise for a write that failed."""
    remedy = "free some disk" if is_full(error) else "fix that"
    return Full(f"{path} can't be written ({error.strerror or error}): {remedy}, then try again")


def replace_file(path: Path | str, data: bytes | str) -> None:
    """Write a file, whole or not at all: until it is whole, the old one stays. Text is UTF-8.

    Raises Full when there is no room, another OSError when the file can't be written at all.
    """
    path = Path(path)
    if isinstance(data, str):
        data = data.encode("utf-8", errors="replace")
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


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    replace_file(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


# Files that a contestant may have written: all of them are opened here, and nowhere else


@contextmanager
def open_itself(
    name: Path | str, folder: int | None = None
) -> Generator[tuple[int, os.stat_result]]:
    """(descriptor, its status) of a file or folder: follows no link, waits for no pipe.

    folder: an open one that a relative name is in. Raises OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        yield descriptor, os.fstat(descriptor)
    finally:
        os.close(descriptor)


def is_plain_file(status: os.stat_result) -> bool:
    """Whether it is a regular file without a second name, which may lie anywhere."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


@contextmanager
def open_untrusted(path: Path, most_bytes: int = RUN_FILE_BYTES) -> Generator[BinaryIO]:
    """A file that a contestant may have written, to read: a plain one of bounded size.

    It may grow while it is read, as long as the contestant lives: read so many bytes at most.
    Raises OSError.
    """
    with open_itself(path) as (descriptor, status):
        if not is_plain_file(status):
            raise OSError(errno.EINVAL, "it is a link or no file", str(path))
        if status.st_size > most_bytes:
            sizes = f"it has {status.st_size:,} bytes, {most_bytes:,} are allowed"
            raise OSError(errno.EINVAL, sizes, str(path))
        with open(descriptor, "rb", closefd=False) as file:
            yield file


def read_untrusted(path: Path, most_bytes: int = RUN_FILE_BYTES) -> bytes:
    """What such a file holds. Raises OSError."""
    with open_untrusted(path, most_bytes) as file:
        return file.read(most_bytes)


def append_line(file: BinaryIO, size: int, line: bytes, path: Path | str) -> None:
    """Append a line to an unbuffered file of `size` bytes: all of it, or nothing. Raises Full."""
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError as error:
        file.truncate(size)  # a disk that fills up leaves whole lines
        raise cannot_write(path, error) from None


# --------------------------------------------------------------------------------------------------
# Folders


def cache_folder() -> Path:
    """The folder of arenas: RATCHET_CACHE, by default ~/.cache/ratchet. Raises Refused."""
    try:
        return Path(os.environ.get("RATCHET_CACHE") or "~/.cache/ratchet").expanduser().absolute()
    except RuntimeError:  # a user whom the system doesn't know
        sentence = "there is no home folder (HOME is not set): set RATCHET_CACHE to a folder"
        raise Refused(sentence) from None


def work_folder() -> Path:
    """Where runs live, devices are locked, compiler caches are kept: the cache folder.

    Where that can only be read, as others prepared the arenas: a folder of this user in /tmp,
    whatever TMPDIR is, so that all runs of a user meet the same locks. Raises Refused if somebody
    else has that one.
    """
    cache = cache_folder()
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if os.access(nearest, os.W_OK):
        return cache
    folder = SHARED_TEMPORARY / f"ratchet-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        remedy = "have it removed, or set RATCHET_CACHE to a folder of yours"
        raise Refused(f"{folder} is not yours alone: {remedy}")
    return folder
