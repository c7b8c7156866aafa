"""The night: tries an agent's ideas, one on each device at a time, until a limit is reached.

While the devices try some, the agent is asked for the next (ideas.py); it never decides when to
stop. What a night needs to go on after kill -9 is on disk: experiments in the ledger, everything
else in the journal.
"""

import math
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

from ratchet import commits
from ratchet.arena.files import Refused, replace_file, sha256, work_folder
from ratchet.experiments import progress as run_progress
from ratchet.experiments import sources, verbs
from ratchet.experiments.campaign import device_seconds
from ratchet.experiments.ledger import Ledger, utc_now
from ratchet.experiments.running import is_command_running, state_of
from ratchet.experiments.session import DeviceShared
from ratchet.night import knobs
from ratchet.night.agent import Agent
from ratchet.night.journal import Journal, active_seconds
from ratchet.night.proposals import AHEAD, REPAIRS, Ideas
from ratchet.night.summary import summary
from ratchet.referee import supervisor
from ratchet.referee.job import Job
from ratchet.referee.source import fingerprint
from ratchet.untrusted_text import clean_text, quote_text

PATIENCE = 60  # seconds until a device that other programs use is looked at again
POLL_SECONDS = 0.5


class Lost(Refused):
    """A device on which not even the champion comes to its first step any more."""


class Limits(NamedTuple):
    """Of a night, all resumed parts together; infinity where none was set."""

    hours: float = math.inf
    experiments: float = math.inf
    device_seconds: float = math.inf
    calls: float = math.inf
    cost: float = math.inf  # dollars, as far as the agent tells


def paid(journal):
    """(calls, dollars) of a night so far."""
    answers = journal.answers()
    return len(answers), sum(event["cost"] for event in answers)


def spent_by(journal, experiments, seconds):
    """What of each limit a night has used that was active for so many seconds."""
    calls, cost = paid(journal)
    device = device_seconds(experiments, journal.night()[0])
    return Limits(seconds / 3600, len(journal.verdicts()), device, calls, cost)


