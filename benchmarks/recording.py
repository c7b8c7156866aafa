"""Films a terminal for the README: docs/terminal.svg and docs/terminal-dark.svg.

    uv run --group dev benchmarks/recording.py [--folder /tmp/ratchet] [--budget 20s]

Clones HEAD into a new folder, runs the commands of SCENES there in a terminal, and draws what they
print as an SVG that CSS moves. All words are the programs' own, but for the line above, which says
how much faster time goes. The night's agent is a script, as its command says.
Takes 15 minutes of a machine that does nothing else: the night makes up to 22 runs. A shorter budget
shows whether it works.
"""

import argparse
import getpass
import itertools
import math
import os
import pty
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pyte

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, LINES = 84, 30
RATE = 6  # pictures in each second that is shown
HOLD_SECONDS = 2.5  # at the end of a scene
NIGHT = "uv run ratchet night --agent examples/scripted_agent.sh --experiments 6"
SCENES = [  # a name, commands, for how many seconds they are shown
    ("a first run", ["RATCHET_BUDGET={} uv run train.py"], 6),
    ("a night", ["uv run ratchet calibrate --budget {}", NIGHT], 9),
]
COLORS = (
    "dim",
    "red",
    "green",
    "brown",
    "blue",
    "magenta",
    "cyan",
)  # brown is what pyte calls yellow
THEMES = {  # paper, ink, COLORS: those of GitHub's pages
    "": "#f6f8fa #1f2328 #59636e #cf222e #116329 #7d4e00 #0969da #8250df #1b7c83",
    "-dark": "#151b23 #f0f6fc #9198a1 #ff7b72 #3fb950 #d29922 #58a6ff #bc8cff #39c5cf",
}
CELL, LINE = 8.43, 19  # pixels of a character, of a line
STYLE = """.bold {{ font-weight: bold }} text {{ white-space: pre }}
g g {{ visibility: hidden; animation: {:.2f}s step-end infinite }} g .z {{ visibility: visible }}
@media (prefers-reduced-motion: reduce) {{ g g {{ animation: none !important }} }}"""
SVG = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 736 {LINE * LINES + 50}" font-size="14"
font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, Liberation Mono, monospace">
<title>A first run and a night in a terminal</title>
<style>{{}}</style>
<defs>{{}}</defs>
<rect width="100%" height="100%" rx="8"/>
<g transform="translate(14 26)">{{}}</g>
</svg>
"""
Row = tuple[tuple[int, str, str], ...]  # pieces of a line: column, classes, text


def clone(folder: Path) -> None:
    """Go to a clone with an environment of its own, as somebody has it who follows the README."""
    subprocess.run(["git", "clone", "-qc", "advice.detachedHead=0", ROOT, folder], check=True)
    os.chdir(folder)
    os.environ |= {"TERM": "xterm-16color", "LANG": "C.UTF-8"}
    os.environ.pop("VIRTUAL_ENV", None)  # of this program
    subprocess.run(["uv", "sync", "-q"], check=True)


def record(commands: list[str]) -> list[tuple[float, bytes]]:
    """(when, what) the commands print on a terminal one after the other, in seconds."""
    events, start = [], time.monotonic()

    def read(terminal: int) -> bytes:
        events.append((time.monotonic() - start, os.read(terminal, 65536)))
        return events[-1][1]

    for command in commands:
        events.append((time.monotonic() - start, f"$ {command}\r\n".encode()))
        size = f"stty rows {LINES} cols {COLUMNS}"
        if code := pty.spawn(["sh", "-c", f"{size}; {command}"], read):
            raise SystemExit(f"{command} ended with {code}")
    return events


def show(name: str, events: list[tuple[float, bytes]], seconds: float) -> Iterator[list[Row]]:
    """Lines of the terminal under a heading, RATE times in each second that is shown."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream, total = pyte.ByteStream(screen), events[-1][0]
    speed = max(1, math.ceil(total / seconds))
    times = [i / RATE * speed for i in range(math.ceil(total / speed * RATE))]
    for now in times + [total] * int(HOLD_SECONDS * RATE):
        while events and events[0][0] <= now:
            stream.feed(events.pop(0)[1])
        clock = f"{int(now) // 60}:{int(now) % 60:02}"
        heading = ((0, "dim", f"{name}, {speed} times as fast as it was: {clock}"),)
        yield [heading, *(read_row(screen.buffer[y]) for y in range(LINES))]


