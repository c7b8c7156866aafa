"""The commits of the project, in the repository that Ratchet was called in.

The project is the folder that holds train.py: the top of a repository, or a folder somewhere in
one. The ledger is in that folder of the main working tree; what is tried in a linked one (`git
worktree`) is written there, too.
"""

import functools
import io
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ratchet.arena.files import Refused
from ratchet.git import read_config, read_path, run_git

CONTESTANT = "train.py"
SHALLOW_REMEDY = "run `git fetch --unshallow`"
NO_COMMIT = (
    "this repository has no commit yet: commit train.py first "
    "(git add train.py, git commit -m baseline), as an experiment is a commit"
)
IDENTITY_REMEDY = (
    "run `git config user.email you@example.org` and `git config user.name you`, then commit"
)


def git(*args: str, given: bytes = b"", more: Mapping[str, str] | None = None) -> bytes:
    """Output of a git command in the project's folder of this working tree. Raises Refused.

    There `train.py` and `<commit>:./train.py` name the contestant. given: its stdin. more:
    environment variables.
    """
    return run_git(project(), *args, given=given, more=more)


def git_lines(*args: str, given: bytes = b"") -> list[str]:
    """The lines that git() puts out, as text."""
    return git(*args, given=given).decode(errors="replace").splitlines()


def commit_text(parents: Sequence[str], text: bytes, subject: str) -> str:
    """Commit a train.py on the first of some parents, past working tree and branches.

    Returns the commit.
    """
    blob = git("hash-object", "-w", "--stdin", given=text).decode().strip()
    entry = f"100644,{blob},{prefix(project())}{CONTESTANT}"
    names = {f"GIT_{who}_NAME": "ratchet night" for who in ("AUTHOR", "COMMITTER")}
    names |= {f"GIT_{who}_EMAIL": "night@ratchet.invalid" for who in ("AUTHOR", "COMMITTER")}
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        git("read-tree", parents[0], more=index)
        git("update-index", "--add", "--cacheinfo", entry, more=index)
        tree = git("write-tree", "--missing-ok", more=index).decode().strip()
    message = (subject or "an idea").encode(errors="replace")
    options = [word for parent in parents for word in ("-p", parent)]
    made = git("commit-tree", tree, *options, "-F", "-", given=message, more=names)
    return made.decode().strip()


def read_texts(commits: Iterable[str]) -> dict[str, bytes | None]:
    """{commit: its train.py, None where there is none} of many commits, by one git process."""
    commits = [*commits]
    texts: dict[str, bytes | None] = dict.fromkeys(commits)
    given = "".join(f"{commit}:./{CONTESTANT}\n" for commit in commits)
    answer = io.BytesIO(git("cat-file", "--batch", given=given.encode()))
    for commit in commits:
        *_, kind, size = answer.readline().split()
        if size.isdigit() and kind == b"blob":
            texts[commit] = answer.read(int(size))
            answer.readline()
    return texts


