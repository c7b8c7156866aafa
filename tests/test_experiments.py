"""Verbs, from calibration to audit, on a real repository; the runs are drawn from a normal distribution."""

import json
import re
import subprocess

import numpy as np
import pytest
from typer.testing import CliRunner

from ratchet import __main__, devices, experiments, ledger, referee, report, sources, verdicts, verify
from ratchet.campaign import Campaign
from ratchet.experiments import Bench
from ratchet.sources import Refused

SIGMA = 0.01


@pytest.fixture
def repository(tmp_path, monkeypatch, arena):
    """A repository with a train.py that says how good it is, in which Bench() works."""
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(devices, "here", lambda: ["cpu"])
    for command in ("init -q -b main", "config user.email a@b.c", "config user.name somebody"):
        subprocess.run(["git", *command.split()], check=True)
    (folder / "README.md").write_text("words\n")
    commit("the baseline", quality=1.0)
    return folder


def problems():
    return verify.find_problems(Bench().ledger)


def head(name):
    return sources.git_lines("rev-parse", name)[0]


def commit(subject, quality=1.0, more="", **files):
    """Commit a train.py of that quality, and other files."""
    with open("train.py", "w") as file:
        file.write(f"QUALITY = {quality}\n{more}\n")
    for name, text in files.items():
        with open(name.replace("_", "."), "w") as file:
            file.write(text)
    subprocess.run(["git", "add", "-A", "--", ":!ledger.jsonl", ":!runs"], check=True)
    subprocess.run(["git", "commit", "-qm", subject], check=True)
    return head("HEAD")


class Runs:
    """Stands in for referee.run: a score from the source and the seed; counts and remembers jobs."""

    def __init__(self):
        self.jobs, self.shared, self.stop_at, self.order = [], 0, None, np.random.default_rng(1)

    def __call__(self, job):
        if len(self.jobs) == self.stop_at:
            self.stop_at = None
            raise KeyboardInterrupt
        self.jobs.append(job)
        text = job.source.text.decode()
        status = (re.findall('STATUS = "(.*)"', text) or ["ok"])[0]
        bpb = 2 - float(re.findall("QUALITY = (.*)", text)[0]) + SIGMA * self.order.normal()
        facts = devices.describe(job.device) | job.source.facts()
        facts |= {"seed": job.seed, "budget": job.budget, "status": status, "reason": f"it was {status}"}
        facts |= {"shared": self.shared > 0, "foreign_cpu": 0.4, "isolation": "none", "tail": ["last words"]}
        facts |= {"tokens": 12345, "flops_per_token": 100.0, "seconds": {"train": 1.0}}
        facts |= {"params": 3000, "lookup": 1000, "peak_memory_mb": 512, "steps": 10, "mfu_percent": 5.0}
        self.shared -= 1
        if status == "ok":
            for split in job.splits:
                facts[split] = {"nats": bpb * np.log(2) * 1000, "bytes": 1000, "probes": {}}
        return facts


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.setattr(referee, "run", Runs())
    return referee.run


@pytest.fixture
def calibrated(repository, runs):
    assert experiments.calibrate(Bench(arena="tiny", budget="5s"), 5).verdict == "baseline"
    return repository


def champion():
    return head("refs/ratchet/champion")


def test_calibration_makes_head_the_champion(calibrated, runs):
    assert champion() == head("HEAD")
    noise = Bench().campaign().noise()
    assert noise.df == 4 and 0.3 * SIGMA < noise.sigma < 2 * SIGMA
    assert len({job.seed for job in runs.jobs}) == 5 and all(job.is_baseline for job in runs.jobs)


def test_a_real_gain_is_kept_and_is_what_the_next_must_beat(calibrated, runs):
    better = commit("better", quality=1.0 + 5 * SIGMA)
    e = experiments.attempt(Bench(), "a better one")
    assert e.verdict == "keep" and champion() == better
    assert head(f"refs/ratchet/{e.n}") == better
    phases = [run["phase"] for run in e.runs]
    assert phases[:3] == ["screen", "confirm", "champion"]
    assert len({run["seed"] for run in e.runs}) == len(e.runs)
    commit("back to the old one", quality=1.0, more="x = 1")
    assert experiments.attempt(Bench(), "worse than the new one").verdict == "discard"
    assert problems() == []


def test_a_harmful_change_costs_one_run(calibrated, runs):
    losing = commit("worse", quality=1.0 - 10 * SIGMA)
    e = experiments.attempt(Bench(), "a worse one")
    assert e.verdict == "discard" and len(e.runs) == 1 and "first seed" in e.closes["reason"]
    assert head(f"refs/ratchet/{e.n}") == losing != champion()


