"""What a job takes along to a node, and what comes back from there."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ratchet.arena.definition import FILES, Arena, load_arena
from ratchet.arena.files import Refused, cache_folder, sha256, work_folder
from ratchet.executors.base import Conditions, Outcome, Verb
from ratchet.executors.local import LocalExecutor
from ratchet.referee.folders import all_at_once
from ratchet.referee.job import Job

Files = Mapping[str, bytes]  # {name: contents}


def local_executor(gpu: int | None = None) -> LocalExecutor:
    """The one device that a node may use: a GPU it was given, or the best it sees."""
    return LocalExecutor([f"cuda:{gpu}"] if gpu is not None else [])


class OtherKind(Refused):
    """A node is of another kind than the one that scores are compared on."""


@contextmanager
def execute_here(
    verb: Verb, job: Job, kind: Conditions, read_files: Callable[[], Files], gpu: int | None = None
) -> Iterator[tuple[Outcome, Path]]:
    """On a node: (the outcome of a job done there, the folder of what it left).

    kind: conditions that the node must have. read_files: gives the arena's files if need be.
    Raises Refused.
    """
    executor = local_executor(gpu)
    refuse_other_kind(executor.conditions(), kind)
    name = sha256(str(job.compiled).encode())[:12]
    work_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work_folder()) as folder:  # /tmp may have no room
        target = Path(folder) / "run"
        job = job._replace(
            arena=ready_arena(job.arena, read_files),
            target=target,
            compiled=work_folder() / ".compiled" / name,
        )
        outcome = executor.execute(verb, job)
        target.mkdir(exist_ok=True)
        yield outcome, target


def refuse_other_kind(conditions: Conditions, kind: Conditions) -> None:
    """Raises OtherKind when scores of a node can't be compared with those of its kind."""
    differences = [
        f"{name} is {value!r}, not {kind.get(name)!r}"
        for name, value in conditions.items()
        if value != kind.get(name)
    ]
    if differences:
        raise OtherKind(
            f"a node is not of the kind that scores are compared on: {', '.join(differences)}"
        )


def ready_arena(arena: Arena, read_files: Callable[[], Files]) -> Arena:
    """The arena as this node has it, under the same seal; else it is written from read_files()."""
    shipped = work_folder() / ".shipped" / arena.seal / arena.name
    for folder in (cache_folder() / arena.name, shipped):
        path = folder / "arena.json"
        if path.exists() and sha256(path.read_bytes())[:12] == arena.seal:
            return load_arena(folder, *FILES)
    part = shipped.with_name(f"{arena.name}.{time.monotonic_ns()}.part")
    part.mkdir(parents=True)
    for name, data in read_files().items():
        (part / name).write_bytes(data)
    try:
        part.rename(shipped)
    except OSError:  # another run brought it
        shutil.rmtree(part)
    return load_arena(shipped, *FILES)


def read_arena(arena: Arena) -> Files:
    """The files of an arena."""
    return {path.name: path.read_bytes() for path in arena.folder.iterdir() if path.name[0] != "."}


def unpack_files(files: Files, target: Path) -> None:
    """Write what a run left to its folder on this machine, all at once."""
    if files:
        with all_at_once(target) as part:
            for name, data in files.items():
                (part / Path(name).name).write_bytes(data)
