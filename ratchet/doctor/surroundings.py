"""Looks for another program's sandbox around this command, such as a coding agent's own."""

import errno
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ratchet import commits
from ratchet.arena.files import Refused, describe_error, work_folder
from ratchet.experiments.ledger import Ledger
from ratchet.experiments.session import latest_campaign
from ratchet.referee import sandbox

FORBIDDEN = errno.EROFS, errno.EACCES, errno.EPERM
REMEDY = (
    "mend that; if a coding agent gave this command, its own sandbox forbids it: start the agent "
    "without one (codex: `--sandbox danger-full-access`), as runs have their own, or give the "
    "command yourself"
)


def check_surroundings(home: Path) -> None:
    """Raise Refused when an experiment can't be written, or its runs not confined, here.

    Nothing has been begun then, so nothing is lost.
    """
    git_folder = commits.project() / commits.git_lines("rev-parse", "--git-common-dir")[0]
    for folder_of in (lambda: home / "runs", lambda: git_folder, work_folder):
        try:
            make_file(folder_of())
        except OSError as error:
            if error.errno in FORBIDDEN:  # of a full disk the ledger tells
                why = f"{error.filename} can't be written ({error.strerror})"
                raise Refused(f"{why}: {REMEDY}") from None
    _, why = try_level()
    if why:
        raise Refused(f"no sandbox can be tried here ({why}): {REMEDY}")


def make_file(folder: Path) -> None:
    """Make a file in a folder, and take it away. Raises OSError, which names the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        error.filename = folder
        raise


def try_level() -> tuple[str, str]:
    """(the best level of isolation, why no level can be tried: "" if one can)."""
    try:
        return sandbox.best_level(), ""
    except OSError as error:
        return "none", error.strerror or describe_error(error)
    except subprocess.TimeoutExpired as error:
        return "none", describe_error(error)


def check_level(home: Path, conditions: Mapping[str, str]) -> None:
    """Raise Refused when runs would be confined less well than those of the calibration."""
    baseline = latest_campaign(Ledger(home).experiments().values(), conditions["device"]).baseline
    now, levels = conditions["isolation"], sandbox.LEVELS
    if not baseline or baseline.isolation not in levels:
        return
    if levels.index(now) > levels.index(baseline.isolation):
        was = f"at the calibration it was {baseline.isolation}"
        raise Refused(f"the sandbox of runs is {now} here, {was}: {REMEDY}")
