"""Verbs, from calibration to audit, on a real repository; the runs are drawn from a normal
distribution.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, open_session
from made_up_runs import SIGMA, Runs
from typer.testing import CliRunner

from ratchet import __main__, commits, terminal
from ratchet.arena.files import Refused, sha256
from ratchet.arena.probes import PROBES_VERSION
from ratchet.experiments import comparisons, ledger, running, seal, trials, verbs, verify
from ratchet.experiments.campaign import Campaign, list_campaigns
from ratchet.experiments.rule.statistics import Noise
from ratchet.experiments.session import describe_disturbance, open_comparison, prepare_arena
from ratchet.experiments.verdicts import STRICT
from ratchet.night.digest import list_conditions
from ratchet.referee import trial
from ratchet.referee.limits import SOURCE_BYTES
from ratchet.report import data as report_data


@pytest.fixture
def repository(tmp_path, monkeypatch, arena):
    """A repository with a train.py that says how good it is, in which sessions can be opened."""
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("ratchet.referee.devices.choice.list_devices", lambda: ["cpu"])
    for command in ("init -q -b main", "config user.email a@b.c", "config user.name somebody"):
        subprocess.run(["git", *command.split()], check=True)
    (folder / "README.md").write_text("words\n", encoding="utf-8")
    commit("the baseline", quality=1.0)
    return folder


def problems():
    return verify.find_problems(ledger.Ledger(commits.home()))


def head(name):
    return commits.git_lines("rev-parse", name)[0]


def commit(subject, quality=1.0, more="", **files):
    """Commit a train.py of that quality, and other files."""
    with open("train.py", "w", encoding="utf-8") as file:
        file.write(f"QUALITY = {quality}\n{more}\n")
    for name, text in files.items():
        with open(name.replace("_", "."), "w", encoding="utf-8") as file:
            file.write(text)
    subprocess.run(["git", "add", "-A", "--", ":!ledger.jsonl", ":!runs"], check=True)
    subprocess.run(["git", "commit", "-qm", subject], check=True)
    return head("HEAD")


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.setattr("ratchet.referee.trial.run_trial", Runs())
    return trial.run_trial


@pytest.fixture
def calibrated(repository, runs):
    assert verbs.calibrate(open_session(arena="tiny", budget="5s"), 5).verdict == "baseline"
    return repository


def test_limits_belong_to_a_campaign(repository, runs):
    """Its runs are held to them; with others begins another one."""
    limits = {"params_m": 8.0, "user_tps": 200.0}
    asked = [word for name, value in limits.items() for word in ("--limit", f"{name}={value:g}")]
    words = invoke("calibrate", "--arena", "tiny", "--budget", "5s", "-n", 2, *asked)
    assert words.exit_code == 0, words.output
    unmeasured = invoke("calibrate", "--arena", "tiny", "--limit", "joules=5")
    assert unmeasured.exit_code == 2 and "only NVIDIA GPUs" in unmeasured.output
    commit("better", quality=1.1)
    e = verbs.try_idea(open_session(), "better")
    assert e.limits == limits and {job.limits == limits for job in runs.jobs} == {True}
    assert e.n in {other.n for other in open_session().read_campaign().since}
    commit("too large", more='STATUS = "overlimit"')
    assert verbs.try_idea(open_session(), "too large").verdict == "overlimit"
    shown = invoke("show", e.n).output
    assert "params_m, M" in shown and "0.00300" in shown and "user_tps, tokens/s" in shown
    commit("smaller")
    verbs.calibrate(open_session(arena="tiny", budget="5s", limits={"file_mb": 9.0}), 2)
    assert open_session().read_campaign().since[0].limits == {"file_mb": 9.0}
    assert len(open_session().read_campaign().since) == 1 and problems() == []


def test_limits_and_goal_hold_in_a_comparison_and_are_told_to_agents(repository, runs):
    limits = {"file_mb": 8.0}
    verbs.calibrate(open_session(arena="tiny", budget="5s", limits=limits), 2)
    joined = open_session()
    assert "file_mb at most 8 MB" in "\n".join(list_conditions(joined.read_campaign()))
    for budget, held in (("5s", limits), ("6s", {})):
        assert open_comparison(joined.slot, arena="tiny", budget=budget).limits == held
    commit("too large", more='STATUS = "overlimit"')
    same = open_comparison(joined.slot, arena="tiny", budget="5s")
    e = comparisons.compare(same, ["refs/ratchet/champion", "HEAD"], 2)
    assert {run["status"] for run in e.runs if run["arm"] == 1} == {"overlimit"}
    assert e.comparison_key == joined.read_campaign().baseline.comparison_key


def test_an_idea_is_held_half_way_against_runs_of_its_own_budget(calibrated, monkeypatch):
    session, read = open_session(), []
    comparisons.compare(session, ["refs/ratchet/champion", "HEAD"], 2, frame="tokens")
    assert len({run["budget"] for run in session.experiments()[-1].runs}) == 2
    monkeypatch.setattr(
        "ratchet.referee.early_stopping.read_curve", lambda path: read.append(path) or ([], 0)
    )
    baseline = session.read_campaign().baseline
    session.champion_milestones(replace(baseline, arms=baseline.arms * 2))
    assert {path.parts[-3] for path in read} >= {"1"} and len(read) == 4
    budgets = {run["folder"]: run["budget"] for e in session.experiments() for run in e.runs}
    assert {budgets["/".join(path.parts[-4:-1])] for path in read} == {"5s"}


def champion():
    return head("refs/ratchet/champion")


def trial_of(e):
    """The trial that an idea has its verdict from."""
    trial = open_session().experiment(e.closes["n"])
    assert trial.role == "trial" and e.n in trial.members
    return trial


def phases(e):
    """Of the runs of an experiment's own source."""
    return [run["phase"] for run in e.runs if run["arm"] == 0]


