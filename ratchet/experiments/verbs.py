"""Verbs: calibrate, try."""

from ratchet.arena.files import Refused
from ratchet.experiments import sources, verdicts
from ratchet.experiments.campaign import CHAMPION, MOST_TEXT, Campaign
from ratchet.experiments.protocol import failure, next_step
from ratchet.experiments.running import working_on
from ratchet.experiments.session import MIN_SEEDS, RUN_TRIES, valid_or_failed
from ratchet.experiments.verdicts import Verdict
from ratchet.untrusted_text import clean


def calibrate(bench, seeds=5, may_replace=lambda question: True):
    """Measure sigma with several seeds of HEAD's train.py, which becomes the first champion.

    may_replace(question): whether a champion that was kept may give way; Refused is raised if not.
    """
    if seeds < MIN_SEEDS:
        raise Refused(
            f"-n {seeds} is too few: sigma needs at least {MIN_SEEDS} seeds, 5 are sensible"
        )
    sources.check_clean()
    source = sources.read_source("HEAD")
    if e := replaced_by(bench, source):
        what = f"HEAD's train.py will be the champion instead of experiment {e.n}'s"
        if e.verdict == "keep" and not may_replace(f"{what}, which was kept"):
            raise Refused(
                f"experiment {e.n} stays the champion: give the command again to replace it"
            )
        bench.tell(f"  {what}")
    bench.enter()
    n = bench.open("calibrate", [source], idea="the baseline", seeds=seeds)
    with working_on(bench.home, n):
        return measure_noise(bench, n, source, seeds)


def replaced_by(bench, source):
    """The experiment whose source, another one, a calibration replaces as champion on this device,
    or None.

    None, too, when a calibration of the source has begun since and has not ended: it was agreed to
    then.
    """
    device = bench.conditions()["device"]
    own = [e for e in bench.experiments() if e.opens["device"] == device]
    campaign, shape = Campaign(own), source.facts()["source"]
    if not campaign.baseline or campaign.champion["source"] == shape:
        return None
    kept = campaign.kept[-1]
    begun = (
        e for e in own if e.role == "calibrate" and not e.closes and e.line > kept.closes["line"]
    )
    return None if any(e.arms[0]["source"] == shape for e in begun) else kept


def measure_noise(bench, n, source, seeds):
    """A calibration to its end."""
    while len(bench.now(n).scores(0)) < seeds:
        facts = bench.run(n, 0, "calibrate", source, is_baseline=True)
        if facts["status"] != "ok":
            return bench.close(n, failure([facts]))
    scores = bench.now(n).scores(0)
    noise, mean = verdicts.pooled([scores]), sum(scores) / seeds
    low, high = verdicts.sigma_range(noise)
    what = f"mean {mean:.4f}, sigma {noise.sigma:.4f} bpb (95%: {low:.4f} to {high:.4f}), {seeds} seeds"
    return bench.close(n, Verdict("baseline", what))


def attempt(bench, idea, what="HEAD", quick=False, again=False, by="", parent=None, **told):
    """Try a commit's train.py against the champion: screen, confirm, verdict. Returns the
    experiment.

    parent: the champion that the idea is meant for; None is returned when that is the champion no
    more. told: gain, in bpb, that was expected of the idea; near, the number of an earlier
    experiment it is like.
    """
    if what == "HEAD":
        sources.check_clean()
    source, campaign = sources.read_source(what), bench.campaign()
    if what == source.commit:
        source = source._replace(name=what[:7])
    shape = source.facts()["source"]
    known = [e for e in campaign.tried if e.arms[0]["source"] == shape and e.verdict != "overtaken"]
    if known and not again:
        return bench.settle(known[-1])  # which a kill may have cut short
    sources.check_commit(source.commit)
    idea, by = (clean(text.encode(errors="replace"))[:MOST_TEXT] for text in (idea, by))
    more = {"quick": quick, "baseline": campaign.baseline.n, "idea": idea, "by": by} | told
    with bench.ledger.held:  # nobody makes another champion meanwhile
        champion = bench.champion_for(source, quick)
        if parent and parent != champion:
            return None
        arms = source, sources.read_source(champion)._replace(name="champion")
        n = bench.open("try", arms, parent=champion, **more)
    with working_on(bench.home, n):
        return judge(bench, n, arms)


def judge(bench, n, arms):
    """A try to its verdict, run after run."""
    while True:
        bench.campaign()  # refuses when the judge has changed
        with bench.ledger.held:  # no line comes between a verdict and what it follows from
            step = next_step(bench.now(n), Campaign(bench.experiments(), bench.now(n).key))
            ended = isinstance(step, Verdict) and bench.close(n, step)
        if ended:
            return bench.sent(ended)
        facts = bench.run(n, *step, arms[step[0]])
        failed = sum(run["status"] != "ok" for run in valid_or_failed(bench.now(n), CHAMPION))
        if step[0] == CHAMPION and facts["status"] != "ok" and failed % RUN_TRIES == 0:
            what = f"the champion's own run ended as {facts['status']} ({facts['reason']}) {RUN_TRIES} times"
            raise Refused(f"{what}: mend that first")
