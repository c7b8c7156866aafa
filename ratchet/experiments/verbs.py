"""The verbs that measure what is held against champions: calibrate, try."""

from collections.abc import Callable, Sequence
from typing import Any

from ratchet.arena.files import Refused
from ratchet.experiments import seal, sources
from ratchet.experiments.campaign import MOST_TEXT, Campaign
from ratchet.experiments.goals import VAL_BPB, Goal
from ratchet.experiments.ledger import CANDIDATE, CHAMPION, Experiment, bpb
from ratchet.experiments.rule.failures import failed_verdict
from ratchet.experiments.rule.statistics import pool_noise, sigma_range
from ratchet.experiments.running import working_on
from ratchet.experiments.session import MIN_SEEDS, RUN_TRIES, Session, valid_or_failed
from ratchet.experiments.verdicts import STRICT, Profile, Verdict
from ratchet.referee.source import Source
from ratchet.untrusted_text import clean_text

RULE = "points"  # by which campaigns decide that begin now


class NewChampion(Refused):
    """The champion that an idea was meant for has been replaced."""


def calibrate(
    session: Session, seeds: int = 5, may_replace: Callable[[str], bool] = lambda question: True
) -> Experiment:
    """Measure sigma with several seeds of HEAD's train.py, which becomes the first champion.

    may_replace(question): whether a champion that was kept may give way. Raises Refused if not.
    """
    source = read_baseline(seeds)
    device = session.conditions()["device"]
    if "joules" in (session.goal.name, *session.limits) and device.startswith(("cpu", "mps")):
        raise Refused(f"joules can't be measured: only NVIDIA GPUs tell them, and this is {device}")
    if e := champion_that_gives_way(session, source):
        change = f"HEAD's train.py will be the champion instead of experiment {e.n}'s"
        if e.verdict == "keep" and not may_replace(f"{change}, which was kept"):
            raise Refused(
                f"experiment {e.n} stays the champion: give the command again to replace it"
            )
        session.tell(f"  {change}")
    remarks = {"idea": "the baseline", "seeds": seeds, "sealed": seal.sealed_files()}
    remarks["rule"] = RULE
    n = session.open_experiment("calibrate", [source], **remarks)
    with working_on(session.home, n):
        while len(session.experiment(n).scores(0)) < seeds:
            run = session.run_arm(n, 0, "calibrate", source, is_baseline=True)
            if verdict := failed_verdict([run]):
                return session.close_experiment(n, verdict)
        return session.close_experiment(n, measured_noise(session.experiment(n)))


def read_baseline(seeds: int) -> Source:
    """HEAD's train.py, to be calibrated with so many seeds. Raises Refused."""
    if seeds < MIN_SEEDS:
        raise Refused(
            f"-n {seeds} is too few: sigma needs at least {MIN_SEEDS} seeds, 5 are sensible"
        )
    sources.check_clean()
    return sources.read_source("HEAD")


def champion_that_gives_way(session: Session, source: Source) -> Experiment | None:
    """The experiment whose other source a calibration replaces as champion on this device.

    None, too, when a calibration of the source has begun since and has not ended: it was agreed to
    then.
    """
    device = session.conditions()["device"]
    on_device = [e for e in session.experiments() if e.device == device]
    campaign, shape = Campaign(on_device), source.describe_source()["source"]
    if not campaign.baseline or campaign.champion["source"] == shape:
        return None
    kept = campaign.kept[-1]
    for e in on_device:
        begun = e.role == "calibrate" and not e.closes and e.line > kept.closes["line"]
        if begun and e.arms[0]["source"] == shape:
            return None
    return kept


def measured_noise(e: Experiment) -> Verdict:
    """The verdict of a calibration."""
    runs = e.valid_runs(CANDIDATE)
    words = describe_noise([bpb(run) for run in runs], VAL_BPB)
    if not e.goal.is_val_bpb:
        words = f"{e.goal.name} {describe_noise(e.scores(CANDIDATE), e.goal)}; val_bpb {words}"
    return Verdict("baseline", f"{words}, {len(runs)} seeds")