def test_calibration_makes_head_the_champion(calibrated, runs):
    assert champion() == head("HEAD")
    noise = open_session().read_campaign().noise()
    assert noise.df == 4 and 0.3 * SIGMA < noise.sigma < 2 * SIGMA
    assert len({job.seed for job in runs.jobs}) == 5 and all(job.is_baseline for job in runs.jobs)


def test_a_real_gain_is_kept_and_is_what_the_next_must_beat(calibrated, runs):
    better = commit("better", quality=1.0 + 5 * SIGMA)
    e = trials.decide_idea(open_session(), "a better one")
    trial = trial_of(e)
    assert e.verdict == trial.verdict == "keep" and trial.members == [e.n]
    assert champion() == better == head(f"refs/ratchet/{e.n}") == head(f"refs/ratchet/{trial.n}")
    assert (phases(e), phases(trial)) == (["search"], ["trial"] * STRICT.runs)
    assert {run["phase"] for run in e.runs + trial.runs if run["arm"] == 1} <= {"bar"}
    assert e.profile == trial.profile == STRICT._asdict() and e.reason.startswith("better: fresh")
    commit("back to the old one", quality=1.0, more="x = 1")
    assert trials.decide_idea(open_session(), "worse than the new one").verdict == "out"
    assert problems() == []


def test_a_search_takes_seeds_of_the_champion_and_a_trial_fresh_ones(calibrated, runs):
    commit("better", quality=1.0 + 5 * SIGMA)
    e = trials.decide_idea(open_session(), "a better one")
    baseline, first, *fresh = [{run["seed"] for run in runs_of(e)} for e in stages(e)]
    assert len(baseline) == 5 and first < baseline and len(first) == 1
    assert [len(seeds) for seeds in fresh] == [STRICT.runs] and not fresh[0] & baseline
    commit("better still", quality=1.0 + 9 * SIGMA)
    e = trials.decide_idea(open_session(), "a better one still")
    assert {run["seed"] for run in runs_of(e)} < fresh[0]  # the new champion's


def stages(e):
    """The calibration, an idea, its trial."""
    return open_session().experiment(1), e, trial_of(e)


def runs_of(e):
    """The runs of its own source."""
    return [run for run in e.runs if run["arm"] == 0]


def test_a_harmful_change_costs_one_run(calibrated, runs):
    losing = commit("worse", quality=1.0 - 10 * SIGMA)
    e = trials.decide_idea(open_session(), "a worse one")
    assert e.verdict == "out" and phases(e) == ["search"] and "fewer than 0" in e.reason
    assert head(f"refs/ratchet/{e.n}") == losing != champion()


def test_an_uncertain_bar_is_measured_before_it_decides(repository, runs):
    """Two runs of the calibration are too few: the champion runs until its level is known."""
    verbs.calibrate(open_session(arena="tiny", budget="5s"), 2)
    commit("worse", quality=1.0 - 10 * SIGMA)
    e = trials.decide_idea(open_session(), "a worse one")
    assert [(run["arm"], run["phase"]) for run in e.runs][-1] == (0, "search")
    bars = [run for run in e.runs if (run["arm"], run["phase"]) == (1, "bar")]
    assert len(bars) == len(e.runs) - 1 >= 2
    campaign = open_session().read_campaign()
    assert campaign.search.bars[campaign.champion["source"]].variance <= STRICT.most_variance + 0.01
    assert campaign.noise().df == 1 + len(bars)


def test_a_comment_is_no_new_source(calibrated, runs):
    commit("a comment", quality=1.0, more="# a comment\n'''and a docstring?'''[:0]\n"[:12])
    e = trials.decide_idea(open_session(), "a comment")
    assert e.role == "calibrate" and len(runs.jobs) == 5
    again = trials.decide_idea(open_session(), "a comment", again=True)
    assert again.n != e.n and again.verdict in ("out", "withdrawn", "keep")


@pytest.mark.parametrize(
    "status, verdict",
    [(s, s) for s in ("crash", "timeout", "overtime", "invalid")]
    + [(s, "crash") for s in ("memory", "output", "disk", "processes")],
)
def test_a_run_without_a_score_is_one_row(calibrated, runs, status, verdict):
    commit("breaks", more=f'STATUS = "{status}"')
    e = trials.decide_idea(open_session(), "breaks")
    assert e.verdict == verdict and status in e.reason and phases(e) == ["search"]
    assert problems() == []


def test_what_is_no_experiment_is_refused(calibrated, runs):
    commit("two files", quality=1.1, README_md="other words", notes_txt="x")
    with pytest.raises(Refused, match=r"changes README\.md, notes\.txt: an experiment may"):
        trials.decide_idea(open_session(), "two files")
    with open("train.py", "a", encoding="utf-8") as file:
        file.write("# not committed\n")
    with pytest.raises(
        Refused, match=r"train\.py changed since the last commit: commit that first"
    ):
        trials.decide_idea(open_session(), "dirty")
    assert (calibrated / "train.py").read_text(encoding="utf-8").endswith("# not committed\n")
    assert len(runs.jobs) == 5


def test_a_large_source_is_refused(calibrated):
    commit("data in the source", more="DATA = '" + "x" * SOURCE_BYTES + "'")
    with pytest.raises(Refused, match="no data in it"):
        trials.decide_idea(open_session(), "data in the source")


def test_without_a_baseline_or_with_another_judge_nothing_is_tried(repository, runs, monkeypatch):
    with pytest.raises(Refused, match="calibrate"):
        trials.decide_idea(open_session(), "too early")
    verbs.calibrate(open_session(arena="tiny"), 2)
    commit("better", quality=1.1)
    change_sealed_files(monkeypatch, "prepare.py")
    with pytest.raises(Refused, match=r"^prepare\.py has changed since .*undo that, or begin anew"):
        trials.decide_idea(open_session(), "another judge")


