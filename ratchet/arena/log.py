"""The log of a training: curve.jsonl, a line for whoever watches, wandb where it is asked for."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ratchet.arena.files import Refused, describe_error
from ratchet.arena.progress import console

if TYPE_CHECKING:  # the command line asks for wandb, and shall not wait for torch
    from ratchet.arena.hardware.device import PendingNumber

WANDB_SECONDS = 15  # longest wait for a server of wandb, before and after the training
SECONDS_BETWEEN_LINES = 0.2, 10  # in a terminal, elsewhere


class TrainingLog:
    """Loss, speed and time left of a Run: a live line in a terminal, else a plain one every 10 s.

    A line of curve.jsonl: {"step": 7, "tokens": 28672, "seconds": 1.52, "loss": 7.31}; loss in nats
    a token.
    """

    def __init__(self, run, wandb=None) -> None:
        self.run = run
        self.wandb = wandb
        self.pending: deque[tuple[int, int, float, PendingNumber]] = deque()  # not written yet
        self.smooth: float | None = None  # running mean of the loss
        self.next_line = 0.0  # seconds on the clock
        self.limit = 2 * math.log(run.arena.vocab_size)
        # line by line: the referee reads it half-way
        self.curve = open(run.folder / "curve.jsonl", "w", buffering=1, encoding="utf-8")
        text = TextColumn("{task.description}")
        columns = text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        self.live = Progress(*columns, console=console) if console.is_terminal else None
        if self.live:
            self.live.start()
            self.task = self.live.add_task("training", total=1.0)

    def add(self, loss: PendingNumber) -> None:
        """Note the mean loss of the step that was just made, in nats; write those that have come.

        So nothing waits for a GPU, which is some steps behind.
        """
        self.pending.append((self.run.steps, self.run.tokens, self.run.seconds, loss))
        while self.pending and self.pending[0][-1].has_come():
            self._write(*self.pending.popleft())

    def _write(self, step, tokens, seconds, pending_loss):
        loss = pending_loss.item()
        if not loss < self.limit:
            self.pending.clear()
            self.close()
            limit = f"it should stay below {self.limit:.1f}"
            self.run.fail(f"the loss is {loss:.3g} at step {step}, {limit}")
        self.smooth = loss if self.smooth is None else 0.9 * self.smooth + 0.1 * loss
        point = {"step": step, "tokens": tokens, "seconds": round(seconds, 3), "loss": loss}
        self.curve.write(json.dumps(point) + "\n")
        if self.wandb:
            self.wandb.log(point, step=step)
        if step and seconds >= self.next_line:
            self.next_line = seconds + SECONDS_BETWEEN_LINES[self.live is None]
            self._show(step, tokens / seconds)

    def _show(self, step, rate):
        mfu = 100 * rate * self.run.flops_per_token / (self.run.peak_flops or math.inf)
        line = f"step {step}  loss {self.smooth:.4f}  {rate:,.0f} tokens/s  mfu {mfu:.1f}%"
        progress = self.run.progress
        if self.live:
            self.live.update(self.task, completed=progress, description=line)
        else:
            left = self.run.seconds * (1 / max(progress, 1e-9) - 1)
            print(f"{100 * progress:5.1f}%  {line}  {left:.0f} s left", flush=True)

    def close(self, config: Any = None) -> None:
        """Write what is pending, end the live line. config: that of the model, for wandb."""
        while self.pending:
            self._write(*self.pending.popleft())
        if self.live:
            self.live.stop()
        self.curve.close()
        if self.wandb and isinstance(config, dict):
            self.wandb.config.update(config)


def wandb_is_wanted(wanted: bool = False) -> bool:
    """Whether the user or the environment (WANDB_PROJECT, WANDB_MODE) asks for wandb."""
    named = not {"WANDB_MODE", "WANDB_PROJECT"}.isdisjoint(os.environ)
    return (wanted or named) and os.environ.get("WANDB_MODE") != "disabled"


def wandb_settings(wanted: bool = False) -> Any:
    """Settings for wandb.init() if it is wanted or the environment asks for it; else None.

    With them it asks nobody for a key, and waits for no server longer than WANDB_SECONDS. Call it
    before anything starts: it raises Refused where wandb is not installed or has no key.
    """
    if not wandb_is_wanted(wanted):
        return None
    try:
        import wandb

        settings = wandb.Settings(
            silent=True, init_timeout=WANDB_SECONDS, finish_timeout=WANDB_SECONDS
        )
        mode = wandb.setup(settings).settings.mode
        ready = mode in ("offline", "dryrun", "disabled") or wandb.login(prompt=False, verify=False)
    except ImportError:
        remedy = "run `uv sync --extra wandb`, or unset WANDB_PROJECT and WANDB_MODE"
        raise Refused(f"wandb is not installed: {remedy}") from None
    except ValueError:  # what it says may hold a key
        raise Refused(
            "wandb does not understand its settings: look at WANDB_MODE and other WANDB_ variables"
        ) from None
    except wandb.Error as error:
        remedy = "run `uv run wandb login`, or set WANDB_MODE=offline"
        raise Refused(f"wandb can't log in ({describe_error(error)}): {remedy}") from None
    if not ready:
        raise Refused(
            "wandb has no key: run `uv run wandb login`, or set WANDB_MODE to offline or disabled"
        )
    return settings


def wandb_run(run) -> Any:
    """A run of wandb to log curves to; None where nobody asks for one, or no server answers."""
    if not (settings := wandb_settings()):
        return None
    import wandb

    config = {"arena": run.arena.name, "seed": run.seed, "budget": run.budget}
    try:
        return wandb.init(
            settings=settings, dir=str(run.folder), name=run.folder.name, config=config
        )
    except Exception as error:  # whatever it is, the run needs no curves
        why = describe_error(error)
        console.print(f"wandb gets no curves of this run: {why}", markup=False, soft_wrap=True)
        return None
