"""Simulated nights: ideas of known worth are tried by a rule until the runs are spent.

Only the simulation knows what an idea is worth. Every decision is made by the functions that the
referee calls: ratchet/experiments/verdicts.py, and rule/looks.py for the former rule. All runs
count: calibration, bar, search, trials, closing comparison. Unit: sigma, the true standard deviation
of a run; scores are lower where better. Gains of ideas add up, unless a world says otherwise. Sources
that run with the same seed have a part of their luck in common (ALIKE).
"""

import math
import sys
from collections import deque
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ratchet.experiments import verdicts
from ratchet.experiments.rule import looks
from ratchet.experiments.rule.statistics import (
    Noise,
    compare,
    compare_pairs,
    moments,
    pool_blocks,
    pool_noise,
)

RUNS, CALIBRATION = 470, 5  # of a night; of them, before the first idea
HARM = -0.5  # sigma: what gains less does harm
CRASH = 0.1  # of a run: a preflight ends what crashes
ALIKE = 0.5  # correlation of two sources' scores with one seed: budgets in seconds, quiet machine
LOUD = 3.0  # sigma: spread of the runs of a noisy idea
RUN_HOURS = 390 / 3600  # the former rule forgets by the hour


class Stop(NamedTuple):
    """How an idea's first run is read early, and stopped there if it lags. Gains are in sigma."""

    share: float = 0.5  # of its cost, when it is read; a start costs no more than the scoring saved
    rho: float = 0.0  # correlation of the reading's luck with the final score's
    bias_sd: float = 1.5  # sigma, of an idea's curve: it is ahead or behind by as much
    noise_sd: float = 1.1  # sigma, of the reading's luck
    least: float = 0.0  # sigma: it is stopped if the reading gains less


class Weather:
    """What a night's agent and machine bring, whatever the rule: ideas, luck, drift."""

    def __init__(self, prior, chance, runs=RUNS, drift=None, tails=0, overlap=0.0, alike=ALIKE):
        self.runs, self.overlap = runs, overlap  # of merged gains, the share that is lost
        self.of_seed, self.of_run = math.sqrt(alike), math.sqrt(1 - alike)  # weights of luck
        self.spent, self.ideas = 0.0, 0
        self.effects, marks = prior.draw(chance, 4 * runs), chance.random(4 * runs)
        self.crashes = (marks < prior.crashes).tolist()
        self.noisy = ((marks > 1 - prior.noisy) & (self.effects <= 0)).tolist()
        self.effects = self.effects.tolist()
        luck = chance.standard_t(tails, 4 * runs) if tails else chance.standard_normal(4 * runs)
        self.luck = iter((luck / math.sqrt(tails / (tails - 2)) if tails else luck).tolist())
        self.seeds = iter(chance.standard_normal(4 * runs).tolist())  # the luck that each brings
        self.aside = iter(chance.standard_normal(8 * runs).tolist())  # of early readings
        self.drift = drift(chance, runs).tolist() if drift else [0.0] * (runs + 1)

    def next_idea(self):
        """(effect, spread) of a fresh idea that runs, and how many crashed before it."""
        crashed = 0
        while self.crashes[self.ideas]:
            self.ideas, self.spent, crashed = self.ideas + 1, self.spent + CRASH, crashed + 1
        number, self.ideas = self.ideas, self.ideas + 1
        return self.effects[number], LOUD if self.noisy[number] else 1.0, crashed

    def drift_now(self):
        return self.drift[min(int(self.spent), self.runs)]

    def new_seed(self):
        """A fresh seed, which is the luck that it brings to every source."""
        return next(self.seeds)

    def draw_luck(self, seed):
        return self.of_seed * seed + self.of_run * next(self.luck)

    def score(self, level, spread=1.0, seed=None):
        """The score of a run, which is spent."""
        self.spent += 1
        luck = self.draw_luck(self.new_seed() if seed is None else seed)
        return level + spread * luck + self.drift_now()

    def first_score(self, level, spread, limit, stop, seed):
        """The score of an idea's first run; None where it is stopped, since it reads above the limit."""
        luck = spread * self.draw_luck(seed)
        own = math.sqrt(1 - stop.rho**2) * next(self.aside)
        reading = level - stop.bias_sd * next(self.aside)
        reading += stop.noise_sd * (stop.rho * luck + own) + self.drift_now()
        self.spent += stop.share if reading > limit else 1
        return None if reading > limit else level + luck + self.drift_now()


