"""Git's variables, inherited from a hook, an alias or a shell, lead nobody to another repository."""

import os
import random
import subprocess

import pytest
from conftest import open_session
from test_experiments import commit, problems, repository, runs  # noqa: F401
from test_night import script
from typer.testing import CliRunner

from ratchet import __main__, commits
from ratchet import git as ratchet_git
from ratchet.arena.files import Refused
from ratchet.experiments import verbs
from ratchet.night import agent as night_agent
from ratchet.night.driver import run_night
from ratchet.night.journal import Journal
from ratchet.night.status import Limits

# Of a user, in no hook. An agent that gets out could replace /dev/null, so it stands nowhere here.
ENVIRONMENT = dict(os.environ) | {"GIT_CONFIG_GLOBAL": "/nonexistent/config"}
ME = "-c user.name=a -c user.email=a@b.c -c protocol.file.allow=always".split()


def git(folder, *words):
    argv = ["git", *ME, *words]
    done = subprocess.run(argv, cwd=folder, env=ENVIRONMENT, capture_output=True, check=True)
    return done.stdout.decode().strip()


def look(folder):
    """All of a repository that must stay as it is: not its experiments, nor the ledger."""
    refs = git(folder, "for-each-ref").splitlines()
    return {
        "fsck": git(folder, "fsck", "--no-dangling"),
        "refs": [ref for ref in refs if "refs/ratchet/" not in ref],
        "config": git(folder, "config", "--local", "--list"),
        "HEAD": git(folder, "symbolic-ref", "HEAD") + git(folder, "rev-parse", "HEAD"),
        "index": git(folder, "ls-files", "--stage"),
        "status": git(folder, "status", "--porcelain", "--", ":!ledger.jsonl", ":!runs"),
        "trees": git(folder, "worktree", "list"),
    }


def hands_down(folder, *words):
    """The variables that git hands down to a hook, or a command, that it runs."""
    path = folder / "environment"
    hooks = folder.parent / f"hooks of {folder.name}"
    hooks.mkdir(exist_ok=True)
    (hooks / "pre-commit").write_text(f"#!/bin/sh\nenv -0 > '{path}'\nexit 1\n", encoding="utf-8")
    (hooks / "pre-commit").chmod(0o755)
    alias = f"alias.look=!env -0 > '{path}'"
    argv = ["git", *ME, "-c", f"core.hooksPath={hooks}", "-c", alias, *words]
    subprocess.run(argv, cwd=folder, env=ENVIRONMENT, capture_output=True)
    pairs = [line.split("=", 1) for line in path.read_text(encoding="utf-8").split("\0") if line]
    path.unlink()
    return {name: value for name, value in pairs if name.startswith("GIT_")}


def hook(folder):
    return folder, hands_down(folder, "commit", "--allow-empty", "-m", "x")


def hook_of_a_working_tree(folder):
    git(folder, "worktree", "add", "-qb", "other", "../linked")
    return hook(folder.parent / "linked")


def alias_in_a_working_tree(folder):
    git(folder, "worktree", "add", "-qb", "other", "../linked")
    linked = folder.parent / "linked"
    return linked, hands_down(linked, "look")


def hook_of_a_submodule(folder):
    above = folder.parent / "above"
    git(folder.parent, "init", "-q", "above")
    git(above, "submodule", "--quiet", "add", str(folder), "part")
    git(above, "commit", "-qm", "a part")
    return above / "part", hook(above / "part")[1]


def dotfiles(folder):
    """A home folder that is the working tree of a bare repository."""
    other = folder.parent / "dotfiles"
    git(folder.parent, "clone", "-q", "--bare", str(folder), "dotfiles")
    return folder, {
        "GIT_DIR": str(other),
        "GIT_WORK_TREE": str(folder.parent),
        "GIT_INDEX_FILE": str(other / "index"),
        "GIT_COMMON_DIR": str(other),
        "GIT_OBJECT_DIRECTORY": str(other / "objects"),
    }


SURROUNDINGS = [
    hook_of_a_working_tree,
    dotfiles,
    *(
        pytest.param(each, marks=pytest.mark.slow)
        for each in (hook, alias_in_a_working_tree, hook_of_a_submodule)
    ),
]
MISCHIEF = """
for command in (
    'git commit -qam mine', 'git checkout -q -b mine', 'git config core.bare true',
    'git config --global user.name evil', 'git -C "$OLDPWD" config core.bare true',
    'git rm -rq --cached .', 'git update-ref refs/heads/main HEAD~1', 'git gc -q --prune=now',
): os.system(command)
"""
EDIT = "open('train.py', 'w').write(f'QUALITY = {1.1 + n / 10}\\n')\n"


