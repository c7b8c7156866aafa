"""The picture: progress.png, a night at a glance."""

import io

from ratchet.arena.files import replace_file

MARKS = {  # colour, marker and its size, as on the page
    "baseline": ("#0072b2", "s", 45),
    "keep": ("#009e73", "*", 130),
    "discard": ("#8a8a90", "x", 28),
    "undecided": ("#e69f00", "D", 32),
    "overtaken": ("#cc79a7", "v", 32),
    "unfinished": ("#56b4e9", "o", 28),
    "running": ("#56b4e9", "o", 28),
}
FAILED = "#d55e00", "^", 32


def picture(data, path):
    """progress.png of the latest campaign: every experiment, the champion's staircase, its noise."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    campaign = data["campaigns"][data["latest"]]
    figure, axes = pyplot.subplots(figsize=(10, 4.2), dpi=160, layout="constrained")
    rows = [e for e in campaign["experiments"] if e["mean"] and e["role"] in ("try", "calibrate")]
    for verdict in sorted({e["verdict"] for e in rows}):
        own = [(e["n"], e["mean"]) for e in rows if e["verdict"] == verdict]
        color, marker, size = MARKS.get(verdict, FAILED)
        axes.scatter(
            *zip(*own), c=color, marker=marker, s=size, label=verdict, zorder=3, linewidths=1
        )
    if champions := campaign["champions"]:
        x, y = [row["n"] for row in champions], [row["mean"] for row in champions]
        x, y = [*x, max(rows[-1]["n"], x[-1]) if rows else x[-1]], [*y, y[-1]]
        axes.step(x, y, where="post", color="#0072b2", lw=2, label="champion")
        if sigma := campaign["sigma"]:
            edges = [value - sigma for value in y], [value + sigma for value in y]
            axes.fill_between(
                x, *edges, step="post", color="#0072b2", alpha=0.13, label="± 1 sigma", lw=0
            )
        halves = [row["half"] or 0 for row in champions]
        axes.errorbar(x[:-1], y[:-1], halves, fmt="none", ecolor="#0072b2", capsize=3, lw=1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="experiment", ylabel="val_bpb (lower is better)")
    axes.set_title(
        f"{campaign['arena']}, {campaign['budget']} a run, {campaign['device']}", fontsize=10
    )
    if rows or champions:
        axes.legend(fontsize=8, frameon=False, ncols=4)
    axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, metadata={"Software": None}, format="png")
    pyplot.close(figure)
    replace_file(path, image.getvalue())
