"""A made-up night: ideas of known worth, scores drawn from a normal distribution."""

import subprocess
from pathlib import Path

from conftest import open_session
from test_experiments import SIGMA

from ratchet.experiments import comparisons, trials, verbs
from ratchet.experiments.verdicts import DEFAULT
from ratchet.night.journal import Journal
from ratchet.untrusted_text import clean_text

LETTERS = "abcdefghijklmnopqrst"  # of lines of train.py that an idea may change


def commit_text(text, subject):
    Path("train.py").write_text(text, encoding="utf-8")
    subprocess.run(["git", "commit", "-qam", subject], check=True)


def begin(runs):
    """A baseline that has a line for each idea, calibrated."""
    lines = (f"GAIN_{letter} = 0\n\n# {letter}\n\n" for letter in LETTERS)
    commit_text("QUALITY = 1.0\n" + "".join(lines), "the baseline")
    verbs.calibrate(open_session(arena="tiny", budget="5s"), 5)
    return runs


def try_gain(number, sigmas, words="", by="somebody", luck=0.0, **remarks):
    """Try an idea that gains so many sigma, on the champion of now, and hold what trials are due.

    luck: sigmas that its search sees besides.
    """
    subprocess.run(["git", "checkout", "-q", "refs/ratchet/champion"], check=True)
    text, letter = Path("train.py").read_text(encoding="utf-8"), LETTERS[number]
    new = f"GAIN_{letter} = {sigmas * SIGMA:.6f}\nLUCK_{letter} = {luck * SIGMA:.6f}\n"
    commit_text(text.replace(f"GAIN_{letter} = 0\n", new), f"idea {number}")
    e = verbs.try_idea(
        open_session(), words or f"idea {number}: why", profile=DEFAULT, by=by, **remarks
    )
    trials.try_hits(open_session(), DEFAULT)
    return e


def end(by="somebody", is_closed=True):
    """The trials of what waits and, if it is wanted, the closing comparison."""
    trials.try_hits(open_session(), DEFAULT, is_last=True)
    if is_closed and comparisons.needs_closing(open_session().read_campaign()):
        comparisons.close_night(open_session(), by)


def note(home, by="somebody", why="it was time"):
    """The journal of a night that had all ideas of the ledger."""
    journal = Journal(home)
    experiments = open_session().experiments()
    before = {"time": experiments[0].time}  # all of it is this night's
    journal.append("begins", agent=clean_text(by.encode()), limits={}, baseline=1, **before)
    for call, e in enumerate(e for e in experiments if e.role == "try"):
        journal.append("done", call=call, n=e.n, outcome=e.decisions[0]["verdict"])
    journal.append("ends", why=why, lost=[], idle=1.0, busy=9.0, active=10.0)
