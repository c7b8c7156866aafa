"""`ratchet doctor --agent`: one call of a stand-in shows whether a night can use a program."""

import json
import os
import time

import pytest
from test_installations import plant, top  # noqa: F401
from typer.testing import CliRunner

from ratchet import __main__
from ratchet.night.programs.check import check_agent, does_work
from ratchet.night.service import format_moment

VERSION = '#!/bin/sh\n[ "$1" = --version ] && echo "2.1.9 (Claude Code)" && exit\n'
EDITS = (
    'cat > prompt; sed -i s/0.02/0.03/ train.py; printf "A larger rate.\\n0.001\\n" > idea.txt\n'
)
COST = '{"type": "result", "result": "Done.", "total_cost_usd": 0.0123, "usage": {"input_tokens": 40, "output_tokens": 2}}'


@pytest.fixture
def claude(top, monkeypatch):  # noqa: F811
    """claude(script) -> {name of a check: (it went well, what was seen, advice)}, and all of them."""
    monkeypatch.setenv("RATCHET_CACHE", str(top / "cache"))
    monkeypatch.setenv("RATCHET_ISOLATION", "none")
    monkeypatch.setenv("PATH", str(top / "bin"), prepend=os.pathsep)

    def check(script, command="claude"):
        plant(top, {"bin/claude": VERSION + script})
        checks = check_agent(command)
        assert not [*top.glob("cache/.agents/*")]
        return {check.name: check[1:] for check in checks}, checks

    return check


def test_a_program_that_works_is_shown_with_what_it_costs(claude, top):  # noqa: F811
    seen, checks = claude(f"{EDITS}echo '{COST}'\n")
    assert does_work(checks)
    assert seen["installed"][:2] == (True, f"{top}/bin/claude, version 2.1.9")
    assert seen["edits train.py"][:2] == (True, "it did") and seen["logged in"][0]
    assert seen["says its idea"][1] == '"A larger rate.", a gain of 0.001'
    assert not [check for check in checks if not check.well and check.name != "tells its cost"]


@pytest.mark.parametrize(
    "script, name, words, advice",
    [
        ("echo 'Invalid API key · Please run /login'; exit 1\n", "logged in", "/login", "log in"),
        ("echo done\n", "edits train.py", "it left train.py as it was", "flag that lets it edit"),
        ("echo 'segmentation fault'; exit 3\n", "answers", "exit code 3", "by hand"),
    ],
)
def test_a_program_that_does_not_work_is_shown_with_what_to_do(claude, script, name, words, advice):
    seen, checks = claude(script)
    assert not does_work(checks)
    assert not seen[name][0] and words in seen[name][1] and advice in seen[name][2]
    assert "tells its cost" not in seen
    done = CliRunner().invoke(__main__.app, ["doctor", "--agent", "claude", "--json"])
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.exit_code == 1 and not rows[name]["well"] and advice in rows[name]["advice"]


def test_a_usage_limit_is_shown_with_its_end(claude):
    end = int(time.time()) + 3600
    seen, _ = claude(f"echo 'Claude AI usage limit reached|{end}'; exit 1\n")
    assert not seen["answers"][0] and "usage limit reached" in seen["answers"][1]
    advice = f"its service is said to be back at {format_moment(end)}: wait for that"
    assert seen["answers"][2] == advice


def test_a_program_without_costs_works_and_leads_to_prices(claude):
    seen, checks = claude(EDITS)
    assert does_work(checks) and "--price IN,OUT" in seen["tells its cost"][2]
    assert seen["tells its cost"][:2] == (False, "no dollars, no tokens")
