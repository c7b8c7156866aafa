"""Bytecode of the libraries: kept once, never where it can't be, and whatever else the user's
Python does.
"""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from ratchet.referee import bytecode


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A package of this name, installed without bytecode, is all that contestants import."""
    (tmp_path / "pack/inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/part.py"):
        (tmp_path / "pack" / name).write_text("x = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        "ratchet.referee.bytecode.IMPORT",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})" + bytecode.IMPORT,
    )
    monkeypatch.setattr("ratchet.referee.bytecode.MODULES", ["pack.inner.part", "pack.gone"])
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr("ratchet.referee.bytecode.compile_once", bytecode.compile_once.__wrapped__)
    return tmp_path / "pack"


def test_what_contestants_import_is_compiled_once(library, monkeypatch):
    bytecode.compile_libraries()
    kept = {path: path.stat().st_mtime_ns for path in library.rglob("*.pyc")}
    assert len(kept) == 3 and "pack" not in sys.modules
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: 1 / 0)
    bytecode.compile_libraries()


def test_a_module_that_has_changed_is_compiled_anew(library):
    bytecode.compile_libraries()
    (source := library / "inner/part.py").write_text("x = 2\n", encoding="utf-8")
    os.utime(source, (1e9, 1e9))
    assert not bytecode.has_bytecode("pack.inner.part")
    bytecode.compile_libraries()
    assert bytecode.has_bytecode("pack.inner.part")


def test_nothing_is_tried_where_nothing_can_be_kept(library, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: 1 / 0)
    bytecode.compile_libraries()
    monkeypatch.setattr("ratchet.referee.bytecode.MODULES", ["no_such_package"])
    bytecode.compile_libraries()


def test_the_list_names_modules_that_exist():
    assert all(bytecode.source_file(module).exists() for module in bytecode.MODULES)


def test_the_command_line_imports_no_large_library_before_it_needs_one():
    large = "torch numpy scipy plotly matplotlib optuna wandb datasets pandas".split()
    code = f"import sys, ratchet.__main__; print(sys.modules.keys() & {large})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, encoding="utf-8"
    )
    assert done.stdout == "set()\n"
