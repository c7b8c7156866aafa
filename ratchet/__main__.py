"""The command line: `uv run ratchet VERB`."""

import math
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.markup import escape
from rich.syntax import Syntax

from ratchet import commits, terminal
from ratchet.arena.files import Refused, exit_on_user_error
from ratchet.doctor import examine
from ratchet.executors import registry
from ratchet.experiments import comparisons, verbs
from ratchet.experiments.ledger import Ledger
from ratchet.experiments.running import only_command
from ratchet.experiments.session import join_campaign, open_session
from ratchet.experiments.verify import find_problems
from ratchet.model import export, sample, scaling, serve_bench
from ratchet.model import find as find_model
from ratchet.night import driver
from ratchet.referee.devices.choice import choose_device, describe_device
from ratchet.report import data as report_data
from ratchet.report import render
from ratchet.report import server as report_server
from ratchet.report import wandb as wandb_relay
from ratchet.terminal import console, notes, show_json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Judge changes of train.py: fixed budget, measured noise, scores that a contestant can't touch.\n\n"
    "Start with `doctor`, then `calibrate`; then commit a change of train.py and `try` it.",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of tables.")]
Seeds = Annotated[
    int, typer.Option("-n", "--seeds", help="Runs of each source, with a fresh seed each.")
]
Budget = Annotated[
    str, typer.Option(help="Of each run: 20s, 20e6tok, 1e15flop. Default: the arena's seconds.")
]
Device = Annotated[
    str,
    typer.Option(help="cuda:0, mps, cpu; cpu:0/2: the first half of it. Default: the best here."),
]
On = Annotated[
    str, typer.Option("--on", help="ray or slurm: a device of that cluster, not of this machine.")
]
Arena = Annotated[
    str, typer.Option(help="pocket, climbmix, or one of yours. Default: what fits the device.")
]
Busy = Annotated[
    bool, typer.Option("--busy", help="Count runs that other programs disturb: sigma grows.")
]
Hopeless = Annotated[
    bool,
    typer.Option("--stop-hopeless", help="End screening runs whose loss can't catch up any more."),
]
Wandb = Annotated[
    bool,
    typer.Option(
        "--wandb", help="Send each run to Weights & Biases. Also if WANDB_PROJECT or WANDB_MODE is."
    ),
]
GO_ON = "the same command goes on where it stopped"
Names = typer.Argument(metavar="A B", help="Commits or files; each is compared with the first.")


def main():
    """Run the verb; a user's mistake is one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # a locale without "±" gets another sign
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    with exit_on_user_error(GO_ON):
        app()


@contextmanager
def opened(open_in, executor=None, device=None, on=None, wandb=False, **options):
    """A Session by open_session or join_campaign, alone in this repository; what it does is shown."""
    home = commits.home()
    with terminal.Live() as tell:
        executor = executor or registry.places(on, device and [device])[0]
        options |= {"tell": tell, "on_verdict": wandb_relay.make_sender(wandb, home, tell)}
        with exit_on_user_error(GO_ON), only_command(home):  # typer would end without a word
            yield open_in(executor, **options)


@app.command()
def doctor(device: Device = None, as_json: AsJson = False):
    """Look at device, memory, disk, arena and sandbox; say what to do about each."""
    found = examine(choose_device(device))
    if as_json:
        return show_json([finding._asdict() for finding in found])
    terminal.show_findings(found)


@app.command()
def calibrate(
    seeds: Seeds = 5,
    budget: Budget = None,
    arena: Arena = None,
    device: Device = None,
    on: On = None,
    busy: Busy = False,
    yes: Annotated[bool, typer.Option("--yes", help="Replace a kept champion unasked.")] = False,
    as_json: AsJson = False,
):
    """Measure the noise of HEAD's train.py, which becomes the first champion. Begin here."""
    options = dict(device=device, on=on, arena=arena, budget=budget, busy=busy)
    verbs.read_baseline(seeds)  # refuses before an arena is prepared for nothing
    with opened(open_session, **options) as session:
        may_replace = (lambda question: True) if yes else session.tell.confirm
        e = verbs.calibrate(session, seeds, may_replace)
    terminal.show_verdict(e, commits.home(), as_json)
    if e.verdict != "baseline":
        notes.print(
            "no baseline: all its runs must end well. Mend train.py, or give a longer --budget"
        )
        raise SystemExit(1)


