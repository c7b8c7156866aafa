"""The environment of an agent: what every program needs, what this one does, what the user passes.

Nothing passes by chance: keys of others, and names that lead to the user's own folders, stay here.
"""

import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ratchet.arena.files import Refused
from ratchet.night.programs.known import Program, variables_for

# of authorities that a proxy of the user's signs with; files that they name are seen
CERTIFICATES = """
    CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS REQUESTS_CA_BUNDLE SSL_CERT_DIR SSL_CERT_FILE
""".split()
EVERYBODYS = """
    COLORTERM LANG LANGUAGE LC_* LOGNAME NODE_USE_ENV_PROXY NO_COLOR PATH SHELL TERM TZ USER
    ALL_PROXY HTTPS_PROXY HTTP_PROXY NO_PROXY all_proxy http_proxy https_proxy no_proxy
""".split()
# of another folder or repository, of Ratchet itself, of the session that a night was started in
NOBODYS = """
    CLAUDE_CODE_SSE_PORT CLAUDE_ENV_FILE CLAUDE_PROJECT_DIR CODEX_SANDBOX* DIRENV_* GIT_* HOME
    INIT_CWD OLDPWD PWD RATCHET_* TMPDIR VIRTUAL_ENV*
""".split()
# who commits in an agent's folder
COMMITTER = {f"GIT_{who}_NAME": "ratchet" for who in ("AUTHOR", "COMMITTER")} | {
    f"GIT_{who}_EMAIL": "night@ratchet.invalid" for who in ("AUTHOR", "COMMITTER")
}
# managers of versions, whose programs look here for what they are to start
SHIMS = {
    "ASDF_DATA_DIR": ".asdf",
    "MISE_DATA_DIR": ".local/share/mise",
    "PYENV_ROOT": ".pyenv",
    "VOLTA_HOME": ".volta",
}


def check_passed(names: Iterable[str]) -> None:
    """Raises Refused if one of the variables can't be passed to an agent."""
    for name in names:
        if is_like(name, NOBODYS):
            raise Refused(
                f"--pass {name}: that variable would lead the agent out of its folder, so it is "
                "never passed: leave the option out"
            )
        if name not in os.environ:
            raise Refused(
                f"--pass {name}: no such variable is set in your environment: set it, or leave "
                "the option out"
            )


def is_like(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def own_variables(
    program: Program, argv: Sequence[str], passed: Collection[str], project: Path
) -> list[str]:
    """Names of the variables that are passed to this program beside those that everybody gets.

    argv: its command, which may name a model. passed: what the user passes. project: the user's,
    which no variable may name.
    """
    patterns = variables_for(program, argv)
    needed = [
        name
        for name, value in os.environ.items()
        if is_like(name, patterns)
        and not is_like(name, NOBODYS)
        and name not in program.roots
        and str(project) not in value
    ]
    return sorted({*needed, *passed})


def agent_environment(
    folder: Path, names: Iterable[str], roots: Mapping[str, str], programs: Iterable[Path] = ()
) -> dict[str, str]:
    """All that an agent inherits. names: of own_variables(). roots: more variables.

    folder: with its folders home, tmp and work. programs: folders, first in its PATH.
    """
    patterns = [*EVERYBODYS, *CERTIFICATES, *names]
    kept = {name: value for name, value in os.environ.items() if is_like(name, patterns)}
    first = [str(Path(sys.executable).parent), *map(str, programs)]
    path = os.pathsep.join([*first, kept.get("PATH", os.defpath)])
    shims = {name: Path.home() / place for name, place in SHIMS.items()}
    ours = {
        "PATH": path,
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "PWD": str(folder / "work"),
        "RATCHET_RUN": str(folder),
    }
    return (
        {name: str(path) for name, path in shims.items() if path.is_dir()}
        | kept
        | git_variables(folder)
        | dict(roots)
        | ours
    )


def git_variables(folder: Path) -> dict[str, str]:
    """Of git in an agent's folder `work`: nothing of the user's, which may sign or run programs.

    Its global config is a file of the agent's own: `git config --global` renames a new file to it,
    which would put an end to the machine's /dev/null.
    """
    return COMMITTER | {
        "GIT_CEILING_DIRECTORIES": str(folder),
        "GIT_CONFIG_GLOBAL": str(folder / "home/.gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def certificate_files() -> list[Path]:
    """Files and folders of authorities that the user's environment names."""
    return [Path(os.environ[name]) for name in CERTIFICATES if os.environ.get(name)]
