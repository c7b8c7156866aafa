"""Verify: do the ledger, the commits and the verdicts agree?"""

from ratchet import sources
from ratchet.campaign import Campaign
from ratchet.experiments import next_step
from ratchet.ledger import Experiment
from ratchet.sources import Refused
from ratchet.verdicts import Verdict


def find_problems(ledger):
    """Problems of the ledger: sources, verdicts, refs; the chain is checked by reading. [] is a clean one."""
    problems, found = [], {}
    for row in ledger.rows():
        n, kind = row["n"], row["kind"]
        if kind == "opens":
            found[n] = Experiment(row)
            problems += [f"experiment {n}: {what}" for what in lost_sources(row["arms"])]
            if row["role"] == "try" and row["arms"][1]["commit"] != row["parent"]:
                problems.append(f"experiment {n}: its second arm is not the champion")
        elif kind == "run":
            found[n].runs.append(row)
            if row["file"] != found[n].arms[row["arm"]]["file"]:
                problems.append(f"experiment {n}: a {row['phase']} run had another train.py than its arm")
        else:
            problems += wrong_verdict(row, found[n], Campaign([*found.values()], found[n].key))
            found[n].closes = row
    return problems + [*wrong_refs(found)]


def wrong_verdict(row, e, campaign):
    """What the runs of a try say where its verdict says otherwise."""
    if e.role == "try":
        step = next_step(e, campaign) if campaign.baseline else None
        says = step.verdict if isinstance(step, Verdict) else "that there can't be one yet"
        if says != row["verdict"]:
            yield f"experiment {e.n}: the verdict is {row['verdict']}, its runs say {says}"


def lost_sources(arms):
    """Arms whose train.py git doesn't have any more as it ran."""
    for arm in arms:
        if arm["commit"]:
            try:
                if sources.sha256(sources.git("show", f"{arm['commit']}:train.py")) != arm["file"]:
                    yield f"train.py of commit {arm['commit'][:7]} is not what ran"
            except Refused:
                yield f"commit {arm['commit'][:7]} is gone"


def wrong_refs(found):
    """refs/ratchet/<n> that differ from the ledger."""
    lines = sources.git_lines("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/ratchet")
    refs = dict(line.split() for line in lines)
    for n, commit in (
        (int(name.split("/")[-1]), commit) for name, commit in refs.items() if name[-1].isdigit()
    ):
        if n not in found:
            yield f"refs/ratchet/{n} has no line in the ledger: its end was cut off"
        elif found[n].arms[0]["commit"] != commit:
            yield f"refs/ratchet/{n} is not the commit of experiment {n}"
