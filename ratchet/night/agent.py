"""Agents: ask a command for one edit of train.py, in a folder of its own.

Any program that reads a prompt on stdin, then edits files in its working folder, will do: `claude
-p`, `codex exec -`, `gemini`, each with the flags that let it edit, or a shell script. `{prompt}`
in the command stands for a file with the prompt, for programs that read none from stdin. The name
alone of a program that is known stands for the right command (programs/known.py). The folder
is a small git repository of its own with train.py, prepare.py, program.md and contract.md: nothing
that an agent does there reaches the real one. It runs in the contestants' sandbox, so it sees no
val rows, no ledger, no referee. The network is open, because agents need their API.

What an agent prints and writes is data. It is parsed for a few fields, cleaned of what a terminal
obeys and of secrets, and never followed.
"""

import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ratchet import commits
from ratchet.arena.files import Refused, read_untrusted, replace_file
from ratchet.git import read_path, run_git
from ratchet.night.contract import write_contract
from ratchet.night.digest import MOST_TOKENS
from ratchet.night.programs.environment import (
    agent_environment,
    certificate_files,
    check_passed,
    git_variables,
    own_variables,
)
from ratchet.night.programs.home import PrivateHome
from ratchet.night.programs.installation import find_installation, find_missing
from ratchet.night.programs.known import (
    PROGRAM_FOLDERS,
    describe_bypass,
    expand_command,
    find_program,
)
from ratchet.referee import limits, sandbox, scoring, supervisor
from ratchet.referee.folders import remove_folder
from ratchet.referee.source import fingerprint
from ratchet.untrusted_text import clean_text

# of the first commit: its hash is the same in all calls, so that a provider's cache finds a prompt
COMMIT_DATE = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "2000-01-01T00:00:00Z")
IDEA_FILE = "idea.txt"  # first line: the idea; second: the gain in bpb that is expected of it
ANSWER_SECONDS = 1800
IDEA_CHARACTERS = 500
LAST_CHARACTERS = 100_000  # of what it said, in which an idea is looked for
FILE_BYTES = 2**22  # of a file that is read from its folder
SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


class Answer(NamedTuple):
    """What came of one call.

    outcome: idea, or why there is none: nothing (no change), files (another file was edited), crash
    (the agent failed), service (the same, for want of service: a usage limit, an overloaded or lost
    server, no login; train.py is as it was), timeout, output, memory, processes, disk.
    """

    outcome: str
    reason: str = ""  # a sentence of at most 300 characters
    text: bytes = b""  # of train.py
    idea: str = ""
    gain: float | None = None  # in bpb, as the agent expects it
    seconds: float = 0.0
    cost: float = 0.0  # in dollars, where the agent reports it
    tokens: int = 0  # input and output, without what was read from a cache
    tells_cost: bool = False  # whether the agent reports one
    cached: int = 0  # tokens that were read from a cache
    resume_at: float | None = None  # Unix time at which service is said to come back


class Output(NamedTuple):
    """What an agent printed, as far as it is understood."""

    text: str = ""
    cost: float = 0.0  # in dollars
    tokens: int = 0
    error: str = ""


