"""What may be said of gains: which are claims, which are fresh, which are of selected runs."""

import statistics
from collections.abc import Iterable, Mapping

from ratchet.experiments.campaign import Campaign, compare_so_far, is_selected
from ratchet.experiments.comparisons import (
    SPLITS,
    compare_claims,
    describe_failures,
    list_claims,
)
from ratchet.experiments.goals import VAL_BPB, Goal
from ratchet.experiments.ledger import Experiment, bpb, is_valid, score_of
from ratchet.experiments.rule.slack import describe_difference, format_difference, place_in_slack
from ratchet.experiments.rule.statistics import Comparison

NO_CLAIM = "no claim yet: `ratchet audit` measures it"
SELECTED = "selected: the runs that chose it, no claim"
# The share of a profile's keeps without effect, where most ideas harm and where most do nothing.
# Simulated: benchmarks/verdicts.py, priors b2 and a, hopeless first runs stopped.
NULL_KEEPS = {"strict": "under 2 %", "default": "5 to 33 %", "bold": "11 to 61 %"}
NULL_KEEPS_NOTE = "simulated: few ideas help, the others harm or do nothing"


def format_gain(comparison: Comparison | None, goal: Goal = VAL_BPB) -> str:
    """A gain with its 95% interval: "+0.0123 ± 0.0045" in bpb, "x1.34 [1.29, 1.40]" else."""
    return goal.describe_gain(comparison) if comparison else "no score"


def list_numbers(numbers: Iterable[int]) -> str:
    """Example: [3, 5] -> "3, 5"."""
    return ", ".join(map(str, numbers))


# --------------------------------------------------------------------------------------------------
# One idea, one trial


def name_trial(e: Experiment) -> str:
    """Example: "trial of 3, 5, 8"."""
    return f"trial of {list_numbers(e.members)}"


def companions(e: Experiment) -> list[int]:
    """Numbers of the other ideas in the trial that gave an idea its verdict."""
    return [n for n in e.closes.get("decides", ()) if n != e.n] if e.role == "try" else []


def describe_gain(e: Experiment, campaign: Campaign) -> str:
    """The gain of a try or a trial (95 %), in bpb or as a ratio: "" without a score.

    Examples: "+0.0123 ± 0.0045, with 3, 5" of fresh runs; "(x1.34 [1.20, 1.50], selected)".
    """
    comparison = compare_so_far(e, campaign)
    if not comparison:
        return ""
    text = format_gain(comparison, campaign.goal)
    if is_selected(e, campaign):
        return f"({text}, selected)"
    others = companions(e)
    return f"{text}, with {list_numbers(others)}" if others else text


def describe_bpb(e: Experiment, campaign: Campaign) -> str:
    """How the val_bpb of a try or a trial compares with the baseline's where another is the goal.

    Example: "val_bpb +0.0012 ± 0.0040 against the baseline's, slack 0.0050"; "" without a score.
    """
    if not campaign.slack:
        return ""
    scores = campaign.search.pursuits[e.closes.get("n", e.n)].bpbs
    return campaign.slack.describe(scores) if scores else ""


def own_comparison(e: Experiment, campaign: Campaign) -> Comparison | None:
    """How an idea alone compares with its champion: by its search where others were in its trial.

    So a batch's gain is credited to nobody.
    """
    return campaign.search.compare(e.n) if companions(e) else compare_so_far(e, campaign)


# --------------------------------------------------------------------------------------------------
# A campaign


def describe_goal(campaign: Campaign) -> list[str]:
    """What is made better and at what price, where that isn't val_bpb; [] else.

    Example: ["user_tps (tokens/s, decoding one row), more is better: a keep needs x1.02 of the
    champion's, which has 231 tokens/s", "val_bpb at most 1.2345, ..."].
    """
    goal, slack = campaign.goal, campaign.slack
    if not slack:
        return []
    own = statistics.mean(campaign.search.pursuits[campaign.kept[-1].n].bpbs)
    return [
        f"goal: {goal.name} ({goal.measure.unit}, {goal.measure.words}), {goal.better} is better; "
        f"the champion has {goal.describe_level(campaign.level)}, "
        f"what is kept gains {goal.describe_ratio(goal.least_gain)} at least",
        f"val_bpb may be {slack.most:.4f} at most, {slack.noise.sigma:.4f} above the baseline's; "
        f"the champion has {own:.4f}, so {slack.most - own:.4f} are left",
    ]


