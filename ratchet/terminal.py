"""The terminal: how the command line shows experiments, runs, findings, and what is under way."""

import json
import os
import statistics
import sys
import threading
from dataclasses import asdict

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ratchet.arena.files import Refused
from ratchet.experiments import verdicts
from ratchet.experiments.campaign import campaigns, mean_of, standing
from ratchet.experiments.comparisons import SPLITS, contrast
from ratchet.experiments.ledger import bpb, counts, disturbed
from ratchet.experiments.running import state_of

WIDE = 100  # columns that the whole log needs; without any terminal, as for an agent, there is room
WIDTH = None if any(map(os.isatty, range(3))) or "COLUMNS" in os.environ else 140
console = Console(highlight=False, width=WIDTH)
notes = Console(stderr=True, highlight=False, soft_wrap=True)
COLUMNS = ["n", "UTC", "what", "commit", "verdict", "runs", "val bpb", "gain", "idea"]
QUIET_SECONDS = 30  # without a terminal, until a line says what lasts
STEADY = 1.5  # times that repeats of one measurement may differ
STYLES = {
    "keep": "green",
    "baseline": "cyan",
    "discard": "dim",
    "undecided": "yellow",
    "audited": "cyan",
    "compared": "cyan",
    "running": "bold",
}


def is_interactive():
    """Whether somebody can see a question on stderr, and answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class Live:
    """A line for each device that moves while runs last, and one for each that has ended; on
    stderr.

    Without a terminal a plain line says every QUIET_SECONDS what lasts.
    """

    def __init__(self):
        columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
        self.progress = Progress(
            *columns, console=notes, transient=True, disable=not notes.is_terminal
        )
        self.tasks = {}  # of each thread: what was told last, its moving line
        self.ended = threading.Event()

    def __enter__(self):
        self.progress.start()
        if not notes.is_terminal:
            threading.Thread(target=self.keep_telling, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.progress.stop()

    def keep_telling(self):
        while not self.ended.wait(QUIET_SECONDS):
            for task in self.progress.tasks:
                notes.print(f"  {task.description.strip()}, {task.elapsed:.0f} s so far")

    def confirm(self, question):
        """Ask on stderr; True if the answer is yes. Without a terminal that shows it, Refused names
        --yes.
        """
        if not is_interactive():
            raise Refused(f"{question}: give the command again with --yes if that is meant")
        self.progress.stop()  # its lines would hide the question
        try:
            return typer.confirm(f"{question}. Go on?", default=False, err=True)
        except typer.Abort:
            return False
        finally:
            self.progress.start()

    def __call__(self, text):
        last, task = self.tasks.get(threading.get_ident(), ("", None))
        if text == last:
            return
        if task is not None:
            self.progress.remove_task(task)
        self.tasks[threading.get_ident()] = text, self.progress.add_task(escape(text))
        if text.startswith("  ") or not notes.is_terminal:
            notes.print(escape(text))


def show_json(value):
    print(json.dumps(value, indent=2))


def facts(e, home):
    """An experiment as JSON: its facts, and what is derived from them; `state` is the verdict once
    it is.
    """
    scores = [e.scores(arm) for arm in range(len(e.arms))]
    derived = {"verdict": e.verdict, "state": state_of(e, home), "scores": scores}
    return asdict(e) | derived | {"reason": e.closes.get("reason", "")}


def show_verdict(e, home, as_json):
    if as_json:
        return show_json(facts(e, home))
    say_verdict(e, home)
    say_failures(e)


def say_verdict(e, home):
    state, why = state_of(e, home), escape(e.closes.get("reason", ""))
    style = STYLES.get(state, "red")
    console.print(f"experiment {e.n}: [bold {style}]{state}[/]  {why}", soft_wrap=True)
    if needed := e.closes.get("seeds_needed"):
        console.print(f"about {needed} seeds per arm would settle it")


def say_failures(e):
    for run in e.runs:
        if run["status"] != "ok":
            console.print(escape("\n".join(run["tail"])), style="dim")
    if levels := {run["isolation"] for run in e.runs} - {"bubblewrap", "landlock"}:
        console.print(f"isolation was {', '.join(levels)}: see `ratchet doctor`", style="yellow")


def show_experiment(e, home):
    """All that the ledger has on an experiment."""
    say_verdict(e, home)
    for key in ("role", "idea", "by", "time", "arena", "seal", "budget", "device", "torch"):
        console.print(f"{key + ':':<9}{escape(str(e.opens.get(key, '')))}")
    for arm in e.arms:
        console.print(
            f"{'source:':<9}{escape(arm['name'])}, commit {arm['commit'] or 'none'}", soft_wrap=True
        )
    for split in SPLITS.get(e.role, ()):
        show_contrast(e, split, False)
    show_runs(e)
    say_failures(e)


def show_findings(found):
    """What the doctor found."""
    table = Table("", "check", "found", "what to do", box=None)
    for finding in found:
        mark = "[green]ok[/]" if finding.well else "[yellow]!![/]"
        table.add_row(mark, escape(finding.name), escape(finding.seen), finding.advice)
    console.print(table)


def show_contrast(e, split, as_json):
    """How the arms of a comparison or an audit did on a split; returns that as JSON."""
    found = contrast(e, split)
    rows, tests = [], max(1, len(found) - 1)
    for arm, (scores, other) in zip(e.arms, found):
        row = {
            "name": arm["name"],
            "scores": scores,
            "mean": sum(scores) / len(scores) if scores else None,
        }
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
        title_justify="left",
        box=None,
    )
    for row in rows:
        mean = f"{statistics.mean(row['scores']):.4f}" if row["scores"] else ""
        mean += f" ± {statistics.stdev(row['scores']):.4f}" if len(row["scores"]) > 1 else ""
        rest = (
            [
                f"{row['gain']:+.4f} ± {row['high'] - row['gain']:.4f}",
                f"{row['p_two']:.2g}",
                "yes" if row["settled"] else "no",
            ]
            if "gain" in row
            else ["", "", ""]
        )
        table.add_row(escape(row["name"]), str(len(row["scores"])), mean, *rest)
    console.print(table)
    if tests > 1:
        console.print(f"settled: p x {tests} comparisons < {verdicts.ALPHA} (Bonferroni)")
    return rows


def cells(e, campaign, state):
    """An experiment's line of the log, by column."""
    mean, half = mean_of(e.own_scores(), campaign.baseline and campaign.noise())
    gained = standing(e, campaign) if e.role == "try" else None
    style = STYLES.get(state, "red")
    return {
        "n": str(e.n),
        "UTC": e.time[5:16].replace("T", " "),
        "what": e.role,
        "commit": e.arms[0]["commit"][:7] if e.role not in SPLITS else f"{len(e.arms)} arms",
        "verdict": f"[{style}]{state}[/]",
        "runs": str(len(e.runs)),
        "val bpb": with_bar(mean, half) if e.role not in SPLITS else "",
        "gain": with_bar(gained.gain, gained.high - gained.gain, "+") if gained else "",
        "idea": escape(e.opens.get("idea") or e.closes.get("reason", "")),
    }


