"""A source: one train.py, as it is compared with others."""

import ast
import io
import tokenize
from typing import NamedTuple

from ratchet.arena.files import sha256

SOURCE_BYTES = 2**16  # a larger train.py has data in it


class Source(NamedTuple):
    """A train.py: what the user called it, its commit ("" for a file), its text."""

    name: str
    commit: str
    text: bytes

    def facts(self):
        """What the ledger says of it. `source` is equal for texts that differ in layout and
        comments only.
        """
        return {"name": self.name, "commit": self.commit, "file": sha256(self.text)} | shape(
            self.text
        )


def shape(text):
    """{"source": hash of the syntax tree without docstrings, "size": its tokens}; of any bytes."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    try:
        for node in ast.walk(tree := ast.parse(text)):
            if isinstance(node, documented) and ast.get_docstring(node) is not None:
                node.body[0] = ast.Pass()
        plain = ast.unparse(tree).encode()
        # a long token counts as many: code could hide in a string
        size = sum(
            1 + len(token.string) // 20 for token in tokenize.tokenize(io.BytesIO(plain).readline)
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        plain, size = text, len(text)
    return {"source": sha256(plain)[:16], "size": size}
