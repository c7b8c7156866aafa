"""Trials of hits, alone and together, and what a campaign may claim; on a real repository, with runs
that are drawn from a normal distribution.
"""

import json

import pytest
from conftest import open_session
from test_experiments import (  # noqa: F401
    SIGMA,
    champion,
    commit,
    head,
    phases,
    problems,
    repository,
    rewrite,
    runs,
    trial_of,
)

from ratchet import claims, commits, tables
from ratchet.arena.files import Refused, sha256
from ratchet.experiments import comparisons, sources, trials, verbs, verdicts
from ratchet.experiments.campaign import is_selected
from ratchet.experiments.ledger import Broken
from ratchet.experiments.verdicts import CLOSING, SEED_SHARE, TIE_RUNS, Profile

THREE = Profile("three", step=1.0, hit=0.5, batch=3, runs=4, z=1.5, most_variance=0.25)
MUCH = 9 * SIGMA


def write_text(**values):
    """A train.py whose knobs stand so far apart that edits of two of them can be merged."""
    names = [f"{kind}_{letter}" for letter in "ABCDE" for kind in ("GAIN", "LUCK")]
    lines = [f"{name} = {values.get(name, 0.0)}\n" for name in names]
    gap = "#\n#\n#\n"
    pairs = [lines[i] + lines[i + 1] for i in range(0, len(lines), 2)]
    return f"QUALITY = {values.get('QUALITY', 1.0)}\n{gap}" + gap.join(pairs)


def commit_edit(base, **values):
    """A commit on a base that sets these knobs."""
    return commits.commit_text([base], write_text(**values).encode(), f"sets {', '.join(values)}")


@pytest.fixture
def base(repository, runs):  # noqa: F811
    """The commit of a calibrated train.py with knobs."""
    commit("knobs", more=write_text().partition("\n")[2].rstrip("\n"))
    verbs.calibrate(open_session(arena="tiny", budget="5s"), 5)
    return champion()


def search_for(base, *edits, profile=THREE, **options):
    """What the searches of these edits end as."""
    tried = [
        verbs.try_idea(
            open_session(), f"sets {edit}", commit_edit(base, **edit), profile=profile, **options
        )
        for edit in edits
    ]
    return [e.verdict for e in tried]


def hold_trials(profile=THREE, **options):
    """[(number, verdict)] of the ideas that trials decide."""
    decided = []
    trials.try_hits(open_session(), profile, on_verdict=decided.append, **options)
    return [(e.n, e.verdict) for e in decided]


def parents_of(name):
    return commits.git_lines("rev-list", "--parents", "-n1", name)[0].split()[1:]


def text_of(name):
    return sources.read_source(name).text.decode()


@pytest.mark.parametrize(
    ("edit", "text", "merged"),
    [
        ("A b c d", "a B c d", "A B c d"),  # two constants, one below the other
        ("a b C D", "A B c d", "A B C D"),
        ("A b c d", "A B c d", "A B c d"),  # of which both changed one alike
        ("A b c d", "X b c d", None),
        ("A b c d", "X Y c d", None),
        ("a b+ c d", "a b C d", "a b+ C d"),
        ("a x b c d", "a B c d", None),  # a new line beside one that changed
        ("a b d", "a b c D", None),
        ("b c d", "a b c D", "b c D"),
        ("x a b c d", "a b c d y", "x a b c d y"),
        ("a b c d x", "a b c d y", None),
    ],
)
def test_edits_of_neighbouring_lines_are_merged(repository, edit, text, merged):  # noqa: F811
    edit, base, text = (
        "".join(f"{line}\n" for line in words.split()).encode() for words in (edit, "a b c d", text)
    )
    expected = merged and "".join(f"{line}\n" for line in merged.split()).encode()
    assert trials.merge_edit(edit, base, text) == expected
    assert trials.merge_edit(text, base, edit) == expected


def all_trials():
    return [e for e in open_session().experiments() if e.role == "trial"]


