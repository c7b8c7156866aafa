"""The report: its data, hostile words, and what a real browser makes of the page."""

import json
import random
import re
import shutil
import threading
import urllib.error
import urllib.request

import made_up_night
import numpy as np
import pytest
from conftest import ROOT, open_session
from made_up_curves import LIMITS, make_curve, write_curves
from matplotlib.text import Text
from test_experiments import SIGMA, commit, problems, repository, runs  # noqa: F401
from typer.testing import CliRunner

from ratchet import __main__, claims, commits
from ratchet.experiments import comparisons, sources, trials, verbs
from ratchet.experiments.goals import Goal
from ratchet.experiments.ledger import Ledger
from ratchet.model import scaling
from ratchet.model.links import Links
from ratchet.report import data as report_data
from ratchet.report import labels, palette, picture, render
from ratchet.report import server as report_server
from ratchet.report.frontier import Point, find_frontier

EVIL = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><b>bold</b>"
)
EVIL += "\u202etxet\x1b[31m"


NAMES = "gd => gd.data.map(trace => trace.name)"
CLICK = "gd => gd.emit('plotly_click', {{points: [{{customdata: {}}}]}})"


@pytest.fixture
def night(repository, runs, monkeypatch):  # noqa: F811
    """A campaign with a gain, a dead end, a crash, an audit, and curves; its words are hostile."""
    monkeypatch.setattr("ratchet.referee.supervisor.clean_text", lambda data: data.decode())
    verbs.calibrate(open_session(arena="tiny", budget="5s"), 5)
    for number, (quality, more) in enumerate(
        [(1.1, ""), (1.0, ""), (1.2, 'STATUS = "crash"'), (1.05, "")]
    ):
        commit(f"idea {number}", quality=quality, more=f"NUMBER = {number}\n{more}")
        told = {"gain": 0.1 - number / 30}
        trials.decide_idea(
            open_session(), f"idea {number}, {EVIL}", by=f"agent {number % 2} {EVIL}", **told
        )
    comparisons.audit(open_session(), 2)
    for e in open_session().experiments():
        for run in e.runs:
            (folder := repository / run["folder"]).mkdir(parents=True, exist_ok=True)
            points = (
                {"seconds": i / 50, "tokens": 100 * i, "loss": 5 - i / 100} for i in range(250)
            )
            (folder / "curve.jsonl").write_text(
                "".join(json.dumps(p) + "\n" for p in points), encoding="utf-8"
            )
            (folder / "config.json").write_text(
                json.dumps({"width": 64, "words": EVIL}), encoding="utf-8"
            )
    return repository


def collected(home):
    return report_data.collect_data(Ledger(home), home)


def test_the_data_are_those_of_the_ledger(night):
    data = collected(night)
    (campaign,) = data["campaigns"]
    rows = campaign["experiments"]
    assert [row["verdict"] for row in rows] == [
        "baseline",
        "keep",
        "keep",
        "out",
        "crash",
        "out",
        "audited",
    ]
    assert (
        data["problems"] == [] and data["head"] == Ledger(night).head_hash() and data["lines"] > 20
    )
    first, last = campaign["champions"]
    assert (first["n"], last["n"]) == (1, 3) and "gain" not in last
    claim = campaign["claim"]
    assert claim["words"].startswith("claim: experiment 3 gains +0.")
    for split in ("val", "test"):
        assert claim[split]["low"] < 0.1 < claim[split]["high"]
    assert (
        claim["null_keeps"]
        == f"under 2 % of keeps by the profile strict have no effect ({claims.NULL_KEEPS_NOTE})"
    )
    assert 0.3 * SIGMA < campaign["sigma"] < 3 * SIGMA and campaign["df"] >= 4
    assert rows[1]["gain"] == pytest.approx(0.1, abs=5 * SIGMA) and rows[1]["said"] == 0.1
    assert (rows[1]["mark"], rows[1]["selected"], rows[1]["with"]) == ("hit", False, [])
    assert (rows[2]["mark"], rows[2]["role"]) == ("keep", "trial")
    assert [each["n"] for each in rows[2]["members"]] == [2]
    assert rows[3]["selected"] and rows[3]["points"] < 0 and len(rows[3]["sigmas"]) == 1
    assert "+QUALITY = 1.1" in rows[1]["diff"] and rows[4]["tail"] == "last words"
    assert len(rows[0]["curve"]) <= report_data.CURVE_POINTS and rows[0]["curve"][-1][
        0
    ] == pytest.approx(5, abs=0.2)
    assert [row["name"] for row in campaign["audit"]] == ["experiment 3"]
    found = [(row["name"], row["split"], "gain" in row) for row in rows[6]["compared"]]
    own = [("experiment 1", False), ("experiment 3", True)]
    assert found == [(name, split, gained) for split in ("val", "test") for name, gained in own]
    assert rows[6]["mean"] is None and not rows[1]["compared"]
    assert any("isolation was none" in words for words in campaign["warnings"])
    assert (
        data["cheats"]["bubblewrap"]["known"] > 40 > 2 > len(data["cheats"]["bubblewrap"]["open"])
    )


