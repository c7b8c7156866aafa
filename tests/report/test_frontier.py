"""The frontier of experiments over several measures."""

import json

import pytest
from conftest import open_session
from test_experiments import commit, repository, runs  # noqa: F401
from typer.testing import CliRunner

from ratchet import __main__
from ratchet.arena.files import Refused
from ratchet.experiments import verbs
from ratchet.experiments.campaign import list_campaigns
from ratchet.report.frontier import (
    Point,
    earlier_campaigns,
    find_frontier,
    list_earlier,
    list_points,
    parse_axes,
)
from ratchet.tables import frontier_cell


def point(n, selected=False, **values):
    return Point(n, "", "", "", values, {}, 1, selected)


def numbers(points):
    return [each.n for each in points]


def test_what_another_beats_everywhere_is_not_on_the_frontier():
    points = [
        point(1, val_bpb=1.5, file_mb=8.0),
        point(2, val_bpb=1.4, file_mb=9.0),
        point(3, val_bpb=1.5, file_mb=9.0),  # 1 and 2 are better
        point(4, val_bpb=1.3, file_mb=20.0),
        point(5, val_bpb=1.2),  # nobody measured its file
        point(6, val_bpb=1.5, file_mb=8.0),  # as good as 1
    ]
    assert numbers(find_frontier(points, ("val_bpb", "file_mb"))) == [1, 6, 2, 4]
    assert numbers(find_frontier(points, ("file_mb", "val_bpb"))) == [4, 2, 1, 6]
    assert find_frontier([], ("val_bpb", "file_mb")) == []


def test_runs_that_chose_a_source_beat_nothing_that_fresh_runs_measured():
    points = [
        point(1, val_bpb=1.5, file_mb=8.0),
        point(2, selected=True, val_bpb=1.4, file_mb=8.0),
        point(3, selected=True, val_bpb=1.6, file_mb=8.0),
    ]
    assert numbers(find_frontier(points, ("val_bpb", "file_mb"))) == [2, 1]


def test_of_speeds_more_is_better():
    points = [
        point(1, val_bpb=1.5, user_tps=100.0),
        point(2, val_bpb=1.5, user_tps=200.0),
        point(3, val_bpb=1.4, user_tps=150.0),
    ]
    assert numbers(find_frontier(points, ("val_bpb", "user_tps"))) == [2, 3]


@pytest.mark.parametrize(
    "text", ["val_bpb", "", "val_bpb,val_bpb", "val_bpb,mb", "val_bpb,file_mb,params_m,flops"]
)
def test_measures_that_make_no_frontier_are_refused(text):
    with pytest.raises(Refused, match=f"--by {text}: "):
        parse_axes(text)


def test_points_are_means_of_runs_that_nobody_selected(repository, runs):  # noqa: F811
    verbs.calibrate(open_session(arena="tiny", budget="5s"), 3)
    commit("worse", quality=0.5)
    e = verbs.try_idea(open_session(), "a worse one")
    first, other = list_points(open_session().read_campaign())
    assert (first.n, first.is_selected, first.is_champion) == (1, False, True)
    assert first.runs == 3 + len([run for run in e.runs if run["phase"] == "bar"])
    assert (other.n, other.runs, other.is_selected, other.is_champion) == (e.n, 1, True, False)
    assert first.values["params_m"] == pytest.approx(0.003) and first.values["memory_gb"] == 0.5
    said = CliRunner().invoke(__main__.app, ["frontier", "--by", "val_bpb,params_m", "--json"])
    assert [row["n"] for row in json.loads(said.stdout)] == [1]
    said = CliRunner().invoke(__main__.app, ["frontier", "--by", "val_bpb,joules"])
    assert "no experiment of this campaign has all of val_bpb, joules" in said.stdout
    said = CliRunner().invoke(__main__.app, ["frontier"])
    assert said.exit_code == 0 and "no claim" not in said.stdout and "campaign" not in said.stdout


def test_a_measure_has_the_error_of_the_spread_of_runs_of_one_source(repository, runs):  # noqa: F811
    memories = iter([500, 524, 512, 512])
    runs.of_run = lambda: {"peak_memory_mb": next(memories)}
    verbs.calibrate(open_session(arena="tiny", budget="5s"), 4)
    (only,) = list_points(open_session().read_campaign())
    assert only.halves.keys() == {"val_bpb", "memory_gb"}  # parameters have no error
    # of 4 runs with a standard deviation of 9.8 MB; Student's t of 3 degrees is 3.182
    assert only.halves["memory_gb"] == pytest.approx(3.182 * (288 / 3) ** 0.5 / 2 / 1024, rel=1e-3)
    assert frontier_cell(only, "memory_gb") == "0.500 ± 0.015"
    assert frontier_cell(only, "params_m") == "0.003"
    slow = only._replace(values={"user_tps": 1280.4}, halves={"user_tps": 108.2})
    assert frontier_cell(slow, "user_tps") == "1280 ± 108"


def test_earlier_campaigns_in_the_same_arena_are_shadows(repository, runs):  # noqa: F811
    def calibrate(quality, **options):
        commit(f"quality {quality}", quality=quality, notes=str(options))
        verbs.calibrate(open_session(arena="tiny", **options), 2, lambda question: True)

    calibrate(1.5, budget="5s")
    calibrate(1.6, budget="7s")  # another budget
    calibrate(1.4, budget="5s", limits={"params_m": 1.0})
    calibrate(1.4, budget="5s")  # the same source
    calibrate(1.2, budget="5s")
    campaigns = list_campaigns(open_session().experiments())
    now = campaigns[-1]
    before = earlier_campaigns(now, campaigns)
    assert [each.baseline.n for each in before] == [1, 3, 4]
    assert earlier_campaigns(campaigns[0], campaigns) == []
    own = list_points(now)
    assert [(each.n, each.is_earlier) for each in own] == [(5, False)]
    shadows = list_earlier(own, before)
    assert [(each.n, each.is_earlier, each.is_champion) for each in shadows] == [
        (1, True, False),
        (4, True, False),
    ]
    said = CliRunner().invoke(__main__.app, ["frontier", "--by", "val_bpb,params_m"])
    lines = [line.split() for line in said.stdout.splitlines()]
    assert [line[0] for line in lines if line[0].isdigit()] == ["5", "1"]  # 1 beats 4, but not 5
    assert "now" in lines[2] and now.baseline.time[5:10] in lines[3]
    said = CliRunner().invoke(__main__.app, ["frontier", "--by", "val_bpb,params_m", "--json"])
    assert [row["is_earlier"] for row in json.loads(said.stdout)] == [False, True]


def test_lines_of_the_terminal_are_whole_at_80_columns(repository, runs, monkeypatch):  # noqa: F811
    monkeypatch.setattr(__main__.console, "_width", 80)
    verbs.calibrate(open_session(arena="tiny", budget="5s"), 2)
    commit("better", quality=1.1)
    verbs.try_idea(open_session(), "a better one " * 9)
    said = CliRunner().invoke(__main__.app, ["frontier"]).stdout.splitlines()
    assert all(len(line) <= 80 for line in said)
    (line,) = [line for line in said if "a better one" in line]
    assert line.rstrip().endswith("…") and "1*" in line and " ± 0.0" in line
    assert "* selected: the runs that chose it, no claim" in said
