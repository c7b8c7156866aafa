"""How many screening runs --stop-hopeless would have ended, and how many of these wrongly.

    uv run benchmarks/hopeless.py [FOLDER ...]     folders with ledger.jsonl and runs/, by default this one

Reads the curves of nights in which nothing was stopped. Wrongly: the run passed its screening;
fatally: its source was kept. Results go to results/hopeless.json.
"""

import argparse
import json
from pathlib import Path

from recipe import ROOT, results
from rich.console import Console
from rich.table import Table

from ratchet.arena.files import write_json
from ratchet.experiments import verdicts
from ratchet.experiments.campaign import CHAMPION
from ratchet.experiments.ledger import Ledger, is_valid
from ratchet.referee import early_stopping

RULES = 1.0, 1.1, 1.25, 1.5, 2.0  # CATCH_UP of each


def screened(folder):
    """(curve, champion's curves before it, whether it passed, whether it was kept) of all screening
    runs.
    """
    experiments = [*Ledger(folder).experiments().values()]
    for e in experiments:
        runs = [run for run in e.runs if run["phase"] == "screen" and run["status"] == "ok"]
        if e.role != "try" or not runs or not e.closes:
            continue
        earlier = (
            run
            for other in experiments
            if other.n < e.n and other.comparison_key == e.comparison_key
            for run in other.runs
        )
        champion = [
            run for run in earlier if run["source"] == e.arms[CHAMPION]["source"] and is_valid(run)
        ]
        own, *others = (
            early_stopping.to_shares(
                early_stopping.read_curve(folder / run["folder"] / "curve.jsonl")[0], e.budget
            )
            for run in runs[-1:] + champion[-verdicts.RECENT :]
        )
        passed = any(run["phase"] == "confirm" for run in e.runs)
        yield own, others, passed, e.verdict == "keep"


def stopped_at(own, reference, rule):
    """Share of the budget at which a run would have been ended, or None."""
    for share, *_ in reference:
        if early_stopping.why_hopeless(
            [point for point in own if point[0] <= share], reference, rule
        ):
            return share
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT])
    found = [each for folder in parser.parse_args().folders for each in screened(folder)]
    rows = []
    for rule in RULES:
        ends = [
            stopped_at(own, early_stopping.find_milestones(others), rule)
            for own, others, *_ in found
        ]
        ended = [(at, passed, kept) for at, (_, _, passed, kept) in zip(ends, found) if at]
        row = {"catch_up": rule, "runs": len(found), "stopped": len(ended)}
        row |= {
            "wrongly": sum(passed for _, passed, _ in ended),
            "fatally": sum(kept for *_, kept in ended),
        }
        row["saved"] = sum(1 - at for at, *_ in ended) / max(len(found), 1)
        rows.append(row)
    write_json(results("hopeless"), rows)
    table = Table(
        "catch up", "screening runs", "stopped", "wrongly", "fatally", "of their time saved"
    )
    for row in rows:
        *facts, saved = row.values()
        table.add_row(*map(str, facts), f"{saved:.0%}")
    Console().print(table)
    print(
        json.dumps(
            {"passed their screening": sum(passed for *_, passed, _ in found), "of": len(found)}
        )
    )


if __name__ == "__main__":
    main()
