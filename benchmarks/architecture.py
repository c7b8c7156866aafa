"""Draws docs/architecture.svg, who imports whom, and writes the table of docs/architecture.md.

    uv run benchmarks/architecture.py

Read from the source by `ast`; nothing is imported. A package is a folder of ratchet/; the modules
beside them that no package imports are the command line. An arrow that follows from others isn't
drawn: a -> c where a -> b -> c.
"""

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

from cheats_table import replace_block

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURE = ROOT / "docs/architecture.md", ROOT / "docs/architecture.svg"
TOP = "command line"
COLOURS = {
    True: ("#dceaf5", "#0072b2"),
    False: ("#f4f4f4", "#8a8a90"),
}  # face and edge, sealed or not
WIDTH, HEIGHT, STEP = 2.3, 0.62, 1.25  # of a box, of a level


def part_of(path: Path) -> str:
    """The package that a file belongs to, or the name of the file if it is in none.

    Example: ratchet/referee/trial.py -> "referee", ratchet/doctor.py -> "doctor.py"
    """
    parts = path.relative_to(ROOT).parts
    return parts[min(1, len(parts) - 1)]


def imported_modules(path: Path) -> list[str]:
    """Dotted names that a file imports, at its top or within functions."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def module_file(name: str) -> Path | None:
    """The file or folder of a dotted name, if it is one of this project's."""
    parts = name.split(".")
    if parts[0] not in ("ratchet", "prepare", "train"):
        return None
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        if path.with_suffix(".py").exists():
            return path.with_suffix(".py")
        if path.is_dir():
            return path / "__init__.py"
    return None


def count_imports() -> Counter:
    """{(package, the other package that it imports): number of imports}."""
    edges = Counter()
    for path in (ROOT / "prepare.py", ROOT / "train.py", *sorted((ROOT / "ratchet").rglob("*.py"))):
        for name in imported_modules(path):
            target = module_file(name)
            if target and target != ROOT / "ratchet/__init__.py":
                edges[part_of(path), part_of(target)] += 1
    return merge_command_line(edges)


def merge_command_line(edges: Counter) -> Counter:
    """The same, with the modules of ratchet/ that no package imports as one: the command line."""
    files = {path.name for path in (ROOT / "ratchet").glob("*.py")}
    shared = {target for part, target in edges if part not in files}
    names = dict.fromkeys(files - shared, TOP)
    merged = Counter()
    for (part, target), count in edges.items():
        merged[names.get(part, part), names.get(target, target)] += count
    return Counter({(a, b): count for (a, b), count in merged.items() if a != b})


def find_targets(edges: Counter) -> dict[str, set[str]]:
    """{package: those that it imports}."""
    packages = sorted({package for edge in edges for package in edge})
    return {package: {b for a, b in edges if a == package} for package in packages}


def level_of(package: str, below: dict[str, set[str]], above: tuple = ()) -> int:
    """0 for what imports no other package, else one more than the highest of what it imports."""
    if package in above:
        raise ValueError(f"packages import each other: {' -> '.join([*above, package])}")
    return 1 + max((level_of(p, below, (*above, package)) for p in below[package]), default=-1)


def find_levels(edges: Counter) -> dict[str, int]:
    """{package: its level}. ValueError: packages import each other in a circle."""
    below = find_targets(edges)
    return {package: level_of(package, below) for package in below}


def reachable(package: str, below: dict[str, set[str]]) -> set[str]:
    return below[package].union(*(reachable(other, below) for other in below[package]))


def reduce_edges(below: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that follow from others."""
    implied = {p: set().union(*(reachable(q, below) for q in below[p])) for p in [*below]}
    return {package: below[package] - implied[package] for package in implied}


def describe_package(package: str) -> str:
    """The first sentence of a package's docstring."""
    file = "__main__.py" if package == TOP else package
    places = ROOT / file, ROOT / "ratchet" / file, ROOT / "ratchet" / file / "__init__.py"
    path = next(path for path in places if path.is_file())
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=\.)\s", " ".join(docstring.split()))[0]


def make_table(edges: Counter, levels: dict[str, int]) -> str:
    """Markdown: a row for each package, top first."""
    lines = ["| package | what it is | imports |", "|---|---|---|"]
    for package in sorted(levels, key=lambda name: (-levels[name], name)):
        names = ", ".join(sorted(b for a, b in edges if a == package)) or "nothing"
        lines.append(f"| {package} | {describe_package(package)} | {names} |")
    return "\n".join(lines)


def sealed_parts() -> set[str]:
    """What SEALED of ratchet/experiments/seal.py names, each by the last part of its path."""
    text = (ROOT / "ratchet/experiments/seal.py").read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SEALED":
            return {Path(name).name for name in ast.literal_eval(node.value)}
    raise LookupError("ratchet/experiments/seal.py has no constant SEALED")


def place_boxes(levels: dict[str, int]) -> dict[str, tuple[float, float]]:
    """{package: (x, y) of its middle}, each level centred, files to the right of packages."""
    rows = defaultdict(list)
    for package in sorted(levels, key=lambda name: (name.endswith(".py"), name)):
        rows[levels[package]].append(package)
    return {
        package: ((column - (len(row) - 1) / 2) * (WIDTH + 0.4), level * STEP)
        for level, row in rows.items()
        for column, package in enumerate(row)
    }


def draw(edges: Counter, levels: dict[str, int], path: Path) -> None:
    """Write the picture. Its text stays text; the same imports give the same file."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "ratchet", "font.size": 11}
    places = place_boxes(levels)
    width = max(abs(x) for x, _ in places.values()) + WIDTH / 2 + 0.2
    top = max(y for _, y in places.values()) + HEIGHT / 2 + 0.15
    figure = Figure(figsize=(2 * width, top + 0.6))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-width, width), ylim=(-HEIGHT / 2 - 0.15, top))
    axes.set_axis_off()
    for package, targets in reduce_edges(find_targets(edges)).items():
        for target in sorted(targets):
            (x, y), (to_x, to_y) = places[package], places[target]
            bend = 0.25 if levels[package] - levels[target] > 1 else 0.0  # past the boxes between
            style = {"arrowstyle": "-|>", "color": "#555555", "connectionstyle": f"arc3,rad={bend}"}
            ends = {"xy": (to_x, to_y + HEIGHT / 2), "xytext": (x, y - HEIGHT / 2)}
            axes.annotate("", **ends, arrowprops=style | {"shrinkA": 1, "shrinkB": 1})
    sealed = sealed_parts()
    for package, (x, y) in places.items():
        face, edge = COLOURS[package in sealed]
        corner = x - WIDTH / 2, y - HEIGHT / 2
        look = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": face, "edgecolor": edge}
        axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, **look))
        axes.text(x, y, package, ha="center", va="center", family="sans-serif")
    facts = {"Date": None, "Title": "The packages of Ratchet", "Description": describe_edges(edges)}
    figure.savefig(path, metadata=facts)


def describe_edges(edges: Counter) -> str:
    """All imports between packages, in a line. It stands in the picture: a test sees its age."""
    return "; ".join(f"{a} imports {b}" for a, b in sorted(edges))


def main() -> None:
    edges = count_imports()
    levels = find_levels(edges)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replace_block(page, "packages", make_table(edges, levels)), encoding="utf-8")
    draw(edges, levels, PICTURE)


if __name__ == "__main__":
    main()
