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

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from ratchet import commits
from ratchet.arena.files import Refused, is_full, replace_file
from ratchet.night.contract import write_contract
from ratchet.night.digest import MOST_TOKENS
from ratchet.night.programs.answers import (
    Answer,
    add_words,
    describe_cost,
    explain_failure,
    last_words_of,
)
from ratchet.night.programs.environment import (
    agent_environment,
    certificate_files,
    check_passed,
    own_variables,
)
from ratchet.night.programs.folder import (
    COPY_COMMITTED,
    IDEA_FILE,
    commit_all,
    find_edit,
    list_changed,
    read_source_file,
)
from ratchet.night.programs.home import PrivateHome, check_shared
from ratchet.night.programs.ideas import name_idea, read_idea
from ratchet.night.programs.installation import find_installation, find_missing
from ratchet.night.programs.known import (
    PROGRAM_FOLDERS,
    describe_bypass,
    expand_command,
    find_program,
)
from ratchet.night.programs.output import Output, parse_output
from ratchet.night.programs.prices import Price
from ratchet.referee import sandbox, supervisor
from ratchet.referee.folders import remove_folder

ANSWER_SECONDS = 1800
GIT_SECONDS = 60
LAST_CHARACTERS = 100_000  # of what it printed, which are kept
SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL|HEADERS", re.IGNORECASE)
# passwords in addresses, keys of APIs
SECRET_WORDS = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)|\bsk-[\w-]{12,}")


