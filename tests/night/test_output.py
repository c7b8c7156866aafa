"""What programs print: their words, tokens, costs, why they failed, when service comes back."""

import errno
import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from test_experiments import repository  # noqa: F401
from typer.testing import CliRunner

from ratchet import __main__
from ratchet.arena.files import Refused
from ratchet.night import agent as night_agent
from ratchet.night.programs import ideas
from ratchet.night.programs.environment import agent_environment
from ratchet.night.programs.failures import MOST_SECONDS, find_resume_time, is_no_service
from ratchet.night.programs.home import parse_json, words_of
from ratchet.night.programs.output import parse_output
from ratchet.night.programs.prices import Price, parse_price
from ratchet.referee import supervisor

# --------------------------------------------------------------------------------------------------
# Shapes of what each program prints, and what is read from them

WORDS = "I widened the heads.\n\nIDEA: wider heads\nGAIN: 0.004"


def claude(**more):
    usage = {
        "input_tokens": 700,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 9000,
        "output_tokens": 50,
    }
    event = {"type": "result", "subtype": "success", "is_error": False, "api_error_status": None}
    event |= {"num_turns": 3, "result": WORDS, "total_cost_usd": 0.25, "usage": usage}
    return event | more


CLAUDE_STREAM = [
    {"type": "system", "subtype": "init", "cwd": "/work", "tools": ["Edit"]},
    {"type": "assistant", "message": {"content": [{"type": "tool_use", "input": {"a": 1}}]}},
    {"type": "user", "message": {"content": [{"type": "tool_result", "content": "{}"}]}},
    {"type": "rate_limit_event", "rate_limit_info": {"status": "allowed", "resetsAt": 9}},
    {"type": "assistant", "message": {"content": [{"type": "text", "text": WORDS}]}},
    claude(),
]
CODEX = [
    {"type": "thread.started", "thread_id": "1"},
    {"type": "item.completed", "item": {"type": "error", "message": "no metadata of the model"}},
    {"type": "turn.started"},
    {"type": "error", "message": "Reconnecting... 1/5 (stream disconnected)"},
    {"type": "item.completed", "item": {"type": "reasoning", "text": "IDEA: not this"}},
    {"type": "item.completed", "item": {"type": "agent_message", "text": WORDS}},
    {
        "type": "turn.completed",
        "usage": {"input_tokens": 10000, "cached_input_tokens": 9000, "output_tokens": 50},
    },
]
GEMINI_TOKENS = {"input": 1000, "prompt": 10000, "cached": 9000, "candidates": 40, "thoughts": 10}
GEMINI = {
    "session_id": "1",
    "response": WORDS,
    "stats": {
        "models": {"pro": {"tokens": GEMINI_TOKENS, "roles": {"main": {"tokens": GEMINI_TOKENS}}}},
        "tools": {"totalCalls": 3},
    },
}
GEMINI_STREAM = [
    {"type": "init", "session_id": "1", "model": "pro"},
    {"type": "message", "role": "user", "content": "IDEA: of the prompt"},
    {"type": "message", "role": "assistant", "content": WORDS[:30], "delta": True},
    {"type": "message", "role": "assistant", "content": WORDS[30:], "delta": True},
    {"type": "error", "severity": "warning", "message": "loop detected"},
    {
        "type": "result",
        "status": "success",
        "stats": {"input_tokens": 10000, "input": 1000, "cached": 9000, "output_tokens": 50},
    },
]


def step(reason, cost):
    tokens = {"input": 400, "output": 20, "reasoning": 5, "cache": {"write": 100, "read": 4500}}
    part = {"type": "step-finish", "reason": reason, "tokens": tokens, "cost": cost}
    return {"type": "step_finish", "sessionID": "s", "part": part}


OPENCODE = [
    {"type": "step_start", "sessionID": "s", "part": {"type": "step-start"}},
    {"type": "tool_use", "sessionID": "s", "part": {"tool": "edit", "state": {"output": "{}"}}},
    step("tool-calls", 0.1),
    {"type": "text", "sessionID": "s", "part": {"type": "text", "text": WORDS}},
    step("stop", 0.15),
]
AIDER = f"""Update git name with: git config user.name "Your Name"
HTTPSConnectionPool(host='x', port=443): Max retries exceeded (NameResolutionError)
Aider v0.86.2
Model: openai/x with diff edit format
Added train.py to the chat.

{WORDS}

Tokens: 10k sent, 9k cache hit, 50 received. Cost: $0.25 message, $0.25 session.
Applied edit to train.py
"""


def lines(events):
    return "\n".join(map(json.dumps, events))


