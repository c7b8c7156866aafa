"""The page: one HTML file that needs no network."""

import base64
import functools
import json
import os
import re
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path

from ratchet.arena.files import replace_file
from ratchet.experiments.ledger import Ledger
from ratchet.report.curves import draw_curves
from ratchet.report.data import collect_data
from ratchet.report.decoding import ENDS, Curve
from ratchet.report.picture import draw_pictures

PAGE = Path(__file__).with_name("page")


def render_page(data: dict, live: bool | str = False, plotly: str = "") -> str:
    """The page of collected data, with plotly, style and script in one text.

    live: the stamp of the data where the page is served and asks for news itself.
    plotly: the address of a file that has plotly; without one, the page has it.
    """
    parts = {"plotly": plotly_element(plotly), "data": pack_data(data), "live": json.dumps(live)}
    parts |= {name: (PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "page.js")}
    template = (PAGE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\S+?)\}\}", lambda match: parts[match[1]], template)


def plotly_element(address: str) -> str:
    """The element that has plotly, which the page's script runs when it is needed, or loads it."""
    if address:
        return f'<script src="{urllib.parse.quote(address)}"></script>'
    return f'<script type="text/plain" id="plotly">{plotly_script()}</script>'


@functools.cache
def plotly_script() -> str:
    """plotly's script in ASCII, which a browser reads faster; some regular expressions aren't."""
    import plotly

    script = plotly.offline.get_plotlyjs()
    return re.sub(r"[^\x00-\x7f]", lambda match: f"\\u{ord(match[0]):04x}", script)


def pack_data(data: dict) -> str:
    """Data as a text without any character that HTML knows."""
    return base64.b64encode(zlib.compress(json.dumps(data, allow_nan=False).encode())).decode()


def write_report(home: Path, folder: Path, plotly: Path | None = None) -> Iterator[Path]:
    """Write report.html, and the pictures where there is something to draw. Yields each path.

    plotly: a file for it, which other pages can use, too; without one, it is in the page.
    Raises Full when there is no room: the old files stay then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    address = ""
    if plotly:
        address = Path(os.path.relpath(plotly, folder)).as_posix()
        plotly.parent.mkdir(parents=True, exist_ok=True)
        replace_file(plotly, plotly_script())
        yield plotly
    data = collect_data(Ledger(home), home)
    replace_file(folder / "report.html", render_page(data, plotly=address))
    yield folder / "report.html"
    if data["campaigns"]:
        yield from draw_pictures(data, folder)
    if curves := curves_of_night(data):
        draw_curves(curves, folder / "decoding.png")
        yield folder / "decoding.png"


def curves_of_night(data: dict) -> dict[str, Curve]:
    """{name: curve} of the latest campaign's champion and its baseline, as far as measured."""
    groups = data["campaigns"][data["latest"]]["decoding"] if data["campaigns"] else []
    ends = groups[0]["curves"] if groups and groups[0]["title"] == ENDS else []
    return {row["name"]: data["decoding"][row["at"]] for row in ends}
