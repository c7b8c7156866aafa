"""What a try did next by the former rule (looks.py), to verify older ledgers."""

from typing import TYPE_CHECKING

from ratchet.experiments.ledger import CANDIDATE, CHAMPION, Experiment
from ratchet.experiments.rule import looks
from ratchet.experiments.rule.failures import failed_verdict
from ratchet.experiments.rule.statistics import Noise, compare
from ratchet.experiments.verdicts import Verdict

if TYPE_CHECKING:
    from ratchet.experiments.campaign import Campaign


def next_step(e: Experiment, campaign: "Campaign") -> tuple[int, str] | Verdict:
    """What a try did next: (arm, phase) of a run, or the verdict that ended it.

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
        return looks.decide_quick(screened[0], before, noise)
    if not looks.passes_screen(screened[0], before, noise):
        words = looks.describe_comparison(compare(screened[:1], before, noise), noise)
        return Verdict("discard", f"worse on its first seed: {words}")
    return next_confirmation(e, before, noise)


def next_confirmation(
    e: Experiment, before: list[float], noise: Noise
) -> tuple[int, str] | Verdict:
    """What came next once a try had passed its screen; before: the champion's earlier scores."""
    tried, champion = e.scores(CANDIDATE, "confirm"), e.scores(CHAMPION, "champion")
    if len(tried) == len(champion):
        is_smaller = e.arms[CANDIDATE]["size"] < e.arms[CHAMPION]["size"]
        verdict = looks.decide(tried, before + champion, noise, is_smaller)
        if verdict.verdict:
            return verdict
        candidate_is_next = len(tried) % 2 == 0  # who begins takes turns, against drift
    else:
        candidate_is_next = len(tried) < len(champion)
    return (CANDIDATE, "confirm") if candidate_is_next else (CHAMPION, "champion")
