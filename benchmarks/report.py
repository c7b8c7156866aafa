"""How long the report of a large ledger takes to build and to open, and how large it is.

    uv run benchmarks/report.py [--experiments 1000]

The ledger is that of benchmarks/pool.py's head: real lines and commits, runs that took no time,
each with a curve. Opening is measured in a headless Chromium, which draws 3-D scenes without a GPU.
Goes to results/report.json.
"""

import argparse
import json
import shutil
import tempfile
import time
from contextlib import chdir
from pathlib import Path

import pool as pool_benchmark
from recipe import results

from ratchet.arena.files import write_json
from ratchet.experiments.ledger import Ledger
from ratchet.report import data as report_data
from ratchet.report import render

PARTS = {
    "words": "#numbers dd",
    "first chart": "#progress .plot-container",
    "all": "body[data-drawn]",
}
STOPWATCH = """  // at each frame: what is on the page, and when that frame has been made
window.found = {};
const look = () => {
  const there = Object.keys(PARTS).filter((name) => document.querySelector(PARTS[name]));
  setTimeout(() => there.forEach((name) => (found[name] ??= performance.now() / 1000)));
  requestAnimationFrame(look);
};
look();
"""


def write_curves(home):
    """A curve of 300 points for every run."""
    lines = "".join(
        json.dumps({"seconds": i, "tokens": 1000 * i, "loss": 9 - i / 50}) + "\n"
        for i in range(300)
    )
    for row in Ledger(home).rows():
        if row["kind"] == "run":
            (folder := home / row["folder"]).mkdir(parents=True, exist_ok=True)
            (folder / "curve.jsonl").write_text(lines, encoding="utf-8")


def seconds_to_open(path):
    """{part: seconds} from navigation to what the page shows, by a browser here; {} where there is
    none.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        return {}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        page = tools.chromium.launch(executable_path=program, args=options).new_page()
        page.add_init_script(f"const PARTS = {json.dumps(PARTS)}; {STOPWATCH}")
        page.goto(path.as_uri())
        page.wait_for_selector(PARTS["all"])
        page.wait_for_timeout(1000)
        return page.evaluate("found")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pool_benchmark.place_to_work(Path(folder))
        home = Path(folder) / "repository"
        with chdir(home):
            session = pool_benchmark.calibrated()
            for begin in range(0, args.experiments, 8):
                pool_benchmark.try_ideas(session, range(begin, begin + 8))
            write_curves(home)
            begin = time.monotonic()
            page = render.render_page(report_data.collect_data(Ledger(home), home))
            found = {"experiments": args.experiments, "seconds_to_build": time.monotonic() - begin}
        (path := Path(folder) / "report.html").write_text(page, encoding="utf-8")
        found |= {"megabytes": len(page.encode()) / 1e6, "seconds_to_open": seconds_to_open(path)}
    write_json(results("report"), found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
