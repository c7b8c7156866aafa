"""Agents: ask a command for one edit of train.py, in a folder of its own, and see what it did.

Any program that reads a prompt on stdin and edits files in its working folder will do: `claude -p`,
`codex exec -`, `gemini`, each with the flag that lets it edit, a shell script. `{prompt}` in the
command stands for a file with the prompt, for programs that read none from stdin. The folder is a
small git repository of its own with train.py, prepare.py and program.md: nothing that an agent does
there reaches the real one. It runs in the contestants' sandbox, so that it sees no val rows, no
ledger, no referee; the network is open, because agents need their API.

What an agent prints and writes is data. It is parsed for a few fields, cleaned of what a terminal
obeys and of secrets, and never followed.
"""

import json
import os
import re
import shlex
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ratchet import commits
from ratchet.arena.files import Refused, cache_folder, replace_file, work_folder
from ratchet.git import run_git
from ratchet.referee import limits, sandbox, scoring, supervisor
from ratchet.referee.environment import agent_environment
from ratchet.referee.folders import remove_folder
from ratchet.referee.source import fingerprint
from ratchet.untrusted_text import clean_text

FILES = "prepare.py", "program.md"  # that lie beside train.py, not to be edited
# whatever the user's git is set to sign or to run
COMMIT = "-c user.name=ratchet -c user.email=@ -c commit.gpgsign=false -c core.hooksPath=/dev/null commit"
ANSWER = "idea.txt"  # first line: the idea; second: the gain in bpb that is expected of it
SECONDS = 1800  # for one answer
IDEA_CHARACTERS = 500
LAST_CHARACTERS = 100_000  # of what it said, in which an idea is looked for
# where agents keep their settings and sessions: seen and written by them, if they exist
SETTINGS = (
    ".claude .claude.json .codex .gemini .config/opencode .local/share/opencode .aider.conf.yml"
)
SETTINGS += " .config/claude .config/gh-copilot .cursor .qwen"
PROGRAMS = ".local/bin .local/lib .local/share/claude .nvm .npm-global .bun .volta .cargo/bin .deno"
SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


class Answer(NamedTuple):
    """What came of one call.

    outcome: idea, or why there is none: nothing (no change), files (another file was edited), crash
    (the agent failed), timeout, output, memory, processes, disk.
    """

    outcome: str
    reason: str = ""
    text: bytes = b""  # of train.py
    idea: str = ""
    gain: float | None = None  # in bpb, as the agent expects it
    seconds: float = 0.0
    cost: float = 0.0  # in dollars, where the agent tells it
    tokens: int = 0