SHAPES = {
    "claude": (json.dumps(claude()), 0.25),
    "claude, array": (json.dumps(CLAUDE_STREAM), 0.25),
    "claude, pretty": (json.dumps(CLAUDE_STREAM, indent=2), 0.25),
    "claude, stream": (lines(CLAUDE_STREAM), 0.25),
    "codex": (lines(CODEX), None),
    "gemini": (json.dumps(GEMINI, indent=2), None),
    "gemini, stream": (lines(GEMINI_STREAM), None),
    "opencode": (lines(OPENCODE), 0.25),
    "aider": (AIDER, 0.25),
}
NOISE = "npm notice New version {1.2}!\n[STARTUP] a phase\n(node:7) Warning: [DEP0040] {\n"


@pytest.mark.parametrize("noise", ["", NOISE], ids=["plain", "noise"])
@pytest.mark.parametrize("log, cost", SHAPES.values(), ids=SHAPES)
def test_each_program_is_understood(log, cost, noise, tmp_path):
    between = log.replace("\n{", f"\n{noise}{{") if "\n{" in log[:5000] and log[0] == "{" else log
    output = parse_output(f"{noise}{between}\n{noise}")
    assert ideas.read_idea(tmp_path / "none", output.text) == ("wider heads", 0.004)
    assert (output.input, output.output, output.cached) == (1000, 50, 9000)
    assert (output.cost, output.tells_cost) == (cost or 0.0, cost is not None)
    assert not output.error and not output.status and output.resets is None


def test_a_cost_of_nothing_is_one_where_nothing_was_used():
    assert parse_output(json.dumps(claude(total_cost_usd=0, usage={}))).tells_cost
    assert not parse_output(lines([step("stop", 0)])).tells_cost  # it knows no price
    assert not parse_output("wider heads").tells_cost


ERRORS = [
    (lines([claude(is_error=True, result="credit")]), "credit", 0),
    (
        lines([claude(is_error=True, result="529 Overloaded", api_error_status=529)]),
        "529 Over",
        529,
    ),
    (lines([claude(subtype="error_max_turns", result=None)]), "error_max_turns", 0),
    (
        lines(
            [
                {"type": "error", "message": "no"},
                {"type": "turn.failed", "error": {"message": "no"}},
            ]
        ),
        "no",
        0,
    ),
    (
        json.dumps(
            {
                "session_id": "1",
                "error": {"type": "Error", "message": "Invalid auth method", "code": 41},
            },
            indent=2,
        ),
        "Invalid auth method",
        0,
    ),
    (
        json.dumps(
            {
                "session_id": "1",
                "error": {
                    "type": "Error",
                    "message": '{"error":{"code":401,"message":"API key not valid","status":"UNAUTHENTICATED"}}',
                    "code": 401,
                },
            }
        ),
        "API key not valid",
        401,
    ),
    (
        lines(
            [
                {
                    "type": "error",
                    "sessionID": "s",
                    "error": {
                        "name": "APIError",
                        "data": {"message": "slow down", "statusCode": 429},
                    },
                }
            ]
        ),
        "slow down",
        429,
    ),
    (
        "Added train.py to the chat.\n\nlitellm.RateLimitError: OpenAIException - slow \ndown\nRetrying in 4.0 seconds...\n"
        "litellm.RateLimitError: OpenAIException - slow \ndown\nCheck your quotas.\n",
        "litellm.RateLimitError: OpenAIException - slow down Check your quotas.",
        0,
    ),
]


@pytest.mark.parametrize("log, words, status", ERRORS)
def test_an_agents_own_error_is_told(log, words, status):
    output = parse_output(log)
    assert output.error.startswith(words) and "{" not in output.error
    assert output.status == status and output.last_words() == output.error


def test_an_error_that_was_overcome_is_none():
    assert not parse_output(lines(CODEX)).error
    retried = "litellm.RateLimitError: slow down\nRetrying in 0.2 seconds...\n"
    assert not parse_output(f"{retried}Tokens: 2k sent, 4 received.\n").error
    assert parse_output("Tokens: 2k sent, 4 received.\nlitellm.Timeout: gone\n").error


def test_a_reset_that_a_rejected_call_names_is_known():
    info = {"status": "rejected", "resetsAt": 1_800_000_000, "rateLimitType": "five_hour"}
    events = [{"type": "rate_limit_event", "rate_limit_info": info}, claude(is_error=True)]
    assert parse_output(lines(events)).resets == 1_800_000_000


def test_plain_text_and_unknown_json_are_text():
    for log in ("plain\nIDEA: x", '{"lr": 0.1}\nIDEA: x', "[1, 2]\nIDEA: x", '{"a": \nIDEA: x'):
        assert parse_output(log).text == log


