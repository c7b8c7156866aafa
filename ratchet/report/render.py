"""The page: one HTML file that needs no network."""

import base64
import functools
import json
import re
import zlib
from pathlib import Path

from ratchet.arena.files import replace_file
from ratchet.experiments.ledger import Ledger
from ratchet.report.data import collect
from ratchet.report.picture import picture

PAGE = Path(__file__).with_name("page")


def render(data, live=False):
    """The page of collected data, plotly, style and script in one file. live: it asks for news
    itself.
    """
    parts = {"plotly": library(), "data": packed(data), "live": json.dumps(live)}
    parts |= {name: (PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "page.js")}
    head, *rest = (PAGE / "page.html").read_text(encoding="utf-8").split("{{")
    return head + "".join(
        parts[piece.partition("}}")[0]] + piece.partition("}}")[2] for piece in rest
    )


@functools.cache
def library():
    """plotly's script, in ASCII, which a browser reads faster: some of its regular expressions
    aren't.
    """
    import plotly

    return re.sub(
        r"[^\x00-\x7f]", lambda found: f"\\u{ord(found[0]):04x}", plotly.offline.get_plotlyjs()
    )


def write(home, folder):
    """Write report.html, and progress.png where there is something to draw. Yields each path.

    Raises Full when there is no room: what was there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = collect(Ledger(home), home)
    replace_file(folder / "report.html", render(data))
    yield folder / "report.html"
    if data["campaigns"]:
        picture(data, folder / "progress.png")
        yield folder / "progress.png"


def packed(data):
    """Data as a text without any character that HTML knows."""
    return base64.b64encode(zlib.compress(json.dumps(data, allow_nan=False).encode())).decode()
