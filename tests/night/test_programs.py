"""What an agent sees of its user, and what it can leave: a home is the same after a night."""

import errno
import json
import os
import stat
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from test_experiments import repository  # noqa: F401

from ratchet import __main__
from ratchet.arena.files import Refused
from ratchet.experiments.campaign import Campaign
from ratchet.night import agent as night_agent
from ratchet.night.programs.environment import NOBODYS, agent_environment, own_variables
from ratchet.night.programs.home import PrivateHome
from ratchet.night.programs.known import (
    PROGRAMS,
    expand_command,
    find_program,
    variables_for,
)

LEVELS = "bubblewrap", "landlock", "none"
LOGIN = {
    "oauth": {
        "accessToken": "old-access-token-of-the-user",
        "refreshToken": "old-refresh-token-of-the-user",
        "expiresAt": 1000,
        "scopes": ["user:inference"],
        "account": "the user",
    },
}
REFRESHED = {
    "oauth": LOGIN["oauth"]
    | {"accessToken": "new-access-token", "refreshToken": "new-refresh-token", "expiresAt": 2000}
}
OTHERS = ".bashrc .gitconfig .ssh/id_ed25519 .local/bin/tool .config/systemd/user/x.service .netrc"


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A home folder with the settings of all programs, logged in to each."""
    home = tmp_path / "user"
    monkeypatch.setenv("HOME", str(home))
    for program in PROGRAMS:
        for variable in program.roots:
            monkeypatch.delenv(variable, raising=False)
        for name in program.settings + program.state:
            write(home / name, f"of {program.names[0]}")
        for name in program.logins:
            write(home / name, json.dumps(LOGIN), 0o600)
    for name in OTHERS.split():
        write(home / name, "# of the user")
    return home


def write(path, text, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def look(folder):
    """{path: all that a program could have changed of it} below a folder."""
    seen = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        what = status.st_mode, status.st_ino, status.st_mtime_ns, status.st_uid, status.st_nlink
        seen[str(path)] = what + (path.is_symlink() and os.readlink(path), content)
    return seen


def program_of(name):
    return next(program for program in PROGRAMS if name in program.names)


# --------------------------------------------------------------------------------------------------
# Stand-ins for programs, which attack

ATTACK = """#!{python}
import json, os, pathlib, sys
sys.stdin.read()
real, homes = pathlib.Path({real!r}), [pathlib.Path(os.environ["HOME"])]
homes += [real] * {is_confined}
def tries(action):
    try:
        return action()
    except OSError:
        return None
def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
def append(path):
    with open(path, "a") as file:
        file.write("[mcp_servers.evil]\\ncommand = 'evil'\\n")
def link(path):
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/passwd")
seen = {{}}
for home in homes:
    for path in {every!r}:
        text = tries((home / path).read_text)
        if text is not None:
            seen[str(home / path)] = text
for home in homes:
    for path in {written!r}:
        tries(lambda: write(home / path, '{{"hooks": "evil"}}'))
    for path in {every!r}:
        tries(lambda: append(home / path))
    for path in {logins!r}:
        tries(lambda: link(home / path))
    tries(lambda: os.rename(home / ".claude", home / ".claude.old"))
    tries(lambda: os.symlink(real / ".codex", home / ".claude"))
    tries(lambda: os.chmod(home / ".ssh", 0o777))
    tries(lambda: os.utime(home / ".bashrc", (1, 1)))
