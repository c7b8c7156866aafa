"""The agents of a night, compared at equal numbers of ideas, with error bars.

All work in one night, on the same champions and in turns, so that one is the control group of the
other. What is compared is the rate of hits per idea: a hit is found by an idea's first runs alone,
whatever it was tried together with. Intervals: Wilson, "Probable inference", 1927; of a difference
Newcombe's tenth method, 1998; of means Student's t.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ratchet.experiments.campaign import MOST_TEXT, Campaign, compare_so_far, tried_ideas
from ratchet.experiments.goals import Goal
from ratchet.experiments.ledger import Experiment
from ratchet.experiments.rule.failures import FAILURES
from ratchet.experiments.rule.statistics import moments, student_quantile
from ratchet.night.journal import agents_of
from ratchet.night.service import SERVICE
from ratchet.night.team.authors import count_calls, short_name

LEVEL = 0.05  # how often an interval may miss; that of all differences together


class Record(NamedTuple):
    """What came of the ideas of one agent."""

    name: str
    ideas: list[Experiment]  # with a verdict, in order
    gains: list[float | None]  # of their first runs, in sigma over the bar; None without a score
    own_trials: list[float]  # fresh gains of trials that kept ideas of this agent alone
    shared: int  # trials that kept ideas of this one with those of others
    answers: list[dict]  # of the journal

    @property
    def hits(self) -> int:
        """How many of its ideas asked for a trial, whatever that ended as."""
        return sum(any(row["verdict"] == "hit" for row in e.decisions) for e in self.ideas)


def compare_agents(campaign: Campaign, events: list[dict]) -> tuple[list[list[str]], str]:
    """(rows of a table, sentences) on the agents of a night that has several; events: its journal.

    ([], "") on another night.
    """
    names = agents_of(events[0]) if events else []
    if len(names) < 2 or not campaign.goes_by_points:
        return [], ""
    records = [read_record(name, campaign, events) for name in names]
    count = min(len(record.ideas) for record in records)
    return table_of_agents(records, count, campaign.goal), describe_differences(records, count)


def read_record(name: str, campaign: Campaign, events: list[dict]) -> Record:
    """What one of the agents of a night did."""
    done = {event["n"] for event in events if event["kind"] == "done" and "n" in event}
    ideas = {e.n: e for e in tried_ideas(campaign) if e.n in done}
    own = [e for e in ideas.values() if e.by == name[:MOST_TEXT]]
    numbers = {e.n for e in own}
    trials = [e for e in campaign.kept if numbers & {*e.members}]
    alone = [compare_so_far(e, campaign) for e in trials if numbers >= {*e.members}]
    first_gains = [campaign.search.pursuits[e.n].gains[:1] for e in own]
    return Record(
        name,
        own,
        [gains[0] if gains else None for gains in first_gains],
        [comparison.gain for comparison in alone if comparison],
        len(trials) - len(alone),
        [event for event in events if event["kind"] == "answer" and event.get("by") == name],
    )


# --------------------------------------------------------------------------------------------------
# In words


def table_of_agents(records: list[Record], count: int, goal: Goal) -> list[list[str]]:
    """Rows of cells, the first with their names: `count` ideas of each, then the whole night."""
    first = [record._replace(ideas=record.ideas[:count]) for record in records]
    rows = [["", *(short_name(record.name) for record in records)]]
    if count:
        title = f"of its first {count} ideas" if count > 1 else "of its first idea"
        rows += [
            [f"{title}: hits per idea (95 %)", *map(describe_hits, first)],
            ["mean gain of first runs, sigma (95 %)", *map(describe_first_gains, first)],
            ["kept", *(str(count_verdicts(record, "keep")) for record in first)],
            ["failed", *(str(count_verdicts(record, *FAILURES)) for record in first)],
        ]
    unit = "bpb" if goal.is_val_bpb else goal.name
    fresh_gains = (describe_fresh_gains(record, goal) for record in records)
    return rows + [
        ["of the whole night: ideas with a verdict", *(str(len(each.ideas)) for each in records)],
        [f"fresh gain of its own trials, {unit}, no claim", *fresh_gains],
        ["calls", *map(describe_calls, records)],
        ["cost", *map(describe_cost, records)],
    ]


def describe_hits(record: Record) -> str:
    """Example: "3: 0.25 (0.09 to 0.53)"."""
    count = len(record.ideas)
    low, high = wilson_interval(record.hits, count)
    return f"{record.hits}: {record.hits / count:.2f} ({low:.2f} to {high:.2f})"


def describe_first_gains(record: Record) -> str:
    """Example: "-0.42 ± 1.31, 2 without a score"."""
    gains = [
        gain
        for gain in record.gains[: len(record.ideas)]
        if gain is not None and math.isfinite(gain)
    ]
    if not gains:
        return "no score"
    mean, half = mean_interval(gains)
    words = f"{mean:+.2f}" + (f" ± {half:.2f}" if math.isfinite(half) else "")
    missing = len(record.ideas) - len(gains)
    return f"{words}, {missing} without a score" if missing else words


def count_verdicts(record: Record, *verdicts: str) -> int:
    return sum(e.verdict in verdicts for e in record.ideas)


def describe_fresh_gains(record: Record, goal: Goal) -> str:
    """Example: "+0.0123 in 1"; trials whose ideas were of several agents are credited to none."""
    words = []
    if record.own_trials:
        words.append(f"{goal.describe_ratio(sum(record.own_trials))} in {len(record.own_trials)}")
    if record.shared:
        words.append(f"{record.shared} shared with others")
    return ", ".join(words) or "none"


def describe_calls(record: Record) -> str:
    """Example: "16, 2 without an idea; 3 without service", which don't count as calls."""
    away = sum(event["outcome"] == SERVICE for event in record.answers)
    calls = count_calls(record.answers)
    ideas = sum(event["outcome"] == "idea" for event in record.answers)
    words = f"{calls}" + (f", {calls - ideas} without an idea" if calls > ideas else "")
    return f"{words}; {away} without service" if away else words