def change_sealed_files(monkeypatch, *names):
    """Let the next commands find other hashes of these files."""
    now = seal.sealed_files() | dict.fromkeys(names, "changed")
    monkeypatch.setattr("ratchet.experiments.seal.sealed_files", lambda: now)


def test_verify_says_which_sealed_files_changed(calibrated, monkeypatch):
    assert json.loads(invoke("verify", "--json").stdout)["seal"] == ""
    change_sealed_files(monkeypatch, "prepare.py", "ratchet/referee/limits.py")
    shown = invoke("verify")
    assert shown.exit_code == 0 and " 0 problems" in shown.stdout
    words = (
        "note: prepare.py and ratchet/referee/limits.py have changed since the calibration: undo"
    )
    assert words in shown.stdout
    many = [name for name in seal.sealed_files() if name.startswith("ratchet/arena/")]
    change_sealed_files(monkeypatch, *many)
    assert f" and {len(many) - 2} more have changed" in invoke("verify").stdout


def test_a_night_of_an_older_ratchet_is_told_to_calibrate_anew(calibrated, runs):
    """Its ledger has the hash of what judged, but not of each file; a kill has ended the night."""
    subprocess.run(["git", "update-ref", "-d", "refs/ratchet/champion"], check=True)

    def make_old(row):
        if row["kind"] == "opens":
            row["machinery"] = "49d1da6ef4f3a70e"
            row.pop("sealed")

    rewrite(calibrated / "ledger.jsonl", make_old)
    begins = {"kind": "begins", "agent": "tuner", "limits": {}, "baseline": 1}
    line = json.dumps(begins | {"time": "2026-01-31T00:00:00Z"})
    (calibrated / "runs/night.jsonl").write_text(line + "\n", encoding="utf-8")
    said = invoke("night", "--agent", "tuner", "--experiments", 1)
    older = "the calibration is of an older Ratchet, which judged in its own way: begin anew with"
    assert said.exit_code == 2 and len(runs.jobs) == 5
    assert f"ratchet: {older} `uv run ratchet calibrate`." in said.stderr
    assert f"note: {older}" in invoke("verify").stdout and problems() == []
    assert invoke("calibrate", "--arena", "tiny", "-n", 2).exit_code == 0
    assert open_session().read_campaign().kept[0].n == 2


@pytest.mark.parametrize("stop", range(2 + STRICT.runs))
def test_what_is_interrupted_goes_on(calibrated, runs, stop):
    """In its search as in its trial."""
    commit("better", quality=1.0 + 5 * SIGMA)
    runs.stop_at = 5 + stop
    with pytest.raises(KeyboardInterrupt):
        trials.decide_idea(open_session(), "better")
    *_, last = open_session().experiments()
    assert not last.closes and last.role == ("trial" if stop else "try")
    e = trials.decide_idea(open_session(), "better")
    assert e.n == 2 and e.verdict == "keep" and trial_of(e).n == 3
    assert len(runs.jobs) == 5 + len(e.runs) + len(trial_of(e).runs)
    assert len(open_session().experiments()) == 3 and problems() == []


def test_a_shared_device_does_not_decide(calibrated, runs):
    commit("better", quality=1.0 + 5 * SIGMA)
    runs.shared = 2
    e = trials.decide_idea(open_session(), "better")
    assert e.verdict == "keep" and [run["shared"] for run in e.runs[:3]] == [True, True, False]
    assert len(e.scores(0)) == 1
    commit("better still", quality=1.0 + 10 * SIGMA)
    runs.shared = 99
    with pytest.raises(Refused, match=r"used 40% of the CPU.*--busy"):
        trials.decide_idea(open_session(), "better still")


def test_busy_runs_are_held_against_busy_ones(calibrated, runs):
    """A candidate that others slow down would lose against a champion that nobody did."""
    commit("better", quality=1.0 + 10 * SIGMA)
    runs.shared = 99
    with pytest.raises(Refused, match=r"measured without --busy.*calibrate --busy"):
        trials.decide_idea(open_session(busy=True), "better")
    subprocess.run(["git", "checkout", "-q", "HEAD~1"], check=True)
    verbs.calibrate(open_session(arena="tiny", budget="5s", busy=True), 5)
    subprocess.run(["git", "checkout", "-q", "main"], check=True)
    assert trials.decide_idea(open_session(busy=True), "better").verdict == "keep"


def test_the_champion_itself_was_tried_whatever_its_commit_changed(repository, runs):
    commit("more", quality=1.0, README_md="other words\n")
    calibration = verbs.calibrate(open_session(arena="tiny", budget="5s"), 5)
    assert trials.decide_idea(open_session(), "nothing").n == calibration.n


def test_a_disturbed_run_decides_nothing_however_it_ended(calibrated, runs, monkeypatch):
    late = []

    def disturbs(job):
        late.append(job.source.commit)
        bad = len(late) == 1
        return runs(job) | ({"status": "overtime", "reason": "late", "shared": True} if bad else {})

    monkeypatch.setattr("ratchet.referee.trial.run_trial", disturbs)
    commit("better", quality=1.0 + 5 * SIGMA)
    e = trials.decide_idea(open_session(), "better")
    assert e.verdict == "keep" and e.runs[0]["status"] == "overtime" and problems() == []
    assert e.runs[0]["seed"] == e.runs[1]["seed"]


def test_budgets_do_not_mix(calibrated, runs):
    verbs.calibrate(open_session(arena="tiny", budget="9s"), 2)
    commit("better", quality=1.0 + 6 * SIGMA)
    e = trials.decide_idea(open_session(), "better")
    assert e.budget == "9s" and {run["budget"] for run in e.runs} == {"9s"}
    assert open_session().read_campaign().noise(before=e.line).df == 1


