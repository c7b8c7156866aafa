"""Kills the referee at random moments of a series of tries: is anything torn, left running, locked
or lost?

    uv run benchmarks/kills.py [--kills 50] [--json]
    uv run benchmarks/kills.py --night --kills 20       a night with a scripted agent instead
    uv run benchmarks/kills.py --night --interrupt      by Ctrl-C: after how many seconds has it ended?

A repository and an arena of their own, a contestant that is ready in a second, budgets of one
second. After each kill -9 the ledger is read, processes and the device's lock are looked for, and
the same command is given again. At the end `ratchet verify` checks the chain, the commits and every
verdict.
"""

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.progress import track

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from ratchet.experiments.ledger import Broken, Ledger
from ratchet.night.journal import Journal

OPTIONS = ("--busy",)  # most are out after a run: a series of tries is finished between the kills
GRACE_SECONDS = 1.0  # after a kill, for the kernel to end what dies with the referee
LONGEST = 1.5  # the referee is killed after so many times what one run takes, at most


def prepare(folder):
    """A repository with an honest contestant, and a tiny arena in a cache of its own."""
    from conftest import make_repository, write_corpus

    environment = os.environ | {"RATCHET_CACHE": str(folder / "cache")}
    corpus = write_corpus(folder / "corpus.jsonl")
    options = ["--text", corpus, "--arena", "tiny", "--context", "64", "--vocab-size", "512"]
    subprocess.run(
        [sys.executable, ROOT / "prepare.py", *options], env=environment, check=True, stdout=2
    )
    make_repository(folder / "repository")
    for name in ("prepare.py", "program.md"):
        shutil.copy(ROOT / name, folder / "repository")
    for command in ("add -A", "commit -qm files"):
        subprocess.run(["git", *command.split()], cwd=folder / "repository", check=True)
    return environment


