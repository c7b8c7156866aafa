"""The seal: what runs, scores and decides must not change within a campaign."""

from ratchet.arena.files import ROOT, sha256

SEALED = (
    "prepare.py",
    "ratchet/__init__.py",
    "ratchet/arena",
    "ratchet/referee",
    "ratchet/experiments",
    "ratchet/commits.py",
    "ratchet/untrusted_text.py",
)


def hash_sealed_files():
    """Hash of all sealed files."""
    return sha256("".join(sealed_files().values()).encode())[:16]


def sealed_files():
    """{path: hash} of what runs, scores and decides."""
    paths = [
        path for name in SEALED for path in sorted((ROOT / name).rglob("*.py")) or [ROOT / name]
    ]
    return {str(path.relative_to(ROOT)): sha256(path.read_bytes())[:16] for path in paths}
