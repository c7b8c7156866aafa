"""Notes what one training step of a contestant does on a GPU, or how long it takes.

    python step_recorder.py FILE FOLDER [--time]

roofline.py starts it, on the null GPU (which computes nothing and logs what is launched) or, with
--time, on a real one. The contestant gets tokens made up, a row of 2048 of 8192. It rehearses and
trains as ever; once its queues are full, one step is noted: FOLDER/log has a line of JSON after
the launches of each operation, FOLDER/step.json the rest.

Sizes come from three sources. A compiled kernel says itself how many bytes it moves (Inductor's
kernel_num_gb: each buffer once, a slice as a slice). A hand-written Triton kernel moves its tensors
once. Any other operation of PyTorch reads its inputs and writes its outputs; a look-up reads the
rows that it looks up, and an update of some rows reads and writes these.
"""

import argparse
import ctypes
import functools
import json
import os
import re
import runpy
import statistics
import sys
import threading
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import prepare
from ratchet.arena.definition import Arena
from ratchet.arena.run import Run

CONTEXT, VOCAB_SIZE, TOKENS = 2048, 8192, 2**23
FIRST, TIMED = 5, 10  # the step that is noted: queues are full by then; steps that are timed
LOOKUPS = {"embedding", "index", "index_select", "gather", "_embedding_bag"}
ROW_UPDATES = {"index_add_", "index_put_", "_index_put_impl_", "scatter_add_", "scatter_", "put_"}
ROW_UPDATES |= {"rowwise_adam_"}  # of ratchet/arena/kernels
WRITE_ONLY = {"copy_", "fill_", "zero_"}  # in place, without a look at what was there
SORT_PASSES = 8  # of a radix sort over 64 bits
RESUMED = r"torch_dynamo_resume_in_(\w+)_at_\d+"  # a function after a graph break


# --- The work of one operation --------------------------------------------------------------------


def size_of(tensor):
    """Bytes in memory: an expanded tensor is as large as what it repeats."""
    if tensor.is_sparse:
        return size_of(tensor._indices()) + size_of(tensor._values())
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


def cuda_tensors(tree):
    return [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor) and t.is_cuda]


def bytes_moved(name, schema, named, outputs):
    """Bytes that an operation reads and writes; named: its arguments."""
    written = [a.name for a in schema if a.alias_info and a.alias_info.is_write]
    not_read = [a.name for a in schema if a.is_out] + written * (name in WRITE_ONLY)
    if name in LOOKUPS:
        table = named.get("weight", named.get("self"))
        indices = named.get("indices")
        if isinstance(indices, torch.Tensor):  # of rows
            rows = indices.numel() * prod(table.shape[1:]) * table.itemsize
        else:
            rows = size_of(outputs[0])
        rest = [v for v in named.values() if v is not table]
        return rows + sum(map(size_of, cuda_tensors(rest) + outputs))
    if name in ROW_UPDATES:
        keys = ("source", "values", "src", "value", "grads")
        source = next(named[key] for key in keys if key in named)
        rest = [v for key, v in named.items() if key not in written]
        source_size = size_of(source) if isinstance(source, torch.Tensor) else 0
        return 2 * source_size + sum(map(size_of, cuda_tensors(rest)))
    read = cuda_tensors([v for key, v in named.items() if key not in not_read])
    changed = cuda_tensors([named[key] for key in written if key in named])
    known = {id(t) for t in changed}
    total = sum(map(size_of, read + changed + [t for t in outputs if id(t) not in known]))
    return total * SORT_PASSES if name == "sort" else total


def product(function, args, kwargs, outputs, result):
    """{"flops", "dtype", "is_ours", "is_head"} of a product of matrices; None if it is none."""
    count = flop_registry.get(function._overloadpacket)
    if count is None:
        return None
    tensors = cuda_tensors([args, kwargs]) + outputs
    return {
        "flops": count(*args, **kwargs, out_val=result),
        "dtype": str(tensors[0].dtype).removeprefix("torch."),
        "is_ours": function.namespace != "aten",
        "is_head": any(VOCAB_SIZE in tensor.shape for tensor in tensors),
    }