def test_a_comment_is_no_new_source(calibrated, runs):
    commit("a comment", quality=1.0, more="# a comment\n'''and a docstring?'''[:0]\n"[:12])
    e = experiments.attempt(Bench(), "a comment")
    assert e.role == "calibrate" and len(runs.jobs) == 5
    again = experiments.attempt(Bench(), "a comment", again=True)
    assert again.n != e.n and again.verdict in ("discard", "undecided")


@pytest.mark.parametrize("status, verdict", [(s, s) for s in ("crash", "timeout", "overtime", "invalid")]
                         + [(s, "crash") for s in ("memory", "output", "disk", "processes")])  # fmt: skip
def test_a_run_without_a_score_is_one_row(calibrated, runs, status, verdict):
    commit("breaks", more=f'STATUS = "{status}"')
    e = experiments.attempt(Bench(), "breaks")
    assert e.verdict == verdict and status in e.closes["reason"] and len(e.runs) == 1
    assert problems() == []


def test_what_is_no_experiment_is_refused(calibrated, runs):
    commit("two files", quality=1.1, README_md="other words", notes_txt="x")
    with pytest.raises(Refused, match=r"changes README\.md, notes\.txt: an experiment may"):
        experiments.attempt(Bench(), "two files")
    with open("train.py", "a") as file:
        file.write("# not committed\n")
    with pytest.raises(Refused, match=r"train\.py changed since the last commit: commit that first"):
        experiments.attempt(Bench(), "dirty")
    assert (calibrated / "train.py").read_text().endswith("# not committed\n")
    assert len(runs.jobs) == 5


def test_a_large_source_is_refused(calibrated):
    commit("data in the source", more="DATA = '" + "x" * sources.SOURCE_BYTES + "'")
    with pytest.raises(Refused, match="no data in it"):
        experiments.attempt(Bench(), "data in the source")


def test_without_a_baseline_or_with_another_judge_nothing_is_tried(repository, runs, monkeypatch):
    with pytest.raises(Refused, match="calibrate"):
        experiments.attempt(Bench(), "too early")
    experiments.calibrate(Bench(arena="tiny"), 2)
    commit("better", quality=1.1)
    monkeypatch.setattr(sources, "machinery", lambda: "other")
    with pytest.raises(Refused, match=r"prepare\.py or ratchet/ has changed"):
        experiments.attempt(Bench(), "another judge")


@pytest.mark.parametrize("stop", range(6))
def test_what_is_interrupted_goes_on(calibrated, runs, stop):
    commit("better", quality=1.0 + 5 * SIGMA)
    runs.stop_at = 5 + stop
    try:
        first = experiments.attempt(Bench(), "better")
    except KeyboardInterrupt:
        first = Bench().experiments()[-1]
        assert not first.closes and len(first.runs) == stop
    e = experiments.attempt(Bench(), "better")
    assert e.n == first.n and e.verdict == "keep" and len(runs.jobs) == 5 + len(e.runs)
    assert problems() == []


def test_a_shared_device_does_not_decide(calibrated, runs):
    commit("better", quality=1.0 + 5 * SIGMA)
    runs.shared = 2
    e = experiments.attempt(Bench(), "better")
    assert e.verdict == "keep" and [run["shared"] for run in e.runs[:3]] == [True, True, False]
    assert len(e.scores(0, "screen")) == 1
    commit("better still", quality=1.0 + 10 * SIGMA)
    runs.shared = 99
    with pytest.raises(Refused, match=r"40% of its CPU.*--busy"):
        experiments.attempt(Bench(), "better still")
    assert experiments.attempt(Bench(busy=True), "better still").verdict == "keep"


def test_a_disturbed_run_decides_nothing_however_it_ended(calibrated, runs, monkeypatch):
    late = []

    def disturbs(job):
        late.append(job.source.commit)
        bad = len(late) == 1
        return runs(job) | ({"status": "overtime", "reason": "late", "shared": True} if bad else {})

    monkeypatch.setattr(referee, "run", disturbs)
    commit("better", quality=1.0 + 5 * SIGMA)
    e = experiments.attempt(Bench(), "better")
    assert e.verdict == "keep" and e.runs[0]["status"] == "overtime" and problems() == []
    assert e.runs[0]["seed"] == e.runs[1]["seed"]


def test_budgets_do_not_mix(calibrated, runs):
    experiments.calibrate(Bench(arena="tiny", budget="9s"), 2)
    commit("better", quality=1.0 + 6 * SIGMA)
    e = experiments.attempt(Bench(), "better")
    assert e.budget == "9s" and {run["budget"] for run in e.runs} == {"9s"}
    assert Bench().campaign().noise(before=e.line).df == 1


