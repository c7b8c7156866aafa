"""Weights & Biases: gets each experiment that has its verdict, where the user asks for it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet import commits
from ratchet.arena.log import WANDB_SECONDS, wandb_is_wanted, wandb_settings
from ratchet.experiments.ledger import CANDIDATE, Experiment, bpb
from ratchet.referee import early_stopping

if TYPE_CHECKING:
    import wandb

FIGURES = "steps tokens params lookup peak_memory_mb mfu_percent status reason".split()


def check_wandb(wanted: bool) -> None:
    """Exit code 2, before anything starts, if wandb is asked for but missing or without a key."""
    if wandb_is_wanted(wanted):
        wandb_settings(wanted)


def make_sender(
    wanted: bool, home: Path, tell: Callable[[str], Any]
) -> Callable[[Experiment], None]:
    """A session's on_verdict() that sends the experiment, or does nothing unless wandb is wanted.

    An error of wandb's is told and harms nothing else.
    """

    def send_or_tell(e):
        try:
            send_experiment(e, home)
        except Exception as error:
            tell(f"  wandb could not be told: {type(error).__name__}: {error}")

    return send_or_tell if wandb_is_wanted(wanted) else lambda e: None


def send_experiment(e: Experiment, home: Path) -> None:
    """Send a run for each run since its last verdict, grouped; the first one carries the change.

    The referee sends: a contestant has neither the network nor the key. Raises an error of wandb's
    when no server answers within WANDB_SECONDS.
    """
    sent = e.decisions[-2]["line"] if len(e.decisions) > 1 else 0  # a search may be gone on with
    for number, run in enumerate(e.runs):
        if run["line"] < sent:
            continue
        with start_run(e, number, home) as remote:
            curve, _ = early_stopping.read_curve(home / run["folder"] / "curve.jsonl")
            for seconds, tokens, loss in curve:
                remote.log({"seconds": seconds, "tokens": tokens, "loss": loss})
            remote.summary.update({key: run[key] for key in FIGURES if key in run})
            remote.summary["verdict"] = e.verdict
            if run["status"] == "ok":
                remote.summary["val_bpb"] = bpb(run)
            if number == 0 and run["arm"] == CANDIDATE and e.parent:
                remote.log_artifact(change_artifact(e))


def start_run(e: Experiment, number: int, home: Path) -> "wandb.Run":
    """A new run of wandb for one run of an experiment, with its conditions."""
    import wandb

    run = e.runs[number]
    waits = dict.fromkeys(("init_timeout", "finish_timeout"), WANDB_SECONDS)
    config = {"arena": e.arena, "seal": e.seal, "budget": e.budget, "device": e.device}
    config |= {"idea": e.idea, "by": e.by, "experiment": e.n}
    config |= {"seed": run["seed"], "commit": e.arms[run["arm"]]["commit"]}
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "ratchet"),
        group=f"experiment-{e.n}",
        name=f"{e.n}-{number}-{run['phase']}",
        job_type=run["phase"],
        config=config,
        dir=home / "runs",
        reinit="create_new",
        settings=wandb.Settings(console="off", silent=True, **waits),
    )


def change_artifact(e: Experiment) -> "wandb.Artifact":
    """What a try changed in train.py."""
    import wandb

    artifact = wandb.Artifact(f"experiment-{e.n}", type="change")
    with artifact.new_file("change.diff", mode="wb") as file:
        file.write(commits.git("diff", e.parent, e.arms[CANDIDATE]["commit"], "--", "train.py"))
    return artifact
