"""Triton's kernels: right in its interpreter on a CPU, and no spills when compiled for an H100."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import mangle_type
from triton.tools.tensor_descriptor import TensorDescriptor

from ratchet.arena.kernels import triton_loss, triton_mlp, triton_tables

HOPPER = GPUTarget("cuda", 90, 32)
HOPPER_SHARED = 227 * 1024  # bytes a block may have
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
pytestmark = pytest.mark.skipif(not CUOBJDUMP.exists(), reason="Triton has no assembler here")

HALVES, FLOATS = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)
INTS, LONGS = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)


def mlp_product(backward):
    """What triton_mlp.multiply() launches."""
    m, n, k = triton_mlp.TILE
    blocks = [m, k], [k, n] if backward else [n, k], [m, n // 2], [m, n // 2]
    tensor = torch.zeros(1024, 1024, dtype=torch.bfloat16)
    descriptors = [TensorDescriptor.from_tensor(tensor, block) for block in blocks]
    constants = dict(BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, BACKWARD=backward)
    options = dict(num_warps=triton_mlp.WARPS, num_stages=triton_mlp.STAGES[backward])
    return triton_mlp.relu2_product_kernel, [*descriptors, 2**17, 2560, 640], constants, options


KERNELS = [
    (
        triton_tables.rowwise_adam_kernel,
        [FLOATS, FLOATS, FLOATS, INTS, LONGS, FLOATS, 0.1, 0.98, 0.01, 2**18, 640],
        dict(BLOCK_N=triton_tables.GRADIENTS, BLOCK_C=1024),
        dict(num_warps=4),
    ),
    (
        triton_loss.loss_and_slope_kernel,
        [HALVES, LONGS, FLOATS, 15.0, 1e-5, 8192],
        dict(BLOCK=8192),
        dict(num_warps=8),
    ),
    (
        triton_loss.loss_and_slope_kernel,
        [HALVES, LONGS, FLOATS, 15.0, 1e-5, 16000],
        dict(BLOCK=2**14),
        dict(num_warps=16),
    ),
    *(mlp_product(backward) for backward in (False, True)),
]


def compile_for_hopper(kernel, args, constants, options, path):
    """Write the cubin of a kernel for arguments such as these; returns it as Triton has it."""
    signature = {name: mangle_type(arg) for name, arg in zip(kernel.arg_names, args)}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, arg in enumerate(args)
        if isinstance(arg, torch.Tensor) or isinstance(arg, int) and arg % 16 == 0
    }
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=HOPPER, options=options)
    path.write_bytes(compiled.asm["cubin"])
    return compiled


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel[0].__name__)
def test_nothing_spills_on_an_h100(kernel, tmp_path):
    compiled = compile_for_hopper(*kernel, tmp_path / "kernel.cubin")
    assert compiled.metadata.shared <= HOPPER_SHARED
    argv = [CUOBJDUMP, "-res-usage", tmp_path / "kernel.cubin"]
    usage = subprocess.run(argv, capture_output=True, encoding="utf-8", check=True).stdout
    assert "STACK:0 " in usage and "LOCAL:0 " in usage, usage


def test_the_interpreter_agrees_with_the_twins():
    """In a process of its own: Triton decides at its import whether it interprets."""
    path = "tests/arena/interpreted_kernels.py"
    argv = [sys.executable, "-m", "pytest", "-q", "--noconftest", path]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-5000:]
