"""Comparisons: any sources, or all champions, with the same seeds in turns; they change no
champion.
"""

from collections.abc import Sequence

from ratchet.arena.budget import Budget, parse_budget
from ratchet.arena.files import Refused
from ratchet.experiments import sources, verdicts
from ratchet.experiments.ledger import Experiment, bpb, is_valid
from ratchet.experiments.protocol import failed_verdict
from ratchet.experiments.running import working_on
from ratchet.experiments.session import MIN_SEEDS, Session, valid_or_failed
from ratchet.experiments.verdicts import Verdict
from ratchet.referee.source import Source

SPLITS = {
    "compare": ("val",),
    "audit": ("val", "test"),
}  # that experiments on several sources are scored on


def compare(
    session: Session, names: Sequence[str], seeds: int = 5, frame: str = "time"
) -> Experiment:
    """Run several sources with the same seeds in turns; changes no champion. Raises Refused."""
    arms = read_arms(names, seeds)
    n = session.open_experiment("compare", arms, frame=frame, seeds=seeds)
    with working_on(session.home, n):
        return run_in_turns(session, n, arms, seeds, frame)


def read_arms(names: Sequence[str], seeds: int) -> list[Source]:
    """The sources that are to be compared with so many seeds. Raises Refused."""
    arms = [sources.read_source(name, files=True) for name in names]
    if len(arms) < 2 or seeds < MIN_SEEDS:
        raise Refused(f"a comparison needs two sources and {MIN_SEEDS} seeds at least")
    return arms


def run_in_turns(session, n, arms, seeds, frame):
    """A comparison to its end."""
    budget = session.budget
    if frame != "time" and parse_budget(budget).seconds:
        budget = equal_budget(session, n, arms[0], frame)
    for number in range(seeds):
        order = [*range(len(arms))]
        for arm in order[number % len(order) :] + order[: number % len(order)]:
            runs = [
                run
                for run in session.experiment(n).runs
                if run["arm"] == arm and run["phase"] == "compare"
            ]
            if not failed_verdict(runs) and sum(map(is_valid, runs)) <= number:
                compared = [
                    run
                    for run in session.experiment(n).runs
                    if run["phase"] == "compare" and is_valid(run)
                ]
                used = [*dict.fromkeys(run["seed"] for run in compared)]
                seed = used[number] if len(used) > number else None
                session.run_arm(n, arm, "compare", arms[arm], seed=seed, budget=budget)
    return session.close_experiment(
        n, Verdict("compared", f"{seeds} seeds, frame {frame}, budget {budget}")
    )


def equal_budget(session, n, source, frame):
    """The tokens or FLOPs that the first source takes in the budget of seconds: what all then get."""
    found = [
        run
        for run in session.experiment(n).runs
        if run["phase"] == "measure" and run["status"] == "ok"
    ]
    facts = found[0] if found else session.run_arm(n, 0, "measure", source)
    if facts["status"] != "ok":
        raise Refused(
            f"{source.name} ended as {facts['status']} ({facts['reason']}): there is no amount to compare at"
        )
    if frame == "tokens":
        return str(Budget(facts["tokens"], "tok"))
    flops = facts["tokens"] * facts["flops_per_token"]
    return str(Budget(float(f"{flops:.5e}"), "flop"))


def compare_with_first(e, split="val"):
    """[(scores of an arm, Comparison with the first arm or None)] of a comparison or an audit.

    Sigma is that of its own runs. A gain above 0 means better than the first.
    """
    runs = [run for run in e.runs if is_valid(run) and run["phase"] == e.role]
    scores = [[bpb(run, split) for run in runs if run["arm"] == arm] for arm in range(len(e.arms))]
    noise = verdicts.pool_noise(scores)
    rest = [
        verdicts.compare(own, scores[0], noise) if own and scores[0] and noise.df else None
        for own in scores[1:]
    ]
    return [*zip(scores, [None, *rest])]


def audit(session, seeds=3):
    """Score the champions, baseline first, on the locked test split with fresh seeds. Failures are
    told.
    """
    campaign = session.read_campaign()
    arms = [
        sources.read_source(e.arms[0]["commit"])._replace(name=f"experiment {e.n}")
        for e in campaign.kept
    ]
    n = session.open_experiment("audit", arms, seeds=seeds)
    with working_on(session.home, n):
        return score_on_test(session, n, arms, seeds)


def score_on_test(session, n, arms, seeds):
    """An audit to its end."""
    for number in range(seeds):
        for arm, source in enumerate(arms):
            if len([*valid_or_failed(session.experiment(n), arm)]) <= number:
                session.run_arm(n, arm, "audit", source, splits=("val", "test"))
    what = f"{len(arms)} champions, {seeds} seeds"
    for arm, source in enumerate(arms):
        ends = [
            run["status"]
            for run in valid_or_failed(session.experiment(n), arm)
            if run["status"] != "ok"
        ]
        what += (
            f"; {len(ends)} of {seeds} runs of {source.name} failed ({', '.join(ends)})"
            if ends
            else ""
        )
    return session.close_experiment(n, Verdict("audited", what))