def test_each_calibration_begins_a_campaign_and_the_latest_is_shown(night):
    verbs.calibrate(open_session(arena="tiny", budget="5s"), 5)
    commit("new idea", quality=1.3)
    trials.decide_idea(open_session(), "new idea")
    data = collected(night)
    old, new = data["campaigns"]
    assert [row["verdict"] for row in new["experiments"]] == ["baseline", "keep", "keep"]
    assert data["latest"] == 1
    assert old["experiments"][1]["diff"] and old["audit"] and not new["audit"]
    assert (old["earlier"], new["earlier"]) == ([], [0])
    assert [point["n"] for point in new["points"] if point["is_champion"]] == [9]
    assert new["champions"][1]["mean"] == pytest.approx(0.7, abs=5 * SIGMA)
    assert new["claim"]["words"] == "no claim yet: `ratchet audit` measures it"
    assert [*picture.draw_pictures(data, night)]
    comparisons.compare(open_session(arena="tiny", budget="7s"), ["HEAD", "HEAD~1"], 2)
    data = collected(night)
    assert len(data["campaigns"]) == 3 and data["latest"] == 1
    assert data["campaigns"][2]["earlier"] == data["campaigns"][2]["points"] == []


@pytest.fixture
def batch_night(repository, runs):  # noqa: F811
    """Ideas of which five gain: a trial of several, one that is out, a closing comparison."""
    made_up_night.begin(runs)
    for number, sigmas in enumerate([3.0, -3.0, 3.0, 3.0, 3.0, 3.0, -3.0]):
        made_up_night.try_gain(number, sigmas)
    made_up_night.end()
    return repository


def test_of_another_goal_the_page_has_ratios_beside_val_bpb(repository, runs, tmp_path):  # noqa: F811
    commit("the baseline", more="SPEED_A = 0.0")
    verbs.calibrate(open_session(arena="tiny", budget="5s", goal=Goal("user_tps", 0.02)), 5)
    commit("faster", quality=1 + 4 * SIGMA, more="SPEED_A = 0.5")
    assert trials.decide_idea(open_session(), "faster").verdict == "keep"
    assert "promised" not in collected(repository)["campaigns"][0]["claim"]
    comparisons.audit(open_session(), 4)
    data = collected(repository)
    (campaign,) = data["campaigns"]
    baseline, faster, trial, _ = campaign["experiments"]
    assert campaign["goal"] == "user_tps" and campaign["bar"] == campaign["sigmas"] == []
    assert baseline["mean"] == pytest.approx(1.0, abs=4 * SIGMA)  # 2 - its quality
    assert trial["mean"] == pytest.approx(1 - 4 * SIGMA, abs=4 * SIGMA) and 0 < trial["half"] < 0.1
    assert trial["cells"][4]["text"] == trial["gain_words"] and "gain" not in trial
    assert re.match(r"x1\.[34]\d \[1\.\d\d, 1\.\d\d\]", trial["gain_words"])  # 2 ** 0.5
    assert campaign["champions"][1]["mean"] == pytest.approx(trial["mean"], abs=4 * SIGMA)
    assert 0.3 * SIGMA < campaign["sigma"] < 3 * SIGMA
    assert (
        campaign["claim"]["ratio"].startswith("x1.") and abs(campaign["claim"]["val"]["gain"]) < 0.1
    )
    assert "promised" not in campaign["claim"]
    assert campaign["goal_words"] == "user_tps, tokens/s (more is better)"
    assert trial["figure"] == pytest.approx(300 * 2**0.5, rel=0.1)
    assert [row["low"] < row["mean"] < row["high"] for row in campaign["goal_bar"]] == [True] * 4
    assert len([*picture.draw_pictures(data, tmp_path)]) == 2