@pytest.mark.parametrize(
    "log",
    [
        "",
        "{",
        "[" * 10**5,
        '{"a":' * 10**5,
        '[{"type": "result"' * 10**4,
        "\n{" * 10**5,
        '{"type": "result"}',
    ]
    + ['{"type": "result", "usage": 7, "result": [1], "total_cost_usd": NaN, "errors": 3}']
    + ['{"type": "item.completed", "item": 3}', '{"type": "error", "error": [], "message": {}}']
    + ['{"type": "step_finish", "part": []}', '{"session_id": 1, "stats": {"models": {"a": 1}}}']
    + ["Tokens: 1.1.1k sent, 9 received. Cost: $. message, $. session."],
)
def test_nothing_that_an_agent_prints_is_too_much(log):
    output = parse_output(log)
    assert output.tokens < 10 and output.cost == 0.0 and isinstance(output.last_words(), str)


def test_what_an_agent_says_need_not_be_text(tmp_path):
    """Half of an emoji, as programs print it that cut strings."""
    output = parse_output(json.dumps(claude(result="IDEA: a \ud83d cut\nGAIN: 0.1")))
    assert ideas.read_idea(tmp_path / "none", output.text) == ("a ? cut", 0.1)


# --------------------------------------------------------------------------------------------------
# Service

NO_SERVICE = """
You've hit your limit · resets 3am (UTC)
You've hit your session limit · resets 3:30pm (Europe/Berlin)
Claude AI usage limit reached|1795712400
API Error: Request rejected (429) · This request would exceed your account's rate limit.
API Error: 529 Overloaded. This is a server-side issue, usually temporary
API Error: 500 {"type":"error","error":{"type":"api_error","message":"Internal server error"}}
API Error: Unable to connect to API (ConnectionRefused)
API Error: Connection error.
API Error: The operation timed out.
Invalid API key · Fix external API key
Not logged in · Please run /login
OAuth token has expired. Please obtain a new token
Credit balance is too low
unexpected status 401 Unauthorized: Missing bearer, url: https://x/v1/responses
exceeded retry limit, last status: 429 Too Many Requests
stream disconnected before completion: error sending request for url (https://x)
We're currently experiencing high demand, which may cause temporary errors.
You've hit your usage limit. Upgrade to Pro or try again in 3 days 4 hours 12 minutes.
Missing environment variable: `OPENAI_API_KEY`.
Reconnecting... waiting for network (Connection failed: error sending request)
You have exhausted your daily quota on this model.
Attempt 3 failed with status 503. Retrying with backoff...
Error: exception TypeError: fetch failed sending request
Invalid auth method selected.
Please set an Auth method: getaddrinfo ENOTFOUND generativelanguage.googleapis.com
litellm.AuthenticationError: OpenAIException - invalid x-api-key
litellm.InternalServerError: InternalServerError: OpenAIException - Connection error..
connect ECONNREFUSED 127.0.0.1:11434
HTTP 502 Bad Gateway
""".strip().splitlines()
FAILURES = """
Prompt is too long · the request is ~214355 tokens (limit 200000)
Your input exceeds the context window of this model. Please adjust your input and try again.
Codex ran out of room in the model's context window.
litellm.BadRequestError: model x not found
sh: 1: agent: not found (exit code 127)
./agent.sh: Permission denied
error: unexpected argument '--full-auto' found
NameError: name 'RATE' is not defined
Reached max turns (10)
Unexpected server error. Check server logs for details.
segmentation fault at line 500 of 512
""".strip().splitlines()


def test_a_lack_of_service_is_told_from_other_failures():
    assert [words for words in NO_SERVICE if not is_no_service(words)] == []
    assert [words for words in FAILURES if is_no_service(words)] == []
    assert is_no_service("", 429) and is_no_service("", 503) and not is_no_service("", 404)