def claimed_gains(campaign: Campaign) -> dict[str, Comparison]:
    """{split: the champion's gain on the baseline} by the runs that alone are a claim.

    Of another goal than val_bpb its own gain, too: {"goal": ..., "val": ...}.
    """
    claims = list_claims(campaign) if campaign.baseline else []
    gains: dict[str, Comparison | None] = {}
    if claims and not campaign.goal.is_val_bpb:
        gains["goal"] = compare_claims(claims, lambda run: score_of(run, campaign.goal))
    for split in SPLITS["audit"]:
        scored = [e for e in claims if split in SPLITS[e.role]]
        gains[split] = compare_claims(scored, lambda run, split=split: bpb(run, split))
    return {split: gain for split, gain in gains.items() if gain}


def promised_gain(campaign: Campaign) -> float | None:
    """What the first runs of all ideas that were kept gained on the bars of then, in bpb.

    These runs chose the ideas: their sum is no claim. None if there are none; older ledgers had no
    bar.
    """
    kept = [e for e in campaign.tried if e.role == "try" and e.verdict == "keep"]
    if not kept or not campaign.goes_by_points:
        return None
    return sum(first_gain(e, campaign) for e in kept)


def first_gain(e: Experiment, campaign: Campaign) -> float:
    """What the first run of an idea gained on the bar of then, in bpb."""
    line = next(run["line"] for run in e.runs if run["phase"] == "search" and is_valid(run))
    return campaign.search.pursuits[e.n].gains[0] * campaign.noise(before=line).sigma


def describe_claim(campaign: Campaign) -> str:
    """What the champion gains on the baseline, or that nobody has measured it; "" without keeps.

    Example: "claim: experiment 9 gains +0.0432 ± 0.0151 bpb on the baseline (95 %, 4 + 4 fresh
    runs in turns)". What failed among these is told: who fails on bad seeds is flattered.
    """
    if not campaign.baseline or len(campaign.kept) < 2:
        return ""
    gains = claimed_gains(campaign)
    failures = [words for e in list_claims(campaign) for words in describe_failures(e)]
    if "val" not in gains:
        return "; ".join(["no claim", *failures]) if failures else NO_CLAIM
    val, champion = gains["val"], campaign.kept[-1]
    runs = "; ".join([f"{val.n} + {val.m} fresh runs in turns", *failures])
    if "goal" in gains:
        return f"claim: experiment {champion.n}: {describe_goal_claim(campaign, gains)} ({runs})"
    text = f"claim: experiment {champion.n} gains {format_gain(val)} bpb on the baseline"
    if "test" in gains:
        text += f", {format_gain(gains['test'])} on the test text"
    return f"{text} (95 %, {runs})"


def describe_goal_claim(campaign: Campaign, gains: Mapping[str, Comparison]) -> str:
    """What a champion gained of a goal that isn't val_bpb, and what val_bpb did meanwhile.

    Example: "user_tps x1.34 [1.29, 1.40] of the baseline's, 95 %; val_bpb +0.0012 ± 0.0030 against
    the baseline's, slack 0.0050: within it"
    """
    goal, slack = campaign.goal, campaign.bpb_noise.sigma
    text = f"{goal.name} {format_gain(gains['goal'], goal)} of the baseline's, 95 %; "
    text += f"{describe_difference(gains['val'], slack)}: {place_in_slack(gains['val'], slack)}"
    if "test" in gains:
        text += f"; {format_difference(gains['test'])} on the test text"
    return text


def describe_null_keeps(campaign: Campaign) -> str:
    """How many keeps such as these are expected to have no effect; "" where nobody knows.

    It was simulated for val_bpb alone: of another goal a keep gains a stated share besides.
    Example: "5 to 33 % of keeps by the profile default have no effect (simulated: few ideas help,
    the others harm or do nothing)".
    """
    if not campaign.goal.is_val_bpb:
        return ""
    names = dict.fromkeys(e.profile.get("name", "") for e in campaign.kept[1:])
    return "; ".join(
        f"{NULL_KEEPS[name]} of keeps by the profile {name} have no effect ({NULL_KEEPS_NOTE})"
        for name in names
        if name in NULL_KEEPS
    )
