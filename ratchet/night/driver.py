"""The driver: brings proposals to their verdicts, one on each device, until a limit is reached.

The queue (proposals.py) asks for ideas, compares, commits, rebases them. The driver preflights a
proposal, tries it, sends it back to be repaired, or gives it up. No agent decides when to stop.
What a night needs to go on after kill -9 is on disk: experiments in the ledger, everything else in
the journal.
"""

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from ratchet.arena.files import Refused, sha256, work_folder
from ratchet.claims import format_gain, list_numbers
from ratchet.experiments import comparisons, sources, trials, verbs
from ratchet.experiments import progress as run_progress
from ratchet.experiments.campaign import Campaign, compare_so_far
from ratchet.experiments.ledger import CANDIDATE, CHAMPION, Experiment
from ratchet.experiments.running import is_command_running, working_on
from ratchet.experiments.session import DeviceShared, Session
from ratchet.experiments.verdicts import DEFAULT, Profile, count_closing_seeds, trial_runs
from ratchet.night import service
from ratchet.night.digest import MOST_TOKENS
from ratchet.night.journal import Journal, active_seconds, agents_of
from ratchet.night.notify import Notifier
from ratchet.night.programs.prices import Price
from ratchet.night.proposals import MOST_REPAIRS, CannotRebase, Proposal, ProposalQueue
from ratchet.night.service import Wait
from ratchet.night.status import Limits, describe_used, used_by
from ratchet.night.summary import count_of, save_summary, summarize_night
from ratchet.night.team.authors import TUNER, Author, join_names, open_authors
from ratchet.referee import supervisor
from ratchet.referee.job import Job
from ratchet.untrusted_text import quote_text

BUSY_SECONDS = 60  # until a device that other programs use is looked at again
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 30  # that a device waits for a fresh idea, until it returns to one that is out
MOST_RETURNS = 3  # to one idea that is out, of a night
MOST_FAILURES = 2  # of a device, in a row, until the champion shows whether it still works
PAUSE_SECONDS = 1.5  # after Ctrl-C, until a thread that doesn't end is left behind
END_SECONDS = 30  # the same, when a night ends by itself
STOP_FILE = "runs/.stop"
STOPPED = "you stopped it"  # without a measurement of its gain
# Exit codes of a night whose agent never gave an idea, or did and then failed.
NEVER_WORKED, FAILED_LATER = 2, 3
UNITS = {
    "hours": "hour",
    "experiments": "experiment",
    "device_seconds": "device second",
    "calls": "agent call",
    "cost": "dollar",
}

T = TypeVar("T")


class Lost(Refused):
    """A device on which not even the champion gets to its first step any more."""


