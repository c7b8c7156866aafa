"""Nights of three ideas with the real coding agents, against mock servers of models on 127.0.0.1.

    uv run benchmarks/agents.py [--programs FOLDER] [--only claude,aider] [--json]

Each of five programs x bubblewrap, Landlock, none x root and an ordinary user (or whoever calls).
The programs are installed into a folder from npm and PyPI, if they aren't there. The models are mock
servers, and the runs are made up: scores are drawn from a normal distribution around the constant
in train.py. All else is the product's: the agent's sandbox and home, its prompt, what is read from
its output, the ledger.

A night works if three ideas get their verdicts, with idea and gain as the model wrote them. What
changes in the user's repository or home is listed; docs/nights.md says what may.

Then a night of each whose service is limited (status 429): for 75 seconds, after which it has to go
on; for good, which its end has to quote, with an exit code that isn't 0. These mostly wait, so the
programs have them at the same time.

Writes results/agents.json, and the tables of docs/agents.md with --write. Takes about half an hour.
"""

import argparse
import hashlib
import json
import os
import pwd
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from cheats_table import make_table, replace_block
from mock_models import ERRORS, GAIN, IDEA, Fault, MockModels

from ratchet.git import run_git
from ratchet.referee import sandbox

LEVELS = ("bubblewrap", "landlock", "none")
IDEAS = 3
SIGMA = 0.01  # of a made-up run, in bpb
TRAIN = "QUALITY = 1.0\nDEPTH = 2\n"
KEY = "key-of-a-mock-server"
HOURS = 8.0  # of a night, which ends earlier by its ideas
LIMITED = 429
# what is wrong with a service: (fault, hours of the night)
FAULTS = {"for 75 s": (Fault(LIMITED, seconds=75), HOURS), "for good": (Fault(LIMITED), 0.2)}


class Setup(NamedTuple):
    """How a program is installed, and led to a mock server whose address is {url}.

    settings: {file of the home folder: its text}
    """

    package: str
    variables: dict[str, str] = {}
    settings: dict[str, str] = {}


SETUPS = {
    "claude": Setup(
        "@anthropic-ai/claude-code@2.1",
        {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "{url}"},
        {".claude/settings.json": "{{}}\n"},
    ),
    "codex": Setup(
        "@openai/codex@0.169",
        {"OPENAI_API_KEY": KEY},
        {
            ".codex/config.toml": 'model = "mock"\nmodel_provider = "mock"\n'
            '[model_providers.mock]\nname = "mock"\nbase_url = "{url}/v1"\n'
            'env_key = "OPENAI_API_KEY"\nwire_api = "responses"\n'
        },
    ),
    "gemini": Setup(
        "@google/gemini-cli@0.61",
        {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": "{url}"},
        {
            ".gemini/settings.json": '{{"security": {{"auth": {{"selectedType": '
            '"gemini-api-key"}}}}}}\n'
        },
    ),
    "opencode": Setup(
        "opencode-ai@1.18",
        {"OPENCODE_DISABLE_MODELS_FETCH": "1"},
        {
            ".config/opencode/opencode.json": """{{
  "$schema": "https://opencode.ai/config.json",
  "model": "local/mock",
  "provider": {{
    "local": {{
      "npm": "@ai-sdk/openai-compatible",
      "options": {{"baseURL": "{url}/v1"}},
      "models": {{"mock": {{}}}}
    }}
  }}
}}
"""
        },
    ),
    "aider": Setup(
        "aider-chat==0.86.*",
        settings={
            ".aider.conf.yml": "model: openai/mock\nopenai-api-base: {url}/v1\n"
            "openai-api-key: none\n"
        },
    ),
}


# --------------------------------------------------------------------------------------------------
# Programs


def install(name: str, programs: Path) -> Path:
    """The folder with a program's executable, which is installed if it isn't there.

    Raises subprocess.CalledProcessError, OSError: there is no npm, no uv, no network.
    """
    folder, package = programs / name, SETUPS[name].package
    if name == "aider":
        if not (folder / "bin/aider").exists():
            places = {"UV_TOOL_DIR": str(folder), "UV_TOOL_BIN_DIR": str(folder / "bin")}
            python = ["--python", "/usr/bin/python3"] * os.path.exists("/usr/bin/python3")
            run_quietly(["uv", "tool", "install", *python, package], os.environ | places)
        return folder / "bin"
    if not (folder / "node_modules/.bin" / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        run_quietly(["npm", "install", "--no-fund", "--no-audit", "--prefix", str(folder), package])
    return folder / "node_modules/.bin"


def run_quietly(argv: list[str], environment: dict[str, str] | None = None) -> str:
    """What a command prints. Raises subprocess.CalledProcessError."""
    done = subprocess.run(argv, env=environment, check=True, capture_output=True, timeout=600)
    return done.stdout.decode()


def version_of(program: Path) -> str:
    """Example: "2.1.197"."""
    with tempfile.TemporaryDirectory() as home:
        printed = run_quietly([str(program), "--version"], os.environ | {"HOME": home})
    return re.findall(r"\d+\.\d+\.\d+", printed)[0]


def prepare_arena(folder: Path) -> None:
    """A tiny arena of made-up words in folder/cache: its sizes count, as no run is real."""
    chance = random.Random(1)
    words = ["".join(chance.choices("aeioulnrst", k=chance.randint(1, 9))) for _ in range(2000)]
    documents = [{"text": " ".join(chance.choices(words, k=150))} for _ in range(1000)]
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(each) + "\n" for each in documents), encoding="utf-8")
    options = f"--text {corpus} --arena tiny --context 64 --vocab-size 512".split()
    argv = [sys.executable, str(ROOT / "prepare.py"), *options]
    run_quietly(argv, os.environ | {"RATCHET_CACHE": str(folder / "cache")})