NOW = datetime(2026, 11, 26, 16, 0, tzinfo=UTC).timestamp()
RESUMES = {
    "You've hit your limit · resets 3am (UTC)": "2026-11-27T03:00",
    "You've hit your limit · resets 5:30pm (UTC)": "2026-11-26T17:30",
    "resets 12am (UTC)": "2026-11-27T00:00",
    "resets 12pm (UTC)": "2026-11-27T12:00",
    "resets at 15:30 (Europe/Berlin)": "2026-11-27T14:30",
    "weekly limit · resets Nov 30, 3pm (Europe/Berlin)": "2026-11-30T14:00",
    "or try again at Nov 28th, 2026 3:05 PM UTC.": "2026-11-28T15:05",
    "resets at 4 pm PST": "2026-11-27T00:00",
    "resets 3am (Nowhere/Land)": "2026-11-27T11:00",
    "Your limit will reset at 3am.": "2026-11-27T11:00",
    "try again at 3:05 PM.": "2026-11-26T23:05",
    "try again in 5 hours 3 minutes": "2026-11-26T21:03",
    "or try again in 3 days 4 hours 12 minutes.": "2026-11-29T20:12",
    "try again in 1 day, 2 hours and 30 minutes": "2026-11-27T18:30",
    "quota will reset after 3h22m12s.": "2026-11-26T19:22:12",
    "Please retry in 45.5s.": "2026-11-26T16:00:45.5",
    '{"@type": "RetryInfo", "retryDelay": "34s"}': "2026-11-26T16:00:34",
    "Retry-After: 120": "2026-11-26T16:02",
    '"retry-after": "30"': "2026-11-26T16:00:30",
    "retry-after-ms: 1500": "2026-11-26T16:00:01.5",
    "Retry-After: Thu, 26 Nov 2026 17:00:00 GMT": "2026-11-26T17:00",
    f'"resetsAt":{NOW + 3600:.0f}': "2026-11-26T17:00",
    f"'resets_at': {NOW * 1000 + 60_500:.0f}": "2026-11-26T16:01:00.5",
    f"Claude AI usage limit reached|{NOW + 7200:.0f}": "2026-11-26T18:00",
    "resets at 2026-11-27T03:00:00Z": "2026-11-27T03:00",
    "try again after 2026-11-27T03:00:00.123456789+01:00": "2026-11-27T02:00:00.123456",
    "available again at 2026-11-27 03:00:00+0100": "2026-11-27T02:00",
    "resets at 2026-11-27 03:00:00": "2026-11-27T11:00",
    "resets at 2026-11-26T15:00:00Z": None,  # has passed
    "resets Jan 2, 2027, 3pm (UTC)": None,  # too far ahead
    "resets in 400 days": None,
    "resets at 25:30 or 99am": None,
    "resets next month": None,
    "Please try again later (429).": None,
    "Retrying in 0.2 seconds": None,
    "usually temporary, try again in a moment. Check 127.0.0.1:18761": None,
    "We met at 3am": None,
    "": None,
}


@pytest.fixture
def los_angeles(monkeypatch):
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    __import__("time").tzset()
    yield
    monkeypatch.undo()
    __import__("time").tzset()


@pytest.mark.parametrize("words, moment", RESUMES.items())
def test_when_service_comes_back(words, moment, los_angeles):
    expected = datetime.fromisoformat(f"{moment}+00:00").timestamp() if moment else None
    assert find_resume_time(words, NOW) == expected


def test_a_time_that_is_told_apart_from_words_comes_first():
    assert find_resume_time("resets 3am (UTC)", NOW, NOW + 60) == NOW + 60
    assert find_resume_time("try again in 5 minutes", NOW, NOW - 60) == NOW + 300
    assert find_resume_time("", NOW, NOW + MOST_SECONDS + 1) is None


# --------------------------------------------------------------------------------------------------
# Ideas of those that name none

BEFORE = b"""RATE, WIDTH = 0.03, 64
SIZES = dict(depth=3)


class Block:
    def run(self):
        return 1


def main():
    return 2
"""


@pytest.mark.parametrize(
    "old, new, words",
    [
        (b"0.03", b"0.0301", "RATE 0.03 -> 0.0301"),
        (b"depth=3", b"depth=4", "SIZES.depth 3 -> 4"),
        (b"return 1", b"return 7", "1 line changed in class Block"),
        (b"return", b"return -", "2 lines changed in class Block, function main"),
        (
            b"0.03, 64\n",
            b"0.02, 128\nimport os\n",
            "RATE 0.03 -> 0.02, WIDTH 64 -> 128; 1 line changed",
        ),
        (
            b"        return 1\n",
            b"        return 1\n        return 5\n",
            "1 line changed in class Block",
        ),
        (b"def main():\n    return 2\n", b"", "2 lines changed in function main"),
        (b"def main", b"def main(", "1 line changed"),
    ],
)
def test_an_edit_is_described_in_a_few_words(old, new, words):
    assert ideas.describe_edit(BEFORE, BEFORE.replace(old, new)) == words


