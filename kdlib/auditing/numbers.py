"""The numbers of an audit: gains by group, tests, resampled statistics, transfer, calibration.

What is counted and how it varies: evidence, as on the pages of a study. Axes: S students, n
baselines, N examples, G groups, B resamples. Groups may overlap and examples have weights.
"""

import functools
import warnings

import numpy as np

from kdlib.auditing.halves import crossed_correlation, halves_of, lowest, lowest_same, over_halves
from kdlib.auditing.tables import (
    CHANGED,
    FEWEST,
    bucket_table,
    calibration,
    group_table,
    limits,
    transfer_table,
)
from kdlib.evidence.counts import (
    BUCKETS,
    MARGIN_BUCKETS,
    beyond_accuracy,
    buckets,
    copied_by_pool,
    copied_share,
    label_margin,
    thirds,
)
from kdlib.evidence.resample import (
    GroupMeans,
    Groups,
    degrees_of_examples,
    effective_number,
    group_means,
    stack,
)
from kdlib.evidence.stats import fisher, from_fisher, interval, welch


class Compared:
    """Models on the same examples: who is right where, as measured and resampled.

    found: {role: [Outputs, one per network]}; a single teacher stands beside every student."""

    def __init__(self, y, found, classes, members, w, resamples, seed):
        self.y, self.found, self.members, self.w = y, found, members, w
        self.draws = {"weights": w, "resamples": resamples, "seed": seed}
        self.predicted = {role: np.array([x.predicted for x in of]) for role, of in found.items()}
        self.right = {role: values == y for role, values in self.predicted.items()}
        self.scored = {role: all(x.scored for x in of) for role, of in found.items()}
        self.margin = np.array([_margin(x, y, classes) for x in found["teacher"]])
        self.reference = "baseline" if "baseline" in found else "teacher"
        self.seeds = len(found["student"])
        self.baselines = len(found.get("baseline", ()))
        # beside one student the gains over each baseline are the networks
        self.pooled = self.baselines > 0 and not (self.seeds == 1 and self.baselines > 1)
        self.df = degrees_of_examples(members, w)
        half = halves_of(members, len(y), seed)
        side = half == np.arange(2)[:, None]
        self.weight_of_halves = np.array([members.sums(w * some) for some in side])  # (2, G)
        rows = {**self.right, "margin": self.margin}
        means = group_means(np.concatenate(list(rows.values())), members, half=half, **self.draws)
        self.halves = {}  # {role, or margin: GroupMeans (S, 2, G)}
        start = 0
        for name, values in rows.items():
            some = slice(start, start + len(values))
            self.halves[name] = GroupMeans(means.observed[some], means.resampled[:, some])
            start += len(values)

    def means(self, values):
        """GroupMeans (S, G) of values (S, N)."""
        return group_means(values, self.members, **self.draws)

    @functools.cached_property
    def accuracy(self):
        """{role: GroupMeans (S, G)} in per cent."""
        return {
            role: 100 * self.halves[role].map(over_halves, weight=self.weight_of_halves)
            for role in self.right
        }

    @functools.cached_property
    def gain_of_halves(self):
        """GroupMeans (S, 2, G) in points: each student less its teacher, or the mean baseline.

        Of one student and several baselines, (n, 2, G): the student less each baseline."""
        other = self.halves[self.reference]
        if self.pooled:
            observed = other.observed.mean(axis=0, keepdims=True)
            other = GroupMeans(observed, other.resampled.mean(axis=1, keepdims=True))
        return 100 * (self.halves["student"] - other)

    def gain(self, of, statistic, df):
        """Interval of a mean over groups: students less baselines, or each less its teacher."""
        mine, other = of["student"], of[self.reference]
        if self.baselines:
            return welch(mine.map(statistic), other.map(statistic), df).within(-100, 100)
        return interval(*(mine - other).map(statistic), alone=df).within(-100, 100)

    def chosen(self, statistic, *others):
        """Interval of a statistic of the gains on halves, one of which chooses."""
        found = self.gain_of_halves.map(statistic, *others)
        beside = self.baselines if self.pooled else min(1, self.baselines)
        return interval(*found, beside, self.df).within(-100, 100)


def numbers(
    y, found, classes, members, w, train_counts=None, edges=(100, 20), k=1, resamples=1000, seed=0
):
    """{field: value} of an audit.Audit.

    y: labels (N,). found: {role: [Outputs, one per network]}, of teachers one, or one per student.
    classes: how many. members: Groups. w: weights (N,). train_counts (G,): training examples, for
    the buckets, cut at edges. k: of the worst-k metrics. seed: of the resamples and halves."""
    with np.errstate(invalid="ignore", divide="ignore"), _quiet():
        of = Compared(y, found, classes, members, w, resamples, seed)
        groups = group_table(of, train_counts, edges)
        metrics = _accuracies(of, k) | _gains(of, k) | _copies(of)
        gains = _gains_by_bucket(of, train_counts, edges, metrics)
    calibrated = calibration(of, groups)
    whole = calibrated[calibrated.place == "all"].set_index("role")
    for what in CHANGED[of.reference]:
        metrics[f"groups_{what}"] = int((groups.finding == what).sum())
    for role in whole.index:
        for what in ("calibration_error", "log_loss"):
            metrics[f"{role}_{what}"] = float(whole[what][role])
    return {
        "reference": of.reference,
        "scored": of.scored,
        "n": len(y),
        "seeds": of.seeds,
        "disjoint": members.disjoint,
        "metrics": metrics,
        "groups": groups,
        "buckets": bucket_table(gains, groups),
        "transfer": transfer_table(of),
        "calibration": calibrated,
        "worst": k,
        "bucketed_by": "the teacher's margin" if train_counts is None else "training examples",
        "limits": limits(of, groups, train_counts, metrics),
    }


