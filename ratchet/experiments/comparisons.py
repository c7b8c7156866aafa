"""The verbs that change no champion: compare, audit, and the comparison that closes a night."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ratchet.arena.budget import parse_budget
from ratchet.arena.files import Refused
from ratchet.experiments import sources, verdicts
from ratchet.experiments.campaign import MOST_TEXT, Campaign
from ratchet.experiments.ledger import Experiment, Row, bpb, is_valid, score_of
from ratchet.experiments.rule import statistics
from ratchet.experiments.rule.failures import failed_verdict
from ratchet.experiments.rule.statistics import Comparison
from ratchet.experiments.running import working_on
from ratchet.experiments.session import MIN_SEEDS, Session, valid_or_failed
from ratchet.experiments.verdicts import Verdict
from ratchet.referee.source import Source

# What experiments on several sources are scored on.
SPLITS = {"compare": ("val",), "closing": ("val",), "audit": ("val", "test")}
Scores = Mapping[int, float]  # {seed: score} of an arm


def compare(
    session: Session, names: Sequence[str], seeds: int = 5, frame: str = "time"
) -> Experiment:
    """Run several sources with the same seeds in turns; changes no champion. Raises Refused."""
    arms = read_arms(names, seeds)
    refuse_frame(frame, session.budget)
    n = session.open_experiment("compare", arms, frame=frame, seeds=seeds)
    with working_on(session.home, n):
        return run_in_turns(session, n, arms, seeds, frame)


def refuse_frame(frame: str, budget: str) -> None:
    """Raises Refused where a budget is of something else than what all arms are to get."""
    unit = parse_budget(budget).unit
    if unit not in ("s", {"tokens": "tok", "flops": "flop"}.get(frame, unit)):
        raise Refused(
            f"--frame {frame} can't be held by a budget of {budget}: name one of seconds, "
            "which the first source turns into an amount, or leave --frame out"
        )


def read_arms(names: Sequence[str], seeds: int) -> list[Source]:
    """The sources that are to be compared with so many seeds. Raises Refused."""
    arms = [sources.read_source(name, files=True) for name in names]
    if len(arms) < 2 or seeds < MIN_SEEDS:
        raise Refused(f"a comparison needs two sources and {MIN_SEEDS} seeds at least")
    return arms


def run_in_turns(
    session: Session, n: int, arms: Sequence[Source], seeds: int, frame: str
) -> Experiment:
    """A comparison to its end: the arms take turns, and so does who begins."""
    budget = session.budget
    if frame != "time" and budget.endswith("s"):
        budget = equal_budget(session, n, arms[0], frame)
    for number in range(seeds):
        first = number % len(arms)
        for arm in [*range(first, len(arms)), *range(first)]:
            run_next_seed(session, n, arm, arms[arm], number, budget)
    reason = f"{seeds} seeds, frame {frame}, budget {budget}"
    return session.close_experiment(n, Verdict("compared", reason))


def run_next_seed(
    session: Session, n: int, arm: int, source: Source, number: int, budget: str
) -> None:
    """Run an arm with the seed of that number, unless it has been or an earlier one failed."""
    compared = [run for run in session.experiment(n).runs if run["phase"] == "compare"]
    runs = [run for run in compared if run["arm"] == arm]
    if failed_verdict(runs) or sum(map(is_valid, runs)) > number:
        return
    seeds = list(dict.fromkeys(run["seed"] for run in compared if is_valid(run)))
    options: dict[str, Any] = {"budget": budget}
    if len(seeds) > number:
        options["seed"] = seeds[number]  # that of the arm that began
    session.run_arm(n, arm, "compare", source, **options)


def equal_budget(session: Session, n: int, source: Source, frame: str) -> str:
    """What the first source takes in its seconds, which all get then: "12345tok", "1.5e15flop".

    Raises Refused when it fails.
    """
    measured = [
        run
        for run in session.experiment(n).runs
        if run["phase"] == "measure" and run["status"] == "ok"
    ]
    run = measured[0] if measured else session.run_arm(n, 0, "measure", source)
    if run["status"] != "ok":
        raise Refused(
            f"{source.name} ended as {run['status']} ({run['reason']}): "
            "there is no amount to compare at"
        )
    if not run["tokens"] or (frame == "flops" and not run["flops_per_token"]):
        raise Refused(
            f"{source.name} does not say how many {frame} it has used: compare with --frame time"
        )
    if frame == "tokens":
        return f"{run['tokens']}tok"
    return f"{run['tokens'] * run['flops_per_token']:.5e}flop".replace("+", "")


def compare_with_first(
    e: Experiment, split: str = "val"
) -> list[tuple[list[float], Comparison | None]]:
    """(val_bpb, how they compare with those of arm 0) of each arm of a comparison or an audit.

    Sigma is that of its own runs; where all arms ran the same seeds, what these explain is left
    out. A gain above 0 means better than arm 0, for which it is None.
    """
    return compare_all_with_first(e, lambda run: bpb(run, split))


def compare_goal_with_first(e: Experiment) -> list[tuple[list[float], Comparison | None]]:
    """The same of the scores that the campaign goes by."""
    return compare_all_with_first(e, lambda run: score_of(run, e.goal))


def compare_all_with_first(
    e: Experiment, read_score: Callable[[Row], float]
) -> list[tuple[list[float], Comparison | None]]:
    """The same of any score of a run."""
    arms = [scores_of(e, arm, read_score) for arm in range(len(e.arms))]
    pairs: list[tuple[list[float], Comparison | None]] = [([*arms[0].values()], None)]
    for others in arms[1:]:
        pairs.append(([*others.values()], compare_arms(others, arms[0], arms)))
    return pairs


def scores_of(e: Experiment, arm: int, read_score: Callable[[Row], float]) -> Scores:
    """{seed: score} of an arm's valid runs."""
    runs = [run for run in e.runs if is_valid(run) and run["phase"] == e.role]
    return {run["seed"]: read_score(run) for run in runs if run["arm"] == arm}


