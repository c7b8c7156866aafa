"""Tables on the terminal of how a model decodes, of what more devices would give."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from ratchet.terminal import console

STEADY = 1.5  # times that repeats of one measurement may differ


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
    """Example: "256 tokens, then 64, with a KV cache, compiled; cpu"."""
    cache = "with a KV cache" if result["cached"] else "no KV cache: every token recomputes its row"
    compiled = "compiled" if result["compiled"] else "not compiled"
    return (
        f"{result['prompt']} tokens, then {result['new']}, {cache}, {compiled}; {result['device']}"
    )


def show_decoding(result: dict[str, Any]) -> None:
    """The sweep over batch sizes, and how far each is from what the device could do at best."""
    users = "tokens/s of a user", "p99"
    table = Table("rows", "TTFT ms", "TPOT ms", *users, "tokens/s of the device", "of the bound")
    table.title = decoding_title(result)
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
    spread = max(max(point["tpots"]) / min(point["tpots"]) for point in result["points"])
    if spread > STEADY:
        text = f"repeats differ {spread:.1f} times: something else uses the machine"
        console.print(text, style="yellow")
    if result["isolation"] == "none":
        console.print("isolation was none: see `ratchet doctor`", style="yellow")
    if result["cached"]:
        token = f"a token at the end of a full row: {1e3 * against['cached']:.2f} ms"
        ratio = against["recomputed"] / against["cached"]
        console.print(f"{token}, without the cache {ratio:.1f} times as long")


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
