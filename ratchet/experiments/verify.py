"""Verification: do the ledger, the commits, the verdicts agree?"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from operator import itemgetter

from ratchet import commits
from ratchet.arena.files import sha256
from ratchet.experiments import seal
from ratchet.experiments.campaign import Campaign, list_campaigns
from ratchet.experiments.ledger import (
    BASELINE,
    CANDIDATE,
    CHAMPION,
    Experiment,
    Ledger,
    Row,
    score_of,
)
from ratchet.experiments.rule import former
from ratchet.experiments.rule.search import Search
from ratchet.experiments.verdicts import Verdict
from ratchet.referee.measures import why_overlimit


def find_problems(ledger: Ledger) -> list[str]:
    """A sentence for each source, verdict or ref that is wrong; the chain is checked by reading.

    Raises Broken.
    """
    refs = numbered_refs()  # before the lines: while a night runs, a line comes before its ref
    experiments = ledger.experiments()
    problems = [*filter(None, [ledger.cut_off_line()]), *wrong_sources(experiments.values())]
    wrong = [(e.n, sentence) for e in experiments.values() for sentence in wrong_runs(e)]
    for campaign in list_campaigns(experiments.values()):
        wrong += wrong_decisions(campaign)
    problems += [f"experiment {n}: {sentence}" for n, sentence in sorted(wrong, key=itemgetter(0))]
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
    ends = [row["line"] for row in e.decisions if row["verdict"] != "out"]  # what is out may go on
    for run in e.runs:
        if run["file"] != e.arms[run["arm"]]["file"]:
            yield f"a {run['phase']} run had another train.py than its arm"
        if run["status"] == "ok" and (reason := why_overlimit(run, e.limits)):
            yield f"a {run['phase']} run counts, but {reason}"
        if run["status"] == "ok" and not math.isfinite(score_of(run, e.goal)):
            yield f"a {run['phase']} run counts, but its {e.goal.name} was not measured"
        if any(run["line"] > line for line in ends):
            yield f"a {run['phase']} run came after the verdict"


def wrong_decisions(campaign: Campaign) -> Iterator[tuple[int, str]]:
    """(n, what is wrong) of tries and trials whose arms or verdicts don't follow from the lines."""
    tries = [e for e in campaign.since if e.role in ("try", "trial")]
    for e in tries:
        if e.arms[CHAMPION]["commit"] != e.parent:
            yield e.n, "its second arm is not the champion"
    if campaign.goes_by_points:
        yield from wrong_by_points(campaign)
        return
    for e in tries:
        if e.closes:
            step = former.next_step(e, campaign)
            for sentence in compare_verdicts(e.verdict, verdict_of(step)):
                yield e.n, sentence


def wrong_by_points(campaign: Campaign) -> Iterator[tuple[int, str]]:
    """(n, what is wrong) of a campaign's first line that doesn't follow from those before it.

    What comes after that line follows from what is wrong.
    """
    experiments = {e.n: e for e in campaign.since}
    search = Search(experiments)
    for row in campaign.rows:
        e = experiments[row["n"]]
        if problems := [*wrong_line(e, row, search)]:
            yield from ((e.n, sentence) for sentence in problems)
            return
        search.add(row)


def wrong_line(e: Experiment, row: Row, search: Search) -> Iterator[str]:
    """What is wrong with a line of an experiment; search: what was known before."""
    if e.role in ("try", "trial"):
        if e.arms[CHAMPION]["source"] not in search.bars:
            yield "its second arm was no champion"
        elif row["kind"] == "opens":
            yield from wrong_members(e, search)
        elif row["kind"] == "closes":
            yield from wrong_decision(e, row, search)
    elif row["kind"] == "closes":
        makes_champion = row["verdict"] in ("keep", "baseline") and e.role != "calibrate"
        if makes_champion or row.get("decides"):
            yield f"its role is {e.role}, which decides on no idea"


def wrong_members(e: Experiment, search: Search) -> Iterator[str]:
    """What is wrong with the ideas that a trial begins with; search: what was known then."""
    if e.role != "trial":
        return
    if e.arms[CHAMPION]["source"] != search.champion:
        yield "it is held against a source that was not the champion any more"
    for n in (*e.members, *e.alone):
        if n not in search.pursuits or search.pursuits[n].verdict != "hit":
            yield f"experiment {n} is in it, which was no hit"
        elif search.experiments[n].profile != e.profile:
            yield f"experiment {n} is in it, which has another profile"
    ties = [search.experiments[n].may_tie for n in e.members if n in search.pursuits]
    if search.slack and [arm["source"] for arm in e.arms[BASELINE:]] != [search.slack.source]:
        yield "its third arm is not the baseline"
    if e.as_good and ties != [True]:
        yield "it keeps what is as good, though that was not asked for"


def wrong_decision(e: Experiment, row: Row, search: Search) -> Iterator[str]:
    """Whether a verdict is what the lines before it demand."""
    before = search.pursuits[e.n].verdict
    if row.get("collides") and (before, row["verdict"]) == ("hit", "withdrawn"):
        return  # it is the sources that decide
    if before not in ("", "out"):
        yield f"the verdict is {row['verdict']}, it had one: {before}"
    verdict = verdict_of(search.next_step(e.n))
    yield from compare_verdicts(row["verdict"], verdict)
    decides = search.decided_members(e.n, verdict)
    if row.get("decides", []) != decides:
        yield f"it decides on {row.get('decides')}, its runs say on {decides}"


def verdict_of(step: tuple[int, str] | Verdict) -> str:
    """The verdict that a next step is, "" for a run."""
    return step.verdict if isinstance(step, Verdict) else ""


def compare_verdicts(verdict: str, demanded: str) -> Iterator[str]:
    """What is wrong when a verdict isn't the one that is demanded, "" if none could be yet."""
    if demanded != verdict:
        words = demanded or "that there can't be one yet"
        yield f"the verdict is {verdict}, its runs say {words}"


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