# --------------------------------------------------------------------------------------------------
# A night, in a process of its own: python agents.py --night NAME IDEAS HOURS


def make_up_run(job) -> dict:
    """Stands in for ratchet.referee.trial.run_trial: a score from the source and the seed."""
    from ratchet.referee.devices.choice import describe_device

    quality = float(re.findall(r"QUALITY = ([\d.]+)", job.source.text.decode())[0])
    bits = 2 - quality + SIGMA * random.Random(job.seed).gauss(0, 1)
    score = {"nats": bits * 693.147, "bytes": 1000, "probes": {}}
    facts = {"seed": job.seed, "budget": job.budget, "status": "ok", "reason": "", "shared": False}
    facts |= {"foreign_cpu": 0.0, "isolation": "none", "tail": [], "seconds": {"train": 1.0}}
    facts |= {"tokens": 1000, "flops_per_token": 1.0, "params": 1000, "lookup": 100, "steps": 10}
    facts |= {"peak_memory_mb": 1, "mfu_percent": 1.0}
    facts |= describe_device(job.device) | job.source.describe_source()
    return facts | dict.fromkeys(job.splits, score)


def hold_night(name: str, ideas: int, hours: float) -> dict:
    """A night in the working folder, whose champion is HEAD's; what came of it."""
    from ratchet import commits
    from ratchet.executors import local, open_executor
    from ratchet.experiments import session, verbs
    from ratchet.night.driver import run_night
    from ratchet.night.journal import Journal
    from ratchet.night.status import Limits, last_exit_code
    from ratchet.referee import trial
    from ratchet.referee.devices import choice

    choice.list_devices, local.contestant_libraries = lambda: ["cpu"], lambda tell: None
    trial.run_trial, trial.preflight = make_up_run, lambda job: None
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        print(line, file=sys.stderr, flush=True)

    options = dict(tell=tell, on_verdict=lambda *_: None)
    slot = open_executor(None, ["cpu"], None, tell).slots()[0]
    verbs.calibrate(session.open_session(slot, arena="tiny", **options), 5)
    before = describe_user(Path.cwd(), Path.home())
    campaign = session.join_campaign(slot, **options)
    why = run_night(campaign, name, Limits(hours, ideas, calls=2 * ideas))
    after = describe_user(Path.cwd(), Path.home())
    tried = [e for e in campaign.experiments() if e.role == "try"]
    events = [e for e in Journal(commits.home()).read_events() if e["kind"] == "answer"]
    return {
        "why": why,
        "code": last_exit_code(commits.home()),
        "ideas": [[e.idea, e.gain] for e in tried],
        "tokens": sum(e.get("tokens") or 0 for e in events),
        "cached": sum(e.get("cached") or 0 for e in events),
        "dollars": sum(e.get("cost") or 0.0 for e in events),
        "tells_cost": any(e.get("tells_cost") for e in events),
        "calls": len(events),
        "failed": [f"{e['outcome']}: {e.get('reason')}" for e in events if e["outcome"] != "idea"],
        "changed": [key for key in before | after if before.get(key) != after.get(key)],
        "said": [line.strip() for line in said if line.startswith("  ")],
        "sandbox": sandbox.best_level(),
    }


