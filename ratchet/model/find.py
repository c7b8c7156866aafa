"""Which model is meant."""

import json
import os
from pathlib import Path

from ratchet.arena.files import Refused, replace_file
from ratchet.experiments.campaign import Campaign
from ratchet.experiments.ledger import is_valid
from ratchet.referee.devices.choice import describe_device

NEEDED = "train.py", "model.safetensors", "config.json", "run.json", "result.json"


def find_run(ledger, home, name=None):
    """The folder of a run: a path, an experiment's number, or `champion`. Raises Refused.

    By default the champion's, and where there is none the latest that was started by hand.
    """
    found, experiments = None, ledger.experiments()
    if name and (Path(name) / "model.safetensors").exists():
        found = Path(name).resolve()
    elif name and name.isdigit():
        found = latest_weights([experiments[int(name)]] if int(name) in experiments else [], home)
    elif name in (None, "champion"):
        bases = [e for e in experiments.values() if e.verdict == "baseline"]
        kept = Campaign([*experiments.values()], bases[-1].comparison_key).kept if bases else []
        found = latest_weights(kept[-1:], home) or (
            None if name or kept else latest_run_by_hand(home)
        )
    if not found:
        if name == "champion":
            raise Refused(
                "there is no champion yet: `ratchet calibrate` makes one, or name a run's folder"
            )
        what = (
            f"{name} names no run that has left a model"
            if name
            else "there is no trained model yet"
        )
        raise Refused(f"{what}: champions keep theirs; `uv run train.py` trains one")
    if missing := [file for file in NEEDED if not (found / file).exists()]:
        raise Refused(f"{found} lacks {', '.join(missing)}: choose a run that ended well")
    return found


def name_and_prompt(words):
    """(what names a run or None, the prompt) of [RUN] [PROMPT], either of which may be missing."""
    first = words[0] if words else ""
    named = (
        first.isdigit() or first == "champion" or os.path.isfile(os.path.join(first, "run.json"))
    )
    named = named or (len(words) > 1 and "/" in first)
    return (first, " ".join(words[1:])) if named else (None, " ".join(words))


def run_name(run):
    """What a run's folder is called in results: 12/3-confirm-0."""
    return "/".join(run.parts[-2:])


def read_header(file):
    """{name: facts} at the beginning of an open .safetensors file, which is then at its data."""
    return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def latest_weights(experiments, home):
    """The last run of these experiments' candidates that left its weights, or None."""
    runs = [
        run
        for e in experiments
        for run in e.runs
        if is_valid(run) and run["arm"] == 0 and "folder" in run
    ]
    found = [
        home / run["folder"]
        for run in runs
        if (home / run["folder"] / "model.safetensors").exists()
    ]
    return found[-1] if found else None


def latest_run_by_hand(home):
    """The latest run that was started by hand and has a score, or None."""
    found = sorted((home / "runs").glob("*-*-*_*/result.json"))
    return next(
        (
            path.parent
            for path in reversed(found)
            if json.loads(path.read_bytes())["status"] == "ok"
        ),
        None,
    )


def write_measured(path, found):
    """Write what was measured, whole or not at all, where the report looks for it."""
    path.parent.mkdir(exist_ok=True)
    replace_file(path, json.dumps(found, indent=1, allow_nan=False) + "\n")


def measured_token_seconds(path, run, device):
    """Seconds of a token at batch 1, if what serve_bench() found is there, of this run and such a
    device.
    """
    found = json.loads(path.read_bytes()) if path.exists() else {}
    same = (found.get("run"), found.get("device")) == (
        run_name(run),
        describe_device(device)["device"],
    )
    return found["points"][0]["tpot"] if same else None