def with_bar(value, half, sign=""):
    """A figure and half of its interval, as text."""
    bar = f" ± {half:.4f}" if half is not None else ""
    return f"{value:{sign}.4f}{bar}" if value is not None else ""


def show_log(found, every, most, warning, home):
    """A line for each of the last experiments found, and how far the champions of every one have
    come.
    """
    narrow = console.width < WIDE
    names = [name for name in COLUMNS if not (narrow and name in ("UTC", "what", "commit"))]
    judged, table = campaigns(every), Table(box=None)
    campaign_of = {e.n: campaign for campaign in judged for e in campaign.all}
    for name in names:
        table.add_column(name, no_wrap=name != "idea", overflow="fold")
    for e in (shown := found[-most:]):
        row = cells(e, campaign_of[e.n], state_of(e, home))
        table.add_row(*(row[name] for name in names))
    console.print(table)
    if len(shown) < len(found):
        console.print(
            f"{len(shown)} of {len(found)} experiments: -n {len(found)} shows all", style="dim"
        )
    for line in story(judged):
        console.print(line)
    console.print(
        "candidate's fresh runs, or its screening run; gain on the champion of then; ± 95 %",
        style="dim",
    )
    levels = sorted({run["isolation"] for e in shown for run in e.runs})
    console.print(f"isolation: {', '.join(levels) or 'nothing has run'}", style="dim")
    if warning:
        console.print(warning, style="yellow")


def story(judged):
    """How the champions' val_bpb went down, a line for each campaign that kept something."""
    for campaign in judged:
        if campaign.unrest:
            yield f"[yellow]{campaign.unrest}[/]"
        if not campaign.baseline or len(campaign.kept) < 2:
            continue
        scores = [campaign.scores_of(e.arms[0]["source"]) for e in campaign.kept]
        means = [statistics.mean(own) for own in scores if own]
        height = [
            round((mean - min(means)) / ((max(means) - min(means)) or 1) * 7) for mean in means
        ]
        line = "".join("▁▂▃▄▅▆▇█"[h] for h in height)
        yield f"champions {line} {means[0]:.4f} to {means[-1]:.4f}, sigma {campaign.noise().sigma:.4f} bpb"


