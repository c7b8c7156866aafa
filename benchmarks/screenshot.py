"""Takes docs/report.png: the top of the example's report, as a browser draws it.

    uv run --group dev benchmarks/screenshot.py [--report examples/agent-night/report.html]

Needs chromium. The picture is reduced to 128 colours, which keeps it below 200 kB.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs/report.png"
WIDTH, HEIGHT = 1200, 860  # CSS pixels of the window: what is below it is cut off
DRAWN_SECONDS = 60  # for the first charts to appear
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def photograph(page_file: Path) -> Image.Image:
    """The top of a page in a light theme."""
    with sync_playwright() as tools:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = tools.chromium.launch(executable_path=program, args=OPTIONS)
        size = {"width": WIDTH, "height": HEIGHT}
        page = browser.new_page(viewport=size, color_scheme="light", device_scale_factor=1.5)
        page.goto(page_file.resolve().as_uri())
        page.wait_for_selector(".js-plotly-plot .main-svg", timeout=1000 * DRAWN_SECONDS)
        page.wait_for_load_state("networkidle")
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description="Photograph the report for the README.")
    parser.add_argument("--report", type=Path, default=ROOT / "examples/agent-night/report.html")
    picture = photograph(parser.parse_args().report).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
