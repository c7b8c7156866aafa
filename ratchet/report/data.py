"""What the report shows, as JSON; every derived number is made here."""

import json
import math
import time

from ratchet import commits
from ratchet.arena.files import ROOT
from ratchet.experiments import verdicts
from ratchet.experiments.campaign import CANDIDATE, campaigns, finite, mean_of, standing
from ratchet.experiments.comparisons import SPLITS, contrast
from ratchet.experiments.ledger import counts, disturbed
from ratchet.experiments.running import state_of
from ratchet.experiments.verify import find_problems
from ratchet.night.journal import Journal
from ratchet.referee import early_stopping

MEASURED = "runs/decoding.json", "runs/scaling.json"  # what serve-bench and scaling leave
WORDS, DIFF, TAIL = 2_000, 20_000, 2_000  # characters of an idea, a diff, a log that the page has
POINTS = 60  # of a curve
CURVES = 150  # experiments that have one on the page: champions, then the latest
FIGURES = "steps tokens flops_per_token mfu_percent peak_memory_mb params lookup joules".split()


def collect(ledger, home):
    """{"campaigns": one for each calibration; facts of the ledger}."""
    experiments = [*ledger.experiments().values()]
    tried = [e for e in experiments if e.role == "try"]
    diffs = commits.diffs([(e.opens["parent"], e.arms[CANDIDATE]["commit"]) for e in tried])
    shown = [e for e in experiments if e.verdict in ("baseline", "keep")]
    shown = {e.n for e in shown[-CURVES // 2 :] + experiments[-CURVES // 2 :]}
    found = campaigns(experiments)
    order = [(bool(campaign.baseline), campaign.all[-1].n) for campaign in found]
    return {
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "lines": len(ledger.rows()),
        "head": ledger.head(),
        "problems": find_problems(ledger),
        "latest": max(range(len(order)), key=order.__getitem__, default=0),
        "campaigns": [campaign_data(campaign, home, diffs, shown) for campaign in found],
        "nights": nights(home),
        "cheats": cheats(),
        "decoding": kept(home / MEASURED[0]),
        "scaling": kept(home / MEASURED[1]),
    }


def cheats():
    """{isolation level: {"known": number of cheats that competed there, "open": those that get
    through}}.
    """
    found, results = {}, (kept(ROOT / "benchmarks/cheats.json") or {"results": {}})["results"]
    for name, levels in results.items():
        for level, seen in levels.items():
            row = found.setdefault(level, {"known": 0, "open": []})
            row["known"] += 1
            row["open"] += [name] * seen["ended"].startswith("**")
    return found


def kept(path):
    """What is in a file of JSON, or None."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def nights(home):
    """What the last night's agent cost."""
    answers = Journal(home).answers() if (home / "runs").exists() else []
    return {"calls": len(answers), "cost": sum(a["cost"] for a in answers)}


def campaign_data(campaign, home, diffs, shown):
    """All that the page has on one campaign."""
    own = campaign.all
    last, noise = own[-1], campaign.noise() if campaign.baseline else None
    found = {
        name: last.opens[name] for name in ("arena", "seal", "budget", "device", "driver", "torch")
    }
    found |= {"sigma": noise and finite(noise.sigma), "df": noise and noise.df}
    found["experiments"] = [experiment_data(e, campaign, home, diffs, shown) for e in own]
    found |= {"champions": champions(campaign), "sigmas": sigmas(campaign), "audit": audit(own)}
    found["warnings"] = [campaign.unrest] * bool(campaign.unrest)
    found["warnings"] += warnings([run for e in own for run in e.runs])
    found["hours"] = sum(sum(run["seconds"].values()) for e in own for run in e.runs) / 3600
    return found


def champions(campaign):
    """[{n, mean, half, gain, low, high}] of all valid runs of each champion; gains are on the
    first.
    """
    if not campaign.baseline:
        return []
    noise, rows, first = campaign.noise(), [], None
    for e in campaign.kept:
        scores = campaign.scores_of(e.arms[CANDIDATE]["source"])
        first = first or scores
        shown = scores or e.own_scores()  # one kept by --quick has but the run that kept it
        mean, half = mean_of(shown, noise)
        row = {"n": e.n, "time": e.closes["time"], "mean": mean, "half": half, "runs": len(shown)}
        if noise.df and rows and scores and first:
            row |= interval(verdicts.compare(scores, first, noise))
        rows.append(row)
    return rows


def interval(found):
    return {"gain": found.gain, "low": found.low, "high": found.high}


def sigmas(campaign):
    """[{n, sigma}]: what the noise was thought to be, experiment after experiment."""
    if not campaign.baseline:
        return []
    found = [(e.n, campaign.noise(before=e.closes["line"])) for e in campaign.tried]
    return [{"n": n, "sigma": finite(noise.sigma), "df": noise.df} for n, noise in found]


def audit(own):
    """The last audit: gains of each champion on the baseline, on val and test."""
    audits = [e for e in own if e.role == "audit" and e.closes]
    if not audits:
        return []
    pairs = zip(*(compared(audits[-1], split) for split in SPLITS["audit"]))
    return [
        {"name": on["name"], "val": on, "test": test}
        for on, test in pairs
        if "gain" in on and "gain" in test
    ]


def warnings(runs):
    """What a reader should know before any number."""
    found = []
    if levels := {run["isolation"] for run in runs} - {"bubblewrap", "landlock"}:
        found.append(
            f"isolation was {', '.join(sorted(levels))}: what a contestant could reach, nobody saw"
        )
    if why := {run.get("throttled") for run in runs} - {"", None}:
        found.append(f"the device was throttled by {', '.join(sorted(why))}")
    if shared := sum(run["shared"] for run in runs):
        busy = sum(run["shared"] and run["busy"] for run in runs)
        found.append(
            f"other programs used the device in {shared} runs, of which {busy} count (--busy)"
        )
    return found


def experiment_data(e, campaign, home, diffs, shown):
    """One experiment as the page shows it."""
    own = [run for run in e.runs if run["arm"] == CANDIDATE]
    valid = [run for run in own if counts(run)]
    run = (valid or own or [{}])[-1]
    scores = [] if e.role in SPLITS else e.own_scores()
    noise = campaign.noise() if campaign.baseline else None
    mean, half = mean_of(scores, noise)
    found = {
        "n": e.n,
        "time": e.time,
        "role": e.role,
        "by": cut(e.opens.get("by", "")),
        "idea": cut(e.opens.get("idea", "")),
        "verdict": state_of(e, home),
        "reason": cut(e.closes.get("reason", "")),
        "runs": len(e.runs),
        "mean": mean,
        "half": half,
        "scores": scores,
        "said": e.opens.get("gain"),
        "near": e.opens.get("near"),
        "commit": e.arms[CANDIDATE]["commit"][:10],
        "arms": [cut(arm["name"]) for arm in e.arms],
        "ended": (e.closes or e.opens)["time"],
        "seeds": [r["seed"] for r in valid],
        "disturbed": sum(map(disturbed, e.runs)),
    }
    if e.role == "try":
        found |= interval(gained) if (gained := standing(e, campaign)) else {}
        found["diff"] = cut(diffs[e.opens["parent"], e.arms[CANDIDATE]["commit"]], DIFF)
        found["size"] = e.arms[CANDIDATE]["size"] - e.arms[1]["size"]
    found["compared"] = [row for split in SPLITS.get(e.role, ()) for row in compared(e, split)]
    found |= figures(run, home) | {"curve": curve(run, home) if e.n in shown else []}
    failed = [run for run in e.runs if run["status"] != "ok"]
    found["tail"] = cut("\n".join(failed[-1]["tail"]), TAIL) if failed else ""
    return found


def compared(e, split):
    """How each source of a comparison or an audit did on a split."""
    for arm, (scores, found) in zip(e.arms, contrast(e, split)):
        row = {
            "name": cut(arm["name"]),
            "split": split,
            "mean": sum(scores) / len(scores) if scores else None,
        }
        yield row | (interval(found) if found else {})


def cut(text, most=WORDS):
    text = str(text)
    return text if len(text) <= most else text[:most] + "…"


def figures(run, home):
    """Side figures of one run."""
    if not run:
        return {}
    seconds = run["seconds"].get("train")
    found = {key: run.get(key) for key in FIGURES} | {
        "isolation": run["isolation"],
        "train": seconds,
    }
    found["rate"] = run["tokens"] / seconds if seconds and run.get("tokens") else None
    found["probes"] = {
        name: shown for name, (_, shown) in (run.get("val", {}).get("probes") or {}).items()
    }
    config = home / run.get("folder", "none") / "config.json"
    try:
        facts = json.loads(config.read_bytes())
        found["architecture"] = cut(
            ", ".join(f"{key} {value}" for key, value in facts.items()), 300
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        found["architecture"] = ""
    return found


def curve(run, home):
    """[(seconds, tokens, loss)] of a run, thinned out to POINTS means."""
    points = (
        early_stopping.read_curve(home / run["folder"] / "curve.jsonl")[0]
        if "folder" in run
        else []
    )
    size = math.ceil(len(points) / POINTS) or 1
    pieces = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        [float(f"{sum(column) / len(piece):.5g}") for column in zip(*piece)] for piece in pieces
    ]