class Agent:
    """A command that is asked again and again.

    share: more paths that it may read and write. passed: names of variables of the environment that
    it gets beside those that its program needs. tell(sentence): what the user should know of it.
    digest_tokens: the most that it is told of what is known.
    Raises Refused when the command is not installed, or a variable can't be passed.
    """

    def __init__(
        self,
        command: str,
        folder: Path,
        share: Sequence[str | Path] = (),
        network: bool = True,
        passed: Sequence[str] = (),
        tell: Callable[[str], None] = lambda sentence: None,
        digest_tokens: int = MOST_TOKENS,
    ):
        self.level = sandbox.best_level()
        self.command = expand_command(command, self.level)
        self.is_expanded = self.command != command
        self.argv, self.folder = shlex.split(self.command), Path(folder)
        self.program = find_program(self.argv)
        program = shutil.which(self.argv[0]) if self.argv else None
        if not program:
            name = self.argv[0] if self.argv else command
            advice = self.program.install or "name a command that is"
            raise Refused(f"the agent {name!r} is not installed: {advice}, or say tuner")
        check_passed(passed)
        self.variables = own_variables(self.program, self.argv, passed, commits.project())
        self.private_home = PrivateHome(self.folder, self.program, share)
        self.installation = find_installation(Path(os.path.abspath(program)))
        self.argv[0] = str(self.installation.program)
        self.share, self.network, self.tell = share, network, tell
        self.digest_tokens = digest_tokens
        self.told = set()  # sentences, each once
        self.given = {}  # files beside train.py, not to be edited: {name: bytes}
        self.process, self.is_cancelled, self.is_cut_short = None, False, False

    @property
    def edit_folder(self) -> Path:
        """The folder that it edits train.py in."""
        return self.folder / "work"

    def tell_once(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            if sentence not in self.told:
                self.told.add(sentence)
                self.tell(f"  {sentence}")

    def describe_view(self) -> list[str]:
        """What it is called by, and what of the user's it sees, in sentences."""
        name = Path(self.argv[0]).name
        sentences = [f"{name} is called by: {self.command}"] * self.is_expanded
        if self.program.names:
            name = self.program.names[0]
            sentences += [f"{name} gets a copy of its settings and logins (docs/nights.md)"]
        else:
            sentences += [f"{name} is no program known here: its home is empty but for --share"]
        if self.variables:
            sentences.append(f"passes {', '.join(self.variables)} to the agent")
        if self.level == "landlock" and self.network:
            sentences.append(
                "Landlock leaves the agent the sockets of Docker, tmux, your desktop, by which it "
                "could run anything: install bubblewrap, or say --no-network"
            )
        if self.level == "none" and self.command == self.program.own_sandbox:
            sentences.append(f"there is no sandbox here but {name}'s own")
        elif self.level == "none":
            sentences.append(
                "there is no sandbox here: nothing but its good will keeps the agent in its folder"
            )
            sentences += describe_bypass(self.argv)
        return sentences

    # ----------------------------------------------------------------------------------------------
    # One call

    def prepare_folder(self, champion: bytes, edit: bytes | None = None) -> None:
        """A fresh folder under git with the champion's train.py and what belongs to it.

        edit: the train.py of an idea that is to be repaired, to begin with.
        """
        self.clean_up()
        self.edit_folder.mkdir(parents=True)
        (self.folder / "tmp").mkdir()
        self.tell_once(self.private_home.make_copy())
        home = commits.home()
        self.given = {name: (home / name).read_bytes() for name in ("prepare.py", "program.md")}
        self.given["contract.md"] = write_contract().encode()
        for name, data in (self.given | {"train.py": champion}).items():
            (self.edit_folder / name).write_bytes(data)
        commit_all(self.edit_folder)
        if edit is not None:
            (self.edit_folder / "train.py").write_bytes(edit)

    def ask(self, prompt: str, champion: bytes) -> Answer:
        """Have the command edit train.py in its folder, as the prompt says."""
        log = self.folder / "log"
        (self.edit_folder / IDEA_FILE).unlink(missing_ok=True)
        (self.folder / "prompt").write_text(prompt, encoding="utf-8")
        begin, tree = time.monotonic(), self.describe_tree()
        try:
            answer = self.inspect_folder(champion, self.run_command(log), log)
        except supervisor.EndedEarly as end:
            answer = Answer(end.status, str(end))
        finally:
            self.take_leave(tree)
        seconds = time.monotonic() - begin
        secrets = self.private_home.list_secrets()
        printed = mask_secrets(log.read_text(encoding="utf-8"), secrets)
        log.write_text(printed, encoding="utf-8")
        output = parse_output(printed)
        idea, gain = read_idea(self.edit_folder / IDEA_FILE, output.text)
        reason = output.error if answer.outcome == "crash" and output.error else answer.reason
        return answer._replace(
            idea=idea,
            gain=gain,
            reason=mask_secrets(reason, secrets)[:300],
            seconds=seconds,
            cost=output.cost,
            tokens=output.tokens,
        )

    def run_command(self, log: Path) -> int:
        """Its exit code. Raises supervisor.EndedEarly when it is stopped before it ends.

        Raises supervisor.Cancelled when cancel() did that.
        """
        prompt, mark = self.folder / "prompt", str(self.folder)
        argv = [str(prompt) if word == "{prompt}" else word for word in self.argv]
        argv = sandbox.confined_command(argv, self._view(), self.level)
        supervisor.kill_marked(mark)
        with open(prompt, "rb") as stdin:
            environment = agent_environment(
                self.folder,
                self.variables,
                self.private_home.root_variables(),
                self.installation.folders,
            )
            with supervisor.WatchedProcess(
                argv, environment, self.edit_folder, log, mark, stdin=stdin
            ) as process:
                self.process = process
                if self.is_cancelled:  # while it was being started
                    self.cancel()
                try:
                    code = process.wait(ANSWER_SECONDS)
                finally:
                    self.process = None
                if self.is_cut_short:
                    raise supervisor.Cancelled
                return code

    def describe_tree(self) -> list[bytes]:
        """What the agent could change of the user's working tree where there is no sandbox."""
        if self.level != "none":
            return []
        return [commits.git(*words) for words in (("rev-parse", "HEAD"), ("diff", "HEAD"))]

    def take_leave(self, tree: list[bytes]) -> None:
        """When all of it has ended: keep what it may leave in the user's home, tell the rest.

        tree: describe_tree() before it began.
        """
        changed = self.private_home.list_changes()
        self.tell_once(f"{name} was changed in the agent's copy: thrown away" for name in changed)
        self.tell_once(self.private_home.keep_logins())
        if self.describe_tree() != tree:
            self.tell_once(
                ["your working tree changed while the agent was at work: see `git diff`"]
            )

    def _view(self) -> sandbox.View:
        """What of the machine it sees."""
        programs = [Path.home() / name for name in PROGRAM_FOLDERS]
        started = self.folder / "prompt", *self.installation.read
        own = self.edit_folder, self.folder / "tmp", self.private_home.path
        return sandbox.View(
            read=(*started, *programs, *certificate_files()),
            write=(*own, *map(Path, self.share)),
            network=self.network,
            texts=True,
        )

    def advise(self, lines: list[str]) -> str:
        """What to do where a program fails for want of a part of it that is hidden; else ""."""
        if self.level == "none":
            return ""
        view = self._view()
        missing = find_missing(lines, [*sandbox.SYSTEM, *view.read, *view.write])
        return f": it can't see {missing[0]}: say --share {missing[0]}" if missing else ""

    def save_call(self, folder: Path) -> None:
        """Copy what it was asked, and the last of what it printed. Raises Full without room."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "prompt.md", (self.folder / "prompt").read_bytes())
        printed = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
        replace_file(folder / "log.txt", printed[-LAST_CHARACTERS:])

    def clean_up(self) -> None:
        """Delete its folder, with its home; of a night that was killed, too."""
        self.private_home.keep_logins()
        remove_folder(self.folder)

    def cancel(self) -> None:
        """End a call that another thread waits for; there will be no other.

        An answer that is complete by then is one.
        """
        self.is_cancelled = True
        if process := self.process:
            self.is_cut_short = self.is_cut_short or process.popen.poll() is None
            process.kill()

    def inspect_folder(self, champion: bytes, code: int, log: Path) -> Answer:
        """What it did, from the files in its folder and its exit code."""
        for name, data in self.given.items():
            if read_regular_file(self.edit_folder / name) != data:
                return Answer("files", f"it changed {name}: train.py is the only file to edit")
        text = read_regular_file(self.edit_folder / "train.py")
        if text is None or len(text) > limits.SOURCE_BYTES:
            return Answer("files", "its train.py is gone, is a link, or has data in it")
        if fingerprint(text)["source"] != fingerprint(champion)["source"]:
            return Answer("idea", text=text)
        if code:
            lines = supervisor.read_tail(log) or ["no output"]
            return Answer("crash", f"{lines[-1]:.200} (exit code {code}){self.advise(lines)}")
        return Answer(
            "nothing", "it left train.py as it was (may it edit files without being asked?)"
        )


def commit_all(folder: Path) -> None:
    """Make a folder a repository with one commit. Raises Refused: git works in another one."""
    more = git_variables(folder.parent) | COMMIT_DATE
    run_git(folder, "init", "-q", "-b", "main", more=more)
    top = read_path(run_git(folder, "rev-parse", "--show-toplevel", more=more))
    if Path(top) != folder.resolve():
        raise Refused(f"git takes {folder} for a part of {top}: see `git config --list`")
    run_git(folder, "add", "-A", more=more)
    run_git(folder, "commit", "-q", "-m", "champion", more=more)


# --------------------------------------------------------------------------------------------------
# What it printed, what it wrote


def mask_secrets(text: str, others: Iterable[str] = ()) -> str:
    """Without the values of environment variables that look like secrets, and without others."""
    secrets = [value for key, value in os.environ.items() if SECRET.search(key)] + [*others]
    for value in sorted(secrets, key=len, reverse=True):
        if len(value) >= 8:
            text = text.replace(value, "***")
    return text


def read_regular_file(path: Path) -> bytes | None:
    """A regular file of bounded size, else None: an agent can leave links and pipes."""
    with suppress(OSError):
        return read_untrusted(path, FILE_BYTES)
    return None


def read_idea(path: Path, text: str) -> tuple[str, float | None]:
    """(idea, expected gain in bpb or None), from idea.txt, else from what the agent said.

    There they are in lines like `IDEA: wider heads` and `GAIN: 0.004`.
    """
    written = (read_regular_file(path) or b"").decode(errors="replace")
    idea, gain, *_ = [*filter(None, map(str.strip, written.splitlines())), "", ""]
    if not gain:
        idea, gain = idea or last_field("IDEA", text), last_field("GAIN", text)
    idea = clean_text(idea.encode(errors="replace"))[:IDEA_CHARACTERS]
    return idea.removeprefix("IDEA:").strip(), parse_gain(gain)


def last_field(name: str, text: str) -> str:
    """The rest of the last line that begins with `name:`, without Markdown; "" if none does."""
    pattern = rf"^[^\w\n]*{name}[^\w\n]*:(.+)"
    values = re.findall(pattern, text[-LAST_CHARACTERS:], re.MULTILINE)
    return values[-1].strip(" \t*_`") if values else ""


def parse_gain(words: str) -> float | None:
    """The first number in these words, None if it can't be a gain in bpb."""
    number = re.search(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", words[:100])
    gain = float(number[0]) if number else None
    return gain if gain is not None and abs(gain) < 10 else None


def parse_output(log: str) -> Output:
    """What an agent printed: plain text or JSON.

    JSON is one object (`claude -p --output-format json`), or one a line (`--output-format
    stream-json`, `codex exec --json`).
    """
    events = [*filter(None, map(parse_object, log.splitlines()))]
    events = events or [*filter(None, [parse_object(log)])]
    if not events:
        return Output(log)
    errors = [*filter(None, map(error_of, events))]
    return Output(
        text="".join(map(words_of, events)),
        cost=sum(scoring.number_or_zero(event.get("total_cost_usd")) for event in events),
        tokens=sum(map(tokens_of, events)),
        error=errors[-1] if errors else "",
    )


def parse_object(line: str) -> dict | None:
    """A JSON object, or None."""
    with suppress(ValueError, RecursionError):
        value = json.loads(line)
        return value if isinstance(value, dict) else None
    return None


def words_of(event: dict) -> str:
    item = event.get("item") if isinstance(event.get("item"), dict) else {}
    if item.get("type") == "agent_message" or isinstance(event.get("result"), str):
        return str(item.get("text") or event.get("result") or "") + "\n"
    return ""


def error_of(event: dict) -> str:
    if event.get("is_error") or event.get("type") in ("error", "turn.failed"):
        return str(event.get("result") or event.get("message") or event.get("error") or "")
    return ""


def tokens_of(event: dict) -> int:
    usage = event.get("usage") if event.get("type") in ("result", "turn.completed") else None
    if not isinstance(usage, dict):
        return 0
    counts = (scoring.number_or_zero(usage.get(key)) for key in ("input_tokens", "output_tokens"))
    return int(sum(counts))