def attention_sizes(name, named):
    """{"rows", "heads", "context", "head_size", "window", "backward"} of an attention.

    window: None where a mask says what is seen.
    """
    q = named["query"]
    if "max_q" in named and q.ndim == 3:
        context = named["max_q"]
        rows, heads, head_size = q.size(0) // context, *q.shape[1:]
    else:
        rows, heads, context, head_size = q.shape
    before = (named.get("window_size") or [named.get("window_size_left", -1)])[0]
    window = context if before is None or before < 0 else before + 1
    masked = named.get("attn_bias") is not None
    return {
        "rows": rows,
        "heads": heads,
        "context": context,
        "head_size": head_size,
        "window": None if masked else window,
        "backward": "backward" in name,
    }


def describe(function, args, kwargs, result):
    """The work of one operation of PyTorch: {"kind", "name", "bytes", ...}."""
    name, outputs = function._schema.name.split("::")[1], cuda_tensors(result)
    schema = function._schema.arguments
    named = {argument.name: value for argument, value in zip(schema, args)} | kwargs
    work = {"kind": "op", "name": name, "bytes": bytes_moved(name, schema, named, outputs)}
    if "attention" in name or "_varlen_attn" in name:
        return work | {"kind": "attention"} | attention_sizes(name, named)
    figures = product(function, args, kwargs, outputs, result)
    return work | {"kind": "matmul"} | figures if figures else work


# --- Noting it ------------------------------------------------------------------------------------


@functools.cache
def is_contestants(file):
    root = Path(prepare.__file__).parent
    path = Path(file)
    return path == Path(sys.argv[0]) or path.parent == root or root / "ratchet" in path.parents


class StepRecorder(TorchDispatchMode):
    """Marks the null GPU's log after each operation and each Triton kernel with their work."""

    def __init__(self, mark):
        super().__init__()
        self.mark = mark
        self.optimizer = None  # whose step runs
        self.active = self.nested = False

    @classmethod
    def ignore_compile_internals(cls):
        """Else nothing runs compiled while this mode is on."""
        return True

    def note(self, call, describe_call):
        """Call; what it launched is between two marks."""
        if self.nested or not self.active:
            return call()
        self.nested = True
        try:
            self.mark("")
            result = call()
            self.mark(json.dumps(describe_call(result) | {"owner": self.owner()}))
            return result
        finally:
            self.nested = False

    def owner(self):
        """The optimizer whose step runs, or the innermost function of the contestant."""
        if self.optimizer:
            return self.optimizer
        frame = sys._getframe(1)
        while frame:
            if is_contestants(frame.f_code.co_filename):
                return re.sub(RESUMED, r"\1", frame.f_code.co_qualname)
            frame = frame.f_back
        main = threading.current_thread() is threading.main_thread()
        return "elsewhere" if main else "backward"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return self.note(
            lambda: func(*args, **kwargs),
            lambda result: describe(func, args, kwargs, result),
        )

    def listen_to_triton(self):
        from torch._inductor.runtime.triton_heuristics import CachingAutotuner
        from triton.runtime.jit import JITFunction

        def size(args, meta):
            known = meta.get("kernel_num_gb")
            return sum(map(size_of, cuda_tensors(args))) if known is None else int(known * 1e9)

        def wrap(owner, meta_of):
            run = owner.run

            def noted(kernel, *args, **kwargs):
                meta = meta_of(kernel)
                work = {"kind": "triton", "name": meta["kernel_name"]}
                return self.note(
                    lambda: run(kernel, *args, **kwargs),
                    lambda _: work | {"bytes": size([args, kwargs], meta)},
                )

            owner.run = noted

        wrap(CachingAutotuner, lambda kernel: {"kernel_name": "?"} | kernel.inductor_meta)
        wrap(JITFunction, lambda kernel: {"kernel_name": kernel.fn.__name__})

    def name_optimizer(self, optimizer):
        step = optimizer.step

        def named(*args, **kwargs):
            self.optimizer = type(optimizer).__name__
            try:
                return step(*args, **kwargs)
            finally:
                self.optimizer = None

        optimizer.step = named


