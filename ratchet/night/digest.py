"""The digest: what a campaign has found out so far, in a page that an agent reads before its next
idea.

It follows from the ledger, the curves of the runs and the champion's source alone, so that it is
the same whenever it is made, and it is never longer than MOST_CHARACTERS: the oldest lines go
first. Ideas and reasons are somebody's words: they stand in quotation marks, on one line, as data.
"""

import re

from ratchet.experiments import sources
from ratchet.experiments.campaign import CANDIDATE, CHAMPION, compare_so_far, tried_ideas
from ratchet.experiments.ledger import is_valid
from ratchet.night import knobs
from ratchet.referee.early_stopping import mean_loss, read_curve, to_shares
from ratchet.untrusted_text import quote_text

MOST_CHARACTERS = 24_000  # about 6,000 tokens
LATEST, NEAR_MISSES, DEAD_ENDS, UNTOUCHED = 12, 6, 40, 40  # lines of a section at most
SHARES = 0.1, 0.25, 0.5, 0.75, 1.0  # of a run, at which its loss is told
# the first family of which a word is in the idea, or in a line that it changed
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


def family(text):
    """What an idea is about, by its words."""
    words = {*re.findall(r"[a-z0-9_\-]+", text.lower())}
    for name, known in FAMILIES.items():
        if any(word.startswith(start) for word in words for start in known.split()):
            return name
    return "other"


def signed(found):
    """A gain with half of its 95% interval."""
    return f"{found.gain:+.4f} ± {found.high - found.gain:.4f}" if found else "no score"


def line_of(e, campaign):
    """One experiment: number, verdict, gain, idea."""
    return f"- {e.n} {e.verdict} {signed(compare_so_far(e, campaign))}: {quote_text(e.idea)}"


def digest(campaign, home):
    """The page. home: the folder that `runs/` is in."""
    champion = sources.read_source(campaign.champion["commit"])
    sections = [
        lineage(campaign),
        conditions(campaign),
        latest(campaign, home),
        almost(campaign),
        dead_ends(campaign),
        failures(campaign),
        untried(campaign, champion.text),
    ]
    return fit([section for section in sections if len(section) > 1])


def fit(sections, most=MOST_CHARACTERS):
    """Sections as one text; while that is too long, the longest one loses its second line (the
    oldest).
    """
    while len(text := "\n\n".join("\n".join(section) for section in sections)) > most:
        longest = max(sections, key=lambda section: sum(map(len, section)))
        del longest[1]
    return text + "\n"


def lineage(campaign):
    baseline, *kept = campaign.kept
    scores, noise = baseline.scores(CANDIDATE), campaign.noise()
    mean = sum(scores) / len(scores)
    return [
        f"## Champions, oldest first (sigma, the noise between seeds: {noise.sigma:.4f} bpb)",
        f"- {baseline.n} baseline: {mean:.4f} bpb, mean of {len(scores)} seeds",
        *(line_of(e, campaign) for e in kept),
    ]


def conditions(campaign):
    """Budget, device, and what a run of the champion uses of them."""
    e, name = campaign.baseline, campaign.champion["source"]
    runs = [
        run
        for e in campaign.since
        for run in e.runs
        if is_valid(run) and e.arms[run["arm"]]["source"] == name
    ]
    lines = [f"## Conditions\n- {e.arena}, budget {e.budget}, on {e.device}"]
    if runs:
        last, train = runs[-1], max(runs[-1]["seconds"].get("train", 0), 1e-9)
        facts = f"{last.get('steps', 0):,} steps, {last['tokens']:,} tokens ({last['tokens'] / train:,.0f}/s)"
        trunk, lookup = (last.get(key, 0) / 1e6 for key in ("params", "lookup"))
        facts += f", {trunk:.1f} M parameters, {lookup:.1f} M of tables"
        lines.append(
            f"- a run of the champion: {facts}, peak memory {last.get('peak_memory_mb', 0):,} MB"
        )
    return lines


