"""What goes to a node of a cluster, and what comes back."""

import shutil
import tempfile
import time
from pathlib import Path

from ratchet.arena.definition import FILES, load_arena
from ratchet.arena.files import Refused, cache_folder, sha256, work_folder
from ratchet.executors.local import Local
from ratchet.referee.folders import all_at_once

TRAVEL_BYTES = 2**28  # larger files that a run leaves stay behind: the weights of a large model


def carry_out(verb, job, kind, arena_files, gpu=None):
    """On a node: do a job there. Returns (what a place's `verb` gives, {name: bytes} of what it
    left).
    """
    place = place_here(gpu)
    if (found := place.conditions()) != kind:
        raise Refused(
            f"the job was given {found}, its scores are to be compared with those of {kind}"
        )
    compiled = work_folder() / ".compiled" / sha256(str(job.compiled).encode())[:12]
    with tempfile.TemporaryDirectory() as folder:
        arena, target = at_hand(job.arena, arena_files), Path(folder) / "run"
        found = getattr(place, verb)(job._replace(arena=arena, target=target, compiled=compiled))
        files = target.iterdir() if target.exists() else ()
        return found, {p.name: p.read_bytes() for p in files if p.stat().st_size <= TRAVEL_BYTES}


def at_hand(arena, files):
    """The arena as this node has it, under the same seal; else files(), {name: bytes}, are written."""
    shipped = work_folder() / ".shipped" / arena.seal / arena.name
    for folder in (cache_folder() / arena.name, shipped):
        path = folder / "arena.json"
        if path.exists() and sha256(path.read_bytes())[:12] == arena.seal:
            return load_arena(folder, *FILES)
    part = shipped.with_name(f"{arena.name}.{time.monotonic_ns()}.part")
    part.mkdir(parents=True)
    for name, data in files().items():
        (part / name).write_bytes(data)
    try:
        part.rename(shipped)
    except OSError:  # another run brought it
        shutil.rmtree(part)
    return load_arena(shipped, *FILES)


def read_arena(arena):
    """{name: bytes} of an arena's files."""
    return {path.name: path.read_bytes() for path in arena.folder.iterdir() if path.name[0] != "."}


def unpack(found, files, target):
    """What a run left, into its folder on this machine, all at once; returns what was found."""
    if files:
        with all_at_once(target) as part:
            for name, data in files.items():
                (part / Path(name).name).write_bytes(data)
    return found


def place_here(gpu):
    """The place of a node on which it was given that GPU, or none."""
    return Local(f"cuda:{gpu}" if gpu is not None else None)


def conditions_here(gpu=None):
    """Local.conditions() of a node."""
    return place_here(gpu).conditions()
