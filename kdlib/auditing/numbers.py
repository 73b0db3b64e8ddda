"""The numbers of an audit: gains by group, tests, resampled statistics, transfer, calibration.

What is counted and how it varies: evidence, as on the pages of a study. Axes: S students, n
baselines, N examples, G groups, B resamples. Groups may overlap and examples have weights.
"""

import functools
import warnings

import numpy as np
import pandas as pd

from kdlib.evidence.counts import (
    BUCKETS,
    CELLS,
    PAIRED,
    alike,
    beyond_accuracy,
    buckets,
    calibration_error,
    copied_by_pool,
    copied_share,
    label_margin,
    outcomes,
    thirds,
)
from kdlib.evidence.resample import (
    GroupMeans,
    Groups,
    degrees_of_examples,
    effective_number,
    group_means,
    halves_of,
    over_halves,
    stack,
)
from kdlib.evidence.significance import change
from kdlib.evidence.stats import (
    fisher,
    from_fisher,
    interval,
    rank_correlation,
    welch,
    worst,
)

# thirds of the groups by the teacher's margin
MARGIN_BUCKETS = ("teacher strong", "teacher middling", "teacher weak")
FEWEST = 3  # groups, below which nothing is picked or ranked


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
        """GroupMeans (S, 2, G) in points: each student less its teacher, or the mean baseline."""
        other = self.halves[self.reference]
        if self.baselines:
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
        return interval(*found, self.baselines, self.df).within(-100, 100)


def numbers(
    y, found, classes, members, w, train_counts=None, edges=(100, 20), k=1, resamples=1000, seed=0
):
    """{field: value} of an audit.Audit.

    y: labels (N,). found: {role: [Outputs, one per network]}, of teachers one, or one per student.
    classes: how many. members: Groups. w: weights (N,). train_counts (G,): training examples, for
    the buckets, cut at edges. k: of the worst-k metrics. seed: of the resamples and halves."""
    with np.errstate(invalid="ignore", divide="ignore"), _quiet():
        of = Compared(y, found, classes, members, w, resamples, seed)
        groups = _group_table(of, train_counts, edges)
        metrics = _accuracies(of, k) | _gains(of, k) | _copies(of)
        gains = _gains_by_bucket(of, train_counts, edges, metrics)
    calibration = _calibration(of, groups)
    whole = calibration[calibration.place == "all"].set_index("role")
    for what in ("harmed", "helped"):
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
        "buckets": _bucket_table(gains, groups),
        "transfer": _transfer_table(of),
        "calibration": calibration,
        "worst": k,
        "bucketed_by": "the teacher's margin" if train_counts is None else "training examples",
        "limits": _limits(of, groups, train_counts),
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
            ("worst_k_same", by_group.map(worst, k=k), of.df),
        ):
            out[f"{role}_{name}"] = interval(*means, alone=its).within(0, 100)
    out["overall_gain"] = of.gain(overall, whole, df)
    out["average_gain"] = of.gain(of.accuracy, lambda values: values.mean(axis=-1), of.df)
    return out


def _gains(of, k):
    """{name: Interval} of what is picked or ranked among the groups; {} of too few."""
    if len(of.members.names) < FEWEST:
        return {}
    margin, gain = of.halves["margin"], of.gain_of_halves
    z = gain.map(lambda g, m: fisher(crossed_correlation(m, g)), margin)
    return {
        "worst_k_gain": of.chosen(lambda gains: lowest(gains, k)),
        "margin_gain_correlation": from_fisher(interval(*z, of.baselines, of.df)),
    }


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
    out["copied_excess"] = welch(mine, other, of.df).within(-100, 100)
    return out


def lowest(halves, k):
    """Mean of the k groups that are lowest on one half, scored on the other, both ways.

    (..., 2, G) -> (...)."""
    full = np.where(np.isnan(halves), np.inf, halves)
    picks = np.argpartition(full, k - 1, axis=-1)[..., :k]
    scored = np.take_along_axis(halves[..., ::-1, :], picks, axis=-1)
    return np.nanmean(np.nanmean(scored, axis=-1), axis=-1)


