"""A try in a process of its own: begun, waited for, stopped; its runs are drawn from a normal
distribution.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import made_up_night
import pytest
import typer
from conftest import ROOT, open_session
from test_experiments import SIGMA, calibrated, commit, invoke, repository, runs  # noqa: F401

from ratchet import __main__, commits
from ratchet.arena.files import Refused
from ratchet.experiments import trials
from ratchet.experiments.running import is_running, only_command
from ratchet.night.detached import starting, stopping, waiting
from ratchet.night.driver import STOP_FILE

# A command line whose runs are made up, and wait for a file that lets them go on.
PROGRAM = """\
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/tests/experiments"]
from made_up_runs import Runs
from ratchet import __main__
from ratchet.referee import trial
from ratchet.referee.devices import choice
runs = Runs()
def run_trial(job):
    while not Path("runs/go").exists():
        time.sleep(0.02)
    return runs(job)
trial.run_trial, choice.list_devices = run_trial, lambda: ["cpu"]
__main__.main()
"""
BETTER = 1.0 + 5 * SIGMA


@pytest.fixture
def place(monkeypatch):
    monkeypatch.setenv("RATCHET_ISOLATION", "none")  # saves a trial of the sandbox
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.02)


@pytest.fixture
def program(place, calibrated, tmp_path, monkeypatch):  # noqa: F811
    """A calibrated repository whose detached tries are by PROGRAM; the list of their processes."""
    path, processes, start = tmp_path / "program.py", [], starting.start_process
    path.write_text(PROGRAM.format(root=str(ROOT)), encoding="utf-8")
    monkeypatch.setattr(starting, "COMMAND", [sys.executable, str(path)])

    def start_process(*args):
        processes.append(start(*args))
        return processes[-1]

    monkeypatch.setattr(starting, "start_process", start_process)
    yield processes
    for process in processes:
        with suppress(ChildProcessError):  # it has ended, and somebody has taken note
            if os.waitpid(process.pid, os.WNOHANG) == (0, 0):
                os.kill(process.pid, signal.SIGKILL)
                os.waitpid(process.pid, 0)


def test_a_detached_try_goes_by_itself_to_its_verdict(program):
    commit("better", quality=BETTER)
    begun = invoke("try", "--detach", "a better one")
    assert begun.exit_code == 0 and "uv run ratchet wait 2" in begun.stdout
    assert "experiment 2 is tried now, log in runs/2/try.log" in begun.stdout
    assert os.getsid(program[0].pid) == program[0].pid  # no signal to the shell's group reaches it
    state = json.loads(invoke("status", "--json").stdout)
    assert state["experiment 2"].startswith('running, 0 runs so far, "a better one", log in runs/')
    second = invoke("try", "--detach", "a better one")
    assert str(second.exception).startswith("another experiment is running in this repository")
    assert not [*(commits.home() / "runs").glob(".try-*")]
    waited = invoke("wait", 2, "--seconds", 0)
    assert waited.exit_code == __main__.STILL_RUNS == 3 and not waited.stdout
    assert "experiment 2 has no verdict yet; its verdict: `uv run ratchet wait 2`" in waited.stderr
    (commits.home() / "runs/go").touch()
    waited = invoke("wait", 2)
    assert waited.exit_code == 0 and waited.stdout.startswith("experiment 2: keep, better: fresh")
    assert "\n  3: " in waited.stderr and "bpb (train 1.0 s)" in waited.stderr  # of its trial
    log = starting.log_of(commits.home(), 2).read_text(encoding="utf-8")
    assert log.startswith("experiment 2, run 1") and "\n  2: " in log
    known = invoke("try", "--detach", "a better one")
    assert known.exit_code == 0 and known.stdout == waited.stdout
    assert "this source was tried before, as experiment 2" in known.stderr


def test_a_stopped_try_goes_on_by_the_same_command(program):
    commit("better", quality=BETTER)
    assert json.loads(invoke("try", "--detach", "--json", "better").stdout)["state"] == "running"
    stopped = invoke("stop")
    assert "it has stopped: the same command goes on where it stopped" in stopped.stdout
    left = invoke("wait", 2)
    assert left.exit_code == 2 and left.stderr.strip() == (
        "ratchet: no process works on experiment 2, which has no verdict (it was stopped): give "
        f"the same command again at commit {commits.git_lines('rev-parse', 'HEAD')[0][:7]}, "
        "it goes on where it stopped."
    )
    (commits.home() / "runs/go").touch()
    assert "experiment 2" in invoke("try", "--detach", "better").stdout
    assert "experiment 2: keep" in invoke("wait", 2).stdout
    assert "going on with experiment 2" in starting.log_of(commits.home(), 2).read_text("utf-8")


def test_what_is_refused_is_refused_at_once(program):
    commit("better", quality=BETTER)
    with open("train.py", "a", encoding="utf-8") as file:
        file.write("# not committed\n")
    refused = invoke("try", "--detach", "dirty")
    sentence = "ratchet: train.py changed since the last commit: commit that first, "
    assert refused.exit_code == 2 and refused.stderr.startswith(sentence), refused.stderr
    assert len(open_session().experiments()) == 1


def test_a_champion_that_is_a_merge_was_tried_before(program, runs):  # noqa: F811
    made_up_night.begin(runs)
    for number in range(2):
        made_up_night.try_gain(number, 5.0)
    made_up_night.end(is_closed=False)
    subprocess.run(["git", "checkout", "-q", "refs/ratchet/champion"], check=True)
    known = invoke("try", "--detach", "the champion")
    n = open_session().read_campaign().kept[-1].n
    assert known.exit_code == 0 and known.stdout.startswith(f"experiment {n}: keep")
    assert f"this source was tried before, as experiment {n}" in known.stderr


@pytest.mark.parametrize("options", [{}, {"busy": True, "half_stop": False, "by": "me"}])
def test_a_detached_try_has_the_same_options(options):
    command = typer.main.get_command(__main__.app).commands["try"]
    defaults = command.make_context("try", ["an idea"]).params
    words = [*__main__.option_words({"half_stop": True} | options), "--", "--an idea"]
    assert command.make_context("try", words).params == defaults | options | {"idea": "--an idea"}


# --------------------------------------------------------------------------------------------------
# Waiting, stopping: what tries is a thread


@pytest.fixture
def gate(place, calibrated, runs, monkeypatch):  # noqa: F811
    """Runs wait until it has a permit for each."""
    commit("better", quality=BETTER)
    gate = threading.Semaphore(0)

    def run_trial(job):
        gate.acquire()
        return runs(job)

    monkeypatch.setattr("ratchet.referee.trial.run_trial", run_trial)
    return gate


@contextmanager
def tried_by_a_thread(gate):
    """Experiment 2 is tried meanwhile, by the one command of the repository; runs end after it."""

    def decide():
        with only_command(commits.home()):
            trials.decide_idea(open_session(), "better")

    thread = threading.Thread(target=decide)
    thread.start()
    while not any(e.n == 2 and is_running(commits.home(), 2) for e in experiments()):
        time.sleep(0.01)
    try:
        yield
    finally:
        gate.release(20)
        thread.join()


def experiments():
    return open_session().experiments()


def test_waiting_goes_on_through_the_trial_of_a_hit(gate):
    lines = []
    with tried_by_a_thread(gate):

        def tell(text):
            if lines[-1:] != [text]:
                lines.append(text)
                gate.release(1)

        e = waiting.wait_for_verdict(commits.home(), 2, 600, tell)
    assert e.verdict == "keep" and lines[0] == "waiting for experiment 2: run 1, about 1 s a run"
    trial = (
        r"waiting for experiment 3: run \d of \d, about \d s left"  # by scores, and who is faster
    )
    assert any(re.fullmatch(trial, line) for line in lines), lines
    ended = [line[:4] for line in lines if line.startswith("  ")]
    assert ended == ["  2:"] * len(e.runs) + ["  3:"] * len(experiments()[-1].runs)


def test_who_ends_the_waiting_ends_nothing_else(gate, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with tried_by_a_thread(gate):
        with monkeypatch.context() as patch:
            patch.setattr(waiting, "experiment_progress", interrupt)
            waited = invoke("wait", 2)
        assert waited.exit_code == 130
        again = "interrupted; the experiment goes on; its verdict: `uv run ratchet wait 2`"
        assert again in waited.stderr
        assert is_running(commits.home(), 2)
        late = invoke("wait", 2, "--seconds", 0, "--json")
        assert late.exit_code == 3 and json.loads(late.stdout)["state"] == "running"
    assert json.loads(invoke("wait", 2, "--json").stdout)["verdict"] == "keep"


def test_there_is_nothing_to_wait_for(place, calibrated):  # noqa: F811
    unknown = invoke("wait", 7)
    assert isinstance(unknown.exception, Refused)
    assert str(unknown.exception) == "there is no experiment 7: the ledger has 1, see `ratchet log`"
    assert "experiment 1: baseline" in invoke("wait", 1).stdout


def test_the_last_words_of_a_try_are_told(place, calibrated):  # noqa: F811
    log = starting.log_of(commits.home(), 1)
    log.parent.mkdir(parents=True, exist_ok=True)
    for last, told in [
        ("ratchet: experiment 1 waits.\n", " (experiment 1 waits)"),
        ("ratchet: interrupted; go on.\n", " (it was stopped)"),
        ("  a line of a run that was killed\n", ""),
        ("", ""),
    ]:
        log.write_text(f"experiment 1, run 1\n{last}", encoding="utf-8")
        assert waiting.last_words(commits.home(), 1) == told


def test_stop_is_an_interrupt_where_sigint_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.02)
    (tmp_path / "runs").mkdir()
    stop, before = tmp_path / STOP_FILE, signal.getsignal(signal.SIGUSR1)
    stop.touch()  # of an earlier night
    with pytest.raises(KeyboardInterrupt), stopping.stoppable(tmp_path):
        assert not stop.exists()
        stop.touch()
        time.sleep(60)
    assert not stop.exists() and signal.getsignal(signal.SIGUSR1) == before


def test_a_night_stops_when_it_likes(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(stopping, "TAKE_SECONDS", 0.1)
    with pytest.raises(Refused, match="nothing to stop"):
        (tmp_path / "runs").mkdir()
        stopping.stop_command(tmp_path)
    with only_command(tmp_path):
        assert not stopping.stop_command(tmp_path) and (tmp_path / STOP_FILE).exists()


# --------------------------------------------------------------------------------------------------
# An agent that sits here by day


def recipe():
    """The commands of program.md for an agent that works on its own, in order."""
    page = (ROOT / "program.md").read_text(encoding="utf-8")
    part = re.search("^## If you work on your own\n(.*?)^## ", page, re.M | re.S)[1]
    return re.findall(r"`((?:RATCHET_BUDGET=20s uv run|uv run|git|tail) [^`]+)`", part)


def give(command, number):
    """(exit code, what it prints) of a command of the recipe."""
    command = command.replace("<idea>", "rate").replace(" N", f" {number}")
    program, _, words = command.partition("uv run ratchet ")
    if not program:
        done = invoke(*shlex.split(words))
        return done.exit_code, done.output
    stub = f'uv() {{ shift; {sys.executable} "$@"; }}\n'
    done = subprocess.run(["sh", "-c", stub + command], capture_output=True, encoding="utf-8")
    return done.returncode, done.stdout + done.stderr


def test_an_agent_that_follows_program_md_comes_to_a_verdict(program, monkeypatch):
    """From a calibrated clone. Each command is over as soon as any shell may want."""
    shutil.copy(ROOT / ".gitignore", ".")
    subprocess.run(["git", "add", ".gitignore"], check=True)
    subprocess.run(["git", "commit", "-qm", "what a clone has"], check=True)
    assert invoke("calibrate", "--arena", "tiny", "--budget", "5s", "--yes").exit_code == 0
    (commits.home() / "runs/go").touch()
    number, outputs = "N", {}
    for command in recipe():
        if command == "uv run ratchet calibrate":
            continue  # the log isn't empty
        code, output = give(command, number)
        while code == __main__.STILL_RUNS:
            code, output = give(command, number)
        assert code == 0, (command, output)
        outputs[command.partition(" N")[0]] = output
        if command.startswith("git switch"):
            Path("train.py").write_text(f"QUALITY = {BETTER}\n", encoding="utf-8")
            subprocess.run(["git", "commit", "-qam", "a better rate"], check=True)
        if found := re.search(r"wait (\d+)", output):
            number = found[1]
    assert f"\nexperiment {number}: keep, better: fresh" in outputs["uv run ratchet wait"]
    assert "source:" in outputs["uv run ratchet show"]
    assert commits.git_lines("status", "--porcelain") == []


SETTINGS = json.loads((ROOT / ".claude/settings.json").read_text(encoding="utf-8"))["permissions"]


def is_allowed(command):
    """Whether a rule allows a command, as claude has them: a * stands for anything."""
    rules = (re.fullmatch(r"Bash\((.*)\)", rule) for rule in SETTINGS["allow"])
    patterns = [
        re.escape(rule[1]).replace(r"\ \*", "( .*)?").replace(r"\*", ".*") for rule in rules if rule
    ]
    return any(re.fullmatch(pattern, command) for pattern in patterns)


@pytest.mark.parametrize("command", [*recipe(), 'git commit -am "an idea"'])
def test_the_settings_of_claude_allow_what_program_md_asks_for(command):
    command, _, log = command.partition(" > ")
    assert is_allowed(command)
    assert not log or f"Edit(/{log.split()[0]})" in SETTINGS["allow"]


def test_the_settings_of_claude_allow_no_more():
    """A night, a doctor of an agent would start any program; an export, a report, a log of git's
    write anywhere. What git only reads claude allows by itself.
    """
    verbs = typer.main.get_command(__main__.app).commands
    allowed = {verb for verb in verbs if is_allowed(f"uv run ratchet {verb}")}
    assert {"try", "wait", "stop"} <= allowed and not allowed & {"night", "export", "report"}
    refused = "git push|rm train.py|uv run prepare.py|uv sync|git reset --hard"
    refused += "|git log --output=x|git switch main|uv run ratchet calibrate --yes|git commit --amend|git diff --output=x|uv run ratchet doctor --agent x"
    for command in refused.split("|"):
        assert not is_allowed(command)
    denied = {"prepare.py", "ledger.jsonl", "runs/**"}
    assert {f"Edit(/{name})" for name in denied} <= {*SETTINGS["deny"]}


def test_both_kinds_of_agents_are_told_where_to_read_on():
    page = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    assert (ROOT / "CLAUDE.md").read_text(encoding="utf-8") == "@AGENTS.md\n"
    assert "`program.md`" in page and "CONTRIBUTING.md" in page
