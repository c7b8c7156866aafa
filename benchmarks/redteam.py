"""Measures how many bits one process of a scored model can tell the next one, and one run the next
run, through every channel that is known, at every isolation level of this machine.

    uv run benchmarks/redteam.py [--level L]

The attacker knows all of this repository. Both ends of its channels are in redteam_channels.py. Its
model is scored by the product's own code; only score_rows() in the scorer's copy is wrapped, so that
the first process is handed a secret message and the next one is asked for it. A channel counts by
the information that came through: bits received * (1 - H(share of wrong ones)), nothing if that
share can be chance. Where a channel is a file each, it counts for all files there are.

Numbers of the machine (/proc/stat and the like) are treated alike: each number that both processes
can read. The first one moves what it can for some seconds, by different amounts in three scorings;
the spread of what happens until the next one looks is the noise. log2(range in 60 s / 4 * noise)
bits of one number come through, if the sender stops at the right moment; of a file, the best number
counts. That is calculated from what is measured. The time at which the next process starts is a
channel like these.

What C bits are worth: at most C / bytes of val, in bits per byte. Let q = the mean of p(rows | m)
over all 2**C messages m. q is a causal model that needs no message, and -log2 q <= -log2 p + C. So
whoever has C bits ends at most C bits below what an honest model reaches. From run to run the same
holds, but for that q takes 2**C trainings: there, compare with the 64 KB of source that may carry
knowledge anyway.

Then a model without any training step is scored that uses all channels without errors together.
Not measured, as they need minutes or a quiet machine: CPU caches, branch predictors, frequency and
temperature, the order of rows (it is drawn by the scorer), a page cache under memory pressure.

Prints tables in Markdown, writes results/redteam.json. Takes some minutes of two cores.
"""

import argparse
import contextlib
import json
import math
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import redteam_channels as channels
import redteam_seam
import torch
from cheats_table import make_table
from conftest import write_corpus
from safetensors.torch import save_file

from prepare import prepare
from ratchet.arena.files import write_json
from ratchet.arena.model_process.page_cache import SharedFiles
from ratchet.arena.probes import CANARIES
from ratchet.referee import sandbox, scoring, trial
from ratchet.referee.job import Job
from ratchet.referee.source import Source
from ratchet.referee.supervisor import EndedEarly

TEXT = Path(channels.__file__).read_text(encoding="utf-8")
ADDED = "# what redteam.py adds comes here\n"
POCKET_BYTES = 688_358  # of the pocket arena's val rows
EFFORTS = 1, 2, 3  # by which numbers of the machine are moved in the scorings
CHANCE = 4  # standard deviations by which bits must be right to count
SEAM = """

_score_rows = score_rows


def score_rows(model, *args, **options):
    from redteam_seam import exchange  # not above: the model imports this file, too

    exchange(model)
    return _score_rows(model, *args, **options)
"""
DESTRUCTIVE = "MajorFaults", "BlocksRead", "Timed", "Evicted", "PagedOut"  # who looks changes it
SECONDS = 60  # that an attacker has


# --------------------------------------------------------------------------------------------------
# Scoring, with a message for the first process


def make_submission(job, source, vocab_size):
    """What a contestant would leave: weights of some pages, a config."""
    out = job.live_folder / "out"
    out.mkdir(parents=True)
    weights = {"weight": torch.zeros(vocab_size), "unused": torch.zeros(2**17)}
    save_file(weights, out / "model.safetensors")
    write_json(out / "config.json", {"vocab_size": vocab_size})
    return job._replace(source=Source("redteam", "", source.encode()))


def record_of_run(job):
    """What the referee would know of an honest run."""
    record = {"seed": job.seed, "budget": job.budget, "seconds": {"train": 5.0, "rehearsal": 1.0}}
    record |= {"steps": 100, "tokens": 20_000, "flops_per_token": 1.0, "peak_memory_mb": 1}
    return record | {"device": "CPU", "isolation": "none"}


def score_model(job, level, source):
    """What score_submission() finds out about a model of this source."""
    job = make_submission(job, source, job.arena.vocab_size)
    try:
        folder = scoring.take_submission(job, record_of_run(job), {"peak_flops": 1e12})
        return scoring.score_submission(job, level, folder)
    except EndedEarly as end:
        return {"status": end.status, "reason": str(end)}
    finally:
        trial.remove_folder(job.live_folder)


@contextlib.contextmanager
def wrapped_scorer(plan):
    """Have the scorer's copy of the contract call redteam_seam.exchange() first."""
    copy_contract = scoring.copy_contract

    def copy_and_wrap(folder):
        copy_contract(folder)
        for name in ("redteam_channels.py", "redteam_seam.py"):
            (folder / name).write_text((HERE / name).read_text(encoding="utf-8"), encoding="utf-8")
        write_json(folder / "redteam_seam.json", plan)
        with open(folder / "ratchet/arena/score.py", "a", encoding="utf-8") as file:
            file.write(SEAM)

    scoring.copy_contract = copy_and_wrap
    try:
        yield
    finally:
        scoring.copy_contract = copy_contract