@pytest.fixture
def calibrated(repository, runs, monkeypatch):  # noqa: F811
    """begin(folder): calibrates the project in a folder and goes there."""
    commit("files that an agent gets", program_md="words\n", prepare_py="# the judge\n")
    monkeypatch.setattr("ratchet.referee.trial.preflight", lambda job: None)
    # should an agent get out, it meets a decoy
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/nonexistent/config")
    monkeypatch.setenv("HOME", str(repository.parent / "decoy"))
    for name in ("OLDPWD", "PWD", "INIT_CWD"):
        monkeypatch.setenv(name, str(repository))

    def begin(folder):
        monkeypatch.chdir(folder)
        verbs.calibrate(open_session(arena="tiny"), 3)

    return begin


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_a_try_and_a_night_change_nothing_of_the_users_repository(
    repository,  # noqa: F811
    calibrated,
    tmp_path,
    monkeypatch,
    surroundings,
):
    folder, variables = surroundings(repository)
    assert variables.keys() & {"GIT_DIR", "GIT_INDEX_FILE", "GIT_PREFIX"}
    calibrated(folder)
    (folder / "train.py").write_text("QUALITY = 1.3\n", encoding="utf-8")
    git(folder, "commit", "-qam", "an idea")
    before = look(repository), look(folder)
    bare = tmp_path / "dotfiles/config"
    config = bare.exists() and bare.read_bytes()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = CliRunner().invoke(__main__.app, ["try", "an idea"])
    assert said.exit_code == 0, said.output
    command, state = script(tmp_path, last=MISCHIEF + EDIT)
    why = run_night(open_session(), command, Limits(experiments=1), share=[state.parent])
    assert "limit of 1 experiment" in why
    answers = Journal(commits.home()).list_answers()
    assert [answer["outcome"] for answer in answers][:1] == ["idea"]
    assert (look(repository), look(folder)) == before and problems() == []
    assert not config or bare.read_bytes() == config


def test_no_mixture_of_variables_changes_what_git_says(
    repository,  # noqa: F811
    calibrated,
    tmp_path,
    monkeypatch,
):
    """A property: of all names that git calls local, with values that lead elsewhere."""
    _, elsewhere = dotfiles(repository)
    monkeypatch.chdir(repository)
    names = git(repository, "rev-parse", "--local-env-vars").split()
    names += "GIT_NAMESPACE GIT_QUARANTINE_PATH GIT_LITERAL_PATHSPECS GIT_ATTR_SOURCE".split()
    names += ["GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS", "GIT_TRACE", "GIT_DEFAULT_HASH"]
    values = elsewhere | {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_PARAMETERS": "'core.worktree'='/' 'core.bare'='true'",
        "GIT_TRACE": "1",
        "GIT_EXTERNAL_DIFF": "false",
        "GIT_DEFAULT_HASH": "sha256",
    }
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.bare")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    folder, chance, before = tmp_path / "agents", random.Random(1), look(repository)

    def everything():
        night_agent.remove_folder(folder)
        (folder / "inner").mkdir(parents=True)
        (folder / "train.py").write_text("A = 1\n", encoding="utf-8")
        night_agent.commit_all(folder)
        return (
            commits.git("diff", "HEAD~1", "HEAD"),
            commits.commit_text(["HEAD"], b"A = 2\n", "idea")[:0],
            ratchet_git.run_git(folder, "rev-parse", "HEAD"),
            ratchet_git.run_git(folder, "status", "--porcelain"),
        )

    expected = everything()
    for _ in range(10):
        with monkeypatch.context() as patch:
            for name in chance.sample(names, chance.randint(1, len(names))):
                patch.setenv(name, values.get(name, str(tmp_path / "dotfiles")))
            assert everything() == expected
            assert not {*ratchet_git.inherited_environment()} & {*names}
    assert look(repository) == before


def test_a_folder_that_git_takes_for_a_part_of_another_is_not_committed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/nonexistent/config")
    git(tmp_path, "init", "-q", "outer")
    git(tmp_path / "outer", "config", "core.worktree", "..")
    (folder := tmp_path / "outer/inner").mkdir()
    (folder / ".git").write_text("gitdir: ../.git\n", encoding="utf-8")
    with pytest.raises(Refused, match="git takes .*inner for a part of .*outer"):
        night_agent.commit_all(folder)
    assert git(tmp_path / "outer", "rev-list", "--all") == ""
