"""The picture: progress.png, a night at a glance."""

import io
import re
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet.arena.files import replace_file
from ratchet.report.columns import shorten
from ratchet.report.palette import BLUE, GREY, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

LABELS = 8  # kept steps that have a label, at most: those with the largest gains
LABEL_CHARACTERS = 34  # of an idea
MARK_PIXELS = 8  # half of a mark's width, about
# Where a label may go, as points from its step: the first where it covers nothing is taken.
LEFT, RIGHT = (-12, "right"), (12, "left")
HEIGHTS = 6, -14, 22, -30, 40, -48
CLAIM = {"xycoords": "axes fraction", "fontsize": 9, "weight": "bold", "va": "bottom", "zorder": 5}
SHOWN_ROLES = "calibrate", "try", "trial"
MEMBERS = 3  # ideas of a trial that its label names, at most
LEADER = {"arrowstyle": "-", "lw": 0.7, "color": GREY, "shrinkB": 10}  # from a label to its mark


def draw_picture(data: dict, path: Path) -> None:
    """Write progress.png of the latest campaign: experiments, the bar, kept ideas, the claim."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    campaign = data["campaigns"][data["latest"]]
    figure, axes = pyplot.subplots(figsize=(10, 4.6), dpi=160, layout="constrained")
    rows = [e for e in campaign["experiments"] if e["mean"] and e["role"] in SHOWN_ROLES]
    draw_experiments(axes, rows)
    steps = campaign["bar"] or campaign["champions"]
    if campaign["bar"]:
        draw_bar(axes, campaign["bar"], rows)
    elif steps:
        draw_staircase(axes, steps, campaign["sigma"], rows)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="experiment", ylabel="val_bpb (lower is better)")
    title = f"{campaign['arena']}, {campaign['budget']} a run, {campaign['device']}"
    axes.set_title(title, fontsize=10)
    if rows or steps:
        axes.legend(fontsize=8, frameon=False, ncols=4, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    claim = axes.annotate(campaign["claim"]["words"], (0.01, 0.02), **CLAIM)
    figure.draw_without_rendering()  # labels go where nothing is: all else must have its place
    if rows and steps:
        label_steps(axes, rows, steps, [claim.get_window_extent()])
    image = io.BytesIO()
    figure.savefig(image, metadata={"Software": None}, format="png")
    pyplot.close(figure)
    replace_file(path, image.getvalue())


def draw_experiments(axes: "Axes", rows: list[dict]) -> None:
    """A mark for each experiment that has a score, by its verdict; of what had a trial: a hit."""
    for verdict in sorted({row["mark"] for row in rows}):
        points = [(row["n"], row["mean"]) for row in rows if row["mark"] == verdict]
        style = style_of(verdict)
        axes.scatter(
            *zip(*points),
            c=style.color,
            marker=style.marker,
            s=style.size,
            label=verdict,
            zorder=3,
            linewidths=1,
        )


def draw_staircase(
    axes: "Axes", champions: list[dict], sigma: float | None, rows: list[dict]
) -> None:
    """The champion's score over the experiments, with its interval and the noise around it."""
    numbers = [champion["n"] for champion in champions]
    means = [champion["mean"] for champion in champions]
    halves = [champion["half"] or 0 for champion in champions]
    axes.errorbar(numbers, means, halves, fmt="none", ecolor=BLUE, capsize=3, lw=1)
    last = max(row["n"] for row in rows) if rows else numbers[-1]
    numbers, means = [*numbers, max(last, numbers[-1])], [*means, means[-1]]
    axes.step(numbers, means, where="post", color=BLUE, lw=2, label="champion")
    if sigma:
        low, high = [mean - sigma for mean in means], [mean + sigma for mean in means]
        style = {"step": "post", "color": BLUE, "alpha": 0.13, "lw": 0}
        axes.fill_between(numbers, low, high, label="± 1 sigma", **style)


