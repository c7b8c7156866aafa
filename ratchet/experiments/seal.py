"""The seal: what runs, scores and decides must not change within a campaign."""

from collections.abc import Mapping

from ratchet.arena.files import ROOT, sha256

SEALED = (
    "prepare.py",
    "ratchet/__init__.py",
    "ratchet/arena",
    "ratchet/referee",
    "ratchet/experiments",
    "ratchet/git.py",
    "ratchet/commits.py",
    "ratchet/untrusted_text.py",
)
MOST_NAMES = 4  # of files in a sentence
REMEDY = "begin anew with `uv run ratchet calibrate`"


def sealed_files() -> dict[str, str]:
    """{path: hash} of what runs, scores and decides, as {"prepare.py": "33c40911abafd45b", ...}."""
    paths = []
    for name in SEALED:
        paths += sorted((ROOT / name).rglob("*.py")) or [ROOT / name]
    return {str(path.relative_to(ROOT)): sha256(path.read_bytes())[:16] for path in paths}


def hash_sealed_files() -> str:
    """One hash of all sealed files."""
    return sha256("".join(sealed_files().values()).encode())[:16]


def describe_change(sealed: Mapping[str, str]) -> str:
    """Which sealed files are not what they were, what to do; sealed: those of then, {} if unknown.

    Example: "prepare.py has changed since the calibration: undo that, or begin anew with ...".
    """
    if not sealed:
        return f"the calibration is of an older Ratchet, which judged in its own way: {REMEDY}"
    now = sealed_files()
    changed = sorted(path for path in {*sealed, *now} if sealed.get(path) != now.get(path))
    rest = len(changed) - MOST_NAMES
    names = changed if rest <= 0 else [*changed[:MOST_NAMES], f"{rest} more"]
    words = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "a file"
    verb = "have" if len(changed) > 1 else "has"
    return f"{words} {verb} changed since the calibration: undo that, or {REMEDY}"
