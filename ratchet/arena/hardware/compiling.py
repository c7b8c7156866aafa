"""Which parts of a contestant torch.compile makes faster within a budget, and how to do without it.

Compiling is not timed, but a run by hand waits for it. So on a CPU a part is compiled only where it
saves more time than it takes. That depends on budget, cores and type alone, never on a stopwatch or
on the compiler's cache: all runs of a comparison compile the same.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Part(NamedTuple):
    """Something to compile: modules, or functions given as (owner, name of its attribute).

    Example: Part("muon", [(muon, "update")], graphs=3, core_seconds=66, saves=0.02)
    """

    name: str
    targets: list
    graphs: int  # that the compiler makes of it
    core_seconds: float  # seconds of one core that these take when nothing is cached
    saves: float  # the share of a step on a CPU


def worth_compiling(parts: Sequence[Part], device: torch.device, seconds: float) -> list[Part]:
    """The parts that a training of so many seconds earns back; all of them where it isn't a CPU."""
    if device.type != "cpu":
        return [*parts]
    cores = torch.get_num_threads()
    return [part for part in parts if part.saves * seconds > part.core_seconds / cores]


def compile_parts(parts: list[Part]) -> Callable[[], None]:
    """Compile parts in place; returns a function that undoes it."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of no GPU
    targets = [target for part in parts for target in part.targets]
    modules = [target for target in targets if isinstance(target, torch.nn.Module)]
    functions = [(*target, getattr(*target)) for target in targets if isinstance(target, tuple)]
    for module in modules:
        module.compile(dynamic=False)
    for owner, name, function in functions:
        setattr(owner, name, torch.compile(function, dynamic=False))

    def undo():
        torch._dynamo.reset()
        for module in modules:
            module._compiled_call_impl = None
        for owner, name, function in functions:
            setattr(owner, name, function)

    return undo


def compiler_works(device: torch.device) -> bool:
    """Whether torch.compile can do anything here."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
        return True
    except Exception:  # a compiler has a hundred types of them
        return False
