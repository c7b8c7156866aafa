"""Sources: which train.py is meant, and whether it may be tried."""

import ast
import functools
import hashlib
import io
import os
import re
import tempfile
import tokenize
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ratchet.repository import (
    CONTESTANT,
    NO_COMMIT,
    SHALLOW_REMEDY,
    Refused,
    git,
    git_lines,
    has_commit,
    is_cut_off,
    prefix,
    project,
)

ROOT = Path(__file__).resolve().parent.parent  # of the machinery that runs
SOURCE_BYTES = 2**16  # a larger train.py has data in it


class Source(NamedTuple):
    """A train.py: what the user called it, its commit ("" for a file), its text."""

    name: str
    commit: str
    text: bytes

    def facts(self):
        """What the ledger says of it. `source` is equal for texts that differ in layout and comments only."""
        return {"name": self.name, "commit": self.commit, "file": sha256(self.text)} | shape(self.text)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def shape(text):
    """{"source": hash of the syntax tree without docstrings, "size": its tokens}; of any bytes."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    try:
        for node in ast.walk(tree := ast.parse(text)):
            if isinstance(node, documented) and ast.get_docstring(node) is not None:
                node.body[0] = ast.Pass()
        plain = ast.unparse(tree).encode()
        # a long token counts as many: code could hide in a string
        size = sum(1 + len(token.string) // 20 for token in tokenize.tokenize(io.BytesIO(plain).readline))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        plain, size = text, len(text)
    return {"source": sha256(plain)[:16], "size": size}


def constants(text):
    """{name: ast.Constant} of the numbers that a source assigns to capitals at its top; {} if unreadable.

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
    elif isinstance(literal, ast.Call) and isinstance(literal.func, ast.Name) and literal.func.id == "dict":
        pairs = [(keyword.arg, keyword.value) for keyword in literal.keywords]
    return {key: node for part, value in pairs for key, node in numbers_in(value, f"{name}.{part}").items()}


def read_source(what, files=False):
    """The train.py of a commit or, where files will do, of a path."""
    if files and (path := Path(what)).is_file():
        source = Source(str(what), "", path.read_bytes())
    else:
        commit = find_commit(what)
        source = Source(str(what), commit, contestant_of(commit, what))
    if (size := len(source.text)) > SOURCE_BYTES:
        raise Refused(f"train.py of {what} has {size:,} bytes, {SOURCE_BYTES:,} are allowed: no data in it")
    return source


def find_commit(name):
    """The full hash of what a user calls a commit. Raises Refused."""
    try:
        (commit,) = git_lines("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        return commit
    except Refused:
        project()  # in no repository the reason is another
        if not has_commit():
            raise Refused(NO_COMMIT) from None
        raise Refused(f"{name!r} is neither a file nor a commit: name one of them") from None


def contestant_of(commit, name):
    """The text of the train.py of a commit, in bytes. Raises Refused."""
    try:
        return git("cat-file", "blob", f"{commit}:./{CONTESTANT}")
    except Refused:
        path = prefix(project()) + CONTESTANT
        raise Refused(
            f"{name} has no {path}: give the command in the folder that train.py is in, and commit it there"
        ) from None


def check_commit(commit):
    """Raise Refused unless train.py is all that a commit changes."""
    if is_cut_off(commit):
        what = f"what commit {commit[:7]} changes is not known, as this shallow clone ends there"
        raise Refused(f"{what}: {SHALLOW_REMEDY}, then try again")
    shown = git("diff-tree", "--no-commit-id", "--name-only", "-z", "-r", "-m", "--root", commit)
    changed = {os.fsdecode(name) for name in shown.split(b"\0") if name}
    if others := ", ".join(sorted(changed - {prefix(project()) + CONTESTANT})):
        raise Refused(f"commit {commit[:7]} changes {others}: an experiment may change train.py only")


def check_clean():
    """Raise Refused when the project's folder has changes that a commit would lack."""
    if git_lines("ls-files", "ledger.jsonl"):
        raise Refused("ledger.jsonl is in git, where a checkout rewinds it: git rm --cached ledger.jsonl")
    shown = git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=no", "--", ".")
    if changed := [os.fsdecode(line[3:]) for line in shown.split(b"\0") if line]:
        files = ", ".join(changed)
        raise Refused(f"{files} changed since the last commit: commit that first, an experiment is a commit")


def machinery():
    """Hash of prepare.py and ratchet/: the seal of what judges."""
    files = [ROOT / "prepare.py", *sorted((ROOT / "ratchet").glob("*.py"))]
    return sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))[:16]


def commit_text(parent, text, subject):
    """Commit a train.py on a parent, past working tree and branches; returns the commit."""
    blob = git("hash-object", "-w", "--stdin", given=text).decode().strip()
    entry = f"100644,{blob},{prefix(project())}{CONTESTANT}"
    names = {f"GIT_{who}_NAME": "ratchet night" for who in ("AUTHOR", "COMMITTER")}
    names |= {f"GIT_{who}_EMAIL": "night@ratchet.invalid" for who in ("AUTHOR", "COMMITTER")}
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        git("read-tree", parent, more=index)
        git("update-index", "--add", "--cacheinfo", entry, more=index)
        tree = git("write-tree", "--missing-ok", more=index).decode().strip()
    given = (subject or "an idea").encode(errors="replace")
    return git("commit-tree", tree, "-p", parent, "-F", "-", given=given, more=names).decode().strip()


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


def texts(commits):
    """{commit: its train.py, None where there is none} of many commits, by one git process."""
    commits, found = [*commits], {}
    given = "".join(f"{commit}:./{CONTESTANT}\n" for commit in commits)
    answer = io.BytesIO(git("cat-file", "--batch", given=given.encode()))
    for commit in commits:
        *_, kind, size = answer.readline().split()
        if size.isdigit() and kind == b"blob":
            found[commit] = answer.read(int(size))
            answer.readline()
        else:
            found[commit] = None
    return found


def diffs(pairs):
    """{(old, new): what changed, "" where git lacks one} of pairs of commits, by two git processes."""
    asked = "".join(f"{commit}\n" for pair in pairs for commit in pair)
    facts = (line.split() for line in git_lines("cat-file", "--batch-check", given=asked.encode()))
    here = {commit for commit, kind, *_ in facts if kind == "commit"}
    found = dict.fromkeys(pairs, "")
    pairs = [pair for pair in found if here.issuperset(pair)]
    given = "".join(f"{new} {old}\n" for old, new in pairs)
    shown = git("diff-tree", "--stdin", "--always", "-p", "-r", "--relative", given=given.encode())
    text = shown.decode(errors="replace")
    pieces = re.split(r"^[0-9a-f]{40,64}\n", text, flags=re.M)[1:]
    return found | {pair: piece.strip("\n") for pair, piece in zip(pairs, pieces)}


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
    return {(b"-", line) for line in sides[0] - sides[1]} | {(b"+", line) for line in sides[1] - sides[0]}
