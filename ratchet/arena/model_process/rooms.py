"""A room: a folder for one process of a model that is scored, with copies of all that it reads.

No other process reads these files, so it can't learn from the page cache what another one read. A
referee makes rooms with a script `python` in each, which starts Python in a sandbox that sees
`code` and `model`, and writes to `tmp`.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from ratchet.arena.files import ROOT, read_json
from ratchet.arena.model_process.page_cache import SharedFiles

MODEL_FILES = "train.py", "config.json", "model.safetensors"
VARIABLE = "RATCHET_ROOMS"  # names the folder where a referee's rooms are


def copy_contract(folder: Path) -> None:
    """Copy what a contestant, or its scorer, imports of Ratchet: prepare.py, ratchet/arena/."""
    shutil.copy(ROOT / "prepare.py", folder)
    (folder / "ratchet").mkdir()
    shutil.copy(ROOT / "ratchet/__init__.py", folder / "ratchet")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ratchet/arena", folder / "ratchet/arena", ignore=ignored)


def make_room(folder: Path) -> Path:
    """An empty room in a folder, with a name that tells nothing."""
    room = Path(tempfile.mkdtemp(prefix="", dir=folder))
    for name in ("code", "model", "tmp"):
        (room / name).mkdir()
    return room


def take_room(model: Path) -> Path:
    """A room with copies of the contract and of a run's model, for one process.

    One of the referee's if there is a referee: each is taken once. Else links will do.
    """
    if folder := os.environ.get(VARIABLE):
        room = next(room for room in Path(folder).iterdir() if not any((room / "code").iterdir()))
    else:
        room = make_room(Path(tempfile.gettempdir()))
    copy_contract(room / "code")
    put = shutil.copy if folder else os.symlink
    for name in MODEL_FILES:
        if (model / name).exists():
            put((model / name).resolve(), room / "model" / name)
    return room


def list_path(folder: Path) -> Path:
    """Where a referee lists what the processes of a folder of rooms share."""
    return folder.with_suffix(".json")


def shared_files() -> SharedFiles:
    """What all processes of a model may read, beside their rooms; nothing without a referee."""
    folder = os.environ.get(VARIABLE)
    return SharedFiles(**read_json(list_path(Path(folder)))) if folder else SharedFiles()


def remove_room(room: Path) -> bool:
    """Whether a room, in which nobody lives any more, is gone without a trace."""
    with suppress(OSError, RecursionError):  # a contestant's folders may be locked, or very deep
        shutil.rmtree(room)
    return not room.exists()
