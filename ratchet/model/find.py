"""The trained model that is meant: a run's folder."""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from ratchet.arena.files import Refused, read_untrusted, replace_file
from ratchet.experiments.campaign import Campaign
from ratchet.experiments.ledger import Experiment, Ledger, is_valid
from ratchet.referee.devices.choice import describe_device
from ratchet.report.decoding import read_curves

ENDS = {"baseline": 0, "champion": -1}  # of the champions of a campaign
NEEDED = "train.py", "model.safetensors", "config.json", "run.json", "result.json"


def find_run(ledger: Ledger, home: Path, name: str | None = None) -> Path:
    """The folder of a run: a path, an experiment's number, or one of ENDS. Raises Refused.

    By default the champion's, and where there is none the latest that was started by hand.
    """
    folder = None
    if name and (Path(name) / "model.safetensors").exists():
        folder = Path(name).resolve()
    elif name and name.isdigit():
        experiment = ledger.experiments().get(int(name))
        folder = latest_weights(experiment, home) if experiment else None
    elif name in (None, *ENDS):
        kept = list_kept(ledger)
        chosen = kept[ENDS[name or "champion"]] if kept else None
        folder = latest_weights(chosen, home) if chosen else None
        if not (folder or name or chosen):
            folder = latest_run_by_hand(home)
    if not folder:
        raise Refused(why_none(name))
    if missing := [file for file in NEEDED if not (folder / file).exists()]:
        raise Refused(f"{folder} lacks {', '.join(missing)}: choose a run that ended well")
    return folder


def why_none(name: str | None) -> str:
    """What to say when a name leads to no trained model."""
    if name in ENDS:
        made = "`ratchet calibrate` makes one, whose weights stay in runs/ of the machine it ran on"
        return f"there is no {name} with weights here: {made}; or name a run's folder"
    remedy = "champions keep theirs; `uv run train.py` trains one"
    if name:
        return f"{name} names no run that has left a model: {remedy}"
    return f"there is no trained model yet: {remedy}"


def list_kept(ledger: Ledger) -> list[Experiment]:
    """The experiments that made the champions of the latest campaign, the baseline first."""
    experiments = [*ledger.experiments().values()]
    baselines = [e for e in experiments if e.verdict == "baseline"]
    return Campaign(experiments, baselines[-1].comparison_key).kept if baselines else []


def name_and_prompt(words: list[str]) -> tuple[str | None, str]:
    """(a run's name or None, the prompt) of [RUN] [PROMPT], either of which may be missing.

    Example: ["12", "My", "fellow"] -> ("12", "My fellow").
    """
    first = words[0] if words else ""
    is_run = first.isdigit() or first in ENDS
    is_run = is_run or os.path.isfile(os.path.join(first, "run.json"))
    is_run = is_run or (len(words) > 1 and "/" in first)
    return (first, " ".join(words[1:])) if is_run else (None, " ".join(words))


def run_name(run: Path) -> str:
    """A run's folder as results name it. Example: "12/3-confirm-0"."""
    return "/".join(run.parts[-2:])


def read_header(file: BinaryIO) -> dict[str, Any]:
    """{tensor: its dtype, shape, place} of an open .safetensors file, which is then at its data."""
    return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def latest_weights(e: Experiment, home: Path) -> Path | None:
    """The last run of an experiment's candidate that left its weights."""
    runs = [run for run in e.runs if is_valid(run) and run["arm"] == 0 and "folder" in run]
    folders = [home / run["folder"] for run in runs]
    with_weights = [folder for folder in folders if (folder / "model.safetensors").exists()]
    return with_weights[-1] if with_weights else None


def latest_run_by_hand(home: Path) -> Path | None:
    """The latest run that was started by hand and has a score."""
    for path in sorted((home / "runs").glob("*-*-*_*/result.json"), reverse=True):
        if json.loads(read_untrusted(path))["status"] == "ok":
            return path.parent
    return None


def write_measured(path: Path, result: dict[str, Any]) -> None:
    """Write a measurement, whole or not at all, where the report looks for it."""
    path.parent.mkdir(exist_ok=True)
    replace_file(path, json.dumps(result, indent=1, allow_nan=False) + "\n")


def measured_token_seconds(path: Path, run: Path, device: str) -> float | None:
    """Seconds of a token at batch 1, if serve-bench has measured this run on such a device."""
    wanted = run_name(run), describe_device(device)["device"]
    curves = [each for each in read_curves(path) if (each["run"], each["device"]) == wanted]
    return curves[-1]["points"][0]["tpot"] if curves else None
