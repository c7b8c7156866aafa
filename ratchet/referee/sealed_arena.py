"""An arena whose every file is what was prepared."""

import functools
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ratchet.arena.files import Refused, cache_folder, sha256


class Arena(NamedTuple):
    name: str
    folder: Path
    seal: str
    seconds: int


def load_arena(name, folder=None):
    """An arena that is prepared; its files are what arena.json says. Raises Refused."""
    folder = folder or cache_folder() / name
    if not (folder / "arena.json").exists():
        raise Refused(
            f"arena {name} is not prepared: run `uv run prepare.py --arena {name}` (--text) first"
        )
    with suppress(OSError):
        os.chmod(folder / "train.tokens", 0o644)  # who was handed a file can change its mode
    data = (folder / "arena.json").read_bytes()
    facts = json.loads(data)
    for file, known in facts["sha256"].items():
        found = (folder / file).stat()
        if hash_of(folder / file, found.st_size, found.st_mtime_ns) != known:
            raise Refused(
                f"{folder / file} is not what was prepared: delete {folder} and prepare it again"
            )
    return Arena(name, folder, sha256(data)[:12], facts["seconds"])


@functools.cache
def hash_of(path, size, changed):
    """SHA-256 of a file, read once as long as its size and its time stay what they are."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
