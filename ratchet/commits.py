"""Git: how it is asked, and where in a repository the project and its ledger lie.

The project is the folder that holds train.py: the top of a repository, or a folder somewhere in
one. The ledger is in that folder of the main working tree; what is tried in a linked one (`git
worktree`) is written there, too.
"""

import functools
import io
import os
import re
import subprocess
import tempfile
from pathlib import Path

from ratchet.arena.files import Refused


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
    return (
        git("commit-tree", tree, "-p", parent, "-F", "-", given=given, more=names).decode().strip()
    )


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


CONTESTANT = "train.py"
SHALLOW_REMEDY = "run `git fetch --unshallow`"
# Whatever the user's config says: what is read here is text of one form.
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
DIFFS = "diff", "diff-tree"
# A hook that calls Ratchet hands these down; the folder that git runs in is what counts.
REPOSITORY_VARIABLES = {
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_NAMESPACE",
    "GIT_EXTERNAL_DIFF",
    "GIT_DIFF_OPTS",
}
NO_COMMIT = (
    "this repository has no commit yet: commit train.py first (git add train.py, git commit -m baseline), "
    "as an experiment is a commit"
)
IDENTITY_REMEDY = (
    "run `git config user.email you@example.org` and `git config user.name you`, then commit"
)
REMEDIES = (  # what git says, in part: what to do about it
    (
        "not a git repository",
        "this folder is in no git repository: go to yours, or make one here with "
        "`git init` and commit train.py, as an experiment is a commit",
    ),
    (
        "must be run in a work tree",
        "this folder is in no working tree: go to one, where train.py is",
    ),
)


def git(*args, given=b"", folder=None, more={}):  # noqa: B006
    """Output of a git command, in bytes, the same whatever the user's config and language are.

    given: its stdin. folder: where it runs; by default the project in the working tree that Ratchet
    was called in, so that `train.py` and `<commit>:./train.py` name the contestant. more:
    environment variables. Raises Refused with git's own words.
    """
    config = [word for key, value in PLAIN_CONFIG.items() for word in ("-c", f"{key}={value}")]
    plain = PLAIN_DIFF if args[0] in DIFFS else ()
    command = ["git", "--no-pager", *config, args[0], *plain, *args[1:]]
    env = {key: value for key, value in os.environ.items() if key not in REPOSITORY_VARIABLES}
    env |= {"LC_ALL": "C", "LANGUAGE": "", "GIT_OPTIONAL_LOCKS": "0"}
    # a commit is what its hash says, and nothing is asked for or fetched
    env |= {
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
    } | more
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, cwd=folder or project(), env=env
        )
    except FileNotFoundError:
        raise Refused("git is not installed: install it, an experiment is a commit") from None
    if done.returncode:
        raise Refused(refusal(args[0], done.stderr.decode(errors="replace")))
    return done.stdout


def git_lines(*args, **options):
    return git(*args, **options).decode(errors="replace").splitlines()


