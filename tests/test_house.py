"""The shape of the house: small files, small functions, no import where none belongs."""

import ast
import io
import re
import statistics
import subprocess
import sys
import tokenize

import pytest
from conftest import ROOT

# lines of code, without comments, docstrings and blank lines
BUDGETS = {f"ratchet/{path.name}": 300 for path in (ROOT / "ratchet").glob("*.py")}
BUDGETS |= {
    "prepare.py": 1321,
    "train.py": 558,
    "ratchet/__main__.py": 303,
    "ratchet/referee.py": 306,
    "ratchet/sandbox.py": 310,
}
del BUDGETS["ratchet/__init__.py"]


def docstring_lines(tree):
    nodes = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
    firsts = (node.body[0] for node in nodes if ast.get_docstring(node, clean=False) is not None)
    return {line for first in firsts for line in range(first.lineno, first.end_lineno + 1)}


def code_lines(source):
    """Numbers of the lines that hold code."""
    nothing = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for t in tokens if t.type not in nothing for line in range(t.start[0], t.end[0] + 1)}
    return lines - docstring_lines(ast.parse(source))


def test_lines_of_code_are_counted_as_they_should():
    source = '"""Doc.\n\nMore."""\n\n# comment\nx = """a\nb"""\n\n\n'
    source += 'def f():\n    "Doc."\n    return (\n        x)  # why\n'
    assert sorted(code_lines(source)) == [6, 7, 10, 12, 13]


@pytest.mark.parametrize("name", BUDGETS)
def test_a_file_stays_within_its_budget(name):
    assert len(code_lines((ROOT / name).read_text(encoding="utf-8"))) <= BUDGETS[name]


@pytest.mark.parametrize("name", BUDGETS)
def test_functions_are_short_and_lines_are_not_wide(name):
    source = (ROOT / name).read_text(encoding="utf-8")
    code, tree = code_lines(source), ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    sizes = sorted(len(code & {*range(f.lineno, f.end_lineno + 1)}) for f in functions)
    assert statistics.median(sizes) <= 10 and sizes[int(0.9 * len(sizes))] <= 30 and sizes[-1] <= 60
    assert max(map(len, source.splitlines())) <= 110


def test_the_linter_has_nothing_to_say():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check"], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout


def test_dependencies_are_a_line():
    sources = {name: (ROOT / name).read_text(encoding="utf-8") for name in BUDGETS}
    imports = {
        name: re.findall(r"^\s*(?:import|from) (\w+)", source, re.M) for name, source in sources.items()
    }
    assert (
        "train" not in imports["prepare.py"] and "ratchet" not in imports["prepare.py"] + imports["train.py"]
    )
    assert not {"pickle", "requests", "urllib"} & {*imports["prepare.py"], *imports["train.py"]}


def without_encoding(tree):
    """Lines of a module on which text is read or written as the locale wants it."""
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        name, options = getattr(node.func, "attr", ""), {k.arg: k.value for k in node.keywords}
        as_text = getattr(options.get("text"), "value", None) is True  # of a process
        reads = name == "read_text" or (name == "write_text" and len(node.args) < 2) or as_text
        if reads and "encoding" not in options:
            yield node.lineno


def test_what_the_linter_misses_of_text_without_an_encoding_is_found():
    bad = 'path.read_text()\npath.write_text("")\nrun(x, text=True)\n'
    good = 'path.read_text(encoding="utf-8")\npath.write_text("", "utf-8")\nrun(x, encoding="utf-8")\n'
    assert [*without_encoding(ast.parse(bad + good))] == [1, 2, 3]


@pytest.mark.parametrize("name", BUDGETS)
def test_text_is_utf8_whatever_the_locale(name):
    assert not [*without_encoding(ast.parse((ROOT / name).read_text(encoding="utf-8")))]
