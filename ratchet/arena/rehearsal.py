"""The rehearsal: everything is compiled and tried before the clock runs, and undone."""

import random
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch

from ratchet.arena.progress import ProgressLine, format_duration


def snapshot(
    model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> Callable[[], None]:
    """A function that puts model, optimizers and random number generators back, bit for bit.

    They are put back in place. What is zero needs no copy: there is no room for a second one of the
    largest tables.
    """
    states = [{p: dict(values) for p, values in opt.state.items()} for opt in optimizers]
    groups = [(group, {**group}) for opt in optimizers for group in opt.param_groups]
    tensors = tensors_of(model, optimizers)
    copies = [tensor.detach().clone() if tensor.any() else None for tensor in tensors]
    restore_generators = snapshot_generators()

    @torch.no_grad()
    def restore() -> None:
        for tensor, copy in zip(tensors, copies):
            tensor.zero_() if copy is None else tensor.copy_(copy)
        for optimizer, state in zip(optimizers, states):
            optimizer.state.clear()
            optimizer.state.update(state)
        for group, values in groups:
            group.update(values)
        for trained in (model, *optimizers):
            trained.zero_grad(set_to_none=True)
        restore_generators()

    return restore


def tensors_of(
    model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> list[torch.Tensor]:
    """Parameters and buffers of a model, what its optimizers train and remember; each once."""
    groups = [group for opt in optimizers for group in opt.param_groups]
    trained = [p for group in groups for p in group["params"]]  # maybe of another model
    states = [values for opt in optimizers for values in opt.state.values()]
    remembered = [value for values in states for value in values.values()]
    tensors = [*model.parameters(), *model.buffers(), *trained]
    tensors += filter(torch.is_tensor, remembered)
    return [*{id(tensor): tensor for tensor in tensors}.values()]


def release_memory(
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Sequence[torch.Tensor],
) -> None:
    """Empty the tensors of a model, its optimizers and a batch, whoever else may refer to them."""
    for tensor in [*tensors_of(model, optimizers), *batch]:
        tensor.grad = None
        if tensor.untyped_storage().resizable():
            tensor.untyped_storage().resize_(0)


def snapshot_generators() -> Callable[[], None]:
    """A function that puts the random number generators of Python, numpy and torch back."""
    of_python = random.getstate()
    of_numpy = np.random.get_state()
    of_cpu = torch.get_rng_state()
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore() -> None:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_cpu)
        if of_gpus:
            torch.cuda.set_rng_state_all(of_gpus)

    return restore


@contextmanager
def compile_events(line: ProgressLine, parts: int) -> Generator[None]:
    """Have a ProgressLine tell which graph torch.compile works on, of so many, and for how long.

    It listens to the compiler's own events (torch/_dynamo/callback.py); without these it tells
    less.
    """
    try:
        handler = sys.modules["torch._dynamo.callback"].callback_handler
    except (KeyError, AttributeError):  # nothing is compiled, or by another PyTorch
        yield
        return
    begun, seconds = [], []

    def on_start(*_):
        begun.append(time.monotonic())
        known = f" of {parts}" if len(begun) <= parts else ""
        line.detail = f"compiling part {len(begun)}{known}"
        if seconds and known:
            left = sum(seconds) / len(seconds) * (parts - len(seconds))
            line.detail += f", about {format_duration(left)} left"

    def on_end(*_):
        if begun:  # else it began before anybody listened
            seconds.append(time.monotonic() - begun[-1])
        line.detail = ""

    handler.register_start_callback(on_start)
    handler.register_end_callback(on_end)
    try:
        yield
    finally:
        with suppress(ValueError):  # torch._dynamo.reset() forgets them
            handler.remove_start_callback(on_start)
            handler.remove_end_callback(on_end)
