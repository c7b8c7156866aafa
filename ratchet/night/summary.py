"""The morning's summary: what a night kept, what it cost, what is worth trying next."""

import re
from collections import Counter
from pathlib import Path

from ratchet.arena.files import replace_file
from ratchet.experiments.campaign import (
    Campaign,
    compare_so_far,
    device_seconds,
    tried_ideas,
)
from ratchet.experiments.comparisons import compare_with_first
from ratchet.experiments.ledger import CHAMPION, Experiment
from ratchet.experiments.rule.statistics import Comparison, compare
from ratchet.experiments.session import Session
from ratchet.night.digest import find_near_misses, format_gain, summarize_predictions
from ratchet.night.journal import Journal
from ratchet.untrusted_text import WORDS, quote_text


def save_summary(home: Path, text: str) -> None:
    """Write the summary to runs/morning.md. Raises Full when there is no room."""
    replace_file(home / "runs/morning.md", text)


def summarize_night(session: Session) -> str:
    """The summary of the last night, as Markdown, one paragraph first."""
    campaign, events = session.read_campaign(), Journal(session.home).last_night()
    numbers = {event["n"] for event in events if event["kind"] == "done" and "n" in event}
    tried = [e for e in tried_ideas(campaign) if e.n in numbers]
    kept = [e for e in tried if e.verdict == "keep"]
    parts = [
        summarize_verdicts(campaign, events, tried, kept),
        *table_of_kept(campaign, kept),
        *summarize_audit(campaign),
        summarize_cost(events, device_seconds(campaign.all, events[0])),
    ]
    parts += [f"Warning: {escape_words(text, 400)}." for text in events[-1].get("lost", [])]
    if campaign.noise_warning:
        parts.append(f"Warning: {campaign.noise_warning}.")
    if near := [(gain, e) for gain, e in find_near_misses(campaign) if e.n in numbers]:
        rows = [f"- {e.n} {e.verdict} {format_gain(g)}: {escape_words(e.idea)}" for g, e in near]
        parts.append("Worth another look, most promising last:\n\n" + "\n".join(rows))
    if predictions := summarize_predictions(campaign):
        parts.append(f"What the agent expected: {predictions}.")
    return "\n\n".join(parts) + "\n"


def escape_words(text: str, most: int = WORDS) -> str:
    """Somebody's words, quoted, without what Markdown obeys."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~!])", r"\\\1", quote_text(text, most))


def count_of(count: float, noun: str) -> str:
    """Example: "1 call", "2 calls"."""
    return f"{count:g} {noun}{'' if count == 1 else 's'}"


def summarize_verdicts(
    campaign: Campaign, events: list[dict], tried: list[Experiment], kept: list[Experiment]
) -> str:
    """The night in one paragraph."""
    counts = sorted(Counter(e.verdict for e in tried).items())
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts) or "none"
    text = (
        f"{count_of(len(tried), 'experiment')} by {escape_words(events[0]['agent'])}: {verdicts}."
    )
    reason = events[-1].get("why", "") if events[-1]["kind"] == "ends" else ""
    text += f" It ended because {reason}." if reason else " It has not ended."
    if not kept:
        return text + " Nothing was kept."
    total, sigma = total_gain(campaign, kept), campaign.noise().sigma
    text += f" All that was kept gains {format_gain(total)} bpb together (95 %)"
    text += f", {total.gain / sigma:.1f} sigma." if sigma else "."
    return text + (
        " Such figures flatter, as the same runs chose what to keep:"
        " `ratchet audit` measures again with fresh seeds, on the test text too."
    )


def total_gain(campaign: Campaign, kept: list[Experiment]) -> Comparison:
    """The last champion against the one that the night began with, from the runs of both."""
    first = kept[0]
    recent = campaign.recent_scores(first.arms[CHAMPION]["source"], first)
    before = first.scores(CHAMPION, "champion") + recent
    before = before or first.scores(CHAMPION, "reference")
    return compare(kept[-1].deciding_scores(), before, campaign.noise())


def table_of_kept(campaign: Campaign, kept: list[Experiment]) -> list[str]:
    if not kept:
        return []
    lines = ["| experiment | gain in bpb (95 %) | idea |", "|---|---|---|"]
    for e in kept:
        gain = format_gain(compare_so_far(e, campaign))
        lines.append(f"| {e.n} | {gain} | {escape_words(e.idea)} |")
    return ["\n".join(lines)]


def summarize_audit(campaign: Campaign) -> list[str]:
    """What the last audit of these champions says."""
    audits = [e for e in campaign.all if e.role == "audit" and e.closes]
    if not audits or audits[-1].n < campaign.kept[-1].n:
        return []
    audit = audits[-1]
    lines = [f"Audit (experiment {audit.n}), gain on the baseline:"]
    for split in ("val", "test"):
        gains = [
            f"{arm['name']} {format_gain(gain)}"
            for arm, (_, gain) in zip(audit.arms, compare_with_first(audit, split))
            if gain
        ]
        lines.append(f"- {split}: {', '.join(gains) or 'the baseline is the only champion'}")
    return ["\n".join(lines)]


def summarize_cost(events: list[dict], device: float) -> str:
    """Calls, dollars, seconds of the device; how long it waited."""
    answers = [event for event in events if event["kind"] == "answer"]
    text = f"Cost: {count_of(len(answers), 'call')} of the agent"
    if dollars := sum(event["cost"] for event in answers):
        text += f", {dollars:.2f} dollars"
    if tokens := sum(event["tokens"] for event in answers):
        text += f", {tokens:,} tokens"
    text += f"; {device / 3600:.2f} hours of the device"
    ends = [event for event in events if event["kind"] in ("ends", "pauses")]
    idle, busy = (sum(event[key] for event in ends) for key in ("idle", "busy"))
    if busy:
        text += f", which waited for ideas {idle / (idle + busy):.1%} of the time"
    failures = Counter(event["outcome"] for event in answers if event["outcome"] != "idea")
    if not failures:
        return text + "."
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(failures.items()))
    return f"{text}. {count_of(failures.total(), 'call')} gave no idea to try ({counts})."