def test_quick_is_one_seed(calibrated, runs):
    commit("better", quality=1.0 + 8 * SIGMA)
    e = experiments.attempt(Bench(), "better", quick=True)
    assert e.verdict == "keep" and len(e.runs) == 1 and e.quick


@pytest.mark.parametrize(
    "frame, budget", [("time", "20s"), ("tokens", "12345tok"), ("flops", "1.23450e06flop")]
)
def test_a_comparison_runs_in_turns_with_the_same_seeds(repository, runs, frame, budget):
    first = head("HEAD")
    second = commit("better", quality=1.0 + 10 * SIGMA)
    e = experiments.compare(Bench(arena="tiny", budget="20s"), [first[:9], second, "train.py"], 3, frame)
    compared = [run for run in e.runs if run["phase"] == "compare"]
    assert {run["budget"] for run in compared} == {budget}
    assert [run["arm"] for run in compared] == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert [len({run["seed"] for run in compared[i : i + 3]}) for i in (0, 3, 6)] == [1, 1, 1]
    (_, nothing), (_, better), (_, same) = experiments.contrast(e)
    assert nothing is None and better.low > 0 and abs(better.gain - same.gain) < 4 * SIGMA


def test_a_comparison_changes_no_champion(calibrated, runs):
    before = champion()
    commit("better", quality=1.0 + 10 * SIGMA)
    experiments.compare(Bench(arena="tiny", budget="5s"), ["HEAD~1", "HEAD"], 2)
    assert champion() == before == Bench().campaign().champion["commit"]


def test_the_audit_scores_champions_on_test(calibrated, runs):
    commit("better", quality=1.0 + 6 * SIGMA)
    assert experiments.attempt(Bench(), "better").verdict == "keep"
    e = experiments.audit(Bench(), 2)
    assert all({"val", "test"} <= {*run} for run in e.runs) and len(e.runs) == 4
    assert experiments.contrast(e, "test")[1][1].gain > 0
    assert {job.splits for job in runs.jobs[:-4]} == {("val",)}


def rewrite(path, change):
    """Change rows of a ledger and make its chain whole again, as someone with patience would."""
    rows, before, lines = [json.loads(line) for line in path.read_text().splitlines()], "", []
    for row in rows:
        change(row)
        line = json.dumps(row | {"before": before}).encode()
        lines, before = [*lines, line], ledger.sha256(line)
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_a_champion_that_fails_in_the_audit_is_told(calibrated, runs, monkeypatch):
    commit("better", quality=1.1)
    experiments.attempt(Bench(), "better")
    calls = []

    def fails(job):
        calls.append(job)
        return runs(job) | ({"status": "crash", "reason": "it diverged"} if len(calls) == 2 else {})

    monkeypatch.setattr(referee, "run", fails)
    e = experiments.audit(Bench(), 2)
    assert e.verdict == "audited" and len(e.runs) == 4
    assert e.closes["reason"] == "2 champions, 2 seeds; 1 of 2 runs of experiment 2 failed (crash)"
    assert [len(scores) for scores, _ in experiments.contrast(e)] == [2, 1]


def lying(row):
    if row.get("verdict") == "discard":
        row["verdict"] = "keep"


def test_verify_finds_an_edited_verdict_in_a_whole_chain(calibrated, runs):
    commit("worse", quality=1.0 - 10 * SIGMA)
    experiments.attempt(Bench(), "worse")
    assert problems() == []
    rewrite(
        calibrated / "ledger.jsonl",
        lying,
    )
    assert any("the verdict is keep, its runs say discard" in what for what in problems())


def test_verify_finds_a_lost_commit_and_a_lost_end(calibrated, runs):
    commit("worse", quality=1.0 - 10 * SIGMA)
    experiments.attempt(Bench(), "worse")
    lines = (calibrated / "ledger.jsonl").read_text().splitlines(keepends=True)
    (calibrated / "ledger.jsonl").write_text("".join(lines[:7]))
    assert problems() == ["refs/ratchet/2 has no line in the ledger: its end was cut off"]
    rewrite(
        calibrated / "ledger.jsonl", lambda row: [arm.update(commit="f" * 40) for arm in row.get("arms", [])]
    )
    assert "experiment 1: commit fffffff is gone" in problems()


def invoke(*words):
    __main__.console.width = 120
    return CliRunner().invoke(__main__.app, [*map(str, words)])


