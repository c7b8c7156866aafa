"""Keeps a copy of Python and its packages that holds no texts, for contestants to run by.

The copy is a virtual environment whose base is inside it, so that Python finds all by the name it
is started by, whatever its variables are. Modules have bytecode that Python takes as it is: none is
ever compiled in a sandbox, which can keep nothing. Large binaries are symbolic links; a sandbox
lets a contestant read what they lead to, and nothing that lies beside.
"""

import concurrent.futures
import fcntl
import functools
import gc
import importlib.util
import marshal
import multiprocessing
import os
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ratchet.arena.files import sha256, work_folder
from ratchet.referee import limits
from ratchet.referee.folders import remove_folder
from ratchet.referee.libraries import selection, stripping, system
from ratchet.referee.libraries.selection import Source
from ratchet.referee.sandbox import ETC, LAUNCHER, Libraries

PROGRAM = os.path.realpath("/proc/self/exe")  # Python itself, behind all links and scripts
SYSTEM = "system"  # folder of the copy: below it, the system's headers
LARGE_BYTES = 2**20  # a smaller binary is copied: each file in a view costs time
BATCH = 50  # files that a process makes at a time
ONLY_DOCS = "_add_newdocs"  # modules of NumPy, which takes functions without docs, not with others
UNCHECKED = (1).to_bytes(4, "little")  # a flag of bytecode: no look at the source
LOCK = threading.Lock()
LOOKED: list[Libraries] = []
STRIP = {
    "c": stripping.strip_c,
    "json": stripping.strip_json,
    "template": stripping.strip_template,
    "metadata": stripping.strip_metadata,
    "verbatim": bytes,
    "binary": bytes,
    "empty": lambda source: b"",
}


strip_module = functools.cache(stripping.strip_python)  # each run strips the same few


def say(text: str) -> None:
    print(text.strip(), file=sys.stderr, flush=True)


def contestant_libraries(tell: Callable[[str], object] = say) -> Libraries:
    """The copy of this environment, up to date; made by one thread, others wait."""
    with LOCK:
        if not LOOKED:  # a process looks for changes once
            LOOKED.append(update_copy(tell))
        return LOOKED[0]


def update_copy(tell: Callable[[str], object]) -> Libraries:
    """Make what is missing in the copy, or is older than its source."""
    top = copy_folder()
    sources = selection.list_sources()
    sources["sandbox.py"] = Source(os.fspath(LAUNCHER), "script", LAUNCHER.stat())
    for folder in system.header_folders():
        sources |= selection.walk_headers(folder, f"{SYSTEM}{folder}")
    if out_of_date(top, sources)[0]:
        top.mkdir(0o755, parents=True, exist_ok=True)
        with locked(top):
            missing, extra = out_of_date(top, sources)
            remove_files(top, extra)
            if missing:
                tell("  copying the libraries without their texts, once for this environment")
                make_files(top, {name: sources[name] for name in missing})
                write_environment(top)
                remove_unused(top)
    with suppress(OSError):
        os.utime(top)  # it is in use: another Ratchet beside it would remove it else
    return describe_copy(top, sources)


def describe_copy(top: Path, sources: dict[str, Source]) -> Libraries:
    """What a sandbox must know of the copy."""
    large = [source.path for source in sources.values() if is_linked(source)]
    shared = Path(sys.base_prefix, "lib").glob("libpython*.so*")
    files = map(os.path.realpath, [PROGRAM, *large, *shared])
    covers = {str(path): f"{top}/{SYSTEM}{path}" for path in system.header_folders()}
    return Libraries(
        programs={sys.executable: f"{top}/bin/python", str(LAUNCHER): f"{top}/sandbox.py"},
        read=[os.fspath(top), *files, *ETC, *system.readable_folders()],
        hidden=system.hidden_folders(),
        covers={path: copy for path, copy in covers.items() if os.path.isdir(copy)},
    )


def copy_folder() -> Path:
    """Where the copy is: in a virtual environment that may be written, else in the cache."""
    code = Path(stripping.__file__).read_bytes()
    name = f"{sys.implementation.cache_tag}-{sha256(code + os.fsencode(sys.prefix))[:12]}"
    is_private = sys.prefix != sys.base_prefix or Path(sys.prefix, "conda-meta").exists()
    if is_private and os.access(sys.prefix, os.W_OK):
        return Path(sys.prefix, "share/ratchet-libraries", name)
    return work_folder() / "libraries" / name


@contextmanager
def locked(top: Path) -> Iterator[None]:
    """Only one process of all that may share a folder is in the block."""
    with open(top.with_suffix(".lock"), "ab") as file:
        with suppress(OSError):  # file systems that have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --------------------------------------------------------------------------------------------------
# What there is to do


def is_linked(source: Source) -> bool:
    return source.kind == "binary" and source.status.st_size >= LARGE_BYTES


def stamp(source: Source) -> int:
    """The date of a copy, in ns: another one for each date, size and kind of its source.

    Whole seconds, as some file systems know no less; long ago, so that nothing looks new.
    """
    text = f"{source.status.st_mtime_ns} {source.status.st_size} {source.kind}"
    return (zlib.crc32(text.encode()) >> 2) * 10**9


def bytecode_name(name: str) -> str:
    """Example: "a/b.py" -> "a/__pycache__/b.cpython-313.pyc"."""
    return importlib.util.cache_from_source(name)


