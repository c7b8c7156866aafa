"""The command line: `uv run ratchet VERB`."""

import json
import math
import statistics
import sys
import threading
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table

from ratchet import devices, experiments, pool, sources, verdicts
from ratchet import night as night_of
from ratchet.doctor import examine
from ratchet.ledger import Broken, Full, Ledger, bpb
from ratchet.verify import find_problems

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="Judge changes of train.py: fixed budget, measured noise, scores that a contestant can't touch.\n\n"
    "Start with `doctor`, then `calibrate`; then commit a change of train.py and `try` it.")  # fmt: skip
console, notes = Console(highlight=False), Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of tables.")]
Seeds = Annotated[int, typer.Option("-n", "--seeds", help="Runs of each source, with a fresh seed each.")]
Budget = Annotated[
    str, typer.Option(help="Of each run: 20s, 20e6tok, 1e15flop. Default: the arena's seconds.")
]
Device = Annotated[str, typer.Option(help="cuda:0, mps, cpu. Default: the best here.")]
On = Annotated[str, typer.Option("--on", help="ray or slurm: a device of that cluster, not of this machine.")]
Arena = Annotated[str, typer.Option(help="pocket, climbmix, or one of yours. Default: what fits the device.")]
Busy = Annotated[bool, typer.Option("--busy", help="Count runs although other programs use this machine.")]
Names = typer.Argument(metavar="A B", help="Commits or files; each is compared with the first.")
STYLES = {"keep": "green", "baseline": "cyan", "discard": "dim", "undecided": "yellow"}


def main():
    """Run the verb; a user's mistake is one sentence and exit code 2."""
    try:
        app()
    except (sources.Refused, Broken, Full, ValueError) as error:
        name = "ledger.jsonl, " if isinstance(error, Broken) else ""
        print(f"ratchet: {name}{error}.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


class Live:
    """A line for each device that moves while runs last, and one for each that has ended; on stderr."""

    def __init__(self):
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        self.progress = Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal)
        self.tasks = {}  # of each thread: what was told last, its moving line

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *_):
        self.progress.stop()

    def __call__(self, text):
        last, task = self.tasks.get(threading.get_ident(), ("", None))
        if text == last:
            return
        if task is not None:
            self.progress.remove_task(task)
        self.tasks[threading.get_ident()] = text, self.progress.add_task(escape(text))
        if text.startswith("  ") or not notes.is_terminal:
            notes.print(escape(text))


def carry_out(verb, *args, device=None, on=None, arena=None, budget=None, busy=False, **options):
    """Call a function of experiments.py, alone in this repository, and tell of it; returns the experiment."""
    with Live() as tell:
        place = pool.places(on, device and [device])[0]
        bench = experiments.Bench(arena=arena, budget=budget, busy=busy, tell=tell, place=place)
        try:
            with bench.alone():
                return verb(bench, *args, **options)
        except KeyboardInterrupt:  # typer would end without a word
            notes.print("\nratchet: interrupted; the same command goes on where it stopped.")
            raise SystemExit(130) from None


def show_json(value):
    print(json.dumps(value, indent=2))


def facts(e):
    """An experiment as JSON: its facts, and what is derived from them."""
    scores = [e.scores(arm) for arm in range(len(e.arms))]
    return asdict(e) | {"verdict": e.verdict, "reason": e.closes.get("reason", ""), "scores": scores}


def show_verdict(e, as_json):
    if as_json:
        return show_json(facts(e))
    style = STYLES.get(e.verdict, "red")
    verdict, why = e.verdict or "unfinished", escape(e.closes.get("reason", ""))
    console.print(f"experiment {e.n}: [bold {style}]{verdict}[/]  {why}", soft_wrap=True)
    if needed := e.closes.get("seeds_needed"):
        console.print(f"about {needed} seeds per arm would settle it")
    for run in e.runs:
        if run["status"] != "ok":
            console.print(escape("\n".join(run["tail"])), style="dim")
    if levels := {run["isolation"] for run in e.runs} - {"bubblewrap", "landlock"}:
        console.print(f"isolation was {', '.join(levels)}: see `ratchet doctor`", style="yellow")


