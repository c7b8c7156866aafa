"""The page: one HTML file that needs no network."""

import base64
import functools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from ratchet.arena.files import replace_file
from ratchet.experiments.ledger import Ledger
from ratchet.report.data import collect_data
from ratchet.report.picture import draw_pictures

PAGE = Path(__file__).with_name("page")


def render_page(data: dict, live: bool | str = False) -> str:
    """The page of collected data, with plotly, style and script in one text.

    live: the stamp of the data where the page is served and asks for news itself.
    """
    parts = {"plotly": plotly_script(), "data": pack_data(data), "live": json.dumps(live)}
    parts |= {name: (PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "page.js")}
    template = (PAGE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\S+?)\}\}", lambda match: parts[match[1]], template)


@functools.cache
def plotly_script() -> str:
    """plotly's script in ASCII, which a browser reads faster; some regular expressions aren't."""
    import plotly

    script = plotly.offline.get_plotlyjs()
    return re.sub(r"[^\x00-\x7f]", lambda match: f"\\u{ord(match[0]):04x}", script)


def pack_data(data: dict) -> str:
    """Data as a text without any character that HTML knows."""
    return base64.b64encode(zlib.compress(json.dumps(data, allow_nan=False).encode())).decode()


def write_report(home: Path, folder: Path) -> Iterator[Path]:
    """Write report.html, and the pictures where there is something to draw. Yields each path.

    Raises Full when there is no room: the old files stay then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = collect_data(Ledger(home), home)
    replace_file(folder / "report.html", render_page(data))
    yield folder / "report.html"
    if data["campaigns"]:
        yield from draw_pictures(data, folder)
