"""A source: one train.py, as it is compared with others."""

import ast
import io
import threading
import tokenize
from typing import Any, NamedTuple

from ratchet.arena.files import sha256

PARSING = threading.Lock()
TOKEN_CHARACTERS = 20  # a longer token counts as several: code could hide in a string


class Source(NamedTuple):
    """A train.py: what the user called it, its commit ("" for a file), its text."""

    name: str
    commit: str
    text: bytes

    def describe_source(self) -> dict[str, Any]:
        """What the ledger says of it: {"name", "commit", "file": hash, "source", "size"}."""
        names = {"name": self.name, "commit": self.commit, "file": sha256(self.text)}
        return names | fingerprint(self.text)


def parse_source(text: bytes | str) -> ast.Module:
    """ast.parse(), in one thread at a time: CPython counts the depth of all of them together.

    It raises SystemError else, now and then (python/cpython issue 106905). Raises SyntaxError,
    ValueError, RecursionError, MemoryError.
    """
    with PARSING:
        return ast.parse(text)


def fingerprint(text: bytes) -> dict[str, Any]:
    """{"source": hash of the syntax tree without docstrings, "size": its tokens}; of any bytes.

    Equal for texts that differ in layout or comments only.
    Example: {"source": "9f86d081884c7d65", "size": 3804}
    """
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    try:
        tree = parse_source(text)
        for node in ast.walk(tree):
            if isinstance(node, documented) and ast.get_docstring(node) is not None:
                node.body[0] = ast.Pass()
        plain = ast.unparse(tree).encode()
        tokens = tokenize.tokenize(io.BytesIO(plain).readline)
        size = sum(1 + len(token.string) // TOKEN_CHARACTERS for token in tokens)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        plain, size = text, len(text)
    return {"source": sha256(plain)[:16], "size": size}
