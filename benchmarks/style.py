"""Counts the style of prepare.py, train.py and ratchet/: tokens, widths, names, functions, files.

    uv run benchmarks/style.py [FOLDER]                     this repository, or another one
    uv run benchmarks/style.py --at 1455ad2 --at HEAD       commits, side by side
    uv run benchmarks/style.py --json style.json            the figures in a file as well
    uv run benchmarks/style.py --offenders [PATH ...]       what to mend, file by file

How things are counted:

- A code line holds code: comments, docstrings and blank lines don't count.
- A token is one of Python's tokenizer, without comments, docstrings and layout (line ends,
  indents). An f-string is one token, as it was before Python 3.12.
- A function is as long as its code lines, from `def` to its end. p90: nine in ten are not longer.
- Imports are import statements at the top level of a module.
- A name counts once, however often it is defined: of a function, method or class, nested ones too,
  but no `__dunder__`. It is one word if it is lower-case without an underscore: `judge` is,
  `_judge`, `check_probes` and `Ledger` are not. "Strictly" counts `_judge` as one word too, and
  classes with one hump (`Ledger`, `GPT`, but not `RowAdam`).
- A binding is a name that is assigned, a loop variable or a parameter other than `self`, each time.
- A function is public if it is not inside another one and neither its name nor its class's begins
  with an underscore. It has type hints if one of its parameters or its result has one.
- A wide line has more than 100 characters, be it code, comment or docstring; in % of all lines.
"""

import argparse
import ast
import io
import json
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100  # characters of a line
LENGTH = 45  # code lines of a function
VAGUE_NAMES = {"found", "facts", "told", "own", "what", "there", "place", "here"}
LAYOUT = {"NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"}  # tokens that are not code
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """One file, read and parsed."""

    path: str  # relative to the repository, with slashes
    text: str
    tree: ast.Module
    tokens: list[tuple[int, int]]  # first and last line of each token of code
    comments: list[str]

    def code_lines(self) -> set[int]:
        """Numbers of the lines that hold code."""
        return {line for first, last in self.tokens for line in range(first, last + 1)}

    def wide_lines(self) -> list[int]:
        return [i for i, line in enumerate(self.text.splitlines(), 1) if len(line) > WIDTH]


class Definition(NamedTuple):
    """A function, method or class."""

    path: str
    line: int
    name: str
    size: int  # code lines
    is_function: bool
    is_public: bool
    has_hints: bool


def docstring_lines(tree: ast.Module) -> set[int]:
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | FUNCTIONS)]
    documented = [n.body[0] for n in nodes if ast.get_docstring(n, clean=False) is not None]
    return {line for doc in documented for line in range(doc.lineno, doc.end_lineno + 1)}


def parse_module(path: str, text: str) -> Module:
    """Example: "x = 1  # why" has tokens [(1, 1), (1, 1), (1, 1)] and comments ["# why"]."""
    tree = ast.parse(text, path)
    docstrings, tokens, comments, depth = docstring_lines(tree), [], [], 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind, first, last = tokenize.tok_name[token.type], token.start[0], token.end[0]
        if kind.endswith("STRING_END"):  # of an f-string, since Python 3.12
            depth -= 1
            if depth == 0:
                tokens[-1] = (tokens[-1][0], last)
        elif kind == "COMMENT":
            comments.append(token.string)
        elif depth == 0 and kind not in LAYOUT and not (kind == "STRING" and first in docstrings):
            tokens.append((first, last))
        depth += kind.endswith("STRING_START")
    return Module(path, text, tree, tokens, comments)


