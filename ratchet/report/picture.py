"""The picture: progress.png, a night at a glance, for light pages and for dark ones."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet.arena.files import replace_file
from ratchet.report.palette import STYLES, THEMES, Theme, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Drawn to be shown at half its pixels, 830 wide, and large enough to be read on a phone.
INCHES, DPI = (8.3, 6.6), 200
SMALL = 11.5  # size of lesser text, in points
CLAIM_INCHES = 0.7, 0.36  # of that height, for the claim: around it, and for each row
ROOM = 0.35  # of the way that the bar has gone: what scored worse than that is drawn at the edge
LEAST_ROOM = 4  # sigma
VALUE_ROOM = 0.6  # of a panel, at its right: for figures
SHOWN_ROLES = "try", "trial"
ORDER = [*STYLES]  # of verdicts in the legend
# What is said of a gain on the baseline: {part of a claim: words}.
GAINS = {
    "promised": "first runs: selected, no claim",
    "val": "the claim: fresh runs at the end",
    "test": "the same runs on the test text",
}


def draw_pictures(data: dict, folder: Path) -> Iterator[Path]:
    """Write progress.png and progress-dark.png of the latest campaign. Yields each path."""
    import matplotlib

    matplotlib.use("agg")
    for name, theme in THEMES.items():
        path = folder / f"progress{name}.png"
        with matplotlib.rc_context(settings_of(theme)):
            replace_file(path, draw_campaign(data["campaigns"][data["latest"]], theme))
        yield path


def settings_of(theme: Theme) -> dict:
    """A theme as settings of matplotlib."""
    inks = "text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"
    papers = "figure.facecolor", "axes.facecolor", "savefig.facecolor"
    settings = dict.fromkeys(inks, theme.ink) | dict.fromkeys(papers, theme.paper)
    shown = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    return settings | shown | {"font.size": 12.5, "legend.fontsize": SMALL, "figure.dpi": DPI}


def draw_campaign(campaign: dict, theme: Theme) -> bytes:
    """A PNG: experiments, the bar, kept ideas; below them what is claimed."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=INCHES, layout="constrained")
    figure.suptitle(
        f"{campaign['arena']}, {campaign['budget']} a run, {campaign['device']}",
        **{"fontsize": SMALL, "color": theme.dim},
    )
    claim = {} if "ratio" in campaign["claim"] else campaign["claim"]  # of another goal
    gains = [(words, claim.get(part)) for part, words in GAINS.items()]
    if gains := [(words, gain) for words, gain in gains if gain]:
        height = CLAIM_INCHES[0] + CLAIM_INCHES[1] * len(gains)
        upper, lower = figure.subfigures(2, height_ratios=[INCHES[1] - height, height])
        draw_claim(lower.subplots(), gains, theme)
    else:
        upper = figure.subfigures()
    draw_night(upper.subplots(), campaign, theme)
    image = io.BytesIO()
    figure.savefig(image, metadata={"Software": None}, format="png")
    pyplot.close(figure)
    return image.getvalue()


# --------------------------------------------------------------------------------------------------
# The night


