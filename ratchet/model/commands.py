"""The command line's verbs on a trained model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ratchet import commits
from ratchet.experiments.ledger import Ledger
from ratchet.model import find, sample
from ratchet.model.export import export_model
from ratchet.model.links import choose_links
from ratchet.model.scaling import MOST_DEVICES, describe_training, scaling_report
from ratchet.model.serve_bench import MOST_ROWS, measure_decoding
from ratchet.model.tables import SampleWriter, show_curves, show_decoding, show_scaling
from ratchet.referee.devices.choice import choose_device, describe_device
from ratchet.report.data import MEASURED
from ratchet.report.decoding import Group, add_curve, read_curves
from ratchet.terminal import LiveLines, console, notes, show_json

app = typer.Typer()
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of tables.")]
Device = Annotated[
    str, typer.Option(help="cuda:0, mps, cpu; cpu:0/2 is its first half. Default: the best here.")
]
RUN_HELP = "An experiment's number, a run's folder, champion, or baseline."
Run = Annotated[str, typer.Argument(metavar="[RUN]", help=f"{RUN_HELP} Default: champion.")]
Runs = Annotated[
    list[str],
    typer.Argument(metavar="[RUN]...", help=f"{RUN_HELP} Several are drawn together."),
]


def find_trained(name: str | None = None) -> Path:
    """The folder of the run that is meant; by default the champion's."""
    home = commits.home()
    run = find.find_run(Ledger(home), home, name)
    notes.print(f"model: {escape(find.run_name(run))}", style="dim")
    return run


@app.command()
def speak(
    words: Annotated[list[str], typer.Argument(metavar="[RUN] [PROMPT]", help=RUN_HELP)] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each sample, at most.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0, help="Randomness; 0 always takes the likeliest token.")
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option(min=0, help="Draw from the K likeliest tokens only; 0: from all.")
    ] = 50,
    samples: Annotated[
        int, typer.Option(min=1, help="Number of samples. Default: 1, without a prompt 3.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the random draws; the same seed repeats a text.")
    ] = 0,
    device: Device = None,
):
    """Have the champion, or another run's model, continue a prompt."""
    name, prompt = find.name_and_prompt(words or [])
    run = find_trained(name)
    options = {"tokens": tokens, "temperature": temperature, "top_k": top_k, "seed": seed}
    number = samples or (1 if prompt else 3)
    with SampleWriter(prompt) as show:
        sample.sample_text(run, prompt, number, device, show=show, tell=notes.print, **options)


@app.command()
def serve_bench(
    names: Runs = None,
    device: Device = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the largest batch.")] = MOST_ROWS,
    prompt: Annotated[
        int, typer.Option(min=1, help="Tokens of the prompt. Default: half of the context.")
    ] = None,
    new: Annotated[
        int, typer.Option(min=2, help="Tokens decoded after the prompt. Default: at most 64.")
    ] = None,
    eager: Annotated[bool, typer.Option("--eager", help="Don't compile the model.")] = False,
    as_json: AsJson = False,
):
    """Measure decoding: tokens/s of the device against tokens/s of a user, at growing batches."""
    path, results = commits.home() / MEASURED[0], []
    runs = [find_trained(name) for name in names or [None]]
    with LiveLines() as tell:
        for run in runs:
            result = measure_decoding(run, device, rows, prompt, new, eager, tell)
            find.write_measured(path, {"curves": add_curve(read_curves(path), result)})
            results.append(result)
    if as_json:
        return show_json(results if len(results) > 1 else results[0])
    for result in results:
        show_decoding(result)
    if len(results) > 1:
        show_curves(Group("these models", {result["run"]: result for result in results}, []))


@app.command()
def scaling(
    run: Run = None,
    device: Device = None,
    most: Annotated[
        int, typer.Option("--devices", min=2, help="Forecast up to this number of devices.")
    ] = MOST_DEVICES,
    links: Annotated[
        str, typer.Option(help="A file that nccl-tests printed, or external: a built-in table.")
    ] = None,
    as_json: AsJson = False,
):
    """Forecast training and decoding on several devices, from times of all-reduce measured here."""
    folder, device = find_trained(run), choose_device(device)
    model, device_name = describe_training(folder), describe_device(device)["device"]
    with LiveLines() as tell:
        tell(f"reading {links}" if links else "measuring all-reduce")
        all_reduce = choose_links(links, device)
    decoding_file, scaling_file = (commits.home() / name for name in MEASURED)
    token_seconds = find.measured_token_seconds(decoding_file, folder, device)
    result = scaling_report(folder, model, all_reduce, device_name, token_seconds, most)
    find.write_measured(scaling_file, result)
    show_json(result) if as_json else show_scaling(result)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    to: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
):
    """Write a run's model as a folder that `transformers` loads."""
    folder = export_model(find_trained(run), to)
    load = f"AutoModelForCausalLM.from_pretrained({str(to)!r}, trust_remote_code=True)"
    console.print(escape(f"{folder}: {load}"), soft_wrap=True)