# --------------------------------------------------------------------------------------------------
# Trials


def test_a_batch_that_passes_is_one_champion_with_all_its_ideas(base):
    edits = {"GAIN_A": MUCH}, {"GAIN_C": MUCH}, {"GAIN_E": MUCH}
    assert search_for(base, *edits[:2]) == ["hit"] * 2 and hold_trials() == []
    assert search_for(base, edits[2]) == ["hit"]
    assert hold_trials() == [(2, "keep"), (3, "keep"), (4, "keep")]
    (trial,) = all_trials()
    assert trial.members == [2, 3, 4] and trial.arms[1]["commit"] == base == trial.parent
    assert phases(trial) == ["trial"] * THREE.runs and trial.idea.count("; ") == 2
    assert champion() == trial.arms[0]["commit"] == head(f"refs/ratchet/{trial.n}")
    ideas = [e for e in open_session().experiments() if e.role == "try"]
    assert parents_of(champion()) == [base, *(e.arms[0]["commit"] for e in ideas)]
    assert text_of(champion()) == write_text(GAIN_A=MUCH, GAIN_C=MUCH, GAIN_E=MUCH)
    campaign = open_session().read_campaign()
    assert [e.n for e in campaign.kept] == [1, trial.n] and problems() == []
    assert not any(is_selected(e, campaign) for e in (*ideas, trial))
    assert [e.closes["n"] for e in ideas] == [trial.n] * 3


def test_what_waits_is_tried_when_no_more_will_come(base):
    assert search_for(base, {"GAIN_A": MUCH}, {"GAIN_B": MUCH}) == ["hit", "hit"]
    assert hold_trials() == [] and champion() == base
    assert hold_trials(is_last=True) == [(2, "keep"), (3, "keep")]
    assert hold_trials(is_last=True) == [] and len(all_trials()) == 1


def test_the_ideas_of_a_batch_that_fails_are_tried_apart(base):
    """One is good, one was lucky and harms, one was lucky."""
    lucky = {"LUCK_E": MUCH}
    harmful = {"GAIN_C": -2 * MUCH, "LUCK_C": 3 * MUCH}
    assert search_for(base, {"GAIN_A": MUCH}, harmful, lucky) == ["hit"] * 3
    assert hold_trials() == [(2, "keep"), (3, "withdrawn"), (4, "withdrawn")]
    first, good, *others = all_trials()
    assert [e.members for e in all_trials()] == [[2, 3, 4], [2], [3], [4]]
    assert first.verdict == "withdrawn" and first.closes["decides"] == []
    assert good.arms[0]["commit"] == champion() and text_of(champion()) == write_text(GAIN_A=MUCH)
    assert {e.parent for e in others} == {champion()}  # they were carried over to it
    assert parents_of(others[0].arms[0]["commit"])[0] == champion() and problems() == []


def test_a_verdict_is_known_before_the_next_trial_which_may_be_put_off(base):
    harmful = {"GAIN_C": -2 * MUCH, "LUCK_C": 3 * MUCH}
    assert search_for(base, {"GAIN_A": MUCH}, harmful, {"LUCK_E": MUCH}) == ["hit"] * 3
    decided = []
    trials.try_hits(open_session(), THREE, on_verdict=decided.append, may_begin=lambda: not decided)
    assert [(e.n, e.verdict) for e in decided] == [(2, "keep")] and len(all_trials()) == 2
    assert hold_trials() == [(3, "withdrawn"), (4, "withdrawn")] and problems() == []


def test_a_hit_that_a_night_left_has_its_trial_when_it_is_tried_again(base):
    assert search_for(base, {"GAIN_A": MUCH}) == ["hit"] and hold_trials() == []
    left = commits.git_lines("rev-parse", "refs/ratchet/2")[0]
    e = trials.decide_idea(open_session(), "the same", name=left)
    assert (e.n, e.verdict) == (2, "keep") and champion() == left and problems() == []