def draw_bar(axes: "Axes", bar: list[dict], rows: list[dict]) -> None:
    """What a candidate had to beat over the experiments, with its interval."""
    last = max(bar[-1]["n"], *(row["n"] for row in rows))
    bar = [*bar, {**bar[-1], "n": last}]
    numbers, levels = [row["n"] for row in bar], [row["mean"] for row in bar]
    low, high = ([row["mean"] + sign * row["half"] for row in bar] for sign in (-1, 1))
    axes.step(numbers, levels, where="post", color=BLUE, lw=2, label="bar: the champion's level")
    style = {"step": "post", "color": BLUE, "alpha": 0.15, "lw": 0}
    axes.fill_between(numbers, low, high, label="its 95 % interval", **style)


def short_idea(idea: str) -> str:
    """Example: "depth 2 instead of 3: a smaller trunk sees more" -> "depth 2 instead of 3"."""
    line = " ".join(idea.split())
    return shorten(re.split(r"[:;.](?: |$)", line)[0], LABEL_CHARACTERS)


def label_of(row: dict) -> str:
    """Ideas of a kept step, a line each, and its gain."""
    lines = [f"{each['n']} {short_idea(each['idea'])}" for each in row["members"][:MEMBERS]]
    if len(row["members"]) > MEMBERS:
        lines.append(f"and {len(row['members']) - MEMBERS} more")
    half = (row["high"] - row["low"]) / 2
    gain = f"{row['gain']:+.3f} ± {half:.3f} bpb"
    return "\n".join([*(lines or [short_idea(row["idea"])]), gain])


def label_steps(
    axes: "Axes", rows: list[dict], steps: list[dict], others: Sequence["Bbox"] = ()
) -> None:
    """Write ideas and gain beside the kept steps, where there is room for them.

    steps: of the line. others: boxes that are taken, too.
    """
    from matplotlib.text import Text

    kept = [row for row in rows if row["mark"] == "keep" and "gain" in row]
    kept = sorted(kept, key=lambda row: -row["gain"])[:LABELS]
    taken = [*drawn_boxes(axes, rows, steps), axes.get_legend().get_window_extent(), *others]
    for row in kept:
        text = label_of(row)
        for height, (shift, side) in product(HEIGHTS, (LEFT, RIGHT)):
            label = axes.annotate(
                text.replace("$", r"\$"),
                (row["n"], row["mean"]),
                (shift, height),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=9,
                color=style_of("keep").color,
                zorder=4,
                arrowprops=LEADER | {"relpos": (float(side == "right"), 0.5)},
            )
            label.update_positions(axes.figure.canvas.get_renderer())
            box = Text.get_window_extent(label)  # without its line
            if is_free(box, taken, axes.bbox):
                taken.append(box)
                break
            label.remove()


def drawn_boxes(axes: "Axes", rows: list[dict], steps: list[dict]) -> list["Bbox"]:
    """Boxes of pixels around marks, error bars and each step of the staircase."""
    from matplotlib.transforms import Bbox

    spans = [((row["n"], row["mean"]), (row["n"], row["mean"])) for row in rows]
    for row, after in pairwise([*steps, {**steps[-1], "n": rows[-1]["n"]}]):
        half = row["half"] or 0
        spans.append(((row["n"], row["mean"] - half), (row["n"], row["mean"] + half)))
        spans.append(((row["n"], row["mean"]), (after["n"], row["mean"])))
        spans.append(((after["n"], row["mean"]), (after["n"], after["mean"])))
    return [Bbox(axes.transData.transform(span)).padded(MARK_PIXELS) for span in spans]


def is_free(box: "Bbox", taken: list["Bbox"], inside: "Bbox") -> bool:
    """Whether a box covers none of those taken, and lies in another."""
    corners = inside.contains(*box.min) and inside.contains(*box.max)
    return corners and not any(box.overlaps(other) for other in taken)
