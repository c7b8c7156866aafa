"""Takes the prose out of source files: they do what they did, and there is no English to train on.

Python keeps its lines: tracebacks, and what reads sources (Triton, TorchScript), work as before.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from typing import Any

# eight words in a row are a text, not names
TEXT = re.compile(r"(?:[A-Za-z][\w'-]*[,.;:)]*\s+\(?){7}")
# of functions and variables that hold or take docs: add_docstr(), add_newdoc(), common_args
DOCS = re.compile(
    r"(^|_)(docs?|docstr|docstrings?|newdoc|newdocs|docdict|notes|usage|help|about)(_|$)"
)
DOC = re.compile(r"_doc(__|s|string)?\b")  # in assertions, which don't hold then
PARSED = "parse_kwargs"  # of torch/_torch_docs.py, whose argument is looked up by its words
TEXTLESS = ast.Name, ast.expr_context, ast.operator, ast.cmpop, ast.alias
DOC_MODULE = re.compile(r"(docs?|newdocs\w*|docstrings?|registry|deprecations?|validations)\.py$")
PYTHON_TOKEN = re.compile(
    r'("""(?:\\.|[^\\])*?"""'  # strings, which may look like comments
    r"|'''(?:\\.|[^\\])*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])*')"
    r"|[ \t\f]*#[^\n]*",
    re.DOTALL,
)
C_TOKEN = re.compile(
    r'R"([^()\\\s]{0,16})\(.*?\)\1"'  # strings, which may look like comments
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])*'"
    r"|(//(?:\\\n|[^\n])*|/\*.*?\*/)",
    re.DOTALL,
)
HEADERS = re.compile(rb"(Metadata-Version|Name|Version|Requires-Dist|Provides-Extra): .*")

NOTHING = b"(...)"  # as a block may consist of that alone
BLANK = b'("----------------")'  # PyTorch takes no shorter one: it keeps a pointer to it
# first line, column; last line, column: from 1, in bytes from 0; what takes the place of the text
Span = tuple[int, int, int, int, bytes]


def strip_python(source: bytes, name: str) -> bytes:
    """A module in UTF-8 without comments, docstrings and docs that are arguments, line for line.

    There is no __doc__ then, as under `python -OO`, which libraries are used to; docs that are
    values become BLANK. Raises SyntaxError, ValueError: this is no Python.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    text = re.sub("\r\n?", "\n", source.decode(encoding))
    tree = ast.parse(text)
    lines = [line.encode() for line in cut_comments(text)]
    spans = sorted(find_texts(tree, bool(DOC_MODULE.search(name))), reverse=True)
    for first, begin, last, end, blank in spans:
        head, rest = lines[first - 1][:begin], lines[last - 1][end:]
        blank = blank[:-1] + b"\n" * (last - first) + blank[-1:]
        lines[first - 1 : last] = (head + blank + rest).split(b"\n")
    return b"\n".join(lines)


def cut_comments(text: str) -> list[str]:
    """The lines of a module without its comments, which always end a line.

    A quote of its own kind in an f-string (PEP 701) may be taken for its end; what is cut wrongly
    then is no Python any more, and stays as it was: mirror.compiled().
    """
    return PYTHON_TOKEN.sub(r"\1", text).split("\n")


def find_texts(tree: ast.AST, in_docs: bool) -> Iterator[Span]:
    """Where strings stand that are only to be read; in_docs: so is each long one of this module."""
    todo = [(child, in_docs) for child in ast.iter_child_nodes(tree)]
    if ast.get_docstring(tree) is not None:  # nothing else may come before `from __future__`
        yield span_of(todo.pop(0)[0].value, b"")
    while todo:
        node, is_doc = todo.pop()
        if isinstance(node, ast.JoinedStr):  # where its parts stand is not known
            continue
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == PARSED:
            continue
        if isinstance(node, ast.Expr) and is_text(node.value):
            yield span_of(node.value, NOTHING)
        elif isinstance(node, ast.Assert) and DOC.search(ast.unparse(node.test)):
            yield span_of(node, NOTHING)
        elif is_doc and is_long_text(node.left if is_formatting(node) else node):
            yield span_of(node, BLANK)
        else:
            is_doc = is_doc or takes_docs(node)
            todo += [(child, is_doc) for child in children_of(node)]


def children_of(node: ast.AST) -> Iterator[ast.AST]:
    """As ast.iter_child_nodes(), without names, operators and the like: no string is below them."""
    for name in node._fields:
        value = getattr(node, name, None)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, TEXTLESS):
                yield child


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_long_text(node: ast.AST) -> bool:
    return is_text(node) and bool(TEXT.search(node.value))


def is_formatting(node: ast.AST) -> bool:
    """Whether it is "..." % values: without its text there is no place for the values."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod)


def span_of(node: Any, blank: bytes) -> Span:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, blank


def takes_docs(node: Any) -> bool:
    """Whether all strings below a node are docs: a call of add_docstr(), a value of common_doc."""
    if isinstance(node, ast.Call):
        names = [node.func]
    elif isinstance(node, ast.Assign):
        names = node.targets
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)):
        names = [node.target]
    elif isinstance(node, ast.keyword):
        return bool(DOCS.search(node.arg or ""))
    else:
        return False
    words = [getattr(name, "attr", None) or getattr(name, "id", "") for name in names]
    return any(DOCS.search(word.lower()) for word in words)


def strip_c(source: bytes) -> bytes:
    """A source or header of C, C++ or CUDA without comments and messages of #error."""
    text = source.decode(errors="surrogateescape")
    text = C_TOKEN.sub(lambda match: " " if match[2] else match[0], text)
    text = re.sub(r"(#[ \t]*(?:error|warning))\b(?:\\\n|[^\n])*", r"\1", text)
    return re.sub(r"[ \t]*\n\s*\n+", "\n", text).encode(errors="surrogateescape")


def strip_json(source: bytes) -> bytes:
    """JSON whose texts are empty. Raises ValueError."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(each) for key, each in value.items()}
        if isinstance(value, list):
            return [strip(each) for each in value]
        return "" if isinstance(value, str) and TEXT.search(value) else value

    return json.dumps(strip(json.loads(source))).encode()


def strip_template(source: bytes) -> bytes:
    """A template of Python code without lines that are comments."""
    return re.sub(rb"(?m)^[ \t]*#[^\n]*$", b"", source)


def strip_metadata(source: bytes) -> bytes:
    """Of a package's METADATA what programs ask for."""
    return b"\n".join(match[0] for match in HEADERS.finditer(source)) + b"\n"
