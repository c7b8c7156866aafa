"""Inside another program's sandbox a command says so, before it has begun anything."""

import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, make_repository

from ratchet.arena.files import Refused
from ratchet.doctor import surroundings
from ratchet.doctor.isolation import check_sandbox
from ratchet.experiments.ledger import Ledger
from ratchet.referee import sandbox

LOOK = """\
from ratchet import commits
from ratchet.arena.files import exit_on_user_error
from ratchet.doctor.surroundings import check_surroundings
with exit_on_user_error():
    check_surroundings(commits.home())
"""
REMEDY = "start the agent without one (codex: `--sandbox danger-full-access`)"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A repository, beside a cache."""
    make_repository(tmp_path / "repository")
    monkeypatch.chdir(tmp_path / "repository")
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    for name in ("cache", "repository/runs"):
        (tmp_path / name).mkdir()
    return tmp_path


def look_within(*outer):
    """The sentence with which a look at the surroundings ends in an outer sandbox."""
    argv = [*outer, sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{LOOK}"]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", timeout=120)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2 and line.startswith("ratchet: ") and REMEDY in line, line
    return line


@pytest.mark.skipif(not shutil.which("bwrap"), reason="no bubblewrap")
@pytest.mark.parametrize("read_only", ["repository", "repository/.git", "cache"])
def test_what_can_only_be_read_is_named(place, read_only):
    """The working folder is what coding agents let be written, at most; the cache is at home."""
    outer = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", "/tmp", "--bind", place, place]
    if ROOT.is_relative_to("/tmp"):  # what is tested lies there
        outer += ["--ro-bind", ROOT, ROOT]
    outer += ["--ro-bind", place / read_only, place / read_only, "--remount-ro", "/tmp"]
    named = {"repository": place / "repository/runs", "cache": "/tmp/ratchet-"}
    line = look_within(*map(str, outer), "--")
    assert f"{named.get(read_only, place / read_only)}" in line
    assert "can't be written (Read-only file system)" in line


@pytest.mark.skipif(sandbox.best_level() == "none", reason="no sandbox")
def test_a_sandbox_that_forbids_ours_is_named(place):
    """It refuses sockets, namespaces, mounts, ptrace: this is what ours does, too."""
    folders = tuple(place / name for name in ("repository", "cache"))
    view = sandbox.View(read=(ROOT,), write=folders, texts=True)
    outer = sandbox.confined_command([], view, sandbox.best_level())
    assert "no sandbox can be tried here (" in look_within(*outer)
    assert not (place / "repository/ledger.jsonl").exists()


def test_runs_are_confined_as_well_as_at_the_calibration(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append("opens", role="calibrate", device="cpu", isolation="landlock", rule="points")
    ledger.append("closes", n=1, verdict="baseline", reason="")
    for level in ("bubblewrap", "landlock"):
        surroundings.check_level(tmp_path, {"device": "cpu", "isolation": level})
    surroundings.check_level(tmp_path, {"device": "another", "isolation": "none"})
    with pytest.raises(Refused, match="is none here, at the calibration it was landlock: mend"):
        surroundings.check_level(tmp_path, {"device": "cpu", "isolation": "none"})


@pytest.mark.parametrize(
    "error, words",
    [
        (PermissionError(1, "Operation not permitted"), "Operation not permitted"),
        (FileNotFoundError(2, "No usable temporary directory found"), "No usable temporary"),
        (subprocess.TimeoutExpired("bwrap", 20), "timed out after 20 seconds"),
    ],
)
def test_the_doctor_has_a_line_on_it(monkeypatch, error, words):
    def fails():
        raise error

    monkeypatch.setattr(sandbox, "best_level", fails)
    (finding,) = check_sandbox(*surroundings.try_level())
    assert finding.name == "isolation" and not finding.well and words in finding.seen
    assert REMEDY in finding.advice
