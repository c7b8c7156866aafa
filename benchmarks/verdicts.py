"""Simulates nights of experiments and counts how often the rule of ratchet/experiments/verdicts.py is fooled.

    uv run benchmarks/verdicts.py [--json] [--experiments 10000]

The scores are drawn at random around true means that only the simulation knows; every decision is
made by the functions that the referee calls. A night calibrates on 5 runs and then judges 100
experiments one after the other: sigma is as uncertain as it really is, champion runs are used
again, a kept candidate is the next champion. Unit: sigma, the true standard deviation of a run.
Writes verdicts.json and verdicts.svg beside this file, unless --json prints the figures alone.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
from scipy.special import betaincinv

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from ratchet.experiments import verdicts
from ratchet.report.palette import BLUE, ORANGE, SKY, VERMILION

CALIBRATION, NIGHT = 5, 100  # runs, experiments
RUN_SECONDS = 390  # 300 of training; start, rehearsal, scoring
DRIFT = 3.0  # sigma, over a night: from its begin to its end, or from crest to trough
SHARE = 0.3  # of a night's experiments have the effect that is studied, the others none
REAL, GAIN = 5, 2.0  # gains among the experiments of a realistic night, sigma each
EFFECTS = -3.0, 1.0, 2.0, 3.0


class Source:
    def __init__(self, mean, spread=1.0):
        self.mean, self.spread, self.runs = mean, spread, []
        self.proof = 0  # of its runs, the first ones: those by which it was kept


class Night:
    """One referee's sequence of runs, as the referee makes them: one at a time, in order."""

    def __init__(self, seed, drift=lambda runs: 0.0):
        self.draws = iter(np.random.default_rng(seed).standard_normal(2500).tolist())
        self.drift, self.made = drift, 0
        self.champion = Source(0.0)
        self.champions = [self.champion]
        for _ in range(CALIBRATION):
            self.run(self.champion)

    def score(self, source):
        self.made += 1
        return source.mean + source.spread * next(self.draws) + self.drift(self.made)

    def run(self, source):
        source.runs.append((self.made * RUN_SECONDS, self.score(source)))

    def noise(self):
        """From champions' runs alone, as the referee has it, without those that made them
        champions.
        """
        groups = (source.runs[source.proof :] for source in self.champions)
        return verdicts.pool_noise([score for _, score in runs] for runs in groups)

    def experiment(self, effect, spread=1.0, fewer_tokens=False):
        """(verdict, runs it took, estimated gain); effect: true gain over the present champion."""
        before, noise, champion = self.made, self.noise(), self.champion
        if not verdicts.recent_scores(champion.runs, self.made * RUN_SECONDS):
            self.run(champion)
        earlier = verdicts.recent_scores(champion.runs, self.made * RUN_SECONDS)
        candidate, begin = Source(champion.mean - effect, spread), len(champion.runs)
        if not verdicts.passes_screen(self.score(candidate), earlier, noise):
            return "discard", self.made - before, 0.0
        verdict = ""
        while not verdict:
            turn = [candidate, champion] if len(candidate.runs) % 2 == 0 else [champion, candidate]
            for source in turn:
                self.run(source)
            scores = [score for _, score in candidate.runs]
            arm = earlier + [score for _, score in champion.runs[begin:]]
            verdict = verdicts.decide(scores, arm, noise, fewer_tokens).verdict
        if verdict == "keep":
            self.champion, candidate.proof = candidate, len(candidate.runs)
            self.champions.append(candidate)
        return verdict, self.made - before, verdicts.compare(scores, arm, noise).gain


def simulate(name, nights, effect=0.0, drift=lambda runs: 0.0, **how):
    """Nights in which SHARE of the experiments have the effect, if it is one; (verdict, runs, gain)
    of those.

    Returns a list of nights, each a list. A noisy candidate that is kept loses its noise: else the
    next nulls would be measured against it.
    """
    found = []
    for number in range(nights):
        seed = [sum(map(ord, name)), number]
        night, chance = Night(seed, drift), np.random.default_rng([*seed, 1])
        studied = chance.random(NIGHT) < (SHARE if effect or how else 1)
        outcomes = []
        for special in studied:
            outcome = night.experiment(effect, **how) if special else night.experiment(0.0)
            night.champion.spread = 1.0
            outcomes += [outcome] * bool(special)
        found.append(outcomes)
    return found