def test_edits_that_are_too_long_together_collide():
    edit, base, text = b"A" * 40_000, b"a", b"a"
    rest = b"\n#\n#\n#\n"
    assert trials.merge_edit(edit + rest + b"b", base + rest + b"b", text + rest + b"B")
    assert not trials.merge_edit(edit + rest + b"b", base + rest + b"b", text + rest + edit)


@pytest.mark.parametrize("stop", range(THREE.runs + 1))
def test_a_trial_that_is_killed_goes_on(base, runs, stop):  # noqa: F811
    search_for(base, {"GAIN_A": MUCH}, {"GAIN_B": MUCH}, {"GAIN_C": MUCH})
    runs.stop_at = len(runs.jobs) + stop
    before = len(runs.jobs)
    try:
        decided = hold_trials()
    except KeyboardInterrupt:
        (trial,) = all_trials()
        assert len(trial.runs) == stop and not trial.closes
        decided = hold_trials()
    (trial,) = all_trials()
    assert decided == [(2, "keep"), (3, "keep"), (4, "keep")]
    assert phases(trial) == ["trial"] * THREE.runs and len(runs.jobs) == before + len(trial.runs)
    assert problems() == []


def test_a_hit_that_collides_with_others_is_tried_alone(base):
    edits = {"GAIN_A": MUCH}, {"GAIN_A": 2 * MUCH}, {"GAIN_C": MUCH}
    assert search_for(base, *edits) == ["hit"] * 3
    assert hold_trials() == [(2, "keep"), (4, "keep"), (3, "withdrawn")]
    (trial,) = all_trials()
    assert (trial.members, trial.alone) == ([2, 4], [3])
    withdrawn = open_session().experiment(3)  # the champion has changed that line
    assert withdrawn.closes["collides"] and "collides with the champion's" in withdrawn.reason
    assert withdrawn.has_own_verdict and problems() == []


def test_a_batch_of_one_that_collides_with_nobody_keeps_its_commit(base):
    assert search_for(base, {"GAIN_A": MUCH}) == ["hit"] and hold_trials(is_last=True)
    assert champion() == open_session().experiment(2).arms[0]["commit"]


def test_an_idea_from_before_a_champion_is_merged_with_it(base):
    """Two devices: the first search goes on while another idea is kept."""
    session, others = open_session(), []
    run = session.slot.run

    def meanwhile(job, tell):
        if not others:
            others.append("begun")
            others[:] = search_for(base, {"GAIN_C": MUCH}) + hold_trials(is_last=True)
        return run(job, tell)

    session.slot.run = meanwhile
    late = verbs.try_idea(session, "late", commit_edit(base, GAIN_A=1.5 * SIGMA), profile=THREE)
    assert others == ["hit", (3, "keep")] and late.parent == base != champion()
    after = open_session().experiment(4).closes["line"]
    assert not [run for run in late.runs if run["line"] > after and run["phase"] == "bar"]
    search = open_session().read_campaign().search
    gains, base_source = search.pursuits[late.n].gains, late.arms[1]["source"]
    level, luck = search.bars[base_source].level, search.luck[base_source]
    score = late.scores(0)[-1] - SEED_SHARE * luck[late.runs[-1]["seed"]]
    assert gains[-1] == pytest.approx((level - score) / search.noise.sigma)
    if late.verdict == "hit":
        assert hold_trials(is_last=True)[0][0] == late.n
        assert parents_of(all_trials()[-1].arms[0]["commit"])[1] == late.arms[0]["commit"]
    assert problems() == []


def test_a_search_that_is_out_may_run_again(base, runs):  # noqa: F811
    assert search_for(base, {"LUCK_A": -1.1 * MUCH, "GAIN_A": MUCH}) == ["out"]
    runs.sigma, session = 0, open_session()
    e = verbs.search_again(session, session.experiment(2))
    assert phases(e) == ["search"] * 2 and len(e.decisions) == 2 and problems() == []
    again = verbs.try_idea(session, "the same", e.arms[0]["commit"], profile=THREE)
    assert again.n == e.n and len(again.runs) == len(e.runs)