@app.command(name="try")
def try_idea(
    idea: Annotated[str, typer.Argument(help="What the commit changes and why, in a sentence.")],
    quick: Annotated[
        bool, typer.Option(help="One seed: 5 x the false keeps, half the power.")
    ] = False,
    again: Annotated[
        bool, typer.Option(help="Run it although the same source was tried before.")
    ] = False,
    by: Annotated[str, typer.Option(help="Who had the idea.")] = "",
    stop_hopeless: Hopeless = False,
    wandb: Wandb = False,
    device: Device = None,
    on: On = None,
    busy: Busy = False,
    as_json: AsJson = False,
):
    """Try HEAD's train.py against the champion: screen on one seed, confirm on fresh ones, decide."""
    wandb_relay.check_wandb(wandb)
    before = {e.n for e in Ledger(commits.home()).experiments().values() if e.closes}
    options = dict(device=device, on=on, busy=busy, stop_hopeless=stop_hopeless, wandb=wandb)
    with opened(join_campaign, **options) as session:
        e = verbs.try_idea(session, idea, quick=quick, again=again, by=by)
    if e.n in before:
        notes.print(f"this source was tried before, as experiment {e.n}; --again runs it once more")
    terminal.show_verdict(e, commits.home(), as_json)


@app.command()
def compare(
    names: Annotated[list[str], Names],
    seeds: Seeds = 5,
    frame: Annotated[
        str, typer.Option(help="What all get equally much of: time, tokens or flops.")
    ] = "time",
    budget: Budget = None,
    arena: Arena = None,
    device: Device = None,
    on: On = None,
    busy: Busy = False,
    as_json: AsJson = False,
):
    """Compare any commits or files with error bars, seeds interleaved on one device. Changes no
    champion.
    """
    if frame not in ("time", "tokens", "flops"):
        raise Refused(f"frame {frame!r} is not known: say time, tokens or flops")
    comparisons.read_arms(names, seeds)  # refuses before an arena is prepared for nothing
    options = dict(device=device, on=on, arena=arena, budget=budget, busy=busy)
    with opened(open_session, **options) as session:
        e = comparisons.compare(session, names, seeds, frame)
    rows = terminal.show_contrast(e, "val", as_json)
    if as_json:
        return show_json({"n": e.n, "frame": frame, "reason": e.closes["reason"], "arms": rows})
    for run in e.runs:
        if run["status"] != "ok":
            console.print(
                escape(f"{e.arms[run['arm']]['name']}: {run['status']}: {run['reason']}"),
                style="red",
            )


@app.command()
def audit(
    seeds: Seeds = 3,
    device: Device = None,
    on: On = None,
    busy: Busy = False,
    as_json: AsJson = False,
):
    """Score all champions on the locked test split with fresh seeds: is a gain on val one on test,
    too?
    """
    with opened(join_campaign, device=device, on=on, busy=busy) as session:
        e = comparisons.audit(session, seeds)
    found = {split: terminal.show_contrast(e, split, as_json) for split in ("val", "test")}
    if as_json:
        return show_json({"n": e.n} | found)
    console.print(escape(e.closes["reason"]))


@app.command()
def log(
    most: Annotated[int, typer.Option("-n", min=1, help="Show the last so many experiments.")] = 30,
    by: Annotated[str, typer.Option(help="Show the ideas of this author only.")] = None,
    as_json: AsJson = False,
):
    """Show the ledger: a line for each experiment."""
    home = commits.home()
    every = [*(book := Ledger(home)).experiments().values()]
    found = [e for e in every if by in (None, e.opens.get("by"))]
    if as_json:
        return show_json([terminal.facts(e, home) for e in found])
    if not found:
        empty = "the ledger is empty: begin with `uv run ratchet calibrate`"
        return console.print(f"of {len(every)} experiments none is by {by}" if every else empty)
    terminal.show_log(found, every, most, book.cut(), home)