def compare_arms(candidate: Scores, champion: Scores, arms: Sequence[Scores]) -> Comparison | None:
    """How two arms compare, with the noise of all; None while that is unknown.

    In older ledgers the arms of a closing comparison had seeds of their own.
    """
    if not (candidate and champion):
        return None
    shared = candidate.keys() & champion.keys()
    groups = (  # an arm that failed early has few seeds in common with the others
        [scores for scores in arms if scores],
        [scores for scores in arms if scores and shared <= scores.keys()],
    )
    blocks = max(map(statistics.pool_blocks, groups), key=lambda noise: noise.df)
    if blocks.df:
        return statistics.compare_pairs(candidate, champion, blocks)
    noise = statistics.pool_noise([[*scores.values()] for scores in arms])
    if not noise.df:
        return None
    return statistics.compare([*candidate.values()], [*champion.values()], noise)


def list_claims(campaign: Campaign) -> list[Experiment]:
    """All comparisons of the present champion with the baseline, with fresh seeds.

    Audits of older ledgers have the champions between the two as well.
    """
    arms = [e.arms[0]["source"] for e in (campaign.kept[0], campaign.kept[-1])]
    made = [e for e in campaign.since if e.role in ("closing", "audit") and e.closes]
    return [e for e in made if [e.arms[end]["source"] for end in (0, -1)] == arms]


def compare_claims(
    claims: Sequence[Experiment], read_score: Callable[[Row], float]
) -> Comparison | None:
    """What the champion gains on the baseline, by the runs of all these comparisons together.

    By all: who could choose one of them would claim the luckiest. In a single one of an older
    ledger the champions between the two tell of the noise, too.
    """
    if len(claims) == 1:
        return compare_all_with_first(claims[0], read_score)[-1][1]
    baseline: dict[int, float] = {}
    champion: dict[int, float] = {}
    for e in claims:
        baseline |= scores_of(e, 0, read_score)
        champion |= scores_of(e, len(e.arms) - 1, read_score)
    return compare_arms(champion, baseline, [baseline, champion])


def needs_closing(campaign: Campaign) -> bool:
    """Whether nobody has measured with fresh seeds what the champion gains on the baseline.

    A comparison whose runs have all failed has measured nothing: its device may have been broken.
    """
    return len(campaign.kept) > 1 and not compare_claims(list_claims(campaign), bpb)


def audit(session: Session, seeds: int | None = None) -> Experiment:
    """Score the last champion and the baseline in turns on val and the locked test split.

    A run that fails is told in the verdict. Raises Refused.
    """
    if seeds is None:
        seeds = verdicts.count_closing_seeds(session.goal)
    return compare_with_baseline(session, "audit", seeds)


def close_night(session: Session, by: str) -> Experiment:
    """The comparison that a night's claim is: the same on val alone. Raises Refused."""
    seeds = verdicts.count_closing_seeds(session.goal)
    return compare_with_baseline(session, "closing", seeds, by=by[:MOST_TEXT])


def compare_with_baseline(session: Session, role: str, seeds: int, **remarks: Any) -> Experiment:
    """Run the last champion and the baseline with the same fresh seeds, in turns (ABBA)."""
    kept = session.read_campaign().kept
    if len(kept) < 2 or seeds < MIN_SEEDS:
        raise Refused(
            "nothing was kept since the calibration, so there is no gain to be measured"
            if len(kept) < 2
            else f"-n {seeds} is too few: an audit needs {MIN_SEEDS} seeds at least"
        )
    arms = [
        sources.read_source(e.arms[0]["commit"])._replace(name=f"experiment {e.n}")
        for e in (kept[0], kept[-1])
    ]
    n = session.open_experiment(role, arms, seeds=seeds, **remarks)
    with working_on(session.home, n):
        turns = (verdicts.CLOSING * seeds)[: 2 * seeds]
        for number, letter in enumerate(turns):
            arm = int(letter == "A")  # the baseline is arm 0: gains are those of the champion
            pair = number // 2  # whose two runs have one seed
            done, other = (valid_or_failed(session.experiment(n), each) for each in (arm, 1 - arm))
            if len(done) <= pair:
                options: dict[str, Any] = {"splits": SPLITS[role]}
                if len(other) > pair:
                    options["seed"] = other[pair]["seed"]
                session.run_arm(n, arm, role, arms[arm], **options)
        e = session.experiment(n)
        words = [f"{len(arms)} champions, {seeds} seeds", *describe_failures(e)]
        return session.close_experiment(n, Verdict("audited", "; ".join(words)))


def describe_failures(e: Experiment) -> list[str]:
    """Which arms of a closing comparison or an audit have failed how often; [] if none.

    Example: ["1 of 4 runs of experiment 2 failed (crash)"].
    """
    words = []
    for number, arm in enumerate(e.arms):
        runs = valid_or_failed(e, number)
        if ends := [run["status"] for run in runs if run["status"] != "ok"]:
            failed = f"{len(ends)} of {len(runs)} runs of {arm['name']} failed"
            words.append(f"{failed} ({', '.join(ends)})")
    return words
