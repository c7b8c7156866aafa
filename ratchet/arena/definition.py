"""What an arena is: its constants, its files, its seal."""

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ratchet.arena.budget import Budget
from ratchet.arena.files import Refused, cache_folder, hash_file, read_json, sha256
from ratchet.arena.text.corpus import OWN_BYTES, OWN_SHARE, POCKET_SHARE, TEST_SHARD, VAL_SHARD
from ratchet.arena.tokenizer import BOS, SPECIALS, SPLIT, TOKENIZER_CHARACTERS, TOKENIZER_DOCUMENTS

# Of each arena of the house: the source of its text, context and vocab_size in tokens, seconds of
# training, rows of val and of test at most.
ARENAS: dict[str, dict[str, Any]] = {
    "climbmix": dict(source="climbmix:16", context=2048, vocab_size=8192, seconds=300, rows=10240),
    "pocket": dict(source="pocket", context=512, vocab_size=4096, seconds=300, rows=None),
}
FILES = "tokenizer.json", "train.tokens", "val.rows", "test.rows"


@dataclass(frozen=True)
class Arena:
    """A prepared arena: what its arena.json says, where it is, its seal."""

    folder: Path
    seal: str  # 12 hex digits of arena.json's hash: scores of one seal can be compared
    name: str
    source: str  # pocket, climbmix:<train shards>, the id of a dataset, the name of a file
    context: int  # tokens in a row
    vocab_size: int  # tokens in the vocabulary, specials included
    seconds: int  # of training, by default
    rows: int | None  # of val and of test at most
    train_tokens: int
    val_rows: int
    val_bytes: int
    test_rows: int
    test_bytes: int
    sha256: Mapping[str, str]  # of each of FILES
    constants: Mapping[str, Any] | None = None  # None: prepared before they were noted
    column: str = "text"  # of the text in its files
    split: str = "train"  # of a dataset
    source_bytes: int | None = None  # of your own text

    @property
    def budget(self) -> str:
        """The budget that a run has by default. Example: "300s"."""
        return str(Budget(self.seconds, "s"))


def load_arena(folder: Path, *files: str) -> Arena:
    """The arena in a folder, the named files of it checked. Raises Refused.

    It refuses a file that has changed, or an arena that was prepared with other constants.
    """
    path = folder / "arena.json"
    if not path.exists():
        remedy = f"run `uv run prepare.py --arena {folder.name}` (with --text if it is your own)"
        raise Refused(f"{folder} holds no arena: {remedy}, or set RATCHET_CACHE to where it is")
    data = path.read_bytes()
    values = json.loads(data)
    for name in files:
        if hash_if_present(folder / name) != values["sha256"][name]:
            remedy = f"delete {folder} and prepare the arena again"
            raise Refused(f"{folder / name} is not what was prepared: {remedy}")
    refuse_other_constants(folder, values)
    known = {field.name for field in fields(Arena)}
    values = {key: value for key, value in values.items() if key in known}
    return Arena(folder=folder, seal=sha256(data)[:12], **values)


def default_arena(on_gpu: bool) -> str:
    """The name of the arena of a run that asks for none: climbmix wants a GPU, and preparing."""
    is_ready = (cache_folder() / "climbmix/arena.json").exists()
    return "climbmix" if on_gpu and is_ready else "pocket"


def find_arena(name: str) -> Arena:
    """The arena of that name, all of its files checked. Raises Refused."""
    return load_arena(cache_folder() / name, *FILES)


def hash_if_present(path: Path) -> str | None:
    """The SHA-256 of a file, None if there is none."""
    if not path.exists():
        return None
    status = path.stat()
    return remembered_hash(path, status.st_size, status.st_mtime_ns)


@functools.cache
def remembered_hash(path: Path, size: int, changed: int) -> str:
    """The SHA-256 of a file, which is read once as long as its size and its time stay the same."""
    return hash_file(path)


def shaping_constants() -> dict[str, Any]:
    """{name: value} of the constants that shape every arena, as JSON gives them back."""
    return {
        "BOS": BOS,
        "SPECIALS": SPECIALS,
        "SPLIT": SPLIT,
        "TOKENIZER_DOCUMENTS": TOKENIZER_DOCUMENTS,
        "TOKENIZER_CHARACTERS": TOKENIZER_CHARACTERS,
        "VAL_SHARD": VAL_SHARD,
        "TEST_SHARD": TEST_SHARD,
        "POCKET_SHARE": POCKET_SHARE,
        "OWN_SHARE": OWN_SHARE,
        "OWN_BYTES": OWN_BYTES,
    }


def refuse_other_constants(folder: Path, values: Mapping[str, Any]) -> None:
    """Refuse an arena.json that was made with other constants than it would be made with now."""
    sizes = ARENAS.get(values["name"], {}).keys() - {"source"}  # climbmix has 16 shards, or others
    made = values.get("constants") or constants_of_tokenizer(folder)
    made = made | {key: values[key] for key in sizes}
    now = ARENAS.get(values["name"], {}) | shaping_constants()
    for name, value in made.items():
        if value != now.get(name):
            remedy = "put the constant back, or delete that folder and prepare the arena again"
            raise Refused(
                f"{folder} was prepared with another {name} than Ratchet has now: {remedy}"
            )


def constants_of_tokenizer(folder: Path) -> dict[str, Any]:
    """What tokenizer.json tells of an arena that was prepared before constants were noted."""
    if not (folder / "tokenizer.json").exists():
        return {}
    tokenizer = read_json(folder / "tokenizer.json")
    split = tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    specials = [token["content"] for token in tokenizer["added_tokens"]]
    return {"SPLIT": split, "SPECIALS": specials}


def source_label(source: str) -> str:
    """What a seal says of a source: the same on every machine, in every locale.

    Example: "/home/me/books" -> "books", "owner/dataset" -> "owner/dataset"
    """
    if not Path(source).exists():
        return source
    return os.fsencode(os.path.basename(os.path.abspath(source))).decode(errors="replace")
