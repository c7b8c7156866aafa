"""Do two slots do twice the work of one, and how many devices can one head serve?

    uv run benchmarks/pool.py [--seconds 90] [--experiments 10000] [--slots 256]

The first question is answered by nights on one and on two halves of this CPU's cores, with real
runs of a contestant that sleeps: the halves as devices of this machine, then as nodes of a Ray
cluster. The second with a ledger that grows to so many experiments: at some lengths each slot tries
an idea, all of it real (commits, ledger, verdicts, threads) but the runs, which take no time. What
the head needs for a run tells how many devices it can serve, when runs last five minutes. Results
go to results/pool.json.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from contextlib import chdir, contextmanager
from pathlib import Path
from statistics import fmean

from recipe import ROOT, results
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(ROOT / "tests/executors"))

from prepare import prepare
from ratchet import commits
from ratchet.arena.files import write_json
from ratchet.executors import open_executor
from ratchet.executors.base import OwnTask, Slot
from ratchet.executors.local import LocalExecutor
from ratchet.experiments import verbs
from ratchet.experiments.session import join_campaign, open_session
from ratchet.night.driver import run_night
from ratchet.night.status import Limits
from ratchet.referee.devices.cores import cpu_name, pinned_to

RUN_SECONDS = 340  # of a real run, all phases together
SIGMA = 0.005
HALVES = "cpu:0/2", "cpu:1/2"
SHARES = 0.1, 0.3, 1.0  # of the experiments, at which the head is timed


class Stopwatch(Slot):
    """A slot that notes (when, its phases) of each run that ends."""

    def __init__(self, executor, number):
        super().__init__(executor, number)
        self.ends = []

    def run(self, job, tell=print):
        facts = super().run(job, tell)
        self.ends.append((time.monotonic(), facts["seconds"]))
        return facts


def slots(executor, seconds):
    """(runs a second, mean seconds of each phase) of a night with the tuner on an executor.

    Each slot from the end of its first run to that of its last: when the hours are over, a slot
    ends what it is at, and another one that is at nothing hasn't lost that time to the pool.
    """
    timed = [Stopwatch(executor, number) for number in range(executor.slot_count)]
    executor.slots = lambda: timed
    session = join_campaign(timed[0], busy=True)
    run_night(session, "tuner", Limits(hours=seconds / 3600))
    rate = sum((len(slot.ends) - 1) / (slot.ends[-1][0] - slot.ends[0][0]) for slot in timed)
    seconds = [seconds for slot in timed for _, seconds in slot.ends]
    return rate, {name: fmean(each.get(name, 0.0) for each in seconds) for name in seconds[0]}


def efficiency(choose, budget, seconds):
    """Nights on one and on two slots, in turns; choose(number) -> an executor with so many slots."""
    fresh()
    session = open_session(choose(1).slots()[0], "tiny", f"{budget}s", busy=True)
    verbs.calibrate(session, 3)
    rates, phases = {1: [], 2: []}, {1: [], 2: []}
    for number in (1, 2, 1, 2):
        rate, means = slots(choose(number), seconds)
        rates[number].append(rate)
        phases[number].append(means)
    gained = sum(rates[2]) / sum(rates[1]) / 2
    return {"budget": budget, "runs_per_second": rates, "phases": phases, "efficiency": gained}


@contextmanager
def ray_nodes(folder):
    """choose(number) -> so many slots of a Ray cluster; its nodes have half of the cores each."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    from ray import cluster_utils

    node = dict(num_cpus=1, num_gpus=0)
    with pinned_to(HALVES[0]):
        cluster = cluster_utils.Cluster(
            initialize_head=True, head_node_args=node | {"include_dashboard": False}
        )
    with pinned_to(HALVES[1]):  # a cache of its own: devices are locked there
        cluster.add_node(**node, env_vars={"RATCHET_CACHE": str(folder / "other")})
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        yield lambda number: open_executor("ray", slots=number)
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


class Instant(LocalExecutor):
    """Runs take no time: a score from the source's number and the seed."""

    def __init__(self):
        super().__init__()
        self.known = super().conditions()

    def conditions(self):
        return self.known

    def submit(self, verb, job, slot):
        return OwnTask(lambda: self.draw(job))

    def draw(self, job):
        draw = random.Random(f"{job.source.text[-20:]} {job.seed}")
        bpb = 1.2 + draw.gauss(0, SIGMA)
        facts = {
            "seed": job.seed,
            "budget": job.budget,
            "status": "ok",
            "reason": "",
            "shared": False,
        }
        facts |= (
            self.known
            | job.source.describe_source()
            | {"foreign_cpu": 0.0, "tail": ["x" * 80] * 20}
        )
        facts |= {"seconds": dict.fromkeys(("start", "rehearsal", "train", "score"), 1.0)}
        facts |= {"params": round(10 ** draw.uniform(7, 8)), "lookup": 10**6, "steps": 1000}
        facts |= {
            "peak_memory_mb": draw.uniform(1e3, 6e4),
            "flops_per_token": draw.uniform(1e8, 1e9),
        }
        facts |= {"mfu_percent": draw.uniform(20, 60), "tokens": round(10 ** draw.uniform(8, 9))}
        return facts | {
            "val": {"nats": bpb * 0.6931471805599453 * 10**6, "bytes": 10**6, "probes": {}}
        }


