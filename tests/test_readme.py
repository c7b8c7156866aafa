"""README and docs are true: every command is tested, every verb, option, variable and link exists.

Commands stand in blocks marked `sh`, one a line; what they print in blocks marked `text`.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import architecture
import cheats_table
import pytest
import typer
from conftest import ROOT, write_corpus

from ratchet import __main__

README = ROOT / "README.md"
NAMES = "README.md", "CONTRIBUTING.md", "AGENTS.md", "CHANGELOG.md", "program.md"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [
        *map(ROOT.joinpath, NAMES),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("examples/*/README.md"),
    ]
}
CODE = [
    path.read_text(encoding="utf-8")
    for path in (ROOT / "prepare.py", ROOT / "train.py", *ROOT.glob("ratchet/**/*.py"))
]
TESTS = "\n".join(
    path.read_text(encoding="utf-8")
    for path in ROOT.glob("tests/**/*.py")
    if path.name != "test_readme.py"
)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
VERBS = typer.main.get_command(__main__.app).commands
MOST_WORDS, MOST_WORDS_BEFORE_A_COMMAND = 1200, 150


def commands_of(page):
    """The commands of a page, without their comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    lines = [
        re.split(r"\s{2,}#", line)[0].strip() for block in blocks for line in block.splitlines()
    ]
    return [line for line in lines if line]


COMMANDS = {line: name for name, page in PAGES.items() for line in commands_of(page)}

# --------------------------------------------------------------------------------------------------
# Commands

OWN_RESEARCH = "docs/own-research.md"  # test_own_research.py runs it whole
RUNNABLE = [  # by test_commands_work_in_this_order
    "uv run train.py",
    "uv run prepare.py --text my_corpus/ --arena mine",
    "RATCHET_ARENA=mine RATCHET_BUDGET=20s uv run train.py",
]
TESTED = {  # a pattern of commands: what a test that runs them, or their parts, says
    r"RATCHET_BUDGET=20s uv run train\.py": '"train.py"',
    r"RATCHET_RUN=runs/first uv run train\.py": '"RATCHET_RUN": str(folder)',
    r"uv run prepare\.py score runs/first": '"score", str(folder)',
    r"uv run prepare\.py( --arena climbmix)?": "--shards",
    r"uv run prepare\.py --text my_corpus/ --arena corpus": '"--text"',
    r"(RATCHET_ARENA=corpus )?uv run torchrun --nproc-per-node=\d train\.py": "--nproc-per-node",
    r"git switch -C try/\w+ refs/ratchet/champion": '"switch", "-C"',
    r'git commit -am "[\w ]+"': '"commit", "-qam"',
    r"uv run --all-extras --group dev pytest( tests/\w+\.py| -m slow -n 0)?": "pytest.mark.slow",
    r"uv run ratchet watch": "server(night) as server",
    r"uv run --group dev ruff (check|format)": '"-m", "ruff", *command',
}
OTHERS = [  # of other programs
    r"pip install uv",
    r"uv sync --all-extras --group dev",
    r"uv sync --extra (\w+)",
    r"uv sync --group flash4",
    r"uv run ray start (--head|--address=HERE:6379)",
    r"sky launch -c night --env REPOSITORY=\S+ examples/clusters/skypilot\.yaml",
    r"docker build -t \S+ -f examples/clusters/Dockerfile \.",
    r"kubectl apply -f examples/clusters/rayjob\.yaml",
    r"sbatch examples/clusters/night\.sbatch( --.+)?",
    r"git fetch night:research .refs/ratchet/\*:refs/ratchet/\*.",
    r"scp night:research/ledger\.jsonl \.",
    r"git clone \. \.\./agent-night && cd \.\./agent-night",
    r'git fetch examples/agent-night/sources\.bundle "refs/ratchet/\*:refs/ratchet/\*"',
    r"cp examples/agent-night/ledger\.jsonl \.",
]


def is_verb(command):
    """Whether it is a verb of ratchet, with options that it takes, that some test calls."""
    match = re.fullmatch(r"uv run ratchet ([\w-]+)(.*)", command)
    if not match or match[1] not in VERBS:
        return False
    VERBS[match[1]].make_context(match[1], shlex.split(match[2]))  # raises what a user would see
    return re.search(rf"""["']{match[1]}["' ]""", TESTS)


def is_benchmark(command):
    """Whether it is a program of benchmarks/, or the null GPU, with options that it knows."""
    programs = r"benchmarks/\w+\.py|tests/nullgpu/nullgpu\.py"
    match = re.fullmatch(rf"uv run (?:--group dev )?({programs})(.*)", command)
    if not match or not (ROOT / match[1]).exists():
        return False
    source = (ROOT / match[1]).read_text(encoding="utf-8")
    return all(f'"{option}"' in source for option in re.findall(r"--[\w-]+", match[2]))