report = {{"seen": seen, "environment": dict(os.environ), "folder": os.getcwd()}}
pathlib.Path("report.json").write_text(json.dumps(report))
"""
WRITTEN = [
    ".claude/settings.json",
    ".claude/hooks/evil.sh",
    ".claude/commands/evil.md",
    ".codex/rules/evil.rules",
    ".gemini/extensions/evil/gemini-extension.json",
    ".config/opencode/plugin/evil.js",
    ".bashrc",
    ".profile",
    ".gitconfig",
    ".config/git/config",
    ".local/bin/evil",
    ".ssh/authorized_keys",
    ".config/autostart/evil.desktop",
    ".vimrc",
]


def attack(level, user, tmp_path, monkeypatch, name="claude", **options):
    """(what the stand-in reports, what the user is told) of one call at a level."""
    monkeypatch.setenv("RATCHET_ISOLATION", level)
    every = [name for p in PROGRAMS for name in p.settings + p.state + p.logins] + OTHERS.split()
    values = {
        "python": sys.executable,
        "real": str(user),
        "is_confined": level != "none",
        "every": every,
        "written": WRITTEN,
        "logins": [name for program in PROGRAMS for name in program.logins],
    }
    write(tmp_path / f"bin/{name}", ATTACK.format(**values), 0o755)
    told = []
    agent = night_agent.Agent(
        f"{tmp_path}/bin/{name}", tmp_path / "agent", tell=told.append, **options
    )
    if agent.level != level:
        pytest.skip(f"{level} doesn't work here")
    agent.prepare_folder(b"QUALITY = 1\n")
    assert agent.ask("prompt", b"QUALITY = 1\n").outcome == "nothing"
    report = json.loads((agent.edit_folder / "report.json").read_bytes())
    agent.clean_up()
    assert not (tmp_path / "agent").exists()
    return report, told


@pytest.fixture
def project(repository):  # noqa: F811
    for name in ("prepare.py", "program.md"):
        write(repository / name, "words\n")
    return repository


@pytest.mark.parametrize("level", LEVELS)
def test_an_agent_leaves_nothing_in_its_users_home(project, user, tmp_path, monkeypatch, level):
    before = look(user)
    _, told = attack(level, user, tmp_path, monkeypatch)
    assert look(user) == before
    for name in (".claude/settings.json", ".claude/hooks", ".bashrc", ".local/bin", ".gitconfig"):
        assert f"  {name} was changed in the agent's copy: thrown away" in told
    assert len({*told}) == len(told) and "thrown away" in told[-1]


@pytest.mark.parametrize("level", LEVELS)
def test_an_agent_sees_the_settings_of_its_own_program_alone(
    project, user, tmp_path, monkeypatch, level
):
    seen = attack(level, user, tmp_path, monkeypatch)[0]["seen"]
    claude = program_of("claude")
    home = tmp_path / "agent/home"
    own = {str(home / name) for name in claude.settings + claude.state + claude.logins}
    installed = {str(user / ".local/bin/tool")}  # what is installed is seen, and not written
    assert own <= {*seen} <= own | installed
    assert json.loads(seen[str(home / ".claude/.credentials.json")]) == LOGIN


@pytest.mark.parametrize("level", LEVELS)
def test_an_agent_inherits_what_its_program_needs(project, user, tmp_path, monkeypatch, level):
    secrets = "ANTHROPIC_API_KEY OPENAI_API_KEY GEMINI_API_KEY AWS_SECRET_ACCESS_KEY MINE".split()
    for name in secrets:
        monkeypatch.setenv(name, f"the value of {name}")
    for name in ("OLDPWD", "INIT_CWD", "VIRTUAL_ENV", "CLAUDE_PROJECT_DIR", "ANTHROPIC_NOTE"):
        monkeypatch.setenv(name, str(project))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "PYTHONPATH", "LD_PRELOAD_"):
        monkeypatch.setenv(name, str(project / ".git"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("PWD", str(project))
    report, told = attack(level, user, tmp_path, monkeypatch, passed=["MINE"])
    environment, folder = report["environment"], tmp_path / "agent"
    assert environment["ANTHROPIC_API_KEY"] == "the value of ANTHROPIC_API_KEY"
    assert environment["MINE"] and environment["HTTPS_PROXY"]
    assert environment["PWD"] == report["folder"] == str(folder / "work")
    assert environment["HOME"] == str(folder / "home")
    names = {name for name in environment if not name.startswith("LC_")}
    assert names <= {
        *"PATH HOME TMPDIR PWD LANG LANGUAGE TERM TZ USER LOGNAME SHELL COLORTERM NO_COLOR".split(),
        *"GIT_CONFIG_GLOBAL GIT_CONFIG_NOSYSTEM GIT_CEILING_DIRECTORIES RATCHET_RUN".split(),
        *(f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")),
        *"ANTHROPIC_API_KEY MINE HTTPS_PROXY".split(),
        *"NODE_EXTRA_CA_CERTS REQUESTS_CA_BUNDLE SSL_CERT_FILE SSL_CERT_DIR".split(),
        "CURL_CA_BUNDLE",
    }
    values = {name: value for name, value in environment.items() if name != "PATH"}
    assert not [name for name, value in values.items() if str(project) in value]


def test_a_night_says_what_it_passes_and_never_a_value(project, user, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sesame-open")
    monkeypatch.setenv("MINE", "sesame-mine")
    write(tmp_path / "bin/claude", "#!/bin/sh\n", 0o755)
    command = f"{tmp_path}/bin/claude -p"
    sentences = night_agent.Agent(command, tmp_path / "agent", passed=["MINE"]).describe_view()
    assert "passes ANTHROPIC_API_KEY, MINE to the agent" in sentences
    assert "claude gets a copy of its settings" in sentences[0]
    assert "sesame" not in "".join(sentences)
    write(tmp_path / "bin/wrapper", "#!/bin/sh\n", 0o755)
    other = night_agent.Agent(f"{tmp_path}/bin/wrapper", tmp_path / "agent")
    assert "with a home that is empty" in other.describe_view()[0] and not other.variables


@pytest.mark.parametrize("name", "claude codex gemini opencode aider".split())
def test_a_programs_name_alone_stands_for_its_whole_command(project, tmp_path, monkeypatch, name):
    monkeypatch.setattr("ratchet.referee.sandbox.best_level", lambda: "landlock")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    write(tmp_path / "bin" / name, "#!/bin/sh\n", 0o755)
    agent = night_agent.Agent(name, tmp_path / "agent")
    assert agent.command == program_of(name).command
    assert agent.describe_view()[0] == f"{name} is called by: {agent.command}"
    assert agent.argv[1:] == agent.command.split()[1:]
    for other in (
        f"{name} --model x",
        f"{tmp_path}/bin/{name}",
        "cursor-agent",
        "tuner",
        "sh -c x",
    ):
        assert expand_command(other, "landlock") == other


def test_where_there_is_no_sandbox_a_program_keeps_its_own(project, tmp_path, monkeypatch):
    monkeypatch.setattr("ratchet.referee.sandbox.best_level", lambda: "none")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    write(tmp_path / "bin/codex", "#!/bin/sh\n", 0o755)
    agent = night_agent.Agent("codex", tmp_path / "agent")
    assert agent.command == "codex exec --json --sandbox workspace-write -"
    assert agent.describe_view()[-1] == "there is no sandbox here but codex's own"
    bypass = night_agent.Agent(program_of("codex").command, tmp_path / "agent").describe_view()
    assert "nothing but its good will" in bypass[-2] and "all that you can, unasked" in bypass[-1]


def test_what_is_not_installed_is_said_with_the_way_to_get_it(project, tmp_path, monkeypatch):
    with pytest.raises(Refused, match="can't be read as words: No closing quotation"):
        night_agent.Agent("claude -p 'x", tmp_path / "agent")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="'codex' is not installed: npm install -g @openai/codex"):
        night_agent.Agent("codex", tmp_path / "agent")


@pytest.mark.parametrize(
    "level, network, words",
    [
        ("bubblewrap", True, None),
        ("landlock", True, "install bubblewrap, or say --no-network"),
        ("landlock", False, None),
        ("none", True, "there is no sandbox here"),
    ],
)
def test_a_night_says_what_its_sandbox_leaves_open(
    project, tmp_path, monkeypatch, level, network, words
):
    monkeypatch.setattr("ratchet.referee.sandbox.best_level", lambda: level)
    agent = night_agent.Agent("sh -c true", tmp_path / "agent", network=network)
    sentences = agent.describe_view()
    assert words in sentences[-1] if words else len(sentences) == 1


@pytest.mark.parametrize(
    "name, words",
    [
        ("NOT_SET", "--pass NOT_SET: no such variable is set"),
        ("NAME=value", "no such variable is set"),
        ("GIT_DIR", "--pass GIT_DIR: that variable would lead the agent out of its folder"),
        ("PWD", "never passed"),
        ("HOME", "never passed"),
    ],
)
def test_what_can_not_be_passed_is_a_sentence(project, name, words, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "x")
    with pytest.raises(Refused, match=words) as refused:
        night_agent.Agent("sh -c true", project / "agent", passed=[name])
    assert "\n" not in str(refused.value)


def test_a_token_that_an_agent_prints_is_masked(project, user, tmp_path):
    write(tmp_path / "bin/codex", '#!/bin/sh\ncat "$HOME/.codex/auth.json"\n', 0o755)
    agent = night_agent.Agent(f"{tmp_path}/bin/codex", tmp_path / "agent")
    agent.prepare_folder(b"QUALITY = 1\n")
    agent.ask("prompt", b"QUALITY = 1\n")
    said = (tmp_path / "agent/log").read_text(encoding="utf-8")
    assert "accessToken" in said and "of-the-user" not in said and "***" in said


def test_an_agents_git_is_its_folders_and_its_first_commit_is_always_the_same(project, tmp_path):
    script = "#!/bin/sh\ngit commit -qam mine; git rev-parse --show-toplevel HEAD~\n"
    write(tmp_path / "bin/agent", script + "rm -rf .git; git rev-parse --show-toplevel\n", 0o755)
    (tmp_path / ".git").mkdir()  # git climbs no further
    said = []
    for _ in range(2):
        agent = night_agent.Agent(f"{tmp_path}/bin/agent", tmp_path / "agent")
        agent.prepare_folder(b"QUALITY = 1\n", edit=b"QUALITY = 2\n")
        agent.ask("prompt", b"QUALITY = 1\n")
        said.append((tmp_path / "agent/log").read_text(encoding="utf-8").splitlines())
    assert said[0] == said[1] and said[0][0] == str(tmp_path / "agent/work")
    assert len(said[0][1]) == 40 and "not a git repository" in said[0][2]


def test_without_a_sandbox_a_change_of_the_users_tree_is_told(project, tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_ISOLATION", "none")
    write(tmp_path / "bin/agent", f"#!/bin/sh\necho x >> {project}/README.md\n", 0o755)
    agent = night_agent.Agent(f"{tmp_path}/bin/agent", tmp_path / "agent", tell=(told := []).append)
    agent.prepare_folder(b"QUALITY = 1\n")
    assert agent.ask("prompt", b"QUALITY = 1\n").outcome == "nothing"
    assert any("your working tree changed" in sentence for sentence in told)
    told.clear()
    write(tmp_path / "bin/agent", "#!/bin/sh\n", 0o755)
    agent.prepare_folder(b"QUALITY = 1\n")
    agent.ask("prompt", b"QUALITY = 1\n")
    assert told == []


def test_a_variable_that_is_not_set_ends_a_night_before_it_begins(project, monkeypatch, refusal):
    monkeypatch.setattr("ratchet.__main__.shown_session", lambda *_, **__: nullcontext(Session()))
    words = ["ratchet", "night", "--agent", "sh -c true", "--pass", "NOT_SET"]
    monkeypatch.setattr("sys.argv", words)
    assert "--pass NOT_SET: no such variable is set in your environment" in refusal(__main__.main)


class Session:
    """As much of one as a night asks for before it begins."""

    home = Path("/nowhere")
    tell = print

    def __init__(self):
        self.slot = SimpleNamespace(executor=SimpleNamespace(slots=list))

    def read_campaign(self):
        return Campaign([])


# --------------------------------------------------------------------------------------------------
# Logins


def test_a_login_that_is_written_anew_is_no_change(user, tmp_path):
    home = make_home(tmp_path)
    write(home.path / ".claude/.credentials.json", json.dumps(LOGIN, indent=4))
    before = look(user)
    assert home.keep_logins() == [] and look(user) == before


def make_home(tmp_path, name="claude", **options):
    home = PrivateHome(tmp_path / "agent", program_of(name), **options)
    assert home.make_copy() == []
    return home


def test_a_login_that_a_program_refreshes_is_written_back(user, tmp_path):
    home, real = make_home(tmp_path), user / ".claude/.credentials.json"
    (home.path / ".claude/.credentials.json").write_text(json.dumps(REFRESHED), encoding="utf-8")
    assert home.keep_logins() == [] and json.loads(real.read_bytes()) == REFRESHED
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert sorted(path.name for path in real.parent.glob(".cred*")) == [".credentials.json"]
    assert home.keep_logins() == []  # once


def test_a_login_that_can_not_be_written_back_is_told(user, tmp_path, monkeypatch):
    """As where it is a mount of its own: the answer counts all the same."""
    home, real = make_home(tmp_path), user / ".claude/.credentials.json"
    (home.path / ".claude/.credentials.json").write_text(json.dumps(REFRESHED), encoding="utf-8")
    busy = OSError(errno.EBUSY, "Device or resource busy")
    monkeypatch.setattr("os.replace", mock.Mock(side_effect=busy))
    (sentence,) = home.keep_logins()
    assert "can't be written into" in sentence and "resource busy" in sentence
    assert json.loads(real.read_bytes()) == LOGIN and len([*real.parent.glob(".cred*")]) == 1


def test_a_login_that_is_a_link_stays_one(user, tmp_path):
    real, target = user / ".codex/auth.json", tmp_path / "dotfiles/auth.json"
    write(target, json.dumps(LOGIN), 0o640)
    real.unlink()
    real.symlink_to(target)
    home = make_home(tmp_path, "codex")
    (home.path / ".codex/auth.json").write_text(json.dumps(REFRESHED), encoding="utf-8")
    assert home.keep_logins() == [] and real.is_symlink()
    assert json.loads(target.read_bytes()) == REFRESHED
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_login_that_the_user_renewed_meanwhile_stays(user, tmp_path):
    home, real = make_home(tmp_path), user / ".claude/.credentials.json"
    (home.path / ".claude/.credentials.json").write_text(json.dumps(REFRESHED), encoding="utf-8")
    mine = {"oauth": LOGIN["oauth"] | {"accessToken": "of another session"}}
    write(real, json.dumps(mine), 0o600)
    assert home.keep_logins() == [] and json.loads(real.read_bytes()) == mine


def test_a_night_that_was_killed_leaves_its_login_to_the_next(project, user, tmp_path):
    home, real = make_home(tmp_path), user / ".claude/.credentials.json"
    (home.path / ".claude/.credentials.json").write_text(json.dumps(REFRESHED), encoding="utf-8")
    write(tmp_path / "bin/claude", "#!/bin/sh\n", 0o755)
    night_agent.Agent(f"{tmp_path}/bin/claude", tmp_path / "agent").clean_up()
    assert json.loads(real.read_bytes()) == REFRESHED and not (tmp_path / "agent").exists()


def replace_by_link(path, user):
    write(user / "other.json", json.dumps(REFRESHED))
    path.unlink()
    path.symlink_to(user / "other.json")


def replace_its_folder(path, user):
    write(user / "other" / path.name, json.dumps(REFRESHED))
    os.rename(path.parent, path.parent.with_name("old"))
    path.parent.symlink_to(user / "other")


def replace_by_hard_link(path, user):
    write(user / "other.json", json.dumps(REFRESHED))
    path.unlink()
    path.hardlink_to(user / "other.json")


def replace_by_pipe(path, user):
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path, user):
    path.unlink()
    path.mkdir()


def replace_by(data):
    return lambda path, user: path.write_bytes(data)


def make_huge(path, user):
    path.write_text(json.dumps(REFRESHED) + " " * 2**20, encoding="utf-8")


def make_sparse(path, user):
    os.truncate(path, 2**40)


@pytest.mark.parametrize(
    "attack_login",
    [
        replace_by_link,
        replace_its_folder,
        replace_by_hard_link,
        replace_by_pipe,
        replace_by_folder,
        make_huge,
        make_sparse,
        lambda path, user: path.unlink(),
        replace_by(b""),
        replace_by(b"no JSON"),
        replace_by(b"[" * 100_000),
        replace_by(b"[]"),
        replace_by(b'{"hooks": {"accessToken": "evil"}}'),
        replace_by(b'{"oauth": {"scopes": ["admin"], "account": "another"}}'),
        replace_by(b'{"oauth": {"accessToken": {"command": "evil"}, "expiresAt": true}}'),
    ],
)
def test_nothing_but_tokens_comes_back(user, tmp_path, attack_login):
    home, real = make_home(tmp_path), user / ".claude/.credentials.json"
    before = real.read_bytes(), real.stat()
    attack_login(home.path / ".claude/.credentials.json", user)
    (sentence,) = home.keep_logins()
    assert "thrown away" in sentence and str(real) in sentence
    assert (real.read_bytes(), real.stat()) == before


def test_of_a_login_with_other_entries_the_tokens_alone_come_back(user, tmp_path):
    home, real = make_home(tmp_path), user / ".claude/.credentials.json"
    more = {"oauth": REFRESHED["oauth"] | {"account": "another", "hook": "evil"}, "hooks": "evil"}
    (home.path / ".claude/.credentials.json").write_text(json.dumps(more), encoding="utf-8")
    assert home.keep_logins() == [] and json.loads(real.read_bytes()) == REFRESHED


# --------------------------------------------------------------------------------------------------
# Copies


def test_what_is_shared_is_the_users_own(user, tmp_path):
    share = [user / ".claude", user / ".claude/settings.json", user / ".aws", tmp_path / "else"]
    before = look(user)
    home = make_home(tmp_path, share=share)
    assert look(user) == before and os.readlink(home.path / ".claude") == str(user / ".claude")
    assert not (home.path / ".codex").exists() and (home.path / ".claude.json").is_file()
    assert not home.list_changes() and home.keep_logins() == []


def test_folders_that_variables_name_are_copied_and_named(user, tmp_path, monkeypatch):
    write(tmp_path / "config/settings.json", "elsewhere")
    write(tmp_path / "config/.credentials.json", json.dumps(LOGIN), 0o600)
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "config"))
    home = make_home(tmp_path)
    assert (home.path / ".claude/settings.json").read_text(encoding="utf-8") == "elsewhere"
    assert home.root_variables() == {"CLAUDE_CONFIG_DIR": str(home.path / ".claude")}
    names = own_variables(home.program, ["claude"], [], tmp_path / "project")
    environment = agent_environment(tmp_path / "agent", names, home.root_variables())
    assert environment["CLAUDE_CONFIG_DIR"] == str(home.path / ".claude")


def test_what_is_copied_may_be_links_and_loops_and_is_bounded(user, tmp_path, monkeypatch):
    skills = user / ".claude/skills"
    skills.unlink()
    write(tmp_path / "dotfiles/one/SKILL.md", "words")
    skills.symlink_to(tmp_path / "dotfiles")
    (tmp_path / "dotfiles/loop").symlink_to(tmp_path / "dotfiles")
    (tmp_path / "dotfiles/gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "dotfiles/pipe")
    home = make_home(tmp_path)
    copied = [path for path in (home.path / ".claude/skills").rglob("*") if path.is_file()]
    assert [path.name for path in copied] == ["SKILL.md"]
    monkeypatch.setattr("ratchet.night.programs.home.MOST_BYTES", 3)
    other = PrivateHome(tmp_path / "other", program_of("claude"))
    sentences = other.make_copy()
    assert any(f"{skills} is too large" in sentence for sentence in sentences)
    assert not (other.path / ".claude/skills").exists()


def test_what_an_agent_leaves_in_its_settings_is_read_within_bounds(user, tmp_path):
    """Links to large folders, files of a terabyte that take no disk, pipes without a writer."""
    home = make_home(tmp_path)
    settings = home.path / ".claude"
    for name in ("plugins", "rules", "settings.json", "skills"):
        (settings / name).unlink()
    (settings / "skills").symlink_to("/usr")
    for folder in ("plugins", "rules"):
        (settings / folder).mkdir()
    (settings / "plugins/huge").touch()
    os.truncate(settings / "plugins/huge", 2**40)
    os.mkfifo(settings / "rules/pipe")
    os.mkfifo(settings / "settings.json")
    (settings / "themes").unlink()
    changed = [f".claude/{name}" for name in "plugins rules settings.json skills themes".split()]
    assert home.list_changes() == changed
    os.rename(settings, home.path / "moved")
    settings.symlink_to(home.path / "moved")
    assert {*home.list_changes()} == {*home.program.settings}


def test_a_copy_in_a_folder_behind_a_link_is_compared_too(user, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "agents").symlink_to(tmp_path / "real")
    skill = user / ".claude/skills"
    skill.unlink()
    write(skill / "one/SKILL.md", "words")
    home = PrivateHome(tmp_path / "agents", program_of("claude"))
    assert home.make_copy() == [] and home.list_changes() == []
    write(home.path / ".claude/skills/one/SKILL.md", "other words")
    assert home.list_changes() == [".claude/skills"]
    write(home.path / ".claude/.credentials.json", json.dumps(REFRESHED))
    assert home.keep_logins() == []
    assert json.loads((user / ".claude/.credentials.json").read_bytes()) == REFRESHED


# --------------------------------------------------------------------------------------------------
# The table


@pytest.mark.parametrize(
    "command, name",
    [
        ("claude -p --permission-mode acceptEdits", "claude"),
        ("/usr/local/bin/codex exec -", "codex"),
        ("npx -y @google/gemini-cli@latest --yolo", "gemini"),
        ("npx @anthropic-ai/claude-code -p", "claude"),
        ("env LANG=C nice -n 10 opencode run", "opencode"),
        ("uvx --from aider-chat aider", "aider"),
        ("python -m aider", "aider"),
        ("timeout 600 claude -p", "claude"),
        ("timeout 10m claude -p", "claude"),
        ("./mine.sh claude", None),
        ("mine --model claude", None),
        ("bash -c claude", None),
        ("", None),
    ],
)
def test_a_program_is_known_by_its_command(command, name):
    names = find_program(command.split()).names
    assert (names[0] if names else None) == name


@pytest.mark.parametrize(
    "command, patterns",
    [
        ("claude -p", {"ANTHROPIC_*", "CLAUDE_*"}),
        ("opencode run", {"OPENCODE_*"}),
        ("opencode run -m anthropic/claude-sonnet-4", {"OPENCODE_*", "ANTHROPIC_*"}),
        ("opencode run --model=google/gemini-2", {"OPENCODE_*", "GOOGLE_*", "GEMINI_*"}),
        ("aider --model sonnet", {"AIDER_*", "ANTHROPIC_*"}),
        ("aider --model gpt-4o", {"AIDER_*", "OPENAI_*"}),
        ("aider --model openrouter/openai/gpt-4o", {"AIDER_*", "OPENROUTER_*"}),
        ("codex exec -m o3 -", {"OPENAI_*", "CODEX_*"}),
    ],
)
def test_a_program_gets_the_keys_of_its_own_provider(command, patterns):
    argv = command.split()
    assert {*variables_for(find_program(argv), argv)} == patterns


def test_the_table_names_no_path_twice_and_none_outside_a_home():
    for program in PROGRAMS:
        paths = program.settings + program.state + program.logins
        assert len({*paths}) == len(paths)
        assert not [path for path in paths if Path(path).is_absolute() or ".." in path]
        assert not {*program.variables} & {*NOBODYS}
