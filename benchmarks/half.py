"""Measures what the first part of a run tells of its end, on real edits of train.py.

    uv run benchmarks/half.py [--minutes 60]     run what is missing, one run a core; then show
    uv run benchmarks/half.py --show

Each edit runs on pocket by hand, with the tokens that one core of an AMD EPYC trains on in 20 s and
in 60 s; the control and the first edits with several seeds, so that the noise is known and what two
sources share that have a seed in common. As tokens count and not seconds, other programs slow the
measurement down but don't change it: the noise is that of seeds alone. The score is val_bpb as ever, without the
probes, which would take longer than the score. Results go to results/half.json, run by run:
an interrupted measurement goes on.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from recipe import CONTROL, Variant, load, presets, results

from ratchet.arena.files import write_json
from ratchet.referee.early_stopping import read_curve, to_shares

SHARES = tuple(n / 20 for n in range(1, 21))  # of a run, at which its loss is kept
LOOKED_AT = 0.25, 0.35, 0.5, 0.65, 0.75  # shares at which a run might be stopped
WINDOW = 0.2  # of a run: over which its loss is averaged
MARGINS = -0.5, 0, 0.5, 1, 2  # standard deviations that a run may be behind
LEAST_SOURCES = 6  # without as many a budget is not shown
SEVERAL = 8  # edits that run with SEEDS seeds each, as the control does
SEEDS = {"20s": 6, "60s": 3}  # of the control; with 60 s the edits have one
TOKENS = {"20s": 50 * 4096, "60s": 150 * 4096}  # of the control
SPEED = {  # tokens a second, those of the control are 1
    "depth 1": 1.2,
    "depth 3": 0.85,
    "5 heads": 0.6,
    "up to 4-grams": 0.92,
    "bigrams only": 1.05,
}
EDITS_60 = 24  # edits that run with 60 s, too
PLAIN_SCORE = """
from ratchet.arena import run as arena_run
from ratchet.arena.results import bits_per_byte
from ratchet.arena.score import read_rows
from ratchet.arena.tokenizer import load_tokenizer, token_bytes

compilable_parts = lambda model, muon: []  # so few steps don't earn it back
fastest_dtype = lambda device: "bfloat16"  # a busy machine might measure another one


@torch.no_grad()
def score_simply(run, model, config):
    run._log.close(config)  # the curve is written
    rows = torch.from_numpy(read_rows(run.arena, "val").astype("int64"))
    sizes = torch.from_numpy(token_bytes(load_tokenizer(run.arena.folder)).astype("int64"))
    nats, model = 0.0, model.eval()
    for each in rows.split(8):
        x, y = each[:, :-1], each[:, 1:]
        losses = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="none")
        nats += losses[sizes[y.flatten()] > 0].double().sum().item()
    score = bits_per_byte(nats, int(sizes[rows[:, 1:]].sum()))
    result = {"status": "ok", "val_bpb": score, "steps": run.steps}
    (run.folder / "result.json").write_text(json.dumps(result))


arena_run.Run.submit = score_simply


"""
ENDS_EARLY = """
constant_rates = set_schedules


def set_schedules(optimizers, progress):
    constant_rates(optimizers, min(1.0, {factor} * progress))


"""
OTHER_RATES = """
falling_rates = set_schedules


def set_schedules(optimizers, progress):
    falling_rates(optimizers, progress)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = {rate}


"""
WARMS_UP = OTHER_RATES.format(rate='group["lr"] * min(1.0, progress / 0.2)')
COSINE = OTHER_RATES.format(rate='group["peak_lr"] * 0.5 * (1 + math.cos(math.pi * progress))')
GELU = """
def relu2_mlp(x, up, down):
    return F.linear(F.gelu(F.linear(x, up.to(x.dtype))), down.to(x.dtype))


"""
WITHOUT_X0 = """
class Block(Block):
    def forward(self, x, x0, *rest):
        return super().forward(x, torch.zeros_like(x0), *rest)


"""
LABEL_NOISE = """
plain_step = train_step


def train_step(run, model, optimizers, x, y):
    noise = torch.randint_like(y, 1, run.arena.vocab_size)
    return plain_step(run, model, optimizers, x, torch.where(torch.rand(y.shape) < 0.03, noise, y))


"""
WITHOUT_COPYING = """
COPY = 0


def find_followers(tokens, n, longest):
    return 2 * [tokens.new_zeros(len(tokens), n, 0)]


