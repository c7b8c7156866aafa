"""Decoding curves: which are kept, which belong together, where they are drawn."""

import json

import pytest
from conftest import open_session
from made_up_curves import as_older, make_curve, write_curves
from test_experiments import commit, head, repository, runs  # noqa: F401
from typer.testing import CliRunner

from ratchet import __main__
from ratchet.experiments import verbs
from ratchet.model.tables import curves_table, describe_missing
from ratchet.report import decoding
from ratchet.report.decoding import (
    add_curve,
    describe_unrest,
    group_curves,
    light_points,
    read_curves,
)


def invoke(*words):
    done = CliRunner().invoke(__main__.app, [*words])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def test_a_curve_replaces_that_of_the_same_model_measured_alike(monkeypatch):
    first, other = make_curve("1/0", "a"), make_curve("2/0", "b")
    again = make_curve("1/3", "a", speed=2)
    elsewhere, longer = make_curve("1/0", "a", device="cuda"), make_curve("1/0", "a", prompt=300)
    assert add_curve([first, other], again) == [other, again]
    assert add_curve([first], elsewhere) == [first, elsewhere]
    assert add_curve([first], longer) == [first, longer]
    monkeypatch.setattr(decoding, "MOST_CURVES", 2)
    assert add_curve([first, other], elsewhere) == [other, elsewhere]


def test_files_of_before_and_broken_ones_are_read(tmp_path):
    path, curve = tmp_path / "decoding.json", make_curve("1/0", "a")
    assert read_curves(path) == []
    path.write_text("{", encoding="utf-8")
    assert read_curves(path) == []
    path.write_text(as_older(curve), encoding="utf-8")
    (older,) = read_curves(path)
    assert older["run"] == "1/0" and add_curve([older], curve) == [older, curve]
    assert add_curve([older], older) == [older]


def test_curves_are_drawn_together_if_they_were_measured_alike():
    named = {"1 baseline": "a", "3 champion": "b", "none": "c"}
    old, a, b = (
        make_curve("1/0", "a", device="cuda"),
        make_curve("1/0", "a"),
        make_curve("3/0", "b"),
    )
    group = group_curves("title", named, "s", [old, a, b, make_curve("9/0", "d")])
    assert group.curves == {"1 baseline": a, "3 champion": b} and group.missing == ["none"]
    group = group_curves("title", named, "s", [a, b, old])  # the latest says how
    assert group.curves == {"1 baseline": old} and group.missing == ["3 champion", "none"]
    assert "3 champion, none (see `ratchet serve-bench`)" in describe_missing(group)
    assert group_curves("title", named, "s", []) == ("title", {}, [*named])
    assert group_curves("title", named, "of another arena", [a, b]).curves == {}


def test_a_curve_that_others_disturbed_says_so():
    quiet, disturbed = make_curve("1/0", "a"), make_curve("2/0", "b")
    disturbed["points"][2]["tpots"] = [0.001, 0.0021, 0.0011]
    assert describe_unrest([quiet]) == describe_unrest([]) == ""
    words = "repeats differ 2.1 times: something else uses the machine"
    assert describe_unrest([quiet, disturbed]) == words


def test_what_a_step_cannot_take_is_no_speed_of_light():
    curve = make_curve("1/0", "a")
    assert light_points(curve)[0] == pytest.approx((2000, 2000))  # 5 MB at 10 GB/s
    for bound in (0, 1e-300, 1e300):
        curve["points"][0]["bound"] = bound
        assert len(light_points(curve)) == 3


def test_a_table_has_the_rates_of_each_model_by_rows():
    group = decoding.Group("two", {"x": make_curve("1", "a"), "y": make_curve("2", "b", 2.0)}, [])
    table = curves_table(group)
    cells = [[*column.cells] for column in table.columns]
    assert cells[0] == ["1", "2", "4", "8"]
    assert (cells[1][0], cells[2][0]) == ("889", "1,778")  # 1 / (1 ms x 9 / 8), and twice that
    assert (cells[3][3], cells[4][3]) == ("4,000", "8,000")  # 8 rows of 500 and of 1,000


def test_compare_draws_the_curves_of_its_sources(repository, runs):  # noqa: F811
    verbs.calibrate(open_session(arena="tiny", budget="5s"), 2)
    first = head("HEAD")
    second = commit("second", quality=1.2)
    words = "compare", first[:9], second[:9], "-n", "2", "--arena", "tiny", "--budget", "5s"
    assert "decoding" not in invoke(*words)
    baseline = open_session().read_campaign().baseline  # the first, too
    source = baseline.arms[0]["source"]
    write_curves(repository, make_curve("1/0", source, seal=baseline.seal))
    said = invoke(*words)
    assert f"A {first[:9]}: cpu; 256 tokens, then 64; compiled" in said
    assert f"measured like these: {second[:9]} (see `ratchet serve-bench`)" in said
    assert "speed of light, modelled" in said and "tokens/s of a user" in said
    n = open_session().experiments()[-1].n
    assert (repository / f"runs/{n}/decoding.png").read_bytes()[:4] == b"\x89PNG"
    arms = json.loads(invoke(*words, "--json"))["arms"]
    assert arms[0]["decoding"]["points"][0]["rows"] == 1 and arms[1]["decoding"] is None