def out_of_date(top: Path, sources: dict[str, Source]) -> tuple[set[str], set[str]]:
    """(names in the copy to make, files in it that don't belong there)."""
    wanted = {name: stamp(source) for name, source in sources.items()}
    kept = dict(walk_dates(top))
    modules = {name for name, source in sources.items() if source.kind == "python"}
    bytecode = {bytecode_name(name): name for name in modules}
    wanted |= {name: wanted[module] for name, module in bytecode.items()}
    stale = {name for name, date in wanted.items() if kept.get(name) != date}
    environment = {"pyvenv.cfg", "bin/python", "base/bin/python"}
    if not environment <= kept.keys():
        stale.add("sandbox.py")
    return {bytecode.get(name, name) for name in stale}, kept.keys() - wanted.keys() - environment


def walk_dates(top: Path) -> Iterator[tuple[str, int]]:
    """(name, date in ns) of each file of the copy."""
    folders = [(os.fspath(top), "")]
    while folders:
        folder, prefix = folders.pop()
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, f"{prefix}{entry.name}/"))
                else:
                    yield prefix + entry.name, entry.stat(follow_symlinks=False).st_mtime_ns


def remove_files(top: Path, names: Iterable[str]) -> None:
    for name in names:
        (top / name).unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------
# Making it


def make_files(top: Path, sources: dict[str, Source]) -> None:
    """Make files of the copy, by as many processes as there are cores."""
    items = [(f"{top}/{name}", source) for name, source in sources.items()]
    batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
    if len(batches) == 1:
        return make_batch(batches[0])
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    context = multiprocessing.get_context("spawn")
    start = gc.disable  # syntax trees are large, without cycles: a fifth of the time
    with concurrent.futures.ProcessPoolExecutor(cores, context, initializer=start) as pool:
        for _ in pool.map(make_batch, batches):
            pass


def make_batch(batch: list[tuple[str, Source]]) -> None:
    """Make some files of the copy, each whole or not at all."""
    for folder in {os.path.dirname(target) for target, _ in batch}:
        os.makedirs(f"{folder}/__pycache__", 0o755, exist_ok=True)
    for target, source in batch:
        if is_linked(source):
            replace_link(target, os.path.realpath(source.path), stamp(source))
            continue
        mode = 0o755 if source.status.st_mode & 0o100 else 0o644
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of compilers, about modules that work
            data = stripped(source)
            if source.kind == "python":
                data, bytecode = compiled(data, target, source)
                replace_copy(bytecode_name(target), bytecode, 0o644, stamp(source))
        replace_copy(target, data, mode, stamp(source))


def stripped(source: Source) -> bytes:
    """A file's content for contestants: nothing if it is not what its name says."""
    data = Path(source.path).read_bytes()
    if os.path.basename(source.path).startswith(ONLY_DOCS):
        return b""
    try:
        if source.kind in ("python", "script"):
            return stripping.strip_python(data, source.path)
        return STRIP[source.kind](data)
    except (SyntaxError, ValueError, RecursionError):
        return b""


def compiled(data: bytes, path: str, source: Source) -> tuple[bytes, bytes]:
    """(a module, its .pyc, which Python takes without a look at the module: PEP 552).

    The module as it was if it can't be compiled now; empty if it never could.
    """
    for text in (data, Path(source.path).read_bytes(), b""):
        with suppress(SyntaxError, ValueError, RecursionError):
            code = compile(text, path, "exec", dont_inherit=True, optimize=0)
            break
    header = importlib.util.MAGIC_NUMBER + UNCHECKED + importlib.util.source_hash(text)
    return text, header + marshal.dumps(code)


def replace_copy(path: str, data: bytes, mode: int, date: int) -> None:
    """Write a file with its date, whole or not at all."""
    part = f"{path}.{os.getpid()}.part"
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
    os.utime(part, ns=(date, date))
    os.replace(part, path)


def replace_link(path: str, target: str, date: int | None = None) -> None:
    """Make a symbolic link, with a date of its own, in place of whatever is there."""
    part = f"{path}.{os.getpid()}.part"
    with suppress(FileNotFoundError):
        os.unlink(part)
    os.symlink(target, part)
    if date is not None:
        os.utime(part, ns=(date, date), follow_symlinks=False)
    os.replace(part, path)


def remove_unused(top: Path) -> None:
    """Remove copies of an older Ratchet or another Python that have not changed for long."""
    os.utime(top)
    oldest = time.time() - limits.UNUSED_SECONDS
    for folder in top.parent.iterdir():
        if folder.is_dir() and folder.stat().st_mtime < oldest:
            remove_folder(folder)


def strip_folder(folder: Path) -> None:
    """Take the texts out of Python's modules in a folder."""
    for path in folder.rglob("*.py"):
        path.write_bytes(strip_module(path.read_bytes(), path.name))


def write_environment(top: Path) -> None:
    """What makes the copy a virtual environment, whose base is a part of it."""
    for folder in ("bin", "base/bin"):
        (top / folder).mkdir(0o755, parents=True, exist_ok=True)
        replace_link(f"{top}/{folder}/python", PROGRAM)
    settings = f"home = {top}/base/bin\ninclude-system-site-packages = false\n"
    replace_copy(f"{top}/pyvenv.cfg", settings.encode(), 0o644, 0)
