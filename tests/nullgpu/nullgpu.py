"""A null GPU: PyTorch's CUDA path on a machine without a GPU. Nothing is computed.

    uv run tests/nullgpu/nullgpu.py python -c "import torch; print(torch.cuda.get_device_name())"

A small library stands in for the CUDA runtime, cuBLAS, the driver and NVML. PyTorch's own code, its
allocator, Inductor, Triton and ptxas run for real. So types, devices, shapes, graph breaks,
launches, synchronisations, memory and the sandbox can be tested; numbers, times, NCCL and the real
driver can't. Device memory holds nothing, see runtime.cpp for what a copy to the host reads.

A process that loads the library may call it with ctypes: nullgpu_open(path) begins a log there,
nullgpu_mark(text) marks a place in it, nullgpu_used(), nullgpu_peak(), nullgpu_limit(bytes) are
about the memory of the current card. Or CUDA_NULLGPU_LOG names a folder, where each process keeps one.

A line of a log is a letter and what follows it:

    D card                       what comes next is on this card (0 at first)
    K x y z threads kernel       a kernel of CUDA's: its grid, threads of a block
    T x y z threads kernel       one of Triton's
    L graph                      a captured graph; what is in it was noted when it was captured
    G m n k batch call type      a product of matrices [m, k] and [k, n], as cuBLAS calls them
    C bytes kind how             a copy: "HtoD pageable", "DtoH pinned", "DtoD"; "sync" or "async"
    S call                       the host waits for the card
    E record                     an event
    Z bytes                      memory is set
    M bytes used total           device memory is reserved, how much the process has then
    F bytes                      and freed
    H pinned bytes               memory of the host
    I handle | open bytes        memory is offered to another process, or opened there
    O out of memory: ...         a reservation that found no room
    U function                   a call that nothing stands in for: it answers "not supported"
    # text                       a mark
"""

import argparse
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).resolve().parent
LIBRARY = "nullgpu.so"
ALIASES = "libcuda.so.1", "libnvidia-ml.so.1"  # names by which programs look for a driver
REPLACED = "libcudart.so.*", "libcublas.so.*", "libcublasLt.so.*"  # of the CUDA wheels
NOT_SUPPORTED = {
    "cublas": 15,
    "cu": 801,
    "nvml": 3,
}  # what a stub answers, by the beginning of its name


class Card(NamedTuple):
    """A card of the machine, in the order of the PCI bus; machine.h says what each figure is."""

    name: str = "NVIDIA H100 80GB HBM3"
    memory: int = 79 << 30
    processors: int = 132
    capability: int = 90
    compute_mode: int = 0
    mig: int = 0
    throttling: int = 0
    processes: Sequence[int] = ()


H100 = Card()
RTX_4090 = Card("NVIDIA GeForce RTX 4090", 23 << 30, 128, 89)


# --------------------------------------------------------------------------------------------------
# Building


def wheels_folder() -> Path | None:
    """Where the CUDA wheels of this Python are."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    return next((folder for folder in folders if any(folder.glob("*/lib/libcudart.so.*"))), None)


def reason_not_to_build() -> str:
    """Why there can be no null GPU here; "" if there can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the null GPU is for Linux on x86-64"
    if missing := [name for name in ("g++", "nm") if not shutil.which(name)]:
        return f"there is no {' and no '.join(missing)}"
    if not wheels_folder():
        return "no CUDA wheel is installed: this PyTorch is for CPUs"
    return ""


def defined_symbols(path: Path, *options: str) -> set[str]:
    """Functions that a library, or an object file, defines."""
    argv = ["nm", *options, "--defined-only", str(path)]
    lines = subprocess.run(argv, capture_output=True, encoding="utf-8", check=True).stdout
    return {name.partition("@")[0] for name in re.findall(r" [TWi] (\S+)", lines)}


def driver_functions(header: Path) -> set[str]:
    """Names of the driver's functions, with those that macros turn them into."""
    text = header.read_text(encoding="utf-8", errors="replace")
    plain = re.findall(r"CUresult CUDAAPI (cu\w+)\(", text)
    return {*plain, *re.findall(r"#define cu\w+ +(cu\w+_v\d+)\b", text)}


def nvml_functions() -> set[str]:
    """Names of NVML's functions that PyTorch looks for: it wants all of them, or none."""
    torch = importlib.util.find_spec("torch")
    assert torch and torch.origin
    library = Path(torch.origin).parent / "lib/libc10_cuda.so"
    return {name.decode() for name in re.findall(rb"\0(nvml[A-Z]\w+)\0", library.read_bytes())}


def write_stubs(path: Path, names: set[str]) -> None:
    """Write C++ of functions that note their call and answer that it isn't supported."""
    lines = ['#include "machine.h"', 'extern "C" {']
    for name in sorted(names):
        code = next(code for start, code in NOT_SUPPORTED.items() if name.startswith(start))
        lines.append(f'int {name}_() __asm__("{name}");')
        lines.append(f'int {name}_() {{ note("U {name}"); return {code}; }}')
    path.write_text("\n".join([*lines, "}"]), encoding="utf-8")


