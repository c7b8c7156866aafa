"""What is known of a run: run.json before it is scored, result.json afterwards, the summary."""

import json
import math
import sys
from pathlib import Path
from typing import NotRequired, TypedDict

from ratchet.arena.budget import parse_budget
from ratchet.arena.definition import ARENAS
from ratchet.arena.files import read_untrusted, write_json

WEIGHTS_PART = "model.safetensors.part"  # the weights, until they are whole
RESULT_FILES = {"val": "result.json", "test": "test.json"}  # the latter for audits
# lines of the summary: their keys in a Result, how to print them
SUMMARY = {
    "val_bpb": ".6f",
    "arena": "",
    "budget": "",
    "official": "",
    "seed": "",
    "train_seconds": ".1f",
    "rehearsal_seconds": ".1f",
    "total_seconds": ".1f",
    "score_seconds": ".1f",
    "steps": "",
    "tokens_M": ".3f",
    "tokens_per_second": ".0f",
    "flops_per_token": "",
    "mfu_percent": "",
    "peak": "",
    "params_M": "",
    "peak_memory_mb": ".0f",
    "device": "",
    "probes": "",
    "isolation": "",
    "user_tps": ".1f",
    "batch_tps": ".1f",
}
IF_MEASURED = "user_tps", "batch_tps"  # lines that are there only then
# what the default train.py reaches (LOG.md): in an arena, after so many seconds, on so many CPU
# cores at least, val_bpb is between these two
EXPECTED = [
    ("pocket", 20, 2, 1.5, 2.7),
    ("pocket", 300, 2, 1.15, 1.35),
]
NEXT_COMMANDS = {
    "uv run ratchet speak": "what the model has learnt to say",
    "uv run ratchet doctor": "is this machine ready for experiments?",
    "uv run ratchet calibrate --budget 20s": "measure the noise: the first step of a night",
}


class RunRecord(TypedDict):
    """run.json: what is known of a run when its weights are saved."""

    arena: str  # its name
    arena_folder: str
    seal: str
    seed: int
    budget: str  # "300s"
    custom_budget: bool  # not the arena's
    interrupted: bool  # by Ctrl-C
    steps: int
    tokens: int
    train_seconds: float
    rehearsal_seconds: float
    unscored_seconds: float  # of the whole run so far
    flops_per_token: float  # 0: nobody has counted them
    published_flops_per_token: NotRequired[float]  # with attention's windows in full
    peak_flops: float  # FLOP/s of the fastest matrix product here; 0: nobody has measured it
    peak_of: NotRequired[str]  # which product that was
    data_sheet_flops: NotRequired[float]  # FLOP/s that the device should reach; 0: not known
    peak_memory_mb: float
    device: str  # PyTorch's name for it
    device_name: str
    processes: NotRequired[int]
    torch: NotRequired[str]  # its version


class Result(RunRecord, total=False):
    """result.json: a RunRecord, with what its scorer found out."""

    status: str  # ok, invalid, crash
    reason: str  # why it isn't ok
    official: str  # "no": nobody watched the run
    isolation: str
    nats: float  # of all targets of the split, as predicted
    charged_nats: float  # that count besides, for answers that differ between two looks
    bytes: int  # of its text
    val_bpb: float
    probes: dict[str, tuple[bool, str]]  # passed, what was seen
    probes_version: int
    params: int
    lookup: int  # of them in tables that are looked up
    user_tps: float  # tokens/s of decoding one row,
    batch_tps: float  # and so many
    batch_rows: int
    load_seconds: float
    score_seconds: float
    total_seconds: float
    tokens_per_second: float
    mfu_percent: float  # of peak_flops, by flops_per_token


def write_run_record(folder: Path, record: RunRecord) -> None:
    """Write run.json, from which a run is scored."""
    write_json(folder / "run.json", record)


def read_run_record(folder: Path) -> RunRecord:
    """run.json of a run's folder."""
    return json.loads(read_untrusted(folder / "run.json"))


def write_result(folder: Path, result: Result, split: str = "val") -> None:
    """Write result.json, or test.json."""
    write_json(folder / RESULT_FILES[split], result)


def read_result(folder: Path, split: str = "val") -> Result | None:
    """result.json, or test.json, of a run's folder; None before it is scored."""
    path = folder / RESULT_FILES[split]
    return json.loads(read_untrusted(path)) if path.exists() else None


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """The score of a split, from its raw sums. Example: 1.386 nats in 2 bytes are 1 bit each."""
    return nats / math.log(2) / text_bytes


def weight_bytes(folder: Path) -> int:
    """The size of a run's model.safetensors, 0 if there is none."""
    path = folder / "model.safetensors"
    return path.stat().st_size if path.exists() else 0


