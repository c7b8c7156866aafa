"""Where a program is installed: what it reads to start.

A command in PATH may be a link (npm, uv, pipx), a shell script that starts another file (pnpm,
Homebrew), or a shim of a manager of versions, which looks into the user's settings for the program
that it stands for (mise, asdf, pyenv, volta). A script needs its interpreter, too: the node of nvm
or fnm. None of them lies in the system's folders.
"""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ratchet import commits
from ratchet.arena.files import cache_folder, work_folder
from ratchet.git import inherited_environment

MARKS = ("pyvenv.cfg", "conda-meta", "Cellar")  # in the folder of an environment, of Homebrew
LIBRARIES = ("node_modules", "python3*")  # in `lib` beside the `bin` of an interpreter
INTERPRETERS = ("node", "bun", "deno")  # those that scripts look for in PATH
SCRIPT_BYTES = 2**16  # of a shell script that is searched for what it starts
MOST_PROGRAMS = 16  # that one may lead to
MANAGERS = {"asdf": "asdf", "mise": "mise", "nodenv": "nodenv", "pyenv": "pyenv", "volta": "volta"}
MANAGERS |= {"volta-shim": "volta"}
MANAGER_SECONDS = 10
# a path in a script, after the variables that stand for the script's own folder
PATHS = re.compile(r"((?:\$\{?(?:basedir|dir|DIR|HOME)\}?|~)?/[^\s\"'`$;:|&<>()]+)")
# of what a program says it couldn't find: what belongs to programs, not to their users
PARTS = re.compile(r"/(bin|lib|libexec|node_modules|site-packages)(/|$)|\.([cm]?js|node|so|py)$")

MOST_WORDS, PATH_CHARACTERS = 20, 4096  # of a failed program: paths that are looked at
HOMES = Path("/home"), Path("/Users")  # of these folders are those in it
SETTINGS = Path("/etc"), Path("/private/etc")


class Installation(NamedTuple):
    """program: what is to be started. read: what it reads. folders: of its interpreters."""

    program: Path
    read: list[Path]
    folders: list[Path]


def find_installation(program: Path) -> Installation:
    """All that a program needs to start, given its absolute path, links and shims included."""
    program = leave_shim(program)
    chain = [*follow_starts(program)]
    read = [*readable_for(program.resolve())]
    for each in chain:
        read += [each, each.resolve(), *without_private(installation_of(each.resolve()))]
    interpreters = [each.parent.resolve() for each in chain[1:] if each.name in INTERPRETERS]
    return Installation(program, [*dict.fromkeys(read)], [*dict.fromkeys(interpreters)])


def readable_for(program: Path) -> list[Path]:
    """What a program, without links on the way, may read to start: its folder, its installation.

    Not where more than that is inside: a script in the repository or in somebody's home stands
    alone, as beside it are the ledger, or keys.
    """
    beside = [] if program.is_relative_to(commits.home()) else [program.parent]
    return [program, *without_private(beside + installation_of(program))]


def without_private(folders: Iterable[Path]) -> list[Path]:
    """Those of the folders in which is nothing of the user's but programs."""
    private = commits.home(), cache_folder(), work_folder(), Path.home()
    return [
        folder for folder in folders if not any(path.is_relative_to(folder) for path in private)
    ]


def installation_of(program: Path) -> list[Path]:
    """The node_modules that a program is in, its environment with the Python of that, libraries."""
    modules = [folder for folder in program.parents if folder.name == "node_modules"]
    environments = [
        folder for folder in program.parents if any((folder / mark).exists() for mark in MARKS)
    ]
    pythons = [
        (folder / "bin/python").resolve().parent.parent
        for folder in environments
        if (folder / "pyvenv.cfg").exists()
    ]
    return modules[-1:] + environments + pythons + libraries_beside(program)


def libraries_beside(program: Path) -> list[Path]:
    """`bin` and `lib` of an interpreter: not what is beside those, which may be a home's .local."""
    library = program.parent.parent / "lib"
    if program.parent.name != "bin" or not any(
        next(library.glob(name), None) for name in LIBRARIES
    ):
        return []
    return [program.parent, library]


# --------------------------------------------------------------------------------------------------
# What starts what


def follow_starts(program: Path) -> Iterator[Path]:
    """A program, then all that it starts: its interpreter, what a script names, their own."""
    waiting, seen = [program], set()
    while waiting and len(seen) < MOST_PROGRAMS:
        each = waiting.pop(0)
        if each not in seen and each.is_file():
            seen.add(each)
            yield each
            waiting += [*list_starts(each.resolve()), *pythons_beside(each.resolve())]


