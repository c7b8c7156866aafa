"""The command line: `uv run ratchet VERB`."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markdown import Markdown
from rich.markup import escape
from rich.syntax import Syntax

from ratchet import commits, tables
from ratchet.arena.files import Refused, exit_on_user_error
from ratchet.claims import describe_claim
from ratchet.doctor.examination import examine_machine
from ratchet.doctor.findings import Finding, findings_table, without_needless_advice
from ratchet.doctor.surroundings import check_level, check_surroundings
from ratchet.executors import list_executors, open_executor
from ratchet.experiments import comparisons, trials, verbs
from ratchet.experiments.campaign import Campaign, list_campaigns
from ratchet.experiments.goals import SCORE, parse_goal
from ratchet.experiments.ledger import Experiment, Ledger
from ratchet.experiments.running import only_command
from ratchet.experiments.session import Session, join_campaign, open_comparison, open_session
from ratchet.experiments.verdicts import PROFILES
from ratchet.experiments.verify import (
    count_probes,
    describe_probes,
    describe_seal_change,
    find_problems,
)
from ratchet.model.commands import AsJson, Device
from ratchet.model.commands import app as model_app
from ratchet.model.tables import show_curves
from ratchet.night.detached.starting import begin_try, log_of
from ratchet.night.detached.stopping import stop_command, stoppable
from ratchet.night.detached.waiting import describe_running, wait_for_verdict
from ratchet.night.digest import MOST_TOKENS, check_tokens
from ratchet.night.driver import NEVER_WORKED, STOP_FILE, run_night
from ratchet.night.programs.check import check_agent, does_work
from ratchet.night.programs.prices import parse_price
from ratchet.night.status import Limits, last_exit_code, night_status
from ratchet.night.summary import describe_last_agents, save_summary, summarize_night
from ratchet.referee import supervisor
from ratchet.referee.devices.choice import choose_device
from ratchet.referee.measures import LIMITABLE, MEASURES, Requirement, parse_requirements
from ratchet.report.curves import draw_curves
from ratchet.report.data import MEASURED
from ratchet.report.decoding import compared_curves, read_curves
from ratchet.report.frontier import (
    AXES,
    earlier_campaigns,
    find_frontier,
    list_earlier,
    list_points,
    parse_axes,
)
from ratchet.report.render import write_report
from ratchet.report.server import make_server
from ratchet.report.wandb import check_wandb, make_sender
from ratchet.terminal import (
    LiveLines,
    Verbs,
    console,
    local_time,
    local_zone,
    notes,
    show_json,
)
from ratchet.untrusted_text import clean_text

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Test changes of train.py: a fixed budget, measured noise, guarded scores.\n\n"
    "Start with `doctor`, then `calibrate`; then commit a change of train.py and `try` it.",
)
Seeds = Annotated[
    int, typer.Option("-n", "--seeds", help="Runs of each source, with a fresh seed each.")
]
Budget = Annotated[
    str,
    typer.Option(
        help="Of each run: 20s, 20e6tok (tokens), 1e15flop. Default: the arena's seconds."
    ),
]
On = Annotated[str, typer.Option("--on", help=f"Where runs execute. {list_executors()}.")]
Arena = Annotated[
    str, typer.Option(help="pocket, climbmix, or one of yours. Default: what fits the device.")
]
Busy = Annotated[
    bool,
    typer.Option(
        "--busy", help="Count runs even if other programs disturb them. Scores get noisier."
    ),
]
LimitOption = Annotated[
    list[str],
    typer.Option(
        "--limit",
        metavar="MEASURE=X",
        help=f"What a model may take: file_mb=16. Again for more. {', '.join(LIMITABLE)}.",
    ),
]
GoalOption = Annotated[
    str,
    typer.Option(
        "--goal",
        metavar="MEASURE",
        help="What is made better: val_bpb, or with no worse val_bpb a measure as of --limit.",
    ),
]
HalfStop = Annotated[
    bool,
    typer.Option(
        "--half-stop/--no-half-stop",
        help="Stop an idea's first run half-way if its loss is too far behind.",
    ),
]
Wandb = Annotated[
    bool,
    typer.Option(
        "--wandb",
        help="Send runs to Weights & Biases. Also on if WANDB_PROJECT or WANDB_MODE is set.",
    ),
]
Share = Annotated[list[str], typer.Option(help="A further path that the agent may read and write.")]
Pass = Annotated[
    list[str],
    typer.Option("--pass", help="A further environment variable that the agent gets."),
]
AgentNetwork = Annotated[
    bool, typer.Option("--network/--no-network", help="Let the agent use the network.")
]
GO_ON = "the same command goes on where it stopped"
WAIT = "its verdict: `uv run ratchet wait {}`"
STILL_RUNS = 3  # exit code of `wait` when its time is over
Number = Annotated[int, typer.Argument(metavar="N", help="Number of the experiment.")]
Names = typer.Argument(metavar="A B", help="Commits or files; each is compared with the first.")


def main() -> None:
    """Run the verb; a user's mistake is one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # a locale without "±" gets another sign
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        with exit_on_user_error(GO_ON):
            app()
    except SystemExit as end:
        if supervisor.cancelled.is_set():  # a thread is left that Ctrl-C could not end in time
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code)
        raise