def describe_user(repository: Path, home: Path) -> dict[str, str]:
    """{name: what a program could have changed of it} of a user's repository and home."""
    state = {
        words: run_git(repository, *words.split()).decode()
        for words in ("rev-parse HEAD", "branch -a", "config --list", "diff HEAD", "fsck")
    }
    own = {"ledger.jsonl", "runs", ".git"}  # of Ratchet and of git
    files = [path for path in home.rglob("*") if path.is_file()] + [
        path for path in repository.iterdir() if path.name not in own and path.is_file()
    ]
    contents = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {f"git {key}": value for key, value in state.items()} | contents


# --------------------------------------------------------------------------------------------------
# All of them


def prepare_user(folder: Path, setup: Setup, url: str, cache: Path) -> None:
    """A home with the program's settings, a repository, a cache: what a night begins with."""
    for path, text in (setup.settings | {".bashrc": "# of the user\n"}).items():
        (folder / "home" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "home" / path).write_text(text.format(url=url), encoding="utf-8")
    shutil.copytree(cache, folder / "cache")
    repository = folder / "repository"
    repository.mkdir()
    (repository / "train.py").write_text(TRAIN, encoding="utf-8")
    (repository / ".gitignore").write_text("ledger.jsonl\nruns/\n", encoding="utf-8")
    for name in ("prepare.py", "program.md"):
        shutil.copy(ROOT / name, repository)
    who = "config user.email a@b.c", "config user.name somebody"
    for words in ("init -q -b main", *who, "add -A", "commit -qm base"):
        run_git(repository, *words.split())


