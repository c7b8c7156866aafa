"""Downloads from the Hugging Face hub."""

import itertools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ratchet.arena.files import Refused, cache_folder, describe_error, hash_file
from ratchet.arena.text.corpus import Corpus
from ratchet.arena.text.readers import refuse_column

CLIMBMIX = "karpathy/climbmix-400b-shuffle"  # 6543 parquet shards of shuffled web text
HUB_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # nobody hears what is read
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "HF_HUB_VERBOSITY": "critical",  # errors are reported here
    "DATASETS_VERBOSITY": "critical",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # progress, too
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
NO_NETWORK = {"ConnectionError", "ConnectError", "TimeoutException", "OfflineModeIsEnabled"}
ATTEMPTS = 4  # to download what is missing


def hub_home() -> Path:
    """Where the hub's client keeps things: beside the arenas if the user's own cache is read-only.

    Call it before the client is imported: it also keeps that quiet.
    """
    os.environ |= HUB_QUIET
    with suppress(RuntimeError):  # the user has no home
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"
        parent = next(folder for folder in (home, *home.parents) if os.path.exists(folder))
        if "HF_HOME" in os.environ or os.access(parent, os.W_OK | os.X_OK):
            return Path(os.environ.get("HF_HOME", home))
        os.environ.setdefault("HF_TOKEN_PATH", str(home / "token"))
    return Path(os.environ.setdefault("HF_HOME", str(cache_folder().absolute() / ".huggingface")))


def load_hub_dataset(corpus: Corpus) -> Any:
    """The dataset of a corpus, with its one column, downloaded if need be. Raises Refused."""
    hub_home()
    from datasets import load_dataset

    try:
        data = load_dataset(*corpus.source.split(":"), split=corpus.split)
    except Exception as error:  # a dozen types, from five libraries
        why, remedy = describe_error(error), hub_remedy(error, corpus)
        raise Refused(f"{corpus.source} can't be had ({why}): {remedy}") from None
    if corpus.column not in data.column_names:
        refuse_column(corpus.source, corpus.column, data.column_names)
    return data.select_columns([corpus.column])


def hub_remedy(error: Exception, corpus: Corpus) -> str:
    """What to do about a dataset that can't be had."""
    kinds, message = {cls.__name__ for cls in type(error).__mro__}, str(error)
    if "Config name is missing" in message or "BuilderConfig" in message:
        return f"name one of these, as in {corpus.source.split(':')[0]}:NAME"
    if "Unknown split" in message or "Bad split" in message:
        return "name one of these with --split"
    if "gated" in message or "GatedRepoError" in kinds:
        return "ask for access on its page, then set HF_TOKEN to a token of yours"
    if kinds & NO_NETWORK:
        return "there is no network, or no hub: check the connection or HF_ENDPOINT, then try again"
    if "PermissionError" in kinds or "disk space" in message:
        return "set HF_HOME to a folder that can be written and has room"
    return "check its name; if it is private, set HF_TOKEN to a token of yours"


def hub_caches(corpus: Corpus) -> tuple[Path, Path]:
    """The folders that grow while a dataset is downloaded."""
    owner, name = corpus.source.split(":")[0].split("/")
    return hub_home() / f"hub/datasets--{owner}--{name}", hub_home() / f"datasets/{owner}___{name}"


def measure_growth(*folders: Path, total: Any = None) -> Callable[[], tuple[int, int, float]]:
    """What reading_line() asks for: by how many bytes folders grow from now on.

    total: has a `value`, the bytes that are to come.
    """
    before = size_of_files(*folders)
    return lambda: (0, size_of_files(*folders) - before, total.value if total else 0)


def size_of_files(*folders: Path) -> int:
    """Bytes of all files below some folders."""
    size = 0
    for parent, _, names in itertools.chain(*map(os.walk, folders)):
        for name in names:
            with suppress(OSError):  # it is gone by now
                size += os.lstat(os.path.join(parent, name)).st_size
    return size


def fetch_shards(paths: list[Path], total: Any) -> None:
    """Download ClimbMix shards: in parallel, keeping whole ones, again what arrives damaged.

    Sets total.value to the bytes that are missing. Raises Refused.
    """
    hub_home()
    why = ""
    for attempt in range(ATTEMPTS):
        missing = [path for path in paths if not is_whole(path)]
        if not missing:
            return
        time.sleep(attempt)
        try:
            why = download_shards(missing, total)
        except Exception as error:  # networks fail in many types
            why = describe_error(error)
    if not all(map(is_whole, paths)):
        remedy = "check the network or HF_ENDPOINT, then try again"
        raise Refused(f"ClimbMix can't be downloaded ({why}): {remedy}")


def download_shards(paths: list[Path], total: Any) -> str:
    """Download ClimbMix shards anew; returns what to say if they aren't whole then."""
    from huggingface_hub import HfApi, RepoFile, snapshot_download

    for path in paths:
        path.unlink(missing_ok=True)
    names = [path.name for path in paths]
    files = HfApi().get_paths_info(CLIMBMIX, names, repo_type="dataset")
    total.value = total.value or sum(file.size for file in files if isinstance(file, RepoFile))
    snapshot_download(
        CLIMBMIX, repo_type="dataset", allow_patterns=names, local_dir=paths[0].parent
    )
    if all(path.exists() for path in paths):
        return "a shard arrives damaged"
    return "the hub can't be reached"


def is_whole(path: Path) -> bool:
    """Whether a shard is what the hub has: the client notes its SHA-256 beside it."""
    note = path.parent / f".cache/huggingface/download/{path.name}.metadata"
    if not path.exists() or not note.exists():
        return False
    words = note.read_text(encoding="utf-8").split()
    return len(words) > 1 and words[1] == hash_file(path)  # a full disk leaves it empty