def test_a_search_without_a_verdict_is_open_and_goes_on(base, runs):  # noqa: F811
    edit = commit_edit(base, GAIN_A=MUCH)
    runs.stop_at = len(runs.jobs)
    with pytest.raises(KeyboardInterrupt):
        verbs.try_idea(open_session(), "an idea", edit, profile=THREE)
    assert not open_session().experiment(2).closes
    e = verbs.try_idea(open_session(), "an idea", edit, profile=THREE)
    assert e.n == 2 and e.verdict == "hit" and problems() == []


def test_a_merge_that_is_the_champion_was_tried(base, runs):  # noqa: F811
    search_for(base, {"GAIN_A": MUCH}, {"GAIN_B": MUCH}, {"GAIN_C": MUCH})
    hold_trials()
    ((trial,), count) = all_trials(), len(runs.jobs)
    comment = commits.commit_text([base], text_of(champion()).encode() + b"# why\n", "a comment")
    assert trials.decide_idea(open_session(), "a comment", name=comment).n == trial.n
    assert len(runs.jobs) == count


def test_what_trials_withdraw_leaves_no_weights(base):
    def write_weights(e):
        for number, _ in enumerate(e.runs):
            folder = commits.home() / "runs" / str(e.n) / f"{number}-search-0"
            folder.mkdir(parents=True)
            (folder / "model.safetensors").touch()

    for edit, verdict in (
        ({"GAIN_A": MUCH}, "keep"),
        ({"GAIN_A": MUCH, "LUCK_B": MUCH}, "withdrawn"),
    ):
        assert search_for(champion(), edit) == ["hit"]
        write_weights(open_session().experiments()[-1])
        assert [ended for _, ended in hold_trials(is_last=True)] == [verdict]
    left = sorted(path.parts[-3] for path in commits.home().glob("runs/*/*/model.safetensors"))
    assert {*left} == {"2"}


# --------------------------------------------------------------------------------------------------
# Less code


def commit_smaller(base, quality):
    text = text_of(base).replace("QUALITY = 1.0", f"QUALITY = {quality}")
    lines = [line for line in text.splitlines() if not line.startswith(("GAIN_E", "LUCK_E"))]
    return commits.commit_text([base], "\n".join(lines).encode(), "less code")


def level_of_champion():
    """Quality that scores as the champion does on average, without noise."""
    campaign = open_session().read_campaign()
    return 2 - campaign.level


@pytest.mark.parametrize("gain, verdict", [(0.6, "keep"), (-0.4, "withdrawn"), (-3, "out")])
def test_less_code_that_is_as_good_is_kept(base, runs, gain, verdict, monkeypatch):  # noqa: F811
    runs.sigma, sigma = 0, open_session().read_campaign().noise().sigma
    monkeypatch.setattr(verdicts, "SEED_SHARE", 0.0)  # as these runs have no luck
    smaller = commit_smaller(base, level_of_champion() + gain * sigma)
    e = trials.decide_idea(open_session(), "less code", name=smaller)
    assert e.verdict == verdict and e.may_tie and problems() == []
    if verdict != "out":
        assert trial_of(e).as_good and phases(trial_of(e)) == ["trial"] * TIE_RUNS
    if verdict == "keep":
        assert e.reason.startswith("as good with less code") and champion() == smaller


def test_more_code_has_to_be_better_and_so_has_less_code_in_a_night(base, runs):  # noqa: F811
    runs.sigma, level = 0, level_of_champion()
    more = commit_edit(base, QUALITY=f"{level}\nMORE = 1")
    e = trials.decide_idea(open_session(), "more code", name=more)
    assert e.verdict == "out" and not e.may_tie
    smaller = commit_smaller(base, level)
    e = verbs.try_idea(open_session(), "less code", smaller, profile=THREE)
    assert e.verdict == "out" and not e.may_tie


