"""The digest: what a campaign has found out so far, on a page that an agent reads.

It follows from the ledger, the curves of the runs, the champion's source alone: so it is the same
whenever it is made. It is never longer than it may be: the oldest lines go first. Ideas and reasons
are somebody's words: they stand in quotation marks, on one line, as data.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from ratchet.arena.files import Refused
from ratchet.claims import (
    SELECTED,
    describe_bpb,
    describe_gain,
    describe_goal,
    describe_null_keeps,
    name_trial,
    own_comparison,
)
from ratchet.experiments.campaign import MOST_TEXT, Campaign, compare_so_far, tried_ideas
from ratchet.experiments.ledger import CANDIDATE, CHAMPION, Experiment, bpb, is_valid
from ratchet.experiments.rule.failures import FAILURES
from ratchet.night import knobs
from ratchet.referee.early_stopping import mean_loss, read_curve, to_shares
from ratchet.referee.measures import Requirement, read_measures
from ratchet.untrusted_text import quote_text

MOST_TOKENS = 6000  # unless a night is told otherwise
FEWEST_TOKENS = 500  # champions and conditions need them
CHARACTERS = 4  # of a token, about
# lines of a section at most
LATEST = 12
NEAR_MISSES = 6
DEAD_ENDS = 40
FAILED = 6
UNTOUCHED = 40
ESSENTIAL = 2  # sections that are never left out: champions, conditions
FEWEST_LINES = 3  # of a section that isn't left out, with its title
REJECTED = "out", "withdrawn", "undecided", "discard"  # the last two: of older ledgers
SHARES = 0.1, 0.25, 0.5, 0.75, 1.0  # of a run: where its loss is shown
# the first family of which a word is in the idea
FAMILIES = {
    "attention": "attention attend head window rope rotary qk temperature causal",
    "embeddings": "embedding vocab ngram table hash value token copy",
    "size": "depth width layer deeper wider shallow narrow parameter aspect",
    "batch": "batch rows accumulation",
    "schedule": "warmup warmdown cooldown schedule decay cosine anneal final_lr epochs",
    "rates": "lr rate faster slower learns",
    "optimizer": "optimizer muon adam momentum beta orthogonal newton precondition ema average",
    "regularisation": "dropout regular noise smoothing clip",
    "initialisation": "init zero scale std",
    "activation": "relu gelu swiglu activation mlp gate norm",
    "loss": "loss softcap z-loss auxiliary objective",
    "speed": "compile kernel speed fuse dtype bfloat16 faster throughput memory",
}


def write_digest(campaign: Campaign, home: Path, most_tokens: int = MOST_TOKENS) -> str:
    """The page, as Markdown. home: the folder that `runs/` is in."""
    sections = [
        list_champions(campaign),
        list_conditions(campaign),
        list_latest(campaign, home),
        list_near_misses(campaign),
        list_dead_ends(campaign),
        list_failures(campaign),
        list_untried(campaign),
    ]
    sections = [section for section in sections if len(section) > 1]
    return fit_on_page(sections, CHARACTERS * most_tokens)


def check_tokens(most: int) -> None:
    """Raise Refused when a digest can't be as short as that."""
    if most < FEWEST_TOKENS:
        raise Refused(
            f"--digest-tokens {most} is too few: champions and conditions need {FEWEST_TOKENS}"
        )


def fit_on_page(sections: list[list[str]], most: int) -> str:
    """Sections as a text of so many characters at most; those that are worth more stand first.

    The last ones are left out until all others fit with their latest lines. Then the longest one
    loses its oldest line, until the text fits; if nothing else can go, the longest line is cut.
    """
    least = [[title, *lines[1 - FEWEST_LINES :]] for title, *lines in sections]
    while len(least) > ESSENTIAL and len(join_sections(least)) > most:
        least.pop()
    sections = [[*section] for section in sections[: len(least)]]
    while len(text := join_sections(sections)) > most:
        long = [section for section in sections if len(section) > FEWEST_LINES]
        if long:
            del max(long, key=lambda section: sum(map(len, section)))[1]
        else:
            cut_longest_line(sections, len(text) - most)
    return text


def cut_longest_line(sections: list[list[str]], count: int) -> None:
    """Take so many characters from it."""
    section = max(sections, key=lambda section: max(map(len, section)))
    at = max(range(len(section)), key=lambda i: len(section[i]))
    section[at] = section[at][: -count - 1] + "…"