def is_tested(command):
    hints = (hint for pattern, hint in TESTED.items() if re.fullmatch(pattern, command))
    return any(hint in TESTS for hint in hints)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_tested(command):
    known = command in RUNNABLE or any(re.fullmatch(pattern, command) for pattern in OTHERS)
    known |= COMMANDS[command] == OWN_RESEARCH and not command.startswith("uv run ratchet")
    assert known or is_tested(command) or is_benchmark(command) or is_verb(command), COMMANDS[
        command
    ]


def test_every_extra_exists():
    asked = {
        extra for page in PAGES.values() for extra in re.findall(r"uv sync --extra (\w+)", page)
    }
    assert asked == {*EXTRAS}


def test_the_test_command_is_that_of_ci():
    last = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1]
    assert last in COMMANDS and shutil.which("uv")


def test_programs_and_their_output_are_in_marked_blocks():
    for name, page in PAGES.items():
        marks = re.findall(r"^```(.*)$", page, re.M)
        assert {*marks[::2]} <= {"sh", "text", "python", "json", "yaml"} and {*marks[1::2]} <= {
            ""
        }, name


@pytest.mark.slow
def test_commands_work_in_this_order(tmp_path):
    (tmp_path / "my_corpus").mkdir()
    write_corpus(tmp_path / "my_corpus/corpus.jsonl", 120)
    for command in RUNNABLE:
        settings, program = re.fullmatch(r"((?:\w+=\S+ )*)uv run (.+)", command).groups()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RATCHET")}
        environment |= {"RATCHET_CACHE": str(tmp_path / "cache"), "RATCHET_DEVICE": "cpu"}
        environment["RATCHET_BUDGET"] = "2e4tok"
        environment |= dict(setting.split("=") for setting in settings.split())
        if environment["RATCHET_BUDGET"].endswith("s"):  # a shorter one: the suite has five minutes
            environment["RATCHET_BUDGET"] = "5s"
        program, *arguments = program.split()
        line = [sys.executable, str(ROOT / program), *arguments]
        options = {"env": environment, "cwd": tmp_path, "capture_output": True, "encoding": "utf-8"}
        done = subprocess.run(line, timeout=200, **options)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    results = [json.loads(path.read_bytes()) for path in tmp_path.glob("runs/*/result.json")]
    assert len(results) == 2 and all(result["status"] == "ok" for result in results)


# --------------------------------------------------------------------------------------------------
# Verbs, options, variables, lines of the summary, the contract


def section(page, heading):
    """The text below a heading, up to the next one of its level."""
    return re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)[1]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_and_its_options_are_documented(verb):
    page = PAGES["docs/verbs.md"]
    documented = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", section(page, verb)))
    options = {
        name for option in VERBS[verb].params for name in option.opts + option.secondary_opts
    }
    options = {name for name in options if name.startswith("-")}
    shorter = {"-n"} if {"-n", "--seeds"} <= options else set()
    assert options - shorter <= documented
    assert f"](#{verb})" in page  # in the table on its top


def test_every_option_is_known():
    verbs = {
        name for verb in VERBS.values() for p in verb.params for name in p.opts + p.secondary_opts
    }
    pattern = r"""["'](--[a-z][\w-]+)["']"""
    code = {option for source in CODE for option in re.findall(pattern, source)}
    for path in [*ROOT.glob("benchmarks/*.py"), ROOT / "tests/nullgpu/nullgpu.py"]:
        code |= set(re.findall(pattern, path.read_text(encoding="utf-8")))
    others = {"--all-extras", "--extra", "--group"}  # of uv
    others |= {"--head", "--address", "--nproc-per-node", "--cpuset-cpus", "--cpus", "--help"}
    others |= {"--cpus-per-task", "--mem", "--test-only", "--env"}  # of sbatch and sky
    others |= {"--source", "--staged", "--worktree", "--allow-empty", "--glob", "--not"}  # of git
    others |= {"--update", "--gpus"}  # of wsl and docker
    others |= {"--permission-mode", "--output-format", "--sandbox", "--approval-mode"}  # of agents
    others |= {"--model", "--format", "--message-file", "--skip-trust", "--yes-always"}
    for name, page in PAGES.items():
        unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) - verbs - code - others
        assert not unknown, name


def test_every_option_of_prepare_is_documented():
    options = re.findall(
        r'add_argument\(\s*"(--[\w-]+)"', (ROOT / "prepare.py").read_text(encoding="utf-8")
    )
    pages = PAGES["docs/conditions.md"] + PAGES["docs/text.md"]
    assert options and {*options} <= set(re.findall(r"--[\w-]+", pages))


