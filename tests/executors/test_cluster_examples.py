"""The files of examples/clusters: they parse, their commands exist, a night runs as they begin it.

Schemas of SkyPilot and KubeRay aren't here: examples/clusters/README.md says how they were checked.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
import typer
import yaml
from conftest import ROOT, make_repository
from test_executors import cluster  # noqa: F401

from ratchet import __main__
from ratchet.experiments.ledger import Ledger

EXAMPLES = ROOT / "examples/clusters"
VERBS = typer.main.get_command(__main__.app).commands
SKYPILOT = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text(encoding="utf-8"))
VOLUME, CONFIG, RAYJOB = yaml.safe_load_all((EXAMPLES / "rayjob.yaml").read_text(encoding="utf-8"))
SBATCH = (EXAMPLES / "night.sbatch").read_text(encoding="utf-8")
SCRIPTS = {
    "skypilot setup": SKYPILOT["setup"],
    "skypilot run": SKYPILOT["run"],
    "rayjob": CONFIG["data"]["night.sh"],
    "sbatch": SBATCH,
}
VALUES = {  # of the variables in them, as far as options are made of these
    "$AGENT": "tuner",
    "$HOURS": "8",
    "$ARENA": "climbmix",
    "$devices": "cuda:0,cuda:1",
    "$@": re.search(r"set -- (.+)", SBATCH)[1],
}


def verbs_of(script):
    """[(verb, its arguments)] of the commands of ratchet in a shell script."""
    for name, value in VALUES.items():
        script = script.replace(f'"{name}"', value)
    lines = re.findall(r"(?:uv run|python -m) ratchet (.+)", script)
    words = [shlex.split(line, comments=True) for line in lines]
    return [(verb, arguments) for verb, *arguments in words]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_of_commands_that_exist(name):
    subprocess.run(["sh", "-n"], input=SCRIPTS[name], encoding="utf-8", check=True)
    verbs = verbs_of(SCRIPTS[name])
    assert verbs if name == "skypilot setup" else [v for v, _ in verbs] == ["calibrate", "night"]
    for verb, arguments in verbs:
        VERBS[verb].make_context(verb, arguments)  # raises what a user would see
    assert all((ROOT / path).exists() for path in re.findall(r"\w+\.py", SCRIPTS[name]))


def test_each_gpu_of_a_rented_machine_is_named():
    (line,) = re.findall("devices=.+", SKYPILOT["run"])
    shell = ["sh", "-c", f"SKYPILOT_NUM_GPUS_PER_NODE=2; {line}; echo $devices"]
    assert subprocess.check_output(shell, encoding="utf-8") == "cuda:0,cuda:1\n"


def test_a_script_begins_with_a_calibration_once():
    for name in SCRIPTS.keys() - {"skypilot setup"}:
        first = "git rev-parse -q --verify refs/ratchet/champion ||"
        assert re.search(re.escape(first) + r"\s+\S+ \S+ ratchet calibrate", SCRIPTS[name])


def test_the_parts_of_the_manifest_belong_together():
    spec = RAYJOB["spec"]["rayClusterSpec"]
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    (group,) = spec["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    gpus = worker["resources"]["limits"]["nvidia.com/gpu"] * group["replicas"]
    variables = {each["name"]: each["value"] for each in head["env"]}
    assert variables["DEVICES"] == f"{gpus:.1f} GPU" and head["image"] == worker["image"]
    assert {*re.findall(r"\$([A-Z]+)", CONFIG["data"]["night.sh"])} <= variables.keys()
    paths = {each["name"]: each["mountPath"] for each in head["volumeMounts"]}
    assert RAYJOB["spec"]["entrypoint"] == f"sh {paths['scripts']}/night.sh"  # in a shell, as it is
    assert variables["RATCHET_CACHE"].startswith(paths["night"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project["optional-dependencies"]["ray"][0].removeprefix("ray==")
    image = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")
    assert spec["rayVersion"] == version and f"ray[default]=={version}" in image


# Of a run that the test can wait for
UV = """\
shift
case "$*" in *calibrate*) set -- "$@" --arena tiny --budget 20000tok -n 2 --busy ;; esac
PYTHONPATH={root} exec {python} -m "$@"
"""


@pytest.mark.slow
def test_the_batch_script_has_a_night_on_a_real_cluster(cluster, arena, tmp_path, monkeypatch):  # noqa: F811
    make_repository(repository := tmp_path / "repository")
    monkeypatch.chdir(repository)
    (tmp_path / "uv").write_text("#!/bin/sh\n" + UV.format(root=ROOT, python=sys.executable))
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    shutil.copy(EXAMPLES / "night.sbatch", tmp_path)
    sbatch = ["sbatch", "--mem=0", tmp_path / "night.sbatch"]  # the nodes here tell no memory
    asked = subprocess.run([*sbatch[:2], "--test-only", sbatch[2]], capture_output=True)
    assert asked.returncode == 0, asked.stderr
    options = ["--agent", "tuner", "--experiments", "1", "--busy"]
    subprocess.run([*sbatch[:1], "--wait", *sbatch[1:], *options], check=False)
    (log,) = [path.read_text(encoding="utf-8") for path in repository.glob("night-*.log")]
    experiments = [*Ledger(repository).experiments().values()]
    assert [e.role for e in experiments[:2]] == ["calibrate", "try"], log
    assert all(", 1 of " in e.device for e in experiments) and "champion" in log