def describe_noise(scores: Sequence[float], goal: Goal) -> str:
    """Example: "mean 1.2345, sigma 0.0042 bpb (95%: 0.0025 to 0.0121)"."""
    noise, mean = pool_noise([scores]), sum(scores) / len(scores)
    low, high = sigma_range(noise)
    if goal.is_val_bpb:
        return f"mean {mean:.4f}, sigma {noise.sigma:.4f} bpb (95%: {low:.4f} to {high:.4f})"
    sigma, *ends = (goal.describe_sigma(each) for each in (noise.sigma, low, high))
    words = f"mean {goal.describe_level(mean)}, sigma {sigma} (95%: {' to '.join(ends)})"
    if noise.sigma < goal.least_sigma:
        words += f", which counts as {goal.describe_sigma(goal.least_sigma)}"
    return words


def try_idea(
    session: Session,
    idea: str,
    name: str = "HEAD",
    profile: Profile = STRICT,
    may_tie: bool = False,
    again: bool = False,
    by: str = "",
    parent: str | None = None,
    **remarks: Any,
) -> Experiment:
    """Run a commit's train.py until it is out, or a hit that asks for a trial.

    may_tie: whether less code is kept that is as good. parent: the champion that the idea is meant
    for; NewChampion is raised when that is the champion no more. remarks: gain, in bpb, that was
    expected of the idea; near, the number of an earlier experiment it is like. Raises Refused.
    """
    if name == "HEAD":
        sources.check_clean()
    source = sources.read_source(name)
    if name == source.commit:
        source = source._replace(name=name[:7])
    session.check_seal()
    campaign, shape = session.read_campaign(), source.describe_source()["source"]
    known = campaign.by_source.get(shape)
    if known and not again:
        return session.settle(known)  # which a kill may have cut short
    sources.check_commit(source.commit)
    idea, by = (clean_text(text.encode(errors="replace"))[:MOST_TEXT] for text in (idea, by))
    with session.ledger.held:  # nobody makes another champion meanwhile
        champion = session.champion_for(source)
        if parent and parent != champion:
            raise NewChampion(f"{parent[:7]} is the champion no more")
        arms = source, sources.read_source(champion)._replace(name="champion")
        is_smaller = source.describe_source()["size"] < arms[CHAMPION].describe_source()["size"]
        more = {"baseline": campaign.kept[0].n, "idea": idea, "by": by} | remarks
        may_tie = may_tie and is_smaller and campaign.goal.is_val_bpb
        more |= {"profile": profile._asdict(), "may_tie": may_tie}
        n = session.open_experiment("try", arms, parent=champion, **more)
    with working_on(session.home, n):
        return run_to_verdict(session, n, arms)


def search_again(session: Session, e: Experiment) -> Experiment:
    """Give an idea that is out another run, and the verdict that follows. Raises Refused."""
    arms = sources.sources_of(e)
    with working_on(session.home, e.n):
        session.run_arm(e.n, CANDIDATE, "search", arms[CANDIDATE])
        return run_to_verdict(session, e.n, arms)


def run_to_verdict(session: Session, n: int, arms: Sequence[Source]) -> Experiment:
    """A try or a trial, run after run, until its runs demand a verdict. Raises Refused."""
    while True:
        session.check_seal()
        with session.ledger.held:  # no line comes between a verdict and what it follows from
            e = session.experiment(n)
            campaign = Campaign(session.experiments(), e.comparison_key)
            step = campaign.next_step(e)
            if isinstance(step, Verdict):
                more = {}
                if e.role == "trial":
                    more["decides"] = campaign.search.decided_members(n, step.verdict)
                e = session.close_experiment(n, step, **more)
                break
        arm, phase = step
        run = session.run_arm(n, arm, phase, arms[arm])
        if arm != CANDIDATE and run["status"] != "ok":
            check_champion_runs(session.experiment(n), arm, run)
    session.on_verdict(e)
    return e


def check_champion_runs(e: Experiment, arm: int, run: dict[str, Any]) -> None:
    """Raise Refused when the runs of a champion's arm have failed too often."""
    failed = sum(run["status"] != "ok" for run in valid_or_failed(e, arm))
    if failed % RUN_TRIES == 0:
        raise Refused(
            f"the {e.arms[arm]['name']}'s own run ended as {run['status']} ({run['reason']}) "
            f"{RUN_TRIES} times: mend that first"
        )
