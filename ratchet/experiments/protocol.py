"""The protocol: what an experiment does next follows from its lines in the ledger alone."""

from itertools import filterfalse

from ratchet.experiments import verdicts
from ratchet.experiments.campaign import CANDIDATE, CHAMPION
from ratchet.experiments.ledger import disturbed
from ratchet.experiments.verdicts import Verdict


def failure(runs):
    """The verdict that a run which gave no score forces, or None."""
    for run in filterfalse(disturbed, runs):
        if run["status"] == "hopeless":
            return Verdict("discard", f"it could not catch up: {run['reason']}")
        if run["status"] in ("crash", "timeout", "overtime", "invalid"):
            return Verdict(run["status"], run["reason"])
        if run["status"] != "ok":
            return Verdict("crash", f"{run['status']}: {run['reason']}")
    return None


def next_step(e, campaign):
    """What a try does next: (arm, phase) of a run, or the verdict that ends it."""
    own = [run for run in e.runs if run["arm"] == CANDIDATE]
    if decision := failure(own):
        return decision
    if kept := campaign.kept_beside(e):
        return Verdict("overtaken", f"experiment {kept[-1].n} became the champion meanwhile")
    reference = e.scores(CHAMPION, "reference")
    before = reference or campaign.recent(e.arms[CHAMPION]["source"], e)
    screened, tried = e.scores(CANDIDATE, "screen"), e.scores(CANDIDATE, "confirm")
    champion = e.scores(CHAMPION, "champion")
    if not before:
        return CHAMPION, "reference"
    if not screened:
        return CANDIDATE, "screen"
    noise = campaign.noise(before=e.line)
    if e.quick:
        return verdicts.decide_quick(screened[0], before, noise)
    if not verdicts.screen(screened[0], before, noise):
        what = verdicts.figures(verdicts.compare(screened[:1], before, noise), noise)
        return Verdict("discard", f"worse on its first seed: {what}")
    if len(tried) == len(champion):
        verdict = verdicts.decide(
            tried, before + champion, noise, e.arms[0]["size"] < e.arms[1]["size"]
        )
        if verdict.verdict:
            return verdict
    first = (
        CANDIDATE if min(len(tried), len(champion)) % 2 == 0 else CHAMPION
    )  # in turns, against drift
    arm = (
        first
        if len(tried) == len(champion)
        else CANDIDATE
        if len(tried) < len(champion)
        else CHAMPION
    )
    return arm, "confirm" if arm == CANDIDATE else "champion"
