"""The README is true: each of its commands is run, each of its names exists."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import typer
from conftest import ROOT, write_corpus

from prepare import main
from ratchet import __main__
from ratchet.arena.score import SUMMARY

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
LINES = [line for language, block in BLOCKS if not language for line in block.splitlines()]
COMMANDS = [line.partition("  #")[0].strip() for line in LINES]
TRAIN, REFEREE, NIGHT, SPEAK, DOWNLOAD = (
    (ROOT / f"tests/test_{name}.py").read_text(encoding="utf-8")
    for name in ("train", "referee", "night", "speak", "download")
)
TESTS = "uv run --all-extras --group dev pytest"
ELSEWHERE = {  # commands that other tests run, that another one here contains, or that run this
    "RATCHET_BUDGET=20s uv run train.py": lambda: (
        "RATCHET_ARENA=mine RATCHET_BUDGET=20s uv run train.py" in COMMANDS
    ),
    "RATCHET_RUN=runs/first uv run train.py": lambda: '"RATCHET_RUN": str(folder)' in TRAIN,
    "uv run prepare.py score runs/first": lambda: '"score", str(folder)' in TRAIN,
    "pip install uv": lambda: shutil.which("uv"),
    "uv run prepare.py --arena climbmix": lambda: "--shards" in DOWNLOAD,
    TESTS: lambda: (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1] == TESTS,
    f"{TESTS} -m slow": lambda: "pytest.mark.slow" in TRAIN,
    "git switch -C try/batches refs/ratchet/champion": lambda: '"switch", "-C"' in REFEREE,
    'git commit -am "smaller batches"': lambda: '"commit", "-qam"' in REFEREE,
    'uv run ratchet try "smaller batches make more steps"': lambda: '"try"' in REFEREE,
    "uv run ratchet doctor": lambda: '"doctor"' in REFEREE,
    "uv run ratchet calibrate": lambda: '"calibrate"' in REFEREE,
    "uv run ratchet log": lambda: '"log"' in REFEREE,
    "uv run ratchet compare HEAD benchmarks/plain.py -n 3": lambda: '"compare"' in REFEREE,
    next(line for line in COMMANDS if '--agent "claude' in line): lambda: "CLAUDE" in NIGHT,
    "uv run ratchet night --agent tuner --experiments 30": lambda: '"tuner"' in NIGHT,
    'uv run ratchet speak "My fellow citizens"': lambda: '"speak", "My fellow citizens"' in SPEAK,
    'uv run ratchet speak runs/first "..." --temperature 0.5 --tokens 100': lambda: (
        '"speak", str(run)' in SPEAK
    ),
    "uv run ratchet serve-bench": lambda: '"serve-bench"' in SPEAK,
    "uv run ratchet scaling": lambda: '"scaling"' in SPEAK,
    "uv run ratchet export champion runs/my_model": lambda: '"export", "champion"' in SPEAK,
}
RUN = r"((?:\w+=\S+ )*)uv run (.+)"


def test_every_command_is_run_by_a_test():
    assert not [
        c for c in COMMANDS if not (ELSEWHERE[c]() if c in ELSEWHERE else re.fullmatch(RUN, c))
    ]


@pytest.mark.slow
def test_every_command_works_in_the_order_of_the_readme(tmp_path):
    write_corpus(tmp_path / "corpus.jsonl", 120)
    (tmp_path / "my_corpus").mkdir()
    shutil.move(tmp_path / "corpus.jsonl", tmp_path / "my_corpus")
    for command in COMMANDS:
        if command in ELSEWHERE:
            continue
        *settings, program = re.fullmatch(RUN, command).groups()
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("RATCHET")
        }
        environment |= {
            "RATCHET_CACHE": str(tmp_path / "cache"),
            "RATCHET_BUDGET": "2e4tok",
            "RATCHET_DEVICE": "cpu",
        }
        environment |= dict(setting.split("=") for setting in settings[0].split())
        if environment["RATCHET_BUDGET"].endswith("s"):  # a shorter one: the suite has five minutes
            environment["RATCHET_BUDGET"] = "5s"
        program, *arguments = program.split()
        line = [sys.executable, str(ROOT / program), *arguments]
        done = subprocess.run(
            line,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            timeout=200,
            encoding="utf-8",
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    results = [json.loads(path.read_bytes()) for path in tmp_path.glob("runs/*/result.json")]
    assert len(results) == 2 and all(result["status"] == "ok" for result in results)


def test_every_line_of_the_summary_is_explained():
    explained = set(re.findall(r"`(\w+)`", README))
    assert {*SUMMARY} <= explained


def test_every_condition_is_documented():
    read = re.search(
        r"names = \((.*?)\)\n", (ROOT / "ratchet/arena/run.py").read_text(encoding="utf-8")
    )[1]
    assert set(re.findall(r"`RATCHET_(\w+)`", README)) == set(re.findall(r'"(\w+)"', read)) | {
        "CACHE"
    }


def test_every_verb_is_explained():
    verbs = {*typer.main.get_command(__main__.app).commands}
    assert verbs <= set(re.findall(r"`([\w-]+)", README))


def test_every_option_is_understood(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--help"])
    with pytest.raises(SystemExit):
        main()
    options = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {"--text", "--arena", "--context", "--vocab-size", "--seconds", "--shards"} <= options
    verbs = typer.main.get_command(__main__.app).commands.values()
    options |= {
        name
        for verb in verbs
        for option in verb.params
        for name in option.opts + option.secondary_opts
    }
    options |= {"--all-extras", "--extra", "--group"}  # of uv
    options |= {"--head", "--address", "--nproc-per-node"}  # of ray, torchrun
    options |= {"--permission-mode", "--output-format", "--sandbox", "--approval-mode"}  # of agents
    assert set(re.findall(r"--[a-z][a-z-]+", README)) <= options
