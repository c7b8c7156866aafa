"""The contract as text: what train.py may call, from the docstrings of the code itself.

An agent reads it beside train.py, instead of the machinery. Nothing is imported for it.
"""

import ast
import re
from pathlib import Path

from ratchet.arena.files import ROOT
from ratchet.referee.source import parse_source

ALL = frozenset()
# {file: the public names in it that train.py may use}
CONTRACT = {
    "prepare.py": {"enter"},
    "ratchet/arena/run.py": {"Run"},
    "ratchet/arena/kernels/attention.py": ALL,
    "ratchet/arena/kernels/copying.py": ALL,
    "ratchet/arena/kernels/loss.py": ALL,
    "ratchet/arena/kernels/mlp.py": ALL,
    "ratchet/arena/kernels/tables.py": ALL,
    "ratchet/arena/hardware/distributed.py": ALL,
    "ratchet/arena/hardware/compiling.py": {"Part"},
    "ratchet/arena/hardware/device.py": {"fastest_dtype"},
    "ratchet/arena/tokenizer.py": {"BOS"},
    "ratchet/arena/files.py": {"exit_on_user_error"},
}
PUBLIC_ATTRIBUTE = re.compile(r" +self\.[a-z]\w* = ")
HEAD = """\
# The contract: what train.py may call

Made from the docstrings of the code. These files are not in this folder, and nobody may edit them.
"""


def write_contract(root: Path = ROOT) -> str:
    """The whole contract, as Markdown. root: the folder that prepare.py is in."""
    sections = [HEAD]
    for name, wanted in CONTRACT.items():
        text = (root / name).read_text(encoding="utf-8")
        sections += [f"## {name}\n", *describe_module(text, wanted)]
    return "\n".join(sections)


def describe_module(text: str, wanted: frozenset | set = ALL) -> list[str]:
    """A paragraph for each public function, class, method; of `wanted` names if there are any."""
    lines = text.splitlines()
    paragraphs = [code_block([line]) for line in lines if line.split(" = ")[0] in wanted]
    for node in public_nodes(parse_source(text)):
        if not wanted or node.name in wanted:
            paragraphs.append(describe_node(node, lines))
            if isinstance(node, ast.ClassDef):
                methods = public_nodes(node)
                paragraphs += [describe_node(each, lines, f"{node.name}.") for each in methods]
    return paragraphs


def public_nodes(tree: ast.Module | ast.ClassDef) -> list[ast.FunctionDef | ast.ClassDef]:
    """Documented functions and classes at its top whose names don't begin with an underscore."""
    nodes = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node for node in nodes if node.name[0] != "_" and ast.get_docstring(node)]


def describe_node(node: ast.FunctionDef | ast.ClassDef, lines: list[str], prefix: str = "") -> str:
    """Name, parameters, docstring; of plain twins and of named tuples the whole source."""
    source = lines[node.lineno - 1 : node.end_lineno]
    is_class = isinstance(node, ast.ClassDef)
    if node.name.startswith("plain_") or is_class and "(NamedTuple)" in source[0]:
        return code_block(source)
    title = f"### {prefix}{node.name}{'' if is_class else signature_of(node)}"
    return "\n".join([title, "", f"{ast.get_docstring(node)}\n", *list_attributes(node, lines)])


def list_attributes(node: ast.FunctionDef | ast.ClassDef, lines: list[str]) -> list[str]:
    """The lines of __init__ that set public ones, with their comments, as a block of code."""
    names = [getattr(each, "name", "") for each in node.body]
    if "__init__" not in names:
        return []
    init = node.body[names.index("__init__")]
    body = lines[init.lineno - 1 : init.end_lineno]
    return [code_block([line.strip() for line in body if PUBLIC_ATTRIBUTE.match(line)])]


def signature_of(node: ast.FunctionDef) -> str:
    """As in its definition, without self: "(x, y) -> float"; without parentheses of a property."""
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if "property" in map(ast.unparse, node.decorator_list):
        return result
    return f"({ast.unparse(node.args).removeprefix('self').removeprefix(', ')}){result}"


def code_block(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```\n"])
