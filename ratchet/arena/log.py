"""The log of a run."""

import os

from ratchet.arena.files import Refused, describe_error
from ratchet.arena.progress import console

WANDB_SECONDS = 15  # longest wait for a server of wandb, before and after the training


def wandb_settings(wanted=False):
    """Settings for wandb.init() if WANDB_PROJECT or WANDB_MODE asks for it, or `wanted`; else None.

    With them it asks nobody for a key, and waits for no server longer than WANDB_SECONDS. Exit code
    2 where wandb is not installed or, unless WANDB_MODE is offline, has no key: call it before
    anything starts.
    """
    wanted = wanted or not {"WANDB_MODE", "WANDB_PROJECT"}.isdisjoint(os.environ)
    if not wanted or os.environ.get("WANDB_MODE") == "disabled":
        return None
    try:
        import wandb

        waits = dict.fromkeys(("init_timeout", "finish_timeout"), WANDB_SECONDS)
        mode = wandb.setup(settings := wandb.Settings(silent=True, **waits)).settings.mode
        ready = mode in ("offline", "dryrun", "disabled") or wandb.login(prompt=False, verify=False)
    except ImportError:
        raise Refused(
            "wandb is not installed: run `uv sync --extra wandb`, or unset WANDB_PROJECT and WANDB_MODE"
        ) from None
    except ValueError:  # what it says may hold a key
        raise Refused(
            "wandb does not understand its settings: look at WANDB_MODE and other WANDB_ variables"
        ) from None
    except wandb.Error as error:
        raise Refused(
            f"wandb can't log in ({describe_error(error)}): run `uv run wandb login`, or set WANDB_MODE=offline"
        ) from None
    if not ready:
        raise Refused(
            "wandb has no key: run `uv run wandb login`, or set WANDB_MODE to offline or disabled"
        )
    return settings


def wandb_run(run, config):
    """A run of wandb to log curves to, if it is asked for; else None, also where no server answers.

    The latter is said in a line. config: a dict; the conditions of the run are added.
    """
    if not (settings := wandb_settings()):
        return None
    import wandb

    config = config | {"arena": run.arena.name, "seed": run.seed, "budget": run.budget}
    try:
        return wandb.init(
            settings=settings, dir=str(run.folder), name=run.folder.name, config=config
        )
    except Exception as error:  # whatever it is, the run needs no curves
        console.print(
            f"wandb gets no curves of this run: {describe_error(error)}",
            markup=False,
            soft_wrap=True,
        )
        return None
