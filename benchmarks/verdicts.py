"""Simulates nights of 470 runs by the rule of ratchet/experiments/verdicts.py, and by its rivals.

    uv run benchmarks/verdicts.py [--json] [--table] [--seed 0] [--nights 400]

How much true gain does a rule find, and how much of what it keeps or claims is luck? nights.py has
the rules, with the functions that really decide; ideas.py has the priors of what ideas are worth.
Every rule meets the same ideas. Writes verdicts.json and verdicts.svg beside this file; --json prints
the figures and writes nothing, --table prints the tables of README and docs from verdicts.json.

figures[rule][world][figure], as figures["default"]["a"]["true"]:

rule    default, strict, bold; half, half_strict, half_bold: with first runs stopped early;
        greedy (any lower number is kept), half_greedy, former (the rule before this one)
world   a prior of ideas.py, or one with a condition: a_t3 (heavy tails), a_workers (8 at a time),
        a_loud (what has no effect is 3 times as noisy), a_some-loud (30 % of it is), b2_short (100
        runs), b2_overlap (merged gains fall 30 % short of their sum), a_unlike, a_alike (sources
        that share a seed correlate by 0 or 0.9 instead of 0.5), b2_better, b2_worse, b2_wave,
        b2_walk (the machine drifts by 3 sigma); nothing: no idea has an effect
figure  true (gain, sigma), error (standard error of that), fdr (share of keeps without a gain),
        nulls_kept (share of ideas without a gain that were kept), loud_kept (of the noisy ones),
        harmful (keeps below -0.5 sigma, a night), keeps, ideas, runs, runs_per_idea, delay (runs
        from an idea's first to its keep), claimed (sum of kept gains, which is no claim), closing
        (the closing comparison, which is), covered (nights whose 95 % interval holds the true gain)

figures["closing"]: closing / true in calm and in each drift; "drift" is the one farthest from 1.
figures["random"]: geometric means of the true gain over greedy's and the former rule's, for 10
priors drawn at random. figures["rule"], figures["stop"]: the constants that decided.
"""

import argparse
import json
import math
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import ideas
import nights
import numpy as np
from cheats_table import make_table, replace_block
from nights import Former, Night, Stop, Weather, play_greedy

from ratchet.experiments import verdicts

HERE = Path(__file__).resolve().parent
MEASURED = Stop()  # how well a first run's curve tells its end
DRIFT = 3.0  # sigma over a night: from its begin to its end, from trough to crest, or as sd
RANDOM = 10  # random priors
CHUNK = 50  # nights of one task
PROCESSES = 2


def slow_drift(shape):
    """A function (chance, runs) -> drift after each run."""

    def drift(chance, runs):
        night = np.arange(runs + 1) / runs
        if shape == "walk":
            return np.cumsum(chance.standard_normal(runs + 1)) * DRIFT / math.sqrt(runs)
        wave = np.sin(2 * math.pi * night) / 2
        return DRIFT * {"better": -night, "worse": night, "wave": wave}[shape]

    return drift


DRIFTS = {shape: slow_drift(shape) for shape in ("better", "worse", "wave", "walk")}
CONDITIONS = {
    "unlike": {"alike": 0.0},
    "alike": {"alike": 0.9},
    "t3": {"tails": 3},
    "short": {"runs": 100},
    "overlap": {"overlap": 0.3},
}
CONDITIONS |= {shape: {"drift": drift} for shape, drift in DRIFTS.items()}
NOISY = {"loud": 1.0, "some-loud": 0.3}
POINTS = "default strict bold half half_strict half_bold".split()
RULES = [*POINTS, "greedy", "half_greedy", "former"]


def prior_of(name, seed, number):
    """The prior of that name in that night; the empirical ones are another log each night."""
    if name in ideas.SIGMAS:
        logs = ideas.empirical_priors(ideas.SIGMAS[name])
        return logs[number % len(logs)]
    if name.startswith("random"):
        return ideas.random_prior(seed, int(name.removeprefix("random")))
    return ideas.PRIORS[name]


def play(rule, world, seed, number, path=False):
    """The tally of one night. The same prior, seed and number bring the same ideas and luck."""
    name, _, condition = world.partition("_")
    chance = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    prior = prior_of(name, seed, number)._replace(noisy=NOISY.get(condition, 0.0))
    weather = Weather(prior, chance, **CONDITIONS.get(condition, {}))
    stop = MEASURED if rule.startswith("half") else None
    if rule.endswith("greedy"):
        return play_greedy(weather, stop, path)
    if rule == "former":
        return Former(weather, path).play()
    profile = verdicts.PROFILES[rule.removeprefix("half").removeprefix("_") or "default"]
    return Night(weather, profile, stop, 8 if condition == "workers" else 1, path).play()