def run_one(
    name: str,
    level: str,
    user: str,
    programs: Path,
    cache: Path,
    ideas: int = IDEAS,
    fault: Fault | None = None,
    hours: float = HOURS,
) -> dict:
    """A night of one program at one level as one user; facts, with what went wrong."""
    setup, begin = SETUPS[name], time.monotonic()
    bins, python = install(name, programs), python_for(user)
    with tempfile.TemporaryDirectory() as top, MockModels(fault=fault) as mock:
        folder = Path(top)
        prepare_user(folder, setup, mock.url, cache)
        environment = {
            "HOME": str(folder / "home"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "PATH": f"{bins}{os.pathsep}{os.environ['PATH']}",
            "RATCHET_CACHE": str(folder / "cache"),
            "RATCHET_ISOLATION": level,
        } | {key: value.format(url=mock.url) for key, value in setup.variables.items()}
        night = ["--night", name, str(ideas), str(hours)]
        argv = [*as_user(user), python, str(HERE / "agents.py"), *night]
        if user != current_user():
            run_quietly(["chown", "-R", f"{user}:", str(folder)])
        done = subprocess.run(
            argv, cwd=folder / "repository", env=environment, capture_output=True, timeout=900
        )
    facts = {"program": name, "level": level, "user": user, "seconds": time.monotonic() - begin}
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return facts | {"works": False, "why": (last or ["no word"])[0]}
    facts |= json.loads(done.stdout.splitlines()[-1])
    if facts["sandbox"] != level:
        return facts | {"works": False, "why": f"{level} can't be had here"}
    return facts | {"works": is_right(facts["ideas"], ideas) and not facts["changed"]}


def run_limited(name: str, kind: str, programs: Path, cache: Path) -> dict:
    """A night of one program whose service is limited, a key of FAULTS; facts as of run_one()."""
    fault, hours = FAULTS[kind]
    level, user = sandbox.best_level(), current_user()
    facts = run_one(name, level, user, programs, cache, ideas=1, fault=fault, hours=hours)
    if kind == "for good" and "code" in facts:  # it has to say so
        is_told = any(word in facts["why"] for word in (str(LIMITED), ERRORS[LIMITED][1]))
        facts["works"] = bool(facts["code"]) and is_told and not facts["changed"]
    return facts | {"limited": kind}


def is_right(tried: list, ideas: int) -> bool:
    """Whether these are so many ideas, each with its gain, as the model wrote them."""
    pattern = re.escape(IDEA).replace(re.escape("{n}"), r"\d+")
    return len(tried) == ideas and all(
        re.fullmatch(pattern, idea) and gain == float(GAIN) for idea, gain in tried
    )


def current_user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def group_of(user: str) -> str:
    return str(pwd.getpwnam(user).pw_gid)


def list_users() -> list[str]:
    """Root and an ordinary user, as far as they can be had."""
    can_change = os.getuid() == 0 and shutil.which("setpriv")
    return [current_user(), *(["nobody"] if can_change else [])]


def as_user(user: str) -> list[str]:
    """What stands before a command that this user is to run."""
    if user == current_user():
        return []
    return ["setpriv", "--reuid", user, "--regid", group_of(user), "--clear-groups"]


def python_for(user: str) -> str:
    """A Python with our packages that this user may run. Raises FileNotFoundError.

    Where that of the repository lies in somebody's home: a virtual environment beside it, made by
    `/usr/bin/python3 -m venv`, whose path is in AGENTS_PYTHON.
    """
    for python in filter(None, [sys.executable, os.environ.get("AGENTS_PYTHON")]):
        code = "import os, sys, numpy; sys.exit(not os.access(sys.executable, os.X_OK))"
        if not subprocess.run([*as_user(user), python, "-c", code], capture_output=True).returncode:
            return python
    raise FileNotFoundError(f"{user} may not run {sys.executable}: see AGENTS_PYTHON")


def nights_table(results: dict) -> str:
    """A line for each program and level, a column for each user."""
    users = [*dict.fromkeys(each["user"] for each in results["nights"])]
    titles = ["program", "sandbox", *users, "tokens a call", "dollars a call", "changed"]
    rows: dict[tuple[str, str], list[dict]] = {}
    for each in results["nights"]:
        rows.setdefault((each["program"], each["level"]), []).append(each)
    lines = []
    for (name, level), nights in rows.items():
        works = {night["user"]: "works" if night["works"] else why_not(night) for night in nights}
        shown = next((night for night in nights if night["works"]), nights[0])
        calls = max(1, shown.get("calls", 0))
        lines.append(
            [
                f"{name} {results['versions'].get(name, '')}",
                level,
                *(works.get(user, "not tried") for user in users),
                f"{shown['tokens'] / calls:,.0f}" if shown.get("tokens") else "tells none",
                f"{shown['dollars'] / calls:.3f}" if shown.get("tells_cost") else "tells none",
                ", ".join({key for night in nights for key in night.get("changed", ())})
                or "nothing",
            ]
        )
    return make_table(titles, lines)


def limits_table(results: dict) -> str:
    """A line for each program, a column for each of FAULTS."""
    lines = []
    for name, version in results["versions"].items():
        cells = []
        for kind in FAULTS:
            nights = [each for each in results["limited"] if each["limited"] == kind]
            (night,) = [each for each in nights if each["program"] == name]
            good = "goes on" if kind == "for 75 s" else f"quoted, exit code {night.get('code')}"
            words = good if night["works"] else why_not(night)
            calls = sum(reason.startswith("service:") for reason in night.get("failed", ()))
            cells.append(f"{words}; {calls} calls failed, {night['seconds']:.0f} s")
        lines.append([f"{name} {version}", *cells])
    return make_table(("program", *(f"limited {kind}" for kind in FAULTS)), lines)


def why_not(facts: dict) -> str:
    reasons = [*facts.get("failed", ()), facts["why"]]
    return reasons[0].replace("|", "/")[:120]


def write_docs(tables: dict[str, str]) -> None:
    """Put tables behind their markers in docs/agents.md."""
    path = ROOT / "docs/agents.md"
    page = path.read_text(encoding="utf-8")
    for marker, table in tables.items():
        page = replace_block(page, marker, table)
    path.write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--night", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--programs", type=Path, help="where they are, or are to be installed")
    parser.add_argument("--only", default=",".join(SETUPS), help="claude,codex,...")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="write docs/agents.md, too")
    options = parser.parse_args()
    if options.night:
        name, ideas, hours = options.night
        return print(json.dumps(hold_night(name, int(ideas), float(hours))))
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        folder.chmod(0o755)
        programs = (options.programs or folder / "programs").resolve()
        prepare_arena(folder)
        results: dict = {"versions": {}, "nights": []}
        names = options.only.split(",")
        for name in names:
            results["versions"][name] = version_of(install(name, programs) / name)
            for level in LEVELS:
                for user in list_users():
                    facts = run_one(name, level, user, programs, folder / "cache")
                    results["nights"].append(facts)
                    print(name, level, user, facts["works"], file=sys.stderr, flush=True)
        with ThreadPoolExecutor(len(names)) as pool:
            jobs = [
                pool.submit(run_limited, name, kind, programs, folder / "cache")
                for kind in FAULTS
                for name in names
            ]
        results["limited"] = [job.result() for job in jobs]
    (HERE / "results/agents.json").write_text(
        json.dumps(results, indent=1) + "\n", encoding="utf-8"
    )
    tables = {"nights": nights_table(results), "limits": limits_table(results)}
    if options.write:
        write_docs(tables)
    print(json.dumps(results, indent=1) if options.json else "\n\n".join(tables.values()))


if __name__ == "__main__":
    main()