def build(folder: Path, cards: Sequence[Card] = (H100,)) -> Path:
    """Build the library and its machine in a folder, in some seconds; returns the folder."""
    wheels = wheels_folder()
    assert wheels, reason_not_to_build()
    objects = [compile_source(source, folder, wheels) for source in sorted(SOURCES.glob("*.cpp"))]
    ours = {name for path in objects for name in defined_symbols(path)}
    theirs = driver_functions(next(wheels.glob("*/include/cuda.h"))) | nvml_functions()
    for library in (path for name in REPLACED for path in wheels.glob(f"*/lib/{name}")):
        theirs |= defined_symbols(library, "-D")
    stubs = folder / "stubs.cpp"
    write_stubs(stubs, {name for name in theirs - ours if name.startswith(tuple(NOT_SUPPORTED))})
    objects.append(compile_source(stubs, folder, wheels))
    argv = [
        "g++",
        "-shared",
        "-Wl,--no-undefined",
        *map(str, objects),
        "-o",
        str(folder / LIBRARY),
        "-ldl",
    ]
    subprocess.run(argv, check=True)
    return make_machine(folder, cards)


def compile_source(source: Path, folder: Path, wheels: Path) -> Path:
    """Compile one file against the headers of the CUDA wheels; returns the object file."""
    target = folder / f"{source.stem}.o"
    argv = ["g++", "-std=c++17", "-fPIC", "-Wall", f"-I{SOURCES}"]
    argv += [f"-I{headers}" for headers in wheels.glob("*/include")]
    subprocess.run([*argv, "-c", str(source), "-o", str(target)], check=True)
    return target


def make_machine(folder: Path, cards: Sequence[Card], built: Path | None = None) -> Path:
    """Give a folder these cards, and the library that was built elsewhere; returns the folder."""
    if built:
        shutil.copy(built / LIBRARY, folder)
    for alias in ALIASES:
        (folder / alias).unlink(missing_ok=True)
        (folder / alias).symlink_to(LIBRARY)
    lines = []
    for card in cards:
        processes = ",".join(map(str, card.processes))
        lines.append("\t".join(map(str, [*card[:-1], processes])) + "\n")
    (folder / "cards").write_text("".join(lines), encoding="utf-8")
    return folder


def break_card(folder: Path, number: int) -> None:
    """Have a card fail from now on: each call of CUDA's answers with an uncorrectable error."""
    (folder / f"broken-{number}").touch()


def environment(folder: Path, log: Path | None = None) -> dict[str, str]:
    """Variables for a process on the machine in a folder; log: a folder for what processes note."""
    added = {"LD_PRELOAD": str(folder / LIBRARY), "LD_LIBRARY_PATH": str(folder)}
    added["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    if log:
        log.mkdir(parents=True, exist_ok=True)
        added["CUDA_NULLGPU_LOG"] = str(log)
    dropped = {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | added


# --------------------------------------------------------------------------------------------------
# Reading a log


class Record(NamedTuple):
    """A line of a log. Example: Record("K", 0, "(4, 1, 1, 128)", ...) is a kernel's launch."""

    kind: str  # the letter
    card: int
    numbers: tuple[int, ...]  # of the line, in their order
    text: str  # the rest: a kernel's mangled name, how a copy is made, a mark


def read_log(path: Path) -> Iterator[Record]:
    """Records of one process; those of all if path is a folder."""
    if path.is_dir():
        for file in sorted(path.glob("*.log")):
            yield from read_log(file)
        return
    card = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        kind, _, rest = line.partition(" ")
        words = rest.split(" ")
        numbers = [] if kind == "#" else [int(word) for word in words if word.isdigit()]
        if kind == "D":
            (card,) = numbers
            continue
        text = rest if kind == "#" else " ".join(word for word in words if not word.isdigit())
        yield Record(kind, card, tuple(numbers), text)


def between(records: Sequence[Record], first: str, last: str) -> list[Record]:
    """The records from one mark to another."""
    marks = [record.text if record.kind == "#" else "" for record in records]
    begin = marks.index(first)
    return list(records[begin + 1 : marks.index(last, begin)])


def main() -> None:
    """Run a command on a null GPU that is built for it."""
    parser = argparse.ArgumentParser(description="Run a command on a machine with null GPUs.")
    parser.add_argument("--cards", type=int, default=1, help="how many H100 there are")
    parser.add_argument("--folder", type=Path, help="build it here, and keep it")
    parser.add_argument("--log", type=Path, help="a folder for what each process notes")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if reason := reason_not_to_build():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        build(folder, [H100] * arguments.cards)
        variables = environment(folder, arguments.log and arguments.log.resolve())
        if arguments.command:
            sys.exit(subprocess.run(arguments.command, env=variables).returncode)


if __name__ == "__main__":
    main()
