"""Training tokens as a stream that ends: for budgets of tokens or FLOPs.

The contestant asks for each batch with a byte. So the referee knows how much text it was given, and
when. What it does with a batch, and how often, can't be seen.
"""

import itertools
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from ratchet.arena.budget import LOAD_BYTES_PER_SECOND, parse_budget
from ratchet.arena.tokenizer import token_dtype
from ratchet.referee import limits
from ratchet.referee.job import Job
from ratchet.referee.scoring import number_or_zero
from ratchet.referee.supervisor import EndedEarly


class TokenStream:
    """Hands out the rows of a run, in the order of its seed, until its budget is spent.

    request: what the contestant said when it was ready: {"rows": of a step, "flops_per_token"}
    served: batches by now

    Raises EndedEarly("crash") when a budget has no room for some steps of so many rows.
    """

    def __init__(self, job: Job, request: dict[str, Any]) -> None:
        self.job, self.budget = job, parse_budget(job.budget)
        self.rows = number_or_zero(request.get("rows"))
        self.flops_per_token = number_or_zero(request.get("flops_per_token"))
        self.served = 0
        self.asked: list[float] = []  # when each batch was asked for that was served
        is_sound = type(self.rows) is int and 0 < self.rows <= limits.MOST_STEP_ROWS
        if not is_sound or (self.budget.unit == "flop" and not self.flops_per_token):
            raise EndedEarly("crash", "it did not say how many rows and FLOPs its steps have")
        self.step_tokens = self.rows * job.arena.context
        if not self._has_room(limits.LEAST_STEPS):
            steps = f"a budget of {job.budget} must have room for {limits.LEAST_STEPS} steps"
            raise EndedEarly("crash", f"{steps}, and one has {self.step_tokens:,} tokens")
        self.ours, self.theirs = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def fileno(self) -> int:
        """The number of the contestant's end."""
        return self.theirs.fileno()

    def __enter__(self) -> "TokenStream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Called when the contestant has ended."""
        for end in (self.ours, self.theirs):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.ours.close()
        self.theirs.close()

    def _has_room(self, steps: int) -> bool:
        """Whether so many steps fit into the budget: as Run._may_step() decides."""
        tokens = steps * self.step_tokens
        return self.budget.share_used(0.0, tokens, self.flops_per_token) <= 1

    def _serve(self) -> None:
        # not above: it takes long to import, and the command line does without
        import numpy as np

        from ratchet.arena.text.rows import row_order

        arena = self.job.arena
        tokens = np.memmap(arena.folder / "train.tokens", token_dtype(arena.vocab_size), "r")
        table = tokens[: len(tokens) // arena.context * arena.context].reshape(-1, arena.context)
        with suppress(OSError):  # it has ended
            for numbers in row_order(len(table), self.rows, self.job.seed):
                if not self.ours.recv(1) or not self._has_room(self.served + 1):
                    break
                self.asked.append(time.monotonic())
                self.served += 1
                self.ours.sendall(table[numbers].tobytes())
            self.ours.shutdown(socket.SHUT_RDWR)

    def counts(self) -> dict[str, Any]:
        """What was handed out: {"steps", "tokens"}, and "flops_per_token" as it was told."""
        counts = {"steps": self.served, "tokens": self.served * self.step_tokens}
        return counts | {"flops_per_token": self.flops_per_token}

    def refuse_late_weights(self, now: float) -> None:
        """Raises EndedEarly("overtime") when it went on after the last batch that it got.

        A step is begun when the batch after it is asked for, and a GPU lags behind: it may take as
        long as some steps did, and besides what is forgiven in any budget and what the weights need
        to be saved.
        """
        if not self.asked:
            return
        longest = max((b - a for a, b in itertools.pairwise(self.asked)), default=0.0)
        trained = self.asked[-1] - self.asked[0]
        forgiven = max(limits.LATE_SHARE * trained, limits.LATE_SECONDS)
        with suppress(OSError):
            weights = os.lstat(self.job.live_folder / "out/model.safetensors").st_size
            forgiven += weights / LOAD_BYTES_PER_SECOND
        late = now - self.asked[-1] - limits.LAST_STEPS * longest - forgiven
        if late > 0:
            reason = f"it submitted {late:.2f} s later than its steps' pace allows"
            raise EndedEarly("overtime", f"{reason}, after the last batch of its {self.job.budget}")