def test_the_command_line_speaks_json(calibrated, runs):
    commit("better", quality=1.0 + 6 * SIGMA)
    e = json.loads(invoke("try", "better", "--json").stdout)
    assert e["verdict"] == "keep" and e["opens"]["idea"] == "better"
    assert [row["verdict"] for row in json.loads(invoke("log", "--json").stdout)] == ["baseline", "keep"]
    assert json.loads(invoke("show", 2, "--json").stdout)["scores"][0]
    assert json.loads(invoke("verify", "--json").stdout)["problems"] == []
    arms = json.loads(invoke("compare", "HEAD~1", "HEAD", "-n", 2, "--arena", "tiny", "--json").stdout)[
        "arms"
    ]
    assert arms[1]["gain"] > 0 and arms[1]["low"] < arms[1]["gain"] < arms[1]["high"]
    assert {*json.loads(invoke("audit", "-n", 2, "--json").stdout)} == {"n", "val", "test"}


def test_the_command_line_speaks_to_people(calibrated, runs):
    assert "begin" not in invoke("log").stdout and "by nobody" in invoke("log", "--by", "nobody").stdout
    assert "changed nothing" in invoke("diff", 1).stdout
    commit("better", quality=1.0 + 6 * SIGMA)
    said = invoke("try", "[bold]better[/]").stdout
    assert re.search(r"keep .*gain 0\.\d+ ± 0\.\d+ bpb", said.replace("\n", " "))
    assert "[bold]better[/]" in invoke("log").stdout and "sigma" in invoke("show", 1).stdout
    assert "+QUALITY = 1.06" in invoke("diff", 2).stdout
    assert "0 problems, head" in invoke("verify").stdout
    assert "champions █▁" in invoke("log", "-n", 1).stdout  # of all, though one experiment is shown


def test_the_log_tells_gains_and_all_of_an_idea_at_any_width(calibrated, runs):
    idea = "a-knob-with-a-long-name 0.85 -> 0.953"
    commit("better", quality=1.0 + 6 * SIGMA)
    invoke("try", idea)
    invoke("audit", "-n", 2)
    for width in (60, 80, 140):
        __main__.console.width = width
        said = CliRunner().invoke(__main__.app, ["log"]).stdout
        lines = said.splitlines()
        column = lines[0].index("idea")
        told = "".join(line[column:].strip() for line in lines[: [*said].count("\n") + 1])
        assert idea.replace(" ", "") in told.replace(" ", "") and max(map(len, lines[:4])) <= width
        assert re.search(r"0\.\d{4} ± 0\.\d{4}  \+0\.\d{4} ± 0\.\d{4}", said)
        assert ("audit " in said) == (width > 100) and "2champions,2seeds" in re.sub(r"\s", "", said)
    assert "1 of 3 experiments: -n 3 shows all" in invoke("log", "-n", 1).stdout


def test_show_has_what_an_audit_found_and_what_was_disturbed(calibrated, runs):
    commit("better", quality=1.0 + 6 * SIGMA)
    runs.shared = 1
    invoke("try", "better")
    invoke("audit", "-n", 2)
    said = invoke("show", 3).stdout
    assert "val bits per byte" in said and "test bits per byte" in said and said.count("yes") == 2
    assert "its role is audit" in invoke("diff", 3).stdout and "disturbed" not in said
    assert "disturbed by other programs" in invoke("show", 2).stdout
    row = report.collect(ledger.Ledger(calibrated), calibrated)["campaigns"][0]["experiments"][1]
    assert row["disturbed"] == 1 and row["runs"] > len(row["seeds"]) + 1


def test_a_second_calibration_says_whose_place_it_takes_and_the_log_tells_both_stories(calibrated, runs):
    commit("better", quality=1.0 + 6 * SIGMA)
    invoke("try", "better")
    assert "instead of" not in invoke("calibrate", "--arena", "tiny", "-n", 3).stderr  # its own source
    commit("another", quality=1.0 + 3 * SIGMA)
    assert "instead of experiment 3's" in invoke("calibrate", "--arena", "tiny", "-n", 3).stderr
    commit("better yet", quality=1.0 + 12 * SIGMA)
    invoke("try", "better yet")
    assert invoke("log").stdout.count("champions █▁") == 2


def test_noise_that_outgrows_its_calibration_is_told(calibrated, runs, monkeypatch):
    assert Bench().campaign().unrest == "" and "has grown" not in invoke("log").stdout
    commit("shaky", quality=1.0 + 6 * SIGMA)
    invoke("try", "shaky")
    found = Campaign.noise
    grown = lambda self, **when: found(self, **when) if when else verdicts.Noise(9 * SIGMA, 40)  # noqa: E731
    monkeypatch.setattr(Campaign, "noise", grown)
    assert f"to {9 * SIGMA:.4f} bpb since" in Bench().campaign().unrest
    assert "sigma has grown" in invoke("log").stdout
    data = report.collect(ledger.Ledger(calibrated), calibrated)
    assert any("has grown" in text for text in data["campaigns"][0]["warnings"])


