"""The digest: what a campaign has found out so far, on a page that an agent reads.

It follows from the ledger, the curves of the runs, the champion's source alone: so it is the same
whenever it is made. It is never longer than MOST_CHARACTERS: the oldest lines go first. Ideas and
reasons are somebody's words: they stand in quotation marks, on one line, as data.
"""

import re
from pathlib import Path

from ratchet.experiments.campaign import Campaign, compare_so_far, tried_ideas
from ratchet.experiments.ledger import CANDIDATE, CHAMPION, Experiment, is_valid
from ratchet.experiments.rule.statistics import Comparison
from ratchet.night import knobs
from ratchet.referee.early_stopping import mean_loss, read_curve, to_shares
from ratchet.untrusted_text import quote_text

MOST_CHARACTERS = 24_000  # about 6,000 tokens
# lines of a section at most
LATEST = 12
NEAR_MISSES = 6
DEAD_ENDS = 40
FAILURES = 6
UNTOUCHED = 40
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


def write_digest(campaign: Campaign, home: Path) -> str:
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
    return fit_on_page([section for section in sections if len(section) > 1])


def fit_on_page(sections: list[list[str]], most: int = MOST_CHARACTERS) -> str:
    """Sections as one text; the longest one loses its oldest line, the second, until all fit."""
    while len(text := "\n\n".join("\n".join(section) for section in sections)) > most:
        longest = max(sections, key=lambda section: sum(map(len, section)))
        del longest[1]
    return text + "\n"


def format_gain(comparison: Comparison | None) -> str:
    """A gain with half of its 95% interval: "+0.0123 ± 0.0045"."""
    if not comparison:
        return "no score"
    return f"{comparison.gain:+.4f} ± {comparison.high - comparison.gain:.4f}"


def describe_experiment(e: Experiment, campaign: Campaign) -> str:
    """A line: "- 12 keep +0.0123 ± 0.0045: "wider heads"."""
    gain = format_gain(compare_so_far(e, campaign))
    return f"- {e.n} {e.verdict} {gain}: {quote_text(e.idea)}"


# --------------------------------------------------------------------------------------------------
# Sections: a title, then lines, the oldest first


def list_champions(campaign: Campaign) -> list[str]:
    baseline, *kept = campaign.kept
    scores, sigma = baseline.scores(CANDIDATE), campaign.noise().sigma
    mean = sum(scores) / len(scores)
    return [
        f"## Champions, oldest first (sigma, the noise between seeds: {sigma:.4f} bpb)",
        f"- {baseline.n} baseline: {mean:.4f} bpb, mean of {len(scores)} seeds",
        *(describe_experiment(e, campaign) for e in kept),
    ]


def list_conditions(campaign: Campaign) -> list[str]:
    """Budget and device; what a run of the champion makes of them."""
    e, source = campaign.baseline, campaign.champion["source"]
    lines = ["## Conditions", f"- {e.arena}, budget {e.budget}, on {e.device}"]
    runs = [
        run
        for e in campaign.since
        for run in e.runs
        if is_valid(run) and e.arms[run["arm"]]["source"] == source
    ]
    return lines + [describe_run(run) for run in runs[-1:]]


def describe_run(run: dict) -> str:
    steps, tokens = run.get("steps", 0), run["tokens"]
    rate = tokens / max(run["seconds"].get("train", 0), 1e-9)
    params, lookup = run.get("params", 0) / 1e6, run.get("lookup", 0) / 1e6
    return (
        f"- a run of the champion: {steps:,} steps, {tokens:,} tokens ({rate:,.0f}/s), "
        f"{params:.1f} M parameters, {lookup:.1f} M of tables, "
        f"peak memory {run.get('peak_memory_mb', 0):,} MB"
    )


def list_latest(campaign: Campaign, home: Path) -> list[str]:
    lines = ["## Latest experiments, oldest first"]
    for e in tried_ideas(campaign)[-LATEST:]:
        lines.append("\n".join([describe_experiment(e, campaign), *describe_curves(e, home)]))
    return lines


def describe_curves(e: Experiment, home: Path) -> list[str]:
    """The first run's training loss beside the champion's, at equal shares of the budget."""
    curves = []
    for arm, name in ((CANDIDATE, "it"), (CHAMPION, "champion")):
        runs = [run for run in e.runs if run["arm"] == arm and run["status"] == "ok"]
        if runs and (losses := losses_of(runs[0], home)):
            curves.append(f"{name} {' '.join(f'{loss:.3f}' for loss in losses)}")
    percents = " ".join(f"{share:.0%}" for share in SHARES)
    return [f"  training loss at {percents}: {'; '.join(curves)}"] if curves else []


def losses_of(run: dict, home: Path) -> list[float]:
    """A run's training loss at SHARES of its budget, as far as it came."""
    points = to_shares(read_curve(home / run["folder"] / "curve.jsonl")[0], run["budget"])
    losses = [mean_loss(points, share) for share in SHARES]
    return [loss for loss in losses if loss is not None]


def find_near_misses(campaign: Campaign) -> list[tuple[Comparison, Experiment]]:
    """What was not kept but looked best, the best last: worth trying in another form."""
    rejected = [e for e in tried_ideas(campaign) if e.verdict in ("undecided", "discard")]
    pairs = [(compare_so_far(e, campaign), e) for e in rejected]
    gains = [(comparison, e) for comparison, e in pairs if comparison and comparison.gain > 0]
    return sorted(gains, key=lambda pair: pair[0].gain)[-NEAR_MISSES:]


def list_near_misses(campaign: Campaign) -> list[str]:
    experiments = [e for _, e in find_near_misses(campaign)]
    return ["## Near misses, best last", *(describe_experiment(e, campaign) for e in experiments)]


def family_of(idea: str) -> str:
    """What an idea is about, by its words: "wider heads" -> "attention"."""
    words = {*re.findall(r"[a-z0-9_\-]+", idea.lower())}
    for family, stems in FAMILIES.items():
        if any(word.startswith(stem) for word in words for stem in stems.split()):
            return family
    return "other"


def list_dead_ends(campaign: Campaign) -> list[str]:
    """Discarded ideas by family."""
    families = {}
    for e in [e for e in tried_ideas(campaign) if e.verdict == "discard"][-DEAD_ENDS:]:
        idea = e.idea
        families.setdefault(family_of(idea), []).append(f"{e.n} {quote_text(idea, 70)}")
    lines = [f"- {family}: {'; '.join(ideas)}" for family, ideas in sorted(families.items())]
    return ["## Dead ends by family", *lines]


def list_failures(campaign: Campaign) -> list[str]:
    failed = ("crash", "timeout", "overtime", "invalid")
    lines = [
        f"- {e.n} {e.verdict}, {quote_text(e.reason)}: {quote_text(e.idea)}"
        for e in tried_ideas(campaign)
        if e.verdict in failed
    ]
    return ["## What failed", *lines[-FAILURES:]]


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


def summarize_predictions(campaign: Campaign) -> str:
    """How well predictions of gains were met so far, in a sentence; "" for fewer than three."""
    pairs = [(e.gain, compare_so_far(e, campaign)) for e in tried_ideas(campaign)]
    pairs = [(gain, real.gain) for gain, real in pairs if real and gain is not None]
    if len(pairs) < 3:
        return ""
    predicted, measured = (sum(column) / len(pairs) for column in zip(*pairs))
    right = sum((a > 0) == (b > 0) for a, b in pairs)
    return (
        f"{len(pairs)} predictions averaged {predicted:+.4f} bpb, the gains {measured:+.4f}; "
        f"the sign was right {right} times"
    )
