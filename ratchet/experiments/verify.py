"""Verification: do the ledger, the commits, the verdicts agree?"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from ratchet import commits
from ratchet.arena.files import sha256
from ratchet.experiments import seal
from ratchet.experiments.campaign import CANDIDATE, CHAMPION, Campaign, list_campaigns
from ratchet.experiments.ledger import Experiment, Ledger
from ratchet.experiments.protocol import next_step
from ratchet.experiments.verdicts import Verdict


def find_problems(ledger: Ledger) -> list[str]:
    """A sentence for each source, verdict or ref that is wrong; the chain is checked by reading.

    Raises Broken.
    """
    refs = numbered_refs()  # before the lines: while a night runs, a line comes before its ref
    experiments = ledger.experiments()
    campaign_of = {}
    for campaign in list_campaigns(experiments.values()):
        campaign_of |= {e.n: campaign for e in campaign.since}
    problems = [*filter(None, [ledger.cut_off_line()]), *wrong_sources(experiments.values())]
    for e in experiments.values():
        wrong = [*wrong_runs(e)]
        if e.role == "try":
            wrong += wrong_try(e, campaign_of.get(e.n))
        problems += [f"experiment {e.n}: {sentence}" for sentence in wrong]
    return problems + [*wrong_refs(refs, experiments)]


def describe_seal_change(ledger: Ledger) -> str:
    """Which sealed files have changed since the latest calibration, or ""."""
    baselines = [e for e in ledger.experiments().values() if e.verdict == "baseline"]
    if not baselines or baselines[-1].machinery == seal.hash_sealed_files():
        return ""
    return seal.describe_change(baselines[-1].sealed)


def count_probes(ledger: Ledger) -> dict[int, int]:
    """{version of the probes: number of runs that it scored}, older ones first. Raises Broken."""
    runs = (run for e in ledger.experiments().values() for run in e.runs if run.get("val"))
    versions = Counter(run["val"].get("probes_version") or 1 for run in runs)
    return dict(sorted(versions.items()))


def describe_probes(versions: Mapping[int, int]) -> str:
    """Example: "scored by probes of version 1: 40 runs, of version 2 (that of now): 12 runs"."""
    from ratchet.arena.probes import PROBES_VERSION  # needs NumPy, which other commands do without

    now = {PROBES_VERSION: " (that of now)"}
    parts = [f"of version {key}{now.get(key, '')}: {runs} runs" for key, runs in versions.items()]
    return f"scored by probes {', '.join(parts)}" if parts else ""


def wrong_runs(e: Experiment) -> Iterator[str]:
    """What is wrong with the lines of an experiment."""
    for run in e.runs:
        if run["file"] != e.arms[run["arm"]]["file"]:
            yield f"a {run['phase']} run had another train.py than its arm"
        if e.closes and run["line"] > e.closes["line"]:
            yield f"a {run['phase']} run came after the verdict"


def wrong_try(e: Experiment, campaign: Campaign | None) -> Iterator[str]:
    """What is wrong with the arms and the verdict of a try."""
    if e.arms[CHAMPION]["commit"] != e.parent:
        yield "its second arm is not the champion"
    if e.closes:
        step = next_step(e, campaign) if campaign else None
        demanded = step.verdict if isinstance(step, Verdict) else "that there can't be one yet"
        if demanded != e.verdict:
            yield f"the verdict is {e.verdict}, its runs say {demanded}"


def wrong_sources(experiments: Collection[Experiment]) -> Iterator[str]:
    """Arms whose train.py git doesn't have any more as it ran."""
    arms = [(e, arm) for e in experiments for arm in e.arms if arm["commit"]]
    texts = commits.read_texts({arm["commit"] for _, arm in arms})
    hashes = {commit: text and sha256(text) for commit, text in texts.items()}
    for e, arm in arms:
        if not hashes[arm["commit"]]:
            yield f"experiment {e.n}: commit {arm['commit'][:7]} is gone"
        elif hashes[arm["commit"]] != arm["file"]:
            yield f"experiment {e.n}: train.py of commit {arm['commit'][:7]} is not what ran"


def numbered_refs() -> dict[int, str]:
    """{n: commit} of refs/ratchet/<n>."""
    lines = commits.git_lines(
        "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/ratchet"
    )
    refs = dict(line.split() for line in lines)
    return {int(name.split("/")[-1]): commit for name, commit in refs.items() if name[-1].isdigit()}


def wrong_refs(refs: Mapping[int, str], experiments: Mapping[int, Experiment]) -> Iterator[str]:
    """refs/ratchet/<n> that differ from the ledger."""
    for n, commit in refs.items():
        if n not in experiments:
            yield f"refs/ratchet/{n} has no line in the ledger: its end was cut off"
        elif experiments[n].arms[CANDIDATE]["commit"] != commit:
            yield f"refs/ratchet/{n} is not the commit of experiment {n}"
