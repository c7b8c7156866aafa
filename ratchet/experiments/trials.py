"""Trials: hits are merged into one source, which fresh runs hold against the champion."""

import tempfile
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

from ratchet import commits
from ratchet.arena.files import Refused
from ratchet.experiments import sources, verbs
from ratchet.experiments.campaign import Campaign
from ratchet.experiments.ledger import CANDIDATE, Experiment
from ratchet.experiments.running import working_on
from ratchet.experiments.session import Session
from ratchet.experiments.verdicts import STRICT, Profile, Verdict
from ratchet.referee.limits import SOURCE_BYTES
from ratchet.referee.source import Source


class Merge(NamedTuple):
    """Hits as one source, on the champion."""

    source: Source
    members: list[int]  # those that are in it
    alone: list[int]  # those that collide with these


def try_hits(
    session: Session,
    profile: Profile,
    is_last: bool = False,
    on_verdict: Callable[[Experiment], Any] = lambda e: None,
    may_begin: Callable[[], bool] = lambda: True,
) -> None:
    """Hold trials as long as hits ask for one. One that was interrupted goes on first.

    is_last: no more hits will come, so those that wait are tried, however few they are.
    on_verdict(idea): has it as soon as it has its verdict. may_begin(): whether another trial may.
    Raises Refused.
    """
    while True:
        session.check_seal()
        campaign = session.read_campaign()
        trial = open_trial(campaign)
        if not trial:
            members = campaign.search.choose_members(profile, is_last)
            if not members or not may_begin():
                return
            n = begin_trial(session, campaign, members, profile)
            if n is None:  # what collides has its verdict
                on_verdict(session.experiment(members[0]))
                continue
            trial = session.experiment(n)
        with working_on(session.home, trial.n):
            trial = verbs.run_to_verdict(session, trial.n, sources.sources_of(trial))
        for n in trial.closes["decides"]:
            on_verdict(session.settle(session.experiment(n)))


def decide_idea(session: Session, idea: str, **options: Any) -> Experiment:
    """Try an idea and, if it is a hit, hold its trial; options: as of verbs.try_idea.

    Returns it with its verdict. Raises Refused.
    """
    e = verbs.try_idea(session, idea, profile=STRICT, may_tie=True, **options)
    if e.verdict == "hit":
        try_hits(session, Profile(**e.profile), is_last=True)  # it may be one that a night has left
    return session.experiment(e.n)


def open_trial(campaign: Campaign) -> Experiment | None:
    """The trial that was interrupted, if there is one."""
    trials = [e for e in campaign.since if e.role == "trial" and not e.closes]
    return trials[0] if trials else None


def begin_trial(
    session: Session, campaign: Campaign, members: Sequence[int], profile: Profile
) -> int | None:
    """Open the trial of some hits; returns its number, None for a hit that can't be merged."""
    ideas = [session.experiment(n) for n in members]
    merge = merge_ideas(campaign.champion["commit"], ideas)
    if isinstance(merge, str):
        session.close_experiment(members[0], Verdict("withdrawn", merge), collides=True)
        return None
    chosen = [session.experiment(n) for n in merge.members]
    champion = sources.read_source(campaign.champion["commit"])._replace(name="champion")
    arms = [merge.source, champion]
    if not campaign.goal.is_val_bpb:
        baseline = campaign.kept[0].arms[CANDIDATE]["commit"]
        arms.append(sources.read_source(baseline)._replace(name="baseline"))
    n = session.open_experiment(
        "trial",
        arms,
        parent=champion.commit,
        members=merge.members,
        alone=merge.alone,
        profile=profile._asdict(),
        as_good=len(chosen) == 1 and chosen[0].may_tie,
        baseline=campaign.kept[0].n,
        idea="; ".join(e.idea for e in chosen),
        by=chosen[0].by,
    )
    session.tell(f"experiment {n} is the trial of {name_members(merge.members)}")
    return n


def name_members(members: Sequence[int]) -> str:
    """Example: "experiment 3", "experiments 3, 5 and 8"."""
    *first, last = map(str, members)
    return f"experiments {', '.join(first)} and {last}" if first else f"experiment {last}"


def merge_ideas(champion: str, ideas: Sequence[Experiment]) -> Merge | str:
    """Ideas as one source on a champion's commit; a sentence where not even the first one can be.

    The commit has the champion and those of all ideas in it as its parents.
    """
    base = text = sources.read_source(champion).text
    members, alone, parents = [], [], [champion]
    for e in ideas:
        commit = e.arms[CANDIDATE]["commit"]
        edit, edited = (sources.read_source(name).text for name in (commit, e.parent))
        merged = merge_edit(edit, edited, text)
        if merged is None or merged == text:
            alone.append(e.n)
        else:
            text = merged
            members.append(e.n)
            parents.append(commit)
    if text == base:
        return "its edit collides with the champion's, or is in it already: make it anew"
    if len(members) == 1 and text == sources.read_source(parents[1]).text:
        source = sources.read_source(parents[1])  # it was made on this champion
        return Merge(source._replace(name=name_members(members)), members, alone)
    subject = f"Merge {name_members(members)}"
    merged_commit = commits.commit_text(parents, text, subject)
    return Merge(Source(subject.lower(), merged_commit, text), members, alone)


def merge_edit(edit: bytes, base: bytes, text: bytes) -> bytes | None:
    """A text with what an edit changed in its base; None where both changed the same lines.

    Or where it gets longer than a source may be.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("edit", "base", "text")]
        for path, data in zip(paths, (edit, base, text)):
            path.write_bytes(data)
        merged: bytes | None
        try:
            merged = commits.git("merge-file", "-p", *map(str, paths))
        except Refused:
            merged = merge_lines(edit, base, text)
    return merged if merged is not None and len(merged) <= SOURCE_BYTES else None


def merge_lines(edit: bytes, base: bytes, text: bytes) -> bytes | None:
    """The same for edits of neighbouring lines, which git takes for a collision: two constants."""
    lines = base.splitlines(keepends=True)
    ours, theirs = (list_hunks(lines, other.splitlines(keepends=True)) for other in (edit, text))
    if any(a.touches(b) for a in ours - theirs for b in theirs - ours):
        return None
    for hunk in sorted(ours | theirs, reverse=True):
        lines[hunk.begin : hunk.end] = hunk.lines
    return b"".join(lines)


class Hunk(NamedTuple):
    """Lines in place of those from `begin` to before `end` of a text."""

    begin: int
    end: int
    lines: tuple[bytes, ...]

    def touches(self, other: "Hunk") -> bool:
        """Whether they are about the same lines; neighbours are, unless each is one for one."""
        apart = all(hunk.end - hunk.begin == len(hunk.lines) == 1 for hunk in (self, other))
        return self.begin <= other.end - apart and other.begin <= self.end - apart


def list_hunks(old: list[bytes], new: list[bytes]) -> set[Hunk]:
    """What changed; a line that became one other line is a hunk of its own."""
    hunks = set()
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "replace" and b - a == d - c:
            hunks |= {Hunk(a + i, a + i + 1, (new[c + i],)) for i in range(b - a)}
        elif kind != "equal":
            hunks.add(Hunk(a, b, tuple(new[c:d])))
    return hunks
