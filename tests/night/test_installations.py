"""Programs start wherever they are installed: made-up trees of npm, nvm, uv, Homebrew and others."""

import os
import subprocess
from pathlib import Path

import pytest

from ratchet.night import agent as night_agent
from ratchet.night.programs.installation import find_installation, find_missing, readable_for

# Stand-ins, all in sh: an interpreter that needs its library, a script that needs its module.
NODE = (
    '#!/bin/sh\n. "$(dirname "$(readlink -f "$0")")/../lib/node_modules/core"\nexec /bin/sh "$@"\n'
)
PYTHON = NODE.replace("node_modules", "python3.1")
CLI = '#!/usr/bin/env node\n. "$(dirname "$(readlink -f "$0")")/module"\n'
EDITS = 'echo "QUALITY = 2" > train.py\n'
PACKAGE = {"node_modules/a/cli.js": CLI, "node_modules/a/module": EDITS}
MANAGER = '#!/bin/sh\n[ "$1" = which ] && echo {real} && exit\necho "no settings" >&2\nexit 1\n'


class Link(str):
    """What a symbolic link points to."""


def below(folder, tree):
    return {f"{folder}/{name}": content for name, content in tree.items()}


def node_in(folder):
    return below(folder, {"bin/node": NODE, "lib/node_modules/core": ""})


# {what it is like: (folders in PATH, {path: text or Link})}, where $TOP is a made-up root
TREES = {
    "npm prefix": (
        "home/.npm-packages/bin tools/node/bin",
        below("home/.npm-packages/lib", PACKAGE)
        | node_in("tools/node")
        | {"home/.npm-packages/bin/agent": Link("../lib/node_modules/a/cli.js")},
    ),
    "nvm elsewhere": (
        "home/node-versions/v1/bin",
        node_in("home/node-versions/v1")
        | below("home/node-versions/v1/lib", PACKAGE)
        | {"home/node-versions/v1/bin/agent": Link("../lib/node_modules/a/cli.js")},
    ),
    "fnm": (
        "run/shells/1/bin",
        node_in("home/.fnm/v1/installation")
        | below("home/.fnm/v1/installation/lib", PACKAGE)
        | {
            "home/.fnm/v1/installation/bin/agent": Link("../lib/node_modules/a/cli.js"),
            "run/shells/1": Link("$TOP/home/.fnm/v1/installation"),
        },
    ),
    "a project's own node_modules": (
        "home/project/node_modules/.bin tools/node/bin",
        below("home/project", PACKAGE)
        | node_in("tools/node")
        | {"home/project/node_modules/.bin/agent": Link("../a/cli.js")},
    ),
    "Homebrew": (
        "brew/bin",
        node_in("brew/Cellar/node/1")
        | below("brew/lib", PACKAGE)
        | {
            "brew/bin/node": Link("../Cellar/node/1/bin/node"),
            "brew/bin/agent": Link("../lib/node_modules/a/cli.js"),
        },
    ),
    "pnpm": (
        "home/.pnpm tools/node/bin",
        below("home/.pnpm/global/5", PACKAGE)
        | node_in("tools/node")
        | {
            "home/.pnpm/agent": '#!/bin/sh\nbasedir=$(dirname "$0")\n'
            'exec node "$basedir/global/5/node_modules/a/cli.js" "$@"\n'
        },
    ),
    "a wrapper in a settings folder": (
        "home/.agent/local tools/node/bin",
        below("home/.agent/local", PACKAGE)
        | node_in("tools/node")
        | {
            "home/.agent/local/node_modules/.bin/agent": Link("../a/cli.js"),
            "home/.agent/local/agent": "#!/bin/bash\n"
            'exec "$TOP/home/.agent/local/node_modules/.bin/agent" "$@"\n',
        },
    ),
    "uv tool": (
        "home/my-bin",
        {
            "pythons/cpython-3.1.4/bin/python3.1": PYTHON,
            "pythons/cpython-3.1.4/lib/python3.1/core": "",
            "pythons/cpython-3.1": Link("cpython-3.1.4"),
            "home/my-tools/a/pyvenv.cfg": "",
            "home/my-tools/a/bin/python": Link("$TOP/pythons/cpython-3.1/bin/python3.1"),
            "home/my-tools/a/bin/agent": f"#!$TOP/home/my-tools/a/bin/python\n{EDITS}",
            "home/my-bin/agent": Link("../my-tools/a/bin/agent"),
        },
    ),
    "mise": (
        "home/mise/shims home/mise/bin",
        below("home/mise/installs/a", PACKAGE)
        | node_in("home/mise/installs/node")
        | {
            "home/mise/bin/mise": MANAGER.format(
                real="$TOP/home/mise/installs/$([ $2 = node ] && echo node/bin/node || "
                "echo a/node_modules/a/cli.js)"
            ),
            "home/mise/shims/agent": Link("../bin/mise"),
            "home/mise/shims/node": Link("../bin/mise"),
        },
    ),
    "asdf": (
        "home/versions/shims tools",
        below("home/versions/installs", PACKAGE)
        | node_in("home/versions/node")
        | {
            "tools/asdf": MANAGER.format(
                real="$TOP/home/versions/$([ $2 = node ] && echo node/bin/node || "
                "echo installs/node_modules/a/cli.js)"
            ),
            "home/versions/shims/agent": '#!/bin/sh\nexec asdf exec "agent" "$@"\n',
            "home/versions/shims/node": '#!/bin/sh\nexec asdf exec "node" "$@"\n',
        },
    ),
}
SECRETS = ".ssh/id .local/share/keyrings/login .config/x .npm-packages-of-mine keys.env".split()


