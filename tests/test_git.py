"""Git: every layout of a repository, every config of a user, and what git refuses."""

import os
import subprocess

import pytest

from ratchet import commits
from ratchet.arena.files import Refused
from ratchet.doctor.machine import check_machine
from ratchet.experiments import ledger, sources
from ratchet.git import describe_failure, run_git
from ratchet.night.proposals import merge_edit

NOBODY = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
ME = "-c", "user.name=somebody", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always"


@pytest.fixture(autouse=True)
def no_config(monkeypatch):
    for name, value in NOBODY.items():
        monkeypatch.setenv(name, value)


def git(folder, *words):
    done = subprocess.run(["git", *ME, *words], cwd=folder, check=True, capture_output=True)
    return done.stdout.decode().strip()


def commit(folder, text, subject="edit", name="train.py"):
    (folder / name).write_text(text, encoding="utf-8")
    git(folder, "add", name)
    git(folder, "commit", "-qm", subject)
    return git(folder, "rev-parse", "HEAD")


def make(folder, *options, inside=""):
    """A repository whose project is in the folder `inside` of it; returns the project's folder."""
    (folder / inside).mkdir(parents=True)
    git(folder, "init", "-qb", "main", *options)
    commit(folder / inside, "A = 1\n", "base")
    return folder / inside


def plain(tmp_path):
    return (folder := make(tmp_path / "plain")), folder


def linked(tmp_path):
    main = make(tmp_path / "main")
    git(main, "worktree", "add", "-q", "../linked")
    return tmp_path / "linked", main


def submodule(tmp_path):
    origin, above = make(tmp_path / "origin"), make(tmp_path / "above")
    git(above, "submodule", "--quiet", "add", str(origin), "part")
    git(above, "commit", "-qm", "a part")
    return above / "part", above / "part"


def linked_of_submodule(tmp_path):
    part, _ = submodule(tmp_path)
    git(part, "worktree", "add", "-q", str(tmp_path / "linked"))
    return tmp_path / "linked", part


def separate(tmp_path):
    return (folder := make(tmp_path / "tree", "--separate-git-dir", "../elsewhere.git")), folder


def vendored(tmp_path):
    return (folder := make(tmp_path / "monorepo", inside="research/lm")), folder


def linked_of_vendored(tmp_path):
    main = make(tmp_path / "monorepo", inside="research/lm")
    git(main, "worktree", "add", "-q", str(tmp_path / "linked"))
    return tmp_path / "linked/research/lm", main


def beside_another(tmp_path):
    """Both the top and a folder have a train.py: the nearest is meant."""
    top = make(tmp_path / "both")
    (top / "inner").mkdir()
    commit(top / "inner", "A = 1\n")
    return top / "inner", top / "inner"


def named_oddly(tmp_path):
    return (folder := make(tmp_path / "ünïcode *", inside="a b\tc")), folder


