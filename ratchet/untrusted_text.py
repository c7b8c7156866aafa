"""Makes untrusted text safe to show."""

import re

WORDS = 140  # characters of an idea that are shown
# what a terminal obeys: colours and cursor moves, titles of windows
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))")


def clean_text(data: bytes) -> str:
    """Bytes of a log as text that no terminal obeys: control characters are gone, lines stay.

    Example: b"a\\x1b[31mred\\x1b[0m" -> "ared"
    """
    text = ESCAPES.sub("", data.decode(errors="replace")).replace("\r", "\n")
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def quote_text(text: object, most: int = WORDS) -> str:
    """Somebody's words on one line, in quotation marks that they can't leave."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(printable.split()).replace('"', "'")
    return f'"{line[: most - 1]}…"' if len(line) > most else f'"{line}"'
