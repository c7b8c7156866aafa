"""What compiling each part of train.py costs with empty caches, and what it saves of a step.

    uv run benchmarks/compiling.py                       the preset of this device, on random tokens
    uv run benchmarks/compiling.py --parts loss block    these only; each line is a process of its own

compilable_parts() of train.py has its figures from here, those of LOG.md come from a quiet machine.
"first" is the time of the first two steps, in which compiling happens; "step" the fastest of twelve
later ones.
"""

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
STEPS = 12
PARTS = "loss", "block", "muon"


def measure(parts):
    """Print the line of one set of parts: seconds of the first two steps, milliseconds of a later
    one.
    """
    import torch

    import train
    from ratchet.arena.hardware.compiling import compile_parts
    from ratchet.arena.hardware.cpu import apply_cpu_workarounds
    from ratchet.arena.hardware.device import synchronize
    from ratchet.arena.run import Run

    apply_cpu_workarounds()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arena = SimpleNamespace(
        name="pocket", vocab_size=4096, context=512, train_tokens=3_000_000, seconds=300
    )
    run = Run(arena, device, 0, "300s", None)
    config = train.choose_config(arena, device)
    rows = config.pop("batch_size")
    model = train.GPT(**config)
    model.to(device)
    optimizers = train.make_optimizers(model)
    step = functools.partial(train.train_step, run, model, optimizers)
    x, y = torch.randint(arena.vocab_size, (2, rows, arena.context), device=device)

    def seconds(count):
        begin = time.perf_counter()
        for _ in range(count):
            step(x, y)
        synchronize(device)
        return time.perf_counter() - begin

    declared = train.compilable_parts(model, optimizers[0])
    compile_parts([part for part in declared if part.name in parts])
    first, step_seconds = seconds(2), min(seconds(1) for _ in range(STEPS))
    print(
        f"{' '.join(parts) or 'nothing':<24} first {first:6.1f} s, step {1e3 * step_seconds:4.0f} ms",
        flush=True,
    )


def measure_apart(parts, caches):
    """measure() in a process of its own, with the compiler's caches in that folder."""
    env = os.environ | {"TMPDIR": caches, "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor"}
    env |= {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, __file__, "--here", "--parts", *parts], env=env, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--parts", nargs="*", help="compile these together (default: each alone, then all)"
    )
    parser.add_argument("--here", action="store_true", help="in this process")
    args = parser.parse_args()
    if args.here:
        return measure(args.parts or [])
    sets = [args.parts] if args.parts else [[], *([name] for name in PARTS), [*PARTS]]
    for parts in sets:
        with tempfile.TemporaryDirectory() as caches:
            measure_apart(parts, caches)
            if parts:
                print("  warm: ", end="", flush=True)
                measure_apart(parts, caches)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
