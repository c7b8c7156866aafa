"""The relay: sends an experiment that has its verdict to Weights & Biases, where the user asks for
it.
"""

import os

from ratchet import commits
from ratchet.arena.log import wandb_settings
from ratchet.experiments.campaign import CANDIDATE
from ratchet.experiments.ledger import bpb
from ratchet.referee import early_stopping

FIGURES = "steps tokens params lookup peak_memory_mb mfu_percent status reason".split()
SECONDS = 15  # longest wait for a server, at the beginning and at the end of a run there


def asked():
    """Whether the environment asks for it: WANDB_MODE or WANDB_PROJECT is set, not to `disabled`."""
    named = {"WANDB_MODE", "WANDB_PROJECT"} & {*os.environ}
    return bool(named) and os.environ.get("WANDB_MODE") != "disabled"


def check(wanted):
    """Exit code 2, before anything starts, if wandb is wanted or asked for and has no key, or is
    missing.
    """
    if wanted or asked():
        wandb_settings(wanted)


def sender(wanted, home, tell):
    """on_verdict(experiment) of a session that sends it, or does nothing unless wanted or asked for.

    What goes wrong there harms nothing here: it is told.
    """

    def send_or_tell(e):
        try:
            send(e, home)
        except Exception as error:
            tell(f"  wandb could not be told: {type(error).__name__}: {error}")

    return send_or_tell if wanted or asked() else lambda e: None


def send(e, home):
    """One run there for each run here, in a group for the experiment; the change as an artifact of
    the first.

    It is the referee that sends: a contestant has neither the network nor the key. Raises an error
    of wandb's when no server answers within SECONDS.
    """
    import wandb

    waits = dict.fromkeys(("init_timeout", "finish_timeout"), SECONDS)
    shared = {"arena": e.arena, "seal": e.seal, "budget": e.budget, "device": e.opens["device"]}
    shared |= {"idea": e.opens.get("idea", ""), "by": e.opens.get("by", ""), "experiment": e.n}
    for number, run in enumerate(e.runs):
        name = f"{e.n}-{number}-{run['phase']}"
        config = shared | {"seed": run["seed"], "commit": e.arms[run["arm"]]["commit"]}
        settings = wandb.Settings(console="off", silent=True, **waits)
        with wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ratchet"),
            group=f"experiment-{e.n}",
            name=name,
            job_type=run["phase"],
            config=config,
            dir=home / "runs",
            reinit="create_new",
            settings=settings,
        ) as told:
            for seconds, tokens, loss in early_stopping.read_curve(
                home / run["folder"] / "curve.jsonl"
            )[0]:
                told.log({"seconds": seconds, "tokens": tokens, "loss": loss})
            told.summary.update({key: run[key] for key in FIGURES if key in run})
            told.summary["verdict"] = e.verdict
            if run["status"] == "ok":
                told.summary["val_bpb"] = bpb(run)
            if number == 0 and run["arm"] == CANDIDATE and e.opens.get("parent"):
                told.log_artifact(change(e))


def change(e):
    """What a try changed, as an artifact."""
    import wandb

    artifact = wandb.Artifact(f"experiment-{e.n}", type="change")
    with artifact.new_file("change.diff", mode="wb") as file:
        file.write(commits.git("diff", e.parent, e.arms[CANDIDATE]["commit"], "--", "train.py"))
    return artifact