@pytest.mark.parametrize(
    "message, words",
    [
        (
            "Done. I changed the learning rate as the notes suggest.",
            "I changed the learning rate as the notes suggest.",
        ),
        ("- **Increased** the width to 128\n- more", "Increased** the width to 128"),
        (
            "The learning rate is now 0.0301, which is more.",
            "The learning rate is now 0.0301, which is more.",
        ),
        ("```python\nI changed = 1\n```\nI've halved the warmup.", "I've halved the warmup."),
        ("Done: train.py is edited and idea.txt is written.", ""),
        ("Edited train.py.", ""),
        ("I change the rate.", ""),
        ("I need train.py in the chat: please add it.", ""),
        ("Everything is fine here, as it seems.", ""),
    ],
)
def test_the_sentence_that_says_what_was_done_is_found(message, words):
    assert ideas.find_sentence(message) == words
    assert ideas.name_idea(message, b"A = 1\n", b"A = 2\n") == words or "A 1 -> 2"


def test_an_idea_is_found_in_whatever_an_agent_prints(tmp_path):
    log = "x\n" * 10**6 + "IDEA: **wider**\nGAIN: `-2e-3`\n"
    assert ideas.read_idea(tmp_path / "none", log) == ("wider", -0.002)
    for flood in ("\n" * 10**6, "IDEA: " + "* " * 10**6, "*" * 10**6):
        ideas.read_idea(tmp_path / "none", flood)
    for flood in ("I changed " * 10**5, "Done " * 10**5, "`" * 10**6):
        ideas.find_sentence(flood)


# --------------------------------------------------------------------------------------------------
# Prices


def test_a_price_makes_a_cost_of_tokens():
    output = parse_output(lines(CODEX))
    assert parse_price("3,15").cost_of(output) == pytest.approx(0.003 + 0.00075)
    assert Price(3, 15, 0.3).cost_of(output) == pytest.approx(0.003 + 0.00075 + 0.0027)


@pytest.mark.parametrize("words", ["3", "3;15", "-3,15", "nan,1", "1,2,3,4", "a,b", "1e9,1"])
def test_a_price_that_is_none_is_a_sentence(words):
    with pytest.raises(Refused, match="dollars per million tokens") as refused:
        parse_price(words)
    assert "\n" not in str(refused.value)


def test_a_night_refuses_a_bad_price_before_it_begins():
    said = CliRunner().invoke(__main__.app, ["night", "--agent", "tuner", "--price", "cheap"])
    assert isinstance(said.exception, Refused) and "--price cheap" in str(said.exception)


# --------------------------------------------------------------------------------------------------
# Whole calls

START = b"RATE, WIDTH = 0.03, 64\n"
EDIT = "sed -i s/0.03/0.0301/ train.py\n"


def run_plainly(agent, argv, view, log, seconds, stdin=None):
    """In place of Agent._run_confined: the same without a sandbox, which costs a second."""
    environment = agent_environment(agent.folder, (), {})
    with open(log, "wb") as file:
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
        return subprocess.call(argv, cwd=agent.edit_folder, env=environment, **streams)


@pytest.fixture
def ask(repository, tmp_path, monkeypatch, request):  # noqa: F811
    """ask(script, **options of Agent): (answer, what the user is told) of an agent that runs it.

    Outside of a sandbox, but for tests that take the fixture `confined`.
    """
    if "confined" not in request.fixturenames:
        monkeypatch.setattr(night_agent.Agent, "_run_confined", run_plainly)
        monkeypatch.setattr("ratchet.referee.sandbox.best_level", lambda: "landlock")
    for name in ("prepare.py", "program.md"):
        (repository / name).write_text("words\n", encoding="utf-8")

    def call(script, champion=START, edit=None, idea="", **options):
        path = tmp_path / "bin/agent"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}", encoding="utf-8")
        path.chmod(0o755)
        told = []
        agent = night_agent.Agent(str(path), tmp_path / "agent", tell=told.append, **options)
        agent.prepare_folder(champion, edit)
        try:
            return agent.ask("prompt", champion, idea), told
        finally:
            agent.clean_up()

    return call


@pytest.fixture
def confined():
    """Has an agent run in its sandbox."""


def prints(text):
    return f"cat <<'END'\n{text}\nEND\n"


def test_a_call_that_lacked_service_says_so_and_until_when(ask, monkeypatch):
    monkeypatch.setattr("ratchet.night.programs.answers.time.time", lambda: NOW)
    limit = claude(
        is_error=True,
        api_error_status=429,
        total_cost_usd=0,
        usage={},
        result="You've hit your limit · resets 3am (UTC)",
    )
    answer, _ = ask(prints(json.dumps(limit)) + "exit 1")
    assert (answer.outcome, answer.text, answer.idea) == ("service", b"", "")
    assert answer.reason == "You've hit your limit · resets 3am (UTC)"
    assert answer.resume_at == datetime(2026, 11, 27, 3, tzinfo=UTC).timestamp()


