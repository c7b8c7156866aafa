"""Tries a kernel before it is used: does it run on this GPU, and agree with its plain twin?"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 2e-2  # absolute and relative: of bfloat16


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function of constants called once for each of them; the compiler takes the result."""
    cached = functools.cache(function)

    @functools.wraps(function)
    def call(*args):
        return cached(*args)  # the compiler would look into a cached function, and break there

    # what torch.compiler.assume_constant_result() does; that loads the compiler, for seconds
    call._dynamo_marked_constant = True  # ty: ignore[missing-attribute]
    return call


def triton_op(name: str) -> Any:
    """The operator torch.ops.ratchet.<name>; None where Triton isn't installed."""
    return getattr(torch.ops.ratchet, name, None)


def kernel_works(
    kernel: Callable | None, twin: Callable, run: Callable[[Callable], Sequence[Tensor]]
) -> bool:
    """Whether run(kernel) gives on this GPU what run(twin) gives; if not, a line says why.

    `run` may make gradients, even where the caller makes none, as the scorer does: so a model is
    scored with the very kernels that it was trained with.
    """
    if kernel is None:
        return False
    with torch.inference_mode(False), torch.enable_grad():
        try:
            results, expected = [*run(kernel)], [*run(twin)]
            torch.testing.assert_close(results, expected, atol=TOLERANCE, rtol=TOLERANCE)
            return True
        except Exception as error:  # there are many types of them
            name, why = getattr(kernel, "__name__", kernel), " ".join(str(error).split())
            print(f"{name} does not work on this GPU and is left out: {why:.100}")
            return False


def random_tensors(count: int, *shape: int, dtype: torch.dtype) -> Sequence[Tensor]:
    """So many normal tensors on the GPU; the random numbers of a run stay as they are."""
    generator = torch.Generator("cuda").manual_seed(0)
    return torch.randn(count, *shape, generator=generator, device="cuda", dtype=dtype).unbind()