def test_a_batch_is_one_step_and_the_bar_has_an_interval(batch_night, tmp_path):
    (campaign,) = collected(batch_night)["campaigns"]
    rows = {row["n"]: row for row in campaign["experiments"]}
    trial = next(row for row in rows.values() if row["role"] == "trial")
    members = [each["n"] for each in trial["members"]]
    assert trial["verdict"] == "keep" and len(members) > 1
    for n in members:
        assert (rows[n]["verdict"], rows[n]["mark"]) == ("keep", "hit")
        assert rows[n]["with"] == [m for m in members if m != n]
        assert rows[n]["gain"] == trial["gain"] > 3 * rows[n]["own"]["gain"]  # of it alone
        assert rows[n]["cells"][4]["text"].endswith(f", with {str(rows[n]['with'])[1:-1]}")
    out = next(row for row in rows.values() if row["verdict"] == "out")
    assert out["cells"][4]["text"].endswith(", selected)")
    assert trial["cells"][-1]["text"].startswith(f"trial of {members[0]} idea")
    steps = campaign["bar"]
    assert [step["n"] for step in steps] == sorted(step["n"] for step in steps)
    first = next(i for i, step in enumerate(steps) if step["n"] == trial["n"])
    drop = steps[first - 1]["mean"] - steps[first]["mean"]
    assert drop == pytest.approx(len(members) * 3 * SIGMA, abs=3 * SIGMA)
    assert all(0 < step["half"] < 4 * SIGMA for step in steps)
    assert f"claim: experiment {campaign['champions'][-1]['n']} gains" in campaign["claim"]["words"]
    kept = [row for row in rows.values() if row["role"] == "try" and row["verdict"] == "keep"]
    bars = [[step["mean"] for step in steps if step["n"] < row["n"]][-1] for row in kept]
    promised = sum(bar - row["scores"][0] for bar, row in zip(bars, kept))
    assert campaign["claim"]["promised"]["gain"] == pytest.approx(promised, abs=len(kept) * SIGMA)
    assert [*picture.draw_pictures({"campaigns": [campaign], "latest": 0}, tmp_path)]


def test_an_older_ledger_is_shown_by_its_own_rule(repository, tmp_path):  # noqa: F811
    shutil.copy(ROOT / "tests/experiments/former/ledger.jsonl", repository)
    data = collected(repository)
    (campaign,) = data["campaigns"]
    words = {row["verdict"] for row in campaign["experiments"]}
    assert {"baseline", "keep", "discard", "undecided", "crash", "audited"} <= words
    assert campaign["bar"] == [] and len(campaign["champions"]) == 3
    assert not any(row["selected"] or row["members"] for row in campaign["experiments"])
    assert campaign["claim"]["null_keeps"] == ""
    assert campaign["claim"]["words"].startswith(
        "claim: experiment 17 gains +0.1062 ± 0.0191 bpb on the baseline, "
        "+0.0925 ± 0.0220 on the test text (95 %, 3 + 3 fresh runs in turns; "
        "1 of 4 runs of experiment 17 failed (crash))"
    )
    assert "promised" not in campaign["claim"]
    assert [*picture.draw_pictures(data, tmp_path)]
    assert "Ratchet" in render.render_page(data)
    shown = CliRunner().invoke(__main__.app, ["log", "-n", "40"]).output
    assert "discard" in shown and "undecided" in shown and "claim: experiment 17" in shown
    shown = CliRunner().invoke(__main__.app, ["show", "16"]).output
    assert "experiment 16: keep, better: gain 0.06585" in shown
    assert "gain:    +0.0658 ± 0.0292 [bpb over the champion of that time, 95 %]\n" in shown


