"""Models on the same examples: who is right where, redrawn, and intervals of what differs.

Axes: S students, n baselines, N examples, G groups, B resamples.
"""

import numpy as np

from kdlib.auditing.halves import halves_of
from kdlib.evidence.counts import label_margin
from kdlib.evidence.resample import Groups, average_means, degrees_of_examples, mean_blocks, reduced
from kdlib.evidence.stats import interval, welch


class Compared:
    """Models on the same examples: which is right where.

    found: {role: [Outputs, one per network]}; a single teacher stands beside every student."""

    def __init__(self, y, found, classes, members, w, resamples, seed):
        self.y, self.found, self.members, self.w = y, found, members, w
        self.draws = {"weights": w, "resamples": resamples, "seed": seed}
        self.predicted = {role: np.array([x.predicted for x in of]) for role, of in found.items()}
        self.right = {role: values == y for role, values in self.predicted.items()}
        self.scored = {role: all(x.scored for x in of) for role, of in found.items()}
        log_p = [  # of classes alone, as if the model were certain of them
            x.log_p_label if x.scored else np.where(x.predicted == y, 0, -np.inf)
            for x in found["teacher"]
        ]
        self.margin = label_margin(log_p, classes)  # gamma_avg of the label, (T, N)
        self.reference = "baseline" if "baseline" in found else "teacher"
        self.seeds = len(found["student"])
        self.baselines = len(found.get("baseline", ()))
        # beside one student the gains over each baseline are the networks
        self.over_each = self.seeds == 1 and self.baselines > 1
        # whether every network that is scored in the groups that gain least has others to choose
        of_reference = len(found[self.reference])
        self.chosen_by_others = self.seeds > 1 and of_reference > 1
        self.df = degrees_of_examples(members, w)
        self.half = halves_of(members, len(y), seed)
        side = self.half == np.arange(2)[:, None]
        self.weight_of_halves = np.array([members.sums(w * some) for some in side])  # (2, G)

    def same(self):
        """(T, n) bool: which baselines predict what a teacher predicts, everywhere."""
        teachers = self.predicted["teacher"]
        others = self.predicted.get("baseline", teachers[:0])
        return (teachers[:, None] == others).all(axis=-1)

    def averages(self, values):
        """GroupMeans (S,) of values (S, N), every group alike."""
        return average_means(values, self.members, **self.draws)

    def everybody(self):
        """{role: GroupMeans (S,)} of the accuracy in per cent, every example alike."""
        rights = np.concatenate(list(self.right.values()))
        means = 100 * average_means(rights, Groups.everybody(len(self.y)), **self.draws)
        ends = np.cumsum([0, *map(len, self.right.values())])
        parts = map(slice, ends[:-1], ends[1:])
        return {role: means.seeds(some) for role, some in zip(self.right, parts, strict=True)}

    def of_halves(self, reduce):
        """{name: GroupMeans} of what `reduce` makes of {role, or "margin": (..., S, 2, G)}.

        These are accuracies, and the margin of each teacher, on halves of the examples."""
        rows = {**self.right, "margin": self.margin}
        ends = np.cumsum([len(values) for values in rows.values()])

        def by_role(means):
            return reduce(dict(zip(rows, np.split(means, ends[:-1], axis=-3), strict=True)))

        values = np.concatenate(list(rows.values()))
        return reduced(mean_blocks(values, self.members, half=self.half, **self.draws), by_role)

    def gain(self, of, df):
        """Interval of a gain, {role: GroupMeans (S,)}: over baselines, or each over its teacher."""
        mine, other = of["student"], of[self.reference]
        if self.baselines:
            return welch(mine, other, df).within(-100, 100)
        return interval(*(mine - other), alone=df).within(-100, 100)

    def ranked(self, found):
        """Interval of GroupMeans (S,) of gains over the mean baseline, or (n,): see over_each."""
        beside = 1 if self.over_each else self.baselines
        return interval(*found, beside, self.df)

    def picked(self, found):
        """Interval of GroupMeans (S, n): of each student over each baseline, or its teacher."""
        if self.seeds == 1 or self.baselines < 2:
            return self.ranked(found.map(self.of_networks)).within(-100, 100)
        students = found.map(lambda gains: gains.mean(axis=-1))
        over_all = students.map(lambda gains: gains.mean(axis=-1, keepdims=True))
        # a higher baseline is a lower gain; the level is in the students' mean already
        baselines = over_all - found.map(lambda gains: gains.mean(axis=-2))
        return welch(students, baselines, self.df).within(-100, 100)

    def of_networks(self, gains):
        """(..., S, n) -> (..., S), or of one student and several baselines (..., n)."""
        return gains[..., 0, :] if self.over_each else gains.mean(axis=-1)

    def over_reference(self, students, others):
        """Gains (..., S, ...) of students (..., S, 2, M) over the mean of others (..., n, 2, M).

        others (..., S or 1, n, 2, M): beside each student. Of one student and several baselines,
        (..., n, 2, M): over each."""
        if self.over_each:
            return students - others[..., 0, :, :, :]
        return students - others.mean(axis=-3)