def test_every_variable_of_ours_is_documented():
    read = {name for source in CODE for name in re.findall(r"\bRATCHET_[A-Z]+\b", source)}
    assert set(re.findall(r"`(RATCHET_[A-Z]+)`", PAGES["docs/conditions.md"])) == read


def variables_read(source):
    """Names of environment variables that a module reads with a literal: get(), [...], in."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="get", value=owner), args=[ast.Constant(str(name)), *_]
            ):
                pass
            case ast.Subscript(value=owner, slice=ast.Constant(str(name)), ctx=ast.Load()):
                pass
            case ast.Compare(
                left=ast.Constant(str(name)), ops=[ast.In() | ast.NotIn()], comparators=[owner]
            ):
                pass
            case _:
                continue
        if ast.unparse(owner) in ("os.environ", "environ"):
            yield name


def test_every_variable_of_others_is_documented():
    source = 'os.environ.get("A"), os.environ["B"], "C" in os.environ\nos.environ["D"] = "E"'
    assert sorted(variables_read(source)) == ["A", "B", "C"]
    read = {name for source in CODE for name in variables_read(source)}
    assert read <= set(re.findall(r"`([A-Z_]+)`", PAGES["docs/conditions.md"]))


def literal(name):
    """The value that a module of ours gives to a constant; keywords only of dict(...)."""
    for source in CODE:
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                if isinstance(node.value, ast.Call):
                    return [keyword.arg for keyword in node.value.keywords]
                return ast.literal_eval(node.value)
    raise LookupError(name)


def test_every_line_of_the_summary_is_explained():
    explained = set(re.findall(r"`(\w+)`", section(PAGES["docs/numbers.md"], "The summary")))
    assert {*literal("SUMMARY")} <= explained


def test_every_part_of_the_contract_is_explained():
    nodes = (node for source in CODE for node in ast.walk(ast.parse(source)))
    run = next(node for node in nodes if isinstance(node, ast.ClassDef) and node.name == "Run")
    methods = {node.name for node in run.body if isinstance(node, ast.FunctionDef)}
    public = {name for name in methods if not name.startswith("_")}
    assert {"rehearse", "batches", "submit"} <= public
    assert public <= set(re.findall(r"run\.(\w+)", PAGES["docs/contract.md"]))


# --------------------------------------------------------------------------------------------------
# Links, paths, figures, length


def anchors(page):
    """Names of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page, re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    here = ROOT / name
    for target in re.findall(r"""(?:\]\(|src="|srcset=")([^)"\s]+[^)".\s])[)"]""", PAGES[name]):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (here.parent / path) if path else here
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("name", PAGES)
def test_paths_exist(name):
    roots = "ratchet|docs|tests|benchmarks|examples"
    for path in re.findall(rf"`((?:{roots})/[\w/.-]*)`", PAGES[name]):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_the_index():
    index = PAGES["docs/README.md"]
    pages = {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}
    assert pages == set(re.findall(r"^\| \[[\w ]+\]\(([\w-]+\.md)\)", index, re.M))
    assert all(f"](docs/{page})" in PAGES["README.md"] for page in pages)


def test_the_readme_is_short_and_soon_has_a_command():
    page = PAGES["README.md"]
    assert len(page.split()) <= MOST_WORDS
    assert len(page[: page.index("```sh\n")].split()) <= MOST_WORDS_BEFORE_A_COMMAND


def test_the_cheats_are_as_tried():
    page = PAGES["docs/referee.md"]
    assert cheats_table.write_tables(page) == page
    number = len([*ROOT.glob("tests/cheats/*.py")])
    assert f"[{number} known cheats]" in PAGES["README.md"]


def test_the_architecture_is_that_of_the_imports():
    edges = architecture.count_imports()
    levels = architecture.find_levels(edges)
    assert architecture.make_table(edges, levels) in PAGES["docs/architecture.md"]
    picture = (ROOT / "docs/architecture.svg").read_text(encoding="utf-8")
    assert architecture.describe_edges(edges) in picture


def test_what_is_sealed_is_documented():
    text = section(PAGES["docs/architecture.md"], "What is sealed")
    named = {path.rstrip("/").rpartition("/")[2] for path in re.findall(r"`([\w/.]+)`", text)}
    assert architecture.sealed_parts() - {"__init__.py"} <= named


def test_pictures_are_small():
    assert all(path.stat().st_size < 200_000 for path in ROOT.glob("docs/*.[ps][nv]g"))