"""
EDITS = {
    "depth 3": presets(depth=3),
    "batch 4": presets(batch_size=4),
    "Muon's rate halved": "MUON_LR = 0.01\n\n\n",
    "no copying": WITHOUT_COPYING,
    "rates fall late": "WARMDOWN = 0.3\n\n\n",
    "head learns faster": "HEAD_LR = 0.03\n\n\n",
    "softcap 30": "SOFTCAP = 30.0\n\n\n",
    "GELU": GELU,
    # these have one seed with 20 s
    "depth 1": presets(depth=1),
    "5 heads": presets(heads=5),
    "batch 16": presets(batch_size=16),
    "small table": presets(table_bits=15),
    "Muon's rate doubled": "MUON_LR = 0.04\n\n\n",
    "Muon's rate x 5": "MUON_LR = 0.1\n\n\n",
    "table learns faster": "TABLE_LR = 1.5\n\n\n",
    "rates fall at once": "WARMDOWN = 1.0\n\n\n",
    "cosine": COSINE,
    "rates warm up": WARMS_UP,
    "schedule ends at 80%": ENDS_EARLY.format(factor=1.25),
    "schedule ends at 60%": ENDS_EARLY.format(factor=1 / 0.6),
    "schedule ends at 40%": ENDS_EARLY.format(factor=2.5),
    "bigrams only": "NGRAMS = 2\n\n\n",
    "up to 4-grams": "NGRAMS = 4\n\n\n",
    "large x0": "X0_SCALE = 0.5\n\n\n",
    "no x0": WITHOUT_X0,
    "noisy labels": LABEL_NOISE,
}


class Run(NamedTuple):
    """One run of an edit."""

    budget: str
    edit: str
    seed: int


def planned_runs() -> list[Run]:
    """All runs, those first that tell most."""
    names = [CONTROL, *EDITS]
    several = names[: 1 + SEVERAL]
    runs = [Run("20s", name, 0) for name in names]
    runs += [Run(budget, CONTROL, seed) for budget, count in SEEDS.items() for seed in range(count)]
    runs += [Run("60s", name, 0) for name in [*EDITS][-EDITS_60:]]
    runs += [Run("20s", name, seed) for seed in range(1, SEEDS["20s"]) for name in several]
    return [*dict.fromkeys(runs)]


def run_once(run: Run, core: int) -> dict:
    """{"val_bpb", "losses" at SHARES, ...} of one run on one core."""
    variant = Variant(run.edit, "train.py", PLAIN_SCORE + EDITS.get(run.edit, ""))
    with tempfile.TemporaryDirectory() as folder:
        contestant, out = Path(folder) / "train.py", Path(folder) / "out"
        contestant.write_text(variant.text(), encoding="utf-8")
        options = {"ARENA": "pocket", "SEED": run.seed, "RUN": out}
        options["BUDGET"] = budget = f"{SPEED.get(run.edit, 1) * TOKENS[run.budget]:.0f}tok"
        environment = os.environ | {f"RATCHET_{key}": str(value) for key, value in options.items()}
        done = subprocess.run(
            ["taskset", "-c", str(core), sys.executable, contestant],
            env=environment | {"RATCHET_DEVICE": "cpu", "PYTHONPATH": str(variant.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        if not (out / "result.json").exists():
            return {"status": "crash", "reason": done.stdout[-2000:]}
        result = json.loads((out / "result.json").read_bytes())
        curve = to_shares(read_curve(out / "curve.jsonl")[0], budget)
    losses = [window_mean(curve, share) for share in SHARES]
    return {key: result[key] for key in ("status", "val_bpb", "steps")} | {"losses": losses}


def window_mean(curve, share):
    """Mean loss of the twentieth of a run that ends at a share; None without a step in it."""
    losses = [loss for at, loss in curve if share - SHARES[0] < at <= share]
    return round(sum(losses) / len(losses), 4) if losses else None


def measure(path: Path, minutes: float, cores: list[int]) -> None:
    """Do the runs that are missing, one a core, as far as the minutes reach."""
    lock, stop = Lock(), time.monotonic() + 60 * minutes
    missing = [run for run in planned_runs() if load(path).get(str(run), {}).get("status") != "ok"]

    def work(core):
        while missing and time.monotonic() < stop:
            run = missing.pop(0)
            row = run._asdict() | run_once(run, core)
            with lock:
                write_json(path, load(path) | {str(run): row})
            print(f"{len(missing)} left:", run, row.get("val_bpb"), row.get("steps"), flush=True)

    with ThreadPoolExecutor(len(cores)) as pool:
        for done in [pool.submit(work, core) for core in cores]:
            done.result()


# --------------------------------------------------------------------------------------------------
# What the runs say


def read_runs(path: Path, budget: str) -> dict[str, dict[int, dict]]:
    """{edit: {seed: run}} of the runs with a budget that have a score."""
    runs: dict[str, dict[int, dict]] = {}
    for run in load(path).values():
        if run["budget"] == budget and run["status"] == "ok":
            runs.setdefault(run["edit"], {})[run["seed"]] = run
    return runs


def loss_at(run: dict, share: float) -> float:
    """Mean loss of the WINDOW of a run that ends at a share."""
    last = round(share * len(SHARES))
    return statistics.fmean(run["losses"][max(0, last - round(WINDOW * len(SHARES))) : last])


def noise_of(groups) -> float:
    """Standard deviation within groups, pooled."""
    groups = [[*group] for group in groups if len(group) > 1]
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in groups)
    return math.sqrt(squares / sum(len(group) - 1 for group in groups)) if groups else math.nan


def contrasts(runs, share):
    """[(edit, loss at a share, val_bpb)], both above the control's mean."""
    control = runs[CONTROL].values()
    loss = statistics.fmean(loss_at(run, share) for run in control)
    score = statistics.fmean(run["val_bpb"] for run in control)
    edits = [(name, of_seed[0]) for name, of_seed in runs.items() if name != CONTROL]
    return [(name, loss_at(run, share) - loss, run["val_bpb"] - score) for name, run in edits]