def test_a_frame_that_a_budget_cannot_hold_is_refused(repository, runs):
    for frame, budget in ("flops", "20e6tok"), ("tokens", "1e15flop"):
        session = open_session(arena="tiny", budget=budget)
        with pytest.raises(Refused, match=f"--frame {frame} can't be held by a budget of {budget}"):
            comparisons.compare(session, ["HEAD", "train.py"], 2, frame)
    assert not runs.jobs and not open_session(arena="tiny").experiments()


@pytest.mark.parametrize("missing, frame", [("tokens", "tokens"), ("flops_per_token", "flops")])
def test_a_first_source_that_tells_no_amount_is_refused(
    repository, runs, monkeypatch, missing, frame
):
    monkeypatch.setattr("ratchet.referee.trial.run_trial", lambda job: runs(job) | {missing: 0})
    session = open_session(arena="tiny", budget="20s")
    with pytest.raises(Refused, match=f"does not say how many {frame} it has used"):
        comparisons.compare(session, ["HEAD", "train.py"], 2, frame)


@pytest.mark.parametrize(
    "run, words",
    [
        ({"foreign_cpu": 0.23, "foreign_gpu": 0}, "other programs used 23% of the CPU"),
        ({"foreign_cpu": 0.02, "foreign_gpu": 2}, "other programs used the GPU (processes: 2)"),
    ],
)
def test_what_disturbed_a_run_is_named(run, words):
    assert describe_disturbance(run) == words


def test_a_ref_that_stayed_behind_is_put_right(calibrated):
    """As after a kill between a verdict and what follows from it."""
    old = head("HEAD")
    commit("better", quality=1.0 + 6 * SIGMA)
    assert trials.decide_idea(open_session(), "better").verdict == "keep"
    new = head("refs/ratchet/champion")
    commits.git("update-ref", "refs/ratchet/champion", old)
    open_session()
    assert head("refs/ratchet/champion") == new != old


@pytest.mark.parametrize(
    "frame, budget", [("time", "20s"), ("tokens", "12345tok"), ("flops", "1.23450e06flop")]
)
def test_a_comparison_runs_in_turns_with_the_same_seeds(repository, runs, frame, budget):
    first = head("HEAD")
    second = commit("better", quality=1.0 + 10 * SIGMA)
    e = comparisons.compare(
        open_session(arena="tiny", budget="20s"), [first[:9], second, "train.py"], 3, frame
    )
    compared = [run for run in e.runs if run["phase"] == "compare"]
    assert {run["budget"] for run in compared} == {budget}
    assert [run["arm"] for run in compared] == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert [len({run["seed"] for run in compared[i : i + 3]}) for i in (0, 3, 6)] == [1, 1, 1]
    (_, nothing), (_, better), (_, same) = comparisons.compare_with_first(e)
    assert nothing is None and better.low > 0 and abs(better.gain - same.gain) < 4 * SIGMA


def test_a_comparison_changes_no_champion(calibrated, runs):
    before = champion()
    commit("better", quality=1.0 + 10 * SIGMA)
    comparisons.compare(open_session(arena="tiny", budget="5s"), ["HEAD~1", "HEAD"], 2)
    assert champion() == before == open_session().read_campaign().champion["commit"]


def rewrite(path, change):
    """Change rows of a ledger and make its chain whole again, as someone with patience would."""
    rows, before, lines = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()],
        "",
        [],
    )
    for row in rows:
        change(row)
        line = json.dumps(row | {"before": before}).encode()
        lines, before = [*lines, line], sha256(line)
    path.write_bytes(b"\n".join(lines) + b"\n")


def lying(row):
    if row.get("verdict") == "out":
        row["verdict"] = "keep"


def test_verify_says_by_which_probes_scores_were_made(calibrated, runs):
    """The rows of an older ledger name no version: it was the first. Their scores stay."""
    assert json.loads(invoke("verify", "--json").stdout)["probes"] == {"1": 5}
    runs.of_split |= {"probes_version": PROBES_VERSION, "charged_nats": 0.0}
    commit("worse", quality=1.0 - 10 * SIGMA)
    trials.decide_idea(open_session(), "worse")
    line = f"scored by probes of version 1: 5 runs, of version {PROBES_VERSION} (that of now): "
    assert f"{line}{len(runs.jobs) - 5} run" in invoke("verify").stdout and problems() == []


def test_what_a_run_is_charged_counts_in_its_score():
    """A row from before there was a charge has none."""
    part = {"nats": 1000.0, "bytes": 500}
    assert ledger.bpb({"val": part}) == pytest.approx(2 / np.log(2))
    assert ledger.bpb({"val": part | {"charged_nats": 250.0}}) == pytest.approx(2.5 / np.log(2))


def test_verify_finds_an_edited_verdict_in_a_whole_chain(calibrated, runs):
    commit("worse", quality=1.0 - 10 * SIGMA)
    trials.decide_idea(open_session(), "worse")
    assert problems() == []
    rewrite(calibrated / "ledger.jsonl", lying)
    assert any("the verdict is keep, its runs say out" in what for what in problems())


