"""The picture of decoding curves: decoding.png."""

import io
from collections.abc import Mapping
from pathlib import Path

from ratchet.arena.files import replace_file
from ratchet.report.decoding import Curve, light_points, measured_points
from ratchet.report.palette import LINES


def draw_curves(curves: Mapping[str, Curve], path: Path) -> None:
    """Write a picture of curves, by their names, each with the speed of light below which it is."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter, LogLocator

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=160, layout="constrained")
    for number, (name, curve) in enumerate(curves.items()):
        color = LINES[number % len(LINES)]
        axes.plot(
            *zip(*measured_points(curve)),
            "o-",
            ms=4,
            lw=1,
            color=color,
            label=name.replace("$", r"\$"),
        )
        if lights := light_points(curve):
            light = "speed of light, modelled" if number == 0 else None
            axes.plot(*zip(*lights), ":", lw=1.2, color=color, label=light)
        for point in curve["points"]:
            place = point["interactivity"], point["rate"]
            style = {"textcoords": "offset points", "fontsize": 7, "color": color}
            axes.annotate(str(point["rows"]), place, (3, 4), **style)
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(EngFormatter(sep=""))
        axis.set_minor_locator(LogLocator(subs=()))
    axes.set(xlabel="output tokens/s of one user", ylabel="output tokens/s of the device")
    device = next(iter(curves.values()))["device"].replace("$", r"\$")
    axes.set_title(f"decoding, by rows of a batch; {device}", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, metadata={"Software": None}, format="png")
    pyplot.close(figure)
    replace_file(path, image.getvalue())
