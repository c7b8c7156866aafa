"""The morning's summary: what a night kept, what it cost, what is worth trying next."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ratchet.arena.files import replace_file
from ratchet.arena.progress import format_duration
from ratchet.claims import describe_claim, describe_gain, describe_null_keeps, list_numbers
from ratchet.experiments.campaign import Campaign, tried_ideas
from ratchet.experiments.comparisons import list_claims
from ratchet.experiments.ledger import Experiment
from ratchet.experiments.session import Session
from ratchet.night.digest import find_near_misses, summarize_predictions
from ratchet.night.journal import Journal, agents_of
from ratchet.night.service import SERVICE, describe_failure, last_failure
from ratchet.night.status import seconds_of_night
from ratchet.night.team.authors import count_calls
from ratchet.night.team.comparison import compare_agents
from ratchet.untrusted_text import WORDS, quote_text


def save_summary(home: Path, text: str) -> None:
    """Write the summary to runs/morning.md. Raises Full when there is no room."""
    replace_file(home / "runs/morning.md", text)


def summarize_night(session: Session) -> str:
    """The summary of the last night, as Markdown, one paragraph first."""
    campaign, events = session.read_campaign(), Journal(session.home).last_night()
    numbers = {event["n"] for event in events if event["kind"] == "done" and "n" in event}
    tried = [e for e in tried_ideas(campaign) if e.n in numbers]
    kept = [e for e in campaign.kept[1:] if e.closes["time"] >= events[0]["time"]]
    parts = [
        summarize_verdicts(events, tried, kept),
        *summarize_claim(campaign, events[0]["time"]),
        *table_of_kept(campaign, kept),
        *describe_agents(campaign, events),
        *describe_drops(Journal(session.home)),
        summarize_cost(events, seconds_of_night(campaign.all, events)),
        *summarize_failures(events),
    ]
    parts += [f"Warning: {escape_words(text, 400)}." for text in events[-1].get("lost", [])]
    if campaign.noise_warning:
        parts.append(f"Warning: {campaign.noise_warning}.")
    if near := [e for e in find_near_misses(campaign) if e.n in numbers]:
        rows = [
            f"- {e.n} {e.verdict} {describe_gain(e, campaign)}: {escape_words(e.idea)}"
            for e in near
        ]
        parts.append("Worth another look, most promising last:\n\n" + "\n".join(rows))
    names = agents_of(events[0])
    for name in names:
        who = escape_words(name, 60) if len(names) > 1 else "the agent"
        if predictions := summarize_predictions(campaign, name if len(names) > 1 else None):
            parts.append(f"What {who} expected: {predictions}.")
    return "\n\n".join(parts) + "\n"


def escape_words(text: str, most: int = WORDS) -> str:
    """Somebody's words, quoted, without what Markdown obeys."""
    return escape_markdown(quote_text(text, most))


def escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>()#|~!])", r"\\\1", text)


def count_of(count: float, noun: str) -> str:
    """Example: "1 call", "2 calls"."""
    return f"{count:g} {noun}{'' if count == 1 else 's'}"


def summarize_verdicts(events: list[dict], tried: list[Experiment], kept: list[Experiment]) -> str:
    """The night in one paragraph."""
    counts = sorted(Counter(e.verdict for e in tried).items())
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts) or "none"
    text = (
        f"{count_of(len(tried), 'experiment')} by {escape_words(events[0]['agent'])}: {verdicts}."
    )
    reason = events[-1].get("why", "") if events[-1]["kind"] == "ends" else ""
    text += f" It ended because {escape_markdown(reason)}." if reason else " It has not ended."
    if waiting := [e.n for e in tried if e.verdict == "hit"]:
        text += f" Waiting for a trial: experiment {list_numbers(waiting)}."
    return text if kept else text + " Nothing was kept."