LAYOUTS = [
    plain,
    linked,
    submodule,
    linked_of_submodule,
    separate,
    vendored,
    linked_of_vendored,
    beside_another,
    named_oddly,
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("below", ["", "notes"])
def test_the_ledger_and_the_contestant_are_where_they_should(tmp_path, monkeypatch, layout, below):
    folder, home = layout(tmp_path)
    (folder / below).mkdir(exist_ok=True)
    monkeypatch.chdir(folder / below)
    assert commits.home() == home and commits.project() == folder
    first = sources.read_source("HEAD")
    assert first.text == b"A = 1\n"
    second = commits.commit_text([first.commit], b"A = 2\n", "twice as much, 两倍")
    sources.check_commit(second)
    assert sources.read_source(second).text == b"A = 2\n"
    assert git(folder, "diff", "--stat", first.commit, second).count("|") == 1
    assert (
        git(folder, "log", "-1", "--format=%s %an", second) == "twice as much, 两倍 ratchet night"
    )
    assert commits.read_texts([first.commit, second, "0" * 40]) == {
        first.commit: b"A = 1\n",
        second: b"A = 2\n",
        "0" * 40: None,
    }
    (shown,) = commits.read_diffs([(first.commit, second)]).values()
    assert shown.splitlines()[-2:] == ["-A = 1", "+A = 2"] and "--- a/train.py" in shown
    assert b"+A = 2" in commits.git("diff", first.commit, second, "--", "train.py")
    assert merge_edit(b"A = 1\n# new\n", first.text, first.text) == b"A = 1\n# new\n"
    assert git(folder, "status", "--porcelain", "--untracked-files=no") == ""


@pytest.mark.parametrize("layout", [vendored, linked_of_vendored, plain])
def test_an_experiment_changes_the_contestant_alone(tmp_path, monkeypatch, layout):
    folder, _ = layout(tmp_path)
    monkeypatch.chdir(folder)
    sources.check_commit(commit(folder, "A = 3\n"))
    other = commit(folder, "words\n", name="notes.txt")
    with pytest.raises(
        Refused, match=r"changes .*notes\.txt: an experiment may change train\.py only"
    ):
        sources.check_commit(other)
    sources.check_clean()
    (folder / "notes.txt").write_text("others\n", encoding="utf-8")
    with pytest.raises(
        Refused, match=r"notes\.txt changed since the last commit: commit that first"
    ):
        sources.check_clean()


def test_another_projects_contestant_is_no_experiment_and_its_changes_do_not_matter(
    tmp_path, monkeypatch
):
    folder, _ = beside_another(tmp_path)
    monkeypatch.chdir(folder)
    other = commit(folder.parent, "A = 9\n")
    with pytest.raises(Refused, match=r"changes train\.py: an experiment may change"):
        sources.check_commit(other)
    (folder.parent / "train.py").write_text("A = 10\n", encoding="utf-8")
    sources.check_clean()


def test_what_a_run_left_is_no_project(tmp_path, monkeypatch):
    folder, _ = plain(tmp_path)
    (run := folder / "runs/first").mkdir(parents=True)
    for name in ("train.py", "run.json"):
        (run / name).write_text("{}", encoding="utf-8")
    monkeypatch.chdir(run)
    assert commits.home() == folder


def test_a_log_beside_the_contestant_moves_no_project(tmp_path, monkeypatch):
    """program.md has an agent write run.log there."""
    folder, _ = vendored(tmp_path)
    (folder / "run.log").touch()
    (folder / "runs/1").mkdir(parents=True)
    (folder / "runs/1/train.py").write_text("A = 2\n", encoding="utf-8")
    for place in (folder, folder / "runs/1"):
        monkeypatch.chdir(place)
        assert commits.project() == commits.home() == folder


def test_a_commit_is_what_its_hash_says(tmp_path, monkeypatch):
    monkeypatch.chdir(folder := make(tmp_path / "plain"))
    first = git(folder, "rev-parse", "HEAD")
    git(folder, "replace", first, commit(folder, "A = 2\n"))
    assert sources.read_source(first).text == b"A = 1\n"


def test_a_diff_is_text_whatever_the_attributes_say(tmp_path, monkeypatch):
    monkeypatch.chdir(folder := make(tmp_path / "plain"))
    (folder / ".git/info/attributes").write_text("train.py -diff\n", encoding="utf-8")
    commit(folder, "A = 2\n")
    assert b"+A = 2" in commits.git("diff", "HEAD^", "HEAD")


def test_no_hook_of_the_repository_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(folder := make(tmp_path / "plain"))
    hook = folder / ".git/hooks/reference-transaction"
    hook.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    hook.chmod(0o755)
    commits.git("update-ref", "refs/ratchet/1", "HEAD")
    assert git(folder, "rev-parse", "refs/ratchet/1") == git(folder, "rev-parse", "HEAD")


def bare(tmp_path):
    origin = make(tmp_path / "origin")
    git(tmp_path, "clone", "-q", "--bare", str(origin), "bare.git")
    git(tmp_path / "bare.git", "worktree", "add", "-q", "../linked", "main")
    return tmp_path / "linked"


def linked_of_separate(tmp_path):
    git(separate(tmp_path)[0], "worktree", "add", "-q", "../linked")
    return tmp_path / "linked"


def branch_without(tmp_path):
    make(tmp_path / "monorepo", inside="research")
    git(tmp_path / "monorepo", "worktree", "add", "-q", "../linked")
    git(tmp_path / "monorepo", "rm", "-q", "research/train.py")
    return tmp_path / "linked/research"


def within_git(tmp_path):
    return plain(tmp_path)[0] / ".git"


def nowhere(tmp_path):
    return tmp_path


@pytest.mark.parametrize(
    "layout, words",
    [
        (bare, r"bare repository .*: make a clone with `git clone`"),
        (linked_of_separate, r"--separate-git-dir\): give the command in the main working tree"),
        (branch_without, r"is not there: check out a branch"),
        (within_git, r"in no working tree: go to one"),
        (nowhere, r"in no git repository: go to yours, or make one here with `git init`"),
    ],
)
def test_a_layout_that_can_not_be_served_is_a_sentence(tmp_path, monkeypatch, layout, words):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(layout(tmp_path))
    with pytest.raises(Refused, match=words) as refused:
        commits.home()
    assert "\n" not in str(refused.value)
    well, seen, advice = commits.examine_repository()
    assert not well and seen and advice


def test_a_folder_of_somebody_else_names_gits_own_remedy(tmp_path, monkeypatch):
    folder, _ = plain(tmp_path)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(Refused) as refused:
        commits.home()
    remedy = f"run `git config --global --add safe.directory {folder}`"
    assert str(refused.value).endswith(remedy) and str(refused.value).count("\n") == 0
    assert not commits.examine_repository()[0] and commits.examine_repository()[2].endswith(remedy)


def test_where_a_shallow_clone_ends_nothing_can_be_tried(tmp_path, monkeypatch):
    folder, _ = plain(tmp_path)
    commit(folder, "A = 2\n")
    git(tmp_path, "clone", "-q", "--depth", "1", folder.as_uri(), "shallow")
    monkeypatch.chdir(tmp_path / "shallow")
    with pytest.raises(Refused, match="this shallow clone ends there: run `git fetch --unshallow`"):
        sources.check_commit(git(".", "rev-parse", "HEAD"))
    sources.check_commit(commit(tmp_path / "shallow", "A = 3\n"))
    git(".", "config", "user.email", "a@b.c")
    assert commits.examine_repository()[::2] == (False, "run `git fetch --unshallow`")


def test_without_a_commit_it_says_so(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("A = 1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match=r"no commit yet: commit train\.py first \(git add train\.py"):
        sources.read_source("HEAD")
    assert commits.examine_repository()[:2] == (False, "no commit yet")
    assert "git add train.py" in commits.examine_repository()[2]


def test_without_train_py_it_says_where_one_was_looked_for(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    commit(tmp_path, "words\n", name="notes.txt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match=r"HEAD has no train\.py: give the command in the folder"):
        sources.read_source("HEAD")
    with pytest.raises(Refused, match="'nothing' is neither a file nor a commit"):
        sources.read_source("nothing")


def test_without_a_name_ideas_are_committed_all_the_same(tmp_path, monkeypatch):
    folder, _ = plain(tmp_path)
    git(folder, "config", "user.useConfigOnly", "true")
    monkeypatch.chdir(folder)
    new = commits.commit_text(["HEAD"], b"A = 2\n", "")
    assert git(folder, "log", "-1", "--format=%s %ae", new) == "an idea night@ratchet.invalid"
    assert commits.examine_repository()[::2] == (False, commits.IDENTITY_REMEDY)
    git(folder, "config", "user.email", "a@b.c")
    git(folder, "config", "user.name", "somebody")
    assert commits.examine_repository()[0]


def test_a_detached_head_is_as_good_as_a_branch(tmp_path, monkeypatch):
    folder, _ = plain(tmp_path)
    git(folder, "config", "user.email", "a@b.c")
    git(folder, "checkout", "-q", "--detach")
    new = commit(folder, "A = 2\n")
    monkeypatch.chdir(folder)
    assert sources.read_source("HEAD").commit == new
    sources.check_commit(new)
    well, seen, _ = commits.examine_repository()
    assert well and "HEAD is detached" in seen


CONFIGS = {
    "diff.external": "false",
    "color.ui": "always",
    "color.diff": "always",
    "color.status": "always",
    "diff.noprefix": "true",
    "diff.mnemonicPrefix": "true",
    "diff.txt.textconv": "false",
    "diff.context": "0",
    "diff.txt.command": "false",
    "core.pager": "false",
    "pager.diff": "false",
    "diff.relative": "true",
    "diff.renames": "copies",
    "status.branch": "true",
    "status.short": "true",
    "status.relativePaths": "true",
    "log.showSignature": "true",
    "core.quotePath": "true",
    "i18n.commitEncoding": "latin1",
    "diff.algorithm": "histogram",
    "diff.colorMoved": "zebra",
    "diff.wordRegex": ".",
    "diff.stat": "true",
    "commit.gpgSign": "true",
    "gpg.program": "false",
    "diff.suppressBlankEmpty": "true",
}


def everything(folder):
    """All that is read of git, as bytes or text."""
    first, second = git(folder, "rev-list", "HEAD").split()[::-1][:2]
    sources.check_commit(second)
    return (
        sources.read_source(second),
        commits.read_texts([first, second]),
        commits.read_diffs([(first, second)]),
        commits.git("diff", first, second, "--", "train.py"),
        commits.commit_text([first], b"A = 2\n", "é")[:0],
        commits.git_lines("status", "--porcelain", "--untracked-files=no"),
    )


def test_what_is_read_is_the_same_whatever_the_config(tmp_path, monkeypatch):
    folder, _ = plain(tmp_path)
    commit(folder, "A = 2\n\n\nB = 3\nC = 4\n")
    monkeypatch.chdir(folder)
    (folder / "train.py").write_text("dirty\n", encoding="utf-8")
    expected = everything(folder)
    assert "\x1b" not in str(expected) and b"--- a/train.py\n+++ b/train.py" in expected[3]
    text = "".join(
        '[{}]\n\t{} = "{}"\n'.format(section(key), key.rpartition(".")[2], value)
        for key, value in CONFIGS.items()
    )
    (tmp_path / "config").write_text(text, encoding="utf-8")
    (folder / ".git/info").mkdir(exist_ok=True)
    (folder / ".git/info/attributes").write_text("*.py diff=txt\n", encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    for name in ("GIT_EXTERNAL_DIFF", "GIT_PAGER", "PAGER"):
        monkeypatch.setenv(name, "false")
    monkeypatch.setenv("GIT_DIFF_OPTS", "-u0")
    assert everything(folder) == expected


def section(key):
    """A key's section as a config file has it."""
    first, *middle, _ = key.split(".")
    return f'{first} "{".".join(middle)}"' if middle else first


def test_git_speaks_english_whatever_the_language(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", run := Recorder())
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    run_git(tmp_path, "status")
    assert (run.env["LC_ALL"], run.env["LANGUAGE"]) == ("C", "")


class Recorder:
    """Stands in for subprocess.run: keeps the environment."""

    def __call__(self, command, env, **_):
        self.env = env
        return subprocess.CompletedProcess(command, 0, b"", b"")


def test_a_hooks_environment_leads_nowhere_else(tmp_path, monkeypatch):
    folder, _ = plain(tmp_path)
    other = make(tmp_path / "other")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    assert commits.home() == folder


def test_all_that_git_says_is_in_one_line():
    words = "error: one thing\nhint: do this\n\n\tgit fix it\n"
    assert (
        describe_failure("x", words) == "git x failed (error: one thing hint: do this git fix it)"
    )
    assert describe_failure("x", "") == "git x failed (no reason given)"


def test_a_ledger_is_found_from_a_linked_working_tree(tmp_path, monkeypatch):
    folder, home = linked_of_vendored(tmp_path)
    monkeypatch.chdir(folder)
    ledger.Ledger(commits.home()).append("opens", role="try")
    assert (home / "ledger.jsonl").exists() and not (folder / "ledger.jsonl").exists()


def test_linked_working_trees_are_served_where_bare_repositories_are_not_trusted(
    tmp_path, monkeypatch
):
    folder, home = linked(tmp_path)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    (tmp_path / "config").write_text("[safe]\n\tbareRepository = explicit\n", encoding="utf-8")
    assert commits.home() == home


def test_the_doctor_has_a_line_on_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    lines = {name: (well, seen, advice) for name, well, seen, advice in check_machine("cpu")}
    assert lines["git"][:2] == (False, "this folder is in no git repository")
    assert lines["git"][2].startswith("go to yours, or make one here with `git init`")