@contextmanager
def shown_session(
    open_with: Callable[..., Session],
    device: str | None = None,
    names: str | None = None,
    on: str | None = None,
    slots: int | None = None,
    wandb: bool = False,
    is_night: bool = False,
    **options: Any,
) -> Iterator[Session]:
    """A session, alone in this repository, whose work is shown.

    open_with: open_session or join_campaign, which take the options. device: of --device; names:
    of --devices. is_night: it looks itself whether it is to stop.
    """
    home = commits.home()
    with LiveLines() as tell:
        options |= {"tell": tell, "on_verdict": make_sender(wandb, home, tell)}
        stops = nullcontext() if is_night else stoppable(home)
        with exit_on_user_error(GO_ON):  # typer would end without a word
            if on in (None, "local"):
                check_surroundings(home)
            with only_command(home, is_night), stops:
                if is_night:  # what was asked of an earlier one
                    (home / STOP_FILE).unlink(missing_ok=True)
                devices = names.split(",") if names else device and [device]
                slot = open_executor(on, devices, slots, tell).slots()[0]
                if open_with is join_campaign:
                    check_level(home, slot.conditions())
                yield open_with(slot, **options)


@app.command()
def doctor(
    device: Device = None,
    agent: Annotated[
        str, typer.Option(help="Look at an agent instead: one call, as a night makes them.")
    ] = None,
    share: Share = (),
    passed: Pass = (),
    network: AgentNetwork = True,
    as_json: AsJson = False,
):
    """Look at device, memory, disk, arena and sandbox, or at an agent; say what to do."""
    if agent is None:
        findings, works = examine_machine(choose_device(device)), True
    else:
        checks = check_agent(agent, share, network, passed)
        findings, works = [Finding(*check) for check in checks], does_work(checks)
    findings = without_needless_advice(findings)
    if as_json:
        show_json([finding._asdict() for finding in findings])
    else:
        console.print(findings_table(findings))
    if not works:
        raise SystemExit(1)


