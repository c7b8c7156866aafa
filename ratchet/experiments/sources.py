"""Sources: which train.py is meant, and whether it may be tried."""

import os
from pathlib import Path

from ratchet.arena.files import Refused
from ratchet.commits import (
    CONTESTANT,
    NO_COMMIT,
    SHALLOW_REMEDY,
    git,
    git_lines,
    has_commit,
    is_cut_off,
    prefix,
    project,
)
from ratchet.experiments.ledger import Experiment
from ratchet.referee.limits import SOURCE_BYTES
from ratchet.referee.source import Source


def read_source(name: str | Path, files: bool = False) -> Source:
    """The train.py of a commit or, where files will do, of a path. Raises Refused."""
    if files and Path(name).is_file():
        source = Source(str(name), "", Path(name).read_bytes())
    else:
        commit = find_commit(str(name))
        source = Source(str(name), commit, contestant_of(commit, str(name)))
    if (size := len(source.text)) > SOURCE_BYTES:
        raise Refused(
            f"train.py of {name} has {size:,} bytes, {SOURCE_BYTES:,} are allowed: no data in it"
        )
    return source


def sources_of(e: Experiment) -> list[Source]:
    """The sources of an experiment's arms, named as in the ledger. Raises Refused."""
    return [read_source(arm["commit"])._replace(name=arm["name"]) for arm in e.arms]


def find_commit(name: str) -> str:
    """The full hash of what a user calls a commit. Raises Refused."""
    try:
        (commit,) = git_lines(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
        )
        return commit
    except Refused:
        project()  # in no repository the reason is another
        if not has_commit():
            raise Refused(NO_COMMIT) from None
        raise Refused(f"{name!r} is neither a file nor a commit: name one of them") from None


def contestant_of(commit: str, name: str) -> bytes:
    """The text of the train.py of a commit, in bytes. Raises Refused."""
    try:
        return git("cat-file", "blob", f"{commit}:./{CONTESTANT}")
    except Refused:
        path = prefix(project()) + CONTESTANT
        raise Refused(
            f"{name} has no {path}: "
            "give the command in the folder that train.py is in, and commit it there"
        ) from None


def check_commit(commit: str) -> None:
    """Raise Refused unless train.py is all that a commit changes."""
    if is_cut_off(commit):
        raise Refused(
            f"what commit {commit[:7]} changes is not known, as this shallow clone ends there: "
            f"{SHALLOW_REMEDY}, then try again"
        )
    shown = git("diff-tree", "--no-commit-id", "--name-only", "-z", "-r", "-m", "--root", commit)
    changed = {os.fsdecode(name) for name in shown.split(b"\0") if name}
    if others := ", ".join(sorted(changed - {prefix(project()) + CONTESTANT})):
        raise Refused(
            f"commit {commit[:7]} changes {others}: an experiment may change train.py only"
        )


def check_clean() -> None:
    """Raise Refused when the project's folder has changes that a commit would lack."""
    if git_lines("ls-files", "ledger.jsonl"):
        raise Refused(
            "ledger.jsonl is in git, where a checkout rewinds it: git rm --cached ledger.jsonl"
        )
    shown = git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=no", "--", ".")
    if changed := [os.fsdecode(line[3:]) for line in shown.split(b"\0") if line]:
        files = ", ".join(changed)
        raise Refused(
            f"{files} changed since the last commit: commit that first, an experiment is a commit"
        )
