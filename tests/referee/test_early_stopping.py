"""Early stopping: what is read of a curve that the contestant wrote, when a run is too far behind."""

import json
import math

import pytest

from ratchet.referee import early_stopping
from ratchet.referee.supervisor import EndedEarly


def points(offset=0.0, end=1.0, wobble=0.0, many=400):
    """A loss that falls from 5 to 3, `offset` above that."""
    shares = [i / many for i in range(1, round(end * many) + 1)]
    return [(s, 3 + 2 * (1 - s) + offset + wobble * math.sin(300 * s)) for s in shares]


def write(path, points, budget=10):
    lines = [json.dumps({"seconds": s * budget, "tokens": 0, "loss": y}) + "\n" for s, y in points]
    path.write_text("".join(lines), encoding="utf-8")


def test_only_numbers_are_taken_from_a_curve(tmp_path):
    path = tmp_path / "curve.jsonl"
    good = '{"seconds": 5, "tokens": 9, "loss": 3}\n'
    path.write_text(
        good + 'no\n[]\n{"seconds": "x"}\n{"seconds": 6, "tokens": 1, "loss": NaN}\n',
        encoding="utf-8",
    )
    with open(path, "a", encoding="utf-8") as file:
        file.write(
            '{"seconds": 6, "tokens": 1'
            + "0" * 400
            + ', "loss": 3}\n{"seconds": 6, "tokens": 1, "loss": 1e300}\n{"sec'
        )
    read, size = early_stopping.read_curve(path)
    assert read == [(5.0, 9.0, 3.0)]
    assert early_stopping.to_shares(read, "10s") == [(0.5, 3.0)]
    assert early_stopping.to_shares(read, "9e0tok") == [(1.0, 3.0)]
    with open(path, "a", encoding="utf-8") as file:
        file.write('onds": 10, "tokens": 11, "loss": 2}\n')
    assert early_stopping.read_curve(path, size)[0] == [(10.0, 11.0, 2.0)]
    assert early_stopping.to_shares(read, "1e15flop") == []
    assert early_stopping.read_curve(tmp_path / "none")[0] == []


def test_what_is_not_behind_half_way_goes_on():
    milestones = early_stopping.find_milestones([points(), points(0.02), points(-0.02)])
    (half,) = milestones
    assert half.share == 0.5
    assert half.loss == pytest.approx(3 + 2 * 0.6, abs=0.01)  # the mean from 30 to 50 %
    for end in (0.2, 0.5, 1.0):
        for offset in (-1.0, -0.001):
            assert early_stopping.why_behind(points(offset, end), milestones) == ""
    assert early_stopping.why_behind(points(1.2, 0.49), milestones) == ""  # it is not half-way yet
    assert early_stopping.why_behind([], milestones) == ""
    reason = early_stopping.why_behind(points(1.2, 0.5), milestones)
    assert "at 50% of the budget, the champion had 4.1" in reason
    assert early_stopping.why_behind(points(0.001, 1.0), milestones)


def test_without_three_curves_of_the_champion_nothing_is_stopped():
    assert early_stopping.find_milestones([points()] * 2) == []
    assert early_stopping.find_milestones([points(many=10)] * 3) == []
    assert early_stopping.why_behind(points(9.0), []) == ""


def test_a_run_is_looked_at_while_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr("ratchet.referee.early_stopping.LOOK_SECONDS", 0)
    stopping = early_stopping.EarlyStopping(
        tmp_path / "curve.jsonl",
        "10s",
        early_stopping.find_milestones([points(), points(0.01), points(0.02)]),
    )
    stopping()  # there is no file yet
    write(tmp_path / "curve.jsonl", points(2.0, 0.4))
    stopping()
    write(tmp_path / "curve.jsonl", points(2.0, 0.5))
    with pytest.raises(EndedEarly, match="at 50%"):
        stopping()
    early_stopping.EarlyStopping(tmp_path / "curve.jsonl", "10s", ())()
