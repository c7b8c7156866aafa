"""The contract as text: what train.py may call, from the docstrings of the code itself.

An agent reads it beside train.py, instead of the machinery. Nothing is imported for it.
"""

import ast
from pathlib import Path

from ratchet.arena.files import ROOT

ALL = frozenset()
# {file: the public names in it that train.py may use}
CONTRACT = {
    "prepare.py": {"enter"},
    "ratchet/arena/run.py": {"Run"},
    "ratchet/arena/kernels.py": ALL,
    "ratchet/arena/hardware/distributed.py": ALL,
    "ratchet/arena/hardware/compiling.py": {"Part"},
    "ratchet/arena/hardware/device.py": {"fastest_dtype"},
}
HEAD = """\
# The contract: what train.py may call

Made from the docstrings of the code. These files are not in this folder, and nobody may edit them.
"""


def write_contract(root: Path = ROOT) -> str:
    """The whole contract, as Markdown. root: the folder that prepare.py is in."""
    sections = [HEAD]
    for name, wanted in CONTRACT.items():
        if (root / name).exists():
            text = (root / name).read_text(encoding="utf-8")
            if paragraphs := describe_module(text, wanted):
                sections += [f"## {name}\n", *paragraphs]
    return "\n".join(sections)


def describe_module(text: str, wanted: frozenset | set = ALL) -> list[str]:
    """A paragraph for each public function, class, method; of `wanted` ones if there are any."""
    paragraphs = []
    for node in public_nodes(ast.parse(text)):
        if not wanted or node.name in wanted:
            paragraphs.append(describe_node(node, text))
            if isinstance(node, ast.ClassDef):
                paragraphs += [describe_node(n, text, f"{node.name}.") for n in public_nodes(node)]
    return paragraphs


def public_nodes(tree: ast.Module | ast.ClassDef) -> list[ast.FunctionDef | ast.ClassDef]:
    """Documented functions and classes at its top whose names don't begin with an underscore."""
    nodes = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node for node in nodes if node.name[0] != "_" and ast.get_docstring(node)]


def describe_node(node: ast.FunctionDef | ast.ClassDef, text: str, prefix: str = "") -> str:
    """Name, parameters, docstring; of plain twins and of named tuples the whole source."""
    if node.name.startswith("plain_") or is_named_tuple(node):
        lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
        return "\n".join(["```python", *lines, "```\n"])
    return f"### {prefix}{node.name}{parameters_of(node)}\n\n{ast.get_docstring(node)}\n"


def is_named_tuple(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return isinstance(node, ast.ClassDef) and "NamedTuple" in map(ast.unparse, node.bases)


def parameters_of(node: ast.FunctionDef | ast.ClassDef) -> str:
    """As in its definition, without self: "(step, rows, calls=3)"; "" of a class or property."""
    if isinstance(node, ast.ClassDef) or "property" in map(ast.unparse, node.decorator_list):
        return ""
    return f"({ast.unparse(node.args).removeprefix('self').removeprefix(', ')})"