class Night:
    """One night; benches: one for each device. agent: an Agent, or None for the built-in tuner."""

    def __init__(self, benches, name, limits, agent=None):
        self.benches, self.bench, self.name, self.limits = benches, benches[0], name, limits
        self.journal = Journal(self.bench.home)
        self.ideas = Ideas(self.bench, agent, self.may_ask, ahead=AHEAD + len(benches))
        self.lock, self.working = threading.Lock(), set()  # threads that have, or wait for, an idea
        self.idle = self.busy = 0.0  # seconds of all devices
        self.why, self.errors, self.lost = "", [], []
        self.failed = Counter()  # of each thread: ideas in a row that failed

    def enter(self):
        """Begin a night, or go on with one of the same agent that never ended."""
        campaign, events = self.bench.read_campaign(), self.journal.night()
        same = events and (events[0]["agent"], events[0]["baseline"]) == (
            self.name,
            campaign.baseline.n,
        )
        limits = {key: value for key, value in self.limits._asdict().items() if value < math.inf}
        facts = {"agent": self.name, "limits": limits, "baseline": campaign.baseline.n}
        goes_on = same and events[-1]["kind"] != "ends"
        self.journal.append("resumes" if goes_on else "begins", **facts)
        self.before, self.begin = active_seconds(events) if goes_on else 0.0, time.monotonic()

    def spent(self):
        """What counts against the limits."""
        seconds = self.before + time.monotonic() - self.begin
        return spent_by(self.journal, self.bench.experiments(), seconds)

    def may_ask(self):
        """Whether the agent may be asked once more."""
        calls, cost = paid(self.journal)
        return calls < self.limits.calls and cost < self.limits.cost

    def over(self):
        """Why the night ends now, or ""."""
        if self.ideas.full:
            raise self.ideas.full
        if self.why or self.errors:
            return self.why or "an error ended it"
        if (self.bench.home / "runs/.stop").exists():
            return "it was stopped"
        spent = self.spent()
        names = {
            "device_seconds": "seconds of the device",
            "cost": "dollars",
            "calls": "calls of the agent",
        }
        for key, most in self.limits._asdict().items():
            waits = (
                key in ("calls", "cost") and self.journal.waiting()
            )  # what was paid for is tried
            if getattr(spent, key) >= most and not waits:
                return f"{most:g} {names.get(key, key)} are spent"
        return "" if self.ideas.ready.qsize() else self.ideas.refused

    def run(self):
        """The whole night. Returns why it ended. Raises what a device's thread raised."""
        self.enter()
        threads = [
            threading.Thread(target=self.work, args=(bench,), daemon=True) for bench in self.benches
        ]
        kind = "pauses"
        try:
            with self.ideas:
                try:
                    for thread in threads:
                        thread.start()
                    while any(thread.is_alive() for thread in threads):
                        time.sleep(POLL_SECONDS / 10)
                finally:
                    self.cancel(threads)
            for error in self.errors or ([] if self.why else self.lost):
                raise error
            kind = "ends"
        finally:  # nobody else writes any more
            figures = {
                "idle": self.idle,
                "busy": self.busy,
                "active": time.monotonic() - self.begin,
            }
            figures = {name: round(seconds, 1) for name, seconds in figures.items()}
            self.journal.append(kind, why=self.why, lost=[*map(str, self.lost)], **figures)
        (self.bench.home / "runs/.stop").unlink(missing_ok=True)
        return self.why

    def cancel(self, threads):
        """End what still runs."""
        supervisor.cancelled.set()
        for thread in threads:
            thread.join()
        supervisor.cancelled.clear()

    def work(self, bench):
        """A device's thread: idea after idea, until the night is over."""
        try:
            while not self.why:
                begin = time.monotonic()
                if not self.may_begin():
                    supervisor.sleep_or_cancel(POLL_SECONDS)
                    continue
                idea, waited = self.ideas.next(POLL_SECONDS), time.monotonic()
                if idea:
                    self.handle(bench, idea)
                else:
                    bench.tell("waiting for the agent's next idea")
                with self.lock:
                    self.idle += waited - begin
                    self.busy += time.monotonic() - waited
                self.working.discard(threading.get_ident())
        except supervisor.Cancelled:
            pass
        except Lost as error:  # the others go on
            bench.tell(f"  {error}")
            self.lost.append(error)
            self.working.discard(threading.get_ident())
        except BaseException as error:  # the main thread raises it
            self.errors.append(error)

    def may_begin(self):
        """Whether this thread may take an idea: it counts as working then. Notes in `why` that none
        may.
        """
        with self.lock:
            self.why = self.over()
            enough = len(self.journal.verdicts()) + len(self.working) >= self.limits.experiments
            if self.why or enough:
                return False
            self.working.add(threading.get_ident())
            return True

    def handle(self, bench, idea):
        """One idea to its verdict, or back to the agent."""
        while idea := self.up_to_date(idea):
            failure = (
                self.preflight(bench, idea.commit, idea.idea) if idea.repairs < REPAIRS else None
            )
            if failure:
                self.suspect(bench, idea.parent, again=idea)
                self.journal.append("done", call=idea.call, outcome="repair", reason=failure[1])
                self.ideas.broken.put(idea._replace(failure=failure))
                return
            self.journal.append("tries", call=idea.call, commit=idea.commit, parent=idea.parent)
            if e := self.attempt(bench, idea):
                bench.tell(f"  experiment {e.n}: {e.verdict}, {e.reason}")
                if e.verdict != "overtaken":
                    self.journal.append("done", call=idea.call, n=e.n, outcome=e.verdict)
                    bench.tell(f"  night: {run_progress.night_progress(self.spent(), self.limits)}")
                    if e.verdict in ("crash", "timeout"):
                        self.suspect(bench, idea.parent)
                    else:
                        self.failed.pop(threading.get_ident(), None)
                    return
            if self.over():
                return

    def attempt(self, bench, idea):
        """The experiment; None when the champion has changed, or the night ends before the device
        is free.
        """
        told = dict(by=self.name, parent=idea.parent, gain=idea.gain, near=idea.near)
        while True:
            try:
                return verbs.try_idea(bench, idea.idea, idea.commit, **told)
            except DeviceShared as error:
                bench.tell(f"  {error}")
                supervisor.sleep_or_cancel(PATIENCE)
                if self.over():
                    return None

    def up_to_date(self, idea):
        """The idea on the champion of now; None, noted, when that can't be."""
        campaign = self.bench.read_campaign()
        champion = campaign.champion["commit"]
        tried = (
            e for e in campaign.since if e.role == "try" and e.arms[0]["commit"] == idea.commit
        )
        begun = [e for e in tried if e.closes or e.busy == self.bench.busy]
        if idea.parent == champion or (begun and begun[-1].verdict != "overtaken"):
            return idea
        text = knobs.rebased(sources.read_source(idea.commit).text, idea.parent, champion)
        new_source = text and fingerprint(text)["source"]
        if text and new_source not in campaign.known_sources:
            return idea._replace(
                commit=commits.commit_text(champion, text, idea.idea), parent=champion
            )
        why = (
            "the champion has it, or it was tried" if text else "it collides with the new champion"
        )
        back = not text and self.ideas.agent and idea.repairs < REPAIRS
        self.journal.append(
            "done", call=idea.call, outcome="repair" if back else "stale", reason=why
        )
        if back:
            self.ideas.broken.put(idea._replace(parent=champion))
        return None

    def suspect(self, bench, champion, again=None):
        """An idea failed; after two in a row the champion tells whether it is them or the device.

        Raises Lost; the idea at hand, if it has no verdict yet, is to be tried `again` then.
        """
        own = threading.get_ident()
        self.failed[own] += 1
        if self.failed[own] < 2:
            return
        self.failed[own] = 0
        if found := self.preflight(bench, champion, "the champion"):
            if again:
                self.ideas.ready.put(again)
            where = getattr(bench.executor, "device", None) or bench.conditions()["device"]
            what = f"not even the champion comes to its first step on {where} any more ({found[1]})"
            raise Lost(f"{what}: mend that, then give the same command again")

    def preflight(self, bench, commit, words):
        """(status, reason, last lines) of a commit that does not come to its first step, or None."""
        source = sources.read_source(commit)
        bench.tell(f"preflight of {quote_text(words, 80)}")
        where = bench.home / "runs/.preflight", bench.compiler_caches()
        return bench.executor.preflight(Job(source, 0, bench.budget, bench.arena, *where))