def ratchet(environment, repository, *words):
    command = [sys.executable, "-m", "ratchet", *words]
    return subprocess.Popen(
        command,
        cwd=repository,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def commit(repository, number):
    """A new source: one constant differs."""
    text = (ROOT / "tests/contestant.py").read_text(encoding="utf-8")
    (repository / "train.py").write_text(
        text.replace("WIDTH = 0.03, 16", f"WIDTH = 0.03, {17 + number}"), encoding="utf-8"
    )
    subprocess.run(["git", "commit", "-qam", f"width {17 + number}"], cwd=repository, check=True)


def orphans(folder):
    """Processes that work in the folder: their command or environment names it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline()) + " ".join(process.environ().values())
            if str(folder) in words and process.pid != os.getpid() and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            pass
    return found


def locked(cache):
    """Devices that nobody could use now."""
    count = 0
    for path in cache.glob(".device-*.lock"):
        with open(path, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                count += 1
    return count


AGENT = """import pathlib, random, re, sys, time
time.sleep(random.uniform(0, 2))
path = pathlib.Path("train.py")
width = random.randrange(10**6)  # an idea that is always new
path.write_text(f"IDEA = {width}\\n" + re.sub("^IDEA.*\\n", "", path.read_text()))
pathlib.Path("idea.txt").write_text(f"constant {width}\\n0.001\\n")
"""


class Tries:
    """A series of tries, each of another source."""

    def __init__(self, environment, repository):
        self.environment, self.repository, self.count = environment, repository, 0
        commit(repository, 0)

    def start(self, last=False):
        return ratchet(self.environment, self.repository, "try", f"try {self.count}", *OPTIONS)

    def ended(self):
        self.count += 1
        commit(self.repository, self.count)

    def facts(self):
        return {"tries": self.count}


class Nights:
    """One night, resumed again and again."""

    def __init__(self, environment, repository):
        self.environment, self.repository = environment, repository
        (repository.parent / "agent.py").write_text(AGENT, encoding="utf-8")

    def start(self, last=False):
        agent = f"{sys.executable} {self.repository.parent / 'agent.py'}"
        most = (
            ["--experiments", str(len(Journal(self.repository).list_verdicts()) + 1)]
            if last
            else []
        )
        options = [
            "--agent",
            agent,
            "--share",
            str(self.repository.parent / "agent.py"),
            "--busy",
            *most,
        ]
        return ratchet(self.environment, self.repository, "night", *options)

    def ended(self):
        raise SystemExit("the night ended by itself")

    def facts(self):
        journal = Journal(self.repository)
        numbers, events = journal.list_verdicts(), journal.last_night()
        ran = [e.n for e in Ledger(self.repository).experiments().values() if e.role == "try"]
        return {
            "nights": sum(event["kind"] == "begins" for event in journal.read_events()),
            "resumed": sum(event["kind"] == "resumes" for event in events),
            "verdicts": len(numbers),
            "noted_twice": len(numbers) - len({*numbers}),
            "not_noted": len({*ran} - {*numbers}),
            "ideas_left": len(journal.list_waiting()),
            "folders_left": len([*(self.repository.parent / "cache/.agents").glob("*")]),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--night", action="store_true")
    parser.add_argument("--interrupt", action="store_true", help="by Ctrl-C instead of kill -9")
    args = parser.parse_args()
    chance, begin = random.Random(args.seed), time.monotonic()
    seconds_to_end = []
    counts = dict(
        kills=0, torn_lines=0, cut_lines=0, orphans=0, locked=0, failed_commands=0, commands=0
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        environment, repository = prepare(folder), folder / "repository"
        first = ratchet(
            environment,
            repository,
            "calibrate",
            "-n",
            "4",
            "--arena",
            "tiny",
            "--budget",
            "1s",
            "--busy",
        )
        if first.wait():
            raise SystemExit(first.stderr.read().decode())
        longest = (
            LONGEST
            * sum(sum(run["seconds"].values()) for run in Ledger(repository).rows()[1:5])
            / 4
        )
        work = (Nights if args.night else Tries)(environment, repository)
        for _ in track(range(args.kills), "killing", disable=args.json):
            while True:
                process = work.start()
                counts["commands"] += 1
                try:
                    _, words = process.communicate(
                        timeout=chance.uniform(0, longest * (1 + 2 * args.night))
                    )
                except subprocess.TimeoutExpired:
                    break
                counts["failed_commands"] += process.returncode != 0
                if process.returncode:
                    print(words.decode(), file=sys.stderr)
                work.ended()
            moment = time.monotonic()
            process.send_signal(signal.SIGINT if args.interrupt else signal.SIGKILL)
            process.communicate()
            seconds_to_end.append(time.monotonic() - moment)
            time.sleep(GRACE_SECONDS)
            for process in (left := orphans(folder)):
                print("left running:", process, file=sys.stderr)
            counts["kills"] += 1
            counts["orphans"] += len(left)
            counts["locked"] += locked(folder / "cache")
            try:
                counts["cut_lines"] += bool(
                    Ledger(repository).cut_off_line()
                )  # the next command mends them
            except Broken as error:
                counts["torn_lines"] += 1
                print(error, file=sys.stderr)
        last = work.start(last=True)
        _, words = last.communicate()
        if last.returncode:
            counts["failed_commands"] += 1
            print(words.decode(), file=sys.stderr)
        experiments = Ledger(repository).experiments().values()
        commits = [e.arms[0]["commit"] for e in experiments if e.role == "try"]
        counts |= work.facts() | {
            "tried_twice": len(commits) - len({*commits}),
            "unfinished": sum(not e.closes for e in experiments),
        }
        command = [sys.executable, "-m", "ratchet", "verify", "--json"]
        here = dict(cwd=repository, env=environment | {"PYTHONPATH": str(ROOT)})
        verify = subprocess.run(command, **here, capture_output=True, encoding="utf-8")
        counts["problems_found_by_verify"] = len(json.loads(verify.stdout)["problems"])
    if args.interrupt:
        counts["slowest_ends_seconds"] = [round(s, 2) for s in sorted(seconds_to_end)[-5:]]
    counts["seconds"] = round(time.monotonic() - begin)
    print(json.dumps(counts, indent=2))
    if not args.json and not args.interrupt:
        name = "kills-night.json" if args.night else "kills.json"
        Path(__file__).with_name(name).write_text(
            json.dumps(counts, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