def join_sections(sections: list[list[str]]) -> str:
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def describe_experiment(e: Experiment, campaign: Campaign) -> str:
    """A line: "- 12 keep +0.0123 ± 0.0045, with 9: "wider heads"."""
    gain = describe_gain(e, campaign)
    if not gain:
        is_stopped = e.runs and e.runs[-1]["status"] == "stopped"
        gain = "stopped half-way" if is_stopped else "no score"
    bpb_words = f"; {words}" if (words := describe_bpb(e, campaign)) else ""
    return f"- {e.n} {e.verdict} {gain}{bpb_words}: {quote_text(e.idea)}"


def describe_champion(e: Experiment, campaign: Campaign) -> str:
    """A line; of a trial: "- 12 keep +0.0123 ± 0.0045: trial of 9, 11: 9 "wider heads"; 11 ..."."""
    if not e.members:
        return describe_experiment(e, campaign)
    ideas = {each.n: each.idea for each in campaign.since}
    words = "; ".join(f"{n} {quote_text(ideas[n])}" for n in e.members)
    bpb_words = f"; {difference}" if (difference := describe_bpb(e, campaign)) else ""
    gain = f"{describe_gain(e, campaign)}{bpb_words}"
    return f"- {e.n} {e.verdict} {gain}: {name_trial(e)}: {words}"


# --------------------------------------------------------------------------------------------------
# Sections: a title, then lines, the oldest first


def list_champions(campaign: Campaign) -> list[str]:
    baseline, *kept = campaign.kept
    goal, runs = campaign.goal, baseline.valid_runs(CANDIDATE)
    sigma = goal.describe_sigma(campaign.noise().sigma)
    levels = [goal.describe_level(fmean(baseline.scores(CANDIDATE)))]
    if not goal.is_val_bpb:
        levels.append(f"val_bpb {fmean(map(bpb, runs)):.4f}")
    lines = [
        f"## Champions, oldest first (sigma, the noise between seeds: {sigma})",
        f"- {baseline.n} baseline: {', '.join(levels)}, mean of {len(runs)} seeds",
        *(describe_champion(e, campaign) for e in kept),
    ]
    nulls = describe_null_keeps(campaign)
    return [*lines, f"- {nulls}"] if nulls else lines


def list_conditions(campaign: Campaign) -> list[str]:
    """Budget and device; what a run of the champion makes of them."""
    e, source = campaign.baseline, campaign.champion["source"]
    lines = ["## Conditions", f"- {e.arena}, budget {e.budget}, on {e.device}"]
    lines += [f"- {words}" for words in describe_goal(campaign)]
    if asked := [str(Requirement(*pair)) for pair in e.limits.items()]:
        lines.append(f"- limits, beyond which a run counts for nothing: {', '.join(asked)}")
    runs = [
        run
        for e in campaign.since
        for run in e.runs
        if is_valid(run) and run["budget"] == e.budget and e.arms[run["arm"]]["source"] == source
    ]
    return lines + [describe_run(run, e.limits) for run in runs[-1:]]


def describe_run(run: dict, limits: Mapping[str, float]) -> str:
    """Its figures in a line; those that are limited by name."""
    steps, tokens = run.get("steps", 0), run["tokens"]
    rate = tokens / max(run["seconds"].get("train", 0), 1e-9)
    params, lookup = run.get("params", 0) / 1e6, run.get("lookup", 0) / 1e6
    measured = [(name, value) for name, value in read_measures(run).items() if name in limits]
    return (
        f"- a run of the champion: {steps:,} steps, {tokens:,} tokens ({rate:,.0f}/s), "
        f"{params:.1f} M parameters, {lookup:.1f} M of tables, "
        f"peak memory of training {run.get('peak_memory_mb', 0):,} MB"
        + "".join(f", {name} {value:.4g}" for name, value in measured)
    )


def list_latest(campaign: Campaign, home: Path) -> list[str]:
    lines = [f"## Latest experiments, oldest first (gains: ± 95 %; {SELECTED})"]
    for e in tried_ideas(campaign)[-LATEST:]:
        curves = describe_curves(e, campaign, home)
        lines.append("\n".join([describe_experiment(e, campaign), *curves]))
    return lines


def describe_curves(e: Experiment, campaign: Campaign, home: Path) -> list[str]:
    """The first run's training loss beside the champion's, at equal shares of the budget."""
    curves = []
    for arm, name in ((CANDIDATE, "it"), (CHAMPION, "champion")):
        run = first_run(e.arms[arm]["source"], campaign)
        if run and (losses := losses_of(run, home)):
            curves.append(f"{name} {' '.join(f'{loss:.3f}' for loss in losses)}")
    percents = " ".join(f"{share:.0%}" for share in SHARES)
    return [f"  training loss at {percents}: {'; '.join(curves)}"] if curves else []


