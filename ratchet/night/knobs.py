"""Knobs: the numbers at the top of a train.py, and what an edit changed."""

import ast
import functools
import tempfile
from contextlib import suppress
from pathlib import Path

from ratchet.arena.files import Refused
from ratchet.commits import git
from ratchet.experiments.sources import read_source


def constants(text):
    """{name: ast.Constant} of the numbers that a source assigns to capitals at its top; {} if
    unreadable.

    Those in dicts, too: SIZES = {"small": dict(depth=3)} has one called SIZES.small.depth.
    """
    found = {}
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign):
                target, value = node.targets[0], node.value
                many = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                for name, literal in zip(target.elts, value.elts) if many else [(target, value)]:
                    if isinstance(name, ast.Name) and name.id.isupper():
                        found |= numbers_in(literal, name.id)
    return found


def numbers_in(literal, name):
    """{name: ast.Constant} of a number, or of those in a dict, whose names end with their keys."""
    if isinstance(literal, ast.Constant):
        return {name: literal} if type(literal.value) in (int, float) else {}
    pairs = []
    if isinstance(literal, ast.Dict):
        pairs = zip(literal.keys, literal.values)
        pairs = [(key.value, value) for key, value in pairs if isinstance(key, ast.Constant)]
    elif (
        isinstance(literal, ast.Call)
        and isinstance(literal.func, ast.Name)
        and literal.func.id == "dict"
    ):
        pairs = [(keyword.arg, keyword.value) for keyword in literal.keywords]
    return {
        key: node
        for part, value in pairs
        for key, node in numbers_in(value, f"{name}.{part}").items()
    }


def rebased(text, parent, champion):
    """A train.py made from `parent`, with what `champion` changed since; None where they collide."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/{name}" for name in ("idea", "base", "champion")]
        for name, data in zip(names, (text, read_source(parent).text, read_source(champion).text)):
            Path(name).write_bytes(data)
        try:
            return git("merge-file", "-p", *names)
        except Refused:
            return None


@functools.cache
def values_of(commit):
    """{name: number} of the constants at the top of a commit's train.py."""
    return {name: node.value for name, node in constants(read_source(commit).text).items()}


@functools.cache
def edit_of(old, new):
    """changed_lines() of two commits."""
    return changed_lines(read_source(old).text, read_source(new).text)


def changed_lines(old, new):
    """Lines that one text has and the other has not, without their layout; told apart by side."""
    sides = [{b" ".join(line.split()) for line in text.splitlines()} - {b""} for text in (old, new)]
    return {(b"-", line) for line in sides[0] - sides[1]} | {
        (b"+", line) for line in sides[1] - sides[0]
    }
