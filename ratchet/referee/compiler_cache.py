"""The compiler's cache, kept from run to run."""

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ratchet.arena.files import sha256
from ratchet.referee.folders import copy_files, remove
from ratchet.referee.limits import UNUSED_SECONDS


def cache_name(file):
    """What the kept compiler cache of a source is called, whose text has this hash."""
    return file[:16]


def keep_compiled(job):
    """Keep the compiler's cache as it is before the first real token: a run can't hand on what it
    learned.

    Other runs may do the same at the same time. What none has used for a day goes.
    """
    job.compiled.mkdir(parents=True, exist_ok=True)
    for name in [cache_name(sha256(job.source.text))] + ["baseline"] * job.is_baseline:
        if not (job.compiled / name).exists():
            with tempfile.TemporaryDirectory(prefix="part-", dir=job.compiled) as part:
                copy_files(job.live / "cache", Path(part) / name)
                with suppress(OSError):  # another run was faster
                    os.replace(Path(part) / name, job.compiled / name)
    for folder in job.compiled.iterdir():
        with suppress(OSError):  # another run was faster
            if folder.name != "baseline" and time.time() - folder.stat().st_mtime > UNUSED_SECONDS:
                remove(folder)