def test_a_calibration_that_breaks_leaves_no_baseline_and_says_so(repository, runs):
    commit("breaks", more='STATUS = "overtime"')
    said = invoke("calibrate", "--arena", "tiny")
    assert said.exit_code == 1 and "overtime" in said.stdout and "no baseline" in said.stderr


def test_ctrl_c_is_a_sentence_and_the_same_command_goes_on(repository, runs):
    runs.stop_at = 1
    said = invoke("calibrate", "--arena", "tiny", "-n", 3)
    assert said.exit_code == 130 and "the same command goes on" in said.stderr and len(runs.jobs) == 1
    assert "unfinished" in invoke("log").stdout
    assert invoke("calibrate", "--arena", "tiny", "-n", 3).exit_code == 0 and len(runs.jobs) == 3


def test_a_users_mistake_is_one_sentence(repository, monkeypatch, capsys):
    mistakes = "show 7", "try x", "compare HEAD nothing", "calibrate -n 1", "calibrate --budget soon"
    for words in [*mistakes, "compare HEAD HEAD --frame lines", "doctor --device tpu"]:
        words = words.split()
        monkeypatch.setattr("sys.argv", ["ratchet", *words])
        with pytest.raises(SystemExit) as end:
            __main__.main()
        told = capsys.readouterr().err
        assert end.value.code == 2 and told.startswith("ratchet: ") and told.count("\n") == 1, told


def test_a_champion_that_is_kept_meanwhile_overtakes_a_try(calibrated, runs):
    base = commit("faster", quality=1.1), commit("better", quality=1.2)
    bench, found = Bench(), {}

    def meanwhile(job):
        """While the first one has its confirmation, the second one is tried and kept."""
        if len(runs.jobs) == 7 and not found:
            found["second"] = None
            found["second"] = experiments.attempt(bench, "the second", base[1])
        return runs(job)

    bench.place.run = meanwhile
    first = experiments.attempt(bench, "the first", base[0])
    assert found["second"].verdict == "keep" and champion() == base[1]
    assert first.verdict == "overtaken" and f"experiment {found['second'].n} became" in first.closes["reason"]
    assert len(first.runs) == 3 and problems() == []
    again = experiments.attempt(Bench(), "the first", base[0])  # it has no verdict yet
    assert again.n not in (first.n, found["second"].n) and again.verdict == "discard"


def test_a_champions_run_that_fails_is_made_again(calibrated, runs, monkeypatch):
    calls, times, own = [], 1, champion()

    def fails(job):
        calls.append(job.source.commit)
        facts = runs(job)
        bad = job.source.commit == own and calls.count(own) <= times
        return facts | {"status": "memory", "reason": "full"} if bad else facts

    monkeypatch.setattr(referee, "run", fails)
    commit("better", quality=1.1)
    e = experiments.attempt(Bench(), "better")
    assert e.verdict == "keep" and [run["status"] for run in e.runs].count("memory") == 1 and problems() == []
    times, own, calls[:] = 99, champion(), []
    commit("better still", quality=1.2)
    with pytest.raises(Refused, match="3 times"):
        experiments.attempt(Bench(), "better still")
    assert calls.count(own) == 3


def test_what_a_kill_left_undone_after_a_verdict_is_done(calibrated, runs):
    old, better = champion(), commit("better", quality=1.1)
    experiments.attempt(Bench(), "better")
    sources.git("update-ref", "refs/ratchet/champion", old)
    assert experiments.attempt(Bench(), "better").verdict == "keep" and champion() == better


def test_a_run_without_hope_is_discarded(calibrated, runs):
    for e in Bench().experiments():
        for number, run in enumerate(e.runs):
            (folder := calibrated / run["folder"]).mkdir(parents=True)
            lines = [{"seconds": i / 20, "tokens": 0, "loss": 4 - i / 99 + number / 100} for i in range(100)]
            (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    commit("hopeless", quality=0.5, more='STATUS = "hopeless"')
    e = experiments.attempt(Bench(stop_hopeless=True), "hopeless")
    assert e.verdict == "discard" and "could not catch up" in e.closes["reason"] and problems() == []
    assert len(runs.jobs[-1].reference) == 11 and not runs.jobs[0].reference
    commit("tried without", quality=0.5)
    experiments.attempt(Bench(), "not stopped")
    assert not runs.jobs[-1].reference