def calibrated():
    """The session of a fresh campaign whose runs take no time."""
    session = open_session(Instant().slots()[0], "tiny", "300s", busy=True)
    verbs.calibrate(session, 5)
    return session


def try_ideas(session, numbers):
    """Try ideas of these numbers at the same time, each in a thread."""
    champion, base = (
        session.read_campaign().champion["commit"],
        Path("train.py").read_text(encoding="utf-8"),
    )

    def work(n):
        commit = commits.commit_text(champion, f"{base}\nNUMBER = {n}\n".encode(), f"idea {n}")
        verbs.try_idea(session, f"idea {n}", commit)

    workers = [threading.Thread(target=work, args=(n,)) for n in numbers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def lengthen(ledger, number):
    """Append experiments like those that it has, each on a source of its own, until there are so
    many.
    """
    found = [e for e in ledger.experiments().values() if e.role == "try" and e.verdict == "discard"]
    for count in range(len(ledger.experiments()), number):
        e = found[count % len(found)]
        own, champion = e.arms
        n = new_line(ledger, e.opens, arms=[own | {"source": f"{count:016x}"}, champion])
        for run in e.runs:
            new_line(ledger, run, n=n)
        new_line(ledger, e.closes, n=n)


def new_line(ledger, row, **more):
    """Append a row once more, with other facts."""
    facts = {
        key: value
        for key, value in row.items()
        if key not in ("kind", "n", "time", "before", "line")
    }
    return ledger.append(row["kind"], **facts | more)


def head(number, slots, tell):
    """[(experiments so far, runs a second, ledger in MB)] of a head that only waits for itself."""
    session, rows = calibrated(), []
    try_ideas(session, range(slots))
    for share in SHARES:
        length = round(share * number)
        lengthen(session.ledger, length)
        begin, before = time.monotonic(), runs_in(session.ledger)
        try_ideas(session, range(length, length + slots))
        rate = (runs_in(session.ledger) - before) / (time.monotonic() - begin)
        rows.append((length, rate, session.ledger.path.stat().st_size / 2**20))
        tell(rows[-1])
    return rows


def runs_in(ledger):
    return sum(row["kind"] == "run" for row in ledger.rows())


def place_to_work(folder):
    """A repository with a contestant that sleeps, a tiny arena, a cache of its own."""
    from conftest import make_repository, write_corpus

    os.environ["RATCHET_CACHE"] = str(folder / "cache")
    source = str(write_corpus(folder / "corpus.jsonl"))
    prepare("tiny", source=source, context=64, vocab_size=512)
    make_repository(folder / "repository")
    text = (ROOT / "tests/contestant.py").read_text(encoding="utf-8")
    text = text.replace("        step(x, y)\n", "        step(x, y)\n        time.sleep(0.1)\n", 1)
    (folder / "repository/train.py").write_text(
        text.replace("import json\n", "import json\nimport time\n"), encoding="utf-8"
    )
    for name in ("prepare.py", "program.md"):
        shutil.copy(ROOT / name, folder / "repository")
    with chdir(folder / "repository"):
        for command in ("add -A", "commit -qm files"):
            commits.git(*command.split())


def fresh():
    """No ledger, no runs: another campaign."""
    shutil.rmtree("runs", ignore_errors=True)
    Path("ledger.jsonl").unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=90, help="of each night, 0 for none")
    parser.add_argument("--budget", type=int, default=6, help="seconds that the contestant sleeps")
    parser.add_argument("--experiments", type=int, default=10_000, help="of the head, 0 for none")
    parser.add_argument("--slots", type=int, default=256, help="ideas at a time")
    args = parser.parse_args()
    path, console = results("pool"), Console(highlight=False)
    found = json.loads(path.read_bytes()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        place_to_work(Path(folder))
        with chdir(Path(folder) / "repository"):
            if args.seconds:
                halves = lambda number: open_executor(devices=HALVES[:number])  # noqa: E731
                found["slots"] = efficiency(halves, args.budget, args.seconds)
                write_json(path, found)
                with ray_nodes(Path(folder)) as nodes:
                    found["ray"] = efficiency(nodes, args.budget, args.seconds)
                write_json(path, found)
                fresh()
            if args.experiments:
                rows = head(args.experiments, args.slots, console.print)
                found["head"] = {"slots": args.slots, "rows": rows, "run_seconds": RUN_SECONDS}
    found["machine"] = cpu_name()
    write_json(path, found)
    for name in ("slots", "ray"):
        console.print_json(json.dumps({name: found.get(name, {})}))
    table = Table("experiments", "runs a second", "devices served", "ledger MB")
    for n, rate, size in found.get("head", {}).get("rows", []):
        table.add_row(f"{n:,}", f"{rate:.1f}", f"{rate * RUN_SECONDS:,.0f}", f"{size:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