def exchange_once(job, level, effort, seed, inventory=False):
    """One scoring: {"send": ..., "receive": [...]} of redteam_seam.py."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.json")
        names = None if effort in (0, EFFORTS[0]) else []
        question = {"names": names, "seed": seed, "effort": effort}
        plan = {"question": question, "results": str(results), "inventory": inventory}
        with wrapped_scorer(plan):
            facts = score_model(job, level, TEXT)
        seen = json.loads(results.read_bytes()) if results.exists() else {}
        if not seen.get("receive"):
            raise SystemExit(f"redteam: nothing came back at level {level}: {facts}")
        return seen


# --------------------------------------------------------------------------------------------------
# Capacities


def information(right, count):
    """Bits that come through a symmetric channel of which `right` of `count` bits were right."""
    share = right / count if count else 0.5
    if abs(share - 0.5) * 2 * math.sqrt(count or 1) < CHANCE:
        return 0.0
    entropy = sum(-p * math.log2(p) for p in (share, 1 - share) if p)
    return count * (1 - entropy)


def measure_channel(name, seed, received):
    """{"bits", "right", "count"} of what one process received."""
    sent = channels.draw_bits(seed, name, channels.CHANNELS[name].bits)
    bits = [int(bit) for bit in received["bits"].get(name, "")]
    right = sum(a == b for a, b in zip(sent, bits))
    whole = information(right, len(bits)) * received["more"][name]
    return {"bits": round(whole, 1), "right": right, "count": len(bits), "of": len(sent)}


def measure_channels(seed, sent, receivers, with_tokens=False):
    """{channel: measure, with why it was refused}: the best of all who received."""
    rows = {}
    for name in receivers[0]["bits"]:
        if name.startswith("Tokens") and not with_tokens:
            continue
        best = max(
            (measure_channel(name, seed, one) for one in receivers), key=lambda row: row["bits"]
        )
        rows[name] = best | {"refused": sent["refused"].get(name, "")}
    return rows


KINDS = {  # of numbers of the machine: what their names begin with
    "/proc": "/proc",
    "counters of cores and memory nodes": "/sys/devices/system",
    "control groups": "/sys/fs/cgroup",
    "other files of /sys": "/sys",
    "inode numbers of what is made anew": "inode",
    "free space": "statfs",
    "sysinfo": "sysinfo",
    "process ids": "id of",
    "when the next process starts": "clock",
}


def kind_of_number(name):
    return next(kind for kind, start in KINDS.items() if name.startswith(start))


def measure_numbers(exchanges):
    """{kind: {"bits", "numbers"}} of numbers that all processes saw, by the formula above.

    Bits are the sum over files, as if these were independent: a bound.
    """
    kinds = {}
    for name, row in best_numbers(exchanges).items():
        kind = kinds.setdefault(kind_of_number(name), {"bits": 0.0, "numbers": {}})
        kind["bits"] = round(kind["bits"] + row["bits"], 1)
        kind["numbers"][row["number"]] = row["bits"]
    return kinds


def best_numbers(exchanges):
    """{file or call: {"bits", "number", "noise"}}: of each file the best number."""
    common = set.intersection(
        *(
            {*one["send"]["before"]} & {*one["send"]["after"]} & {*one["receive"][0]["numbers"]}
            for one in exchanges
        )
    )
    best = {}
    for name in common:
        moved = [one["send"]["after"][name] - one["send"]["before"][name] for one in exchanges]
        later = [
            one["receive"][0]["numbers"][name] - one["send"]["after"][name] for one in exchanges
        ]
        noise = max(later) - min(later) + 1
        seconds = channels.EFFORT_SECONDS * len(channels.WORK)
        a_second = min(abs(m) / (seconds * effort) for m, effort in zip(moved, EFFORTS))
        range_ = SECONDS * (1000 if name.startswith("clock") else a_second)
        bits = math.log2(max(1.0, range_ / (4 * noise)))
        source = name.rpartition(":")[0] if name.startswith("/") else name
        if bits >= 1 and bits > best.get(source, {"bits": 0})["bits"]:
            best[source] = {"bits": round(bits, 1), "number": name, "noise": noise}
    return best


# --------------------------------------------------------------------------------------------------
# From run to run


def measure_runs(job, level):
    """measure_channels() from one run to the next one of the same contestant, after its clock began."""
    printed, secret = {}, secrets.randbits(30)
    for seed, name in enumerate(("files", "send", "receive")):
        text = TEXT.replace(ADDED, f"SECRET = {secret}\n")
        source = Source("redteam", "", text.encode())
        trial.run_trial(job._replace(source=source, seed=seed))
        log = (job.target / "run.log").read_text(encoding="utf-8")
        lines = [line for line in log.splitlines() if line.startswith("redteam {")]
        if not lines:
            raise SystemExit(f"redteam: a run told nothing at level {level}: {log[-500:]}")
        printed[name] = json.loads(lines[0].removeprefix("redteam "))
        if name == "files":
            redteam_seam.settle_files(printed["files"])
            scoring.shared_files = SharedFiles()  # as in the first run of a night
    return measure_channels(secret, printed["send"], [printed["receive"]], True)


# --------------------------------------------------------------------------------------------------
# All together


def attack(job, level, rows):
    """bpb of a model without training that uses every channel without errors."""
    usable = {
        name: row["of"]
        for name, row in rows.items()
        if row["right"] == row["of"] == row["count"] and name not in DESTRUCTIVE
    }
    plan = {"bits": usable, "rows": job.arena.val_rows + CANARIES}
    facts = score_model(job, level, TEXT.replace(ADDED, f"PLAN |= {plan!r}\n"))
    val = facts.get("val") or {}
    bpb = val["nats"] / math.log(2) / val["bytes"] if val.get("nats") else None
    status, reason = facts.get("status", "ok"), facts.get("reason", "")
    return {"bpb": bpb, "status": status, "reason": reason, "bits": sum(usable.values())}


def clean_up():
    """Put back what channels may have changed of this machine."""
    for name in channels.PROC_FILES:
        with contextlib.suppress(OSError):
            os.chmod(f"/proc/{name}", 0o444)
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        for path in Path(folder).glob(channels.LEFT + "*"):
            with contextlib.suppress(OSError):
                path.unlink()


def measure_level(level, arena, folder):
    """Everything at one level."""
    job = Job(Source("redteam", "", b""), 0, "20s", arena, folder / "run", folder / "compiled")
    os.environ["RATCHET_ISOLATION"] = level
    try:
        exchanges, seed = (
            [],
            secrets.randbits(30),
        )  # what an earlier message left counts for nothing
        for effort in EFFORTS:
            print(f"{level}: scoring with effort {effort}", file=sys.stderr, flush=True)
            exchanges.append(exchange_once(job, level, effort, seed))
        processes = measure_channels(seed, exchanges[0]["send"], exchanges[0]["receive"])
        print(f"{level}: runs, attack", file=sys.stderr, flush=True)
        return {
            "process to process": processes,
            "numbers of the machine": measure_numbers(exchanges),
            "run to run": measure_runs(job, level),
            "attack": attack(job, level, processes),
            "nothing": attack(job, level, {}),
        }
    finally:
        clean_up()


# --------------------------------------------------------------------------------------------------
# Tables


def worth(bits):
    """Example: 65536.0 -> "65,536 (0.095)": bits, and bpb in the pocket arena at most."""
    return f"{bits:,.0f} ({bits / POCKET_BYTES:.1g})" if bits else "0"


def describe_channel(name):
    return channels.CHANNELS[name].__doc__.strip().rstrip(".")


def table_of(levels, part, describe):
    """A row a channel, a column a level."""
    names = dict.fromkeys(name for facts in levels.values() for name in facts[part])
    rows = []
    for name in names:
        cells = [worth(facts[part].get(name, {"bits": 0})["bits"]) for facts in levels.values()]
        rows.append([describe(name), *cells])
    return make_table(("channel", *levels), rows)


def attack_row(levels, part):
    return [f"{facts[part]['bpb'] or 0:.3f} {facts[part]['status']}" for facts in levels.values()]


def write_tables(levels):
    parts = {"process to process": describe_channel, "run to run": describe_channel}
    parts["numbers of the machine"] = str
    for part, describe in parts.items():
        print(f"\n**{part}**: bits (at most bpb in the pocket arena)\n")
        print(table_of(levels, part, describe))
    rows = [["without a message", *attack_row(levels, "nothing")]]
    rows.append(["under all channels without errors together", *attack_row(levels, "attack")])
    print("\n**bpb of a model without a training step**\n")
    print(make_table(("", *levels), rows))


def main():
    parser = argparse.ArgumentParser(description="Measure every known channel.")
    parser.add_argument("--level", choices=sandbox.LEVELS, help="default: all that work here")
    args, begin = parser.parse_args(), time.monotonic()
    levels = [level for level in sandbox.LEVELS if level == "none" or sandbox.level_works(level)]
    path, results = HERE / "results/redteam.json", {}
    if args.level and path.exists():
        results = json.loads(path.read_bytes())["levels"]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["RATCHET_CACHE"] = cache
        corpus = write_corpus(Path(cache, "corpus.jsonl"))
        arena = prepare("tiny", source=str(corpus), context=64, vocab_size=512)
        for level in [args.level] if args.level else levels:
            results[level] = measure_level(level, arena, Path(cache))
    kernel, user = os.uname().release, "root" if os.geteuid() == 0 else "an ordinary user"
    write_json(path, {"kernel": kernel, "user": user, "levels": results})
    write_tables(results)
    print(f"\n{time.monotonic() - begin:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