def _margin(x, y, classes):
    """gamma_avg of the label, (N,), of one Outputs.

    Where only classes are known, as if the model were certain of them."""
    if x.scored:
        return label_margin(x.log_p_label, classes)
    with np.errstate(divide="ignore"):
        return label_margin(np.log(x.predicted == y), classes)


def _quiet():
    # mean of nothing: NaN, which is meant
    return warnings.catch_warnings(action="ignore", category=RuntimeWarning)


# ---------------------------------------------------------------- metrics


def _accuracies(of, k):
    """{name: Interval}: accuracy of each model, and the gain, every example or group alike."""
    w, everybody = of.w, Groups.everybody(len(of.y))
    df = max(1.0, effective_number(w) - 1)

    def whole(values):
        return values[..., 0]

    overall = {role: 100 * group_means(of.right[role], everybody, **of.draws) for role in of.right}
    out = {}
    for role in of.right:
        by_group, halves = of.accuracy[role], 100 * of.halves[role]
        for name, means, its in (
            ("accuracy", overall[role].map(whole), df),
            ("average", by_group.mean(), of.df),
            ("worst_k", halves.map(lowest, k=k), of.df),
            ("worst_k_same", by_group.map(lowest_same, k=k), of.df),
        ):
            out[f"{role}_{name}"] = interval(*means, alone=its).within(0, 100)
    out["overall_gain"] = of.gain(overall, whole, df)
    out["average_gain"] = of.gain(of.accuracy, lambda values: values.mean(axis=-1), of.df)
    return out


def _gains(of, k):
    """{name: Interval} of what is picked or ranked among the groups; {} of too few."""
    if len(of.members.names) < FEWEST:
        return {}
    z = of.chosen(lambda g, m: fisher(crossed_correlation(m, g)), of.halves["margin"])
    lowest_gain = of.chosen(lambda gains: lowest(gains, k))
    return {"worst_k_gain": lowest_gain, "margin_gain_correlation": from_fisher(z)}


def _gains_by_bucket(of, train_counts, edges, metrics):
    """{bucket: Interval} of the gain; adds that of the lowest bucket to the metrics."""
    if len(of.members.names) < FEWEST:
        return {}
    if train_counts is None:
        margin = of.halves["margin"]

        def by_half(gains, margins):
            """(..., S, 2, buckets): on each half, the mean gain of the thirds of the other."""
            third, gains = thirds(margins), gains[..., ::-1, :]
            return np.stack([_where(gains, third == b) for b in range(3)], axis=-1)

        found = {
            name: of.chosen(lambda g, m, b=b: np.nanmean(by_half(g, m)[..., b], axis=-1), margin)
            for b, name in enumerate(MARGIN_BUCKETS)
        }
        low = of.chosen(lambda g, m: lowest(by_half(g, m), 1), margin)
    else:
        bucket = buckets(train_counts, edges)
        used = [b for b in range(len(BUCKETS)) if (bucket == b).any()]
        shares = {BUCKETS[b]: (bucket == b) / (bucket == b).sum() for b in used}
        found = {
            name: of.gain(of.accuracy, lambda values, share=share: (values * share).sum(-1), of.df)
            for name, share in shares.items()
        }

        def by_half(gains):
            return np.stack([_where(gains, bucket == b) for b in used], axis=-1)

        low = of.chosen(lambda gains: lowest(by_half(gains), 1))
    metrics["worst_bucket_gain"] = low
    return found


def _copies(of):
    """{name: Interval}: how often the teacher's wrong label is given, as F3b of a study."""
    teachers = of.predicted["teacher"]
    of_student = [teachers[s % len(teachers)] for s in range(of.seeds)]

    def share(teacher, predicted):
        return copied_share(teacher, predicted, of.y, of.means)

    students = of.predicted["student"]
    own = [share(of_student[s], students[s][None]).seeds(0) for s in range(of.seeds)]
    out = {"student_copies": interval(*stack(own), alone=of.df).within(0, 100)}
    if not of.baselines:
        return out
    baselines = of.predicted["baseline"]
    keep = (teachers[:, None] != baselines).any(axis=-1)  # a network is no copy of itself
    if not keep.any(axis=1).all():
        return out
    pool = [share(teacher, baselines) for teacher in teachers]
    of_teacher, of_baseline = copied_by_pool(pool, keep)
    of_teacher = of_teacher.seeds([s % len(teachers) for s in range(of.seeds)])
    out["baseline_copies"] = interval(*of_baseline, alone=of.df).within(0, 100)
    errors = {role: of.accuracy[role].mean() * -1 + 100 for role in ("student", "baseline")}
    error_of_pool = errors["baseline"].seeds(keep.any(axis=0))
    mine, other = beyond_accuracy(
        stack(own), of_teacher, of_baseline, errors["student"], error_of_pool
    )
    found = welch(mine, other, of.df)
    if not found.estimate < -100:  # else baselines hardly err, and what they would copy is no share
        out["copied_excess"] = found.within(-100, 100)
    return out


def _where(values, chosen):
    """Mean over the chosen of the trailing axis; NaN does not count."""
    kept = chosen & ~np.isnan(values)
    return np.where(kept, values, 0).sum(axis=-1) / kept.sum(axis=-1)