# --------------------------------------------------------------------------------------------------
# For people


def print_summary(result: Result) -> None:
    """The `key: value` lines of a run."""
    shown = {**result, **describe_figures(result)}
    print("---")
    for key, form in SUMMARY.items():
        if key in IF_MEASURED and key not in shown:
            continue
        value = format(shown[key], form) if key in shown else ""
        if key == "val_bpb":
            value = f"invalid: {result['reason']}" if "reason" in result else value
            value += " (interrupted)" * result["interrupted"]
        print(f"{key + ':':<18} {value}")
    sys.stdout.flush()


def describe_figures(result: Result) -> dict[str, float | str]:
    """The values of the summary that are not in a Result as they are shown."""
    trunk, lookup = (result["params"] - result["lookup"]) / 1e6, result["lookup"] / 1e6
    too_low = " while the machine was busy: too low" * (result["mfu_percent"] > 100)
    peak = f"{result['peak_flops'] / 1e12:.2f} TFLOP/s, {result.get('peak_of', '')}, measured"
    flops_text, mfu_text = describe_flops(result)
    passed = {name: "ok" if ok else "FAILED" for name, (ok, _) in result["probes"].items()}
    return {
        "arena": f"{result['arena']} ({result['seal']})",
        "device": result["device_name"],
        "tokens_M": result["tokens"] / 1e6,
        "budget": describe_budget(result),
        "flops_per_token": flops_text,
        "mfu_percent": mfu_text,
        "peak": peak + too_low,
        "params_M": f"{trunk:.2f} trunk, {lookup:.2f} lookup",
        "probes": ", ".join(f"{name} {end}" for name, end in passed.items())
        + describe_charge(result),
    }


def describe_flops(result: Result) -> tuple[str, str]:
    """FLOPs a token and MFU, with what published figures would say where that is something else.

    Example: "3.416e+08 (3.68e+08 as published: windows in full)" and
    "41.7 (32.5 as published: of 989.5 TFLOP/s, the data sheet's)"
    """
    flops = result["flops_per_token"]
    published = result.get("published_flops_per_token") or flops
    flops_text, mfu_text = f"{flops:.4g}", f"{result['mfu_percent']:.1f}"
    if published != flops:
        flops_text += f" ({published:.4g} as published: windows in full)"
    if promised := result.get("data_sheet_flops"):
        percent = 100 * published * result["tokens_per_second"] / promised
        sheet = f"{promised / 1e12:.1f} TFLOP/s, the data sheet's"
        mfu_text += f" ({percent:.1f} as published: of {sheet})"
    return flops_text, mfu_text


def describe_charge(result: Result) -> str:
    """What a score has to bear for answers that differ. Example: "; charged 0.000213 bpb"."""
    charge = bits_per_byte(result.get("charged_nats", 0.0), result.get("bytes", 1))
    return f"; charged {charge:.6f} bpb" if charge else ""


def describe_budget(result: Result) -> str:
    """The budget of a run, with what is unusual about it.

    Example: "20s (not the arena's: for trying things out; only 41% of it was used)"
    """
    budget = parse_budget(result["budget"])
    share = budget.share_used(result["train_seconds"], result["tokens"], result["flops_per_token"])
    notes = []
    if result["custom_budget"]:
        notes.append("not the arena's: for trying things out")
    if share < 0.5:
        notes.append(f"only {share:.0%} of it was used")
    return result["budget"] + (f" ({'; '.join(notes)})" if notes else "")


def print_outlook(result: Result) -> None:
    """Tell a newcomer what the number of a run by hand means, what to do next."""
    print(describe_score(result))
    print("next:")
    for command, purpose in NEXT_COMMANDS.items():
        if "calibrate" in command and result["arena"] not in ARENAS:
            command += f" --arena {result['arena']}"
        print(f"  {command:<42} {purpose}")
    sys.stdout.flush()


def describe_score(result: Result) -> str:
    """What is usual on such a machine."""
    import torch

    seconds, cores = parse_budget(result["budget"]).seconds, torch.get_num_threads()
    for arena, expected_seconds, least_cores, low, high in EXPECTED:
        is_alike = (arena, expected_seconds) == (result["arena"], seconds)
        if is_alike and cores >= least_cores and result["device"] == "cpu":
            usual = f"{cores} CPU cores get {low} to {high} here after {seconds:g} s"
            slow = "; yours is slower: is the machine busy?" * (result["val_bpb"] > high)
            return f"lower is better: {usual}{slow}"
    return "lower is better; what is usual on this device with this budget hasn't been measured"