# --- Runs -----------------------------------------------------------------------------------------


class SyntheticRun(Run):
    """A run in an arena made up; at_step() is called before each step."""

    def __init__(self, folder):
        (folder / "train.tokens").write_bytes(
            np.random.default_rng(0).integers(1, VOCAB_SIZE, TOKENS, np.uint16).tobytes()
        )
        nothing = dict(val_rows=0, val_bytes=0, test_rows=0, test_bytes=0, rows=None, sha256={})
        sizes = dict(context=CONTEXT, vocab_size=VOCAB_SIZE, seconds=300, train_tokens=TOKENS)
        arena = Arena(folder, "synthetic", "climbmix", "synthetic", **sizes, **nothing)
        super().__init__(arena, torch.device("cuda:0"), 0, "100000s", folder)
        self.facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}

    def _try_steps(self, step, rows, model, calls):
        for _ in range(2):
            y = torch.randint(VOCAB_SIZE, (rows, CONTEXT))
            step(y.to(self.device), y.to(self.device))

    def batches(self, rows, **options):
        self.facts["tokens"] = rows * CONTEXT
        torch.cuda.reset_peak_memory_stats()  # a step that found no room is no matter
        for number, batch in enumerate(super().batches(rows, **options)):
            self.at_step(number)
            yield batch

    def finish(self, **facts):
        self.facts |= facts | {"peak_bytes": torch.cuda.max_memory_allocated()}
        (self.folder / "step.json").write_text(json.dumps(self.facts), encoding="utf-8")
        raise SystemExit


class RecordedRun(SyntheticRun):
    """Notes step FIRST, on the null GPU."""

    def __init__(self, folder):
        super().__init__(folder)
        nullgpu = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self.open_log = lambda: nullgpu.nullgpu_open(str(folder / "log").encode())
        self.recorder = StepRecorder(lambda text: nullgpu.nullgpu_mark(text.encode()))
        self.recorder.listen_to_triton()
        torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN can't start on a null GPU
        torch._inductor.config.benchmark_kernel = True  # kernels say how many bytes they move

    def rehearse(self, step, rows, model, *optimizers, **options):
        super().rehearse(step, rows, model, *optimizers, **options)
        self.facts["optimizers"] = [type(optimizer).__name__ for optimizer in optimizers]
        for optimizer in optimizers:
            self.recorder.name_optimizer(optimizer)

    def at_step(self, number):
        if number == FIRST:
            self.open_log()
            self.recorder.active = True
            self.recorder.__enter__()
        elif number == FIRST + 1:
            self.recorder.__exit__(None, None, None)
            self.recorder.active = False
            self.recorder.mark("")  # writes the log out
            self.finish(graph_breaks=dict(torch._dynamo.utils.counters["graph_break"]))


class TimedRun(SyntheticRun):
    """Times the steps after FIRST, on a real GPU."""

    def at_step(self, number):
        if number == FIRST:
            self.events = []
        if number >= FIRST:
            self.events.append(torch.cuda.Event(enable_timing=True))
            self.events[-1].record()
        if number == FIRST + TIMED:
            torch.cuda.synchronize()
            times = [a.elapsed_time(b) for a, b in zip(self.events, self.events[1:])]
            self.finish(milliseconds=statistics.median(times))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="the contestant")
    parser.add_argument("folder", type=Path, help="an empty folder for what is noted")
    parser.add_argument("--time", action="store_true", help="time steps, on a real GPU")
    args = parser.parse_args()
    run = (TimedRun if args.time else RecordedRun)(args.folder)
    prepare.enter = lambda: run
    sys.argv = [args.file]
    runpy.run_path(args.file, run_name="__main__")


if __name__ == "__main__":
    main()
