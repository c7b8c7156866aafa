"""Labels of the picture: what was kept and what it gained, where nothing else is drawn."""

import re
import textwrap
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ratchet.report.palette import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = np.ndarray  # x, y in pixels
Box = np.ndarray  # left, lower, right, upper end in pixels
Boxes = np.ndarray  # a row for each

MOST = 8  # kept steps that have a label: those with the largest gains
CHARACTERS = 30  # of an idea
IDEAS = 3  # ideas of a trial that its label names, at most
FONT_SIZE = 11
MARK_POINTS = 6  # half of a mark's width, about
GRID = 48  # places a label may have in each direction
MARGIN = 6  # pixels around a label
FARTHEST = 300  # pixels from a label to its mark
POINT_PIXELS = 12  # between points of a line
AT_MARK = 6  # points at a mark, where a line may cross the bar's band
MORE_ROOM = 0.1  # of the picture's height, above and below, as often as a label finds no place
ATTEMPTS = 4


def short_idea(idea: str, lines: int = 1) -> str:
    """Example: "depth 2 instead of 3: a smaller trunk sees more" -> "depth 2 instead of 3"."""
    line = re.split(r"[:;.](?: |$)", " ".join(idea.split()))[0]
    return textwrap.fill(line, CHARACTERS, max_lines=lines, placeholder="…").replace("$", r"\$")


def label_of(row: dict) -> str:
    """The gain of a kept step and its ideas: one idea in two lines, several in a line each."""
    half = (row["high"] - row["low"]) / 2
    lines = [rf"$\mathbf{{{row['gain']:+.3f} \pm {half:.3f}}}$"]
    ideas = [each["idea"] for each in row["members"]] or [row["idea"]]
    if len(ideas) == 1:
        return "\n".join([*lines, short_idea(ideas[0], 2)])
    lines += [f"· {short_idea(idea)}" for idea in ideas[:IDEAS]]
    if len(ideas) > IDEAS:
        lines.append(f"and {len(ideas) - IDEAS} more")
    return "\n".join(lines)


def label_steps(axes: "Axes", rows: list[dict], steps: list[dict], theme: Theme) -> None:
    """Write gain and ideas near each kept step, where there is room, or can be made.

    steps: of the line, with n, mean and half.
    """
    kept = [row for row in rows if row["mark"] == "keep" and "gain" in row]
    kept = sorted(kept, key=lambda row: -row["gain"])[:MOST]
    orders = [sorted(kept, key=lambda row: sign * row["n"]) for sign in (1, -1)] + [kept]
    figure = axes.get_figure(root=True)
    for attempt in range(ATTEMPTS):
        bottom, top = axes.get_ylim()
        room = bool(attempt) * MORE_ROOM * (top - bottom)
        axes.set_ylim(bottom - room, top + room)
        figure.draw_without_rendering()  # all else must have its place
        drawn = drawn_boxes(axes, rows, steps)
        labels = max((find_places(axes, order, drawn) for order in orders), key=len)
        if len(labels) == len(kept):
            break
    figure.set_layout_engine("none")
    for row, box in labels:
        write_label(axes, row, box, theme)


def find_places(axes: "Axes", kept: list[dict], taken: Boxes) -> list[tuple[dict, Box]]:
    """The kept steps whose label has room, each with the box of its label."""
    places = []
    for row in kept:
        mark = axes.transData.transform((row["n"], row["mean"]))
        boxes = possible_boxes(axes, size_of(axes, row), mark)
        free = boxes[~overlaps(boxes, taken).any(1)]
        others = taken[1:]  # the line to a label may cross the baseline
        box = next((box for box in free if is_clear(box, mark, others)), None)
        if box is not None:
            places.append((row, box))
            leader = leader_points(box, mark).repeat(2, 0).reshape(-1, 4)
            leader += np.array([-1, -1, 1, 1]) * POINT_PIXELS / 2
            taken = np.concatenate([taken, [box], leader])
    return places


def possible_boxes(axes: "Axes", size: Point, mark: Point) -> Boxes:
    """Boxes of a size in the axes, the nearest to a mark first, none far away."""
    low, high = axes.bbox.get_points()
    xs, ys = np.linspace(low, high - size, GRID).T
    corners = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    boxes = np.hstack([corners, corners + size])
    distances = np.linalg.norm(nearest_point(boxes, mark) - mark, axis=1)
    return boxes[np.argsort(distances, kind="stable")][: np.sum(distances < FARTHEST)]


def overlaps(boxes: Boxes, others: Boxes) -> np.ndarray:
    """Whether each of some boxes overlaps each of others."""
    boxes = boxes[:, None]
    return ((boxes[..., :2] < others[:, 2:]) & (boxes[..., 2:] > others[:, :2])).all(-1)


def is_clear(box: Box, mark: Point, taken: Boxes) -> bool:
    """Whether the line from a label to its mark covers nothing that is taken."""
    points = leader_points(box, mark)
    return not overlaps(np.hstack([points, points]), taken).any()


def nearest_point(box: Box, mark: Point) -> np.ndarray:
    """The point of a box, or of each of several, that is nearest to a mark."""
    return np.clip(mark, box[..., :2], box[..., 2:])


def leader_points(box: Box, mark: Point) -> np.ndarray:
    """Points on the line from a label to its mark, without those at the mark: [[x, y]]."""
    start = nearest_point(box, mark)
    count = int(np.linalg.norm(mark - start) / POINT_PIXELS)
    return start + np.linspace(0, 1, count + 1)[: max(count - AT_MARK, 0), None] * (mark - start)


def size_of(axes: "Axes", row: dict) -> np.ndarray:
    """Width and height of a step's label with its margin."""
    text = axes.text(0, 0, label_of(row), fontsize=FONT_SIZE)
    size = text.get_window_extent().size
    text.remove()
    return size + 2 * MARGIN


def write_label(axes: "Axes", row: dict, box: Box, theme: Theme) -> None:
    """A label in its box, and a line from there to its step."""
    mark = axes.transData.transform((row["n"], row["mean"]))
    start = (nearest_point(box, mark) - box[:2]) / (box[2:] - box[:2])
    leader = {"arrowstyle": "-", "lw": 1, "color": theme.dim, "shrinkA": 0, "shrinkB": MARK_POINTS}
    axes.annotate(
        label_of(row),
        (row["n"], row["mean"]),
        box[:2] + MARGIN,
        textcoords="figure pixels",
        fontsize=FONT_SIZE,
        zorder=4,
        arrowprops=leader | {"relpos": tuple(start)},
    )


def drawn_boxes(axes: "Axes", rows: list[dict], steps: list[dict]) -> Boxes:
    """Boxes around marks, intervals, each step of the line; the first is the baseline's."""
    spans = [[steps[0]["n"], steps[0]["mean"], steps[-1]["n"], steps[0]["mean"]]]
    spans += [[row["n"], row["mean"]] * 2 for row in rows if row["mean"] is not None]
    for step, after in pairwise(steps):
        half = step["half"] or 0
        spans.append([step["n"], step["mean"] - half, after["n"], step["mean"] + half])
        spans.append([after["n"], step["mean"], after["n"], after["mean"]])
    corners = axes.transData.transform(np.reshape(spans, (-1, 2))).reshape(-1, 2, 2)
    pad = MARK_POINTS * axes.get_figure(root=True).dpi / 72
    return np.hstack([corners.min(1) - pad, corners.max(1) + pad])