class Night:
    """One night. sessions: one for each device. authors: who has its ideas, in turns.

    Each device has a thread of its own, which takes a proposal when it has nothing to do. may_tie:
    whether less code is kept that is as good. until: bpb of the champion at which it ends, or its
    figure of another goal. notify:
    as Notifier.__call__().
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        authors: Sequence[Author],
        limits: Limits,
        profile: Profile = DEFAULT,
        may_tie: bool = False,
        until: float | None = None,
        notify: Callable[..., None] = lambda event, text, **values: None,
    ):
        self.profile, self.may_tie, self.until, self.notify = profile, may_tie, until, notify
        self.sessions, self.session, self.limits = sessions, sessions[0], limits
        self.left = [*sessions]  # without those whose devices are lost
        self.authors = [author.name for author in authors]
        self.name = join_names(self.authors)
        self.journal = Journal(self.session.home)
        self.queue = ProposalQueue(
            self.session, authors, self.may_ask, self.begin_wait, len(sessions)
        )
        self.lock = threading.Lock()
        self.trial_lock = threading.Lock()  # a trial is held by one device, the others search on
        self.parked = set()  # numbers of ideas that were out and run again now
        self.returns = Counter()  # to each of these
        self.working = set()  # threads that have a proposal, or wait for one
        self.failures = Counter()  # of each thread: proposals in a row that failed
        self.idle = self.busy = 0.0  # seconds of all devices
        self.why = ""  # it ends
        self.exit_code = 0
        self.errors, self.lost = [], []
        self.is_interrupted = False

    def run(self) -> str:
        """The whole night. Returns why it ended. Raises what a device's thread raised."""
        if supervisor.cancelled.is_set():  # nobody would be asked, and this one wait for ever
            raise Refused("an interrupted night has left a run behind in this process: start anew")
        self.begin_or_resume()
        kind = "pauses"
        with interrupts_to(self.interrupt):
            try:
                self.run_devices()
                for error in self.errors or ([] if self.why else self.lost):
                    raise error
                self.blame_agent()
                if self.why != STOPPED:
                    self.run_threads([threading.Thread(target=self.measure_gain, daemon=True)])
                    for error in self.errors:
                        raise error
                kind = "ends"
            finally:  # nobody else writes any more
                self.note_end(kind)
        (self.session.home / STOP_FILE).unlink(missing_ok=True)
        return self.why

    def note_end(self, kind: str) -> None:
        """Into the journal: that the night ends or pauses, what its time was spent with."""
        active, waited = time.monotonic() - self.started, self.queue.waited
        seconds = {"idle": self.idle, "busy": self.busy, "waited": waited, "active": active}
        seconds = {name: round(value, 1) for name, value in seconds.items()}
        words = {"why": self.why, "lost": [*map(str, self.lost)], "code": self.exit_code}
        self.journal.append(kind, **words, **seconds)

    def blame_agent(self) -> None:
        """Say in `why`, and by the exit code, if the night ends since its agent fails."""
        answers = self.journal.list_answers()
        has_failed = self.why == self.queue.dried_up or self.queue.lacks_service()
        if not self.queue.agents or self.why == STOPPED or self.has_reached_goal():
            return
        if self.queue.lacks_service() and not self.queue.dried_up:
            self.why += f"; the agent's last call failed, {service.describe_failure(answers[-1])}"
        authors = self.queue.authors.values()
        # a first call that a limit cuts short is no failure of the agent
        has_ended = answers or any(author.errors for author in authors)
        if has_ended and not service.has_worked(answers):
            self.exit_code = NEVER_WORKED
        elif has_failed or any(author.dropped_out for author in authors):
            self.exit_code = FAILED_LATER

    def begin_or_resume(self) -> None:
        """Begin a night, or go on with one of the same agents that never ended."""
        baseline = self.session.read_campaign().baseline.n
        events = self.journal.last_night()
        is_left = events and events[0]["baseline"] == baseline and events[-1]["kind"] != "ends"
        is_resumed = (
            is_left
            and {*agents_of(events[0])} == {*self.authors}
            and events[0].get("profile", self.profile.name) == self.profile.name
        )
        if is_left and not is_resumed:
            self.session.tell(
                f"  the night of {quote_text(events[0]['agent'], 80)}, which was interrupted, is "
                "given up, as this one has other agents or another profile: its verdicts stay, "
                "ideas that wait go"
            )
        if min(self.limits) == math.inf and self.until is None:
            self.session.tell("  no limit is set: the night goes on until `uv run ratchet stop`")
        self.session.tell(
            f"  {quote_text(self.name, 80)} has the ideas, a run gets {self.session.budget}; "
            "Ctrl-C pauses the night, `uv run ratchet stop` ends it"
        )
        limits = {key: value for key, value in self.limits._asdict().items() if value < math.inf}
        kind = "resumes" if is_resumed else "begins"
        facts = {"agent": self.name, "limits": limits, "baseline": baseline, "goal": self.until}
        facts["profile"] = self.profile.name
        if len(self.authors) > 1:
            facts["agents"] = self.authors
        self.journal.append(kind, **facts)
        self.seconds_before = active_seconds(events) if is_resumed else 0.0
        self.started = time.monotonic()

    def run_devices(self) -> None:
        """Have each device work in a thread until the night ends, or this one is interrupted."""
        threads = [
            threading.Thread(target=self.work_on, args=(session,), daemon=True)
            for session in self.sessions
        ]
        self.queue.open()
        self.run_threads(threads)

    def interrupt(self, *_) -> None:
        """Of Ctrl-C: the main thread sees it in its next round."""
        self.is_interrupted = True

    def run_threads(self, threads: Sequence[threading.Thread]) -> None:
        """Run them to their end, or to Ctrl-C: what doesn't end soon is left behind then."""
        seconds = PAUSE_SECONDS
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                if self.is_interrupted:
                    raise KeyboardInterrupt
                time.sleep(POLL_SECONDS / 10)
            seconds = END_SECONDS
        finally:
            supervisor.cancelled.set()
            deadline = time.monotonic() + seconds
            self.queue.close(deadline)
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            if not any(thread.is_alive() for thread in threads):
                supervisor.cancelled.clear()  # else what is left would go on

    @contextmanager
    def noting_errors(self, session: Session) -> Iterator[None]:
        """In this block of a thread, what ends it is noted; a device that is lost is left out."""
        try:
            yield
        except supervisor.Cancelled:
            pass
        except Lost as error:  # the others go on
            session.tell(f"  {error}")
            self.lost.append(error)
            self.left.remove(session)
            self.working.discard(threading.get_ident())
        except BaseException as error:  # the main thread raises it
            self.errors.append(error)

    def measure_gain(self) -> None:
        """Measure what the night has gained, on the first device that works."""
        for session in [*self.left]:
            with self.noting_errors(session):
                is_done = when_free(session, partial(self.finish, session), self.is_time_up)
                if not is_done and self.count_runs_left():
                    cause = STOPPED if self.is_to_stop() else "other programs used the machine"
                    self.why += f"; no claim: {cause}, `ratchet audit` or the next night makes it"
            if session in self.left:
                return
        self.errors += self.lost[-1:]  # no device is left

    def finish(self, session: Session) -> bool:
        """Try what still waits, then hold the last champion against the baseline.

        After `ratchet stop` nothing more is begun, and it returns False. Raises DeviceShared.
        """
        if not self.is_to_stop():
            self.try_hits(session, is_last=True)
        if comparisons.needs_closing(session.read_campaign()) and not self.is_to_stop():
            session.tell("last champion and baseline run in turns: what has the night gained?")
            comparisons.close_night(session, self.name)
        return not self.is_to_stop()

    def is_time_up(self) -> bool:
        """Whether the night's end waits for a free device no longer."""
        return self.is_to_stop() or self.count_used().hours >= self.limits.hours

    def count_runs_left(self) -> int:
        """Runs that the night still needs when it begins no more ideas."""
        campaign = self.session.read_campaign()
        hits = campaign.search.list_hits(self.profile.name)
        is_changed = hits or comparisons.needs_closing(campaign)
        closing_runs = 2 * count_closing_seeds(campaign.goal)
        return bool(hits) * self.count_trial_runs() + bool(is_changed) * closing_runs

    def count_trial_runs(self) -> int:
        """Runs of a trial, those of the baseline too where val_bpb isn't the goal."""
        campaign = self.session.read_campaign()
        runs = trial_runs(self.profile, campaign.goal, as_good=self.may_tie)
        return runs + (campaign.slack.runs_left if campaign.slack else 0)

    # ----------------------------------------------------------------------------------------------
    # Limits

    def count_used(self) -> Limits:
        """What counts against the limits."""
        seconds = self.seconds_before + time.monotonic() - self.started
        return used_by(self.journal, self.session.experiments(), seconds)

    def count_with_reserve(self, runs: int) -> Limits:
        """What is used, with what the night's end takes, and with so many runs before that."""
        used = self.count_used()
        if min(self.limits.hours, self.limits.device_seconds) == math.inf:
            return used
        mean = self.mean_run_seconds()
        end = self.count_runs_left() * mean
        before = max(min(runs, 1), runs / len(self.sessions)) * mean  # on all devices at once
        return used._replace(
            hours=used.hours + (end + before) / 3600,
            device_seconds=used.device_seconds + end + runs * mean,
        )

    def may_ask(self, broken: Proposal | None = None) -> bool:
        """Whether the agent may be asked once more: for what there is no room is paid for nothing.

        broken: a proposal that it is to repair. One that has no verdict has its place already.
        """
        waiting = self.journal.list_waiting()
        used = self.count_with_reserve(1 + len(waiting)) if self.queue.agents else self.count_used()
        if self.why or used.calls >= self.limits.calls or used.cost >= self.limits.cost:
            return False
        if used.hours > self.limits.hours or used.device_seconds > self.limits.device_seconds:
            return False
        if broken and broken.call in {event["call"] for event in waiting}:
            return True
        return used.experiments + len(waiting) < self.limits.experiments

    def begin_wait(self, wait: Wait) -> str:
        """Note that the agent's service is waited for; or why the night ends before that."""
        hours = self.count_with_reserve(1).hours + (wait.until - time.time()) / 3600
        if hours > self.limits.hours:
            failure = quote_text(wait.reason, service.REASON_CHARACTERS)
            moment = service.format_moment(wait.until)
            return (
                f"the agent's service fails ({failure}), and it is to be asked again at {moment}, "
                "after the night's end"
            )
        words = service.describe_wait(wait)
        self.session.tell(f"  {words}")
        noted = [event["call"] for event in self.journal.last_night() if event["kind"] == "waits"]
        if wait.call not in noted:
            self.journal.append("waits", call=wait.call, until=wait.until, reason=wait.reason)
            if wait.failures == 1:  # of all in a row a person is told once
                self.notify("waits", words, until=service.format_moment(wait.until))
        return ""

    def has_reached_goal(self) -> bool:
        """Whether the champion, by its fresh runs, is as good as the night is to make it."""
        if self.until is None:
            return False
        campaign = self.session.read_campaign()
        return campaign.goal.reaches(campaign.level, self.until)

    def champion_level(self) -> str:
        """Its bpb, or what it has of another goal: the mean of runs by which it was not chosen."""
        campaign = self.session.read_campaign()
        return campaign.goal.describe_level(campaign.level)

    def reason_to_end(self) -> str:
        """Why the night ends now, or "". Raises what ended the asking, as Full without room."""
        if self.queue.error:
            raise self.queue.error
        if self.why or self.errors:
            return self.why or "there was an error"
        if self.is_to_stop():
            return STOPPED
        if self.has_reached_goal():
            return f"the champion is at {self.champion_level()}, {self.until:g} was the goal"
        if limit := self.reached_limit():
            return f"the limit of {limit} is reached"
        return "" if self.queue.ready.qsize() else self.queue.dried_up

    def is_to_stop(self) -> bool:
        """Whether the user asked it to end."""
        return (self.session.home / STOP_FILE).exists()

    def reached_limit(self) -> str:
        """Example: "2 experiments"; "" for none."""
        waiting = self.journal.list_waiting()
        # an agent is not asked for what can't be tried any more
        used = self.count_with_reserve(1 if self.queue.agents and not waiting else 0)
        for key, most in self.limits._asdict().items():
            was_paid = key in ("calls", "cost")  # then all that was paid for is tried
            if getattr(used, key) >= most and not (was_paid and waiting):
                return count_of(most, UNITS[key])
        return ""

    def mean_run_seconds(self) -> float:
        """Of the campaign's latest runs."""
        campaign = self.session.read_campaign()
        return run_progress.recent_run_seconds(campaign.since, self.session.budget) or 0.0

    def may_begin(self) -> bool:
        """Whether this thread may take a proposal: it counts as working then. Sets `why`."""
        with self.lock:
            self.why = self.reason_to_end()
            begun = len(self.journal.list_verdicts()) + len(self.working)
            if self.why or begun >= self.limits.experiments:
                return False
            self.working.add(threading.get_ident())
            return True

    # ----------------------------------------------------------------------------------------------
    # A device

    def work_on(self, session: Session) -> None:
        """A device's thread: proposal after proposal, until the night is over."""
        waited = 0.0  # seconds since there was an idea
        with self.noting_errors(session):
            self.hold_trials(session)
            while not self.why:
                supervisor.sleep_or_cancel(0)
                begin = time.monotonic()
                if not self.may_begin():
                    supervisor.sleep_or_cancel(POLL_SECONDS)
                    continue
                proposal, taken = self.queue.take(POLL_SECONDS), time.monotonic()
                waited = 0.0 if proposal else waited + taken - begin
                supervisor.sleep_or_cancel(0)  # what was taken is in the journal
                if proposal:
                    self.bring_to_verdict(session, proposal)
                    self.hold_trials(session)
                elif wait := self.queue.wait:
                    self.use_wait(session, wait)
                elif waited > PATIENCE_SECONDS and self.return_to_parked(session):
                    self.hold_trials(session)
                else:
                    session.tell("waiting for the agent's next idea")
                with self.lock:
                    self.idle += 0.0 if self.queue.wait else taken - begin
                    self.busy += time.monotonic() - taken
                self.working.discard(threading.get_ident())

    def bring_to_verdict(self, session: Session, proposal: Proposal) -> None:
        """Until it has a verdict, goes back to the agent, is given up, or the night ends."""
        while True:
            try:
                proposal = self.queue.rebase(proposal)
            except CannotRebase as error:
                if error.is_repairable and proposal.repairs < MOST_REPAIRS:
                    return self.send_back(proposal, str(error))
                return self.give_up(proposal, str(error))
            if proposal.repairs < MOST_REPAIRS:
                failure = self.preflight(session, proposal.commit, proposal.idea)
                if failure:
                    if failure[0] != "overlimit":  # which is no fault of the device
                        self.count_failure(session, proposal.parent, unjudged=proposal)
                    return self.send_back(proposal._replace(failure=failure), failure[1])
            with suppress(verbs.NewChampion):
                if e := self.try_when_free(session, proposal):
                    session.tell(f"  experiment {e.n}: {e.verdict}, {e.reason}")
                    return self.note_verdict(session, proposal, e)
            if self.reason_to_end():
                return None

    def preflight(self, session: Session, commit: str, name: str) -> tuple[str, str, list] | None:
        """(status, reason, last lines) of a commit that doesn't get to its first step, or None."""
        session.tell(f"preflight of {quote_text(name, 80)}")
        job = Job(
            sources.read_source(commit),
            0,
            session.budget,
            session.arena,
            session.home / "runs/.preflight",
            session.compiler_caches(),
            limits=session.limits,
        )
        return session.slot.preflight(job, session.tell)

    def try_when_free(self, session: Session, proposal: Proposal) -> Experiment | None:
        """Its experiment; None: the night ends while it waits. Raises verbs.NewChampion."""
        call, commit, parent = proposal.call, proposal.commit, proposal.parent
        self.journal.append("tries", call=call, commit=commit, parent=parent)
        options = dict(
            by=proposal.by or self.name, parent=parent, profile=self.profile, may_tie=self.may_tie
        )
        options |= {"gain": proposal.gain, "near": proposal.near}
        return when_free(
            session,
            lambda: verbs.try_idea(session, proposal.idea, commit, **options),
            self.reason_to_end,
        )

    def hold_trials(self, session: Session, is_last: bool = False) -> None:
        """The trials that are due, unless another device holds one."""
        when_free(session, partial(self.try_hits, session, is_last), self.reason_to_end)

    def try_hits(self, session: Session, is_last: bool) -> None:
        """The same; raises DeviceShared."""
        if not self.trial_lock.acquire(blocking=False):
            return
        follow = partial(self.follow_verdict, session)
        may_begin = partial(self.may_begin_trial, session)
        try:
            trials.try_hits(session, self.profile, is_last, follow, may_begin)
        finally:
            self.trial_lock.release()

    def may_begin_trial(self, session: Session) -> bool:
        """Whether another trial may begin. If the last one failed, the champion is looked at first.

        Else a device that fails would withdraw every hit. Raises Lost if it does.
        """
        campaign = session.read_campaign()
        runs = [run for e in campaign.since if e.role == "trial" for run in e.runs]
        if runs and runs[-1]["status"] != "ok":
            self.check_device(session, campaign.champion["commit"])
        return not self.is_to_stop()

    def follow_verdict(self, session: Session, e: Experiment) -> None:
        """Say what a trial has decided of an idea, and do what follows from it."""
        session.tell(f"  experiment {e.n}: {e.verdict}, {e.reason}")
        if e.closes.get("collides"):
            self.queue.repair_collision(e.arms[CANDIDATE]["commit"])
        if e.verdict == "keep" and e.n == max(e.closes["decides"]):  # once a trial
            self.tell_of_keep(session, session.experiment(e.closes["n"]))

    def tell_of_keep(self, session: Session, trial: Experiment) -> None:
        """Notify the user of a new champion."""
        campaign = session.read_campaign()
        comparison, goal = compare_so_far(trial, campaign), campaign.goal
        text = f"experiment {list_numbers(trial.members)} is kept: {self.champion_level()}"
        gain = ""
        if comparison:
            gain = goal.describe_ratio(comparison.gain)
            text += f", gain {format_gain(comparison, goal)}"
        text += f", {quote_text(trial.idea)}"
        bpbs = campaign.search.pursuits[trial.n].bpbs
        self.notify("keep", text, experiment=trial.n, bpb=f"{fmean(bpbs):.4f}", gain=gain)

    def use_wait(self, session: Session, wait: Wait) -> None:
        """Do what is of use while the agent's service fails: hold trials, run what is out again.

        Where the seconds of the device are limited, they are kept for fresh ideas.
        """
        if wait.until - time.time() >= self.count_trial_runs() * self.mean_run_seconds():
            self.hold_trials(session, is_last=True)
        may_run = self.limits.device_seconds == math.inf
        if may_run and (self.measure_bar(session) or self.return_to_parked(session)):
            self.hold_trials(session)
        else:
            session.tell("resting until the agent's service is back")

    def measure_bar(self, session: Session) -> bool:
        """Run the champion once if its level is vague, beside an idea that is out by it."""
        with self.lock:
            campaign = session.read_campaign()
            source = campaign.champion["source"]  # before the bars: another device may keep one
            bar = campaign.search.bars[source]
            n = campaign.search.best_parked(self.profile, without=self.parked)
            if bar.variance <= self.profile.most_variance or n is None:
                return False
            e = session.experiment(n)
            if e.arms[CHAMPION]["source"] != source:
                return False
            self.parked.add(n)
            self.returns[n] += 1
        session.tell(f"no fresh idea: the champion has another run, beside experiment {n}")
        done = when_free(session, lambda: run_champion(session, e), self.reason_to_end)
        self.parked.discard(n)
        return bool(done)

    def return_to_parked(self, session: Session) -> bool:
        """Run the best of the ideas that are out once more; False if there is none."""
        with self.lock:
            search = session.read_campaign().search
            done = {n for n, returns in self.returns.items() if returns >= MOST_RETURNS}
            n = search.best_parked(self.profile, without=self.parked | done)
            if n is None:
                return False
            self.parked.add(n)
            self.returns[n] += 1
        session.tell(f"no fresh idea: experiment {n} has another run")
        e = when_free(
            session, lambda: verbs.search_again(session, session.experiment(n)), self.reason_to_end
        )
        self.parked.discard(n)
        return bool(e)

    def note_verdict(self, session: Session, proposal: Proposal, e: Experiment) -> None:
        """The verdict into the journal; what fails is counted against the device."""
        self.journal.append("done", call=proposal.call, n=e.n, outcome=e.verdict)
        campaign = session.read_campaign()
        used = describe_used(self.count_used(), self.limits, self.until, campaign)
        left = self.count_runs_left()
        words = f", then {left} runs of trials and of the closing comparison" if left else ""
        session.tell(f"  night: {used}{words}")
        if e.verdict in ("crash", "timeout"):
            self.count_failure(session, proposal.parent)
        else:
            self.failures.pop(threading.get_ident(), None)

    def send_back(self, proposal: Proposal, reason: str) -> None:
        """To the agent, which is to repair it."""
        self.journal.append("done", call=proposal.call, outcome="repair", reason=reason)
        self.queue.send_back(proposal)

    def give_up(self, proposal: Proposal, reason: str) -> None:
        """No verdict can be had."""
        self.journal.append("done", call=proposal.call, outcome="stale", reason=reason)

    def count_failure(
        self, session: Session, champion: str, unjudged: Proposal | None = None
    ) -> None:
        """A proposal failed. After some in a row the champion shows whether it is the device.

        Raises Lost if it is; the proposal, while it has no verdict, is tried on another one.
        """
        thread = threading.get_ident()
        self.failures[thread] += 1
        if self.failures[thread] < MOST_FAILURES:
            return
        self.failures[thread] = 0
        try:
            self.check_device(session, champion)
        except Lost:
            if unjudged:
                self.queue.put(unjudged)
            raise

    def check_device(self, session: Session, champion: str) -> None:
        """Raises Lost if not even the champion gets to its first step."""
        if failure := self.preflight(session, champion, "the champion"):
            where = f"on {session.slot.device} any more ({failure[1]})"
            raise Lost(
                f"not even the champion gets to its first step {where}: "
                "mend that, then give the same command again"
            )


