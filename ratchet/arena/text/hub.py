"""Downloads from the Hugging Face hub."""

import itertools
import os
import time
from contextlib import suppress
from pathlib import Path

from ratchet.arena.files import Refused, cache_folder, describe_error, hash_file
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


def hub_home():
    """Where the hub's client keeps things: beside the arenas if the user's own cache can't be
    written.

    Call it before the client is imported: it also keeps that quiet.
    """
    os.environ |= HUB_QUIET
    with suppress(RuntimeError):  # there is no home
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"
        parent = next(folder for folder in (home, *home.parents) if os.path.exists(folder))
        if "HF_HOME" in os.environ or os.access(parent, os.W_OK | os.X_OK):
            return Path(os.environ.get("HF_HOME", home))
        os.environ.setdefault("HF_TOKEN_PATH", str(home / "token"))
    return Path(os.environ.setdefault("HF_HOME", str(cache_folder().absolute() / ".huggingface")))


def hub_dataset(corpus):
    """Download the dataset of a corpus, or find it in the cache of the hub's client; one column of
    it.
    """
    hub_home()
    from datasets import load_dataset

    try:
        data = load_dataset(*corpus.source.split(":"), split=corpus.split)
    except (
        Exception
    ) as error:  # a dozen types, from five libraries, for a dataset that can't be had
        raise Refused(
            f"{corpus.source} can't be had ({describe_error(error)}): {hub_remedy(error, corpus)}"
        ) from None
    if corpus.column not in data.column_names:
        refuse_column(corpus.source, corpus.column, data.column_names)
    return data.select_columns([corpus.column])


def hub_caches(corpus):
    """Folders that grow while a dataset is downloaded."""
    owner, name = corpus.source.split(":")[0].split("/")
    return hub_home() / f"hub/datasets--{owner}--{name}", hub_home() / f"datasets/{owner}___{name}"


def hub_remedy(error, corpus):
    """What to do about a dataset that can't be had."""
    kinds, said = {cls.__name__ for cls in type(error).__mro__}, str(error)
    if "Config name is missing" in said or "BuilderConfig" in said:
        return f"name one of these, as in {corpus.source.split(':')[0]}:NAME"
    if "Unknown split" in said or "Bad split" in said:
        return "name one of these with --split"
    if "gated" in said or "GatedRepoError" in kinds:
        return "ask for access on its page, then set HF_TOKEN to a token of yours"
    if kinds & {"ConnectionError", "ConnectError", "TimeoutException", "OfflineModeIsEnabled"}:
        return "there is no network, or no hub: check the connection or HF_ENDPOINT, then try again"
    if "PermissionError" in kinds or "disk space" in said:
        return "set HF_HOME to a folder that can be written and has room"
    return "check its name; if it is private, set HF_TOKEN to a token of yours"


def growth(*folders, total=None):
    """A measure for reading_line(): by how many bytes folders grow from now on, of a total's value."""

    def size():
        size = 0
        for parent, _, names in itertools.chain(*map(os.walk, folders)):
            for name in names:
                with suppress(OSError):  # it is not there any more
                    size += os.lstat(os.path.join(parent, name)).st_size
        return size

    before = size()
    return lambda: (0, size() - before, total.value if total else 0)


def is_whole(path):
    """True if a shard is what the hub has: the client notes its sha256 beside it."""
    note = path.parent / f".cache/huggingface/download/{path.name}.metadata"
    return (
        path.exists()
        and note.exists()
        and note.read_text(encoding="utf-8").split()[1] == hash_file(path)
    )


def fetch_shards(paths, total):
    """Download ClimbMix shards: in parallel, keeping whole ones, again what arrives damaged.

    Sets total.value, the bytes that are missing.
    """
    hub_home()
    from huggingface_hub import HfApi, snapshot_download

    folder, why = paths[0].parent, ""
    for pause in range(5):
        wanted = [path for path in paths if not is_whole(path)]
        if not wanted:
            return
        if pause == 4:
            raise Refused(
                f"ClimbMix can't be downloaded ({why}): check the network or HF_ENDPOINT, then try again"
            )
        time.sleep(pause)
        try:
            for path in wanted:
                path.unlink(missing_ok=True)
            names = [path.name for path in wanted]
            files = HfApi().get_paths_info(CLIMBMIX, names, repo_type="dataset")
            total.value = total.value or sum(file.size for file in files)
            snapshot_download(CLIMBMIX, repo_type="dataset", allow_patterns=names, local_dir=folder)
            missing = not all(path.exists() for path in wanted)
            why = "the hub can't be reached" if missing else "a shard arrives damaged"
        except Exception as error:  # networks fail in many types
            why = describe_error(error)