def crossed_correlation(margin, gain):
    """Rank correlation over groups of the margin on one half and the gain on the other.

    (..., 2, G), (..., 2, G) -> (...), mean of both ways. Where there is NaN, each slice alone, so
    that a group that one resample left empty is not lost to all."""
    margin, gain = np.broadcast_arrays(margin, gain[..., ::-1, :])
    if not (np.isnan(margin).any() or np.isnan(gain).any()):
        return rank_correlation(margin, gain).mean(axis=-1)
    slices = (values.reshape(-1, values.shape[-1]) for values in (margin, gain))
    found = [rank_correlation(m, g) for m, g in zip(*slices, strict=True)]
    return np.reshape(found, margin.shape[:-1]).mean(axis=-1)


def _where(values, chosen):
    """Mean over the chosen of the trailing axis; NaN does not count."""
    kept = chosen & ~np.isnan(values)
    return np.where(kept, values, 0).sum(axis=-1) / kept.sum(axis=-1)


# ---------------------------------------------------------------- tables


def _group_table(of, train_counts, edges):
    """DataFrame with one row per group, in their order."""
    members, w, right = of.members, of.w, of.right
    total = members.sums(w)

    def mean(values):  # (S, N) -> (G,)
        return (members.sums(w * values) / total).mean(axis=0)

    if of.baselines:
        gain = change(right["student"], members, w, right["baseline"])
    else:
        gain = change(right["student"].astype(float) - right["teacher"], members, w)
    margin = change(of.margin, members, w, pseudo=0)
    columns = {
        "group": members.names,
        "n": members.sums(np.ones(len(w), int)),
        "n_train": pd.array([None] * len(total), "Int64") if train_counts is None else train_counts,
        **{role: 100 * mean(of_role) for role, of_role in right.items()},
        "gain": 100 * gain.estimate,
        "low": 100 * gain.low,
        "high": 100 * gain.high,
        "p": gain.p,
        "q": gain.q,
        "finding": gain.finding,
        "detectable": 100 * gain.detectable,
        "teacher_margin": margin.estimate,
        "margin_low": margin.low,
        "margin_high": margin.high,
        "ada_alpha": np.clip(margin.estimate, 0, 1),
    }
    scored = [role for role, is_so in of.scored.items() if is_so]
    for role in scored:
        columns[f"{role}_log_loss"] = mean(np.array([-x.log_p_label for x in of.found[role]]))
    for role in scored:
        confidence = np.exp([x.log_p_predicted for x in of.found[role]])
        columns[f"{role}_overconfidence"] = 100 * mean(confidence - right[role])
    if train_counts is not None:
        bucket = np.array(BUCKETS)[buckets(train_counts, edges)]
    elif len(total) < FEWEST:
        bucket = "all"
    else:
        bucket = np.array(MARGIN_BUCKETS)[thirds(margin.estimate)]
    return pd.DataFrame(columns | {"bucket": bucket})


def _bucket_table(gains, table):
    """DataFrame with one row per bucket: its number of groups, gain, interval, gain per seed."""
    sizes = table.bucket.value_counts()
    rows = [
        (name, int(sizes.get(name, 0)), r.estimate, r.low, r.high, r.detectable, r.per_seed)
        for name, r in gains.items()
    ]
    columns = ["bucket", "groups", "gain", "low", "high", "detectable", "per_seed"]
    return pd.DataFrame(rows, columns=columns)