def is_schedule(name):
    return name.startswith(("schedule", "rates", "cosine"))


def correlations(runs):
    """{share: [of all edits, without changes of the schedule, of those near the control]}."""
    found = {}
    for share in LOOKED_AT:
        rows = contrasts(runs, share)
        near = statistics.median(abs(score) for _, _, score in rows)
        groups = (
            rows,
            [r for r in rows if not is_schedule(r[0])],
            [r for r in rows if abs(r[2]) <= 2 * near],
        )
        found[share] = [
            round(correlation(*zip(*(row[1:] for row in group))), 2) for group in groups
        ]
    return found


def correlation(xs, ys):
    return statistics.correlation(xs, ys) if len(xs) > 2 else math.nan


def stops(runs, sigma):
    """What a stop costs and saves, by (share, standard deviations that a run may be behind)."""
    rows = []
    for share in LOOKED_AT:
        deviation = statistics.stdev(loss_at(run, share) for run in runs[CONTROL].values())
        pairs = contrasts(runs, share)
        for margin in MARGINS:
            stopped = [(name, score) for name, loss, score in pairs if loss > margin * deviation]
            wrongly = [name for name, score in stopped if score < -sigma]
            row = {"share": share, "margin": margin, "edits": len(pairs), "stopped": len(stopped)}
            row |= {"saved": round(len(stopped) * (1 - share) / len(pairs), 3), "wrongly": wrongly}
            rows.append(row | {"gains": sum(score < -sigma for _, _, score in pairs)})
    return rows


def reading(runs, share, sigma):
    """How the loss at a share tells the gain: for the simulation in verdicts.py, in sigma.

    rho: correlation of the luck of both within a source; noise_sd: of the reading's luck; bias_sd:
    by which an edit's curve is ahead or behind for good.
    """
    rows = contrasts(runs, share)
    xs, ys = [row[1] / sigma for row in rows], [row[2] / sigma for row in rows]
    slope = sum(x * y for x, y in zip(xs, ys)) / sum(x * x for x in xs)
    several = [of_seed.values() for of_seed in runs.values() if len(of_seed) > 1]
    noise = noise_of([[slope * loss_at(run, share) / sigma for run in group] for group in several])
    luck = [
        (
            loss_at(run, share) - statistics.fmean(loss_at(r, share) for r in group),
            run["val_bpb"] - statistics.fmean(r["val_bpb"] for r in group),
        )
        for group in several
        for run in group
    ]
    residual = math.sqrt(sum((slope * x - y) ** 2 for x, y in zip(xs, ys)) / (len(xs) - 1))
    rho = correlation(*zip(*luck)) if luck else math.nan
    bias = math.sqrt(max(0.0, residual**2 - noise**2 - 1 + 2 * rho * noise))
    figures = {"share": share, "slope": slope, "rho": rho, "noise_sd": noise, "bias_sd": bias}
    return {key: round(value, 3) for key, value in figures.items()}


def seeds_in_common(runs):
    """Mean correlation of the scores of two sources over the seeds, and its standard error."""
    several = {name: of_seed for name, of_seed in runs.items() if len(of_seed) >= 6}
    pairs = [
        correlation(*zip(*((one[s]["val_bpb"], other[s]["val_bpb"]) for s in one if s in other)))
        for one, other in combinations(several.values(), 2)
    ]
    with_control = pairs[: len(several) - 1]
    if not pairs:
        return {}
    error = 1 / math.sqrt(sum(len(of_seed) - 1 for of_seed in several.values()))
    return {
        "pairs": len(pairs),
        "mean": round(statistics.fmean(pairs), 2),
        "error": round(error, 2),
        "with_control": [round(value, 2) for value in with_control],
    }


def figures_of(path):
    """All figures, for the JSON and the terminal."""
    figures = {}
    for budget in SEEDS:
        runs = read_runs(path, budget)
        if len(runs) < LEAST_SOURCES:
            continue  # too few for a correlation
        sigma = noise_of(
            [[run["val_bpb"] for run in of_seed.values()] for of_seed in runs.values()]
        )
        figures[budget] = {
            "edits": len(runs) - 1,
            "sigma": round(sigma, 5),
            "correlations": correlations(runs),
            "readings": [reading(runs, share, sigma) for share in LOOKED_AT],
            "stops": stops(runs, sigma),
            "seeds_in_common": seeds_in_common(runs),
        }
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--minutes", type=float, default=600)
    args = parser.parse_args()
    if not args.show:
        measure(results("half"), args.minutes, sorted(os.sched_getaffinity(0)))
    figures = figures_of(results("half"))
    for budget, each in figures.items():
        for key, value in each.items():
            rows = value if isinstance(value, list) else [value]
            print(budget, key, *rows, sep="\n  ")


if __name__ == "__main__":
    main()
