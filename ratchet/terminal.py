"""The terminal: what is under way, as a line for each device that moves while runs last."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from typer.core import TyperGroup

from ratchet.arena.files import Refused

# Without any terminal, as for an agent, there is room for all columns of the log.
WIDTH = None if any(map(os.isatty, range(3))) or "COLUMNS" in os.environ else 140
NOTE = "  "  # with which a text begins that tells what has happened, not what begins
QUIET_SECONDS = 30  # without a terminal, until a line says what is still running
console = Console(highlight=False, emoji=False, width=WIDTH)
notes = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def local_time(utc: str) -> str:
    """A time of the ledger on the user's clock: "2026-01-31T03:05:06Z" -> "2026-01-31 04:05"."""
    return datetime.fromisoformat(utc).astimezone().strftime("%Y-%m-%d %H:%M")


def local_zone() -> str:
    """Of the user's clock. Example: "CET"."""
    return time.strftime("%Z")


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def is_interactive() -> bool:
    """Whether somebody can see a question on stderr and answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


UsageError = typer.BadParameter.__mro__[1]  # typer has its own copy of click, which isn't public


@contextmanager
def usage_in_a_sentence() -> Iterator[None]:
    """What typer has to say against the words of a command line is raised as Refused."""
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        problem = error.format_message().rstrip(".?").replace(". Did", "; did")
        verb = f"{error.ctx.info_name} " if error.ctx and error.ctx.parent else ""
        help_command = f"`uv run ratchet {verb}--help`"
        raise Refused(f"{problem[:1].lower()}{problem[1:]}: see {help_command}") from None


class Verbs(TyperGroup):
    """The verbs of a command line; a wrong or a missing word is refused in one sentence."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with usage_in_a_sentence():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with usage_in_a_sentence():
            return super().invoke(ctx)


class LiveLines:
    """A moving line for each device, and a lasting one for each run that has ended; on stderr.

    Without a terminal a plain line says every QUIET_SECONDS what is still running. Call it with a
    text to say what begins; one that begins with NOTE lasts, and nothing is running of it.
    """

    def __init__(self):
        columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
        self.is_moving = notes.is_terminal and not notes.is_dumb_terminal
        hidden = not self.is_moving
        self.progress = Progress(*columns, console=notes, transient=True, disable=hidden)
        self.tasks = {}  # of each thread: its last text, its moving line
        self.ended = threading.Event()

    def __enter__(self):
        self.progress.start()
        if not self.is_moving:
            threading.Thread(target=self.keep_reporting, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.progress.stop()

    def keep_reporting(self) -> None:
        while not self.ended.wait(QUIET_SECONDS):
            begun = (task for task in self.progress.tasks if not task.description.startswith(NOTE))
            for task in begun:
                notes.print(f"  {task.description.strip()}, {task.elapsed:.0f} s so far")

    def confirm(self, question: str) -> bool:
        """Ask on stderr; True if the answer is yes.

        Raises Refused, which names --yes, where no terminal shows the question.
        """
        if not is_interactive():
            raise Refused(f"{question}: give the command again with --yes if that is meant")
        self.progress.stop()  # its lines would hide the question
        try:
            return typer.confirm(f"{question}. Go on?", default=False, err=True)
        except typer.Abort:
            return False
        finally:
            self.progress.start()

    def __call__(self, text: str) -> None:
        for ended in self.tasks.keys() - {thread.ident for thread in threading.enumerate()}:
            self.progress.remove_task(self.tasks.pop(ended)[1])
        last_text, task = self.tasks.get(threading.get_ident(), ("", None))
        if text == last_text:
            return
        if task is not None:
            self.progress.remove_task(task)
        self.tasks[threading.get_ident()] = text, self.progress.add_task(escape(text))
        if text.startswith(NOTE) or not self.is_moving:
            notes.print(escape(text))