class Agent:
    """A command that is asked again and again.

    share: more paths that it may read and write. passed: names of variables of the environment that
    it gets beside those that its program needs. tell(sentence): what the user should know of it.
    digest_tokens: the most that it is told of what is known. price: of its tokens, where it tells
    no cost. has_dollars: whether the night has a limit of dollars.
    Raises Refused when the command is not installed, or a path or a variable can't be passed.
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
        price: Price | None = None,
        has_dollars: bool = False,
    ):
        self.level = sandbox.best_level()
        self.command = expand_command(command, self.level)
        self.is_expanded = self.command != command
        try:
            self.argv, self.folder = shlex.split(self.command), Path(folder)
        except ValueError as error:
            raise Refused(f"the agent {command!r} can't be read as words: {error}") from None
        self.program = find_program(self.argv)
        program = shutil.which(self.argv[0]) if self.argv else None
        if not program:
            name = self.argv[0] if self.argv else command
            advice = self.program.install or "name a command that is"
            raise Refused(f"the agent {name!r} is not installed: {advice}, or say tuner")
        check_passed(passed)
        check_shared(share)
        self.variables = own_variables(self.program, self.argv, passed, commits.project())
        self.private_home = PrivateHome(self.folder, self.program, share)
        self.installation = find_installation(Path(os.path.abspath(program)))
        self.argv[0] = str(self.installation.program)
        self.share, self.network, self.tell = share, network, tell
        self.digest_tokens, self.price, self.has_dollars = digest_tokens, price, has_dollars
        self.told = set()  # sentences, each once
        self.given = {}  # files beside train.py, not to be edited: {name: bytes}
        self.edit_before = b""  # train.py as it is given
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
            sentences += [f"{name} is called as it is, with a home that is empty but for --share"]
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
        self.edit_before = champion if edit is None else edit
        if edit is not None:
            (self.edit_folder / "train.py").write_bytes(edit)

    def ask(self, prompt: str, champion: bytes, idea: str = "") -> Answer:
        """Have the command edit train.py in its folder, as the prompt says.

        idea: what is to be repaired; it keeps its name unless the agent gives it another.
        """
        log = self.folder / "log"
        (self.edit_folder / IDEA_FILE).unlink(missing_ok=True)
        (self.folder / "prompt").write_text(prompt, encoding="utf-8")
        begin, tree = time.monotonic(), self.describe_tree()
        code, stopped = 0, None
        try:
            code = self.run_command(log)
        except supervisor.EndedEarly as end:
            stopped = end
        except BaseException:
            self.take_leave(tree)
            raise
        seconds, output = time.monotonic() - begin, Output()
        try:
            output = self.read_output(log)
            self.take_leave(tree)
            answer = self.judge(champion, idea, output, code, stopped)
        except Exception as error:  # whatever it left: the call is paid, so it has to be counted
            if is_full(error):
                raise
            words = self.hide_folders(self.mask(f"{type(error).__name__}: {error}"))
            answer = Answer("crash", add_words("its answer can't be read", words))
        return self.count_cost(answer._replace(seconds=seconds), output)

    def read_output(self, log: Path) -> Output:
        """What it printed; secrets in its log are masked."""
        printed = self.mask(log.read_text(encoding="utf-8"))
        log.write_text(printed, encoding="utf-8")
        return parse_output(printed)

    def judge(
        self,
        champion: bytes,
        idea: str,
        output: Output,
        code: int,
        stopped: supervisor.EndedEarly | None,
    ) -> Answer:
        """What came of a call, with the idea's name, without its time and cost."""
        answer = self.inspect_folder(champion, output, code, stopped)
        written, gain = read_idea(self.edit_folder / IDEA_FILE, output.text)
        if answer.outcome == "idea":
            written = written or idea or name_idea(output.last_message, champion, answer.text)
        if answer.outcome == "crash":
            self.tell_once(self.advise(output.last_lines(20)))
        return answer._replace(
            reason=self.hide_folders(answer.reason), idea=self.mask(written), gain=gain
        )

    def count_cost(self, answer: Answer, output: Output) -> Answer:
        """An answer with its tokens and cost, as its program or else the price tells them."""
        price = self.price or Price(0, 0)
        answer = answer._replace(
            cost=output.cost if output.tells_cost else price.cost_of(output),
            tokens=output.tokens,
            tells_cost=output.tells_cost,
            cached=output.cached,
        )
        if self.has_dollars:
            self.tell_once(describe_cost(answer, bool(self.price)))
        return answer

    def run_command(self, log: Path) -> int:
        """Its exit code. Raises supervisor.EndedEarly when it is stopped before it ends.

        Raises supervisor.Cancelled when cancel() did that.
        """
        prompt = self.folder / "prompt"
        argv = [word.replace("{prompt}", str(prompt)) for word in self.argv]
        with open(prompt, "rb") as stdin:
            code = self._run_confined(argv, self._view(), log, ANSWER_SECONDS, stdin)
        if self.is_cut_short:
            raise supervisor.Cancelled
        return code

    def _run_confined(
        self,
        argv: list[str],
        view: sandbox.View,
        log: Path,
        seconds: float,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
    ) -> int:
        mark, roots = str(self.folder), self.private_home.root_variables()
        argv = sandbox.confined_command(argv, view, self.level)
        supervisor.kill_marked(mark)
        environment = agent_environment(
            self.folder, self.variables, roots, self.installation.folders
        )
        with supervisor.WatchedProcess(
            argv, environment, self.edit_folder, log, mark, stdin=stdin
        ) as process:
            self.process = process
            if self.is_cancelled:  # while it was being started
                self.cancel()
            try:
                return process.wait(seconds)
            finally:
                self.process = None

    def copy_committed(self, target: Path) -> None:
        """Copy train.py of its commits into a new folder, within the sandbox, without network."""
        if self.is_cancelled:
            return
        argv = ["sh", "-c", COPY_COMMITTED, "sh", str(target)]
        view = dataclasses.replace(self._view(), network=False)
        with suppress(supervisor.EndedEarly):
            self._run_confined(argv, view, self.folder / "git.log", GIT_SECONDS)

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

    def advise(self, lines: list[str]) -> list[str]:
        """What the user can do where a program fails for want of a part that is hidden; else [].

        No agent is told of it: it would learn what there is on this machine.
        """
        if self.level == "none":
            return []
        view = self._view()
        missing = find_missing(lines, [*sandbox.SYSTEM, *view.read, *view.write])
        return [
            f"the agent says that it misses {path}, which it can't see: if that is a part of its "
            f"program, say --share {path}"
            for path in missing[:1]
        ]

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

    # ----------------------------------------------------------------------------------------------
    # What came of it

    def inspect_folder(
        self, champion: bytes, output: Output, code: int, stopped: supervisor.EndedEarly | None
    ) -> Answer:
        """What it did, from the files in its folder, its words and how it ended.

        An edit counts whatever the exit code is, unless it was stopped in the middle.
        """
        if read_source_file(self.edit_folder / "train.py") is None:
            return Answer("files", "its train.py is gone, is a link, or has data in it")
        known = [champion, self.edit_before]
        text = find_edit(self.edit_folder, known, self.copy_committed)
        if text is None and (stopped or code or output.error):
            return explain_failure(output, code, stopped)
        if stopped:
            return Answer(stopped.status, add_words(str(stopped), output.last_words()))
        if changed := list_changed(self.edit_folder, self.given):
            return Answer("files", f"it changed {changed[0]}: train.py is the only file to edit")
        if text is not None:
            return Answer("idea", text=text)
        how = "it left train.py as it was (may it edit files without being asked?)"
        return Answer("nothing", add_words(how, last_words_of(output.last_message)))

    def mask(self, text: str) -> str:
        return mask_secrets(text, self.private_home.list_secrets())

    def hide_folders(self, text: str) -> str:
        """Without names of this machine's folders: reasons are published."""
        return text.replace(f"{self.folder}/", "./").replace(f"{Path.home()}/", "~/")


# --------------------------------------------------------------------------------------------------
# What it printed


def mask_secrets(text: str, others: Iterable[str] = ()) -> str:
    """Without the values of environment variables that look like secrets, their words, and others.

    Nor the password of a proxy, and what looks like a key of an API.
    """
    values = [value for key, value in os.environ.items() if SECRET.search(key)] + [*others]
    secrets = {secret for value in values for secret in (value, *value.split())}
    for value in sorted(secrets, key=len, reverse=True):
        if len(value) >= 8:
            text = text.replace(value, "***")
    return SECRET_WORDS.sub("***", text)