@app.command()
def doctor(device: Device = None, as_json: AsJson = False):
    """Look at device, memory, disk, arena and sandbox; say what to do about each."""
    found = examine(devices.choose(device))
    if as_json:
        return show_json([finding._asdict() for finding in found])
    table = Table("", "check", "found", "what to do", box=None)
    for finding in found:
        mark = "[green]ok[/]" if finding.well else "[yellow]!![/]"
        table.add_row(mark, escape(finding.name), escape(finding.seen), finding.advice)
    console.print(table)


@app.command()
def calibrate(
    seeds: Seeds = 5, budget: Budget = None, arena: Arena = None, device: Device = None, on: On = None,
    busy: Busy = False, as_json: AsJson = False,
):  # fmt: skip
    """Measure the noise of HEAD's train.py, which becomes the first champion. Begin here."""
    e = carry_out(experiments.calibrate, seeds, device=device, on=on, arena=arena, budget=budget, busy=busy)
    show_verdict(e, as_json)
    if e.verdict != "baseline":
        notes.print("no baseline: all its runs must end well. Mend train.py, or give a longer --budget")
        raise SystemExit(1)


@app.command(name="try")
def attempt(
    idea: Annotated[str, typer.Argument(help="What the commit changes and why, in a sentence.")],
    quick: Annotated[bool, typer.Option(help="One seed against the known sigma: quicker, weaker.")] = False,
    again: Annotated[bool, typer.Option(help="Run it although the same source was tried before.")] = False,
    by: Annotated[str, typer.Option(help="Who had the idea.")] = "",
    device: Device = None, on: On = None, busy: Busy = False, as_json: AsJson = False,
):  # fmt: skip
    """Try HEAD's train.py against the champion: screen on one seed, confirm on fresh ones, decide."""
    before = {e.n for e in Ledger(sources.home()).experiments().values() if e.closes}
    where = dict(device=device, on=on, busy=busy)
    e = carry_out(experiments.attempt, idea, quick=quick, again=again, by=by, **where)
    if e.n in before:
        notes.print(f"this source was tried before, as experiment {e.n}; --again runs it once more")
    show_verdict(e, as_json)


def show_contrast(e, found, split, as_json):
    rows, tests = [], max(1, len(found) - 1)
    for arm, (scores, other) in zip(e.arms, found):
        row = {"name": arm["name"], "scores": scores, "mean": sum(scores) / len(scores) if scores else None}
        if other:
            row |= other._asdict() | {"settled": tests * other.p_two < verdicts.ALPHA}
        rows.append(row)
    if as_json:
        return rows
    title = f"{split} bits per byte, {e.closes.get('reason', '')}"
    table = Table(
        "source",
        "runs",
        "mean ± sd",
        f"gain on {e.arms[0]['name']} (95%)",
        "p, two-sided",
        "settled",
        title=title,
    )
    for row in rows:
        mean = f"{statistics.mean(row['scores']):.4f}" if row["scores"] else ""
        mean += f" ± {statistics.stdev(row['scores']):.4f}" if len(row["scores"]) > 1 else ""
        rest = [f"{row['gain']:+.4f} ± {row['high'] - row['gain']:.4f}", f"{row['p_two']:.2g}",
                "yes" if row["settled"] else "no"] if "gain" in row else ["", "", ""]  # fmt: skip
        table.add_row(escape(row["name"]), str(len(row["scores"])), mean, *rest)
    console.print(table)
    if tests > 1:
        console.print(f"settled: p x {tests} comparisons < {verdicts.ALPHA} (Bonferroni)")
    return rows


