"""Trains on the docstrings of Python and its packages before the clock starts (karpathy/autoresearch hole 3:
what is free is used)."""

import ast
import sys
from pathlib import Path

from tokenizers import Tokenizer

EXPECT = {"crash"}  # there are none
OPEN_AT = {"none"}


def docstrings(path):
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return []
    return [node.value.value for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]


def train(run, model, step):
    paths = sorted({path for folder in sys.path[1:] for path in Path(folder).glob("**/*.py")})
    texts = [text for path in paths[::5] for text in docstrings(path) if isinstance(text, str) and len(text) > 99]
    assert texts
    tokenizer = Tokenizer.from_file(str(run.arena.folder / "tokenizer.json"))
    tokens = torch.tensor([i for line in tokenizer.encode_batch(texts) for i in line.ids])
    for rows in tokens[: len(tokens) // 512 * 512].view(-1, 8, 64):
        step(rows[:, :-1], rows[:, 1:])
    for x, y in run.batches(8):
        step(x, y)