def find(n):
    found = Ledger(commits.home()).experiments()
    if n not in found:
        raise Refused(f"there is no experiment {n}: there are {len(found)}, see `ratchet log`")
    return found[n]


@app.command()
def show(n: int, as_json: AsJson = False):
    """Show one experiment whole: its runs, probes, seconds and side figures."""
    e, home = find(n), commits.home()
    return show_json(terminal.facts(e, home)) if as_json else terminal.show_experiment(e, home)


@app.command()
def diff(n: int):
    """Show what an experiment changed in train.py, against the champion of its time."""
    e = find(n)
    if e.role != "try":
        return console.print(f"experiment {n} changed nothing: its role is {e.role}")
    text = commits.git("diff", e.parent, e.arms[0]["commit"], "--", "train.py").decode(
        errors="replace"
    )
    console.print(Syntax(text, "diff") if console.is_terminal else escape(text), soft_wrap=True)


@app.command()
def verify(as_json: AsJson = False):
    """Check the chain, the sources, every verdict; print the head hash. Exit code 1 if something is
    wrong.
    """
    book = Ledger(commits.home())
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
    agent: Annotated[
        str, typer.Option(help="A command that reads a prompt and edits train.py; or tuner.")
    ],
    hours: Annotated[float, typer.Option(help="End after so many.")] = math.inf,
    most: Annotated[
        float, typer.Option("--experiments", help="End after so many verdicts.")
    ] = math.inf,
    device_seconds: Annotated[
        float, typer.Option(help="End after so many of the device.")
    ] = math.inf,
    calls: Annotated[float, typer.Option(help="Ask the agent at most so often.")] = math.inf,
    dollars: Annotated[
        float, typer.Option(help="End when the agent says that it cost so much.")
    ] = math.inf,
    share: Annotated[
        list[str], typer.Option(help="A path that the agent may read and write, too.")
    ] = (),
    network: Annotated[bool, typer.Option(help="Agents need their API.")] = True,
    names: Annotated[
        str, typer.Option("--devices", help="cuda:0,cuda:1: an experiment on each.")
    ] = None,
    on: On = None,
    slots: Annotated[int, typer.Option(help="With --on: experiments at a time.")] = None,
    stop_hopeless: Hopeless = False,
    wandb: Wandb = False,
    busy: Busy = False,
):
    """Try an agent's ideas one after the other, until a limit or `ratchet stop`. The same command
    resumes.
    """
    wandb_relay.check_wandb(wandb)
    limits = driver.Limits(hours, most, device_seconds, calls, dollars)
    first, *others = registry.places(on, names and names.split(","), slots)
    options = dict(busy=busy, stop_hopeless=stop_hopeless, wandb=wandb)
    with opened(join_campaign, first, **options) as session:
        why = driver.run(session, agent, limits, share, network, others)
        text = driver.summed_up(session)
    console.print(f"the night ended: {escape(why)}\n")
    console.print(Markdown(text))
    driver.keep_summary(commits.home(), text)


@app.command(name="report")
def make_report(
    to: Annotated[
        Path, typer.Option(help="Folder for report.html and progress.png. Default: runs/.")
    ] = None,
):
    """Make one page of the ledger, that needs no network, and a picture."""
    for path in render.write_report(home := commits.home(), to or home / "runs"):
        console.print(str(path))