def read_diffs(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """{(old, new): what changed, "" where git lacks one} of pairs of commits."""
    diffs = dict.fromkeys(pairs, "")
    names = "".join(f"{commit}\n" for pair in diffs for commit in pair)
    kinds = [line.split() for line in git_lines("cat-file", "--batch-check", given=names.encode())]
    known = {commit for commit, kind, *_ in kinds if kind == "commit"}
    whole = [pair for pair in diffs if known.issuperset(pair)]
    given = "".join(f"{new} {old}\n" for old, new in whole)
    shown = git("diff-tree", "--stdin", "--always", "-p", "-r", "--relative", given=given.encode())
    text = shown.decode(errors="replace")
    pieces = re.split(r"^[0-9a-f]{40,64}\n", text, flags=re.M)[1:]
    return diffs | {pair: piece.strip("\n") for pair, piece in zip(whole, pieces)}


def project() -> Path:
    """The folder of the project in the working tree that Ratchet was called in. Raises Refused."""
    return _project(current_folder())


def home() -> Path:
    """The folder of the project in the main working tree, where the ledger is. Raises Refused."""
    return _home(current_folder())


def current_folder() -> Path:
    """The folder that Ratchet was called in. Raises Refused."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise Refused("the current folder was deleted: go to the one that holds train.py") from None


@functools.cache
def _project(folder: Path) -> Path:
    """The nearest folder with a train.py in git, from `folder` up to the top of its working tree.

    Before one is in git it is the outermost folder with one: the copies that runs keep lie below
    it.
    """
    top = Path(read_path(run_git(folder, "rev-parse", "--show-toplevel")))
    if not folder.is_relative_to(top):
        return top  # a link leads here
    inside = [folder, *folder.parents][: len(folder.relative_to(top).parts) + 1]
    having = [each for each in inside if (each / CONTESTANT).is_file()]
    return next(filter(is_in_git, having), (having or [top])[-1])


def is_in_git(folder: Path) -> bool:
    """Whether git knows the train.py of a folder."""
    return bool(run_git(folder, "ls-files", "--", CONTESTANT))


@functools.cache
def _home(folder: Path) -> Path:
    inside = _project(folder)
    git_folder, common = (
        (inside / read_path(run_git(inside, "rev-parse", option))).resolve()
        for option in ("--git-dir", "--git-common-dir")
    )
    if git_folder == common:  # the main one, of a submodule or with a git folder elsewhere, too
        return inside
    top = main_working_tree(common)
    main = top / prefix(inside)
    if not main.is_dir():
        raise Refused(
            f"{main}, where the ledger is to be, is not there: check out a branch in {top} that "
            "has it"
        )
    return main


def main_working_tree(common: Path) -> Path:
    """Top of the main working tree that a git folder belongs to. Raises Refused."""
    more = {"GIT_DIR": str(common)}  # safe.bareRepository may want it named
    is_bare = run_git(common, "rev-parse", "--is-bare-repository", more=more)
    if is_bare.strip() == b"true":
        raise Refused(
            f"this working tree belongs to a bare repository ({common}), which has no main "
            "working tree to keep the ledger in: make a clone with `git clone`, and work there"
        )
    named = read_config(common, "core.worktree", more)
    if named is not None:  # of a submodule
        return (common / named).resolve()
    if common.name == ".git":
        return common.parent
    raise Refused(
        "the main working tree of this one, where the ledger is, can't be found from its git "
        f"folder ({common}, made with --separate-git-dir): give the command in the main "
        "working tree"
    )


def prefix(folder: Path) -> str:
    """Path of a folder below the top of its working tree; "" or it ends with a slash."""
    return read_path(run_git(folder, "rev-parse", "--show-prefix"))


def has_commit() -> bool:
    """Whether HEAD is a commit."""
    try:
        return bool(git("rev-parse", "--verify", "--quiet", "HEAD^{commit}"))
    except Refused:
        return False


def is_shallow() -> bool:
    """Whether the repository's history is cut off."""
    return git_lines("rev-parse", "--is-shallow-repository") == ["true"]


def is_cut_off(commit: str) -> bool:
    """Whether a shallow clone ends at a commit, so that what it changed is unknown."""
    if not is_shallow():
        return False
    path = project() / git_lines("rev-parse", "--git-path", "shallow")[0]
    return commit in path.read_text(encoding="ascii").split()


def examine_repository() -> tuple[bool, str, str]:
    """(whether it is well, what was seen, what to do) of the repository."""
    try:
        folder, version = home(), git_lines("--version")[0].removeprefix("git version ")
    except Refused as error:
        seen, _, advice = str(error).partition(": ")
        return False, seen, advice
    if not has_commit():
        return False, "no commit yet", NO_COMMIT.partition(": ")[2]
    try:
        git("var", "GIT_COMMITTER_IDENT")
    except Refused:
        return False, "your name or email is not known", IDENTITY_REMEDY
    if is_shallow():
        return False, "a shallow clone: its history is cut off", SHALLOW_REMEDY
    return True, f"{version}, ledger in {folder}{describe_head()}", ""


def describe_head() -> str:
    """A word on a HEAD that is on no branch, where experiments are as safe as on one."""
    try:
        git("symbolic-ref", "--quiet", "HEAD")
        return ""
    except Refused:
        return ", HEAD is detached (experiments keep their commits all the same)"