def run_champion(session: Session, e: Experiment) -> Experiment:
    """Run the champion that an idea is out by, which follows from its runs all the same."""
    arms = sources.sources_of(e)
    with working_on(session.home, e.n):
        session.run_arm(e.n, CHAMPION, "bar", arms[CHAMPION])
        return verbs.run_to_verdict(session, e.n, arms)


@contextmanager
def interrupts_to(note: Callable[..., None]) -> Iterator[None]:
    """In this block Ctrl-C calls note(), as often as it comes, and tears nothing."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def when_free(session: Session, work: Callable[[], T], is_to_end: Callable[[], object]) -> T | None:
    """What work() returns, once no other program uses the device; None: it was time to end."""
    while True:
        try:
            return work()
        except DeviceShared as error:
            session.tell(f"  {error}")
            supervisor.sleep_or_cancel(BUSY_SECONDS)
            if is_to_end():
                return None


# --------------------------------------------------------------------------------------------------
# Verbs of the command line


def run_night(
    session: Session,
    agents: str | Sequence[str],
    limits: Limits,
    share: Sequence[str] = (),
    network: bool = True,
    passed: Sequence[str] = (),
    profile: Profile = DEFAULT,
    may_tie: bool = False,
    digest_tokens: int = MOST_TOKENS,
    until: float | None = None,
    notify: str = "",
    price: Price | None = None,
) -> str:
    """A night from its beginning, or where it was left, to its end; returns why it ended.

    agents: a command, or tuner, or several of these, which are asked in turns; share, network,
    passed, digest_tokens, price: as of Agent; profile, may_tie, until: as of Night; notify: a
    command, as of Notifier. All slots of the session's executor work on it.
    Raises Refused when what judges has changed, Lost when no device is left, Full without room.
    """
    check_goal(until, may_tie, session.read_campaign())
    tell_user = Notifier(notify, session.home, session.tell)
    sessions = [session.with_slot(slot) for slot in session.slot.executor.slots()]
    for each in sessions:
        each.check_seal()  # refuses before an agent is asked
    folder = work_folder() / ".agents" / sha256(str(session.home).encode())[:12]
    options = dict(share=share, network=network, passed=passed, digest_tokens=digest_tokens)
    options |= dict(price=price, has_dollars=limits.cost < math.inf, tell=session.tell)
    commands = [agents] if isinstance(agents, str) else [*agents]
    if commands == [TUNER] and limits.calls < math.inf:
        raise Refused("--calls counts calls of an agent, the tuner makes none: say --experiments")
    authors = open_authors(commands, folder, **options)
    try:
        night = Night(sessions, authors, limits, profile, may_tie, until, tell_user)
        why = night.run()
        tell_user("fails" if night.exit_code else "ends", f"the night ended: {why}")
        tell_user.wait()
        return why
    except BaseException as error:
        if isinstance(error, Exception):
            tell_user("fails", f"the night was broken off: {error}")
            tell_user.wait()
        with suppress(Exception):  # not to hide why it ended
            if Journal(session.home).list_verdicts():
                save_summary(session.home, summarize_night(session))
        raise


def check_goal(until: float | None, may_tie: bool, campaign: Campaign) -> None:
    """Raises Refused when no night can end at it, or the baseline is as good, or ties can't be."""
    goal = campaign.goal
    if may_tie and not goal.is_val_bpb:
        raise Refused(
            f"--simpler is of val_bpb, and the goal of this campaign is {goal.name}: leave it out"
        )
    if until is None:
        return
    level = fmean(campaign.baseline.scores(CANDIDATE))
    if not 0 < until < math.inf or goal.reaches(level, until):  # not nan either
        raise Refused(
            f"--until {until:g} is no goal: the baseline is at {goal.describe_level(level)}, "
            f"name {goal.better} than that"
        )


def stop_night(home: Path) -> None:
    """Ask a night that runs in this repository to end. Raises Refused."""
    if not is_command_running(home):
        raise Refused("nothing runs in this repository, so there is nothing to stop")
    (home / STOP_FILE).touch()