def test_an_agent_that_is_stopped_for_want_of_service_lacked_service(ask, monkeypatch):
    stop = supervisor.EndedEarly("timeout", "it did not end within 1800 seconds")
    monkeypatch.setattr(night_agent.Agent, "run_command", lambda self, log: end_with(log))

    def end_with(log):
        log.write_text(printed, encoding="utf-8")
        raise stop

    printed = json.dumps({"type": "error", "message": "Reconnecting... waiting for network"})
    answer, _ = ask("")
    assert answer.outcome == "service" and "waiting for network" in answer.reason
    printed = "thinking"
    answer, _ = ask("")
    assert (answer.outcome, answer.resume_at) == ("timeout", None)
    assert answer.reason == f'{stop}: "thinking"'


@pytest.mark.parametrize(
    "script, outcome, reason",
    [
        ("echo '{x'; exit 3", "crash", 'it failed (exit code 3): "{x"'),
        ("exit 1", "crash", 'it failed (exit code 1): "no output"'),
        (
            "echo 'error: no such flag'; echo 'see --help'; exit 2",
            "crash",
            'it failed (exit code 2): "error: no such flag"',
        ),
        (
            prints(lines([{"type": "turn.failed", "error": {"message": "the model is retired"}}])),
            "crash",
            'it failed: "the model is retired"',
        ),
        (
            "echo I would rather hit the rate limit than a 429.",
            "nothing",
            "hit the rate limit than a 429.",
        ),
        ("true", "nothing", "may it edit files without being asked?"),
        (EDIT + "echo rate limit 429; exit 1", "idea", ""),
        (EDIT + "echo x >> prepare.py", "files", "it changed prepare.py"),
        ("rm train.py", "files", "its train.py is gone"),
    ],
)
def test_how_a_call_ended_is_said_in_the_programs_words(ask, script, outcome, reason):
    answer, _ = ask(script)
    assert answer.outcome == outcome and reason in answer.reason and len(answer.reason) <= 300


def test_an_idea_about_limits_is_no_lack_of_service(ask):
    said = claude(result="IDEA: a rate limit of 429 for the overloaded gradients")
    answer, _ = ask(prints(json.dumps(said)))
    assert answer.outcome == "nothing" and answer.resume_at is None
    answer, _ = ask(EDIT + prints(json.dumps(said)))
    assert answer.outcome == "idea" and answer.idea.startswith("a rate limit of 429")


def test_a_repair_that_was_not_begun_is_none(ask):
    broken = START.replace(b"0.03", b"0.05")
    failed = prints(json.dumps(claude(is_error=True, result="Overloaded"))) + "exit 1"
    assert ask(failed, edit=broken)[0].outcome == "service"
    assert ask("true", edit=broken)[0].outcome == "nothing"
    mended = ask("sed -i s/0.05/0.04/ train.py", edit=broken, idea="a larger rate")[0]
    assert (mended.outcome, mended.idea) == ("idea", "a larger rate")


def test_an_idea_without_a_name_gets_one(ask):
    assert ask(EDIT)[0].idea == "RATE 0.03 -> 0.0301"
    said = claude(result="Done. I raised the rate a little.")
    assert ask(EDIT + prints(json.dumps(said)))[0].idea == "I raised the rate a little."


def test_tokens_and_costs_reach_the_answer(ask):
    answer, told = ask(EDIT + prints(json.dumps(claude())), has_dollars=True)
    assert (answer.cost, answer.tells_cost, answer.tokens) == (0.25, True, 1050)
    assert answer.cached == 9000 and "dollars" not in "".join(told)
    answer, told = ask(EDIT + prints(lines(CODEX)), has_dollars=True)
    assert (answer.cost, answer.tells_cost) == (0.0, False) and "without --price" in told[-1]
    answer, told = ask(EDIT + prints(lines(CODEX)), has_dollars=True, price=Price(3, 15))
    assert answer.cost == pytest.approx(0.00375) and "dollars" not in "".join(told)
    _, told = ask(EDIT, has_dollars=True, price=Price(3, 15))
    assert "neither its cost nor its tokens" in told[-1]
    assert "dollars" not in "".join(ask(EDIT)[1])


COMMITTED = {
    "on its branch": EDIT + "git commit -qam x",
    "on another branch": f"git switch -qc idea; {EDIT} git commit -qam x; git switch -q main",
    "on no branch": f"git switch -q --detach; {EDIT} git commit -qam x; git checkout -q HEAD~ -- train.py",
    "in a stash": EDIT + "git stash -q",
    "reset in the folder": EDIT + "git commit -qam x; git checkout -q HEAD~ train.py",
}


