"""The frontier of experiments over several measures."""

import json

import pytest
from conftest import open_session
from test_experiments import commit, repository, runs  # noqa: F401
from typer.testing import CliRunner

from ratchet import __main__
from ratchet.arena.files import Refused
from ratchet.experiments import verbs
from ratchet.report.frontier import Point, find_frontier, list_points, parse_axes


def point(n, selected=False, **values):
    return Point(n, "", "", values, 0.01, 1, selected, False)


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
    assert said.exit_code == 0 and "params_m, M" in said.stdout