# --------------------------------------------------------------------------------------------------
# What the command line calls


def run(bench, name, limits, share=(), network=True, others=()):
    """A night from its beginning, or where it was left, to its end; returns why it ended.

    others: places of the pool that work beside that of the bench.
    """
    name, benches = (
        clean_text(name.encode(errors="replace")),
        [bench, *map(bench.with_executor, others)],
    )
    for each in benches:
        each.check_seal()  # refuses before an agent is asked
    (bench.home / "runs/.stop").unlink(missing_ok=True)
    place = work_folder() / ".agents" / sha256(str(bench.home).encode())[:12]
    agent = None if name == "tuner" else Agent(name, place, share, network)
    try:
        return Night(benches, name, limits, agent).run()
    except BaseException:
        with suppress(Exception):  # not to hide why it ended
            if Journal(bench.home).verdicts():
                morning(bench)
        raise


def morning(bench):
    """The summary of the last night, as Markdown; written to runs/morning.md, too."""
    keep_summary(bench.home, text := summed_up(bench))
    return text


def summed_up(bench):
    """The summary of the last night, as Markdown."""
    return summary(bench.read_campaign(), Journal(bench.home).night())


def keep_summary(home, text):
    """Write the summary to runs/morning.md. Raises Full when there is no room."""
    replace_file(home / "runs/morning.md", text)


def status(home):
    """{what: how it stands} of the last night."""
    journal, known = Journal(home), Ledger(home).experiments()
    events, answers = journal.night(), journal.answers()
    if not events:
        return {"night": "there was none"}
    kept = sum(event["kind"] == "done" and event["outcome"] == "keep" for event in events)
    begun = [event for event in events if event["kind"] in ("begins", "resumes")][-1]
    since = [e for e in known.values() if e.n > begun["baseline"]]
    open_tries = sorted(e.n for e in since if not e.closes and e.role == "try")
    runs = events[-1]["kind"] not in ("ends", "pauses") and is_command_running(home)
    found = {"night": "runs" if runs else "does not run"}
    if events[-1]["kind"] == "ends":
        found["ended"] = events[-1]["why"]
    active = active_seconds(events + [{"kind": "now", "time": utc_now()}] * runs)
    used = run_progress.night_progress(
        spent_by(journal, known.values(), active), Limits(**begun["limits"])
    )
    found |= {"agent": events[0]["agent"], "began": events[0]["time"], "used": used}
    found |= {"hours": round(active / 3600, 2), "calls": len(answers)}
    found |= {"ideas": sum(event["outcome"] == "idea" for event in answers)}
    found |= {"verdicts": len(journal.verdicts()), "kept": kept}
    for n in open_tries:
        e = known[n]
        found[f"experiment {n}"] = (
            f"{state_of(e, home)}, runs so far {len(e.runs)}, {quote_text(e.idea)}"
        )
    return found


def stop(home):
    """Ask a night that runs to end. Raises Refused."""
    if not is_command_running(home):
        raise Refused("nothing runs in this repository: there is nothing to stop")
    (home / "runs/.stop").touch()