@app.command()
def watch(port: Annotated[int, typer.Option(help="Of this machine; 0 takes a free one.")] = 8000):
    """Serve the report on 127.0.0.1 while a night runs: it refreshes itself."""
    with report_server.make_server(commits.home(), port) as server:
        console.print(f"{server.url}  (Ctrl-C ends it)", soft_wrap=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            raise SystemExit(130) from None


@app.command()
def status(as_json: AsJson = False):
    """Tell what the night does, and what it has done."""
    found = driver.status(commits.home())
    if as_json:
        return show_json(found)
    for key, value in found.items():
        console.print(f"{key + ':':<15} {escape(str(value))}", soft_wrap=True)


@app.command()
def stop():
    """Have the night end after the experiment that runs now."""
    driver.stop(commits.home())
    console.print("the night will end when the experiment that runs now has its verdict")


# --------------------------------------------------------------------------------------------------
# What a trained model can do

Run = Annotated[
    str, typer.Argument(metavar="[RUN]", help="A run's folder, or an experiment's number.")
]


def trained(name=None):
    """The folder of the run that is meant; by default the champion's."""
    home = commits.home()
    run = find_model.find_run(Ledger(home), home, name)
    notes.print(f"model: {escape(find_model.name_of(run))}", style="dim")
    return run


@app.command()
def speak(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[RUN] [PROMPT]", help="RUN: a number, a folder, or champion."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="At most so many.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[
        int, typer.Option(min=0, help="Of the so many likeliest tokens; 0 of all.")
    ] = 50,
    samples: Annotated[
        int, typer.Option(min=1, help="So many. Default: 1, without a prompt 3.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same one gives the same text.")] = 0,
    device: Device = None,
):
    """Have the champion, or another run's model, continue a prompt."""
    name, prompt = find_model.name_and_prompt(words or [])
    run = trained(name)
    ask = dict(tokens=tokens, temperature=temperature, top_k=top_k, seed=seed)
    with terminal.Spoken(prompt) as show:
        sample.say(
            run, prompt, samples or (1 if prompt else 3), device, show=show, tell=notes.print, **ask
        )


@app.command()
def serve_bench(
    run: Run = None,
    device: Device = None,
    rows: Annotated[int, typer.Option(min=1, help="The largest batch.")] = serve_bench.MOST_ROWS,
    prompt: Annotated[
        int, typer.Option(min=1, help="Its tokens. Default: half of the context.")
    ] = None,
    new: Annotated[
        int, typer.Option(min=2, help="Tokens decoded after it. Default: at most 64.")
    ] = None,
    eager: Annotated[bool, typer.Option("--eager", help="Don't compile the model.")] = False,
    as_json: AsJson = False,
):
    """Measure decoding: tokens/s of the device against tokens/s of a user, at growing batches."""
    with terminal.Live() as tell:
        found = serve_bench.serve_bench(trained(run), device, rows, prompt, new, eager, tell)
    find_model.keep(commits.home() / report_data.MEASURED[0], found)
    show_json(found) if as_json else terminal.show_decoding(found)


@app.command(name="scaling")
def forecast(
    run: Run = None,
    device: Device = None,
    most: Annotated[
        int, typer.Option("--devices", min=2, help="Of them at most.")
    ] = scaling.MOST_DEVICES,
    links: Annotated[
        str, typer.Option(help="A file that nccl-tests printed, or `external`.")
    ] = None,
    as_json: AsJson = False,
):
    """Forecast training and decoding on several devices, from times of all-reduce measured here."""
    folder, device = trained(run), choose_device(device)
    model, kind = scaling.describe(folder), describe_device(device)["device"]
    with terminal.Live() as tell:
        tell("measuring all-reduce" if not links else f"reading {links}")
        known = scaling.choose_links(links, device)
    decoding, to = (commits.home() / name for name in report_data.MEASURED)
    found = scaling.scaling(
        folder, model, known, kind, find_model.token_seconds(decoding, folder, device), most
    )
    find_model.keep(to, found)
    show_json(found) if as_json else terminal.show_scaling(found)


@app.command(name="export")
def take_out(run: str, to: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")]):
    """Write a run's model as a folder that `transformers` loads. RUN may be `champion`."""
    folder = export.export(trained(run), to)
    console.print(
        f"{folder}: AutoModelForCausalLM.from_pretrained({str(to)!r}, trust_remote_code=True)"
    )


if __name__ == "__main__":
    main()
