"""The home folder of an agent: a copy of what its program needs of the user's, for one call.

Nothing but a refreshed login goes back: whoever can write the settings of a program runs commands
in the user's next session with it (hooks, servers of tools, plugins). Outside the sandbox nothing
here follows a link that an agent has left.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ratchet.arena.files import Refused, open_itself
from ratchet.night.programs.known import Program
from ratchet.referee.folders import remove_folder

MOST_BYTES = 2**28  # of one of its paths, to be copied
MOST_FILES = 20_000
LOGIN_BYTES = 2**18
SECRET_CHARACTERS = 16  # a word in a login that is as long is masked in logs
# what may differ in a login that was refreshed, by the names of its entries
REFRESHED = re.compile("token|refresh|access|expir", re.IGNORECASE)
# Where the shell, git, or the desktop looks for what to run: an agent's program writes none of it.
START_FILES = """
    .bash_profile .bashrc .config/autostart .config/git .config/systemd .gitconfig .local/bin
    .login .profile .ssh .zprofile .zshenv .zshrc Library/LaunchAgents
""".split()
# where macOS keeps logins, encrypted; a Mac has no sandbox that could keep an agent from them
KEYCHAINS = ("Library/Keychains", "Library/Preferences/com.apple.security.plist")


class PrivateHome:
    """folder/home, made anew for each call; folder/logins has the logins as they were copied.

    share: paths that the agent may write where they are; those in the user's home are linked.
    """

    def __init__(self, folder: Path, program: Program, share: Iterable[str | Path] = ()) -> None:
        self.path, self.copied_logins, self.program = folder / "home", folder / "logins", program
        self.share = [Path(os.path.abspath(path)) for path in share]
        self.before: dict[str, list[str]] = {}  # {path: what it is} of settings as they were copied

    def make_copy(self) -> list[str]:
        """Copy what the program needs. Returns a sentence for each path that is left out."""
        for folder in (self.path, self.copied_logins):
            folder.mkdir(parents=True, mode=0o700)
        names = self.program.settings + self.program.state
        left_out = [
            f"{self.source_of(name)} is too large: the agent gets no copy of it"
            for name in names
            if not copy_tree(self.source_of(name), self.path / name)
        ]
        for name in self.program.logins:
            data = read_login(self.source_of(name).resolve())
            if data is not None:
                for folder in (self.path, self.copied_logins):
                    write_private(folder / name, data)
        self._link_shared()
        self.before = self._describe_settings()
        return left_out

    def source_of(self, name: str) -> Path:
        """Where the user has what is called so in a home folder."""
        for variable, root in self.program.roots.items():
            if (other := os.environ.get(variable)) and Path(name).is_relative_to(root):
                return Path(other) / Path(name).relative_to(root)
        return Path.home() / name

    def root_variables(self) -> dict[str, str]:
        """The variables by which the user has named other folders, set to those of the copy."""
        roots = self.program.roots.items()
        return {name: str(self.path / root) for name, root in roots if os.environ.get(name)}

    def list_changes(self) -> list[str]:
        """Names of settings that the agent has changed in its copy."""
        after = self._describe_settings()
        return [name for name in after if after[name] != self.before.get(name)]

    def keep_logins(self) -> list[str]:
        """Write refreshed logins back. Returns a sentence for each change that is lost.

        A login that changed meanwhile, by a session of the user's own, stays as it is.
        """
        thrown_away = []
        for name in filter(self._is_private, self.program.logins):
            copied, new = (read_below(folder, name) for folder in (self.copied_logins, self.path))
            real = self.source_of(name).resolve()
            if copied is None or new == copied or read_login(real) != copied:
                continue
            before, after = parse_json(copied), parse_json(new or b"")
            login = refresh_login(before, after)
            if before == after and before is not None:
                continue  # it was written anew
            if login == before:
                thrown_away.append(f"what the agent left as {self.source_of(name)} is thrown away")
            else:
                try:
                    replace_login(real, json.dumps(login, indent=2).encode())
                except OSError as error:  # a mount of its own, or read-only
                    lost = f"the agent's new login can't be written into {real} ({error.strerror})"
                    thrown_away.append(f"{lost}: log in again if the old one has ended")
        return thrown_away

    def list_secrets(self) -> list[str]:
        """The long words of all logins, as copied and as they are now."""
        folders = (self.copied_logins, self.path)
        data = [read_below(folder, name) for folder in folders for name in self.program.logins]
        return [word for each in data if each for word in words_of(parse_json(each))]

    def _is_private(self, name: str) -> bool:
        """Whether the agent has a copy, not what is the user's own and shared."""
        return not any(self.source_of(name).is_relative_to(path) for path in self.share)

    def _link_shared(self) -> None:
        home, share = Path.home(), self.share
        if sys.platform == "darwin":
            share = [*share, *(home / name for name in KEYCHAINS)]
        for path in share:
            is_inside = any(path != other and path.is_relative_to(other) for other in share)
            if path != home and path.is_relative_to(home) and not is_inside:
                link = self.path / path.relative_to(home)
                remove_folder(link)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)

    def _describe_settings(self) -> dict[str, list[str]]:
        names = filter(self._is_private, [*self.program.settings, *START_FILES])
        return {name: describe_tree(self.path.resolve() / name) for name in names}