@pytest.mark.parametrize("script", COMMITTED.values(), ids=COMMITTED)
def test_an_edit_that_was_committed_is_not_lost(ask, script):
    answer, _ = ask(script)
    assert (answer.outcome, answer.text) == ("idea", START.replace(b"0.03", b"0.0301"))
    assert answer.idea == "RATE 0.03 -> 0.0301"


def test_an_idea_that_was_committed_is_read(ask):
    words = "printf 'A larger rate.\\n0.004\\n' > idea.txt; git add -A; git commit -qm x;"
    answer, _ = ask(f"git switch -qc idea; {EDIT} {words} git switch -q main")
    assert (answer.outcome, answer.idea, answer.gain) == ("idea", "A larger rate.", 0.004)


@pytest.mark.parametrize(
    "script, rate",
    [
        ("sed -i s/0.03/0.05/ train.py; git commit -qam x; sed -i s/0.05/0.06/ train.py", b"0.06"),
        (
            "git switch -qc a; sed -i s/0.03/0.05/ train.py; git commit -qam x; git switch -qc b main;"
            "sed -i s/0.03/0.06/ train.py; GIT_COMMITTER_DATE=2001-01-01T00:00:00Z git commit -qam x;"
            "git switch -q main",
            b"0.05",
        ),
        (
            "git switch -qc a; sed -i s/0.03/0.05/ train.py; git commit -qam x; git revert -n HEAD; git commit -qam y",
            None,
        ),
        (
            "git switch -qc a; head -c 9000000 /dev/zero > train.py; git commit -qam x; git switch -q main",
            None,
        ),
        (
            "git switch -qc a; rm train.py; ln -s /etc/passwd train.py; git commit -qam x; git switch -q main",
            None,
        ),
        ("rm -rf .git", None),
    ],
    ids=[
        "the folder wins",
        "the newest",
        "reverted",
        "too long",
        "a link",
        "no git",
    ],
)
def test_what_of_commits_is_taken(ask, script, rate):
    answer, _ = ask(script)
    assert answer.text == (START.replace(b"0.03", rate) if rate else b"")


def test_an_edit_that_was_committed_is_found_in_the_sandbox(ask, confined):
    assert ask(COMMITTED["in a stash"])[0].text == START.replace(b"0.03", b"0.0301")


def test_an_agents_repository_does_nothing_outside_of_its_sandbox(
    ask,
    confined,
    repository,  # noqa: F811
    tmp_path,
):
    if night_agent.sandbox.best_level() == "none":
        pytest.skip("no sandbox works here")
    evil = f"touch {tmp_path}/evil"
    keys = "core.fsmonitor core.pager core.sshCommand core.hooksPath diff.external alias.cat-file"
    script = "".join(f"git config {key} '{evil}'\n" for key in keys.split())
    script += f"git config remote.o.url 'ext::sh -c {evil.replace(' ', '% ')}'\n"
    script += "git config protocol.allow always; git config extensions.partialClone o\n"
    script += "git config remote.o.promisor true; git config core.repositoryFormatVersion 1\n"
    script += "git update-ref refs/heads/x HEAD; rm -f .git/objects/??/*\n"
    answer, _ = ask(script)
    assert answer.outcome == "nothing"
    assert not (tmp_path / "evil").exists()
    of_the_user = f"rm -rf .git; echo 'gitdir: {repository}/.git' > .git"
    assert ask(of_the_user)[0].outcome == "nothing"


# --------------------------------------------------------------------------------------------------
# What an agent prints against the night

READS_LONG_TEXT = """
import resource, sys
from pathlib import Path
from ratchet import untrusted_text
from ratchet.night import agent, service, summary
from ratchet.night.programs import answers, check, failures, ideas, installation, output

resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
WORDS = [
    *" 7x[{-.\\n\\\\(/_", '"', "reset", "status ", "Tokens: 1", "IDEA:", "retry in ", "1 d ", "lib/",
    '{"type":"text","part":{"text":"x"}}\\n',
    '{"type":"message","delta":true,"role":"assistant","content":"xx"}\\n',
]
for word in WORDS:
    text = word * (100_000 // len(word))
    for long in (f"Tokens: {text}x sent", f"{text}\\nstatus{text}x"):
        parsed = output.parse_output(long)
        parsed.last_lines(20), parsed.last_words(), answers.explain_failure(parsed, 1)
        failed = output.Output(error=long, details=long[: output.MOST_DETAILS])
        reason = answers.explain_failure(failed, 1).reason
        answers.last_words_of(long), output.message_of({"error": long})
        ideas.read_idea(Path("/nowhere"), long), ideas.find_sentence(long)
        installation.find_missing([long], [Path("/usr")])
        service.shape_of({"reason": long, "outcome": "crash"}), service.LOGIN.search(long)
        check.VERSION.findall(long)
    agent.mask_secrets(text), summary.escape_markdown(text)
    untrusted_text.quote_text(text), untrusted_text.clean_text(text.encode())
print("linear")
"""


