"""Chooses what of the system a contestant gets: a compiler, a linker, a loader, a shell."""

import glob
import os
import re
import shutil
from pathlib import Path

FOLDERS = """
    /bin /sbin /lib /lib32 /lib64 /libx32 /usr/bin /usr/sbin /usr/lib /usr/lib32 /usr/lib64
    /usr/libx32 /usr/libexec /usr/include /usr/local/bin /usr/local/lib /usr/local/lib64
    /usr/local/include /usr/share/zoneinfo /nix/store
""".split()
# In these, folders that are not named here belong to other programs: interpreters, their docs.
LIBRARIES = """
    /lib /lib32 /lib64 /usr/lib /usr/lib32 /usr/lib64 /usr/local/lib /usr/local/lib64 /usr/libexec
    /usr/lib/*-linux-gnu*
""".split()
NAMED = re.compile(
    r"(gcc|cc1|cpp|llvm|clang|nvidia|cuda|rocm|openmpi|ucx|libfabric)[^/]*"
    r"|.*(blas|lapack|atlas).*|.*-linux-gnu.*|bfd-plugins|(compat|gold)-ld|ldscripts|locale|gconv"
    r"|glibc-hwcaps|audit|nss|tls|wsl|haswell|x86_64|coreutils"
)
# of what is named there, folders with manuals, licences, examples
TEXTS = "/usr/lib/llvm-*/build /usr/lib/llvm-*/share /usr/local/cuda*/share".split()
# roots of toolkits, and what of them is needed
TOOLKITS = "CUDA_HOME CUDA_PATH ROCM_HOME ROCM_PATH".split()
ROOTS = "/usr/local/cuda* /opt/cuda* /opt/rocm*".split()
PARTS = "bin lib lib64 libexec include nvvm targets amdgcn llvm".split()
SHOWN_BEFORE = "/usr", "/opt"
# headers, beside those of toolkits
HEADERS = """
    /usr/include /usr/local/include /usr/lib/gcc/*/*/include /usr/lib/gcc/*/*/include-fixed
    /usr/lib/llvm-*/lib/clang/*/include /usr/lib/clang/*/include
""".split()


def readable_folders() -> list[str]:
    """Of the system, of toolkits of GPUs, of a compiler that is somewhere else."""
    roots = toolkit_roots()
    parts = [f"{root}/{part}" for root in roots for part in PARTS]
    searched = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    libraries = [path for path in searched if path.startswith(SHOWN_BEFORE)]
    return [path for path in [*FOLDERS, *parts, *libraries] if os.path.exists(path)]


def toolkit_roots() -> list[str]:
    """Folders that have bin, lib, include: of CUDA, ROCm, the C compilers that are used."""
    roots = [os.environ[name] for name in TOOLKITS if os.environ.get(name)]
    roots += [root for pattern in ROOTS for root in glob.glob(pattern)]
    for name in (os.environ.get("CC"), os.environ.get("CXX"), "gcc", "g++", "cc", "clang"):
        if program := name and shutil.which(name):
            root = os.path.dirname(os.path.dirname(os.path.realpath(program)))
            roots += [root] if root.startswith("/opt/") else []
    return [*dict.fromkeys(map(os.path.realpath, roots))]


def hidden_folders() -> list[str]:
    """Folders of other programs, and with texts of compilers, below readable_folders()."""
    tops = dict.fromkeys(os.path.realpath(top) for name in LIBRARIES for top in glob.glob(name))
    hidden = [os.path.realpath(path) for name in TEXTS for path in glob.glob(name)]
    for top in tops:
        with os.scandir(top) as entries:
            hidden += [
                entry.path
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not NAMED.fullmatch(entry.name)
            ]
    return hidden


def header_folders() -> list[Path]:
    """Where C compilers look for headers; none is below another."""
    patterns = [*HEADERS, *(f"{root}/**/include" for root in toolkit_roots())]
    folders = {os.path.realpath(path) for name in patterns for path in glob.glob(name)}
    paths = sorted(map(Path, folders))
    return [path for path in paths if not any(other in path.parents for other in paths)]
