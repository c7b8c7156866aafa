"""Draws verdicts.svg: the true gain of simulated nights, and what each rule claims at the end."""

import numpy as np
import verdicts
from nights import RUNS

from ratchet.report.palette import BLUE, GREEN, ORANGE, SKY, VERMILION

WORLD, NIGHTS = "b2", 100
RULES = {
    "half": "default, stopping early",
    "default": "default",
    "greedy": "any lower number",
    "former": "former rule",
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 52, 218, 44, 48
STYLE = f"""
text {{ font: 13px system-ui, sans-serif; fill: #333 }} .back {{ fill: #fff }}
.grid {{ stroke: #ddd }} polyline {{ fill: none; stroke-width: 2.2 }} line.claim {{ stroke-width: 1.6 }}
.half {{ stroke: {GREEN} }} .default {{ stroke: {BLUE} }} .greedy {{ stroke: {VERMILION} }}
.former {{ stroke: #777 }} circle {{ stroke-width: 1.6; fill: #fff }}
text.half {{ fill: {GREEN} }} text.default {{ fill: {BLUE} }} text.greedy {{ fill: {VERMILION} }}
text.half, text.default, text.greedy, text.former {{ stroke: none }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #ddd }} .back, circle {{ fill: #0d1117 }} .grid {{ stroke: #333 }}
.default {{ stroke: {SKY} }} text.default {{ fill: {SKY} }} .former {{ stroke: #aaa }}
.greedy {{ stroke: {ORANGE} }} text.greedy {{ fill: {ORANGE} }} }}
"""


def paths_of(rule, seed, count):
    """Mean true gain after 0, 10, 20, ... runs; mean claim at the end; mean half of its interval.

    Only the closing comparison has an interval: 0 for the others.
    """
    grid, gains, claims, halves = np.arange(0, RUNS + 1, 10), [], [], []
    for number in range(count):
        tally = verdicts.play(rule, WORLD, seed, number, path=True)
        spent, _, true = map(np.array, zip(*tally.path))
        gains.append(true[np.searchsorted(spent, grid, side="right") - 1])
        closed = not np.isnan(tally.closing)
        claims.append(tally.closing if closed else tally.claimed)
        halves.append((tally.high - tally.low) / 2 if closed else 0.0)
    return np.mean(gains, 0), float(np.mean(claims)), float(np.mean(halves))


def x(runs):
    return round(LEFT + (WIDTH - LEFT - RIGHT) * runs / RUNS, 1)


def y(gain, top):
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * gain / top, 1)


def text(across, down, words, more=""):
    return f'<text x="{across}" y="{down}" {more}>{words}</text>'


def draw_frame(top):
    """Title, axes, grid."""
    parts = [f'<rect class="back" width="{WIDTH}" height="{HEIGHT}"/>']
    parts += [text(LEFT, 22, "True gain in a simulated night (lines), claim at its end (circles)")]
    for value in range(0, int(top) + 1, 10):
        height = y(value, top)
        ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}"'
        parts += [f'<line class="grid" {ends}/>']
        parts += [text(LEFT - 8, height + 4, value, 'text-anchor="end"')]
    for value in range(0, RUNS + 1, 100):
        parts += [text(x(value), HEIGHT - BOTTOM + 20, value, 'text-anchor="middle"')]
    parts += [text(x(RUNS / 2), HEIGHT - 8, "runs of any kind", 'text-anchor="middle"')]
    turned = f'text-anchor="middle" transform="translate(16 {y(top / 2, top)}) rotate(-90)"'
    return [*parts, text(0, 0, "gain over the baseline, sigma", turned)]


def draw_rule(rule, gains, claim, half, top):
    """The line of a rule's true gain; its claim with the interval."""
    points = " ".join(f"{x(10 * step)},{y(gain, top)}" for step, gain in enumerate(gains))
    across, low, high = x(RUNS) + 8, y(claim - half, top), y(claim + half, top)
    interval = f'x1="{across}" x2="{across}" y1="{low}" y2="{high}"'
    return [
        f'<polyline class="{rule}" points="{points}"/>',
        f'<line class="claim {rule}" {interval}/>',
        f'<circle class="{rule}" cx="{across}" cy="{y(claim, top)}" r="4"/>',
    ]


def draw(seed=0, count=NIGHTS):
    """The picture, as SVG."""
    drawn = {rule: paths_of(rule, seed, count) for rule in RULES}
    top = max(claim + half for _, claim, half in drawn.values()) + 2
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>']
    parts += draw_frame(top)
    place = 0.0
    for rule in sorted(RULES, key=lambda rule: -drawn[rule][1]):
        gains, claim, half = drawn[rule]
        parts += draw_rule(rule, gains, claim, half, top)
        place = max(y(claim, top) + 4, place + 30)  # labels don't overlap
        parts.append(text(x(RUNS) + 20, place, RULES[rule], f'class="{rule}"'))
        words = f"claims {claim:.1f}, true {gains[-1]:.1f}"
        parts.append(text(x(RUNS) + 20, place + 15, words))
        place += 4
    return "\n".join([*parts, "</svg>\n"])
