"""The protocol: what an experiment does next follows from its lines in the ledger alone."""

from collections.abc import Iterable

from ratchet.experiments import verdicts
from ratchet.experiments.campaign import CANDIDATE, CHAMPION, Campaign
from ratchet.experiments.ledger import Experiment, Row, is_disturbed
from ratchet.experiments.verdicts import Verdict

FAILURES = ("crash", "timeout", "overtime", "invalid")  # of a run, which are verdicts by name


def failed_verdict(runs: Iterable[Row]) -> Verdict | None:
    """The verdict that a run without a score forces, or None."""
    for run in runs:
        if is_disturbed(run) or run["status"] == "ok":
            continue
        if run["status"] == "hopeless":
            return Verdict("discard", f"it could not catch up: {run['reason']}")
        if run["status"] in FAILURES:
            return Verdict(run["status"], run["reason"])
        return Verdict("crash", f"{run['status']}: {run['reason']}")
    return None


def next_step(e: Experiment, campaign: Campaign) -> tuple[int, str] | Verdict:
    """What a try does next: (arm, phase) of a run, or the verdict that ends it.

    Example: (CANDIDATE, "screen") -> (CANDIDATE, "confirm") -> (CHAMPION, "champion") -> Verdict.
    """
    if verdict := failed_verdict(run for run in e.runs if run["arm"] == CANDIDATE):
        return verdict
    if kept := campaign.kept_beside(e):
        return Verdict("overtaken", f"experiment {kept[-1].n} became the champion meanwhile")
    before = e.scores(CHAMPION, "reference")
    before = before or campaign.recent_scores(e.arms[CHAMPION]["source"], e)
    if not before:
        return CHAMPION, "reference"
    screened = e.scores(CANDIDATE, "screen")
    if not screened:
        return CANDIDATE, "screen"
    noise = campaign.noise(before=e.line)
    if e.quick:
        return verdicts.decide_quick(screened[0], before, noise)
    if not verdicts.passes_screen(screened[0], before, noise):
        comparison = verdicts.compare(screened[:1], before, noise)
        words = verdicts.describe_comparison(comparison, noise)
        return Verdict("discard", f"worse on its first seed: {words}")
    return next_confirmation(e, before, noise)


def next_confirmation(
    e: Experiment, before: list[float], noise: verdicts.Noise
) -> tuple[int, str] | Verdict:
    """What comes next once a try has passed its screen; before: the champion's earlier scores."""
    tried, champion = e.scores(CANDIDATE, "confirm"), e.scores(CHAMPION, "champion")
    if len(tried) == len(champion):
        is_smaller = e.arms[CANDIDATE]["size"] < e.arms[CHAMPION]["size"]
        verdict = verdicts.decide(tried, before + champion, noise, is_smaller)
        if verdict.verdict:
            return verdict
        candidate_is_next = len(tried) % 2 == 0  # who begins takes turns, against drift
    else:
        candidate_is_next = len(tried) < len(champion)
    return (CANDIDATE, "confirm") if candidate_is_next else (CHAMPION, "champion")
