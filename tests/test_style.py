"""The counts of style: short sources whose figures are known."""

import subprocess
import sys

import pytest
import style
from conftest import ROOT

PREPARE = '''"""Doc of the module.

Two lines."""

import math  # why
from os import path


class Ledger:
    """Doc."""

    def __init__(self, rows: int):
        self.rows = rows

    def close(self):
        """Doc."""
        return (
            f"{self.rows} {path} 'a'"
        )
'''
TRAIN = """def close():
    found = [there for there in range(2)]

    def inner(own) -> int:
        return own
    return found


def _count_rows(first, *, second): pass  # fmt: skip
"""
KERNELS = "def close() -> None:\n    pass\n\n\nclass RowAdam: ...\n# " + 99 * "x" + "\n"


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "ratchet" / "arena").mkdir(parents=True)
    (tmp_path / "ratchet" / "__init__.py").write_text('"""Doc."""\n', encoding="utf-8")
    (tmp_path / "ratchet" / "arena" / "kernels.py").write_text(KERNELS, encoding="utf-8")
    (tmp_path / "prepare.py").write_text(PREPARE, encoding="utf-8")
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "README.md").write_text("# A few words\n\nof it", encoding="utf-8")
    return tmp_path


def test_tokens_are_those_of_code():
    assert style.parse_module("a.py", PREPARE).code_lines() == {5, 6, 9, 12, 13, 15, 17, 18, 19}
    sources = {
        "x = 1  # why": 3,
        '"""Doc."""\n\nx = """a\nb"""\n': 3,
        'def f(): "Doc."\n': 5,  # def f ( ) :
        "x = f'{a + 1:>{width}} b'": 3,  # an f-string is one token in every version of Python
    }
    for source, count in sources.items():
        assert len(style.parse_module("a.py", source).tokens) == count, source


def test_tokens_are_counted_by_file(tree):
    assert style.token_counts(tree) == {
        "prepare.py": 2 + 4 + 3 + 10 + 5 + 6 + 2 + 1 + 1,
        "train.py": 5 + 12 + 8 + 2 + 2 + 11,
        "ratchet/__init__.py": 0,
        "ratchet/arena/kernels.py": 7 + 1 + 4,
    }


def test_figures_of_a_small_tree(tree):
    figures = style.measure_tree(tree)
    assert figures.pop("tokens of") == style.token_counts(tree)
    assert figures == {
        "code lines": 9 + 6 + 3,
        "tokens per code line": 4.8,  # 86 / 18
        "lines over 100 wide, %": 2.9,  # 1 of 35
        "comments per 100 code lines": 16.7,  # 3 of 18
        "`# fmt: skip`": 1,
        "imports of a file, mean": 0.5,
        "imports of a file, most": 2,
        "function length, median": 2,  # 1 2 2 2 4 5
        "function length, p90": 5,
        "function length, longest": 5,
        "functions with type hints, %": 50.0,  # __init__, inner and the close of kernels.py, of 6
        "public functions with type hints, %": 50.0,  # __init__ and that close, of 4
        "names defined": 5,  # Ledger close inner _count_rows RowAdam
        "names of one word": 2,  # close inner
        "names of one word, %": 40.0,
        "names of one word, strictly, %": 60.0,  # and Ledger
        "names in two or more modules": 1,
        "names in more than two modules": 1,  # close
        "bindings with a vague name": 3,  # found there own
        "bindings with a vague name, %": 50.0,  # and rows first second
        ".py files directly in ratchet/": 1,
        ".py files in a package, most": 1,
        "lines of prepare.py": 19,
        "lines of train.py": 9,
        "words of README.md": 6,
    }


@pytest.mark.parametrize(
    ("name", "loosely", "strictly"),
    [
        ("judge", True, True),
        ("sha256", True, True),
        ("_judge", False, True),
        ("Ledger", False, True),
        ("_Ledger", False, True),
        ("GPT", False, True),
        ("check_probes", False, False),
        ("RowAdam", False, False),
        ("NGrams", False, False),
        ("KVCache", False, False),
    ],
)
def test_what_one_word_is(name, loosely, strictly):
    assert (style.is_one_word(name), style.is_one_word_strictly(name)) == (loosely, strictly)


def test_offenders_are_named_with_their_lines(tree, monkeypatch):
    monkeypatch.setattr(style, "LENGTH", 4)
    assert [*style.find_offenders(style.read_modules(tree)).values()] == [
        [
            ("prepare.py", 15, "close"),
            ("train.py", 1, "close"),
            ("train.py", 4, "inner"),
            ("ratchet/arena/kernels.py", 1, "close"),
        ],
        [
            ("prepare.py", 15, "close (in 3 modules)"),
            ("train.py", 1, "close (in 3 modules)"),
            ("ratchet/arena/kernels.py", 1, "close (in 3 modules)"),
        ],
        [("train.py", 2, "found"), ("train.py", 2, "there"), ("train.py", 4, "own")],
        [("ratchet/arena/kernels.py", 6, "")],
        [("train.py", 1, "close (5 lines)")],
        [("prepare.py", 15, "close"), ("train.py", 1, "close")],
    ]


def test_offenders_of_a_folder_alone(tree, capsys):
    style.print_offenders(tree, ["./ratchet/arena/"])
    lines = [line for line in capsys.readouterr().out.splitlines() if ".py:" in line]
    assert lines == [
        "ratchet/arena/kernels.py:1 close",
        "ratchet/arena/kernels.py:1 close (in 3 modules)",
        "ratchet/arena/kernels.py:6",
    ]
    with pytest.raises(ValueError, match="no file is measured in ratchet/aren"):
        style.print_offenders(tree, ["ratchet/aren"])


def test_a_commit_is_measured_as_it_was(tree):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "First"]):
        subprocess.run([*git, *command], cwd=tree, check=True)
    figures = style.measure_tree(tree)
    (tree / "train.py").unlink()
    with style.checked_out("HEAD", tree) as folder:
        assert style.measure_tree(folder) == figures
    with pytest.raises(ValueError, match="git cannot read commit abc"):
        with style.checked_out("abc", tree):
            pass


def test_the_command_prints_and_writes_its_figures(tree, tmp_path):
    program, path = ROOT / "benchmarks" / "style.py", tmp_path / "style.json"
    options = dict(capture_output=True, encoding="utf-8")
    done = subprocess.run([sys.executable, program, tree, "--json", path], **options)
    assert done.returncode == 0 and "tokens of train.py" in done.stdout
    assert '"words of README.md": 6' in path.read_text(encoding="utf-8")
    done = subprocess.run([sys.executable, program, tree / "ratchet" / "arena"], **options)
    assert done.returncode == 2 and "neither prepare.py nor train.py" in done.stderr