def read_row(line: dict) -> Row:
    """Pieces of one style of a line of the terminal, without the spaces at its end."""
    end = max((x + 1 for x in range(COLUMNS) if line[x].data.strip()), default=0)
    pieces = itertools.groupby(range(end), lambda x: style_of(line[x]))
    pieces = [(style, [*columns]) for style, columns in pieces]
    return tuple((xs[0], style, "".join(line[x].data for x in xs)) for style, xs in pieces)


def style_of(cell: pyte.screens.Char) -> str:
    """Classes of a character, such as "green bold"."""
    color = {"brightblack": "dim"}.get(cell.fg, cell.fg.removeprefix("bright"))
    return " ".join([color] * (color in COLORS) + ["bold"] * cell.bold)


def find_private(pictures: list[list[Row]]) -> set[str]:
    """What the pictures show of this machine: names and folders of its user."""
    names = {str(ROOT), str(Path.home()), socket.gethostname(), getpass.getuser()}
    text = "\n".join(piece[2] for rows in pictures for row in rows for piece in row)
    return {name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)}


def draw(pictures: list[list[Row]], theme: str) -> str:
    """An SVG in which each line is seen from one picture to another; the last one can stand."""
    count, spans = len(pictures), {}  # spans: {(first picture, the one after the last): lines}
    for y in range(LINES + 1):
        changes = [i for i, p in enumerate(pictures) if not i or p[y] != pictures[i - 1][y]]
        for start, end in itertools.pairwise([*changes, count]):
            spans.setdefault((start, end), []).append((y, pictures[start][y]))
    names = {row: f"t{i}" for i, row in enumerate({row for s in spans.values() for _, row in s})}
    fills = zip(("rect", "text", *(f".{color}" for color in COLORS)), theme.split())
    style = [STYLE.format(count / RATE), *(f"{name} {{ fill: {fill} }}" for name, fill in fills)]
    groups = []
    for i, ((start, end), lines) in enumerate(spans.items()):
        if not (used := [(y, names[row]) for y, row in lines if row]):
            continue
        frames = {0: "hidden", start: "visible"} | ({end: "hidden"} if end < count else {})
        frames = "".join(f"{100 * k / count:.2f}%{{visibility:{v}}}" for k, v in frames.items())
        style.append(f"@keyframes k{i}{{{frames}}}")
        used = "".join(f'<use href="#{name}" y="{y * LINE}"/>' for y, name in used)
        groups.append(f'<g class="{"z" * (end == count)}" style="animation-name:k{i}">{used}</g>')
    texts = [f'<text id="{name}">{draw_row(row)}</text>' for row, name in names.items() if row]
    return SVG.format("\n".join(style), "\n".join(texts), "\n".join(groups))


def draw_row(row: Row) -> str:
    """Example: ((0, "bold", "a<b"),) -> <tspan x="0.0" class="bold">a&lt;b</tspan>."""
    return "".join(
        f'<tspan x="{column * CELL:.1f}" class="{style}">{escape(text)}</tspan>'
        for column, style, text in row
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Film a first run and a night for the README.")
    parser.add_argument("--folder", type=Path, default="/tmp/ratchet", help="to be made")
    parser.add_argument("--budget", default="20s", help="of each run")
    options = parser.parse_args()
    clone(options.folder)
    pictures = []
    for name, commands, seconds in SCENES:
        events = record([command.format(options.budget) for command in commands])
        pictures += show(name, events, seconds)
    if private := find_private(pictures):
        raise SystemExit(f"nothing is written, as it would show {', '.join(private)}")
    for name, theme in THEMES.items():
        path = ROOT / f"docs/terminal{name}.svg"
        path.write_text(draw(pictures, theme), encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