def show_runs(e):
    """The runs of an experiment: how they ended, their figures, what the scorer's probes saw in the
    last.
    """
    elsewhere = any(run.get("on") for run in e.runs)
    ends = Table("run", "source", "seed", "status", "val bpb", "others' CPU", "isolation", box=None)
    if elsewhere:
        ends.add_column("on")
    phases = "start", "rehearsal", "train", "score"
    figures = Table(
        "run", *[f"{name} s" for name in phases], "steps", "Mtok", "Mparams", "MB", box=None
    )
    for number, run in enumerate(e.runs):
        name, source = f"{number} {run['phase']}", escape(e.arms[run["arm"]]["name"])
        on = [run.get("on", "")] * elsewhere
        ends.add_row(name, source, *ending(run), *on, style="dim" if disturbed(run) else "")
        seconds = [f"{run['seconds'].get(key, 0):.1f}" for key in phases]
        millions = [f"{run.get(key, 0) / 1e6:.2f}" for key in ("tokens", "params")]
        memory = str(run.get("peak_memory_mb", ""))
        figures.add_row(name, *seconds, str(run.get("steps", "")), *millions, memory)
    console.print(ends, figures, sep="\n")
    if any(map(disturbed, e.runs)):
        console.print(
            "disturbed by other programs: doesn't count, was made again with its seed", style="dim"
        )
    for name, (_, seen) in ([run["val"]["probes"] for run in e.runs if counts(run)] or [{}])[
        -1
    ].items():
        console.print(escape(f"probe {name}: {seen}"))
    for run in e.runs:
        if run["status"] != "ok":
            console.print(escape(f"{run['status']}: {run['reason']}"))


def ending(run):
    """Seed, status, score, load of others and isolation of a run, as text."""
    status = "disturbed" if disturbed(run) else run["status"]
    score = f"{bpb(run):.4f}" if run["status"] == "ok" else ""
    return str(run["seed"]), status, score, f"{run.get('foreign_cpu', 0):.0%}", run["isolation"]


class Spoken:
    """Shows samples as they come, each after the prompt."""

    def __init__(self, prompt):
        self.prompt, self.number = prompt, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        console.print()

    def __call__(self, number, text):
        if number != self.number:
            console.print("" if self.number is None else "\n---\n", end="")
            console.print(
                self.prompt, end="", style="dim", markup=False, emoji=False, soft_wrap=True
            )
            self.number = number
        console.print(text, end="", markup=False, emoji=False, soft_wrap=True)


def show_decoding(found):
    """The sweep over batch sizes, and how far each is from what the device could do at best."""
    limits, against = found["limits"], found["against"]
    peak = f"{limits['bandwidth'] / 1e9:.1f} GB/s, {limits['peak_flops'] / 1e12:.2f} TFLOP/s"
    kind = "with a KV cache" if found["cached"] else "no KV cache: every token recomputes its row"
    heads = (
        "rows",
        "TTFT ms",
        "TPOT ms",
        "tokens/s of a user",
        "p99",
        "tokens/s of the device",
        "of the bound",
    )
    table = Table(*heads)
    kind += ", compiled" if found["compiled"] else ", not compiled"
    table.title = f"{found['prompt']} tokens, then {found['new']}, {kind}; {found['device']}"
    for point in found["points"]:
        times = f"{1e3 * point['ttft']:.1f}", f"{1e3 * point['tpot']:.2f}"
        users = f"{point['interactivity']:,.1f}", f"{point['interactivity_p99']:,.1f}"
        share = f"{point['bound'] / point['tpot']:.0%}"
        table.add_row(str(point["rows"]), *times, *users, f"{point['rate']:,.0f}", share)
    console.print(table)
    console.print(
        f"measured; bound: bytes from memory and FLOPs of a step at {peak}, measured here",
        style="dim",
    )
    if (spread := max(max(p["tpots"]) / min(p["tpots"]) for p in found["points"])) > STEADY:
        console.print(
            f"repeats differ {spread:.1f} times: something else uses the machine", style="yellow"
        )
    if found["isolation"] == "none":
        console.print("isolation was none: see `ratchet doctor`", style="yellow")
    if found["cached"]:
        ratio = against["recomputed"] / against["cached"]
        last = 1e3 * against["cached"]
        console.print(
            f"a token at the end of a full row: {last:.2f} ms, without the cache {ratio:.1f} times as long"
        )


def show_scaling(found):
    """Efficiency of training and the bound of decoding, by the number of devices."""
    table = Table(
        "devices", "all-reduce ms", "which is", "strong", "weak", "tokens/s of a user, at most"
    )
    table.title = escape(f"all-reduce: {found['source']} ({found['tag']})")
    bounds = {row["n"]: row["bound"] for row in found["decoding"]}
    for row in found["training"]:
        strong = f"{row['strong']:.0%}" if row["strong"] else "no rows left"
        bound = f"{bounds[row['n']]:,.0f}" if row["n"] in bounds else ""
        seconds = f"{1e3 * row['all_reduce']:.3f}"
        table.add_row(str(row["n"]), seconds, row["tag"], strong, f"{row['weak']:.0%}", bound)
    console.print(table)
    model = found["model"]
    size = f"{model['gradients'] / 1e6:.1f} MB of gradients in its trunk"
    console.print(
        f"a step takes {model['step']:.3f} s on one device ({model['device']}) and has {size}"
    )
    console.print("strong, weak and tokens/s are modelled; real efficiency is lower:", style="dim")
    console.print(
        "gradients of embeddings and tables, and Muon's updates, travel, too", style="dim"
    )
    if not found["decoding"]:
        console.print("`ratchet serve-bench` first, and decoding is in the table, too")
