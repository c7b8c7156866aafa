"""Measures train.py against the plain control on a CUDA GPU: pieces, speed, quality.

    uv run benchmarks/gpu.py TEXT [--minutes 9] [--stage pieces|speed|minute|full]

TEXT is a file or folder of text; nothing comes from the network. A call ends within its minutes;
what is done is kept in results/gpu.json beside this file, and the same command goes on. Ratios to
the control are what counts: a score on TEXT is no ClimbMix score.
"""

import argparse
import functools
import subprocess
import sys
import time

import torch
from recipe import ROOT, Stage, Variant, carry_out, load, presets, results

import train
from ratchet.arena import kernels
from ratchet.arena.files import describe_error, write_json

ARENA = "gpu"
AS_CONTROL = presets(depth=8, heads=4, batch_size=256, windows=[2, 2, 2, 1], table_bits=0)


def stages():
    plain = Variant("plain", "benchmarks/plain.py")
    code = Variant("our code, its architecture", "train.py", AS_CONTROL)
    default = Variant("default", "train.py")
    dense = Variant("default without tables", "train.py", presets(table_bits=0))
    memory = Variant("copying and a memory", "examples/contestants/memory.py", presets(memory=24))
    return [
        Stage("speed", ARENA, "30s", 2, (plain, code)),
        Stage("minute", ARENA, "60s", 3, (plain, default, dense, memory)),
        Stage("full", ARENA, "300s", 3, (plain, default), overhead=120),
    ]


def milliseconds(function, calls=20):
    """Of one call on the GPU, warm."""
    for _ in range(3):
        function()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / calls


def forward_and_backward(function, *inputs):
    function(*inputs).sum().backward()


def pieces(device):
    """{what: milliseconds} of the parts of a step, forward and backward, at the default's sizes."""
    out = {}
    shape = dict(device=device, dtype=torch.bfloat16, requires_grad=True)
    for window in (512, 1024, 2048):
        q, k, v = (torch.randn(64, 2048, 5, 128, **shape) for _ in range(3))
        for attention in (
            kernels.attention.varlen_attention,
            kernels.attention.blockwise_attention,
        ):
            compiled = torch.compile(attention)
            call = functools.partial(forward_and_backward, compiled, q, k, v, window)
            out[f"{attention.__name__}, window {window}, [64, 2048, 5, 128]"] = attempt(call)
    kernels.loss.loss_and_slope = torch.compile(kernels.loss.loss_and_slope, dynamic=False)
    x, y = torch.randn(64, 2048, 640, **shape), torch.randint(8192, (64, 2048), device=device)
    weight = torch.randn(8192, 640, device=device, requires_grad=True)
    loss = functools.partial(kernels.softcapped_cross_entropy, x, weight, y, train.SOFTCAP)
    out["head and loss, [64, 2048, 640] -> 8192"] = attempt(lambda: loss().backward())
    for m, n in ((1920, 640), (640, 640), (2560, 640), (640, 2560)):
        g = torch.randn(9, m, n, device=device)
        out[f"orthogonalising 9 of [{m}, {n}]"] = attempt(
            lambda g=g: train.orthogonalize(g, torch.bfloat16)
        )
    for size in (2048, 4096, 8192):
        a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
        out[f"matmul {size}, TFLOP/s"] = 2 * size**3 / milliseconds(lambda a=a: a @ a) / 1e9
    return out


def attempt(function):
    try:
        return milliseconds(function)
    except Exception as error:
        return f"does not work here: {describe_error(error):.200}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", help="a file or folder of text")
    parser.add_argument(
        "--minutes", type=float, default=9, help="no run begins that would take longer"
    )
    parser.add_argument(
        "--stage", choices=["pieces", "speed", "minute", "full"], help="this one alone"
    )
    parser.add_argument("--device", default="cuda:0")
    args = parser.parse_args()
    begin, path = time.monotonic(), results("gpu")
    options = ["--arena", ARENA, "--text", args.text, "--context", "2048", "--vocab-size", "8192"]
    subprocess.run([sys.executable, ROOT / "prepare.py", *options], check=True)
    if args.stage in (None, "pieces") and not (runs := load(path)).get("pieces"):
        runs["pieces"] = pieces(torch.device(args.device))
        write_json(path, runs)
    for what, value in load(path).get("pieces", {}).items():
        print(f"{what:<60} {value if isinstance(value, str) else format(value, '.3f')}")
    wanted = [stage for stage in stages() if args.stage in (None, stage.name)]
    carry_out(wanted, path, args.device, args.minutes - (time.monotonic() - begin) / 60)


if __name__ == "__main__":
    main()
