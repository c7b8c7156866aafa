"""The rehearsal: everything is compiled and tried before the clock runs, and undone."""

import random
import sys
import time
from contextlib import contextmanager, nullcontext, suppress

import numpy as np
import torch

from ratchet.arena.progress import format_duration
from ratchet.arena.tokenizer import BOS


def inspect_model(model, context, vocab_size, device, flops=True):
    """{"flops_per_token", "lookup"}: both seen in a forward and backward pass over one row; clears
    gradients.

    FLOPs are those of the matrix products made; PyTorch's own attention counts as the whole T x T
    square. `lookup` is the number of parameters in tables of which only the rows of the tokens
    there get a gradient, and of saved integers, which nothing multiplies.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = (
        FlopCounterMode(display=False) if flops else nullcontext()
    )  # it takes seconds to start
    ids = torch.nn.functional.pad(
        torch.randint(vocab_size, (1, context - 1)), (1, 0), value=BOS
    ).to(device)
    eager = (
        torch.compiler.set_stance("force_eager")
        if "torch._dynamo" in sys.modules
        else nullcontext()
    )
    with eager, sdpa_kernel(SDPBackend.MATH), counter:
        out = model(ids).float().square().sum()
        if out.requires_grad:
            out.backward()
    tables = [
        p for p in model.parameters() if p.grad is not None and p.ndim == 2 and len(p) > context
    ]
    looked_up = [t for t in model.state_dict().values() if not t.is_floating_point()]
    looked_up += [t for t in tables if t.grad.is_sparse or t.grad.any(1).sum() <= context]
    model.zero_grad(set_to_none=True)
    seen = {"flops_per_token": counter.get_total_flops() / context} if flops else {}
    return seen | {"lookup": sum(t.numel() for t in looked_up)}


def snapshot(model, optimizers):
    """A function that puts model, optimizers and random number generators back, in place and bit
    for bit.

    What is zero needs no copy: there is no room for a second one of the largest tables.
    """
    states = [
        {p: dict(values) for p, values in optimizer.state.items()} for optimizer in optimizers
    ]
    groups = [(group, {**group}) for optimizer in optimizers for group in optimizer.param_groups]
    inside = (value for state in states for values in state.values() for value in values.values())
    tensors = [*model.parameters(), *model.buffers(), *filter(torch.is_tensor, inside)]
    copies = [tensor.detach().clone() if tensor.any() else None for tensor in tensors]
    generators = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
    ]
    generators += [(torch.set_rng_state, torch.get_rng_state())]
    if torch.cuda.is_available():
        generators += [(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())]

    @torch.no_grad()
    def restore():
        for tensor, copy in zip(tensors, copies):
            tensor.zero_() if copy is None else tensor.copy_(copy)
        for optimizer, state in zip(optimizers, states):
            optimizer.state.clear()
            optimizer.state.update(state)
        for group, values in groups:
            group.update(values)
        model.zero_grad(set_to_none=True)
        for put_back, state in generators:
            put_back(state)

    return restore


@contextmanager
def compile_events(line, parts):
    """Have a ProgressLine tell which graph torch.compile works on, of how many, and about how long
    it takes.

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


def save_weights(model, folder):
    """Write model.safetensors; returns the seconds that it took."""
    from safetensors.torch import save_model

    begin = time.monotonic()
    save_model(model, str(folder / "model.safetensors"))
    return time.monotonic() - begin
