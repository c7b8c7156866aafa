"""Files: written whole or not at all, hashed, found; what is said when that can't be done."""

import errno
import hashlib
import json
import os
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path

GO_ON = "run the same command again to go on"


def refuse(sentence):
    """End the program for its user's mistake: one sentence (what, why, what to do) and exit code 2."""
    print(f"ratchet: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def reason(error):
    """What an error says, in one line, its remedy included.

    A full disk is raised again: it must not pass for something else.
    """
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return " ".join(str(error).split())[:500] or type(error).__name__


def plainly(function, *args, resume=GO_ON, variable="RATCHET_CACHE", **kwargs):
    """Call function; turn Ctrl-C and a folder that can't be used into one sentence.

    resume: what to do after Ctrl-C. variable: which one names another folder.
    """
    try:
        return function(*args, **kwargs)
    except KeyboardInterrupt:
        print(f"\nratchet: interrupted; {resume}.", file=sys.stderr)
        raise SystemExit(130) from None
    except (Refused, Full) as error:
        refuse(f"{error}.")
    except OSError as error:
        unusable = errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, *unusable):
            raise
        place = error.filename or cache_folder()
        refuse(f"{place} can't be used ({error.strerror}): fix that, or set {variable}, and retry.")


def hash_file(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    """Write bytes, or text as UTF-8, to a file, whole or not at all: until then it holds what it
    held.

    Raises Full when there is no room, another OSError when it can't be written at all.
    """
    path, data = (
        Path(path),
        data.encode("utf-8", errors="replace") if isinstance(data, str) else data,
    )
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


def write_json(path, value):
    """Write a value as JSON, whole or not at all."""
    replace_file(path, json.dumps(value, indent=2) + "\n")


def append_line(file, size, line, path):
    """Append a line, in bytes, to an unbuffered file of `size` bytes: all of it, or nothing. Raises
    Full.
    """
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError as error:
        file.truncate(size)  # a disk that fills up leaves whole lines
        raise cannot_write(path, error) from None


SHARED_TEMPORARY = Path("/tmp")  # of all users


def cache_folder():
    """The folder for arenas and locks. Raises Refused."""
    try:
        return Path(os.environ.get("RATCHET_CACHE") or "~/.cache/ratchet").expanduser().absolute()
    except RuntimeError:  # a user whom the system doesn't know
        raise Refused(
            "there is no home folder (HOME is not set): set RATCHET_CACHE to a folder"
        ) from None


def work_folder():
    """Where runs live, devices are locked, caches are kept: RATCHET_CACHE.

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
        what = f"{folder} is not yours alone"
        raise Refused(f"{what}: have it removed, or set RATCHET_CACHE to a folder of yours")
    return folder


ROOT = Path(__file__).resolve().parents[2]  # of the machinery that runs


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Refused(Exception):
    """What was asked for can't be done; says what, why, and what to do."""
