"""The morning: what a night kept, what it cost, what is worth trying next, as text."""

import re

from ratchet.experiments.campaign import CHAMPION, compare_so_far, device_seconds, tried_ideas
from ratchet.experiments.comparisons import compare_with_first
from ratchet.experiments.verdicts import compare
from ratchet.night.digest import expectation, near_misses, signed
from ratchet.untrusted_text import quote_text


def words(text, *most):
    """Somebody's words, quoted, without what Markdown obeys."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~!])", r"\\\1", quote_text(text, *most))


def told(count, word):
    return f"{count} {word}{'' if count == 1 else 's'}"


def summary(campaign, events):
    """Markdown; events: those of the night (night.py). One paragraph first."""
    numbers = {event["n"] for event in events if event["kind"] == "done" and "n" in event}
    found = [e for e in tried_ideas(campaign) if e.n in numbers]
    kept = [e for e in found if e.verdict == "keep"]
    parts = [
        opening(campaign, events, found, kept),
        *table(campaign, kept),
        *audited(campaign),
        cost(events, device_seconds(campaign.all, events[0])),
    ]
    parts += [f"Beware: {words(text, 400)}." for text in events[-1].get("lost", [])]
    if campaign.noise_warning:
        parts.append(f"Beware: {campaign.noise_warning}.")
    if near := [(gain, e) for gain, e in near_misses(campaign) if e.n in numbers]:
        lines = [f"- {e.n} {e.verdict} {signed(gain)}: {words(e.idea)}" for gain, e in near]
        parts.append("Worth another look, the best last:\n\n" + "\n".join(lines))
    if known := expectation(campaign):
        parts.append(f"What the agent expected: {known}.")
    return "\n\n".join(parts) + "\n"


def opening(campaign, events, found, kept):
    """The night in one paragraph."""
    ended = events[-1].get("why", "") if events[-1]["kind"] == "ends" else ""
    counts = {}
    for e in found:
        counts[e.verdict] = counts.get(e.verdict, 0) + 1
    verdicts = (
        ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) or "none"
    )
    text = f"{told(len(found), 'experiment')} by {words(events[0]['agent'])}: {verdicts}."
    text += f" It ended because {ended}." if ended else " It has not ended."
    if not kept:
        return text + " Nothing was kept."
    total, noise = whole_gain(campaign, kept), campaign.noise()
    text += f" What was kept makes {signed(total)} bpb together (95 %)"
    text += f", {total.gain / noise.sigma:.1f} sigma." if noise.sigma else "."
    return text + " The runs that kept it flatter it: `ratchet audit` measures afresh, on test too."


def whole_gain(campaign, kept):
    """The last champion against the one that the night began with, from the runs of both."""
    own = kept[-1].deciding_scores()
    before = kept[0].scores(CHAMPION, "champion") + campaign.recent_scores(
        kept[0].arms[CHAMPION]["source"], kept[0]
    )
    return compare(own, before or kept[0].scores(CHAMPION, "reference"), campaign.noise())


def table(campaign, kept):
    if not kept:
        return []
    lines = ["| experiment | gain in bpb (95 %) | idea |", "|---|---|---|"]
    return [
        "\n".join(
            lines
            + [f"| {e.n} | {signed(compare_so_far(e, campaign))} | {words(e.idea)} |" for e in kept]
        )
    ]


def audited(campaign):
    """What the last audit of these champions says."""
    audits = [
        e for e in campaign.all if e.role == "audit" and e.closes and e.n > campaign.kept[-1].n
    ]
    if not audits:
        return []
    lines = [f"Audit (experiment {audits[-1].n}), gain on the baseline:"]
    for split in ("val", "test"):
        names = [arm["name"] for arm in audits[-1].arms]
        gains = [
            f"{name} {signed(other)}"
            for name, (_, other) in zip(names, compare_with_first(audits[-1], split))
            if other
        ]
        lines.append(f"- {split}: {', '.join(gains) or 'the baseline is the only champion'}")
    return ["\n".join(lines)]


def cost(events, device):
    """Calls, dollars, seconds of the device and how long it waited."""
    answers = [event for event in events if event["kind"] == "answer"]
    text = f"Cost: {told(len(answers), 'call')} of the agent"
    if dollars := sum(event["cost"] for event in answers):
        text += f", {dollars:.2f} dollars"
    if tokens := sum(event["tokens"] for event in answers):
        text += f", {tokens:,} tokens"
    text += f"; {device / 3600:.2f} hours of the device"
    ends = [event for event in events if event["kind"] in ("ends", "pauses")]
    idle, busy = (sum(event[key] for event in ends) for key in ("idle", "busy"))
    if busy:
        text += f", which waited for ideas {idle / (idle + busy):.1%} of the time"
    failed = [event["outcome"] for event in answers if event["outcome"] != "idea"]
    counts = ", ".join(f"{failed.count(name)} {name}" for name in sorted({*failed}))
    return f"{text}. {told(len(failed), 'call')} without an idea{f' ({counts})' if counts else ''}."
