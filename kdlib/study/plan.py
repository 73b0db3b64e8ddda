"""Which runs come next, and which go together in lockstep. It starts nothing.

What became of a run is noted when it ends: to ask the disk about each of 10,000 runs at each step
would be too much for a shared folder."""

import bisect
import itertools
import math
import time

from tqdm import tqdm  # tqdm.auto warns in notebooks without ipywidgets

from kdlib.config import count_of

# Seconds between two looks at runs that others are doing: a tenth of the wait so far, but no fewer
# than OFTEN and no more than RARELY.
OFTEN, RARELY = 0.3, 5.0
SOME = 20  # how many of them one look is at


class Plan:
    """Runs to be done: those whose teachers are on record, in order, and in time."""

    def __init__(self, todo, exists, deadline=None, alone=None, shares=None, free=lambda cfg: True):
        """exists(cfg): whether a run is on record. deadline: time.monotonic() at which time is up.

        alone: seconds of each key by itself, for a deadline; shares: beside others; free(cfg):
        whether no process has claimed a run."""
        self.runs = {cfg.key(): cfg for cfg in todo}
        self.exists, self.deadline = exists, deadline
        self.alone, self.shares = alone or {}, shares or {}
        self.free = free
        self.running = []
        self.others = {}  # key: run that others are doing; the one looked at last comes last
        self.done = set()  # keys of runs that are on record now
        self.taken = self.expected = 0.0
        self._failed = set()  # keys of runs that ended without a record
        self._told = False  # whether it was said that this process waits
        self._began = self._looked = 0.0  # when the wait for others began; the last look at them
        self._place = {key: place for place, key in enumerate(self.runs)}
        self._ready = []  # keys, in order
        self._teacher = {}  # key: key of its teacher
        self._awaited = {}  # key of a run that is not on record: (the run, keys that wait for it)
        self._missing = {}  # key: how many runs it waits for
        known = {}  # key of a run that is needed but not planned: whether it is on record
        for key, cfg in self.runs.items():
            self._enter(key, cfg.dependencies(), known)

    def _enter(self, key, dependencies, known):
        if dependencies:
            self._teacher[key] = dependencies[0].key()
        for needed in dependencies:
            of = needed.key()
            if of not in self.runs and of not in known:
                known[of] = self.exists(needed)
            if not known.get(of):
                self._awaited.setdefault(of, (needed, []))[1].append(key)
                self._missing[key] = self._missing.get(key, 0) + 1
        if key not in self._missing:
            self._ready.append(key)

    @property
    def pending(self):
        """Runs that were not begun, here or elsewhere, in order."""
        keys = sorted([*self._ready, *self._missing], key=self._place.get)
        return [self.runs[key] for key in keys]

    def next(self, most):
        """At most `most` runs, which count as running from then on.

        Those that do not fit into the time that is left are passed over, and those that another
        process has done meanwhile are not begun. Students of a teacher whose students are running,
        here or elsewhere, come last: they would wait until its table is filled."""
        self._look_elsewhere()
        while True:
            chosen = self._choice(most)
            if not chosen and self._look_for_teachers():
                continue
            there = [cfg for cfg in chosen if self.exists(cfg)]
            for cfg in there:
                self._leave(cfg.key())
                self._is_done(cfg.key())
            if not there:
                break
        self.running = [*self.running, *chosen]
        for cfg in chosen:
            self._leave(cfg.key())
        return chosen

    def left(self):
        """Seconds until time is up."""
        return math.inf if self.deadline is None else self.deadline - time.monotonic()

    def _choice(self, most):
        """Runs that could begin now."""
        left = self.left()
        ready = self._fitting(left)
        if most > 1:
            ready = self._alike(list(ready), most)
        chosen = []
        for cfg in itertools.islice(ready, most):
            if left == math.inf or self.needs([*chosen, cfg]) <= left:
                chosen.append(cfg)
        return chosen

    def _fitting(self, left):
        """The runs that are ready and fit into the seconds left; those of busy teachers last."""
        keys = [*(cfg.key() for cfg in self.running), *self.others]
        busy = {self._teacher[key] for key in keys if key in self._teacher}
        last = []
        for key in self._ready:
            cfg = self.runs[key]
            if left < math.inf and self.needs([cfg]) > left:
                continue
            if self._teacher.get(key) in busy:
                last.append(cfg)
            else:
                yield cfg
        yield from last

    def _alike(self, ready, most):
        """A group for a lockstep, of one length and one network.

        A longer run would go on alone, a larger network keep others waiting."""
        if not ready:
            return []
        # teachers first: then all students of a seed can go together
        ready = sorted(ready, key=lambda c: c.key() not in self._awaited)
        group = [c for c in ready if (c.epochs, c.student) == (ready[0].epochs, ready[0].student)]
        # ten, where nine may go together: five and five
        groups = math.ceil(len(group) / most)
        return group[: math.ceil(len(group) / groups)]

    def ended(self, configs):
        """These no longer run: they are done, or else they failed."""
        for cfg in configs:
            if self.exists(cfg):
                self._is_done(cfg.key())
            else:
                self._failed.add(cfg.key())
        self._stop(configs)

    def came(self, configs, outcome):
        """This Outcome (of experiment.py) came of runs that were begun together."""
        mine = [cfg for cfg in configs if cfg not in outcome.elsewhere]
        if mine and not outcome.failures:
            self.took(mine, outcome.seconds)
        self.elsewhere(outcome.elsewhere)
        self.ended(mine)

    def _stop(self, configs):
        keys = {cfg.key() for cfg in configs}
        self.running = [cfg for cfg in self.running if cfg.key() not in keys]

    def put_back(self, configs):
        """These were not done after all, and return to their old places."""
        for cfg in configs:
            self._comes(cfg.key())
        self._stop(configs)

    def elsewhere(self, configs):
        """Another process is doing these: they come again if its claims end without a record."""
        if not self.others:
            self._began = self._looked = time.monotonic()
        self.others |= {cfg.key(): cfg for cfg in configs}
        self._stop(configs)

    def waits(self):
        """Whether all that is left to do here is to wait for runs that others are doing."""
        return bool(self.others) and not self.running and self.left() > 0

    def pause(self):
        """Seconds until the next look at runs that others are doing; None if there are none."""
        if not self.others:
            return None
        every = min(RARELY, max(OFTEN, (self._looked - self._began) / 10))
        return max(0.0, min(self._looked + every - time.monotonic(), self.left()))

    def wait(self):
        """Sleep until that look. The first time, say what is waited for."""
        if not self._told:
            self._told = True
            runs = count_of(len(self.others), "run")
            tqdm.write(f"waiting for {runs} being done by other processes")
        time.sleep(self.pause() or 0.0)

    def _look_elsewhere(self):
        """If it is time, see which of some runs that others are doing are done or free again."""
        if self.pause() != 0.0:
            return
        self._looked = time.monotonic()
        for key in list(self.others)[:SOME]:
            cfg = self.others.pop(key)
            if self.exists(cfg):
                self._is_done(key)
            elif self.free(cfg):
                self._comes(key)
            else:
                self.others[key] = cfg
                continue
            self._began = self._looked

    def _look_for_teachers(self):
        """Note awaited runs that are not done here and are on record now; whether there are any."""
        there = []
        for key, (cfg, _) in self._awaited.items():
            if (key not in self.runs or key in self._failed) and self.exists(cfg):
                there.append(key)
        for key in there:
            self._is_done(key)
        return bool(there)

    def _is_done(self, key):
        """A run is on record: what waited for it alone is ready."""
        if key in self.runs:
            self.done.add(key)
        for waiting in self._awaited.pop(key, (None, []))[1]:
            self._missing[waiting] -= 1
            if not self._missing[waiting]:
                del self._missing[waiting]
                self._comes(waiting)

    def _comes(self, key):
        bisect.insort(self._ready, key, key=self._place.get)

    def _leave(self, key):
        del self._ready[bisect.bisect_left(self._ready, self._place[key], key=self._place.get)]

    def took(self, configs, seconds):
        """What finished runs took corrects the estimates of the others."""
        self.taken += seconds
        self.expected += self._expected(configs)

    def needs(self, configs):
        """Seconds of a lockstep of runs, as far as is known; without a deadline nothing is."""
        slower = max(0.2, self.taken / self.expected) if self.expected else 1.0
        return slower * self._expected(configs)

    def _expected(self, configs):
        """Their shares, but no less than the longest of them takes alone."""
        keys = [c.key() for c in configs]
        shares = sum(self.shares.get(key, 0.0) for key in keys)
        return max(shares, *(self.alone.get(key, 0.0) for key in keys))
