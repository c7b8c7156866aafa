"""docs/own-research.md works: its commands are run in their order, on a tiny arena."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, write_corpus
from test_readme import PAGES, VERBS, commands_of

SCRIPT = commands_of(PAGES["docs/own-research.md"])
PARTS = "prepare.py program.md CHANGELOG.md .gitignore pyproject.toml ratchet docs".split()
GIT_CONFIG = """\
[user]
    name = you
    email = you@example.org
[init]
    defaultBranch = main
[url "{folder}/"]
    insteadOf = https://github.com/
"""
# uv as far as the page needs it: what takes long is made short
UV = f"""\
shift
export PYTHONPATH=.
case "$*" in
  prepare.py*) set -- "$@" --context 64 --vocab-size 512 ;;
  train.py*) export RATCHET_BUDGET=20000tok ;;
  *calibrate*) set -- "$@" -n 2 --budget 20000tok --busy ;;
  *night*) set -- "$@" --experiments 1 --busy ;;
esac
case "$1" in *.py) exec {sys.executable} "$@" ;; *) exec {sys.executable} -m "$@" ;; esac
"""
CLAUDE = "sed -i 's/^RATE, WIDTH = [0-9.]*/RATE, WIDTH = 0.01/' train.py; echo slower > idea.txt"


def test_each_command_parses():
    subprocess.run(["bash", "-n"], input="\n".join(SCRIPT), encoding="utf-8", check=True)
    for command in SCRIPT:
        program, _, words = command.partition("uv run ratchet ")
        if not program:
            verb, *arguments = shlex.split(words)
            VERBS[verb].make_context(verb, arguments)  # raises what a user would see


def git(folder, *words):
    subprocess.run(["git", "-C", folder, *words], check=True)


def commit_all(folder, subject):
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", subject)


def append(path, line):
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def write_program(path, script):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def copy_ratchet(folder):
    """A repository of Ratchet whose train.py is tiny."""
    folder.mkdir(parents=True)
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "tests/contestant.py", folder / "train.py")
    for name in ("tests", "benchmarks"):
        (folder / name).mkdir()
        (folder / name / "README.md").write_text("words\n", encoding="utf-8")
    git(folder, "init", "-q")
    commit_all(folder, "Ratchet")


@pytest.fixture
def place(tmp_path, cache, monkeypatch):
    """The folder that somebody begins in who has a text; two accounts lie beside it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    write_program(tmp_path / "bin/uv", UV)
    write_program(tmp_path / "bin/claude", CLAUDE)
    (tmp_path / "home").mkdir()
    config = GIT_CONFIG.format(folder=tmp_path / "accounts")
    (tmp_path / "home/.gitconfig").write_text(config, encoding="utf-8")
    copy_ratchet(tmp_path / "accounts/them/ratchet")
    git(tmp_path, "clone", "-q", "--bare", "accounts/them/ratchet", "accounts/you/research")
    (tmp_path / "my_texts").mkdir()
    write_corpus(tmp_path / "my_texts/corpus.jsonl")
    yield tmp_path
    shutil.rmtree(cache / "mine", ignore_errors=True)


def run(command, folder):
    """(exit code, what a command of the page prints, the folder it ends in)."""
    options = dict(cwd=folder, capture_output=True, encoding="utf-8")
    done = subprocess.run(["bash", "-c", f"{command} || exit\npwd"], **options)
    ended_in = Path(done.stdout.splitlines()[-1]) if done.returncode == 0 else folder
    return done.returncode, done.stdout + done.stderr, ended_in


@pytest.mark.slow
def test_the_page_leads_to_a_night_to_a_reader_and_to_a_newer_version(place):
    theirs, folder, outputs = place / "accounts/them/ratchet", place, {}
    for command in SCRIPT:
        if command.startswith("git commit -am"):
            append(folder / "program.md", "Smaller models only.")
        if command == "git fetch ratchet":
            append(theirs / "prepare.py", "# a newer one")
            commit_all(theirs, "a newer judge")
        code, outputs[command], folder = run(command, folder)
        assert code == 0, (command, outputs[command])
        if command == 'git commit -m "a newer Ratchet"':
            code, output, _ = run("uv run ratchet night --agent tuner", folder)
            assert code == 2 and "prepare.py has changed since the calibration" in output
    log = outputs["uv run ratchet log"]
    assert (
        "slower" in log
        and "tuner" in outputs["uv run ratchet night --agent tuner --experiments 20"]
    )
    assert ", 0 problems" in outputs["uv run ratchet verify"]
    assert (place / "reading/runs/report.html").exists()
    assert folder == place / "research"
    assert outputs["uv run ratchet calibrate --arena mine --yes"]
