"""Knobs: the numbers at the top of a train.py."""

import ast
import functools
from contextlib import suppress

from ratchet.experiments.sources import read_source
from ratchet.referee.source import parse_source


def find_constants(text: bytes) -> dict[str, ast.Constant]:
    """The numbers that a source assigns to capitals at its top; {} for one that can't be parsed.

    Those in dicts, too: SIZES = {"small": dict(depth=3)} has one called SIZES.small.depth.
    """
    constants = {}
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in parse_source(text).body:
            if isinstance(node, ast.Assign):
                for name, literal in assigned_pairs(node):
                    if isinstance(name, ast.Name) and name.id.isupper():
                        constants |= numbers_in(literal, name.id)
    return constants


def assigned_pairs(node: ast.Assign) -> list[tuple[ast.expr, ast.expr]]:
    """[(name, value)] of an assignment: `A, B = 1, 2` has two."""
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return [*zip(target.elts, value.elts)]
    return [(target, value)]


def numbers_in(literal: ast.expr, name: str) -> dict[str, ast.Constant]:
    """A number, or those in a dict, whose names end with their keys."""
    if isinstance(literal, ast.Constant):
        return {name: literal} if is_knob(literal.value) else {}
    constants = {}
    for key, value in dict_items(literal):
        constants |= numbers_in(value, f"{name}.{key}")
    return constants


def is_knob(value: object) -> bool:
    """Whether it is a number that can be moved: not an integer that no float can hold."""
    return type(value) is float or (type(value) is int and value.bit_length() <= 1000)


def dict_items(literal: ast.expr) -> list[tuple[object, ast.expr]]:
    """[(key, value)] of `{"depth": 3}` or `dict(depth=3)`; [] of anything else."""
    if isinstance(literal, ast.Dict):
        pairs = zip(literal.keys, literal.values)
        return [(key.value, value) for key, value in pairs if isinstance(key, ast.Constant)]
    if isinstance(literal, ast.Call) and isinstance(literal.func, ast.Name):
        if literal.func.id == "dict":
            return [(keyword.arg, keyword.value) for keyword in literal.keywords]
    return []


@functools.cache
def constant_values(commit: str) -> dict[str, int | float]:
    """The constants at the top of a commit's train.py, {"DEPTH": 4, ...}."""
    return {name: node.value for name, node in find_constants(read_source(commit).text).items()}