class Agent:
    """A command that is asked again and again. share: more paths that it may read and write."""

    def __init__(self, command, folder, share=(), network=True):
        self.argv, self.folder = shlex.split(command), Path(folder)
        if not self.argv or not shutil.which(self.argv[0]):
            what = self.argv[0] if self.argv else command
            raise Refused(f"the agent {what!r} is not installed: give a command that is, or tuner")
        self.argv[0] = os.path.abspath(shutil.which(self.argv[0]))
        self.share, self.network, self.process, self.ended = share, network, None, False
        self.level, self.given = sandbox.best_level(), {}

    # --------------------------------------------------------------------------------------------------
    # One call

    def prepare(self, champion):
        """A fresh folder with the champion's train.py and what belongs to it, under git for the
        agent.
        """
        self.clear()
        work = self.folder / "work"
        work.mkdir(parents=True)
        (self.folder / "tmp").mkdir()
        self.given = {name: (commits.home() / name).read_bytes() for name in FILES}
        for name, data in (self.given | {"train.py": champion}).items():
            (work / name).write_bytes(data)
        for command in ("init -q", "add -A", f"{COMMIT} -qm champion"):
            run_git(work, *command.split())

    def ask(self, prompt, champion):
        """Have the command edit train.py in its folder, as the prompt says. Returns an Answer."""
        work, log = self.folder / "work", self.folder / "log"
        with suppress(FileNotFoundError):
            (work / ANSWER).unlink()
        (self.folder / "prompt").write_text(prompt, encoding="utf-8")
        argv = [str(self.folder / "prompt") if arg == "{prompt}" else arg for arg in self.argv]
        begin = time.monotonic()
        try:
            code = self.run(argv, work, log)
            answer = self.look(champion, code, log)
        except supervisor.EndedEarly as end:
            answer = Answer(end.status, str(end))
        seconds = time.monotonic() - begin
        log.write_text(self.masked(log.read_text(encoding="utf-8")), encoding="utf-8")
        said = parse(log.read_text(encoding="utf-8"))
        idea, gain = read_idea(work / ANSWER, said["text"])
        told = dict(seconds=seconds, cost=said["cost"], tokens=said["tokens"])
        reason = said["error"] if answer.outcome == "crash" and said["error"] else answer.reason
        return answer._replace(idea=idea, gain=gain, reason=self.masked(reason)[:300], **told)

    def run(self, argv, work, log):
        """The exit code of the command. Raises EndedEarly."""
        home = Path.home()
        programs = [home / name for name in PROGRAMS.split()]
        settings = [home / name for name in SETTINGS.split()] + [*map(Path, self.share)]
        view = sandbox.View(
            read=(
                self.folder / "prompt",
                Path(argv[0]),
                beside(Path(argv[0]).resolve()),
                *programs,
            ),
            write=(work, self.folder / "tmp", *settings),
            network=self.network,
        )
        argv, mark = sandbox.confined_command(argv, view, self.level), str(self.folder)
        supervisor.kill_marked(mark)
        env = agent_environment(self.folder)
        with open(self.folder / "prompt", "rb") as given:
            with supervisor.WatchedProcess(argv, env, work, log, mark, stdin=given) as process:
                self.process = process
                if self.ended:  # while it was being started
                    process.kill()
                try:
                    return process.wait(SECONDS)
                finally:
                    self.process = None

    def keep(self, folder):
        """Copy what it was asked, and the last of what it printed."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "prompt.md", (self.folder / "prompt").read_bytes())
        printed = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
        replace_file(folder / "log.txt", printed[-LAST_CHARACTERS:])

    def clear(self):
        """Remove its folder."""
        remove_folder(self.folder)

    def cancel(self):
        """End a call that another thread waits for; there will be no other."""
        self.ended = True
        if process := self.process:
            process.kill()

    def masked(self, text):
        """Without the values of environment variables that look like secrets."""
        secrets = (
            value for key, value in os.environ.items() if SECRET.search(key) and len(value) >= 8
        )
        for value in sorted(secrets, key=len, reverse=True):
            text = text.replace(value, "***")
        return text

    # --------------------------------------------------------------------------------------------------
    # What it did

    def look(self, champion, code, log):
        """An Answer from what lies in the folder."""
        work = self.folder / "work"
        for name in FILES:
            if contents(work / name) != self.given[name]:
                return Answer("files", f"it changed {name}: train.py is the only file to edit")
        text = contents(work / "train.py")
        if text is None or len(text) > limits.SOURCE_BYTES:
            return Answer("files", "its train.py is gone, is a link, or has data in it")
        if fingerprint(text)["source"] == fingerprint(champion)["source"]:
            if code:
                words = supervisor.read_tail(log) or ["no output"]
                return Answer("crash", f"{words[-1]:.200} (exit code {code})")
            return Answer(
                "nothing", "it left train.py as it was (may it edit files without being asked?)"
            )
        return Answer("idea", text=text)


def beside(program):
    """What an agent may read to start: the folder of its program, unless more than the program is
    there.

    A script in the repository or in somebody's home stands alone: beside it are the ledger, or
    keys.
    """
    secret = commits.home(), cache_folder(), work_folder(), Path.home()
    open_to_all = any(path.is_relative_to(program.parent) for path in secret)
    return program if open_to_all or program.is_relative_to(secret[0]) else program.parent


def contents(path):
    """Bytes of a regular file of bounded size, or None: an agent can leave links and pipes."""
    with suppress(OSError):
        facts = os.lstat(path)
        if stat.S_ISREG(facts.st_mode) and facts.st_size <= 2**22:
            return path.read_bytes()
    return None


def read_idea(path, text):
    """(idea, expected gain or None): from idea.txt, else from lines `IDEA:` and `GAIN:` of what it
    said.
    """
    lines = (contents(path) or b"").decode(errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    for word in () if len(lines) >= 2 else ("IDEA", "GAIN"):
        said = re.findall(rf"^[^\w\n]*{word}[^\w\n]*:(.+)", text[-LAST_CHARACTERS:], re.MULTILINE)
        lines += (
            [words.strip(" \t*_`") for words in said[-1:]] if word == "GAIN" or not lines else []
        )
    idea = clean_text(lines[0].encode(errors="replace"))[:IDEA_CHARACTERS] if lines else ""
    number = re.search(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", lines[1][:100]) if len(lines) > 1 else None
    gain = float(number[0]) if number else None
    return idea.removeprefix("IDEA:").strip(), gain if gain is not None and abs(gain) < 10 else None


def parse(log):
    """{"text", "cost", "tokens", "error"} of what an agent printed.

    That is plain text, one JSON object (`claude -p --output-format json`), or one a line
    (`--output-format stream-json`, `codex exec --json`).
    """
    found = {"text": "", "cost": 0.0, "tokens": 0, "error": ""}
    events = [*filter(None, map(event, log.splitlines()))] or [event(log)]
    for said in filter(None, events):
        item = said.get("item") if isinstance(said.get("item"), dict) else {}
        if item.get("type") == "agent_message" or isinstance(said.get("result"), str):
            found["text"] += str(item.get("text") or said.get("result") or "") + "\n"
        if said.get("is_error") or said.get("type") in ("error", "turn.failed"):
            found["error"] = str(
                said.get("result") or said.get("message") or said.get("error") or ""
            )
        found["cost"] += scoring.number_or_zero(said.get("total_cost_usd"))
        usage = said.get("usage") if said.get("type") in ("result", "turn.completed") else None
        if isinstance(usage, dict):
            counts = (
                scoring.number_or_zero(usage.get(key)) for key in ("input_tokens", "output_tokens")
            )
            found["tokens"] += int(sum(counts))
    return found if any(events) else found | {"text": log}


def event(line):
    """A JSON object, or None."""
    with suppress(ValueError, RecursionError):
        value = json.loads(line)
        return value if isinstance(value, dict) else None
    return None