class Tally:
    """What a night did; gains in sigma."""

    def __init__(self, path=False):
        self.ideas = self.nulls = self.noisy = 0
        self.keeps = self.false = self.harmful = self.noisy_kept = 0
        self.true = self.claimed = self.closing = self.low = self.high = math.nan
        self.spent = self.delay = 0.0
        self.path = [(0.0, 0.0, 0.0)] if path else None  # (runs spent, claimed, true)

    def count_idea(self, effect, spread, crashed):
        self.ideas += 1 + crashed
        self.nulls += effect <= 0
        self.noisy += spread > 1

    def count_keep(self, effect, spread):
        self.keeps += 1
        self.false += effect <= 0
        self.harmful += effect < HARM
        self.noisy_kept += spread > 1

    def mark(self, spent, claimed, true):
        """A point of the night's path, if it is drawn; the last one is the night's end."""
        self.spent, self.claimed, self.true = spent, claimed, true
        if self.path is not None:
            self.path.append((spent, claimed, true))


class Idea:
    __slots__ = "effect", "spread", "base", "gains", "seeds", "running", "points", "began"

    def __init__(self, effect, spread, base, began):
        self.effect, self.spread, self.base, self.began = effect, spread, base, began
        self.gains, self.seeds, self.running, self.points = [], set(), False, 0.0


class Champion:
    def __init__(self, level, runs):
        self.level, self.scores = level, [score for _, score in runs]
        self.bar = verdicts.bar_of(self.scores)
        self.luck = {seed: score - self.bar.level for seed, score in runs}

    def add(self, seed, score):
        self.bar = self.bar.updated(score)
        self.scores.append(score)
        self.luck[seed] = score - self.bar.level


class Trial:
    def __init__(self, ideas, overlap):
        self.ideas, self.runs, self.asked = ideas, [], 0  # runs: [(seed, score)]
        self.effect = sum(idea.effect for idea in ideas) * (1 - overlap * (len(ideas) > 1))
        self.spread = max(idea.spread for idea in ideas)


