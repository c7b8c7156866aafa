"""The compiler's cache, kept from run to run."""

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ratchet.arena.files import sha256
from ratchet.referee import limits
from ratchet.referee.folders import copy_regular_files, remove_folder
from ratchet.referee.job import Job

BASELINE = "baseline"  # the cache that a source starts with which has none


def cache_name(file_hash: str) -> str:
    """What the kept cache of a source is called, whose text has this hash."""
    return file_hash[:16]


def give_compiler_cache(job: Job) -> None:
    """Copy what was kept for the same source, or for the baseline, into the run's folder."""
    target = job.live_folder / "cache"
    names = cache_name(sha256(job.source.text)), BASELINE
    kept = [job.compiled / name for name in names if (job.compiled / name).exists()]
    if kept:
        with suppress(OSError):  # another run may take away what nobody has used for long
            os.utime(kept[0])
            shutil.copytree(kept[0], target, symlinks=True)
    target.mkdir(exist_ok=True)


def keep_compiler_cache(job: Job) -> None:
    """Keep the cache as it is before the first real token: a run can't hand on what it learned.

    Other runs may do the same at the same time.
    """
    job.compiled.mkdir(parents=True, exist_ok=True)
    for name in [cache_name(sha256(job.source.text))] + [BASELINE] * job.is_baseline:
        if not (job.compiled / name).exists():
            with tempfile.TemporaryDirectory(prefix="part-", dir=job.compiled) as part:
                copy_regular_files(job.live_folder / "cache", Path(part) / name)
                with suppress(OSError):  # another run was faster
                    os.replace(Path(part) / name, job.compiled / name)
    remove_unused(job.compiled)


def remove_unused(compiled: Path) -> None:
    """Remove the caches that nobody has used for a day, except the baseline's."""
    oldest = time.time() - limits.UNUSED_SECONDS
    for folder in compiled.iterdir():
        with suppress(OSError):  # another run was faster
            if folder.name != BASELINE and folder.stat().st_mtime < oldest:
                remove_folder(folder)
