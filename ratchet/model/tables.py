"""Tables on the terminal of how a model decodes, of what more devices would give."""

from string import ascii_uppercase
from typing import Any

from rich.markup import escape
from rich.table import Table

from ratchet.model.text_chart import LIGHT, Series, draw_chart
from ratchet.report.decoding import Curve, Group, describe_unrest, light_points, measured_points
from ratchet.terminal import console

MOST_WIDTH = 110  # characters of a chart


class SampleWriter:
    """Shows samples as they come, each after the prompt."""

    def __init__(self, prompt: str):
        self.prompt = prompt
        self.number = None  # of the sample that is being written

    def __enter__(self):
        return self

    def __exit__(self, *_):
        console.print()

    def __call__(self, number: int, text: str) -> None:
        if number != self.number:
            console.print("" if self.number is None else "\n---\n", end="")
            self.write(self.prompt, style="dim")
            self.number = number
        self.write(text)

    def write(self, text: str, style: str | None = None) -> None:
        console.print(text, end="", style=style, markup=False, emoji=False, soft_wrap=True)


def decoding_title(result: dict[str, Any]) -> str:
    """Example: "12/3-trial-0: 256 tokens, then 64, with a KV cache, compiled; cpu"."""
    cache = "with a KV cache" if result["cached"] else "no KV cache: every token recomputes its row"
    compiled = "compiled" if result["compiled"] else "not compiled"
    lengths = f"{result['prompt']} tokens, then {result['new']}"
    return f"{result['run']}: {lengths}, {cache}, {compiled}; {result['device']}"


def show_decoding(result: dict[str, Any]) -> None:
    """The sweep over batch sizes, and how far each is from what the device could do at best."""
    users = "tokens/s of a user", "p99"
    table = Table("rows", "TTFT ms", "TPOT ms", *users, "tokens/s of the device", "of the bound")
    table.title, table.title_justify = escape(decoding_title(result)), "left"
    for point in result["points"]:
        table.add_row(
            str(point["rows"]),
            f"{1e3 * point['ttft']:.1f}",
            f"{1e3 * point['tpot']:.2f}",
            f"{point['interactivity']:,.1f}",
            f"{point['interactivity_p99']:,.1f}",
            f"{point['rate']:,.0f}",
            f"{point['bound'] / point['tpot']:.0%}",
        )
    console.print(table)
    show_decoding_notes(result)


def show_decoding_notes(result: dict[str, Any]) -> None:
    """What the bound is made of, how steady the figures are, what the cache gains."""
    limits, against = result["limits"], result["against"]
    peak = f"{limits['bandwidth'] / 1e9:.1f} GB/s, {limits['peak_flops'] / 1e12:.2f} TFLOP/s"
    bound = f"bound: bytes from memory and FLOPs of a step at {peak}, measured here"
    console.print(f"measured; {bound}", style="dim")
    if unrest := describe_unrest([result]):
        console.print(unrest, style="yellow")
    if result["isolation"] == "none":
        console.print("isolation was none: see `ratchet doctor`", style="yellow")
    if result["cached"]:
        token = f"a token at the end of a full row: {1e3 * against['cached']:.2f} ms"
        ratio = against["recomputed"] / against["cached"]
        console.print(f"{token}, without the cache {ratio:.1f} times as long")


# --------------------------------------------------------------------------------------------------
# Several models


def show_curves(group: Group) -> None:
    """The decoding curves of several models, as a table and a chart."""
    console.print(f"decoding, {group.title}:", markup=False)
    for letter, name, curve in lettered(group):
        console.print(f"{letter} {name}: {describe_curve(curve)}", markup=False, soft_wrap=True)
    console.print(curves_table(group))
    console.print(curves_chart(group, console.width), markup=False, soft_wrap=True)
    if unrest := describe_unrest(group.curves.values()):
        console.print(f"{unrest}, and may make one model look faster", style="yellow")
    if missing := describe_missing(group):
        console.print(missing, style="dim", markup=False, soft_wrap=True)


def lettered(group: Group) -> list[tuple[str, str, Curve]]:
    """[(A, B or so, name, curve)]: for want of room tables have the letters alone."""
    return [(letter, *item) for letter, item in zip(ascii_uppercase, group.curves.items())]


def curves_table(group: Group) -> Table:
    """Tokens/s of a user and of the device by rows of a batch, a column for each curve."""
    table, letters = Table("rows", box=None), [letter for letter, *_ in lettered(group)]
    rates: dict[int, dict[str, dict]] = {}  # {rows: {letter: point}}
    for letter, _, curve in lettered(group):
        for point in curve["points"]:
            rates.setdefault(point["rows"], {})[letter] = point
    for of_whom in ("of a user", "of device"):
        for letter in letters:
            table.add_column(f"{letter} tokens/s\n{of_whom}", justify="right")
    for rows, points in sorted(rates.items()):
        cells = [
            f"{points[letter][key]:,.0f}" if letter in points else ""
            for key in ("interactivity", "rate")
            for letter in letters
        ]
        table.add_row(str(rows), *cells)
    return table


def curves_chart(group: Group, width: int) -> str:
    """The curves as a chart of characters, below their speeds of light."""
    lights = [Series(LIGHT, light_points(curve), True) for curve in group.curves.values()]
    marks = [Series(letter, measured_points(curve)) for letter, _, curve in lettered(group)]
    names = "tokens/s of a user", "tokens/s of the device"
    chart = draw_chart(lights + marks, *names, width=min(width, MOST_WIDTH))
    light = f"{LIGHT} speed of light, modelled: bytes or FLOPs of a step at the device's best"
    return f"\n{chart}\n{light}"


def describe_curve(curve: Curve) -> str:
    """Example: "cpu: Intel(R) Xeon(R) Processor, 2 cores; 256 tokens, then 64; compiled"."""
    how = "compiled" if curve["compiled"] else "not compiled"
    lengths = f"{curve['prompt']} tokens, then {curve['new']}"
    return f"{curve['device']}; {lengths}; {how}; {curve['time']}"


def describe_missing(group: Group) -> str:
    """What to do about what has no curve; "" if nothing lacks one."""
    if not group.missing:
        return ""
    names = ", ".join(group.missing)
    return f"no decoding curve that was measured like these: {names} (see `ratchet serve-bench`)"


# --------------------------------------------------------------------------------------------------
# More devices


def show_scaling(result: dict[str, Any]) -> None:
    """Efficiency of training and the bound of decoding, by the number of devices."""
    heads = "devices", "all-reduce ms", "which is", "strong", "weak", "tokens/s of a user, at most"
    table = Table(*heads, title=escape(f"all-reduce: {result['source']} ({result['tag']})"))
    bounds = {row["n"]: f"{row['bound']:,.0f}" for row in result["decoding"]}
    for row in result["training"]:
        table.add_row(
            str(row["n"]),
            f"{1e3 * row['all_reduce']:.3f}",
            row["tag"],
            f"{row['strong']:.0%}" if row["strong"] else "no rows left",
            f"{row['weak']:.0%}",
            bounds.get(row["n"], ""),
        )
    console.print(table)
    model = result["model"]
    step = f"a step takes {model['step']:.3f} s on one device ({model['device']})"
    console.print(f"{step}; its trunk has {model['gradients'] / 1e6:.1f} MB of gradients")
    console.print("strong, weak and tokens/s are modelled; real efficiency is lower:", style="dim")
    more = "gradients of embeddings and tables, and Muon's updates, travel, too"
    console.print(more, style="dim")
    if not result["decoding"]:
        console.print("for decoding in this table, run `ratchet serve-bench` first")
