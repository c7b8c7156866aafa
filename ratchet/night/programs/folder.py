"""The folder that an agent works in: a repository of its own, and what it leaves there.

Whatever an agent leaves may be a link, a pipe, or a file without an end. Its repository may have
git run anything: so that is asked for its commits in the agent's own sandbox only.
"""

import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ratchet.arena.files import Refused, read_untrusted
from ratchet.git import read_path, run_git
from ratchet.night.programs.environment import git_variables
from ratchet.referee import limits
from ratchet.referee.source import fingerprint

# of the first commit: its hash is the same in all calls, so that a provider's cache finds a prompt
COMMIT_DATE = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "2000-01-01T00:00:00Z")
IDEA_FILE = "idea.txt"  # first line: the idea; second: its gain in bpb, or the ratio of a goal
FILE_BYTES = 2**22  # of a file that is read from its folder
MOST_TIPS = 10  # branches, tags, stashes in which an edit is looked for
# Copies train.py and idea.txt of HEAD, then of the newest tips, to 1.train.py, 1.idea.txt, 2. ...
# in a folder that is new; no links.
COPY_COMMITTED = f"""
mkdir "$1" || exit
n=0
tips=$(git for-each-ref --sort=-committerdate --count={MOST_TIPS} --format="%(objectname)")
for commit in HEAD $tips; do
    n=$((n + 1))
    for name in train.py {IDEA_FILE}; do
        blob=$(git ls-tree "$commit" $name | sed -n "s/^100[0-7]* blob \\([0-9a-f]*\\).*/\\1/p")
        [ -z "$blob" ] || git cat-file blob "$blob" | head -c {FILE_BYTES + 1} > "$1/$n.$name"
    done
done
"""


def commit_all(folder: Path) -> None:
    """Make a folder a repository with one commit. Raises Refused: git works in another one."""
    more = git_variables(folder.parent) | COMMIT_DATE
    run_git(folder, "init", "-q", "-b", "main", more=more)
    top = read_path(run_git(folder, "rev-parse", "--show-toplevel", more=more))
    if Path(top) != folder.resolve():
        raise Refused(f"git takes {folder} for a part of {top}: see `git config --list`")
    run_git(folder, "add", "-A", more=more)
    run_git(folder, "commit", "-q", "-m", "champion", more=more)


def read_regular_file(path: Path) -> bytes | None:
    """A regular file of bounded size, else None: an agent can leave links and pipes."""
    with suppress(OSError):
        return read_untrusted(path, FILE_BYTES)
    return None


def list_changed(folder: Path, given: Mapping[str, bytes]) -> list[str]:
    """Names of the files that were to stay as they were given, and didn't."""
    return [name for name, data in given.items() if read_regular_file(folder / name) != data]


def read_source_file(path: Path) -> bytes | None:
    """A text that may become a train.py, else None."""
    text = read_regular_file(path)
    return text if text is not None and len(text) <= limits.SOURCE_BYTES else None


def find_edit(
    folder: Path, known: list[bytes], copy_committed: Callable[[Path], None]
) -> bytes | None:
    """The edited train.py: of the folder; if that is as it was, of its commits; None without one.

    An idea.txt that was committed with it is put into the folder, if there is none. known: texts
    that are no edit. copy_committed(target): runs COPY_COMMITTED in the sandbox.
    """
    shapes = {fingerprint(text)["source"] for text in known}
    text = read_source_file(folder / "train.py")
    if text is None or fingerprint(text)["source"] not in shapes:
        return text
    target = folder.parent / "tmp" / f"committed-{secrets.token_hex(8)}"
    copy_committed(target)
    if target.is_symlink():
        return None
    for n in range(1, MOST_TIPS + 2):
        text = read_source_file(target / f"{n}.train.py")
        if text and fingerprint(text)["source"] not in shapes:
            if not os.path.lexists(folder / IDEA_FILE):
                with suppress(OSError):
                    (target / f"{n}.{IDEA_FILE}").rename(folder / IDEA_FILE)
            return text
    return None