@pytest.fixture
def top(tmp_path, monkeypatch):
    """A made-up root with a home in which are secrets; the working folder is a repository."""
    repository = tmp_path / "repository"
    repository.mkdir()
    for name in ("prepare.py", "program.md"):
        (repository / name).write_text("words\n", encoding="utf-8")
    who = "-c user.email=a@b.c -c user.name=somebody"
    for words in ("init -q", "add -A", f"{who} commit -qm base"):
        subprocess.run(["git", *words.split()], cwd=repository, check=True)
    monkeypatch.chdir(repository)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    plant(tmp_path, below("home", dict.fromkeys(SECRETS, "secret")))
    return tmp_path


def plant(top, tree):
    for name, content in tree.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content.replace("$TOP", str(top))
        if isinstance(content, Link):
            path.symlink_to(text)
        else:
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)


def enter(top, monkeypatch, name):
    """Plant a tree and put its folders into PATH."""
    folders, tree = TREES[name]
    plant(top, tree)
    first = [str(top / folder) for folder in folders.split()]
    monkeypatch.setenv("PATH", os.pathsep.join([*first, "/usr/bin", "/bin"]))


@pytest.mark.parametrize("level", ["bubblewrap", "landlock", "none"])
@pytest.mark.parametrize("name", TREES)
def test_a_program_starts_wherever_it_is_installed(top, monkeypatch, name, level):
    enter(top, monkeypatch, name)
    monkeypatch.setenv("RATCHET_ISOLATION", level)
    agent = night_agent.Agent("agent", top / "agent")
    if agent.level != level:
        pytest.skip(f"{level} doesn't work here")
    agent.prepare_folder(b"QUALITY = 1\n")
    answer = agent.ask("prompt", b"QUALITY = 1\n")
    assert (answer.outcome, answer.text) == ("idea", b"QUALITY = 2\n"), answer.reason
    agent.clean_up()
    for secret in SECRETS:
        path = top / "home" / secret
        assert not any(path.is_relative_to(each) for each in agent.installation.read)


def test_a_script_stands_alone_where_more_than_it_is_beside_it(top):
    home = top / "home"
    script = top / "repository/agent.sh"
    assert readable_for(script) == [script]
    assert readable_for(home / "agent.sh") == [home / "agent.sh"]
    assert readable_for(Path("/opt/tool/bin/agent")) == [
        Path("/opt/tool/bin/agent"),
        Path("/opt/tool/bin"),
    ]


def test_the_keys_that_a_script_reads_are_not_part_of_it(top):
    """Only programs that it starts are: not a file that it sources, nor what is beside those."""
    text = '#!/bin/sh\n. "$HOME/keys.env"\nexec "$HOME/work/run" "$@"\n'
    plant(top, {"home/bin/agent": text, "home/work/run": "#!/bin/sh\n", "home/work/key": ""})
    (top / "home/keys.env").chmod(0o600)
    read = find_installation(top / "home/bin/agent").read
    assert top / "home/work/run" in read
    for name in ("keys.env", "work/key"):
        assert not any((top / "home" / name).is_relative_to(path) for path in read)


def test_what_a_program_misses_is_named_with_the_way_to_share_it(top, monkeypatch):
    plant(
        top,
        {
            "home/x/bin/agent": '#!/bin/sh\ncat "$(printf "%s/y/lib/part.js" $TOP/home)"\nexit 1\n',
            "home/y/lib/part.js": "",
        },
    )
    monkeypatch.setenv("RATCHET_ISOLATION", "landlock")
    told = []
    agent = night_agent.Agent(str(top / "home/x/bin/agent"), top / "agent", tell=told.append)
    if agent.level != "landlock":
        pytest.skip("landlock doesn't work here")
    agent.prepare_folder(b"QUALITY = 1\n")
    answer = agent.ask("prompt", b"QUALITY = 1\n")
    part = top / "home/y/lib/part.js"
    assert told[-1].endswith(
        f"which it can't see: if that is a part of its program, say --share {part}"
    )
    assert "share" not in answer.reason  # the next prompt has that
    agent.clean_up()


def test_nothing_but_parts_of_programs_is_advised_to_be_shared(top):
    """What a program prints is somebody's words: they may ask for the user's keys."""
    home, part = top / "home", top / "home/lib/part.so"
    plant(top, {"home/lib/part.so": ""})
    lines = [f"cannot read {home}/.ssh/id", f"nor {part}", "nor /nowhere/bin/x", f"{home}/keys.env"]
    assert find_missing(lines, [Path("/usr")]) == [part]
    assert find_missing(lines, [home / "lib"]) == []


@pytest.mark.parametrize(
    "name",
    [".ssh/lib/id", ".config/lib/x.py", ".aws/bin/x", "lib/../.netrc", "lib/../keys.env", "a.so"],
)
def test_what_is_hidden_in_a_home_is_never_advised_to_be_shared(top, name):
    plant(top, {"home/.ssh/lib/id": "", "home/.config/lib/x.py": "", "home/.aws/bin/x": ""})
    plant(top, {"home/.netrc": "", "home/keys.env": "", "home/lib/x": ""})
    (top / "home/a.so").symlink_to(top / "home/.ssh/lib/id")
    assert find_missing([f"cannot load {top}/home/{name}", f"nor ~/{name}"], []) == []


def test_what_names_no_part_of_a_program_is_passed_over(top):
    (top / "home/lib\x1b[2J.so").write_text("")
    strange = [
        "/lib/../etc/shadow",
        "/etc/passwd.py",
        "/lib/" + "x" * 300,
        f"{top}/home/lib\x1b[2J.so",
    ]
    assert find_missing(strange, []) == []
    (top / "home/part.so").write_text("")
    assert find_missing(["/x " * 19, f"{top}/home/part.so"], []) == [top / "home/part.so"]
    assert find_missing(["/x " * 20, f"{top}/home/part.so"], []) == []  # not all that it names