class Night:
    """The rule: a bar, a search by points, trials of merged hits, a closing comparison.

    workers: runs at the same time; each begins with what is known then. What is kept loses its
    noise: else the next ideas would be measured against it.
    """

    def __init__(self, weather, profile, stop=None, workers=1, path=False):
        self.weather, self.profile, self.stop, self.workers = weather, profile, stop, workers
        seeds = [weather.new_seed() for _ in range(CALIBRATION)]
        self.champion = Champion(0.0, [(seed, weather.score(0.0, 1.0, seed)) for seed in seeds])
        self.squares, self.df = 0.0, 0  # of former champions' runs
        self.noise = pool_noise([self.champion.scores])
        self.open, self.hits, self.batches = [], [], []
        self.trial, self.measuring, self.claimed = None, False, 0.0
        self.tally = Tally(path)

    def play(self):
        """The whole night: its tally."""
        running = deque()
        while True:
            while len(running) < self.workers and (job := self.choose_run(len(running))):
                running.append(job)
            if not running:
                return self.close_night()
            finish, subject = running.popleft()
            finish(subject)

    def choose_run(self, pending):
        """The next run: (what is called when it ends, its subject); None when the night is over."""
        runs, weather = self.profile.runs, self.weather
        left = weather.runs - len(verdicts.CLOSING) - weather.spent - pending
        if not self.trial:
            self.begin_trial(left)
        if left < 1 or (not self.trial and left <= runs):  # a new hit would have no trial
            return None
        if self.champion.bar.variance > self.profile.most_variance and not self.measuring:
            self.measuring = True
            return self.run_champion, self.champion
        if self.trial and self.trial.asked < runs:
            self.trial.asked += 1
            return self.run_trial, self.trial
        return self.run_search, self.choose_idea()

    def begin_trial(self, left):
        """The next trial, if hits enough wait, or the night's last one if time presses."""
        runs, size = self.profile.runs, self.profile.batch
        if not self.batches and (len(self.hits) >= size or (self.hits and left < runs + 3)):
            self.batches, self.hits = [self.hits[:size]], self.hits[size:]
        if self.batches and left > runs:
            self.trial = Trial(self.batches.pop(0), self.weather.overlap)

    def choose_idea(self):
        """The open idea with most points, else a fresh one."""
        idle = [idea for idea in self.open if not idea.running]
        if idle:
            idea = max(idle, key=lambda idea: idea.points)
        else:
            effect, spread, crashed = self.weather.next_idea()
            self.tally.count_idea(effect, spread, crashed)
            idea = Idea(effect, spread, self.champion, self.weather.spent)
        idea.running = True
        return idea

    def drift_bar(self):
        self.champion.bar = self.champion.bar.drifted()

    def score_idea(self, idea):
        """(score, the champion's luck with its seed) of an idea's run; None where it was stopped.

        An idea takes the seeds of its champion in an order of its own.
        """
        level, champion, weather = idea.base.level - idea.effect, idea.base, self.weather
        unused = champion.luck.keys() - idea.seeds
        order = {seed: hash((idea.began, seed)) for seed in unused}
        seed = min(order, key=order.__getitem__) if order else weather.new_seed()
        idea.seeds.add(seed)
        luck = champion.luck.get(seed, 0.0)
        if not self.stop or idea.gains:
            return weather.score(level, idea.spread, seed), luck
        limit = champion.bar.level - self.stop.least * self.noise.sigma
        score = weather.first_score(level, idea.spread, limit, self.stop, seed)
        return score if score is None else (score, luck)

    def run_search(self, idea):
        run, fresh = self.score_idea(idea), not idea.gains
        idea.running = False
        if run is None:
            return
        self.drift_bar()
        bar, score = idea.base.bar, verdicts.without_luck(*run)
        idea.gains.append(verdicts.gain_over(bar, score, self.noise.sigma))
        verdict = verdicts.decide_search(idea.gains, bar.variance, self.profile).verdict
        if verdict == "hit":
            self.hits.append(idea)
        if verdict and not fresh:
            self.open.remove(idea)
        if not verdict:
            idea.points = verdicts.count_points(idea.gains, bar.variance, self.profile)
            self.open += [idea] * fresh

    def run_champion(self, champion):
        seed = self.weather.new_seed()
        score = self.weather.score(champion.level, 1.0, seed)
        self.drift_bar()
        if champion is not self.champion:  # another was kept while it ran
            return
        champion.add(seed, score)
        self.measuring = False
        self.pool_sigma()

    def pool_sigma(self):
        """Sigma from all champions' runs: pool_noise() of their groups, with old sums kept."""
        squares = self.squares + moments(self.champion.scores)[1]
        df = self.df + len(self.champion.scores) - 1
        self.noise = Noise(math.sqrt(squares / df), df)

    def run_trial(self, trial):
        seed, level = self.weather.new_seed(), self.champion.level - trial.effect
        trial.runs.append((seed, self.weather.score(level, trial.spread, seed)))
        self.drift_bar()
        bar, noise, scores = self.champion.bar, self.noise, [score for _, score in trial.runs]
        verdict = verdicts.decide_trial(scores, bar, noise, self.profile).verdict
        if verdict:
            self.trial = None
        if verdict == "keep":
            self.keep_batch(trial)
        elif verdict and len(trial.ideas) > 1:
            self.batches = [[idea] for idea in trial.ideas] + self.batches

    def keep_batch(self, trial):
        old, spent = self.champion, self.weather.spent
        self.squares += moments(old.scores)[1]
        self.df += len(old.scores) - 1
        self.champion, self.measuring = Champion(old.level - trial.effect, trial.runs), False
        self.claimed += old.bar.level - self.champion.bar.level
        self.pool_sigma()
        for idea in trial.ideas:
            self.tally.count_keep(idea.effect, idea.spread)
            self.tally.delay += spent - idea.began
        self.tally.mark(spent, self.claimed, -self.champion.level)

    def close_night(self):
        """The closing comparison, which is the night's claim."""
        sides = {"A": (self.champion.level, {}), "B": (0.0, {})}
        seeds = [self.weather.new_seed() for _ in verdicts.CLOSING[::2]]
        for number, side in enumerate(verdicts.CLOSING):
            level, scores = sides[side]
            seed = seeds[number // 2]
            scores[seed] = self.weather.score(level, 1.0, seed)
        new, old = sides["A"][1], sides["B"][1]
        closing, tally = compare_pairs(new, old, pool_blocks([new, old])), self.tally
        tally.closing, tally.low, tally.high = closing.gain, closing.low, closing.high
        tally.mark(self.weather.spent, self.claimed, -self.champion.level)
        return tally


def play_greedy(weather, stop=None, path=False):
    """One run each; a number below the best so far is kept."""
    tally, level, least = Tally(path), 0.0, stop.least if stop else 0.0
    first = best = weather.score(level)
    while weather.spent < weather.runs:
        effect, spread, crashed = weather.next_idea()
        tally.count_idea(effect, spread, crashed)
        if stop:
            seed = weather.new_seed()
            score = weather.first_score(level - effect, spread, best - least, stop, seed)
        else:
            score = weather.score(level - effect, spread)
        if score is not None and score < best:
            best, level = score, level - effect
            tally.count_keep(effect, spread)
            tally.mark(weather.spent, first - best, -level)
    tally.mark(weather.spent, first - best, -level)
    return tally


class Former:
    """The former rule: a screening run, then champion and candidate in turns, with looks."""

    def __init__(self, weather, path=False):
        self.weather, self.tally = weather, Tally(path)
        self.level, self.claimed = 0.0, 0.0
        self.runs, self.proof = [], 0  # the champion's (seconds, score); those it was kept by
        self.squares, self.df = 0.0, 0  # of former champions' runs
        for _ in range(CALIBRATION):
            self.run_champion()

    def seconds(self):
        return self.weather.spent * RUN_HOURS * 3600

    def run_champion(self):
        self.runs.append((self.seconds(), self.weather.score(self.level)))

    def pool_sums(self):
        """Squares and degrees of freedom of all champions' runs, less those they were kept by."""
        scores = [score for _, score in self.runs[self.proof :]]
        if not scores:
            return self.squares, self.df
        return self.squares + moments(scores)[1], self.df + len(scores) - 1

    def recent_scores(self):
        return looks.recent_scores(self.runs[-looks.RECENT :], self.seconds())

    def play(self):
        """The whole night: its tally."""
        weather = self.weather
        while weather.spent < weather.runs:
            effect, spread, crashed = weather.next_idea()
            self.tally.count_idea(effect, spread, crashed)
            self.run_experiment(effect, spread)
        self.tally.mark(weather.spent, self.claimed, -self.level)
        return self.tally

    def run_experiment(self, effect, spread):
        squares, df = self.pool_sums()
        noise, weather = Noise(math.sqrt(squares / df), df), self.weather
        if not self.recent_scores():
            self.run_champion()
        earlier, begin, level = self.recent_scores(), len(self.runs), self.level - effect
        if not looks.passes_screen(weather.score(level, spread), earlier, noise):
            return
        scores, arm, verdict = [], [], ""
        while not verdict and weather.spent < weather.runs:
            if len(scores) % 2 == 0:
                scores.append(weather.score(level, spread))
                self.run_champion()
            else:
                self.run_champion()
                scores.append(weather.score(level, spread))
            arm = earlier + [score for _, score in self.runs[begin:]]
            verdict = looks.decide(scores, arm, noise).verdict
        if verdict == "keep":
            self.claimed += compare(scores, arm, noise).gain
            self.keep_candidate(effect, spread, scores)

    def keep_candidate(self, effect, spread, scores):
        self.squares, self.df = self.pool_sums()
        self.level -= effect
        self.runs, self.proof = [(self.seconds(), score) for score in scores], len(scores)
        self.tally.count_keep(effect, spread)
        self.tally.mark(self.weather.spent, self.claimed, -self.level)
