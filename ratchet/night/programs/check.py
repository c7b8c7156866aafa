"""One cheap call of an agent, as a night makes them: does it start, log in, edit, tell its cost?"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ratchet import commits
from ratchet.arena.files import sha256, work_folder
from ratchet.night.agent import Agent, Answer
from ratchet.night.service import format_moment, lacks_login
from ratchet.night.team.authors import TUNER
from ratchet.referee import supervisor
from ratchet.untrusted_text import quote_text

TRAIN = b"RATE = 0.02\n"
PROMPT = """\
This is a test of whether you can edit files here. In `train.py`, in this folder, change RATE from
0.02 to 0.03. Then write a file `idea.txt` with two lines: "A larger rate." and "0.001". Read no
other file, run nothing, commit nothing, and stop."""
VERSION = re.compile(r"(?<!\d)\d{1,12}\.\d+[\w.+-]*")


class Check(NamedTuple):
    """What was tried, whether it went well, what was seen, what to do if it didn't."""

    name: str
    well: bool
    seen: str
    advice: str = ""


def check_agent(
    command: str, share: Sequence[str] = (), network: bool = True, passed: Sequence[str] = ()
) -> list[Check]:
    """Ask for the edit of one constant, in a folder like a night's: one call, which is paid for.

    command, share, network, passed: as of Agent. Raises Refused when it is not installed.
    """
    if command == TUNER:
        return [Check("installed", True, "the tuner is built in: it needs no call to be tried")]
    folder = work_folder() / ".agents" / f"check-{sha256(str(commits.home()).encode())[:12]}"
    said: list[str] = []
    agent = Agent(command, folder, share, network, passed, said.append)
    try:
        agent.prepare_folder(TRAIN)
        version = find_version(agent)
        answer = agent.ask(PROMPT, TRAIN)
    finally:
        agent.clean_up()
    place = f"{agent.argv[0]}, version {version}" if version else agent.argv[0]
    sees = [Check("sees", True, sentence) for sentence in agent.describe_view()]
    leaves = [Check("leaves", True, sentence.strip()) for sentence in said]
    return [Check("installed", True, place), *sees, *check_answer(agent, answer), *leaves]


def find_version(agent: Agent) -> str:
    """As the program says in the sandbox; "" of an unknown one, which could do anything."""
    if Path(agent.argv[0]).name not in agent.program.names:
        return ""
    argv, log = agent.argv, agent.folder / "log"
    agent.argv = [argv[0], "--version"]
    (agent.folder / "prompt").write_bytes(b"")
    try:
        with suppress(supervisor.EndedEarly):
            agent.run_command(log)
        versions = VERSION.findall("\n".join(supervisor.read_tail(log)))
        return versions[0] if versions else ""
    finally:
        agent.argv = argv


def check_answer(agent: Agent, answer: Answer) -> Iterator[Check]:
    """What the call shows. What failed is not blamed on what comes after it."""
    is_edited = answer.outcome == "idea"
    words = quote_text(answer.reason, 300)
    name = agent.program.names[0] if agent.program.names else agent.argv[0]
    has_failed = answer.outcome not in ("idea", "nothing", "files")
    if has_failed and lacks_login(answer.reason):
        advice = f"start {name} by hand and log in, or pass its key with --pass NAME"
        yield Check("logged in", False, words, advice)
    elif has_failed:
        yield Check("answers", False, f"{answer.outcome}: {words}", advise_failure(name, answer))
    else:
        yield Check("logged in", True, f"it answered in {answer.seconds:.0f} s")
        advice = "give it the flag that lets it edit files without being asked (docs/agents.md)"
        yield Check("edits train.py", is_edited, "it did" if is_edited else words, advice)
    if is_edited:
        gain = "no gain" if answer.gain is None else f"a gain of {answer.gain:g}"
        seen = f"{quote_text(answer.idea, 80)}, {gain}" if answer.idea else "none"
        yield Check(
            "says its idea", bool(answer.idea), seen, "a night does without: its log is poorer"
        )
        yield check_cost(answer)


def advise_failure(name: str, answer: Answer) -> str:
    """What to do about a program that failed for a reason of its own, or of its service."""
    if answer.resume_at:
        return f"its service is said to be back at {format_moment(answer.resume_at)}: wait for that"
    return f"start {name} by hand in another folder: does it work there? See docs/agents.md"


def check_cost(answer: Answer) -> Check:
    """Whether it says what it costs; without that, --dollars needs prices."""
    tokens = f"{answer.tokens:,} tokens" if answer.tokens else "no tokens"
    if answer.tells_cost:
        return Check("tells its cost", True, f"${answer.cost:.4f} for this call, {tokens}")
    advice = "--dollars needs --price IN,OUT then, or say --calls"
    return Check("tells its cost", False, f"no dollars, {tokens}", advice)


def does_work(checks: Sequence[Check]) -> bool:
    """Whether a night can use it: all but what it says of itself went well."""
    return all(
        check.well for check in checks if check.name not in ("says its idea", "tells its cost")
    )
