"""Verify: do the ledger, the commits and the verdicts agree?"""

from ratchet import commits
from ratchet.arena.files import sha256
from ratchet.experiments.campaign import CANDIDATE, CHAMPION, campaigns
from ratchet.experiments.protocol import next_step
from ratchet.experiments.verdicts import Verdict


def find_problems(ledger):
    """Problems of the ledger: sources, verdicts, refs; the chain is checked by reading. [] is a
    clean one.
    """
    refs = numbered_refs()  # before the lines: while a night runs, a line comes before its ref
    found = [*ledger.experiments().values()]
    judged = [campaign for campaign in campaigns(found) if campaign.baseline]
    campaign_of = {e.n: campaign for campaign in judged for e in campaign.since}
    problems = [*filter(None, [ledger.cut()]), *wrong_sources(found)]
    for e in found:
        own = [*wrong_runs(e), *(wrong_try(e, campaign_of.get(e.n)) if e.role == "try" else [])]
        problems += [f"experiment {e.n}: {what}" for what in own]
    return problems + [*wrong_refs(refs, {e.n: e for e in found})]


def wrong_runs(e):
    """What is wrong with the lines of an experiment."""
    for run in e.runs:
        if run["file"] != e.arms[run["arm"]]["file"]:
            yield f"a {run['phase']} run had another train.py than its arm"
        if e.closes and run["line"] > e.closes["line"]:
            yield f"a {run['phase']} run came after the verdict"


def wrong_try(e, campaign):
    """What is wrong with the arms and the verdict of a try."""
    if e.arms[CHAMPION]["commit"] != e.parent:
        yield "its second arm is not the champion"
    if e.closes:
        step = next_step(e, campaign) if campaign else None
        says = step.verdict if isinstance(step, Verdict) else "that there can't be one yet"
        if says != e.verdict:
            yield f"the verdict is {e.verdict}, its runs say {says}"


def wrong_sources(found):
    """Arms whose train.py git doesn't have any more as it ran."""
    arms = [(e, arm) for e in found for arm in e.arms if arm["commit"]]
    texts = commits.texts({arm["commit"] for _, arm in arms})
    hashes = {commit: text and sha256(text) for commit, text in texts.items()}
    for e, arm in arms:
        if not hashes[arm["commit"]]:
            yield f"experiment {e.n}: commit {arm['commit'][:7]} is gone"
        elif hashes[arm["commit"]] != arm["file"]:
            yield f"experiment {e.n}: train.py of commit {arm['commit'][:7]} is not what ran"


def numbered_refs():
    """{n: commit} of refs/ratchet/<n>."""
    lines = commits.git_lines(
        "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/ratchet"
    )
    refs = dict(line.split() for line in lines)
    return {int(name.split("/")[-1]): commit for name, commit in refs.items() if name[-1].isdigit()}


def wrong_refs(refs, found):
    """refs/ratchet/<n> that differ from the ledger."""
    for n, commit in refs.items():
        if n not in found:
            yield f"refs/ratchet/{n} has no line in the ledger: its end was cut off"
        elif found[n].arms[CANDIDATE]["commit"] != commit:
            yield f"refs/ratchet/{n} is not the commit of experiment {n}"