def rate(nights, first=None):
    """(share kept, upper end of its 95% interval).

    The interval is Clopper and Pearson's, or the nights' own where wider: experiments of a night
    share sigma.
    """
    kept = [[outcome[0] == "keep" for outcome in night[:first]] for night in nights]
    k, n = sum(map(sum, kept)), sum(map(len, kept))
    exact = betaincinv(k + 1, n - k, 0.975) if k < n else 1.0
    shares = [sum(night) / len(night) for night in kept if night]
    return k / n, max(exact, k / n + 1.96 * np.std(shares, ddof=1) / math.sqrt(len(shares)))


def runs(nights):
    return float(np.mean([outcome[1] for night in nights for outcome in night]))


def drifts(length):
    """Slow drifts over a night of so many runs; the fast one is here to show the rule's limit."""

    def wave(times):
        return lambda made: DRIFT / 2 * math.sin(2 * math.pi * times * made / length)

    slow = {
        "better": lambda made: -DRIFT * made / length,
        "worse": lambda made: DRIFT * made / length,
    }
    return slow | {"wave": wave(1)}, wave(5)


def quick(effect, nights):
    """The share that decide_quick keeps: one run each against 5 of calibration."""
    kept = []
    for number in range(nights):
        draws = np.random.default_rng([7, number]).standard_normal(CALIBRATION + 20).tolist()
        champion = draws[:CALIBRATION]
        noise = verdicts.pool_noise([champion])
        found = [
            verdicts.decide_quick(draw - effect, champion, noise) for draw in draws[CALIBRATION:]
        ]
        kept += [verdict.verdict == "keep" for verdict in found]
    return float(np.mean(kept))


def greedy(effects, seed):
    """One run each; a number below the best so far is kept. (claimed, true) gain after each, and
    keeps.
    """
    draws = np.random.default_rng(seed).standard_normal(len(effects) + 1).tolist()
    first = best = draws[0]
    true, path, keeps = 0.0, [], 0
    for effect, draw in zip(effects, draws[1:]):
        if draw - true - effect < best:
            best, true, keeps = draw - true - effect, true + effect, keeps + 1
        path.append((first - best, true))
    return path, keeps


def patient(effects, seed):
    """The same by our rule; runs it took; the gain by those champion runs that no keep hung on, if
    any.
    """
    night, claimed, path, keeps = Night(seed), 0.0, [], 0
    baseline = np.mean([score for _, score in night.champion.runs])
    for effect in effects:
        verdict, _, gain = night.experiment(effect)
        claimed, keeps = claimed + gain * (verdict == "keep"), keeps + (verdict == "keep")
        path.append((claimed, -night.champion.mean))
    later = [score for _, score in night.champion.runs[night.champion.proof :]]
    return path, keeps, night.made, baseline - np.mean(later) if later else math.nan


def realistic(nights):
    """Nights with a few real gains: figures; the paths [nights, experiments, (claimed, true)] of
    both rules.

    Greedy is also given as many runs as ours took, which are more experiments, with gains as
    frequent.
    """
    chance, paths, keeps, facts = np.random.default_rng(3), {"ratchet": [], "greedy": []}, [], []
    for number in range(nights):
        effects = np.zeros(NIGHT)
        effects[chance.choice(NIGHT, REAL, replace=False)] = GAIN
        ours, kept, made, later = patient(effects.tolist(), [4, number])
        theirs, best = greedy(effects.tolist(), [5, number])
        more = np.where(chance.random(made) < REAL / NIGHT, GAIN, 0.0)
        facts.append((made, later, *greedy(more.tolist(), [6, number])[0][-1], more.sum()))
        paths["ratchet"].append(ours)
        paths["greedy"].append(theirs)
        keeps.append((kept, best))
    figures = {"night_real_gain": REAL * GAIN, "night_runs_greedy": NIGHT}
    words = "runs_ratchet remeasured_ratchet"
    words += " claimed_greedy_equal_runs true_greedy_equal_runs real_greedy_equal_runs"
    figures |= {f"night_{word}": value for word, value in zip(words.split(), np.nanmean(facts, 0))}
    for (name, path), kept in zip(paths.items(), np.mean(keeps, 0)):
        claimed, true = np.mean(path, 0)[-1]
        figures |= {f"night_claimed_{name}": claimed, f"night_true_{name}": true}
        figures |= {f"night_false_gain_{name}": claimed - true, f"night_keeps_{name}": kept}
    return figures, {name: np.array(path) for name, path in paths.items()}