def summarize_failures(events: list[dict]) -> list[str]:
    """What the agent failed by last; how long the night waited for its service."""
    answers = [event for event in events if event["kind"] == "answer"]
    sentences = []
    if waited := sum(event.get("waited", 0) for event in events):
        times = sum(event["kind"] == "waits" for event in events)
        words = f"for {format_duration(waited)}, {count_of(times, 'time')}"
        sentences.append(f"It waited for the agent's service {words}.")
    if failure := last_failure(answers):
        words, call = escape_markdown(describe_failure(failure)), f"call {failure['call']}"
        if len(agents_of(events[0])) > 1:
            call += f" of {escape_words(failure['by'], 60)}"
        sentences.append(f"The agent's last failure was {call}, {words}.")
    return [" ".join(sentences)] if sentences else []


def summarize_claim(campaign: Campaign, began: str) -> list[str]:
    """What the champion gains, as far as it was measured afresh; how many keeps were luck.

    began: the night, as a time of the ledger; what is older is not its own.
    """
    claims = list_claims(campaign)
    if claims and claims[-1].time < began:
        return [f"No gain of this night to claim. Before it: {describe_claim(campaign)}."]
    sentences = filter(None, (describe_claim(campaign), describe_null_keeps(campaign)))
    text = " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)
    return [text] if text else []


def table_of_kept(campaign: Campaign, kept: list[Experiment]) -> list[str]:
    """The night's steps: the ideas that were kept together, and their gain over the bar of then."""
    if not kept:
        return []
    name = "gain in bpb" if campaign.goal.is_val_bpb else f"ratio of {campaign.goal.name}"
    lines = [f"| step | ideas | its {name} (95 %), no claim |", "|---|---|---|"]
    ideas = {e.n: e for e in campaign.since}
    for e in kept:
        members = [ideas[n] for n in e.members] or [e]
        words = "; ".join(f"{member.n} {escape_words(member.idea)}" for member in members)
        lines.append(f"| {e.n} | {words} | {describe_gain(e, campaign)} |")
    return ["\n".join(lines)]


def describe_agents(campaign: Campaign, events: list[dict]) -> list[str]:
    """How several agents compare: a table and sentences; [] on another night."""
    rows, sentences = compare_agents(campaign, events)
    if not rows:
        return []
    head, *lines = (f"| {' | '.join(map(escape_markdown, row))} |" for row in rows)
    return ["\n".join([head, "|---" * len(rows[0]) + "|", *lines]), escape_markdown(sentences)]


def describe_drops(journal: Journal) -> list[str]:
    """Which of several agents were asked no more, and why."""
    sentences = [
        f"{escape_words(name, 60)} dropped out: {escape_markdown(reason)}."
        for name, reason in journal.list_drops().items()
    ]
    return [" ".join(sentences)] if sentences else []


def describe_last_agents(home: Path, campaigns: Mapping[int, Campaign]) -> list[str]:
    """describe_agents() of the last night; campaigns: {n: that of experiment n}."""
    if not (home / "runs/night.jsonl").exists():
        return []
    events = Journal(home).last_night()
    campaign = campaigns.get(events[0]["baseline"]) if events else None
    return describe_agents(campaign, events) if campaign else []


def summarize_cost(events: list[dict], device: float) -> str:
    """Calls, dollars, seconds of the device; how long it waited."""
    answers = [event for event in events if event["kind"] == "answer"]
    failures = Counter(event["outcome"] for event in answers if event["outcome"] != "idea")
    text = f"Cost: {count_of(count_calls(answers), 'call')} of the agent"
    if away := failures.pop(SERVICE, 0):
        text += f", {away} more without service"
    if dollars := sum(event["cost"] for event in answers):
        text += f", {dollars:.2f} dollars"
    if tokens := sum(event["tokens"] for event in answers):
        text += f", {tokens:,} tokens"
    text += f"; {device / 3600:.2f} hours of the device"
    ends = [event for event in events if event["kind"] in ("ends", "pauses")]
    idle, busy = (sum(event[key] for event in ends) for key in ("idle", "busy"))
    if busy:
        text += f", which waited for ideas {idle / (idle + busy):.1%} of the time"
    if not failures:
        return text + "."
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(failures.items()))
    return f"{text}. {count_of(failures.total(), 'call')} gave no idea to try ({counts})."
