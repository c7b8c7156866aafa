"""Runs a command of the user's when something happens in a night.

It runs outside of the sandbox, in the user's environment, so no text of an agent is ever a word of
it: what happened is in its environment and on its stdin.
"""

import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ratchet.arena.files import Refused
from ratchet.untrusted_text import clean_text, quote_text

MOST_SECONDS = 30  # that the command may take
# Variables that it always gets, "" where they say nothing; with RATCHET_ before them.
NAMES = "EVENT", "TEXT", "EXPERIMENT", "BPB", "GAIN", "UNTIL"


class Notifier:
    """Runs the command for each event, in a thread of its own: it can't block or break a night.

    command: words as a shell splits them; "" does nothing. folder: in which it runs. Raises Refused
    if there is no such program.

    Example: Notifier('mail -s "a night" me', home, tell)("keep", "experiment 3 is kept", bpb=1.2)
    """

    def __init__(self, command: str, folder: Path, tell: Callable[[str], Any]):
        try:
            self.argv = shlex.split(command)
        except ValueError as error:
            raise Refused(f"--notify {command!r} is not understood ({error})") from None
        if self.argv and not shutil.which(self.argv[0]):
            name = self.argv[0]
            raise Refused(f"--notify: {name!r} is not installed: name a command that is")
        self.folder, self.tell = folder, tell
        self.has_failed = False
        self.threads: list[threading.Thread] = []

    def __call__(self, event: str, text: str, **values: object) -> None:
        """event: keep, waits, ends or fails. values: of the other NAMES, in small letters."""
        if not self.argv:
            return
        text = one_line(text)
        said = dict.fromkeys(NAMES, "") | {"EVENT": event, "TEXT": text}
        said |= {name.upper(): one_line(str(value)) for name, value in values.items()}
        variables = {f"RATCHET_{name}": value for name, value in said.items()}
        thread = threading.Thread(target=self._run, args=(variables, text), daemon=True)
        self.threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Until all commands have ended: their time is bounded."""
        for thread in self.threads:
            thread.join()

    def _run(self, values: dict[str, str], text: str) -> None:
        try:
            failure = run_bounded(self.argv, values, text, self.folder)
        except Exception as error:  # of a thread nobody would see it
            failure = f"{type(error).__name__}: {error}"
        if failure and not self.has_failed:
            self.has_failed = True
            self.tell(f"  --notify failed, which is told once: {failure}")


def run_bounded(argv: list[str], values: dict[str, str], text: str, folder: Path) -> str:
    """Why a command failed, or "": the text is on its stdin. After MOST_SECONDS it is killed."""
    with subprocess.Popen(
        argv,
        cwd=folder,
        env=os.environ | values,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(text.encode() + b"\n", MOST_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return f"it did not end within {MOST_SECONDS} seconds"
    if not process.returncode:
        return ""
    words = clean_text(said).strip().splitlines()[-1:]
    return f"exit code {process.returncode}" + (f", {quote_text(words[0], 200)}" if words else "")


def one_line(text: str) -> str:
    """Text that an environment and a terminal can take."""
    return " ".join(clean_text(text.encode(errors="replace")).split())