def test_verify_finds_a_lost_commit_and_a_lost_end(calibrated, runs):
    commit("worse", quality=1.0 - 10 * SIGMA)
    trials.decide_idea(open_session(), "worse")
    lines = (calibrated / "ledger.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (calibrated / "ledger.jsonl").write_text("".join(lines[:7]), encoding="utf-8")
    assert problems() == ["refs/ratchet/2 has no line in the ledger: its end was cut off"]
    rewrite(
        calibrated / "ledger.jsonl",
        lambda row: [arm.update(commit="f" * 40) for arm in row.get("arms", [])],
    )
    assert "experiment 1: commit fffffff is gone" in problems()


def invoke(*words):
    __main__.console.width = 120
    return CliRunner().invoke(__main__.app, [*map(str, words)])


def test_the_command_line_speaks_json(calibrated, runs):
    commit("better", quality=1.0 + 6 * SIGMA)
    e = json.loads(invoke("try", "better", "--json").stdout)
    assert e["verdict"] == "keep" and e["opens"]["idea"] == "better"
    assert [row["verdict"] for row in json.loads(invoke("log", "--json").stdout)] == [
        "baseline",
        "keep",
        "keep",
    ]
    assert json.loads(invoke("show", 2, "--json").stdout)["scores"][0]
    assert json.loads(invoke("verify", "--json").stdout)["problems"] == []
    arms = json.loads(
        invoke("compare", "HEAD~1", "HEAD", "-n", 2, "--arena", "tiny", "--json").stdout
    )["arms"]
    assert arms[1]["gain"] > 0 and arms[1]["low"] < arms[1]["gain"] < arms[1]["high"]
    assert {*json.loads(invoke("audit", "-n", 2, "--json").stdout)} == {"n", "val", "test"}


def test_the_command_line_speaks_to_people(calibrated, runs):
    assert (
        "begin" not in invoke("log").stdout
        and "by nobody" in invoke("log", "--by", "nobody").stdout
    )
    assert "changed nothing" in invoke("diff", 1).stdout
    commit("better", quality=1.0 + 6 * SIGMA)
    said = invoke("try", "[bold]better[/]").stdout
    assert re.search(r"keep.*gain 0\.\d+ ± 0\.\d+ bpb", said.replace("\n", " "))
    assert "[bold]better[/]" in invoke("log").stdout and "sigma" in invoke("show", 1).stdout
    assert "+QUALITY = 1.06" in invoke("diff", 2).stdout
    assert "0 problems, head" in invoke("verify").stdout
    assert "champions █▁" in invoke("log", "-n", 1).stdout  # of all, though one experiment is shown


def test_the_log_tells_gains_and_all_of_an_idea_at_any_width(calibrated, runs, monkeypatch):
    idea = "a-knob-with-a-long-name 0.85 -> 0.953"
    commit("better", quality=1.0 + 6 * SIGMA)
    invoke("try", idea)
    invoke("audit", "-n", 2)
    for width in (60, 80, 140):
        monkeypatch.setattr(__main__.console, "_width", width)
        said = CliRunner().invoke(__main__.app, ["log"]).stdout
        lines = said.splitlines()
        column = lines[0].index("idea")
        told = "".join(line[column:].strip() for line in lines[: [*said].count("\n") + 1])
        assert idea.replace(" ", "") in told.replace(" ", "") and max(map(len, lines[:4])) <= width
        assert re.search(r"\+0\.\d{4} ± 0\.\d{4}", said)
        assert ("what" in lines[0]) == (width > 100)
        assert "2champions,2seeds" in told.replace(" ", "")
    assert "1 of 4 experiments: -n 4 shows all" in invoke("log", "-n", 1).stdout


def test_show_has_what_an_audit_found_and_what_was_disturbed(calibrated, runs):
    commit("better", quality=1.0 + 6 * SIGMA)
    runs.shared = 1
    invoke("try", "better")
    invoke("audit", "-n", 4)
    said = invoke("show", 4).stdout
    assert "val bits per byte" in said and "test bits per byte" in said and said.count("yes") == 2
    assert "its role is audit" in invoke("diff", 4).stdout and "disturbed" not in said
    assert "disturbed by other programs" in invoke("show", 2).stdout
    row = report_data.collect_data(ledger.Ledger(calibrated), calibrated)["campaigns"][0][
        "experiments"
    ][1]
    assert row["disturbed"] == 1 and row["runs"] > len(row["seeds"])


def test_a_second_calibration_says_whose_place_it_takes_and_the_log_tells_both_stories(
    calibrated, runs
):
    commit("better", quality=1.0 + 6 * SIGMA)
    invoke("try", "better")
    assert (
        "instead of" not in invoke("calibrate", "--arena", "tiny", "-n", 3).stderr
    )  # its own source
    commit("another", quality=1.0 + 3 * SIGMA)
    said = invoke("calibrate", "--arena", "tiny", "-n", 3, "--yes").stderr
    assert "instead of experiment 4's" in said
    commit("better yet", quality=1.0 + 12 * SIGMA)
    invoke("try", "better yet")
    assert invoke("log").stdout.count("champions █▁") == 2


def test_noise_that_outgrows_its_calibration_is_told(calibrated, runs, monkeypatch):
    assert (
        open_session().read_campaign().noise_warning == ""
        and "has grown" not in invoke("log").stdout
    )
    commit("shaky", quality=1.0 + 6 * SIGMA)
    invoke("try", "shaky")
    found = Campaign.noise
    grown = lambda self, **when: found(self, **when) if when else Noise(9 * SIGMA, 40)  # noqa: E731
    monkeypatch.setattr(Campaign, "noise", grown)
    assert f"to {9 * SIGMA:.4f} bpb since" in open_session().read_campaign().noise_warning
    assert "sigma has grown" in invoke("log").stdout
    data = report_data.collect_data(ledger.Ledger(calibrated), calibrated)
    assert any("has grown" in text for text in data["campaigns"][0]["warnings"])


def test_a_calibration_that_breaks_leaves_no_baseline_and_says_so(repository, runs):
    commit("breaks", more='STATUS = "overtime"')
    said = invoke("calibrate", "--arena", "tiny")
    assert said.exit_code == 1 and "overtime" in said.stdout and "no baseline" in said.stderr


def test_ctrl_c_is_a_sentence_and_the_same_command_goes_on(repository, runs):
    runs.stop_at = 1
    said = invoke("calibrate", "--arena", "tiny", "-n", 3)
    assert (
        said.exit_code == 130 and "the same command goes on" in said.stderr and len(runs.jobs) == 1
    )
    assert "unfinished" in invoke("log").stdout
    assert invoke("calibrate", "--arena", "tiny", "-n", 3).exit_code == 0 and len(runs.jobs) == 3


def test_a_users_mistake_is_one_sentence(repository, monkeypatch, capsys):
    mistakes = (
        "show 7",
        "try x",
        "compare HEAD nothing",
        "calibrate -n 1",
        "calibrate --budget soon",
    )
    for words in [*mistakes, "compare HEAD HEAD --frame lines", "doctor --device tpu"]:
        words = words.split()
        monkeypatch.setattr("sys.argv", ["ratchet", *words])
        with pytest.raises(SystemExit) as end:
            __main__.main()
        told = capsys.readouterr().err
        assert end.value.code == 2 and told.startswith("ratchet: ") and told.count("\n") == 1, told


def test_two_devices_measure_an_idea_on_the_champion_it_began_with(calibrated, runs):
    """While the first one is in its search, the second one, which edits the same line, is kept."""
    base = champion()
    first, second = (
        commits.commit_text([base], f"QUALITY = {quality}\n\n".encode(), "idea")
        for quality in (1.1, 1.2)
    )
    session, kept = open_session(), []

    def meanwhile(job, tell):
        if not kept:
            kept.append(None)
            kept[:] = [trials.decide_idea(open_session(), "the second", name=second)]
        return runs(job)

    session.slot.run = meanwhile
    e = verbs.try_idea(session, "the first", first)
    assert kept[0].verdict == "keep" and champion() == second
    assert e.verdict == "hit" and e.parent == base and e.line < kept[0].line
    decided = []
    trials.try_hits(session, STRICT, on_verdict=decided.append)
    (late,) = decided
    assert late.n == e.n and late.verdict == "withdrawn" and late.closes["collides"]
    assert "collides with the champion's" in late.reason and problems() == []


def test_a_champions_run_that_fails_is_made_again(repository, runs, monkeypatch):
    verbs.calibrate(open_session(arena="tiny", budget="5s"), 2)  # more of its runs are needed
    calls, times, own = [], 1, champion()

    def fails(job):
        calls.append(job.source.commit)
        facts = runs(job)
        bad = job.source.commit == own and calls.count(own) <= times
        return facts | {"status": "memory", "reason": "full"} if bad else facts

    monkeypatch.setattr("ratchet.referee.trial.run_trial", fails)
    commit("worse", quality=0.5)
    e = trials.decide_idea(open_session(), "worse")
    ends = [run["status"] for run in e.runs]
    assert e.verdict == "out" and ends.count("memory") == 1 and problems() == []
    verbs.calibrate(open_session(arena="tiny", budget="9s"), 2)
    times, own, calls[:] = 99, champion(), []
    commit("worse still", quality=0.4)
    with pytest.raises(Refused, match="3 times"):
        trials.decide_idea(open_session(), "worse still")
    assert calls.count(own) == 3


def test_what_a_kill_left_undone_after_a_verdict_is_done(calibrated, runs):
    old, better = champion(), commit("better", quality=1.1)
    trials.decide_idea(open_session(), "better")
    commits.git("update-ref", "refs/ratchet/champion", old)
    assert trials.decide_idea(open_session(), "better").verdict == "keep" and champion() == better


def test_an_idea_is_out_when_its_first_run_is_stopped_half_way(calibrated, runs):
    for e in open_session().experiments():
        for number, run in enumerate(e.runs):
            (folder := calibrated / run["folder"]).mkdir(parents=True)
            lines = [
                {"seconds": i / 20, "tokens": 0, "loss": 4 - i / 99 + number / 100}
                for i in range(100)
            ]
            (folder / "curve.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
            )
    commit("far behind", quality=0.5, more='STATUS = "stopped"')
    e = trials.decide_idea(open_session(), "far behind")
    assert e.verdict == "out" and "it was stopped" in e.reason and problems() == []
    assert runs.jobs[-1].milestones and not runs.jobs[0].milestones
    commit("tried without", quality=0.5)
    trials.decide_idea(open_session(half_stop=False), "not stopped")
    assert not runs.jobs[-1].milestones


def test_only_the_first_run_of_a_search_may_be_stopped(calibrated, runs):
    session = open_session()
    commit("better", quality=1.1)
    e = trials.decide_idea(session, "better")
    assert phases(e)[0] == "search" and len(e.scores(0)) == 1
    for phase in ("search", "bar", "trial"):
        assert session.make_job(e, 0, phase, runs.jobs[-1].source).milestones == ()


def test_a_kept_champion_is_not_replaced_without_a_yes(calibrated, runs, monkeypatch, capsys):
    better = commit("better", quality=1.0 + 6 * SIGMA)
    trials.decide_idea(open_session(), "better")
    commit("another", quality=1.0 + 3 * SIGMA)
    lines = (calibrated / "ledger.jsonl").read_bytes()
    monkeypatch.setattr("sys.argv", ["ratchet", "calibrate", "--arena", "tiny"])
    with pytest.raises(SystemExit) as end:
        __main__.main()
    said = capsys.readouterr().err
    assert (
        end.value.code == 2
        and "experiment 3's, which was kept" in said
        and "again with --yes" in said
    )
    assert (calibrated / "ledger.jsonl").read_bytes() == lines and champion() == better
    said = invoke("calibrate", "--arena", "tiny", "--yes")
    assert said.exit_code == 0 and champion() == head("HEAD") and "Go on?" not in said.stderr


@pytest.mark.parametrize(
    "answer, goes_on", [("y\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_in_a_terminal_the_question_is_on_stderr_and_no_is_its_default(
    calibrated, runs, monkeypatch, answer, goes_on
):
    commit("better", quality=1.0 + 6 * SIGMA)
    trials.decide_idea(open_session(), "better")
    commit("another", quality=1.0 + 3 * SIGMA)
    monkeypatch.setattr("ratchet.terminal.is_interactive", lambda: True)
    words = ["calibrate", "--arena", "tiny", "-n", "3", "--json"]
    said = CliRunner().invoke(__main__.app, words, input=answer)
    assert "instead of experiment 3's" in said.stderr and "Go on? [y/N]" in said.stderr
    assert "Go on?" not in said.stdout and (said.exit_code == 0) == goes_on
    assert (champion() == head("HEAD")) == goes_on
    assert goes_on or "experiment 3 stays the champion" in said.stderr


def test_nothing_is_asked_when_no_kept_champion_gives_way(calibrated, runs):
    asked = []

    def refuse(question):
        asked.append(question)
        return False

    commit("another baseline", quality=0.9)  # the champion is the baseline
    verbs.calibrate(open_session(arena="tiny"), 2, refuse)
    commit("better", quality=1.0 + 6 * SIGMA)
    assert trials.decide_idea(open_session(), "better").verdict == "keep"
    verbs.calibrate(open_session(arena="tiny"), 2, refuse)  # of the champion itself
    assert not asked


def test_a_calibration_that_was_agreed_to_goes_on_without_another_question(calibrated, runs):
    commit("better", quality=1.0 + 6 * SIGMA)
    trials.decide_idea(open_session(), "better")
    commit("another", quality=1.0 + 3 * SIGMA)
    asked = []
    for stop in (1, 1, None):
        runs.stop_at = stop and len(runs.jobs) + stop
        try:
            verdict = verbs.calibrate(
                open_session(arena="tiny"), 4, lambda q: not asked.append(q)
            ).verdict
        except KeyboardInterrupt:
            verdict = ""
    assert verdict == "baseline" and len(asked) == 1
    commit("better again", quality=1.0 + 12 * SIGMA)
    assert trials.decide_idea(open_session(), "better").verdict == "keep"
    commit("and another", quality=1.0)
    verbs.calibrate(open_session(arena="tiny"), 2, lambda q: not asked.append(q))
    assert len(asked) == 2


def test_what_was_tried_while_a_calibration_waited_belongs_to_the_one_before(calibrated, runs):
    """It was interrupted, another source was kept meanwhile, then it went on."""
    runs.stop_at = len(runs.jobs) + 1
    with pytest.raises(KeyboardInterrupt):
        verbs.calibrate(open_session(arena="tiny", budget="5s"), 3)
    base = head("HEAD")
    commit("better", quality=1.0 + 9 * SIGMA)
    assert trials.decide_idea(open_session(), "better").verdict == "keep"
    subprocess.run(["git", "checkout", "-q", base], check=True)
    assert verbs.calibrate(open_session(arena="tiny", budget="5s"), 3).n == 2
    campaigns = list_campaigns(open_session().experiments())
    assert [[e.n for e in campaign.since] for campaign in campaigns] == [[1, 3, 4], [2]]
    assert open_session().read_campaign().champion["commit"] == base and problems() == []
    subprocess.run(["git", "checkout", "-q", "main"], check=True)
    again = trials.decide_idea(open_session(), "better")
    assert again.n == 5 and again.verdict == "keep" and problems() == []


def test_the_log_tells_what_runs_from_what_was_left(calibrated, runs, monkeypatch):
    commit("better", quality=1.0 + 6 * SIGMA)
    quick, seen = trial.run_trial, []

    def looks(job):
        seen.append([invoke(*words.split()).stdout for words in ("log", "show 2", "log --json")])
        seen[-1].append(
            report_data.collect_data(ledger.Ledger(calibrated), calibrated)["campaigns"][0]
        )
        return quick(job)

    monkeypatch.setattr("ratchet.referee.trial.run_trial", looks)
    runs.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        trials.decide_idea(open_session(), "better")
    states = [[e["state"] for e in json.loads(as_json)] for _, _, as_json, _ in seen]
    assert states == [["baseline", "running"]] + [["baseline", "hit", "running"]] * 2
    for log, _, _, page in seen:
        assert "running" in log and "unfinished" not in log
        assert page["experiments"][-1]["verdict"] == "running"
    assert "experiment 2: running" in seen[0][1] and "experiment 2: hit" in seen[1][1]
    left = json.loads(invoke("log", "--json").stdout)[-1]["state"]
    assert left in ("open", "unfinished") and left in invoke("log").stdout
    assert f"experiment 3: {left}" in invoke("show", 3).stdout


def test_a_killed_process_leaves_an_experiment_unfinished(tmp_path):
    code = "import sys, time; from pathlib import Path; from ratchet.experiments import running\n"
    code += "with running.working_on(Path(sys.argv[1]), 3): print(flush=True); time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    worker.stdout.readline()
    assert running.is_running(tmp_path, 3) and not running.is_running(tmp_path, 4)
    assert running.all_running(tmp_path) == [3]
    worker.kill()
    worker.communicate()
    assert running.mark_of(tmp_path, 3).exists() and not running.is_running(tmp_path, 3)
    with running.working_on(tmp_path, 3), running.working_on(tmp_path, 5):
        assert running.all_running(tmp_path) == [3, 5]
    assert running.all_running(tmp_path) == []


def test_a_run_says_which_of_how_many_it_is_and_how_long_the_rest_takes(
    repository, runs, monkeypatch
):
    quick, told = trial.run_trial, []
    monkeypatch.setattr(
        "ratchet.referee.trial.run_trial",
        lambda job: quick(job) | {"seconds": {"start": 40, "train": 300}},
    )

    def lines(verb, *args, **options):
        told.clear()
        verb(open_session(arena="tiny", budget="300s", tell=told.append), *args, **options)
        begun = [re.match(r"experiment \d+, (.*?):", line) for line in told]
        return [match[1] for match in begun if match]

    assert lines(verbs.calibrate, 3) == [
        "run 1 of 3",
        "run 2 of 3, about 11 min left",
        "run 3 of 3, about 6 min left",
    ]
    commit("better", quality=1.0 + 9 * SIGMA)
    said = lines(trials.decide_idea, "better")
    first = next(i for i, line in enumerate(said) if " of " in line)
    assert said[:first] == [f"run {n}, about 6 min a run" for n in range(1, first + 1)]
    count = len(said) - first  # of the trial's runs
    assert said[-1] == f"run {count} of {count}, about 6 min left"
    assert lines(comparisons.audit, 2)[::3] == [
        "run 1 of 4, about 23 min left",
        "run 4 of 4, about 6 min left",
    ]
    assert lines(comparisons.compare, ["HEAD", "HEAD~1"], 20)[0] == "run 1 of 40, about 3.8 h left"
    assert lines(comparisons.compare, ["HEAD", "HEAD~1"], 2, "tokens")[:2] == [
        "run 1 of 5, about 28 min left",
        "run 2 of 5",
    ]


def test_a_detached_head_is_tried_like_any_other(calibrated, runs):
    subprocess.run(["git", "checkout", "-q", "--detach"], check=True)
    better = commit("better", quality=1.0 + 6 * SIGMA)
    assert trials.decide_idea(open_session(), "better").verdict == "keep" and champion() == better


def test_a_project_in_a_folder_of_a_repository_is_served(tmp_path, runs, monkeypatch, arena):
    folder = tmp_path / "monorepo/research/lm"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "monorepo")
    monkeypatch.setattr("ratchet.referee.devices.choice.list_devices", lambda: ["cpu"])
    for command in ("init -q -b main", "config user.email a@b.c", "config user.name somebody"):
        subprocess.run(["git", *command.split()], check=True)
    monkeypatch.chdir(folder)
    commit("the baseline")
    assert verbs.calibrate(open_session(arena="tiny", budget="5s"), 3).verdict == "baseline"
    commit("better", quality=1.0 + 6 * SIGMA)
    assert trials.decide_idea(open_session(), "better").verdict == "keep" and problems() == []
    assert (folder / "ledger.jsonl").exists() and not (tmp_path / "monorepo/ledger.jsonl").exists()
    assert "+QUALITY = 1.06" in invoke("diff", 2).stdout
    page = report_data.collect_data(ledger.Ledger(folder), folder)
    assert (
        "+QUALITY = 1.06" in page["campaigns"][0]["experiments"][1]["diff"]
        and page["problems"] == []
    )


@pytest.mark.parametrize(
    "words, seen",
    [
        ("log", b" ? 0."),
        ("show 24", b" ? 0."),
        pytest.param("report", b"report.html", marks=pytest.mark.slow),
    ],
)
def test_an_ascii_terminal_is_served(tmp_path, words, seen):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    shutil.copy(ROOT / "tests/experiments/former/ledger.jsonl", tmp_path)
    plain = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    command = [sys.executable, "-m", "ratchet", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | plain, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout.isascii()
    assert seen in done.stdout


def test_preparing_an_arena_says_what_takes_long(repository, tmp_path, monkeypatch):
    lines = (
        "preparing arena pocket in x",
        "tokenising: 3 documents",
        "arena pocket (y) is ready",
        "next: z",
    )
    (tmp_path / "prepare.py").write_text(
        "\n".join(f"print({line!r})" for line in lines), encoding="utf-8"
    )
    monkeypatch.setattr("ratchet.experiments.session.ROOT", tmp_path)
    said = []
    assert prepare_arena("pocket", said.append)
    assert said == ["  preparing arena pocket in x", "  tokenising: 3 documents"]


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("try", "missing argument 'idea': see `uv run ratchet try --help`"),
        ("night", "missing option '--agent': see `uv run ratchet night --help`"),
        ("shw 3", "no such command 'shw'; did you mean 'show': see `uv run ratchet --help`"),
        ("show x", "invalid value for 'N': .*: see `uv run ratchet show --help`"),
        ("log --frob", "no such option: --frob.*: see `uv run ratchet log --help`"),
        ("log -n", "option '-n' requires an argument: see `uv run ratchet --help`"),
    ],
)
def test_a_wrong_or_a_missing_word_is_refused_in_a_sentence(words, sentence, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ratchet", *words.split()])
    with pytest.raises(SystemExit) as end:
        __main__.main()
    said = capsys.readouterr()
    assert end.value.code == 2 and not said.out
    assert re.fullmatch(rf"ratchet: {sentence}\.\n", said.err), said.err


def test_long_work_tells_of_itself_in_a_pipe(monkeypatch, capsys):
    monkeypatch.setattr("ratchet.terminal.QUIET_SECONDS", 0.02)
    monkeypatch.setattr("ratchet.terminal.notes", terminal.Console(stderr=True, soft_wrap=True))
    with terminal.LiveLines() as tell:
        tell("experiment 1, run 1 of 5: calibrate")
        time.sleep(0.1)
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "experiment 1, run 1 of 5: calibrate"
    assert others and others[-1] == "  experiment 1, run 1 of 5: calibrate, 0 s so far"


def test_what_has_happened_is_told_once(monkeypatch, capsys):
    """No progress line says of a note that it goes on."""
    monkeypatch.setattr("ratchet.terminal.QUIET_SECONDS", 0.02)
    monkeypatch.setattr("ratchet.terminal.notes", terminal.Console(stderr=True, soft_wrap=True))
    with terminal.LiveLines() as tell:
        tell("  night: 1 of 3 experiments")
        time.sleep(0.1)
    assert capsys.readouterr().err == "  night: 1 of 3 experiments\n"