def check_shared(paths: Iterable[str | Path]) -> None:
    """Raises Refused if one of them isn't there: the sandbox would leave it out without a word."""
    for path in paths:
        if not Path(path).exists():
            raise Refused(
                f"--share {path}: there is no such file or folder: make it, or leave the option out"
            )


# --------------------------------------------------------------------------------------------------
# Copies


def walk_files(source: Path) -> Iterator[Path]:
    """A user's file, or the files below a folder; links are followed, each folder once."""
    if source.is_file():
        yield source
    seen = set()
    for folder, folders, names in os.walk(source, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (path for path in (Path(folder, name) for name in names) if path.is_file())


def copy_tree(source: Path, target: Path) -> bool:
    """Copy a user's file or folder, if there is one. False, and no copy, if it is too large."""
    files = [*itertools.islice(walk_files(source), MOST_FILES + 1)]
    if is_too_large(files, follow_links=True):
        return False
    for path in files:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError, PermissionError):  # it may be replaced meanwhile
            shutil.copy(path, copy)
    return True


def is_too_large(files: list[Path], follow_links: bool) -> bool:
    """Whether these are more, or longer, than is copied for one path."""
    total = 0
    for path in files:
        with suppress(OSError):
            total += path.stat(follow_symlinks=follow_links).st_size
    return len(files) > MOST_FILES or total > MOST_BYTES


def describe_tree(path: Path) -> list[str]:
    """What an agent may have changed: a line for each file and link at a path or below it.

    No link is followed, and no more is read than could have been copied.
    """
    if path.parent.resolve() != path.parent or path.is_symlink() or not path.is_dir():
        return [describe_file(path)]
    files = [*itertools.islice(walk_names(path), MOST_FILES + 1)]
    if is_too_large(files, follow_links=False):
        return ["too large"]
    return sorted(map(describe_file, files))


def walk_names(folder: Path) -> Iterator[Path]:
    """All below a folder but folders: files, links, pipes."""
    for parent, folders, names in os.walk(folder):
        links = (name for name in folders if os.path.islink(os.path.join(parent, name)))
        yield from (Path(parent, name) for name in [*names, *links])


def describe_file(path: Path) -> str:
    """Its name and kind, and its hash if it is a regular file without a link on the way."""
    kind = content = ""
    with suppress(OSError):
        kind = f"{stat.S_IFMT(path.lstat().st_mode):o}" + os.path.realpath(path)
        with open_itself(path, None) as (descriptor, status):
            if stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES:
                with open(descriptor, "rb", closefd=False) as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path} {kind} {content}"


# --------------------------------------------------------------------------------------------------
# Logins


def read_login(path: Path) -> bytes | None:
    """A regular file of bounded size, else None."""
    with suppress(OSError), open_itself(path, None) as (descriptor, status):
        if stat.S_ISREG(status.st_mode) and status.st_size <= LOGIN_BYTES:
            return os.read(descriptor, LOGIN_BYTES)
    return None


def read_below(folder: Path, name: str) -> bytes | None:
    """read_login() of what an agent may have replaced: without a link on the way, or a hard one."""
    path = folder.resolve() / name
    with suppress(OSError):
        if path.parent.resolve() == path.parent and path.lstat().st_nlink == 1:
            return read_login(path)
    return None


def write_private(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a new file that never was readable for others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def replace_login(path: Path, data: bytes) -> None:
    """Write a login whole or not at all; its mode and owner stay."""
    status = path.stat()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        write_private(part, data, stat.S_IMODE(status.st_mode))
        with suppress(PermissionError):
            os.chown(part, status.st_uid, status.st_gid)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def parse_json(data: bytes) -> Any:
    """A value, None if it is none, or so deep that it is none of a login."""
    with suppress(ValueError, RecursionError):
        value = json.loads(data)
        return None if is_deep(value) else value
    return None


def is_deep(value: Any, most: int = 50) -> bool:
    """Whether lists and objects are in one another more often than that."""
    level = [value]
    for _ in range(most):
        parents = (each for each in level if isinstance(each, dict | list))
        level = [v for each in parents for v in (each.values() if isinstance(each, dict) else each)]
    return bool(level)


def refresh_login(old: Any, new: Any, key: str = "") -> Any:
    """The old value of a login, in it the tokens, and their dates, of the new one.

    So whatever else an agent writes there, no other entry changes, and none is added.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return {name: refresh_login(old[name], new.get(name), name) for name in old}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [refresh_login(*pair, key) for pair in zip(old, new)]
    are_words = isinstance(old, str) and isinstance(new, str)
    are_numbers = {type(old), type(new)} <= {int, float}
    return new if REFRESHED.search(key) and (are_words or are_numbers) else old


def words_of(value: Any) -> list[str]:
    """The long strings of a login, wherever they are in it."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [word for each in inner for word in words_of(each)]
    return [value] if isinstance(value, str) and len(value) >= SECRET_CHARACTERS else []
