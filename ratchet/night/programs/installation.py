"""Where a program is installed: the folders that it reads to start."""

from pathlib import Path

from ratchet import commits
from ratchet.arena.files import cache_folder, work_folder


def readable_for(program: Path) -> list[Path]:
    """What a program, without links on the way, may read to start: its folder, its installation.

    Not where more than that is inside: a script in the repository or in somebody's home stands
    alone, as beside it are the ledger, or keys.
    """
    private = commits.home(), cache_folder(), work_folder(), Path.home()
    beside = [] if program.is_relative_to(private[0]) else [program.parent]
    return [program] + [
        folder
        for folder in beside + installation_of(program)
        if not any(path.is_relative_to(folder) for path in private)
    ]


def installation_of(program: Path) -> list[Path]:
    """The node_modules that a program is in, or its virtual environment and the Python of that."""
    modules = [folder for folder in program.parents if folder.name == "node_modules"]
    environments = [folder for folder in program.parents if (folder / "pyvenv.cfg").is_file()]
    pythons = [(folder / "bin/python").resolve().parent.parent for folder in environments]
    return modules[-1:] + environments + pythons
