"""Untrusted text: cleaned of what a terminal obeys, quoted."""

import re


def clean(data):
    """Bytes of a log as text that no terminal obeys: control characters are gone, lines stay."""
    text = re.sub(
        r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))",
        "",
        data.decode(errors="replace"),
    )
    return "".join(c for c in text.replace("\r", "\n") if c.isprintable() or c in "\n\t")


WORDS = 140  # characters of an idea that are shown


def quoted(text, most=WORDS):
    """Somebody's words on one line, in quotation marks that they can't leave."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split()).replace(
        '"', "'"
    )
    return f'"{line[: most - 1]}…"' if len(line) > most else f'"{line}"'