def test_the_terminal_tells_trials_ideas_and_the_claim_apart(batch_night, monkeypatch):
    invoke = CliRunner().invoke
    monkeypatch.setattr(__main__.console, "_width", 200)
    log = invoke(__main__.app, ["log"], env={"COLUMNS": "200"}).output
    lines = {line.split()[0]: line for line in reversed(log.splitlines()) if line.strip()}
    experiments = open_session().experiments()
    trial = next(e for e in experiments if e.role == "trial")
    first, *others = trial.members
    assert f"trial of {str(trial.members)[1:-1]}" in lines[str(trial.n)]
    assert f", with {str(others)[1:-1]} " in lines[str(first)] and " keep " in lines[str(first)]
    out = next(e for e in experiments if e.verdict == "out")
    assert ", selected)" in lines[str(out.n)]
    assert ", fresh" in lines[str(experiments[-1].n)]
    assert lines["claim:"].endswith("(95 %, 4 + 4 fresh runs in turns)")
    assert "keeps by the profile default have no effect (simulated: " in log
    assert "selected: the runs that chose it, no claim" in log
    shown = invoke(__main__.app, ["show", str(trial.n)]).output
    assert f"member:  {first} idea 0: why" in shown and ", fresh runs]" in shown
    shown = invoke(__main__.app, ["show", str(first)]).output
    assert f"trial:   experiment {trial.n}" in shown and " sigma over the bar, " in shown
    shown = invoke(__main__.app, ["diff", str(trial.n)]).output
    assert shown.count("+GAIN_") == len(trial.members)


def test_diffs_are_those_of_each_pair_and_of_what_git_still_has(repository):  # noqa: F811
    first, second, third = (commit(f"c{n}", quality=n) for n in (1.5, 2.5, 3.5))
    found = commits.read_diffs([(first, third), ("0" * 40, third), (second, third), (third, third)])
    assert "-QUALITY = 1.5" in found[first, third] and "-QUALITY = 2.5" in found[second, third]
    assert found["0" * 40, third] == found[third, third] == ""