@app.command()
def calibrate(
    seeds: Seeds = 5,
    budget: Budget = None,
    arena: Arena = None,
    limit: LimitOption = None,
    goal: GoalOption = SCORE,
    share: Annotated[
        float,
        typer.Option(
            metavar="PERCENT",
            help="What a kept change must gain of another goal, at least. Default: 2.",
        ),
    ] = None,
    device: Device = None,
    on: On = None,
    busy: Busy = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Replace a kept champion without asking.")
    ] = False,
    as_json: AsJson = False,
):
    """Measure the noise of HEAD's train.py, which becomes the first champion. Begin here."""
    options = dict(device=device, on=on, arena=arena, budget=budget, busy=busy)
    options |= {"limits": parse_requirements(limit or []), "goal": parse_goal(goal, share)}
    verbs.read_baseline(seeds)  # refuses before an arena is prepared for nothing
    with shown_session(open_session, **options) as session:
        may_replace = (lambda question: True) if yes else session.tell.confirm
        e = verbs.calibrate(session, seeds, may_replace)
    tables.show_verdict(e, commits.home(), as_json)
    if e.verdict != "baseline":
        remedy = "another --limit" if e.verdict == "overlimit" else "a longer --budget"
        notes.print(f"no baseline, as a run failed: mend train.py, or give {remedy}")
        raise SystemExit(1)


