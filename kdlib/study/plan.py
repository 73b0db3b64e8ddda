"""Which runs come next, and which go together in lockstep. It starts nothing."""

import math
import time


class Plan:
    """Runs to be done: those whose teachers are on record, in order, and in time."""

    def __init__(self, todo, exists, deadline=None, alone=None, shares=None):
        """exists(cfg): whether a run is on record. deadline: time.time() at which time is up.

        alone: seconds of each key by itself, for a deadline; shares: beside others."""
        self.pending, self.running = list(todo), []
        self.exists, self.deadline = exists, deadline
        self.alone, self.shares = alone or {}, shares or {}
        self.taken = self.expected = 0.0

    def next(self, most):
        """At most `most` runs, which are then running. What does not fit into the time stays.

        Students of a teacher whose students are running come last, because one process fills a
        teacher's table and a second would wait for it."""
        left = self.deadline - time.time() if self.deadline else math.inf
        busy = {c.teacher_config() for c in self.running if c.teacher}
        ready = [c for c in self.pending if all(map(self.exists, c.dependencies()))]
        ready = [c for c in ready if self.needs([c]) <= left]
        ready.sort(key=lambda c: c.teacher is not None and c.teacher_config() in busy)  # stable
        if most > 1 and ready:
            ready = self._alike(ready, most)
        chosen = []
        for cfg in ready[:most]:
            if self.needs([*chosen, cfg]) <= left:
                chosen.append(cfg)
        self.running = [*self.running, *chosen]  # first: another thread looks at both
        self.pending = [c for c in self.pending if c not in chosen]
        return chosen

    def _alike(self, ready, most):
        """A group for a lockstep, of one length and one network.

        A longer run would go on alone, a larger network keep others waiting."""
        awaited = {d for c in self.pending for d in c.dependencies()}
        # teachers first: then all students of a seed can go together
        ready = sorted(ready, key=lambda c: c not in awaited)
        group = [c for c in ready if (c.epochs, c.student) == (ready[0].epochs, ready[0].student)]
        # ten, where nine may go together: five and five
        groups = math.ceil(len(group) / most)
        return group[: math.ceil(len(group) / groups)]

    def ended(self, configs):
        """These are running no more, whatever came of them."""
        self.running = [c for c in self.running if c not in configs]

    def put_back(self, configs):
        """These were not done after all, and come first."""
        self.ended(configs)
        self.pending[:0] = configs

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