def first_run(source: str, campaign: Campaign) -> dict | None:
    """The first run of a source that ended with a score."""
    runs = (
        run
        for e in campaign.since
        for run in e.runs
        if e.arms[run["arm"]]["source"] == source and run["status"] == "ok"
    )
    return next(runs, None)


def losses_of(run: dict, home: Path) -> list[float]:
    """A run's training loss at SHARES of its budget, as far as it came."""
    points = to_shares(read_curve(home / run["folder"] / "curve.jsonl")[0], run["budget"])
    losses = [mean_loss(points, share) for share in SHARES]
    return [loss for loss in losses if loss is not None]


def find_near_misses(campaign: Campaign) -> list[Experiment]:
    """What was not kept but looked best, the best last: worth trying in another form.

    Those that had a trial come after those that had none.
    """
    promise = {}
    for e in tried_ideas(campaign):
        comparison = compare_so_far(e, campaign)
        if e.verdict not in REJECTED or not comparison or comparison.gain <= 0:
            continue
        if campaign.slack and campaign.slack.is_far(campaign.search.pursuits[e.n].bpbs):
            continue
        if e.verdict == "out":
            promise[e.n] = (False, campaign.search.points_of(e.n))
        else:
            promise[e.n] = (True, comparison.gain)
    rejected = [e for e in tried_ideas(campaign) if e.n in promise]
    return sorted(rejected, key=lambda e: promise[e.n])[-NEAR_MISSES:]


def list_near_misses(campaign: Campaign) -> list[str]:
    lines = [describe_experiment(e, campaign) for e in find_near_misses(campaign)]
    return ["## Near misses, best last", *lines]


def family_of(idea: str) -> str:
    """What an idea is about, by its words: "wider heads" -> "attention"."""
    words = {*re.findall(r"[a-z0-9_\-]+", idea.lower())}
    for family, stems in FAMILIES.items():
        if any(word.startswith(stem) for word in words for stem in stems.split()):
            return family
    return "other"


def list_dead_ends(campaign: Campaign) -> list[str]:
    """Ideas that are out, by family; that of the latest one last."""
    families = {}
    out = [e for e in tried_ideas(campaign) if e.verdict in ("out", "discard")]
    for e in out[-DEAD_ENDS:]:
        family = family_of(e.idea)
        families[family] = families.pop(family, []) + [f"{e.n} {quote_text(e.idea, 70)}"]
    lines = [f"- {family}: {'; '.join(ideas)}" for family, ideas in families.items()]
    return ["## Dead ends by family", *lines]


def list_failures(campaign: Campaign) -> list[str]:
    lines = [
        f"- {e.n} {e.verdict}, {quote_text(e.reason)}: {quote_text(e.idea)}"
        for e in tried_ideas(campaign)
        if e.verdict in FAILURES
    ]
    return ["## What failed", *lines[-FAILED:]]


def list_untried(campaign: Campaign) -> list[str]:
    """Families without an experiment, and constants that no experiment has changed."""
    lines = ["## Never tried"]
    tried = {family_of(e.idea) for e in tried_ideas(campaign)}
    if families := [family for family in FAMILIES if family not in tried]:
        lines.append(f"- no idea about: {', '.join(families)}")
    champion, changed = knobs.constant_values(campaign.champion["commit"]), set()
    for e in tried_ideas(campaign):
        values = knobs.constant_values(e.arms[CANDIDATE]["commit"])
        changed |= {name for name in champion if values.get(name) != champion[name]}
    if left := [f"{name} = {value}" for name, value in champion.items() if name not in changed]:
        lines.append(f"- constants that no experiment has changed: {', '.join(left[:UNTOUCHED])}")
    return lines


def summarize_predictions(campaign: Campaign, by: str | None = None) -> str:
    """How well predictions of gains were met so far, in a sentence; "" for fewer than three.

    by: whose; None: all.
    """
    tried = [e for e in tried_ideas(campaign) if by is None or e.by == by[:MOST_TEXT]]
    pairs = [(e.gain, own_comparison(e, campaign)) for e in tried]
    pairs = [(gain, real.gain) for gain, real in pairs if real and gain is not None]
    if not campaign.goal.is_val_bpb:
        pairs = [(campaign.goal.gain_of(ratio), gain) for ratio, gain in pairs if ratio > 0]
    if len(pairs) < 3:
        return ""
    predicted, measured = (sum(column) / len(pairs) for column in zip(*pairs))
    right = sum((a > 0) == (b > 0) for a, b in pairs)
    predicted, measured = map(campaign.goal.describe_ratio, (predicted, measured))
    unit = "bpb" if campaign.goal.is_val_bpb else f"of {campaign.goal.name}"
    return (
        f"{len(pairs)} predictions averaged {predicted} {unit}, the gains {measured}; "
        f"the sign was right {right} times"
    )
