"""Git, asked so that its answer is the same whatever the user's config is."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ratchet.arena.files import Refused

# What is read here is text of one form.
PLAIN_CONFIG = {
    "color.ui": "false",
    "color.diff": "false",
    "core.quotePath": "false",
    "core.fsmonitor": "false",
    "diff.context": "3",
    "diff.interHunkContext": "0",
    "diff.relative": "false",
    "diff.algorithm": "default",
    "diff.suppressBlankEmpty": "false",
    "diff.renames": "false",
    "i18n.commitEncoding": "utf-8",
    "i18n.logOutputEncoding": "utf-8",
    "core.abbrev": "auto",
    "core.hooksPath": "/dev/null",
    "protocol.ext.allow": "never",
}
PLAIN_DIFF = (
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--no-renames",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "-O/dev/null",
    "--text",
)
DIFFS = ("diff", "diff-tree")
PLAIN_ENVIRONMENT = {
    "LC_ALL": "C",
    "LANGUAGE": "",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",  # a commit is what its hash says
    "GIT_TERMINAL_PROMPT": "0",  # nothing is asked for
    "GIT_NO_LAZY_FETCH": "1",  # nothing is fetched
}
# All that passes of the environment's GIT_*: a hook or an alias hands down others, such as GIT_DIR,
# by which git would work in another repository than the one of its folder.
PASSED = {
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CEILING_DIRECTORIES",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    "GIT_EXEC_PATH",
    "GIT_AUTHOR_NAME",
    "GIT_AUTHOR_EMAIL",
    "GIT_COMMITTER_NAME",
    "GIT_COMMITTER_EMAIL",
    "GIT_TEST_ASSUME_DIFFERENT_OWNER",
}
REMEDIES = {  # what git says, in part: what to do about it
    "not a git repository": "this folder is in no git repository: go to yours, or make one here "
    "with `git init` and commit train.py, as an experiment is a commit",
    "must be run in a work tree": "this folder is in no working tree: go to one, where train.py is",
}


def run_git(
    folder: Path, *args: str, given: bytes = b"", more: Mapping[str, str] | None = None
) -> bytes:
    """Output of a git command in a folder.

    given: its stdin. more: environment variables. Raises Refused with git's own words.
    """
    config = [word for key, value in PLAIN_CONFIG.items() for word in ("-c", f"{key}={value}")]
    plain = PLAIN_DIFF if args[0] in DIFFS else ()
    command = ["git", "--no-pager", *config, args[0], *plain, *args[1:]]
    env = inherited_environment() | PLAIN_ENVIRONMENT | dict(more or {})
    try:
        done = subprocess.run(command, input=given, capture_output=True, cwd=folder, env=env)
    except FileNotFoundError:
        raise Refused("git is not installed: install it, an experiment is a commit") from None
    if done.returncode:
        raise Refused(describe_failure(args[0], done.stderr.decode(errors="replace")))
    return done.stdout


def inherited_environment() -> dict[str, str]:
    """What git inherits: nothing that leads it to another repository than that of its folder."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name in PASSED
    }


def describe_failure(command: str, stderr: str) -> str:
    """One sentence on what git printed when it failed; a remedy that it names stays as it is."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for words, sentence in REMEDIES.items():
        if any(words in line for line in lines):
            return sentence
    if "dubious ownership" in stderr:
        remedies = [line for line in lines if line.startswith("git config")]
        remedy = remedies[0] if remedies else "see `man git-config`"
        refused = next(line for line in lines if "dubious ownership" in line)
        refused = refused.removeprefix("fatal: ")
        return f"git refuses this folder ({refused}): if you trust who owns it, run `{remedy}`"
    return f"git {command} failed ({' '.join(lines)[:1000] or 'no reason given'})"


def read_path(output: bytes) -> str:
    """A path that git printed in a line, whatever characters it has."""
    return os.fsdecode(output).removesuffix("\n")


def read_config(folder: Path, key: str, more: Mapping[str, str] | None = None) -> str | None:
    """A value of git's config, None where it is not set."""
    try:
        return read_path(run_git(folder, "config", "--get", key, more=more))
    except Refused:
        return None