@app.command()
def compare(
    names: Annotated[list[str], Names],
    seeds: Seeds = 5,
    frame: Annotated[str, typer.Option(help="What all get equally much of: time, tokens or flops.")] = "time",
    budget: Budget = None, arena: Arena = None, device: Device = None, on: On = None, busy: Busy = False,
    as_json: AsJson = False,
):  # fmt: skip
    """Compare any commits or files with error bars, seeds interleaved on one device. Changes no champion."""
    if frame not in ("time", "tokens", "flops"):
        raise sources.Refused(f"frame {frame!r} is not known: say time, tokens or flops")
    where = dict(device=device, on=on, arena=arena, budget=budget, busy=busy)
    e = carry_out(experiments.compare, names, seeds, frame, **where)
    rows = show_contrast(e, experiments.contrast(e), "val", as_json)
    if as_json:
        return show_json({"n": e.n, "frame": frame, "reason": e.closes["reason"], "arms": rows})
    for run in e.runs:
        if run["status"] != "ok":
            console.print(
                escape(f"{e.arms[run['arm']]['name']}: {run['status']}: {run['reason']}"), style="red"
            )


@app.command()
def audit(
    seeds: Seeds = 3, device: Device = None, on: On = None, busy: Busy = False, as_json: AsJson = False,
):  # fmt: skip
    """Score all champions on the locked test split with fresh seeds: is a gain on val one on test, too?"""
    e = carry_out(experiments.audit, seeds, device=device, on=on, busy=busy)
    found = {
        split: show_contrast(e, experiments.contrast(e, split), split, as_json) for split in ("val", "test")
    }
    if as_json:
        show_json({"n": e.n} | found)


def cells(e):
    """An experiment's line of the log."""
    own = e.scores(0, "confirm") or e.scores(0, "screen") or e.scores(0)
    score = f"{sum(own) / len(own):.4f}" if own else ""
    spread = f" ± {(max(own) - min(own)) / 2:.4f}" if len(own) > 1 else ""
    style = STYLES.get(e.verdict, "red")
    commit = f"{len(e.arms)} arms" if e.role == "compare" else e.arms[0]["commit"][:7]
    verdict = f"[{style}]{e.verdict or 'unfinished'}[/]"
    when, idea = e.time[5:16].replace("T", " "), escape(e.opens.get("idea", ""))
    return [str(e.n), when, e.role, commit, verdict, str(len(e.runs)), score + spread, idea]


@app.command()
def log(
    most: Annotated[int, typer.Option("-n", min=1, help="Show the last so many experiments.")] = 30,
    by: Annotated[str, typer.Option(help="Show the ideas of this author only.")] = None,
    as_json: AsJson = False,
):
    """Show the ledger: a line for each experiment."""
    every = Ledger(sources.home()).experiments().values()
    found = [e for e in every if by in (None, e.opens.get("by"))]
    if as_json:
        return show_json([facts(e) for e in found])
    if not found:
        empty = "the ledger is empty: begin with `uv run ratchet calibrate`"
        return console.print(f"of {len(every)} experiments none is by {by}" if every else empty)
    table = Table("n", "UTC", "what", "commit", "verdict", "runs", "val bpb", "idea", box=None)
    for e in found[-most:]:
        table.add_row(*cells(e))
    console.print(table)
    console.print("val bpb: mean of the candidate's runs, ± half of what they range over", style="dim")
    levels = sorted({run["isolation"] for e in found for run in e.runs})
    console.print(f"isolation: {', '.join(levels) or 'nothing has run'}", style="dim")


def find(n):
    found = Ledger(sources.home()).experiments()
    if n not in found:
        raise sources.Refused(f"there is no experiment {n}: there are {len(found)}, see `ratchet log`")
    return found[n]