def refusal(command, stderr):
    """One sentence on what git printed when it failed; a remedy that it names is kept as it stands."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for words, sentence in REMEDIES:
        if any(words in line for line in lines):
            return sentence
    if "dubious ownership" in stderr:
        remedy = next(
            (line for line in lines if line.startswith("git config")), "see `man git-config`"
        )
        refused = next(line for line in lines if "dubious ownership" in line).removeprefix(
            "fatal: "
        )
        return f"git refuses this folder ({refused}): if you trust who owns it, run `{remedy}`"
    return f"git {command} failed ({' '.join(lines)[:1000] or 'no reason given'})"


def project():
    """The folder of the project in the working tree that Ratchet was called in. Raises Refused."""
    return _project(current_folder())


def home():
    """The folder of the project in the main working tree, where the ledger is. Raises Refused."""
    return _home(current_folder())


def current_folder():
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise Refused("the current folder was deleted: go to the one that holds train.py") from None


@functools.cache
def _project(folder):
    """The nearest folder with a train.py in git, from `folder` up to the top of its working tree.

    Before one is in git it is the outermost folder with one: the copies that runs keep lie below
    it.
    """
    top = Path(os.fsdecode(git("rev-parse", "--show-toplevel", folder=folder)).removesuffix("\n"))
    if not folder.is_relative_to(top):
        return top  # a link leads here
    inside = [folder, *folder.parents][: len(folder.relative_to(top).parts) + 1]
    having = [each for each in inside if (each / CONTESTANT).is_file()]
    return next(filter(is_in_git, having), (having or [top])[-1])


def is_in_git(folder):
    """Whether git knows the train.py of a folder."""
    return bool(git("ls-files", "--", CONTESTANT, folder=folder))


@functools.cache
def _home(folder):
    here = _project(folder)
    own, common = (
        (here / os.fsdecode(git("rev-parse", what, folder=here)).removesuffix("\n")).resolve()
        for what in ("--git-dir", "--git-common-dir")
    )
    if (
        own == common
    ):  # the main working tree, of a submodule or one whose git folder lies elsewhere, too
        return here
    top = main_working_tree(common)
    if not (main := top / prefix(here)).is_dir():
        what = f"{main}, where the ledger is to be, is not there"
        raise Refused(f"{what}: check out a branch in {top} that has it")
    return main


def main_working_tree(common):
    """Top of the main working tree, to which a linked one with this git folder belongs. Raises
    Refused.
    """
    explicit = {
        "folder": common,
        "more": {"GIT_DIR": str(common)},
    }  # safe.bareRepository may want it
    if git_lines("rev-parse", "--is-bare-repository", **explicit) == ["true"]:
        raise Refused(
            f"this working tree belongs to a bare repository ({common}), which has no main working tree "
            "to keep the ledger in: make a clone with `git clone`, and work there"
        )
    if (named := config("core.worktree", **explicit)) is not None:  # of a submodule
        return (common / named).resolve()
    if common.name == ".git":
        return common.parent
    raise Refused(
        f"the main working tree of this one, where the ledger is, can't be found from its git folder "
        f"({common}, made with --separate-git-dir): give the command in the main working tree"
    )


def prefix(folder):
    """Path of a folder below the top of its working tree; "" or it ends with a slash."""
    return os.fsdecode(git("rev-parse", "--show-prefix", folder=folder)).removesuffix("\n")


def config(key, **options):
    """A value of git's config, None where it is not set."""
    try:
        return os.fsdecode(git("config", "--get", key, **options)).removesuffix("\n")
    except Refused:
        return None


def has_commit():
    try:
        return bool(git("rev-parse", "--verify", "--quiet", "HEAD^{commit}"))
    except Refused:
        return False


def is_cut_off(commit):
    """Whether a shallow clone ends at a commit, so that its parents, and what it changed, are
    unknown.
    """
    if git_lines("rev-parse", "--is-shallow-repository") != ["true"]:
        return False
    path = project() / git_lines("rev-parse", "--git-path", "shallow")[0]
    return commit in path.read_text(encoding="ascii").split()


def examine():
    """(whether it is well, what was seen, what to do) of the repository that Ratchet was called in."""
    try:
        folder, version = home(), git_lines("--version")[0].removeprefix("git version ")
    except Refused as error:
        seen, _, advice = str(error).partition(": ")
        return False, seen, advice
    if not has_commit():
        return False, "no commit yet", NO_COMMIT.partition(": ")[2]
    try:
        git("var", "GIT_COMMITTER_IDENT")
    except Refused:
        return False, "your name or email is not known", IDENTITY_REMEDY
    if git_lines("rev-parse", "--is-shallow-repository") == ["true"]:
        return False, "a shallow clone: its history is cut off", SHALLOW_REMEDY
    return True, f"{version}, ledger in {folder}{detached()}", ""


def detached():
    """A word on a HEAD that is on no branch, where experiments are as safe as on one."""
    try:
        git("symbolic-ref", "--quiet", "HEAD")
        return ""
    except Refused:
        return ", HEAD is detached (experiments keep their commits all the same)"