def test_passwords_and_keys_are_masked(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "Authorization: Bearer abcdefgh12345")
    text = (
        "proxy http://me:hunter2@host:3128, abcdefgh12345, --api-key openrouter=sk-or-v1-0123456789"
    )
    masked = night_agent.mask_secrets(text)
    assert masked == "proxy http://***@host:3128, ***, --api-key openrouter=***"


def test_no_text_of_an_agents_takes_quadratic_time():
    """In quadratic time each of these takes a minute; the limit is 20 seconds of the processor."""
    done = subprocess.run([sys.executable, "-c", READS_LONG_TEXT], capture_output=True, text=True)
    assert done.stdout == "linear\n", done.stderr


def test_the_count_of_tokens_ends_with_a_line_as_no_program_prints_it():
    assert parse_output("Tokens: 2.1k sent, 300 received.").tokens == 2400
    assert parse_output(f"Tokens: {'1' * 10_000}k sent, 300 received.").tokens == 0


@pytest.mark.parametrize("cost", [1e20, 1000.5, 10**30])
def test_a_cost_that_no_call_can_have_is_none(cost):
    lie = parse_output(json.dumps(claude(total_cost_usd=cost)))
    assert (lie.cost, lie.tells_cost, lie.tokens) == (0.0, False, 1050)
    both = parse_output("\n".join(map(json.dumps, [claude(total_cost_usd=cost), claude()])))
    assert both.cost == 0.25 and both.tells_cost
    plain = parse_output("Tokens: 2.1k sent, 300 received. Cost: $99999 message, $99999 session.")
    assert (plain.cost, plain.tells_cost) == (0.0, False)


def test_tokens_that_no_call_can_have_are_none():
    usage = {"input_tokens": 2 * 10**9, "output_tokens": 5}
    output = parse_output(json.dumps(claude(usage=usage)))
    assert (output.tokens, output.cost, output.tells_cost) == (0, 0.25, True)
    free = parse_output(json.dumps(claude(usage=usage, total_cost_usd=0)))
    assert (free.tokens, free.tells_cost) == (0, False)


def test_a_time_in_other_letters_is_read_alike():
    assert find_resume_time("retry in 5 \u017fecs", NOW) == NOW + 5
    times = {find_resume_time(f"resets {month} 1, 3:05 pm", NOW) for month in ("Dec", "dEC")}
    assert len(times) == 1 and find_resume_time("resets \u017fep 3, 3:05 pm", NOW) is None


@pytest.mark.parametrize(
    "script, outcome",
    [
        (prints("cannot load /lib/" + "x" * 300) + "exit 1", "crash"),
        ("printf 'RATE = 0x%05000d\\n' 0 | tr 0 f | sed s/fxf/0xf/ > train.py\n", "idea"),
        (prints("Error: rate limit, retry in 5 \u017fecs") + "exit 1", "service"),
    ],
)
def test_no_words_of_an_agents_break_a_call(ask, script, outcome):
    answer, _ = ask(script, champion=b"RATE = 0.5\n")
    assert answer.outcome == outcome and "can't be read" not in answer.reason
    assert answer.idea == ("1 line changed" if outcome == "idea" else "")


def test_a_call_whose_answer_can_t_be_read_is_counted_with_its_cost(ask, monkeypatch):
    def fail(*_):
        raise ValueError("a surprise")

    monkeypatch.setattr(night_agent, "read_idea", fail)
    answer, _ = ask(prints(json.dumps(claude())) + "echo RATE = 2 > train.py")
    assert (answer.outcome, answer.text) == ("crash", b"")
    assert answer.reason == 'its answer can\'t be read: "ValueError: a surprise"'
    assert (answer.cost, answer.tells_cost, answer.tokens) == (0.25, True, 1050)
    assert answer.seconds > 0


def test_a_full_disk_is_no_answer(ask, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(night_agent, "read_idea", fail)
    with pytest.raises(OSError, match="no room"):
        ask("echo RATE = 2 > train.py")


def test_a_login_that_an_agent_made_deep_is_none():
    assert parse_json(b"[" * 400 + b"]" * 400) is None
    assert words_of(parse_json(b'{"a": [{"b": "' + b"x" * 99 + b'"}]}')) == ["x" * 99]