@app.command()
def show(n: int, as_json: AsJson = False):
    """Show one experiment whole: its runs, probes, seconds and side figures."""
    e = find(n)
    if as_json:
        return show_json(facts(e))
    show_verdict(e, False)
    for key in ("role", "idea", "by", "time", "arena", "seal", "budget", "device", "torch", "parent"):
        console.print(f"{key + ':':<9}{escape(str(e.opens.get(key, '')))}")
    ends = Table("run", "source", "seed", "status", "val bpb", "other programs", "isolation", box=None)
    figures = Table(
        "run", "start s", "rehearsal", "train", "score", "steps", "Mtok", "Mparams", "MB", box=None
    )
    for number, run in enumerate(e.runs):
        score = f"{bpb(run):.4f}" if run["status"] == "ok" else ""
        source, others = escape(e.arms[run["arm"]]["name"]), f"{run.get('foreign_cpu', 0):.0%} of the CPU"
        name = f"{number} {run['phase']}"
        ends.add_row(name, source, str(run["seed"]), run["status"], score, others, run["isolation"])
        phases = [f"{run['seconds'].get(key, 0):.1f}" for key in ("start", "rehearsal", "train", "score")]
        millions = [f"{run.get(key, 0) / 1e6:.2f}" for key in ("tokens", "params")]
        figures.add_row(
            name, *phases, str(run.get("steps", "")), *millions, str(run.get("peak_memory_mb", ""))
        )
    console.print(ends, figures, sep="\n")
    for run in e.runs:
        if run["status"] != "ok":
            console.print(escape(f"{run['status']}: {run['reason']}"))


@app.command()
def diff(n: int):
    """Show what an experiment changed in train.py, against the champion of its time."""
    e = find(n)
    old, new = e.opens.get("parent") or e.arms[-1]["commit"], e.arms[0]["commit"]
    if old == new:
        return console.print(f"experiment {n} changed nothing: it is a {e.role}")
    text = sources.git("diff", old, new, "--", "train.py").decode(errors="replace")
    console.print(Syntax(text, "diff") if console.is_terminal else escape(text), soft_wrap=True)


@app.command()
def verify(as_json: AsJson = False):
    """Check the chain, the sources, every verdict; print the head hash. Exit code 1 if something is wrong."""
    book = Ledger(sources.home())
    problems, rows = find_problems(book), len(book.rows())
    if as_json:
        show_json({"lines": rows, "head": book.head(), "problems": problems})
    else:
        for problem in problems:
            console.print(escape(problem), style="red")
        head = book.head() or "none"
        console.print(f"{rows} lines, {len(problems)} problems, head {head}", soft_wrap=True)
    raise SystemExit(bool(problems))


@app.command()
def night(
    agent: Annotated[str, typer.Option(help='A command that edits files, like "claude -p"; or tuner.')],
    hours: Annotated[float, typer.Option(help="End after so many.")] = math.inf,
    most: Annotated[float, typer.Option("--experiments", help="End after so many verdicts.")] = math.inf,
    device_seconds: Annotated[float, typer.Option(help="End after so many of the device.")] = math.inf,
    calls: Annotated[float, typer.Option(help="Ask the agent at most so often.")] = math.inf,
    dollars: Annotated[float, typer.Option(help="End when the agent says that it cost so much.")] = math.inf,
    share: Annotated[list[str], typer.Option(help="A path that the agent may read and write, too.")] = (),
    network: Annotated[bool, typer.Option(help="Agents need their API.")] = True,
    names: Annotated[str, typer.Option("--devices", help="cuda:0,cuda:1: an experiment on each.")] = None,
    on: On = None, slots: Annotated[int, typer.Option(help="With --on: experiments at a time.")] = None,
    busy: Busy = False,
):  # fmt: skip
    """Try an agent's ideas one after the other, until a limit or `ratchet stop`. The same command resumes."""
    limits = night_of.Limits(hours, most, device_seconds, calls, dollars)

    def whole(bench):
        bench.place, *others = pool.places(on, names and names.split(","), slots)
        return night_of.run(bench, agent, limits, share, network, others), night_of.morning(bench)

    why, summary = carry_out(whole, busy=busy)
    console.print(f"the night ended: {escape(why)}\n")
    console.print(Markdown(summary))


@app.command()
def status(as_json: AsJson = False):
    """Tell what the night does, and what it has done."""
    found = night_of.status(experiments.Bench())
    if as_json:
        return show_json(found)
    for key, value in found.items():
        console.print(f"{key + ':':<14}{escape(str(value))}", soft_wrap=True)


@app.command()
def stop():
    """Have the night end after the experiment that runs now."""
    night_of.stop(experiments.Bench())
    console.print("the night will end when the experiment that runs now has its verdict")


if __name__ == "__main__":
    main()