def curves(e, home):
    """The first run's training loss beside the champion's, at equal shares of the budget."""
    found = []
    for arm, name in ((CANDIDATE, "it"), (CHAMPION, "champion")):
        for run in [run for run in e.runs if run["arm"] == arm and run["status"] == "ok"][:1]:
            points = to_shares(read_curve(home / run["folder"] / "curve.jsonl")[0], run["budget"])
            if losses := [
                loss for share in SHARES if (loss := mean_loss(points, share)) is not None
            ]:
                found.append(f"{name} {' '.join(f'{loss:.3f}' for loss in losses)}")
    places = " ".join(f"{share:.0%}" for share in SHARES)
    return [f"  training loss at {places}: {'; '.join(found)}"] if found else []


def latest(campaign, home):
    lines = ["## Latest experiments, oldest first"]
    for e in tried_ideas(campaign)[-LATEST:]:
        lines.append("\n".join([line_of(e, campaign), *curves(e, home)]))
    return lines


def near_misses(campaign):
    """[(Comparison, experiment)] of what was not kept and looked best: worth another form."""
    found = [
        (compare_so_far(e, campaign), e)
        for e in tried_ideas(campaign)
        if e.verdict in ("undecided", "discard")
    ]
    found = [(gain, e) for gain, e in found if gain and gain.gain > 0]
    return sorted(found, key=lambda pair: pair[0].gain)[-NEAR_MISSES:]


def almost(campaign):
    return [
        "## Near misses, the best last",
        *(line_of(e, campaign) for _, e in near_misses(campaign)),
    ]


def dead_ends(campaign):
    """Discarded ideas by family."""
    families = {}
    for e in [e for e in tried_ideas(campaign) if e.verdict == "discard"][-DEAD_ENDS:]:
        families.setdefault(family(e.idea), []).append(e)
    lines = ["## Dead ends by family"]
    for name, found in sorted(families.items()):
        ideas = "; ".join(f"{e.n} {quote_text(e.idea, 70)}" for e in found)
        lines.append(f"- {name}: {ideas}")
    return lines


def failures(campaign):
    broken = [
        e for e in tried_ideas(campaign) if e.verdict in ("crash", "timeout", "overtime", "invalid")
    ]
    words = [
        f"- {e.n} {e.verdict}, {quote_text(e.reason)}: {quote_text(e.idea)}" for e in broken[-6:]
    ]
    return ["## What failed", *words]


def untried(campaign, text):
    """Families without an experiment, and constants that no experiment has changed."""
    known = {family(e.idea) for e in tried_ideas(campaign)}
    lines = ["## Never tried"]
    if families := [name for name in FAMILIES if name not in known]:
        lines.append(f"- no idea about: {', '.join(families)}")
    champion, changed = knobs.constants(text), set()
    for e in tried_ideas(campaign):
        own = knobs.values_of(e.arms[CANDIDATE]["commit"])
        changed |= {name for name, node in champion.items() if own.get(name) != node.value}
    if left := [f"{name} = {node.value}" for name, node in champion.items() if name not in changed]:
        lines.append(f"- constants that no experiment has changed: {', '.join(left[:UNTOUCHED])}")
    return lines


def expectation(campaign):
    """How well predictions of gains were met so far, in a sentence, or ""."""
    pairs = [(e.gain, compare_so_far(e, campaign)) for e in tried_ideas(campaign)]
    pairs = [(said, found.gain) for said, found in pairs if found and said is not None]
    if len(pairs) < 3:
        return ""
    said, got = (sum(column) / len(pairs) for column in zip(*pairs))
    right = sum((a > 0) == (b > 0) for a, b in pairs)
    return (
        f"{len(pairs)} predictions: {said:+.4f} bpb on average, the gains were {got:+.4f}; "
        f"the sign was right {right} times"
    )