def read_modules(root: Path) -> list[Module]:
    """prepare.py, train.py and ratchet/**/*.py, those that exist. Raises ValueError without any."""
    paths = [root / "prepare.py", root / "train.py", *sorted((root / "ratchet").rglob("*.py"))]
    modules = [
        parse_module(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
        for path in paths
        if path.exists()
    ]
    if not modules:
        raise ValueError(
            f"{root} holds neither prepare.py nor train.py nor ratchet/: name a repository"
        )
    return modules


def token_counts(root: Path) -> dict[str, int]:
    """{path: tokens of code}, for example {"prepare.py": 3804, "ratchet/__init__.py": 0, ...}."""
    return {module.path: len(module.tokens) for module in read_modules(root)}


def is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def is_one_word(name: str) -> bool:
    return name.islower() and "_" not in name


def is_one_word_strictly(name: str) -> bool:
    bare = name.strip("_")
    return "_" not in bare and not re.search("[a-z0-9][A-Z]|.[A-Z][a-z]", bare)


def has_hints(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    parameters = [node for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    return function.returns is not None or any(p.annotation for p in parameters)


def find_definitions(module: Module) -> list[Definition]:
    """In the order of the file."""
    code = module.code_lines()

    def walk(node: ast.AST, in_public: bool) -> Iterator[Definition]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.ClassDef | FUNCTIONS):
                yield from walk(child, in_public)
                continue
            is_function = isinstance(child, FUNCTIONS)
            is_public = in_public and (not child.name.startswith("_") or is_dunder(child.name))
            size = len(code & {*range(child.lineno, child.end_lineno + 1)})
            hints = is_function and has_hints(child)
            line, name = child.lineno, child.name
            yield Definition(module.path, line, name, size, is_function, is_public, hints)
            yield from walk(child, is_public and not is_function)

    return [*walk(module.tree, True)]


def find_bindings(module: Module) -> list[tuple[int, str]]:
    """(line, name) of every variable bound, parameters included."""
    nodes = [*ast.walk(module.tree)]
    names = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    parameters = [n for n in nodes if isinstance(n, ast.arg) and n.arg != "self"]
    return sorted([(n.lineno, n.id) for n in names] + [(n.lineno, n.arg) for n in parameters])


def modules_of_names(definitions: list[Definition]) -> dict[str, set[str]]:
    """{name: paths of the modules that define it}."""
    paths = defaultdict(set)
    for definition in definitions:
        if not is_dunder(definition.name):
            paths[definition.name].add(definition.path)
    return paths


def percent_of(part: int, whole: int) -> float:
    return round(100 * part / max(whole, 1), 1)


def measure_lines(modules: list[Module]) -> dict[str, float]:
    code = sum(len(module.code_lines()) for module in modules)
    comments = [comment for module in modules for comment in module.comments]
    lines = sum(len(module.text.splitlines()) for module in modules)
    imports = [
        sum(isinstance(node, ast.Import | ast.ImportFrom) for node in module.tree.body)
        for module in modules
    ]
    return {
        "code lines": code,
        "tokens per code line": round(sum(len(m.tokens) for m in modules) / max(code, 1), 1),
        "lines over 100 wide, %": percent_of(sum(len(m.wide_lines()) for m in modules), lines),
        "comments per 100 code lines": percent_of(len(comments), code),
        "`# fmt: skip`": sum(comment.startswith("# fmt: skip") for comment in comments),
        "imports of a file, mean": round(statistics.mean(imports), 1),
        "imports of a file, most": max(imports),
    }


def measure_functions(definitions: list[Definition]) -> dict[str, float]:
    functions = [definition for definition in definitions if definition.is_function]
    sizes = sorted(function.size for function in functions) or [0]
    public = [function for function in functions if function.is_public]
    return {
        "function length, median": statistics.median(sizes),
        "function length, p90": sizes[int(0.9 * len(sizes))],
        "function length, longest": sizes[-1],
        "functions with type hints, %": percent_of(
            sum(f.has_hints for f in functions), len(functions)
        ),
        "public functions with type hints, %": percent_of(
            sum(f.has_hints for f in public), len(public)
        ),
    }


def measure_names(modules: list[Module], definitions: list[Definition]) -> dict[str, float]:
    paths = modules_of_names(definitions)
    bindings = [name for module in modules for _, name in find_bindings(module)]
    vague = sum(name in VAGUE_NAMES for name in bindings)
    return {
        "names defined": len(paths),
        "names of one word": sum(map(is_one_word, paths)),
        "names of one word, %": percent_of(sum(map(is_one_word, paths)), len(paths)),
        "names of one word, strictly, %": percent_of(
            sum(map(is_one_word_strictly, paths)), len(paths)
        ),
        "names in two or more modules": sum(
            len(modules_of_it) > 1 for modules_of_it in paths.values()
        ),
        "names in more than two modules": sum(
            len(modules_of_it) > 2 for modules_of_it in paths.values()
        ),
        "bindings with a vague name": vague,
        "bindings with a vague name, %": percent_of(vague, len(bindings)),
    }


def measure_files(root: Path, modules: list[Module]) -> dict[str, float]:
    folders = Counter(module.path.rpartition("/")[0] for module in modules)
    folders.pop("", None)  # prepare.py and train.py
    lines = {module.path: len(module.text.splitlines()) for module in modules}
    readme = root / "README.md"
    words = readme.read_text(encoding="utf-8").split() if readme.exists() else []
    return {
        ".py files directly in ratchet/": folders["ratchet"],
        ".py files in a package, most": max(folders.values(), default=0),
        "lines of prepare.py": lines.get("prepare.py", 0),
        "lines of train.py": lines.get("train.py", 0),
        "words of README.md": len(words),
    }


def measure_tree(root: Path) -> dict[str, float | dict[str, int]]:
    """All figures of the tree at root, by their name; "tokens of" holds those of each file."""
    modules = read_modules(root)
    definitions = [definition for module in modules for definition in find_definitions(module)]
    return {
        **measure_lines(modules),
        **measure_functions(definitions),
        **measure_names(modules, definitions),
        **measure_files(root, modules),
        "tokens of": token_counts(root),
    }


def find_offenders(modules: list[Module]) -> dict[str, list[tuple[str, int, str]]]:
    """{what is wrong: [(path, line, name), ...]} in the order of modules."""
    definitions = [definition for module in modules for definition in find_definitions(module)]
    named = [definition for definition in definitions if not is_dunder(definition.name)]
    paths = modules_of_names(definitions)
    return {
        "names of one word": [(d.path, d.line, d.name) for d in named if is_one_word(d.name)],
        "names in more than two modules": [
            (d.path, d.line, f"{d.name} (in {len(paths[d.name])} modules)")
            for d in named
            if len(paths[d.name]) > 2
        ],
        "bindings with a vague name": [
            (module.path, line, name)
            for module in modules
            for line, name in find_bindings(module)
            if name in VAGUE_NAMES
        ],
        f"lines over {WIDTH} wide": [
            (module.path, line, "") for module in modules for line in module.wide_lines()
        ],
        f"functions longer than {LENGTH} code lines": [
            (d.path, d.line, f"{d.name} ({d.size} lines)")
            for d in definitions
            if d.is_function and d.size > LENGTH
        ],
        "public functions without type hints": [
            (d.path, d.line, d.name)
            for d in definitions
            if d.is_function and d.is_public and not d.has_hints
        ],
    }


def print_offenders(root: Path, paths: list[str]) -> None:
    """Those in the files or folders of paths, relative to root; in all files if paths is empty."""
    modules = read_modules(root)
    folders = [f"{Path(path).as_posix()}/" for path in paths] or [""]
    chosen = {m.path for m in modules if any(f"{m.path}/".startswith(f) for f in folders)}
    if not chosen:
        raise ValueError(
            f"no file is measured in {', '.join(paths)}: name a file or folder of ratchet/"
        )
    for heading, offenders in find_offenders(modules).items():
        lines = [
            f"{path}:{line} {name}".rstrip() for path, line, name in offenders if path in chosen
        ]
        print(f"{heading}: {len(lines)}", *lines, "", sep="\n")


def print_figures(figures: dict[str, dict[str, float | dict[str, int]]]) -> None:
    """A table with a column for each tree: tokens of each file, then all other figures."""
    files = sorted({path for column in figures.values() for path in column["tokens of"]})
    names = [name for name in next(iter(figures.values())) if name != "tokens of"]
    rows = [
        [f"tokens of {p}", *(c["tokens of"].get(p, "") for c in figures.values())] for p in files
    ]
    table = Table("", *figures, box=None)
    for row in rows + [[name, *(c[name] for c in figures.values())] for name in names]:
        table.add_row(*map(str, row))
    Console().print(table)


@contextmanager
def checked_out(commit: str, repository: Path) -> Iterator[Path]:
    """A temporary folder with the files of a commit. Raises ValueError if git doesn't know it."""
    command = ["git", "archive", "--format=tar", commit]
    archive = subprocess.run(command, cwd=repository, capture_output=True)
    if archive.returncode:
        reason = archive.stderr.decode("utf-8", "replace").strip()
        raise ValueError(f"git cannot read commit {commit}: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def parse_arguments() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="a repository")
    parser.add_argument("--at", action="append", metavar="COMMIT", help="instead of its files now")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--tokens", type=Path, metavar="FILE", help="write the tokens of each file")
    parser.add_argument("--offenders", nargs="*", metavar="PATH", help="list what to mend")
    return parser.parse_args()


def print_style(arguments: argparse.Namespace) -> None:
    if arguments.tokens:
        counts = json.dumps(token_counts(arguments.folder), indent=1)
        arguments.tokens.write_text(counts + "\n", encoding="utf-8")
        return
    with ExitStack() as stack:
        trees = {"now": arguments.folder}
        if arguments.at:
            trees = {c: stack.enter_context(checked_out(c, arguments.folder)) for c in arguments.at}
        if arguments.offenders is not None:
            for root in trees.values():
                print_offenders(root, arguments.offenders)
            return
        figures = {title: measure_tree(root) for title, root in trees.items()}
    print_figures(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    try:
        print_style(parse_arguments())
    except (OSError, ValueError, SyntaxError) as error:
        print(f"style.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