# --------------------------------------------------------------------------------------------------
# Claims


@pytest.fixture
def kept(base):
    """The commits of baseline and champion, after a trial that was kept."""
    search_for(base, {"GAIN_A": 0.1})
    assert hold_trials(is_last=True) == [(2, "keep")]
    return base, champion()


def test_without_a_keep_there_is_nothing_to_claim(base):
    campaign = open_session().read_campaign()
    assert not comparisons.needs_closing(campaign) and not comparisons.list_claims(campaign)
    for measure in (comparisons.audit, lambda session: comparisons.close_night(session, "who")):
        with pytest.raises(Refused, match="nothing was kept"):
            measure(open_session())


def test_the_claim_is_a_comparison_with_the_baseline_in_turns(kept, runs):  # noqa: F811
    assert comparisons.needs_closing(open_session().read_campaign())
    e = comparisons.close_night(open_session(), "somebody")
    assert [arm["commit"] for arm in e.arms] == [*kept] and e.by == "somebody"
    assert "".join("BA"[run["arm"]] for run in e.runs) == CLOSING == "ABBAABBA"
    assert {run["phase"] for run in e.runs} == {"closing"} == {e.role}
    assert {job.splits for job in runs.jobs[-8:]} == {("val",)} and e.verdict == "audited"
    (scores, nothing), (better, gain) = comparisons.compare_with_first(e)
    assert len(scores) == len(better) == 4 and nothing is None
    assert gain.low < 0.1 < gain.high and (gain.n, gain.m) == (4, 4)
    campaign = open_session().read_campaign()
    assert comparisons.list_claims(campaign) == [e] and not comparisons.needs_closing(campaign)
    seeds = [run["seed"] for run in e.runs]
    assert seeds[::2] == seeds[1::2] and len({*seeds}) == 4  # each seed on both sides, in turn
    earlier = {job.seed for job in runs.jobs[:-8]}
    assert not earlier & {*seeds} and problems() == []


def test_a_later_champion_is_not_claimed_by_an_earlier_comparison(kept):
    first = comparisons.close_night(open_session(), "somebody")
    search_for(champion(), {"GAIN_A": 0.1, "GAIN_C": 0.1})
    hold_trials(is_last=True)
    campaign = open_session().read_campaign()
    assert comparisons.needs_closing(campaign) and comparisons.list_claims(campaign) == []
    second = comparisons.close_night(open_session(), "somebody")
    (claim,) = comparisons.list_claims(open_session().read_campaign())
    assert first.n < second.n == claim.n


def test_its_runs_tell_the_level_of_the_champion(kept):
    search = open_session().read_campaign().search
    before, df = search.bars[search.champion].variance, search.noise.df
    comparisons.close_night(open_session(), "somebody")
    search = open_session().read_campaign().search
    assert search.bars[search.champion].variance < before and search.noise.df == df + 8


def test_an_audit_is_a_claim_on_both_splits(kept, runs):  # noqa: F811
    e = comparisons.audit(open_session(), 3)
    assert "".join("BA"[run["arm"]] for run in e.runs) == "ABBAAB"
    assert all({"val", "test"} <= {*run} for run in e.runs)
    assert {job.splits for job in runs.jobs[:-6]} == {("val",)}
    for split in ("val", "test"):
        assert comparisons.compare_with_first(e, split)[1][1].low > 0
    assert [claim.n for claim in comparisons.list_claims(open_session().read_campaign())] == [e.n]
    with pytest.raises(Refused, match="too few"):
        comparisons.audit(open_session(), 1)