@app.command(name="try")
def try_idea(
    idea: Annotated[str, typer.Argument(help="What the commit changes and why, in a sentence.")],
    again: Annotated[
        bool, typer.Option(help="Run it even if the same source was tried before.")
    ] = False,
    by: Annotated[str, typer.Option(help="Who had the idea.")] = "",
    detach: Annotated[
        bool, typer.Option("--detach", help="Return at once; `ratchet wait N` has the verdict.")
    ] = False,
    half_stop: HalfStop = True,
    wandb: Wandb = False,
    device: Device = None,
    on: On = None,
    busy: Busy = False,
    as_json: AsJson = False,
):
    """Try HEAD's train.py: search for a gain, then hold a trial with fresh seeds, decide."""
    check_wandb(wandb)
    home = commits.home()
    before = {e.n for e in Ledger(home).experiments().values() if e.is_decided}
    options = dict(device=device, on=on, busy=busy, half_stop=half_stop, wandb=wandb)
    if detach:
        if on in (None, "local"):
            check_surroundings(home)
        words = option_words(options | {"again": again, "by": by})
        e = begin_try(home, [*words, "--", idea])
    else:
        with shown_session(join_campaign, **options) as session:
            e = trials.decide_idea(session, idea, again=again, by=by)
    if e.n in before:
        notes.print(f"this source was tried before, as experiment {e.n}; --again runs it once more")
    if detach and not e.is_decided and not as_json:
        log = log_of(home, e.n).relative_to(home)
        return console.print(f"experiment {e.n} is tried now, log in {log}\n{WAIT.format(e.n)}")
    tables.show_verdict(e, home, as_json)


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Options as a command line has them. Example: {"busy": True} -> ["--busy"]."""
    words = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            off = [option.replace("--", "--no-", 1)] if name == "half_stop" else []
            words += [option] if value else off
        elif value:
            words += [option, value]
    return words


@app.command()
def wait(
    n: Number,
    seconds: Annotated[
        float, typer.Option(min=0, help="Wait so long at most. Exit code 3 if it still runs then.")
    ] = math.inf,
    as_json: AsJson = False,
):
    """Wait for the verdict of an experiment, as of `try --detach`, and show it as `try` does."""
    home = commits.home()
    find_experiment(n)
    with exit_on_user_error(f"the experiment goes on; {WAIT.format(n)}"), LiveLines() as tell:
        e = wait_for_verdict(home, n, seconds, tell)
    if as_json or e.is_decided:
        tables.show_verdict(e, home, as_json)
    if not e.is_decided:
        notes.print(f"experiment {n} has no verdict yet; {WAIT.format(n)}")
        raise SystemExit(STILL_RUNS)


@app.command()
def compare(
    names: Annotated[list[str], Names],
    seeds: Seeds = 5,
    frame: Annotated[
        str, typer.Option(help="What each run gets the same of: time, tokens or flops.")
    ] = "time",
    budget: Budget = None,
    arena: Arena = None,
    device: Device = None,
    on: On = None,
    busy: Busy = False,
    as_json: AsJson = False,
):
    """Compare commits or files with error bars, seeds in turns. Changes no champion."""
    if frame not in ("time", "tokens", "flops"):
        raise Refused(f"frame {frame!r} is not known: say time, tokens or flops")
    comparisons.read_arms(names, seeds)  # refuses before an arena is prepared for nothing
    options = dict(device=device, on=on, arena=arena, budget=budget, busy=busy)
    with shown_session(open_comparison, **options) as session:
        e = comparisons.compare(session, names, seeds, frame)
    curves = compared_curves(e, read_curves(commits.home() / MEASURED[0]))
    if as_json:
        rows = tables.contrast_rows(e, "val")
        rows = [row | {"decoding": curves.curves.get(row["name"])} for row in rows]
        facts = {"n": e.n, "frame": frame, "reason": e.reason, "arms": rows}
        return show_json(facts | tables.goal_json(e))
    for name, limit in e.limits.items():
        console.print(f"limit of the campaign: {Requirement(name, limit)}")
    tables.show_contrasts(e)
    for run in e.runs:
        if run["status"] != "ok":
            text = f"{e.arms[run['arm']]['name']}: {run['status']}: {run['reason']}"
            console.print(escape(text), style="red")
    if curves.curves:
        show_curves(curves)
        path = commits.home() / "runs" / str(e.n) / "decoding.png"
        draw_curves(curves.curves, path)
        console.print(escape(str(path)), soft_wrap=True)


@app.command()
def audit(
    seeds: Annotated[
        int,
        typer.Option(
            "-n",
            "--seeds",
            help="Runs of each, with fresh seeds. Default: 4; of another goal than val_bpb 8.",
        ),
    ] = None,
    device: Device = None,
    on: On = None,
    busy: Busy = False,
    as_json: AsJson = False,
):
    """Run last champion and baseline in turns, fresh seeds, test split too: does the gain hold?"""
    with shown_session(join_campaign, device=device, on=on, busy=busy) as session:
        e = comparisons.audit(session, seeds)
    if as_json:
        splits = {split: tables.contrast_rows(e, split) for split in ("val", "test")}
        return show_json({"n": e.n} | tables.goal_json(e) | splits)
    tables.show_contrasts(e)
    console.print(escape(e.reason))
    if not e.goal.is_val_bpb:
        campaign = Campaign(Ledger(commits.home()).experiments().values(), e.comparison_key)
        console.print(escape(describe_claim(campaign)), soft_wrap=True)


@app.command()
def log(
    most: Annotated[
        int, typer.Option("-n", min=1, help="Number of experiments to show: the last ones.")
    ] = 30,
    by: Annotated[
        str, typer.Option(help="Show only this author's ideas, and their trials.")
    ] = None,
    as_json: AsJson = False,
):
    """Show the ledger: a line for each experiment."""
    home = commits.home()
    ledger = Ledger(home)
    everything = [*ledger.experiments().values()]
    chosen = everything if by is None else tables.experiments_by(by, everything)
    if as_json:
        return show_json([tables.experiment_json(e, home) for e in chosen])
    if not everything:
        return console.print("the ledger is empty: begin with `uv run ratchet calibrate`")
    if not chosen:
        return console.print(f"of {len(everything)} experiments none is by {by}")
    tables.show_log(chosen, everything, most, home)
    for text in describe_last_agents(home, tables.campaigns_by_number(everything)):
        console.print(Markdown(text))
    if warning := ledger.cut_off_line():
        console.print(warning, style="yellow")


@app.command()
def frontier(
    by: Annotated[
        str, typer.Option(help=f"Two or three measures, of val_bpb, {', '.join(MEASURES)}.")
    ] = ",".join(AXES),
    as_json: AsJson = False,
):
    """Show what no other experiment beats in several measures at once: size, memory, speed."""
    axes = parse_axes(by)
    experiments = [*Ledger(commits.home()).experiments().values()]
    campaign = Campaign(experiments)
    own = list_points(campaign)
    earlier = list_earlier(own, earlier_campaigns(campaign, list_campaigns(experiments)))
    points = find_frontier(own, axes) + find_frontier(earlier, axes)
    if as_json:
        return show_json([point._asdict() for point in points])
    if not points:
        return console.print(f"no experiment of this campaign has all of {', '.join(axes)}")
    tables.show_frontier(points, axes)


def find_experiment(n: int) -> Experiment:
    """Raises Refused if the ledger has no such number."""
    experiments = Ledger(commits.home()).experiments()
    if n not in experiments:
        many = len(experiments)
        raise Refused(f"there is no experiment {n}: the ledger has {many}, see `ratchet log`")
    return experiments[n]


@app.command()
def show(n: Number, as_json: AsJson = False):
    """Show all of one experiment: its runs, probes, seconds and side figures."""
    e, home = find_experiment(n), commits.home()
    if as_json:
        return show_json(tables.experiment_json(e, home))
    tables.show_experiment(e, [*Ledger(home).experiments().values()], home)


@app.command()
def diff(n: Number):
    """Show what an experiment changed in train.py, against the champion of its time."""
    e = find_experiment(n)
    if e.role not in ("try", "trial"):
        return console.print(f"experiment {n} changed nothing: its role is {e.role}")
    change = commits.git("diff", e.parent, e.arms[0]["commit"], "--", "train.py")
    text = clean_text(change)
    if not console.is_terminal:
        return typer.echo(text, nl=False)  # as git apply takes it
    console.print(Syntax(text, "diff"), soft_wrap=True)


@app.command()
def verify(as_json: AsJson = False):
    """Check the chain of hashes, the sources, every verdict. Exit code 1 if one is wrong."""
    ledger = Ledger(commits.home())
    problems, rows = find_problems(ledger), len(ledger.rows())
    seal_change, probes = describe_seal_change(ledger), count_probes(ledger)
    if as_json:
        lines = {"lines": rows, "head": ledger.head_hash(), "problems": problems}
        show_json(lines | {"seal": seal_change, "probes": probes})
    else:
        if seal_change:
            console.print(f"note: {escape(seal_change)}", style="yellow", soft_wrap=True)
        for problem in problems:
            console.print(escape(problem), style="red")
        if probes:
            console.print(describe_probes(probes), soft_wrap=True)
        head = ledger.head_hash() or "none"
        console.print(f"{rows} lines, {len(problems)} problems, head {head}", soft_wrap=True)
    raise SystemExit(bool(problems))


@app.command()
def night(
    agents: Annotated[
        list[str],
        typer.Option(
            "--agent",
            help="A command that reads a prompt and edits train.py, or tuner. Several are asked "
            "in turns, and compared.",
        ),
    ],
    hours: Annotated[float, typer.Option(min=0, help="End after this many hours.")] = math.inf,
    most: Annotated[
        float, typer.Option("--experiments", min=0, help="End after this many verdicts.")
    ] = math.inf,
    device_seconds: Annotated[
        float,
        typer.Option(min=0, help="End when runs have used this many seconds of the device."),
    ] = math.inf,
    calls: Annotated[
        float, typer.Option(min=0, help="End after this many calls of the agent.")
    ] = math.inf,
    dollars: Annotated[
        float, typer.Option(min=0, help="End when the agent's calls have cost so many dollars.")
    ] = math.inf,
    price: Annotated[
        str, typer.Option(help="IN,OUT: dollars per million tokens, if the agent tells no cost.")
    ] = "",
    until: Annotated[
        float,
        typer.Option(
            "--until", help="End when fresh runs show the champion at this val_bpb, or other goal."
        ),
    ] = None,
    notify: Annotated[
        str,
        typer.Option(help="A command to run when something is kept, or the night waits or ends."),
    ] = "",
    share: Share = (),
    passed: Pass = (),
    digest_tokens: Annotated[
        int, typer.Option(help="Tell the agent in so many tokens at most what is known.")
    ] = MOST_TOKENS,
    network: AgentNetwork = True,
    names: Annotated[
        str, typer.Option("--devices", help="Work on several devices at once: cuda:0,cuda:1.")
    ] = None,
    on: On = None,
    slots: Annotated[int, typer.Option(help="With --on: number of experiments at a time.")] = None,
    name: Annotated[
        str,
        typer.Option("--profile", help="strict, default or bold: how daring the search is."),
    ] = "default",
    simpler: Annotated[
        bool, typer.Option("--simpler", help="Keep what is as good with less code, too.")
    ] = False,
    half_stop: HalfStop = True,
    wandb: Wandb = False,
    busy: Busy = False,
):
    """Try an agent's ideas until a limit or `ratchet stop`. The same command resumes a night."""
    check_wandb(wandb)
    limits = Limits(hours, most, device_seconds, calls, dollars)
    check_tokens(digest_tokens)
    tokens_price = parse_price(price) if price else None
    where = dict(names=names, on=on, slots=slots, is_night=True)
    if name not in PROFILES:
        raise Refused(f"profile {name!r} is not known: say {', '.join(PROFILES)}")
    options = dict(busy=busy, half_stop=half_stop, wandb=wandb)
    with shown_session(join_campaign, **where, **options) as session:
        how = dict(may_tie=simpler, digest_tokens=digest_tokens, until=until, notify=notify)
        how |= dict(price=tokens_price)
        why = run_night(session, agents, limits, share, network, passed, PROFILES[name], **how)
        text = summarize_night(session)
    console.print(f"the night ended: {escape(why)}\n")
    console.print(Markdown(text))
    save_summary(commits.home(), text)
    code = last_exit_code(commits.home())
    if code == NEVER_WORKED:
        remedy = "mend what it failed by, then give the same command again"
        raise Refused(f"no call of the agent ever gave an idea: {remedy}")
    raise SystemExit(code)