@pytest.fixture
def drawing():
    """Axes with settings of the dark picture, and the theme."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("agg")
    theme = palette.THEMES["-dark"]
    with matplotlib.rc_context(picture.settings_of(theme)):
        figure, axes = pyplot.subplots(figsize=picture.INCHES)
        yield axes, theme
        pyplot.close(figure)


def test_labels_of_kept_steps_cover_neither_each_other_nor_a_mark(drawing):
    axes, theme = drawing
    rows, steps = [], [{"n": 1, "mean": 2.0, "half": 0.004}]
    for n in range(1, 40):
        verdict = "keep" if n % 8 == 0 else "out"
        row = {"n": n, "mean": 2 - n / 50, "mark": verdict, "idea": f"idea {n} of $many$: why"}
        row["members"] = [{"n": n + i, "idea": "one of $many$"} for i in range(n % 5)]
        rows.append(row | {"gain": n / 1000, "low": 0, "high": n / 500})
        if verdict == "keep":
            steps.append({"n": n, "mean": row["mean"], "half": 0.004})
    picture.draw_bar(axes, steps, "bar", theme)
    picture.draw_experiments(axes, rows, 2.0, theme)
    labels.label_steps(axes, rows, steps, theme)
    taken = labels.drawn_boxes(axes, rows, steps)
    assert len(axes.texts) == 4  # of all that was kept
    for label in axes.texts:
        assert "\\pm" in label.get_text().splitlines()[0]
        box = Text.get_window_extent(label).get_points().reshape(1, 4)  # without its line
        assert not labels.overlaps(box, taken).any()
        assert (box[0, :2] >= axes.bbox.min).all() and (box[0, 2:] <= axes.bbox.max).all()
        taken = np.concatenate([taken, box])


def test_the_picture_shows_the_baseline_at_its_line_and_what_is_far_off_at_the_edge(drawing):
    axes, theme = drawing
    rows = [{"n": n, "mean": mean, "mark": "out"} for n, mean in ((2, 1.9), (3, 9.0), (4, None))]
    rows = [row | {"role": "try"} for row in rows]
    bar = [{"n": 1, "mean": 2.0, "half": 0.01}, {"n": 4, "mean": 1.5, "half": 0.01}]
    campaign = {"experiments": rows, "bar": bar, "champions": [], "sigma": 0.01}
    picture.draw_night(axes, campaign, theme)
    baseline, level = axes.lines
    assert [*baseline.get_ydata()] == [2.0, 2.0] and baseline.get_label() == "baseline"
    assert [*level.get_ydata()] == [2.0, 1.5, 1.5]
    near, far = axes.collections[1:]
    assert near.get_offsets().tolist() == [[2, 1.9]]
    assert far.get_offsets()[:, 0].tolist() == [3, 4] and axes.get_ylim()[1] < 3


def test_the_picture_tells_the_claim_from_what_the_first_runs_promised(drawing):
    axes, theme = drawing
    gains = [("first runs", {"gain": 0.2}), ("claim", {"gain": 0.1, "low": 0.07, "high": 0.13})]
    picture.draw_claim(axes, gains, theme)
    assert [text.get_text() for text in axes.texts] == ["+0.200", "+0.100 ± 0.030"]
    first, claim = (bars.lines[0] for bars in axes.containers)
    assert first.get_markerfacecolor() == theme.paper and first.get_marker() == "D"
    assert claim.get_markerfacecolor() == theme.line and claim.get_marker() == "o"


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_ledger_and_one_without_a_verdict_make_a_page(repository, runs, rows):  # noqa: F811
    if rows:
        open_session(arena="tiny", budget="5s").ledger.append(
            "opens",
            role="calibrate",
            arms=[sources.read_source("HEAD").describe_source()],
            arena="tiny",
            seal="x",
            budget="5s",
            device="cpu",
            driver="",
            torch="2",
            salt="y",
        )
    data = collected(repository)
    assert len(data["campaigns"]) == rows and "Ratchet" in render.render_page(data)


def write_measured(home):
    """What serve-bench and scaling leave, with figures made up."""
    decoding = make_curve("2/3-confirm-0", "of nobody", device=EVIL) | {"time": EVIL}
    decoding["limits"] = LIMITS | {"floor": 1e-4}
    model = {"step": 0.3, "rows": 8, "gradients": 10**7, "layers": 3, "width": 192, "device": EVIL}
    links = Links({2: {256: 1e-5, 2**20: 1e-3}, 4: {256: 2e-5, 2**20: 3e-3}}, "measured", EVIL)
    found = {
        "model": model,
        "tag": "measured",
        "source": EVIL,
        "device": EVIL,
        "run": EVIL,
        "time": EVIL,
    }
    found |= scaling.forecast_scaling(model, links, 0.001)
    rows = [(n, size, seconds) for n in links.times for size, seconds in links.times[n].items()]
    found["table"] = [
        {"n": n, "bytes": size, "seconds": took, "ring": took} for n, size, took in rows
    ]
    found["lines"] = [{"n": 2}, {"n": 4}]
    for name, value in zip(report_data.MEASURED, ({"curves": [decoding]}, found)):
        (home / name).write_text(json.dumps(value), encoding="utf-8")


def test_what_was_measured_of_decoding_is_in_the_data_and_what_is_broken_is_not(night):
    assert collected(night)["decoding"] == []
    write_measured(night)
    data = collected(night)
    assert len(data["decoding"][0]["points"]) == 4 and data["scaling"]["model"]["layers"] == 3
    (night / report_data.MEASURED[0]).write_text("{", encoding="utf-8")
    assert collected(night)["decoding"] == [] and collected(night)["scaling"]


def test_the_page_is_one_file_and_holds_no_word_of_the_ledger_as_html(night):
    page = render.render_page(collected(night))
    assert "window.hacked" not in page and len(page) < 8e6
    assert not re.search(
        r"""(src|href)\s*=\s*["']?(https?:)?//""", page.replace(render.plotly_script(), "")
    )