def false_keeps(nights):
    """How often what is no gain is kept: in calm, soon after calibration, in drift, if noisy, as a
    tie.
    """
    calm = simulate("null", nights)
    figures = {"runs_per_verdict": runs(calm)}
    figures["undecided_rate"] = np.mean([o[0] == "undecided" for night in calm for o in night])
    slow, fast = drifts(NIGHT * runs(calm))
    drifted = {name: rate(simulate(name, nights, drift=drift)) for name, drift in slow.items()}
    figures["false_keep_drift_by_shape"] = {name: value[0] for name, value in drifted.items()}
    cases = {"": rate(calm), "_early": rate(calm, 10), "_drift": max(drifted.values())}
    cases["_fast_drift"] = rate(simulate("fast", nights, drift=fast))
    cases["_noisy"] = rate(simulate("noisy", nights, spread=3.0))
    cases["_tie_1sigma_worse"] = rate(simulate("worse tie", nights // 2, -1.0, fewer_tokens=True))
    for name, (share, upper) in cases.items():
        figures |= {f"false_keep{name}_rate": share, f"false_keep{name}_upper95": upper}
    return figures, simulate("fast", nights // 2, 2.0, drift=fast)


def measure(experiments):
    nights, begin = max(4, experiments // NIGHT), time.monotonic()
    figures, fast = false_keeps(nights)
    figures["runs_per_verdict_by_effect"] = {"0": figures["runs_per_verdict"]}
    for effect in EFFECTS:
        found = simulate(f"effect {effect}", nights // 2, effect)
        figures["runs_per_verdict_by_effect"][f"{effect:g}"] = runs(found)
        if effect > 0:
            figures[f"power_{effect:g}sigma"] = rate(found)[0]
    figures["harmful_keep_rate"] = rate(simulate("effect -3.0", nights // 2, -3.0))[0]
    figures["power_2sigma_fast_drift"] = rate(fast)[0]
    tie = simulate("tie", nights // 2, fewer_tokens=True)
    figures |= {"tie_keep_rate": rate(tie)[0], "tie_runs": runs(tie)}
    figures["quick_false_keep_rate"] = quick(0.0, 5 * nights)
    figures |= {f"quick_power_{e:g}sigma": quick(e, 5 * nights) for e in (2.0, 3.0, 4.0)}
    more, paths = realistic(2 * nights)
    names = "ALPHA LOOKS SHARES FUTILE SCREEN RECENT RECENT_HOURS".split()
    rule = {name: getattr(verdicts, name) for name in names}
    facts = {"rule": rule, "experiments": nights * NIGHT, "seconds": time.monotonic() - begin}
    return rounded(facts | figures | more), paths


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(float(value), 4) if isinstance(value, float | np.floating) else value


# --------------------------------------------------------------------------------------------------
# What is printed, what is drawn


def table(figures):
    from rich.console import Console
    from rich.table import Table

    console = Console()

    def percent(key):
        return f"{100 * figures[key]:.2f}%"

    shown = Table("kept though no gain", "rate", "at most (95%)")
    names = {"": "no effect", "_early": "the 10 after calibration"}
    names |= {
        "_drift": "slow drift of 3 sigma, the worst",
        "_fast_drift": "drift five times as fast",
    }
    names |= {
        "_noisy": "as good, 3 times as noisy",
        "_tie_1sigma_worse": "1 sigma worse, fewer tokens",
    }
    for key, name in names.items():
        shown.add_row(name, percent(f"false_keep{key}_rate"), percent(f"false_keep{key}_upper95"))
    console.print(shown)
    shown = Table("true gain, sigma", "kept", "runs per verdict")
    keys = {"-3": "harmful_keep_rate", "0": "false_keep_rate"} | {
        e: f"power_{e}sigma" for e in "123"
    }
    for effect, key in keys.items():
        shown.add_row(effect, percent(key), f"{figures['runs_per_verdict_by_effect'][effect]:.2f}")
    shown.add_row("0, fewer tokens", percent("tie_keep_rate"), f"{figures['tie_runs']:.2f}")
    console.print(shown)
    shown = Table(
        f"a night, {REAL} gains of {GAIN:g} sigma", "claimed", "true", "false", "keeps", "runs"
    )
    for name in ("ratchet", "greedy"):
        words = [
            figures[f"night_{word}_{name}"] for word in "claimed true false_gain keeps runs".split()
        ]
        shown.add_row(name, *(f"{word:.1f}" for word in words))
    equal = [figures[f"night_{word}_greedy_equal_runs"] for word in ("claimed", "true")]
    words = [f"{word:.1f}" for word in (*equal, equal[0] - equal[1], figures["night_runs_ratchet"])]
    shown.add_row("greedy, as many runs", *words[:3], "", words[3])
    console.print(shown)
    later = figures["night_remeasured_ratchet"]
    console.print(
        f"ratchet's gain by champion runs after the keep: {later:.1f}; {figures['seconds']:.0f} s"
    )


STYLE = f"""
text {{ font: 13px system-ui, sans-serif; fill: #333 }} .back {{ fill: #fff }} .grid {{ stroke: #ddd }}
.ratchet {{ stroke: {BLUE}; fill: {BLUE} }} .greedy {{ stroke: {VERMILION}; fill: {VERMILION} }}
.real {{ stroke: #777; stroke-dasharray: 2 4 }} polyline {{ fill: none; stroke-width: 2.2 }}
.true {{ stroke-dasharray: 7 4 }} text.ratchet, text.greedy, polygon.ratchet, polygon.greedy {{ stroke: none }}
polyline.ratchet, polyline.greedy {{ fill: none }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #ddd }} .back {{ fill: #0d1117 }} .grid {{ stroke: #333 }} .real {{ stroke: #999 }}
.ratchet {{ stroke: {SKY}; fill: {SKY} }} .greedy {{ stroke: {ORANGE}; fill: {ORANGE} }} }}
"""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 60, 130, 40, 50


def x(value):
    return round(LEFT + (WIDTH - LEFT - RIGHT) * value / NIGHT, 1)


def y(value, top):
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top, 1)


def text(x, y, words, more=""):
    return f'<text x="{x}" y="{y}" {more}>{words}</text>'


def frame(top):
    """Title, axes, grid."""
    title = f"Gain claimed and true gain in a night with {REAL} real gains of {GAIN:g} sigma"
    parts = [f'<rect class="back" width="{WIDTH}" height="{HEIGHT}"/>']
    parts += [text(LEFT, 22, f"{title} (mean; band: 80% of claims)")]
    for value in range(0, int(top) + 1, 2):
        height = y(value, top)
        parts += [
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}"/>'
        ]
        parts += [text(LEFT - 8, height + 4, value, 'text-anchor="end"')]
    for value in range(0, NIGHT + 1, 20):
        parts += [text(x(value), HEIGHT - BOTTOM + 20, value, 'text-anchor="middle"')]
    parts += [text(x(NIGHT / 2), HEIGHT - 8, "experiments", 'text-anchor="middle"')]
    turned = f'text-anchor="middle" transform="translate(18 {y(top / 2, top)}) rotate(-90)"'
    return [*parts, text(0, 0, "gain over the baseline, sigma", turned)]


def chart(paths):
    """Claimed and true gain over a night by both rules: mean, band from the 10th to the 90th
    percentile.
    """
    top = max(REAL * GAIN, *(np.quantile(path, 0.9, axis=0).max() for path in paths.values())) + 1

    def points(values):
        return 'points="' + " ".join(f"{x(i)},{y(value, top)}" for i, value in values) + '"'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"><style>{STYLE}</style>'
    ]
    parts += [*frame(top), f'<polyline class="real" {points([(0, 0), (NIGHT, REAL * GAIN)])}/>']
    ends, place = [("", "all real gains", REAL * GAIN)], 0
    for name, path in paths.items():
        for kind, values in zip(("claimed", "true"), np.moveaxis(path, 2, 0)):
            low, high = np.quantile(values, [0.1, 0.9], axis=0)
            band, mean = (
                [*enumerate(high, 1), *reversed([*enumerate(low, 1)])],
                [0, *values.mean(0)],
            )
            if kind == "claimed":  # true gains come in steps: their band would only clutter
                parts += [f'<polygon class="{name}" fill-opacity="0.12" {points(band)}/>']
            parts += [f'<polyline class="{name} {kind}" {points(enumerate(mean))}/>']
            ends.append((name, f"{name}, {kind}", mean[-1]))
    for name, words, value in sorted(ends, key=lambda end: -end[2]):
        place = max(y(value, top) + 4, place + 15)  # labels don't overlap
        parts.append(text(x(NIGHT) + 8, place, words, f'class="{name}"'))
    return "\n".join([*parts, "</svg>\n"])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--experiments", type=int, default=10_000)
    options = parser.parse_args()
    figures, paths = measure(options.experiments)
    if options.json:
        return print(json.dumps(figures))
    (HERE / "verdicts.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (HERE / "verdicts.svg").write_text(chart(paths), encoding="utf-8")
    table(figures)


if __name__ == "__main__":
    main()