@app.command()
def report(
    to: Annotated[
        Path, typer.Option(help="Folder for report.html and progress*.png. Default: runs/.")
    ] = None,
    plotly: Annotated[
        Path, typer.Option(help="A file for plotly, shared by pages. Default: it is in the page.")
    ] = None,
):
    """Write the ledger as a page that needs no network, and as a picture."""
    home = commits.home()
    for path in write_report(home, to or home / "runs", plotly):
        console.print(escape(str(path)), soft_wrap=True)


@app.command()
def watch(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to serve on; 0 takes a free one.")
    ] = 8000,
):
    """Serve the report on 127.0.0.1 while a night runs: it refreshes itself."""
    with make_server(commits.home(), port) as server:
        console.print(f"{server.url}  (Ctrl-C ends it)", soft_wrap=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            raise SystemExit(130) from None


@app.command()
def status(as_json: AsJson = False):
    """Show what runs: a night, which has done so much so far, or a try."""
    home = commits.home()
    state = night_status(home) | describe_running(home)
    if as_json:
        return show_json(state)
    if "began" in state:
        began = local_time(str(state["began"]))
        state["began"] = f"{began} ({local_zone()}, as are all times here)"
    for key, value in state.items():
        console.print(escape(f"{key + ':':<15} {value}"), soft_wrap=True)


@app.command()
def stop() -> None:
    """End a night after the experiment that runs now; anything else at once, to go on later."""
    is_night = night_status(commits.home())["night"] == "runs"
    if stop_command(commits.home()):
        what = "`night` begins a new one, `audit` measures what was kept" if is_night else GO_ON
        return console.print(f"it has {'ended' if is_night else 'stopped'}: {what}")
    console.print("the night will end when the experiment that runs now has its verdict")


app.registered_commands += model_app.registered_commands


if __name__ == "__main__":
    main()
