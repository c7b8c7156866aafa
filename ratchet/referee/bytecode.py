"""Keeps bytecode of the libraries for what runs in a sandbox, which can't keep any.

Without it each contestant would compile all that PyTorch consists of anew: 10 seconds and more.
"""

import functools
import importlib.util
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from ratchet.referee import limits

# what a contestant imports, also that which PyTorch's compiler imports when it is called
MODULES = """
    torch._dynamo.backends.inductor
    torch._inductor.compile_fx
    torch._inductor.codegen.cpp_wrapper_cpu
    torch._inductor.fx_passes.joint_graph
    torch._inductor.fx_passes.post_grad
    torch._inductor.fx_passes.fuse_attention
    torch._inductor.runtime.caching
    torch.utils.cpp_extension
    torch.export._trace
    torch.distributed.tensor.experimental
    sympy.physics.units
    sympy.tensor.tensor
    rich.progress
    safetensors.torch
    tokenizers
""".split()
IMPORT = """
import contextlib, importlib, sys
for module in sys.argv[1:]:
    with contextlib.suppress(Exception):
        importlib.import_module(module)
"""
LOCK = threading.Lock()


def source_file(module: str) -> Path:
    """The file of a module of an installed package; nothing is imported."""
    package, _, rest = module.partition(".")
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / rest.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def has_bytecode(module: str) -> bool:
    """Whether Python, started anew, finds bytecode of a module, or has no way to keep any."""
    source = source_file(module)
    kept = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
    with suppress(OSError):  # bytes 8 to 12: when the source was changed that it was made of
        return kept.read_bytes()[8:12] == int(source.stat().st_mtime).to_bytes(4, "little")
    folder = kept.parent if kept.parent.exists() else source.parent
    return not (source.exists() and os.access(folder, os.W_OK))


def compile_libraries() -> None:
    """compile_once(), by one thread: others wait."""
    with LOCK:
        compile_once()


@functools.cache
def compile_once() -> None:
    """Have Python compile what contestants import, unless it has; nothing depends on it.

    Takes milliseconds when it is there. A child imports the modules. It (-I) looks neither at the
    folder that it is started in nor at PYTHONDONTWRITEBYTECODE, which containers set.
    """
    with suppress(AttributeError, ImportError, OSError, subprocess.SubprocessError):
        if not all(map(has_bytecode, MODULES)):
            quiet = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
            subprocess.run(
                [sys.executable, "-I", "-c", IMPORT, *MODULES],
                timeout=limits.BYTECODE_SECONDS,
                **quiet,
            )