def test_no_comparison_can_be_chosen_all_together_are_the_claim(kept):
    first = comparisons.close_night(open_session(), "somebody")
    alone = claims.claimed_gains(open_session().read_campaign())
    assert alone == {"val": comparisons.compare_with_first(first)[1][1]}
    second, third = (comparisons.audit(open_session(), seeds) for seeds in (4, 2))
    campaign = open_session().read_campaign()
    gains = claims.claimed_gains(campaign)
    assert (gains["val"].n, gains["test"].n) == (10, 6) and gains["val"].error < alone["val"].error
    every = [comparisons.compare_with_first(e)[1][1] for e in (first, second, third)]
    mean = sum(each.gain * each.n for each in every) / 10
    assert gains["val"].gain == pytest.approx(mean)
    assert "10 + 10 fresh runs in turns" in claims.describe_claim(campaign) and problems() == []


@pytest.mark.parametrize("stop", [0, 1, 5, 7])
def test_a_closing_comparison_that_is_killed_goes_on(kept, runs, stop):  # noqa: F811
    runs.stop_at = before = len(runs.jobs)
    runs.stop_at += stop
    with pytest.raises(KeyboardInterrupt):
        comparisons.close_night(open_session(), "somebody")
    campaign = open_session().read_campaign()
    assert comparisons.needs_closing(campaign)
    assert tables.log_gain(open_session().experiments()[-1], campaign) == ""
    e = comparisons.close_night(open_session(), "somebody")
    assert tables.log_gain(e, campaign).endswith(", fresh")
    assert "".join("BA"[run["arm"]] for run in e.runs) == CLOSING
    assert len(runs.jobs) == before + 8 and problems() == []


def test_a_champion_that_fails_in_the_audit_is_told(kept, runs, monkeypatch):  # noqa: F811
    calls = []

    def fails(job):
        calls.append(job)
        return runs(job) | ({"status": "crash", "reason": "it diverged"} if len(calls) == 1 else {})

    monkeypatch.setattr("ratchet.referee.trial.run_trial", fails)
    e = comparisons.audit(open_session(), 2)
    assert e.verdict == "audited" and len(e.runs) == 4
    assert e.reason == "2 champions, 2 seeds; 1 of 2 runs of experiment 3 failed (crash)"
    assert [len(scores) for scores, _ in comparisons.compare_with_first(e)] == [2, 1]
    words = claims.describe_claim(open_session().read_campaign())
    assert words.endswith("1 + 2 fresh runs in turns; 1 of 2 runs of experiment 3 failed (crash))")


def test_a_champion_that_always_fails_in_the_audit_has_no_claim(kept, runs, monkeypatch):  # noqa: F811
    champion_text = commits.git("show", f"{kept[1]}:train.py")

    def fails(job):
        is_champion = job.source.text == champion_text
        return runs(job) | ({"status": "crash", "reason": "it diverged"} if is_champion else {})

    monkeypatch.setattr("ratchet.referee.trial.run_trial", fails)
    comparisons.audit(open_session(), 2)
    words = claims.describe_claim(open_session().read_campaign())
    assert words == "no claim; 2 of 2 runs of experiment 3 failed (crash, crash)"


# --------------------------------------------------------------------------------------------------
# Forged ledgers, whose chain of hashes was made anew