def cases():
    """Every (rule, world) that is simulated."""
    worlds = {world: RULES for world in "a b b2 e nothing b2_short".split()}
    worlds |= dict.fromkeys(
        "a_t3 b_t3 a_loud a_some-loud small".split(), ["default", "strict", "greedy", "former"]
    )
    seeds = [f"{prior}_{how}" for prior in ("a", "b", "b2") for how in ("unlike", "alike")]
    worlds |= dict.fromkeys(seeds, ["default", "strict", "half"])
    worlds |= dict.fromkeys(["e5", "e10"], ["default", "half", "greedy", "former"])
    worlds |= dict.fromkeys([f"b2_{shape}" for shape in DRIFTS], ["default", "greedy"])
    worlds |= dict.fromkeys(["a_workers", "b_workers", "b2_overlap"], ["default"])
    randoms = [f"random{number}" for number in range(RANDOM)]
    worlds |= dict.fromkeys(randoms, ["default", "half", "greedy", "former"])
    return [(rule, world) for world, rules in worlds.items() for rule in rules]


def play_some(task):
    rule, world, seed, begin, end = task
    return [play(rule, world, seed, number) for number in range(begin, end)]


def summarize(tallies):
    """The figures of one rule in one world."""
    names = "true claimed closing spent ideas nulls noisy keeps false harmful noisy_kept delay"
    each = {name: np.array([getattr(t, name) for t in tallies], float) for name in names.split()}
    mean = {name: values.mean() for name, values in each.items()}

    def ratio(part, whole):
        return mean[part] / mean[whole] if mean[whole] else 0.0

    figures = {name: mean[name] for name in ("true", "claimed", "keeps", "ideas", "harmful")}
    figures |= {"error": standard_error(each["true"]), "runs": mean["spent"]}
    figures |= {"fdr": ratio("false", "keeps"), "nulls_kept": ratio("false", "nulls")}
    figures |= {"runs_per_idea": ratio("spent", "ideas"), "delay": ratio("delay", "keeps")}
    if mean["noisy"]:
        figures["loud_kept"] = ratio("noisy_kept", "noisy")
    if not math.isnan(mean["closing"]):
        figures |= {"closing": mean["closing"], "closing_error": standard_error(each["closing"])}
        figures["covered"] = np.mean([t.low <= t.true <= t.high for t in tallies])
    return figures


def standard_error(values):
    return values.std(ddof=1) / math.sqrt(len(values))


def measure(seed=0, count=400, processes=PROCESSES, pairs=None):
    """All figures, nested: see the top of this file. processes=0: in this process."""
    begin, pairs = time.monotonic(), pairs or cases()
    starts = range(0, count, CHUNK)
    tasks = [(*pair, seed, start, min(count, start + CHUNK)) for pair in pairs for start in starts]
    if processes:
        with ProcessPoolExecutor(processes) as pool:
            played = list(pool.map(play_some, tasks))
    else:
        played = [play_some(task) for task in tasks]
    figures = {}
    for number, (rule, world) in enumerate(pairs):
        tallies = sum(played[number * len(starts) : (number + 1) * len(starts)], [])
        figures.setdefault(rule, {})[world] = summarize(tallies)
    facts = {"nights": count, "seed": seed, "runs": nights.RUNS, "rule": constants()}
    facts |= {"stop": MEASURED._asdict(), "seconds": time.monotonic() - begin}
    return rounded(facts | figures | claims_of(figures) | ratios_of(figures))


def constants():
    profiles = {name: profile._asdict() for name, profile in verdicts.PROFILES.items()}
    return {
        "DRIFT": verdicts.DRIFT,
        "SEED_SHARE": verdicts.SEED_SHARE,
        "CLOSING": verdicts.CLOSING,
        "PROFILES": profiles,
    }


def claims_of(figures):
    """The closing comparison over the truth, in calm and in drifts."""
    default = figures.get("default", {})
    ratios = {w: f["closing"] / f["true"] for w, f in default.items() if f["true"]}
    drifts = {shape: ratios[f"b2_{shape}"] for shape in DRIFTS if f"b2_{shape}" in ratios}
    calm = [ratios[world] for world in ("a", "b", "b2") if world in ratios]
    if not (drifts and calm):
        return {}
    farthest = max(drifts.values(), key=lambda ratio: abs(ratio - 1))
    return {"closing": {"calm": np.mean(calm), "drift": farthest} | drifts}


def ratios_of(figures):
    """True gains over greedy's and the former rule's on random priors: geometric means."""
    worlds = [world for world in figures.get("half", {}) if world.startswith("random")]
    if not worlds:
        return {}

    def ratio(rule, other):
        ratios = [figures[rule][w]["true"] / figures[other][w]["true"] for w in worlds]
        return float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-9)))))

    ratios = {"ratio": ratio("default", "greedy"), "half_ratio": ratio("half", "greedy")}
    return {"random": ratios | {"former_ratio": ratio("default", "former")}}


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(float(value), 4) if isinstance(value, float | np.floating) else value


# --------------------------------------------------------------------------------------------------
# The tables of README and docs