def _transfer_table(of):
    """DataFrame with one row per outcome: who was right, how often over all seeds, its share.

    Each student stands beside its own teacher and the baseline of its place in the list."""
    roles = ("teacher", "baseline", "student") if of.baselines else ("teacher", "student")
    pairs = min([len(of.right[role]) for role in roles if len(of.right[role]) > 1], default=1)
    rights = []
    for role in roles:
        some = of.right[role][:pairs]
        rights.append(some if len(some) == pairs else np.repeat(some, pairs, axis=0))
    cells = CELLS if of.baselines else PAIRED
    found = outcomes(rights, of.means, cells)
    rows = []
    for who, outcome in cells.items():
        count, share = found[outcome]
        r = interval(*share, alone=of.df).within(0, 100)
        said = {role: "right" if was else "wrong" for role, was in zip(roles, who, strict=True)}
        at = {"share": r.estimate, "low": r.low, "high": r.high}
        rows.append({"outcome": outcome, **said, "count": count, **at})
    return pd.DataFrame(rows)


def _calibration(of, table):
    """DataFrame with one row per place and role with scores.

    Places: all examples alike, or the groups of a bucket alike. Accuracy, confidence, their
    difference, calibration error, log-loss."""
    places = {"all": of.w}
    for name in [b for b in (*BUCKETS, *MARGIN_BUCKETS) if (table.bucket == b).any()]:
        places[name] = alike(of.members, (table.bucket == name).to_numpy(), of.w)
    rows = []
    for place, weights in places.items():
        inside = np.flatnonzero(weights)
        part = weights[inside] / weights.sum()
        for role in [role for role, scored in of.scored.items() if scored]:
            means = []
            for x, right in zip(of.found[role], of.right[role], strict=True):
                confidence = np.exp(x.log_p_predicted[inside])
                error, _ = calibration_error(confidence, right[inside], part)
                loss = -x.log_p_label[inside] @ part
                means.append((right[inside] @ part, confidence @ part, error, loss))
            accuracy, confidence, error, loss = np.mean(means, axis=0)
            over = 100 * (confidence - accuracy)
            rows.append((place, role, 100 * accuracy, 100 * confidence, over, 100 * error, loss))
    columns = ["place", "role", "accuracy", "confidence", "overconfidence", "calibration_error"]
    return pd.DataFrame(rows, columns=[*columns, "log_loss"])


def _limits(of, table, train_counts):
    """Sentences: what an audit of these inputs cannot say."""
    out = []
    if of.seeds == 1 and of.baselines < 2:
        out.append(
            "One seed: intervals cover new test examples of this one pair of models, not another "
            "training run; a difference may be the luck of this run."
        )
    elif of.seeds == 1:
        out.append(
            "One student: its spread over training runs is taken to be that of the baselines."
        )
    elif of.seeds < 4:
        out.append(
            f"{of.seeds} seeds: the spread over training runs is known poorly, so intervals are "
            "wide."
        )
    if of.seeds > 1 and of.baselines == 1:
        out.append(
            "One baseline: its spread over training runs is taken to be that of the students."
        )
    if of.seeds > len(of.found["teacher"]):
        out.append(
            f"One teacher stands for all {of.seeds} seeds, so its own luck is not in the intervals."
        )
    if of.reference == "teacher":
        out.append(
            "No baseline: gains are over the teacher, so they mix what distillation did with what "
            "the smaller network cannot do; the same network trained without a teacher would tell "
            "the two apart."
        )
    blind = [role for role in of.scored if not of.scored[role]]
    if blind:
        also = ", and a margin and alpha from hits and misses" if "teacher" in blind else ""
        out.append(
            f"Only predicted classes of {' and '.join(blind)}: "
            f"no calibration or log-loss there{also}."
        )
    if not of.members.disjoint:
        out.append(
            "Groups overlap: examples were redrawn among all, and an example counts in each of its "
            "groups."
        )
    if train_counts is None and len(table) >= FEWEST:
        out.append(
            "Buckets are thirds of the groups by the teacher's margin, chosen on one half of the "
            "examples and scored on the other, both ways round."
        )
    if small := int((table.n < 10).sum()):
        out.append(
            f"{small} of {len(table)} groups have fewer than 10 examples: "
            "only large changes can be seen there."
        )
    out.append(
        "The examples must be new to teacher and student: on its training examples a teacher's "
        "margin is near 1 and says nothing."
    )
    return tuple(out)