def forge(path, change):
    """Change the rows of a ledger as a whole; its chain is whole again."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines, before = [], ""
    for row in change(rows) or rows:
        lines.append(json.dumps(row | {"before": before}).encode())
        before = sha256(lines[-1])
    path.write_bytes(b"\n".join(lines) + b"\n")


def find_row(rows, kind, n, number=-1):
    return [row for row in rows if (row["kind"], row["n"]) == (kind, n)][number]


def sets(kind, n, number=-1, **values):
    """A forgery: a line of an experiment says something else."""
    return lambda rows: find_row(rows, kind, n, number).update(values)


def holds_against_the_baseline(rows):
    trial = find_row(rows, "opens", 9)
    trial["arms"][1] = find_row(rows, "opens", 1)["arms"][0]
    trial["parent"] = trial["arms"][1]["commit"]


def scores_better(rows):
    run = [row for row in rows if row["n"] == 4 and row["kind"] == "run" and row["arm"] == 0][0]
    run["val"]["nats"] *= 0.9


def calls_it_a_hit_again(rows):
    return [*rows, find_row(rows, "closes", 6) | {"verdict": "hit", "n": 6}]


def is_judged_too_early(rows):
    trial = [row for row in rows if row["n"] == 5]
    return [row for row in rows if row is not [r for r in trial if r["kind"] == "run"][-1]]


FORGERIES = [
    (sets("closes", 2, 0, verdict="out"), "experiment 2: the verdict is out, its runs say hit"),
    (sets("closes", 4, verdict="hit"), "experiment 4: the verdict is hit, its runs say out"),
    (sets("closes", 4, verdict="keep"), "experiment 4: the verdict is keep, its runs say out"),
    (sets("closes", 4, decides=[2]), "experiment 4: it decides on [2], its runs say on []"),
    (scores_better, "experiment 4: the verdict is out, its runs say hit"),
    (sets("closes", 5, verdict="withdrawn"), "the verdict is withdrawn, its runs say keep"),
    (sets("closes", 5, decides=[2]), "experiment 5: it decides on [2], its runs say on [2, 3]"),
    (sets("opens", 5, members=[2, 4]), "experiment 4 is in it, which was no hit"),
    (sets("opens", 5, members=[2, 77]), "experiment 77 is in it, which was no hit"),
    (sets("opens", 5, alone=[4]), "experiment 4 is in it, which was no hit"),
    (sets("opens", 5, as_good=True), "experiment 5: it keeps what is as good"),
    (sets("opens", 5, profile=THREE._replace(z=-9.0)._asdict()), "which has another profile"),
    (is_judged_too_early, "the verdict is keep, its runs say that there can't be one yet"),
    (sets("closes", 7, verdict="keep"), "the verdict is keep, its runs say withdrawn"),
    (sets("closes", 7, verdict="keep", collides=True), "the verdict is keep"),
    (sets("closes", 10, verdict="keep"), "experiment 10: its role is closing"),
    (sets("closes", 10, decides=[4]), "experiment 10: its role is closing"),
    (holds_against_the_baseline, "held against a source that was not the champion any more"),
    (calls_it_a_hit_again, "experiment 6: the verdict is hit, it had one: withdrawn"),
]


@pytest.fixture
def long_ledger(base):
    """Ideas 2 and 3 are kept by trial 5, 4 is out; 6 is withdrawn by trial 7; 8 is kept by 9."""
    edits = {"GAIN_A": MUCH}, {"GAIN_B": MUCH}, {"GAIN_C": -MUCH}
    assert search_for(base, *edits) == ["hit", "hit", "out"]
    assert hold_trials(is_last=True) == [(2, "keep"), (3, "keep")]
    more = {"GAIN_A": MUCH, "GAIN_B": MUCH}
    assert search_for(champion(), more | {"LUCK_D": MUCH}) == ["hit"]
    assert hold_trials(is_last=True) == [(6, "withdrawn")]
    assert search_for(champion(), more | {"GAIN_E": MUCH}) == ["hit"]
    assert hold_trials(is_last=True) == [(8, "keep")]
    assert comparisons.close_night(open_session(), "somebody").n == 10 and problems() == []
    return commits.home() / "ledger.jsonl"


def test_verify_finds_every_kind_of_forged_line(long_ledger):
    genuine = long_ledger.read_bytes()
    for change, words in FORGERIES:
        forge(long_ledger, change)
        said = problems()
        assert any(words in sentence for sentence in said), (words, said)
        long_ledger.write_bytes(genuine)
    assert problems() == []
    forge(long_ledger, sets("closes", 5, decides=[2, 3, 77]))
    with pytest.raises(Broken, match="is of experiment 77, which no line opens"):
        problems()