def draw_night(axes: "Axes", campaign: dict, theme: Theme) -> None:
    """Scores over the experiments, the baseline, the bar, the ideas that were kept."""
    axes.set(xlabel="experiment", ylabel="val_bpb (lower is better)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    rows = [e for e in campaign["experiments"] if e["role"] in SHOWN_ROLES]
    steps = campaign["bar"] or campaign["champions"]
    if not steps:
        return
    last = max(steps[-1]["n"], *(row["n"] for row in rows), steps[0]["n"] + 1)
    steps = [*steps, steps[-1] | {"n": last}]
    top = find_top(steps, campaign["sigma"] or 0)
    draw_baseline(axes, steps, theme)
    draw_bar(
        axes, steps, "bar (champion's level), 95 %" if campaign["bar"] else "champion, 95 %", theme
    )
    draw_experiments(axes, rows, top, theme)
    axes.figure.legend(loc="outside upper left", ncols=4, columnspacing=1.2)
    from ratchet.report.labels import label_steps  # it takes NumPy, and verbs begin without

    label_steps(axes, rows, steps, theme)


def find_top(steps: list[dict], sigma: float) -> float:
    """The worst score that has room in the picture."""
    levels = [step["mean"] for step in steps]
    room = max(ROOM * (max(levels) - min(levels)), LEAST_ROOM * sigma)
    return max(step["mean"] + (step["half"] or 0) for step in steps) + room


def draw_baseline(axes: "Axes", steps: list[dict], theme: Theme) -> None:
    """The level from which the night began, across the picture."""
    style = style_of("baseline")
    axes.plot(
        [steps[0]["n"], steps[-1]["n"]],
        [steps[0]["mean"]] * 2,
        color=theme.line,
        marker=style.marker,
        markevery=[0],
        ls=":",
        label="baseline",
    )


def draw_bar(axes: "Axes", steps: list[dict], name: str, theme: Theme) -> None:
    """What a candidate had to beat over the experiments, with its interval."""
    numbers, levels = [step["n"] for step in steps], [step["mean"] for step in steps]
    low, high = ([step["mean"] + sign * (step["half"] or 0) for step in steps] for sign in (-1, 1))
    axes.step(numbers, levels, where="post", color=theme.line, lw=2.2, label=name)
    axes.fill_between(numbers, low, high, step="post", color=theme.line, alpha=0.2, lw=0)


def draw_experiments(axes: "Axes", rows: list[dict], top: float, theme: Theme) -> None:
    """A mark for each experiment by its verdict; of what had a trial: a hit.

    What scored worse than `top`, or has no score, is a line at the upper edge.
    """
    scored = [row for row in rows if row["mean"] is not None and row["mean"] <= top]
    for verdict in sorted({row["mark"] for row in scored}, key=rank_verdict):
        points = [(row["n"], row["mean"]) for row in scored if row["mark"] == verdict]
        style = style_of(verdict)
        look = {"c": style.color, "marker": style.marker, "s": style.size, "linewidths": 1.2}
        axes.scatter(*zip(*points), **look, label=verdict, zorder=3)
    if others := [row["n"] for row in rows if row not in scored]:
        edge = axes.get_xaxis_transform()
        look = {"marker": "|", "s": 60, "color": theme.dim, "transform": edge, "clip_on": False}
        axes.scatter(others, [1] * len(others), **look, label="worse, stopped or failed")


def rank_verdict(verdict: str) -> int:
    """Its place in the legend; ways to fail come last."""
    return ORDER.index(verdict) if verdict in STYLES else len(ORDER)


# --------------------------------------------------------------------------------------------------
# The claim


def draw_claim(axes: "Axes", gains: list[tuple[str, dict]], theme: Theme) -> None:
    """Gains on the baseline with their intervals: what first runs promised, what was claimed."""
    for place, (_, gain) in enumerate(gains):
        is_claim, high = "high" in gain, gain.get("high", gain["gain"])
        half = high - gain["gain"]
        look = {"color": theme.line, "fmt": "o"} if is_claim else {"color": theme.dim, "fmt": "D"}
        look |= {"mfc": theme.line if is_claim else theme.paper, "ms": 8, "lw": 2.2, "capsize": 5}
        axes.errorbar(gain["gain"], place, xerr=half, **look)
        words = f"{gain['gain']:+.3f} ± {half:.3f}" if is_claim else f"{gain['gain']:+.3f}"
        look = {"va": "center", "weight": "bold" if is_claim else "normal"}
        axes.annotate(words, (high, place), (9, 0), textcoords="offset points", **look)
    axes.axvline(0, color=theme.dim, lw=1)
    axes.set_yticks(range(len(gains)), [words for words, _ in gains], fontsize=SMALL)
    axes.set_ylim(len(gains) - 0.5, -0.5)
    axes.margins(x=0.05)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + VALUE_ROOM * (high - low))
    axes.xaxis.get_major_locator().set_params(nbins=6)
    axes.set_xlabel("gain on the baseline (bpb, 95 %)")