def list_starts(script: Path) -> list[Path]:
    """The interpreter of a script, and the programs that it names if that is a shell."""
    text = read_script(script)
    line = text.partition("\n")[0].removeprefix("#!").split()
    if not line:
        return []
    words = [word for word in line[1:] if not word.startswith("-") and "=" not in word]
    name = words[0] if Path(line[0]).name == "env" and words else line[0]
    found = shutil.which(name)
    interpreter = [leave_shim(Path(found))] if found else []
    is_shell = Path(name).name in ("sh", "bash", "dash", "zsh", "ksh")
    return interpreter + (list_named(script, text) if is_shell else [])


def read_script(path: Path) -> str:
    """The text of a file that begins with #!, else ""."""
    with suppress(OSError), open(path, "rb") as file:
        data = file.read(SCRIPT_BYTES)
        return data.decode(errors="replace") if data.startswith(b"#!") else ""
    return ""


def list_named(script: Path, text: str) -> list[Path]:
    """The programs whose paths stand in a shell script: executables, files of node_modules."""
    paths = []
    for word in PATHS.findall(text.partition("\n")[2]):
        word = re.sub(r"^(\$\{?HOME\}?|~)/", f"{Path.home()}/", word)
        word = re.sub(r"^\$\{?\w+\}?/", f"{script.parent}/", word)
        path = Path(os.path.normpath(word))
        if os.path.isfile(path) and (os.access(path, os.X_OK) or "node_modules" in path.parts):
            paths.append(path)
    return paths


def pythons_beside(program: Path) -> list[Path]:
    """The Python of the virtual environment that a program is in."""
    return [
        folder / "bin/python" for folder in program.parents if (folder / "pyvenv.cfg").is_file()
    ]


def leave_shim(program: Path) -> Path:
    """What a shim of a manager of versions stands for, as the manager says; any other as it is."""
    real = program.resolve()
    in_script = re.search(r"\b(asdf|mise|nodenv|pyenv)\b", read_script(real))
    name = MANAGERS.get(real.name) or (in_script[1] if in_script else "")
    if not name or program.name in MANAGERS or not (real.name in MANAGERS or is_shim(program)):
        return program
    manager = shutil.which(name) or str(real)
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(
            [manager, "which", program.name],
            env=inherited_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=MANAGER_SECONDS,
        )
        path = Path(said.stdout.decode(errors="replace").strip())
        return path if path.is_absolute() and path.is_file() else program
    return program


def is_shim(program: Path) -> bool:
    return program.parent.name == "shims"


# --------------------------------------------------------------------------------------------------
# What is missing


def find_missing(lines: Iterable[str], visible: Iterable[Path]) -> list[Path]:
    """Parts of programs that these lines of a failed one name, which exist but can't be seen.

    The lines are somebody's words, who may want the user's keys to be shared, or to learn what
    there is: show no agent what is returned.
    """
    folders = [Path(os.path.realpath(path)) for path in visible]
    words = itertools.islice(PATHS.finditer("\n".join(lines)), MOST_WORDS)
    missing = []
    for word in (match[0] for match in words):
        if ".." in word or len(word) > PATH_CHARACTERS:
            continue
        with suppress(OSError, ValueError, RuntimeError):  # too long a name, a ring of links
            path = Path(os.path.normpath(os.path.expanduser(word)))
            real = path.resolve()
            is_seen = any(real.is_relative_to(folder) for folder in folders)
            if is_part(path) and is_part(real) and path.exists() and not is_seen:
                missing.append(path)
    return [*dict.fromkeys(missing)]


def is_part(path: Path) -> bool:
    """Whether a path can be a part of a program: no setting, no key, nothing to mislead a terminal.

    What is hidden in somebody's home, and the machine's settings, never are.
    """
    tops = [top for top in path.parents if top.parent in HOMES]
    homes = [Path.home(), Path.home().resolve(), Path("/root"), *tops]
    below = [path.relative_to(home) for home in homes if path.is_relative_to(home)]
    is_hidden = any(str(each).startswith(".") for each in below)
    is_setting = any(path.is_relative_to(folder) for folder in SETTINGS)
    return (
        str(path).isprintable() and not (is_hidden or is_setting) and bool(PARTS.search(str(path)))
    )
