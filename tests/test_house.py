"""The shape of the house: which package may import which, what is sealed, how much code there is."""

import ast
import json
import subprocess
import sys

import pytest
import style
from conftest import ROOT

from ratchet.experiments import seal

# What each part may import of the others. Arrows point downwards only.
SEALED_PARTS = {
    "ratchet.arena",
    "ratchet.untrusted_text",
    "ratchet.git",
    "ratchet.commits",
    "ratchet.referee",
    "ratchet.experiments",
}
MAY_IMPORT = {
    "prepare": {"ratchet.arena"},
    "train": {"prepare", "ratchet.arena"},
    "ratchet.arena": set(),
    "ratchet.untrusted_text": set(),
    "ratchet.git": {"ratchet.arena"},
    "ratchet.commits": {"ratchet.arena", "ratchet.git"},
    "ratchet.referee": {"ratchet.arena", "ratchet.untrusted_text"},
    "ratchet.experiments": SEALED_PARTS - {"ratchet.experiments"},
    "ratchet.executors": SEALED_PARTS,
    "ratchet.claims": SEALED_PARTS,
    "ratchet.night": SEALED_PARTS | {"ratchet.executors", "ratchet.claims"},
    "ratchet.report": SEALED_PARTS | {"ratchet.night", "ratchet.claims"},
    "ratchet.terminal": {"ratchet.arena"},
    "ratchet.tables": SEALED_PARTS | {"ratchet.claims", "ratchet.report", "ratchet.terminal"},
    "ratchet.model": SEALED_PARTS | {"ratchet.report", "ratchet.terminal"},
    "ratchet.doctor": SEALED_PARTS,
}
TOP = {"ratchet.__main__"}  # sees everything
FILES = [
    "prepare.py",
    "train.py",
    *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "ratchet").rglob("*.py"))),
]


def module_of(name):
    """Example: "ratchet/arena/text/__init__.py" -> "ratchet.arena.text"."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def part_of(module):
    """The part of the house that a module belongs to: its package, or itself."""
    return ".".join(module.split(".")[:2])


def imported_modules(name):
    """Modules of this repository that a file imports, wherever in it."""
    known, modules = {module_of(each) for each in FILES}, set()
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return modules & known


@pytest.mark.parametrize("name", FILES)
def test_arrows_point_downwards(name):
    part = part_of(module_of(name))
    if part not in TOP:
        others = {part_of(module) for module in imported_modules(name)} - {part, "ratchet"}
        assert others <= MAY_IMPORT.get(part, set()), others


def test_what_runs_scores_and_decides_reaches_nothing_that_is_not_sealed():
    sealed = {*seal.sealed_files()}
    assert {
        "prepare.py",
        "ratchet/arena/hardware/cpu.py",
        "ratchet/experiments/verdicts.py",
    } <= sealed
    by_module = {module_of(name): name for name in FILES}
    reached = {by_module[module] for name in sealed for module in imported_modules(name)}
    assert reached <= sealed
    parts = {part_of(module_of(name)) for name in sealed}
    assert parts == SEALED_PARTS | {"prepare", "ratchet"}


def test_the_shape_of_the_tree():
    folders = {path.parent for path in (ROOT / "ratchet").rglob("*.py")}
    assert len([*(ROOT / "ratchet").glob("*.py")]) <= 8
    assert all(len([*folder.glob("*.py")]) <= 14 for folder in folders)
    for folder in folders:  # one sentence a package
        doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        assert doc and "\n" not in doc and len(doc) <= 100, folder
    lengths = {
        name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in FILES[:2]
    }
    assert lengths["prepare.py"] <= 350 and lengths["train.py"] <= 450


@pytest.mark.parametrize("command", (["check"], ["format", "--check"]), ids=" ".join)
def test_the_linter_has_nothing_to_say(command):
    argv = [sys.executable, "-m", "ruff", *command]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout


def test_no_file_grows():
    """The counts may only fall: `uv run benchmarks/style.py --tokens tests/tokens.json`."""
    budget = json.loads((ROOT / "tests/tokens.json").read_text(encoding="utf-8"))
    counts = style.token_counts(ROOT)
    assert counts.keys() == budget.keys()
    assert {name: count for name, count in counts.items() if count > budget[name]} == {}


def test_types_are_as_they_say():
    typed = ["ratchet/arena", "ratchet/experiments", "ratchet/git.py", "ratchet/commits.py"]
    argv = [sys.executable, "-m", "ty", "check", *typed]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout
