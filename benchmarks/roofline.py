"""Models a training step on a GPU that need not be there: its parts, tokens/s, MFU.

    uv run benchmarks/roofline.py [--gpu h100|h200|a100|4090] [--attention fa2|cudnn|fa3]
    uv run benchmarks/roofline.py --subject default --tree ../other-worktree --top 20

Every number is MODELLED unless it says measured. step_recorder.py runs a step of the published
baseline, of our code on its architecture and of the default on the null GPU (tests/nullgpu):
PyTorch's own CUDA code, Inductor and Triton choose the kernels, nothing is computed, all launches
are noted. A kernel takes the longer of its bytes at the bandwidth that copies achieve and its
FLOPs at the rate of its kind, and no less than a launch; a wait of the host for the GPU costs its
own. Kernels run one after the other.

One number is fitted: a factor for all times, so that the published baseline takes the 315 ms a
step that it took on an H100 (953 steps of 2^19 tokens in 300 s; with FlashAttention-3 and windows,
as it was run). Other GPUs are given the same factor. Expect an error of 15 %. Where there is a GPU,
its own time for the same step stands beside the model.

MFU is in the published convention (karpathy/autoresearch): 6 FLOPs a token and weight of a matrix,
12 x width x window for a layer's attention, the causal half not taken off.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from recipe import HERE, ROOT, WITHOUT_TABLES, Stage, Variant, key_of, load, presets, results

sys.path.append(str(ROOT / "tests/nullgpu"))

import nullgpu
from rich.console import Console
from rich.table import Table

from ratchet.arena.files import cache_folder, sha256, write_json

PUBLISHED_SECONDS = 300 / 953  # a step of the baseline on an H100
LAUNCH = 4e-6  # seconds, the least that a kernel takes: assumed
WAIT = 200e-6  # seconds that a GPU idles after the host has waited for it: assumed
MATMUL_SHARE = 0.75  # of the peak, for cuBLAS: 0.8 with large matrices, less as K is 512 or 640
OUR_PRODUCTS = 0.9  # the rate of a Triton kernel's products, in cuBLAS's: assumed
BACKWARD = 2.5  # FLOPs of attention's backward pass, in forward passes
SMALL = 0.01  # items below this share of a step are shown as one
CONTROL_SIZES = dict(depth=8, heads=4, batch_size=256, windows=[2, 2, 2, 1], table_bits=0)
AS_CONTROL = presets(**CONTROL_SIZES) + WITHOUT_TABLES
BASELINE = "published baseline"
SUBJECTS = {
    BASELINE: Variant("plain", "benchmarks/plain.py"),
    "our code, its architecture": Variant("our code, its architecture", "train.py", AS_CONTROL),
    "default": Variant("default", "train.py"),
}
WORK_FOLDER = cache_folder() / ".roofline"
LAUNCHES = "KTGZ"  # lines of the null GPU's log: kernels, Triton's, matrix products, memsets


class GPU(NamedTuple):
    """What a GPU achieves; attention: TFLOP/s done, forward and backward, of head size 128."""

    card: nullgpu.Card
    bfloat16: float  # FLOP/s, the peak
    float32: float  # without tensor cores
    bandwidth: float  # bytes/s of a large copy, not the data sheet's
    attention: dict

    @property
    def name(self):
        return self.card.name


# FlashAttention-3 at T 2048, causal: pytorch-labs/tritonbench pull request 1267. FlashAttention-2:
# forward mlc-ai/pith-train pull request 2; its backward pass and cuDNN (1.7 times as fast, the low
# end of huggingface/transformers pull request 48163) follow from the same sources.
HOPPER = {"fa2": (225, 214), "fa3": (560, 316), "cudnn": (382, 364)}
AMPERE = {"fa2": (160, 135)}  # about, from the figures of FlashAttention-2, arXiv:2307.08691
ADA = {"fa2": (140, 115)}  # a guess: as near to its peak as an A100
H200 = nullgpu.Card("NVIDIA H200", 139 << 30)
A100 = nullgpu.Card("NVIDIA A100-SXM4-80GB", 79 << 30, 108, 80)
GPUS = {
    "h100": GPU(nullgpu.H100, 989.5e12, 67e12, 2.95e12, HOPPER),
    "h200": GPU(H200, 989.5e12, 67e12, 4.3e12, HOPPER),
    "a100": GPU(A100, 312e12, 19.5e12, 1.75e12, AMPERE),
    "4090": GPU(nullgpu.RTX_4090, 165.2e12, 82.6e12, 0.92e12, ADA),
}


class Recording(NamedTuple):
    """A step on the null GPU."""

    works: list  # of dicts: what step_recorder.py notes of an operation, its launches and waits
    facts: dict  # tokens, peak_bytes, optimizers


# --- Recording ------------------------------------------------------------------------------------


def run_recorder(variant, folder, environment, *options):
    """Have step_recorder.py run a variant; returns what it wrote to step.json in the folder.

    Raises ValueError where it does not run.
    """
    contestant = folder / "train.py"
    contestant.write_text(variant.text(), encoding="utf-8")
    environment = environment | {"PYTHONPATH": str(variant.root)}
    argv = [sys.executable, HERE / "step_recorder.py", contestant, folder, *options]
    with open(folder / "output", "w", encoding="utf-8") as output:
        done = subprocess.run(argv, env=environment, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = (folder / "output").read_text(encoding="utf-8")[-2000:]
        raise ValueError(f"{tail}\n{variant.name} does not run, see above and {folder}")
    return json.loads((folder / "step.json").read_bytes())


def record(variant, card):
    """The Recording of a variant; one of the same code is kept. Raises ValueError."""
    stage = Stage("roofline", "", "", 1, (variant,))
    recorder = (HERE / "step_recorder.py").read_bytes()
    name = sha256(f"{card} {key_of(stage, variant, 0)}".encode() + recorder)[:12]
    folder, kept = WORK_FOLDER / name, WORK_FOLDER / name / "step.json"
    if not kept.exists():
        caches = {  # what was tuned on the null GPU is no good for a real one
            "TORCHINDUCTOR_CACHE_DIR": str(WORK_FOLDER / "inductor"),
            "TRITON_CACHE_DIR": str(WORK_FOLDER / "triton"),
        }
        folder.mkdir(parents=True, exist_ok=True)
        machine = nullgpu.environment(nullgpu.build(folder, [card]))
        print(f"{variant.name} on {card.name}: compiling, which takes minutes", file=sys.stderr)
        run_recorder(variant, folder, machine | caches)
    text = (folder / "log").read_text(encoding="utf-8")
    return Recording(read_log(text), json.loads(kept.read_bytes()))


def read_log(text):
    """The works of a log; what is launched between two of them is a work without a name."""
    works, lines = [], Counter()
    for line in text.splitlines():
        if not line.startswith("# ") and line != "#":
            # who waits for an event of steps before lets the GPU go on
            lines["event" if line.startswith("S cudaEvent") else line[:1]] += 1
            continue
        work = json.loads(
            line[2:] or '{"kind": "op", "name": "", "owner": "elsewhere", "bytes": 0}'
        )
        work["launches"] = sum(lines[letter] for letter in LAUNCHES)
        work["waits"] = lines["S"]
        if work["name"] or work["launches"] or work["waits"]:
            works.append(work)
        lines.clear()
    return works


# --- The model ------------------------------------------------------------------------------------


def attention_pairs(context, window):
    """Pairs of a query and a key that it sees, of one row and head."""
    window = min(window, context)
    return window * (window + 1) // 2 + (context - window) * window


def window_of(work):
    """A mask, as plain.py has it, lets through half of the context."""
    return work["window"] or work["context"] // 2


def attention_flops(work):
    """FLOPs that an attention needs: those of the pairs that see each other."""
    pairs = attention_pairs(work["context"], window_of(work))
    forward = 4 * work["rows"] * work["heads"] * work["head_size"] * pairs
    return forward * (BACKWARD if work["backward"] else 1)


def flops_of(work):
    return attention_flops(work) if work["kind"] == "attention" else work.get("flops", 0)


def attention_rate(work, gpu, attention):
    """FLOP/s; cuDNN has no windows, so it takes the layers that see the whole context."""
    has_window = window_of(work) < work["context"]
    kernel = "fa2" if attention == "cudnn" and has_window else attention
    return 1e12 * gpu.attention[kernel][work["backward"]]


def matmul_rate(work, gpu):
    """FLOP/s of a product of matrices."""
    peak = gpu.float32 if work["dtype"] == "float32" else gpu.bfloat16
    return peak * MATMUL_SHARE * (OUR_PRODUCTS if work["is_ours"] else 1)


def seconds_of(work, gpu, attention):
    """Seconds of one operation, before the factor that is fitted."""
    busy = work["bytes"] / gpu.bandwidth
    if work["kind"] == "matmul":
        busy = max(busy, work["flops"] / matmul_rate(work, gpu))
    elif work["kind"] == "attention":
        busy = flops_of(work) / attention_rate(work, gpu, attention)
    elif not work["launches"]:  # a view, or memory that is not filled
        busy = 0.0
    return max(busy, work["launches"] * LAUNCH)


def label_of(work, optimizers):
    """The item of the table that a work belongs to."""
    if work["kind"] == "attention":
        return "attention"
    if work["kind"] == "matmul":
        if work["owner"] in optimizers:
            return f"matrix products, {work['owner']}"
        return f"matrix products, {'head' if work['is_head'] else 'trunk'}"
    return f"{work['owner']}, {'compiled' if work['kind'] == 'triton' else 'eager'}"


def model_step(recording, gpu, attention, factor):
    """{item: {"seconds", "flops", "bytes", "launches"}} of a step, the longest first."""
    items = defaultdict(Counter)
    for work in recording.works:
        items[label_of(work, recording.facts["optimizers"])].update(
            seconds=factor * seconds_of(work, gpu, attention),
            flops=flops_of(work),
            bytes=work["bytes"] if work["launches"] else 0,
            launches=work["launches"],
        )
    if waits := sum(work["waits"] for work in recording.works):
        items["waits of the host"] = Counter(seconds=factor * waits * WAIT, waits=waits)
    return dict(sorted(items.items(), key=lambda item: -item[1]["seconds"]))


def total_seconds(recording, gpu, attention, factor):
    return sum(i["seconds"] for i in model_step(recording, gpu, attention, factor).values())


def fit_factor(baseline):
    """The factor with which the published baseline takes as long as it took."""
    return PUBLISHED_SECONDS / total_seconds(baseline, GPUS["h100"], "fa3", 1)


def published_flops(recording):
    """FLOPs a step as karpathy/autoresearch counts them."""
    flops = 0
    for work in recording.works:
        if work["kind"] == "matmul" and work["owner"] not in recording.facts["optimizers"]:
            flops += work["flops"]
        elif work["kind"] == "attention" and not work["backward"]:
            tokens, width = work["rows"] * work["context"], work["heads"] * work["head_size"]
            flops += 12 * tokens * width * window_of(work)
    return flops


def summarize(recording, gpu, attention, factor):
    """What is modelled of a step, for the table of subjects."""
    seconds = total_seconds(recording, gpu, attention, factor)
    tokens = recording.facts["tokens"]
    return {
        "modelled_step_ms": 1e3 * seconds,
        "modelled_tokens_per_second": tokens / seconds,
        "modelled_mfu_percent": 100 * published_flops(recording) / (seconds * gpu.bfloat16),
        "flops_per_token": published_flops(recording) / tokens,
        "launches": sum(work["launches"] for work in recording.works),
        "waits": sum(work["waits"] for work in recording.works),
        "graph_breaks": sum(recording.facts["graph_breaks"].values()),
        "peak_gib": recording.facts["peak_bytes"] / 2**30,
    }


# --- Tables ---------------------------------------------------------------------------------------


def merge_small(items):
    """The items, those below SMALL of the step as one."""
    total = sum(item["seconds"] for item in items.values())
    large = {name: i for name, i in items.items() if i["seconds"] >= SMALL * total}
    rest = sum((i for name, i in items.items() if name not in large), Counter())
    return large | ({f"{len(items) - len(large)} smaller ones": rest} if rest else {})


def basis_of(item):
    """What an item's time is made of. Example: "34.8 TFLOP, 76 launches"."""
    if waits := item["waits"]:
        return f"{waits} waits"
    flops, size = item["flops"] / 1e12, item["bytes"] / 1e9
    amounts = [f"{flops:.2f} TFLOP"] * (flops > 0) + [f"{size:.1f} GB"] * (size > 0)
    return ", ".join([*amounts, f"{item['launches']} launches"])


def items_table(title, items):
    table = Table(title=title, title_justify="left")
    for column in ("item", "basis", "ms", "share"):
        table.add_column(column, justify="right" if column in ("ms", "share") else "left")
    total = sum(item["seconds"] for item in items.values())
    for name, item in merge_small(items).items():
        seconds = item["seconds"]
        table.add_row(
            name, basis_of(item), f"{1e3 * seconds:.2f}", f"{100 * seconds / total:.1f} %"
        )
    table.add_section()
    table.add_row("sum, modelled", "", f"{1e3 * total:.1f}", "")
    return table


def works_table(title, recording, count, gpu, attention, factor):
    """The operations that take longest, all calls of the same name and size together."""
    groups = defaultdict(Counter)
    for work in recording.works:
        key = work["owner"], work["name"], flops_of(work), work["bytes"]
        groups[key].update(calls=1, seconds=factor * seconds_of(work, gpu, attention))
    table = Table(title=title, title_justify="left")
    for column in ("ms", "calls", "MB a call", "GFLOP a call", "owner", "name"):
        table.add_column(column, justify="left" if column in ("owner", "name") else "right")
    longest = sorted(groups.items(), key=lambda group: -group[1]["seconds"])[:count]
    for (owner, name, flops, size), group in longest:
        figures = 1e3 * group["seconds"], group["calls"], size / 1e6, flops / 1e9
        shown = [f"{value:,.{digits}f}" for value, digits in zip(figures, (2, 0, 1, 1))]
        table.add_row(*shown, owner, name)
    return table


def subjects_table(title, summaries, measured):
    table = Table(title=title, title_justify="left")
    columns = "subject|ms a step|M tokens/s|MFU %|launches|waits|peak GiB|measured ms"
    for column in columns.split("|"):
        table.add_column(column, justify="left" if column == "subject" else "right")
    for name, row in summaries.items():
        keys = "step_ms tokens_per_second mfu_percent".split()
        ms, rate, mfu = (row[f"modelled_{key}"] for key in keys)
        cells = f"{ms:.1f}", f"{rate / 1e6:.2f}", f"{mfu:.1f}", str(row["launches"])
        real = f"{measured[name]:.1f}" if name in measured else "no GPU"
        table.add_row(name, *cells, str(row["waits"]), f"{row['peak_gib']:.1f}", real)
    return table


def kernel_for(name, attention, gpu):
    """The published baseline had FlashAttention-3; a GPU for which there is one only has that."""
    wanted = "fa3" if name == BASELINE else attention
    return wanted if wanted in gpu.attention else "fa2"


def all_summaries(recordings, gpu, factor):
    """{attention: {subject: summary}}, every choice."""
    return {
        attention: {
            name: summarize(recording, gpu, kernel_for(name, attention, gpu), factor)
            for name, recording in recordings.items()
        }
        for attention in gpu.attention
    }


def record_all(variants, card):
    """{subject: Recording} of those that run on a card."""
    recordings = {}
    for name, variant in variants.items():
        try:
            recordings[name] = record(variant, card)
        except ValueError as error:
            print(error)
    return recordings


def measure(variants):
    """{subject: milliseconds of a step on the GPU of this machine}; {} where there is none."""
    probe = "import torch; raise SystemExit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", probe]).returncode:
        return {}
    figures = {}
    for name, variant in variants.items():
        with tempfile.TemporaryDirectory() as folder:
            step = run_recorder(variant, Path(folder), os.environ, "--time")
        figures[name] = step["milliseconds"]
    return figures


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", choices=GPUS, default="h100")
    parser.add_argument(
        "--attention",
        choices=HOPPER,
        default="cudnn",
        help="of our code; fa2 where there is no other",
    )
    parser.add_argument("--subject", choices=SUBJECTS, help="this one alone; nothing is kept")
    parser.add_argument("--tree", type=Path, default=ROOT, help="a folder with another train.py")
    parser.add_argument("--top", type=int, default=0, help="show so many operations, too")
    return parser.parse_args()


def chosen_variants(args):
    """{subject: Variant} of this call; the published baseline is always ours."""
    return {
        name: variant if name == BASELINE else variant._replace(root=args.tree.resolve())
        for name, variant in SUBJECTS.items()
        if args.subject in (None, name)
    }


