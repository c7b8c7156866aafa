"""Comparisons: any sources, or all champions, with the same seeds in turns; they change no
champion.
"""

from ratchet.arena.files import Refused
from ratchet.experiments import sources, verdicts
from ratchet.experiments.ledger import bpb, counts
from ratchet.experiments.protocol import failure
from ratchet.experiments.running import working_on
from ratchet.experiments.session import MIN_SEEDS, valid_or_failed
from ratchet.experiments.verdicts import Verdict

SPLITS = {
    "compare": ("val",),
    "audit": ("val", "test"),
}  # that experiments on several sources are scored on


def compare(bench, names, seeds=5, frame="time"):
    """Run several sources with the same seeds in turns; changes no champion. Returns the
    experiment.
    """
    arms = [sources.read_source(name, files=True) for name in names]
    if len(arms) < 2 or seeds < MIN_SEEDS:
        raise Refused(f"a comparison needs two sources and {MIN_SEEDS} seeds at least")
    bench.enter()
    n = bench.open("compare", arms, frame=frame, seeds=seeds)
    with working_on(bench.home, n):
        return run_in_turns(bench, n, arms, seeds, frame)


def run_in_turns(bench, n, arms, seeds, frame):
    """A comparison to its end."""
    if frame != "time" and bench.budget.endswith("s"):
        bench.budget = equal_budget(bench, n, arms[0], frame)
    for number in range(seeds):
        order = [*range(len(arms))]
        for arm in order[number % len(order) :] + order[: number % len(order)]:
            runs = [
                run for run in bench.now(n).runs if run["arm"] == arm and run["phase"] == "compare"
            ]
            if not failure(runs) and sum(map(counts, runs)) <= number:
                compared = [
                    run for run in bench.now(n).runs if run["phase"] == "compare" and counts(run)
                ]
                used = [*dict.fromkeys(run["seed"] for run in compared)]
                bench.run(
                    n, arm, "compare", arms[arm], used[number] if len(used) > number else None
                )
    return bench.close(
        n, Verdict("compared", f"{seeds} seeds, frame {frame}, budget {bench.budget}")
    )


def equal_budget(bench, n, source, frame):
    """The tokens or FLOPs that the first source takes in the budget of seconds: what all then get."""
    found = [
        run for run in bench.now(n).runs if run["phase"] == "measure" and run["status"] == "ok"
    ]
    facts = found[0] if found else bench.run(n, 0, "measure", source)
    if facts["status"] != "ok":
        raise Refused(
            f"{source.name} ended as {facts['status']} ({facts['reason']}): there is no amount to compare at"
        )
    if frame == "tokens":
        return f"{facts['tokens']}tok"
    return f"{facts['tokens'] * facts['flops_per_token']:.5e}flop".replace("+", "")


def contrast(e, split="val"):
    """[(scores of an arm, Comparison with the first arm or None)] of a comparison or an audit.

    Sigma is that of its own runs. A gain above 0 means better than the first.
    """
    runs = [run for run in e.runs if counts(run) and run["phase"] == e.role]
    scores = [[bpb(run, split) for run in runs if run["arm"] == arm] for arm in range(len(e.arms))]
    noise = verdicts.pooled(scores)
    rest = [
        verdicts.compare(own, scores[0], noise) if own and scores[0] and noise.df else None
        for own in scores[1:]
    ]
    return [*zip(scores, [None, *rest])]


def audit(bench, seeds=3):
    """Score the champions, baseline first, on the locked test split with fresh seeds. Failures are
    told.
    """
    campaign = bench.campaign()
    arms = [
        sources.read_source(e.arms[0]["commit"])._replace(name=f"experiment {e.n}")
        for e in campaign.kept
    ]
    n = bench.open("audit", arms, seeds=seeds)
    with working_on(bench.home, n):
        return score_on_test(bench, n, arms, seeds)


def score_on_test(bench, n, arms, seeds):
    """An audit to its end."""
    for number in range(seeds):
        for arm, source in enumerate(arms):
            if len([*valid_or_failed(bench.now(n), arm)]) <= number:
                bench.run(n, arm, "audit", source, splits=("val", "test"))
    what = f"{len(arms)} champions, {seeds} seeds"
    for arm, source in enumerate(arms):
        ends = [
            run["status"] for run in valid_or_failed(bench.now(n), arm) if run["status"] != "ok"
        ]
        what += (
            f"; {len(ends)} of {seeds} runs of {source.name} failed ({', '.join(ends)})"
            if ends
            else ""
        )
    return bench.close(n, Verdict("audited", what))
