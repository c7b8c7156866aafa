"""What an arena is: its constants, its arena.json, its seal."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

from ratchet.arena.files import Refused, hash_file
from ratchet.arena.text.corpus import OWN_BYTES, OWN_SHARE, POCKET_SHARE, TEST_SHARD, VAL_SHARD
from ratchet.arena.tokenizer import BOS, SPECIALS, SPLIT, TOKENIZER_CHARACTERS, TOKENIZER_DOCUMENTS

# source of the text, context and vocab_size in tokens, seconds of training, rows of val and of test
# at most
ARENAS = {
    "climbmix": dict(source="climbmix:16", context=2048, vocab_size=8192, seconds=300, rows=10240),
    "pocket": dict(source="pocket", context=512, vocab_size=4096, seconds=300, rows=None),
}
FILES = ["tokenizer.json", "train.tokens", "val.rows", "test.rows"]


def constants():
    """{name: value} of what shapes every arena, as JSON gives it back."""
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


def refuse_other_constants(folder, facts):
    """Refuse an arena that was made with another tokenizer or other splits than this file would
    make.
    """
    made, here = facts.get("constants"), constants()
    ours = ARENAS.get(facts["name"], {}).keys() - {
        "source"
    }  # which may have another number of shards
    if made is None and (folder / "tokenizer.json").exists():  # made before these were noted
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        split = tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        made = {
            "SPLIT": split,
            "SPECIALS": [token["content"] for token in tokenizer["added_tokens"]],
        }
    here |= {key: ARENAS[facts["name"]][key] for key in ours}
    for name, value in ((made or {}) | {key: facts[key] for key in ours}).items():
        if value != here.get(name):
            raise Refused(
                f"{folder} was prepared with another {name} than prepare.py has now: put the constant back, "
                "or delete that folder and prepare the arena again"
            )


def load_arena(folder, *names):
    """The facts of arena.json as attributes, `folder` and `seal`; refuses a named file that has
    changed.
    """
    if not (folder / "arena.json").exists():
        raise Refused(f"{folder} holds no arena: prepare it, or set RATCHET_CACHE to where it is")
    facts = json.loads((folder / "arena.json").read_text(encoding="utf-8"))
    for name in names:
        if not (folder / name).exists() or hash_file(folder / name) != facts["sha256"][name]:
            raise Refused(
                f"{folder / name} is not what was prepared: delete {folder} and prepare the arena again"
            )
    refuse_other_constants(folder, facts)
    return SimpleNamespace(**facts, folder=folder, seal=hash_file(folder / "arena.json")[:12])


def label(source):
    """What a seal says of a source: the same on every machine, in every locale."""
    if not Path(source).exists():
        return source
    return os.fsencode(os.path.basename(os.path.abspath(source))).decode(errors="replace")