def describe_cost(record: Record) -> str:
    """Example: "1.23 dollars, 45,000 tokens"."""
    dollars, tokens = (sum(each[key] for each in record.answers) for key in ("cost", "tokens"))
    words = [f"{dollars:.2f} dollars"] * bool(dollars) + [f"{tokens:,} tokens"] * bool(tokens)
    return ", ".join(words) or "not told"


def describe_differences(records: list[Record], count: int) -> str:
    """Whether the others' rates of hits differ from the first one's by more than luck."""
    if not count:
        return "They can be compared when each has had an idea with a verdict."
    first, *others = records
    level = LEVEL / len(others)
    return " ".join(describe_difference(each, first, count, level) for each in others)


def describe_difference(record: Record, other: Record, count: int, level: float) -> str:
    """Two agents in a sentence, at equal numbers of ideas."""
    hits, others = (each._replace(ideas=each.ideas[:count]).hits for each in (record, other))
    difference = compare_rates(hits, others, count, level)
    names = f"{short_name(record.name)} minus {short_name(other.name)}"
    interval = f"{difference.value:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"
    end = "more than luck explains" if difference.is_settled else "that may be luck"
    return f"Hits per idea, {names}, {interval}: {end}."


# --------------------------------------------------------------------------------------------------
# Intervals


class Difference(NamedTuple):
    """Of two rates, with its interval."""

    value: float
    low: float
    high: float

    @property
    def is_settled(self) -> bool:
        """Whether it is more than luck explains."""
        return self.low > 0 or self.high < 0


def wilson_interval(hits: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """Of a rate, as (3, 12) -> (0.089, 0.532)."""
    from scipy.special import ndtri  # takes half a second: only what needs it imports it

    z = -float(ndtri(level / 2))
    rate, weight = hits / count, z * z / count
    middle = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(rate * (1 - rate) / count + weight / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def compare_rates(hits: int, others: int, count: int, level: float = LEVEL) -> Difference:
    """Of equally many ideas each, as (3, 1, 12) -> Difference(0.167, -0.147, 0.451)."""
    rate, other = hits / count, others / count
    low, high = wilson_interval(hits, count, level)
    other_low, other_high = wilson_interval(others, count, level)
    below, above = (
        math.hypot(rate - low, other_high - other),
        math.hypot(high - rate, other - other_low),
    )
    return Difference(rate - other, rate - other - below, rate - other + above)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of its 95 % interval) by the values' own spread; infinite for a single one."""
    mean, squares = moments(values)
    df = len(values) - 1
    if not df:
        return mean, math.inf
    return mean, student_quantile(df, 1 - LEVEL / 2) * math.sqrt(squares / df / len(values))