def main():
    args, path = parse_arguments(), results("roofline")
    gpu, variants, kept = GPUS[args.gpu], chosen_variants(args), load(path)
    recordings = record_all(variants, gpu.card)
    factor = kept.get("factor", 1.0)
    if args.gpu == "h100" and BASELINE in recordings:
        factor = fit_factor(recordings[BASELINE])
    measured = measure(variants)
    show(args, gpu, recordings, factor, measured)
    if not args.subject and args.tree == ROOT:
        kept |= {
            "note": "modelled on a null GPU, not measured; see the docstring of roofline.py",
            "calibration": f"{BASELINE}: {1e3 * PUBLISHED_SECONDS:.1f} ms a step on an H100, fa3",
            "factor": factor,
            args.gpu: describe_gpu(args, gpu, recordings, factor, measured),
        }
        write_json(path, kept)


def describe_gpu(args, gpu, recordings, factor, measured):
    """What is kept of a GPU: every choice of attention in short, the one asked for in full."""
    attentions = {name: kernel_for(name, args.attention, gpu) for name in recordings}
    return {
        "modelled": all_summaries(recordings, gpu, factor),
        "measured_ms": measured,
        "modelled_items": {
            f"{name}, {attentions[name]}": model_step(recording, gpu, attentions[name], factor)
            for name, recording in recordings.items()
        },
    }


def show(args, gpu, recordings, factor, measured):
    """Print a table for each subject, and one of them all."""
    console, summaries = Console(highlight=False, width=120), {}
    for name, recording in recordings.items():
        attention = kernel_for(name, args.attention, gpu)
        model = gpu, attention, factor
        title = f"{name}: a step on one {gpu.name}, {attention}, MODELLED"
        console.print(items_table(title, model_step(recording, *model)))
        if args.top:
            console.print(works_table("operations, MODELLED", recording, args.top, *model))
        for reason, count in recording.facts["graph_breaks"].items():
            print(f"{name}: {count} graph breaks: {' '.join(reason.split()):.150}")
        summaries[name] = summarize(recording, *model)
    fitted = f"all times x {factor:.2f}, fitted on the published baseline"
    console.print(subjects_table(f"{gpu.name}, MODELLED: {fitted}", summaries, measured))


if __name__ == "__main__":
    main()