NAMES = {
    "greedy": "any lower number is kept",
    "former": "the former rule",
    "strict": "`strict`",
    "default": "`default`",
    "bold": "`bold`",
    "half_greedy": "any lower number, hopeless first runs stopped",
    "half_strict": "`strict`, hopeless first runs stopped",
    "half": "`default`, hopeless first runs stopped",
    "half_bold": "`bold`, hopeless first runs stopped",
}


def rules_table(figures):
    """Each rule: true gain by prior, claim, keeps without effect."""
    worlds = {"a": "a", "b": "b", "b2": "b2", "e": "e", "b2_short": "b2 in 100 runs"}
    rows = [["rule", *(f"true gain, {name}" for name in worlds.values()), "claimed / true (b2)"]]
    rows[0] += ["keeps without effect (b2)", "nulls kept (b2)", "runs per idea (b2)"]
    for rule, name in NAMES.items():
        b2 = figures[rule]["b2"]
        claimed = b2.get("closing", b2["claimed"]) / b2["true"]
        row = [name, *(f"{figures[rule][world]['true']:.1f}" for world in worlds), f"{claimed:.2f}"]
        row += [f"{100 * b2['fdr']:.1f} %", f"{100 * b2['nulls_kept']:.1f} %"]
        rows.append([*row, f"{b2['runs_per_idea']:.1f}"])
    return make_table(rows[0], rows[1:])


CONDITION_NAMES = {
    "a": "a, calm",
    "a_t3": "a, heavy tails (t3)",
    "a_unlike": "a, a seed says nothing",
    "a_alike": "a, correlation of 0.9 with one seed",
    "a_workers": "a, 8 runs at a time",
    "a_loud": "a, what has no effect is 3 times as noisy",
    "a_some-loud": "a, 30 % of what has no effect is 3 times as noisy",
    "b2": "b2, calm",
    "b2_better": "b2, scores improve by 3 sigma",
    "b2_worse": "b2, scores worsen by 3 sigma",
    "b2_wave": "b2, one wave of 3 sigma",
    "b2_walk": "b2, random walk, sd 3 sigma",
    "b2_overlap": "b2, merged gains 30 % short of their sum",
    "b2_short": "b2, 100 runs",
    "nothing": "no idea has an effect",
}


def conditions_table(figures):
    """`default` under each condition, beside greedy."""
    rows = [["`default`", "true gain", "greedy's", "closing comparison", "keeps without effect"]]
    for world, name in CONDITION_NAMES.items():
        ours, greedy = figures["default"][world], figures["greedy"].get(world)
        row = [name, f"{ours['true']:.1f}", f"{greedy['true']:.1f}" if greedy else ""]
        row += [f"{ours['closing']:.1f}", f"{100 * ours['fdr']:.0f} %"]
        rows.append(row)
    return make_table(rows[0], rows[1:])


COMMANDS = {  # hopeless first runs are stopped, as these verbs do
    "half_greedy": NAMES["greedy"],
    "half_strict": "`try`",
    "half": "`night`",
}


def short_table(figures):
    """The README's: each verb's rule in three priors."""
    rows = [["rule", "true gain in sigma (a, b, b2)", "in 100 runs (b2)"]]
    rows[0] += ["keeps without effect (b2, a)", "claimed / true (b2)"]
    for rule, name in COMMANDS.items():
        b2 = figures[rule]["b2"]
        gains = ", ".join(f"{figures[rule][world]['true']:.0f}" for world in ("a", "b", "b2"))
        nulls = ", ".join(f"{100 * figures[rule][world]['fdr']:.0f} %" for world in ("b2", "a"))
        claimed = b2.get("closing", b2["claimed"]) / b2["true"]
        short = f"{figures[rule]['b2_short']['true']:.0f}"
        rows.append([name, gains, short, nulls, f"{claimed:.2f}"])
    return make_table(rows[0], rows[1:])


def write_tables(figures):
    """Put the tables into README and docs."""
    tables = {
        "README.md": short_table(figures),
        "docs/statistics.md": rules_table(figures) + "\n\n" + conditions_table(figures),
    }
    for name, table in tables.items():
        path = HERE.parent / name
        page = replace_block(path.read_text("utf-8"), "simulated nights", table)
        path.write_text(page, encoding="utf-8")


def main():
    import verdicts_chart

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the figures, write nothing")
    parser.add_argument(
        "--table", action="store_true", help="print and publish verdicts.json as it is"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nights", type=int, default=400, help="for each figure")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    options = parser.parse_args()
    if not options.table:
        figures = measure(options.seed, options.nights, options.processes)
        if options.json:
            return print(json.dumps(figures))
        (HERE / "verdicts.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        (HERE / "verdicts.svg").write_text(verdicts_chart.draw(options.seed), encoding="utf-8")
    figures = json.loads((HERE / "verdicts.json").read_text("utf-8"))
    write_tables(figures)
    print(rules_table(figures), conditions_table(figures), sep="\n\n")


if __name__ == "__main__":
    main()
