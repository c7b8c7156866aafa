"""Older ledgers: they are read, shown and verified by the rule that they were made with."""

from collections import Counter

import pytest
from conftest import ROOT

from ratchet.experiments import verify
from ratchet.experiments.campaign import compare_so_far, is_selected, list_campaigns
from ratchet.experiments.ledger import Ledger


@pytest.fixture
def campaign():
    """Of a night: calibration, 32 ideas, audit."""
    book = Ledger(ROOT / "tests/experiments/former")
    (campaign,) = list_campaigns(book.experiments().values())
    return campaign


def test_an_older_ledger_is_verified_by_its_own_rule(campaign):
    assert not campaign.goes_by_points and [*verify.wrong_decisions(campaign)] == []
    ends = Counter(e.verdict for e in campaign.tried if e.role == "try")
    assert {"keep", "discard"} <= {*ends} <= {"keep", "discard", "undecided", "crash", "timeout"}
    assert campaign.champion == campaign.kept[-1].arms[0] and len(campaign.kept) == 1 + ends["keep"]


def test_a_verdict_that_was_changed_in_an_older_ledger_is_found(campaign):
    tries = [e for e in campaign.since if e.role == "try" and e.verdict == "discard"]
    for e in tries:
        e.closes["verdict"] = "undecided"
        ((n, sentence),) = verify.wrong_decisions(campaign)
        assert n == e.n and sentence == "the verdict is undecided, its runs say discard"
        e.closes["verdict"] = "discard"


def test_the_gains_of_an_older_ledger_are_those_of_its_fresh_runs(campaign):
    kept = campaign.kept[1:]
    for e in kept:
        comparison = compare_so_far(e, campaign)
        assert f"gain {comparison.gain:.5f}" in e.reason and not is_selected(e, campaign)
        assert comparison.n == len(e.scores(0, "confirm")) > 1