def test_the_command_line_writes_page_and_picture(night, tmp_path):
    done = CliRunner().invoke(__main__.app, ["report", "--to", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/report.html").stat().st_size > 4e6
    for name in ("progress.png", "progress-dark.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"
        assert str(name) in done.output.replace("\n", "")


def test_pages_can_share_plotly(night, tmp_path):
    shared, arguments = tmp_path / "a folder/plotly.js", ["report", "--to", str(tmp_path / "out")]
    shared.parent.mkdir()
    done = CliRunner().invoke(__main__.app, [*arguments, "--plotly", str(shared)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert '<script src="../a%20folder/plotly.js"></script>' in page and len(page) < 500_000
    assert shared.read_text(encoding="utf-8") == render.plotly_script()


# --------------------------------------------------------------------------------------------------
# Live


@pytest.fixture
def served(night):
    with report_server.make_server(night) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.url.removesuffix("/")
        server.shutdown()
        thread.join()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.read().decode()


def test_the_live_page_follows_the_ledger(served, night):
    first = get(served + "/stamp"), get(served + "/data")
    assert "Ratchet" in get(served + "/") and get(served + "/stamp") == first[0]
    commit("another", quality=1.0, more="NUMBER = 9")
    verbs.try_idea(open_session(), "another")
    assert get(served + "/stamp") != first[0] and get(served + "/data") != first[1]
    (night / "ledger.jsonl").unlink()
    assert get(served + "/stamp") == "empty" and get(served + "/data")
    (night / "ledger.jsonl").write_text("broken\n", encoding="utf-8")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        get(served + "/data")


def test_the_live_page_is_for_this_machine_alone(served):
    assert served.startswith("http://127.0.0.1:")
    port = served.split(":")[2].split("/")[0]
    for host in ("evil.example", "127.0.0.1", "evil.example:" + port):
        with pytest.raises(urllib.error.HTTPError, match="421"):
            get(served + "/data", Host=host)
    for stranger in ("", "/", "/data", "/wrong/data", f"/{served.split('/')[-1]}"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"http://127.0.0.1:{port}{stranger}")
    for path in (
        "/../ledger.jsonl",
        "/ledger.jsonl",
        "/%2e%2e/ledger.jsonl",
        "/data/../../etc/passwd",
    ):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(served + path)


# --------------------------------------------------------------------------------------------------
# A browser


@pytest.fixture(scope="module")
def chromium():
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("there is no chromium here: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = tools.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture
def look(chromium):
    """look(url, width=, theme=) -> a page, loaded and drawn; errors, requests: what it said and
    asked for.
    """
    contexts = []

    def open_page(url, width=1440, theme="light"):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.errors, page.requests = [], []
        page.on("console", lambda said: said.type == "error" and page.errors.append(said.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(url)
        page.wait_for_selector("body.empty, #explorer .chart .plot-container")
        page.wait_for_function("document.querySelector('#count').textContent")
        return page

    yield open_page
    for context in contexts:
        context.close()


def written(home, folder):
    path = folder / "report.html"
    path.write_text(render.render_page(collected(home)), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(
    "width, theme",
    [
        (1440, "light"),
        (390, "dark"),
        pytest.param(1440, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)
def test_a_browser_draws_it_without_an_error_and_without_the_network(
    night, tmp_path, look, width, theme
):
    page = look(url := written(night, tmp_path), width, theme)
    assert page.requests[0] == url and all(
        r.startswith(("data:", "blob:")) for r in page.requests[1:]
    )
    assert page.errors == []
    assert "1 kept. Claim: experiment 3 gains +0." in page.inner_text("#sentence")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_points_and_rows_can_be_opened_and_filtered(night, tmp_path, look):
    page = look(written(night, tmp_path))
    rows = page.locator("tr.row")
    assert rows.count() == 7
    page.fill("#experiments input[type=search]", "idea 2")
    assert rows.count() == 1 and "</script>" in rows.inner_text()
    page.fill("#experiments input[type=search]", "")
    page.select_option("#by-verdict", "out")
    assert rows.count() == 2
    page.select_option("#by-verdict", "")
    page.locator("#e2").focus()
    page.keyboard.press("Enter")
    assert "QUALITY = 1.1" in page.inner_text("tr.details pre .plus >> nth=0")
    page.click("th button:has-text('val_bpb')")
    assert page.locator("tr.row td:nth-child(2)").first.inner_text() in ("2", "3")
    page.locator("#e2 input").check()
    page.wait_for_function("document.querySelector('#curves .chart').data.length === 3")
    page.evaluate("most = 3, drawTable()")  # more rows than that come when they are asked for
    assert rows.count() == 3 and page.inner_text("#rest") == "show all 7"
    page.click("#rest")
    assert rows.count() == 7 and page.is_hidden("#rest")
    page.evaluate("open = null, most = 3, drawTable()")
    page.eval_on_selector("#progress .chart", CLICK.format(5))
    assert "last words" in page.text_content("tr.details")
    place = "document.querySelector('#e5').getBoundingClientRect()"
    page.wait_for_function(f"0 < {place}.top && {place}.bottom < innerHeight")


def test_the_chart_shows_bar_batch_and_claim(batch_night, tmp_path, look):
    page = look(written(batch_night, tmp_path))
    assert page.errors == []
    names = page.eval_on_selector("#progress .chart", "gd => gd.data.map(trace => trace.name)")
    assert {"bar", "its 95 % interval", "keep", "hit", "out"} <= {*names}
    words = page.eval_on_selector("#progress .chart", "gd => gd.layout.annotations[0].text")
    assert "claim: experiment" in words and "The line is the bar" in page.inner_text(
        "#progress .note"
    )
    trial = next(e for e in open_session().experiments() if e.role == "trial")
    page.eval_on_selector("#progress .chart", CLICK.format(trial.n))
    assert f"trial of {trial.members[0]} idea 0: why;" in page.text_content("tr.details")


def test_decoding_and_scaling_have_panels_once_they_are_measured(night, tmp_path, look):
    page = look(written(night, tmp_path))
    assert (
        page.get_attribute("#to-serve", "hidden") is None
        and page.locator("#serving .cell").count() == 0
    )
    write_measured(night)
    page = look(written(night, tmp_path), 390, "dark")
    assert page.errors == [] and page.evaluate("window.hacked") is None
    assert page.locator("#serving .cell.js-plotly-plot").count() == 4
    assert page.get_attribute("#to-serve", "hidden") is not None
    assert "without the cache 20.0 times as long" in page.text_content("#serving .facts")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cells = "[...document.querySelectorAll('#serving .cell')]"
    names = page.evaluate(cells + ".flatMap(cell => cell.data.map(trace => trace.name))")
    assert {"frontier", "speed of light, modelled", "launch floor, measured", "ring model"} <= {
        *names
    }


def test_the_page_draws_the_curves_of_baseline_and_champion(night, tmp_path, look, monkeypatch):
    monkeypatch.setattr(__main__.console, "_width", 200)  # of a long path nothing is cut
    kept = open_session().read_campaign().kept
    ends = [(e.arms[0]["source"], speed, e.seal) for speed, e in enumerate(kept, 1)]
    curves = [make_curve(f"{end[1]}/0", *end[:2], seal=end[2]) for end in ends]
    curves[0]["points"][0]["tpots"] = [0.001, 0.0021]
    write_curves(night, make_curve("9/<b>", "of nobody"), *curves)
    done = CliRunner().invoke(__main__.app, ["report", "--to", str(tmp_path)])
    assert done.stdout.split()[-1] == str(tmp_path / "decoding.png")
    page = look((tmp_path / "report.html").as_uri(), 390, "dark")
    cell = '#serving .cell[data-key="frontier"]'
    names = page.eval_on_selector(cell, NAMES)
    assert names[::3] == ["1 baseline", "3 champion"]
    assert names.count("frontier") == names.count("speed of light, modelled") == 2
    words = "2.00 times the tokens/s of a single user, 2.00 times the most of the device"
    assert words in page.text_content("#serving .facts")
    assert ". Its repeats differ 2.1 times: " in page.text_content("#serving .facts")
    page.locator("#models select").select_option("1")
    names = page.eval_on_selector(cell, NAMES)
    assert names[::3] == ["9/&lt;b&gt;", "1/0", "2/0"] and page.errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_explorer_has_a_scene_and_axes_to_choose(night, tmp_path, look):
    page = look(written(night, tmp_path))
    assert page.eval_on_selector("#explorer .chart canvas", "c => c.width * c.height") > 10_000
    page.locator("#explorer select").nth(0).select_option("train")
    title = "document.querySelector('#explorer .chart').layout.scene.xaxis.title.text"
    page.wait_for_function(f"{title} === 'training seconds'")


SHADOWED = """data.campaigns.push({...campaign, points: campaign.points.map(p => ({...p, source: p.n}))});
campaign.earlier = [1], campaign.limits = {params_m: {value: 0.004, words: "params_m at most 4"}};
"""  # a campaign before, and a limit


def test_the_page_finds_the_frontier_that_the_terminal_does(night, tmp_path, look):
    page = look(written(night, tmp_path))
    chance = random.Random(0)
    made = [Point(n, "", "", "", {}, {}, 1, n % 3 == 0) for n in range(40)]
    for axes in (("val_bpb", "params_m"), ("val_bpb", "params_m", "user_tps")):
        for point in made:
            point.values.update({axis: chance.randrange(9) for axis in axes if point.n != 7})
        points = [report_data.point_data(point) for point in made]
        found = page.evaluate(
            "([some, axes]) => frontier(some, axes).map(p => p.n)", [points, axes]
        )
        assert sorted(found) == sorted(point.n for point in find_frontier(made, axes))
    assert "earlier campaigns" not in page.eval_on_selector("#frontier .chart", NAMES)
    page.evaluate(SHADOWED + "drawFrontier(), drawExplorer()")
    names = page.eval_on_selector("#frontier .chart", NAMES)
    assert {"frontier", "earlier campaigns", "limit: params_m at most 4", "keep"} <= {*names}
    assert "hit" not in names  # it was tried alone, and kept
    title = "gd => gd.layout.scene.xaxis.title.text"
    assert page.eval_on_selector("#explorer .chart", title) == "parameters"
    page.evaluate("campaign.goal = 'params_m', drawExplorer()")
    assert page.eval_on_selector("#explorer .chart", title) == "★ parameters, the goal"
    names = page.eval_on_selector("#explorer .chart", NAMES)
    assert {"earlier campaigns", "limit: params_m at most 4", "keep"} <= {*names}
    page.locator("#frontier select").nth(2).select_option("memory")  # a frontier of three: no line
    assert "frontier" not in page.eval_on_selector("#frontier .chart", NAMES)
    assert page.errors == []


def test_a_row_appears_by_itself(served, night, look):
    page = look(served + "/")
    count = page.locator("tr.row").count()
    commit("late", quality=1.0, more="NUMBER = 11")
    verbs.try_idea(open_session(), "late")
    page.locator("tr.row").nth(count).wait_for(timeout=60_000)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_browser_draws_a_page_with_nothing(repository, runs, tmp_path, look, rows):  # noqa: F811
    if rows:
        commit("breaks", more='STATUS = "crash"')
        verbs.calibrate(open_session(arena="tiny", budget="5s"), 5)
    page = look(written(repository, tmp_path))
    assert page.errors == []
    assert ("empty" in page.inner_text("#sentence")) == (rows == 0)
    assert page.locator("section:visible").count() == (8 if rows else 2)
