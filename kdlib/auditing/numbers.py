"""The numbers of an audit: gains by group, tests, resampled statistics, transfer, calibration.

What is counted and how it varies: evidence, as on the pages of a study. Axes: S students, n
baselines, N examples, G groups, B resamples. Groups may overlap and examples have weights.
"""

import warnings

import numpy as np

from kdlib.auditing.compared import Compared
from kdlib.auditing.halves import (
    crossed_correlation,
    in_buckets,
    lowest,
    lowest_gain,
    over_halves,
    shares_by_counts,
    shares_by_margin,
    without_own,
)
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
)
from kdlib.evidence.redraws import effective_number
from kdlib.evidence.resample import stack
from kdlib.evidence.stats import fisher, from_fisher, interval, welch

PARTS = (  # what `numbers` tells of its progress, in this order
    "groups",
    "means of groups, redrawn",
    "all examples, redrawn",
    "copied errors",
    "transfer",
    "calibration",
)


def numbers(
    y, found, classes, members, w, *, train_counts, edges, k, resamples, seed, same, progress
):
    """{field: value} of an audit.Audit.

    y: labels (N,). found: {role: [Outputs, one per network]}, of teachers one, or one per student.
    classes: how many. members: Groups. w: weights (N,). train_counts (G,): training examples, for
    the buckets, cut at edges. k: of the worst-k metrics. seed: of the resamples and halves.
    same (T, n) bool: which baselines are the same network as a teacher; None: those that predict
    the same everywhere. progress: is called with each of PARTS when it begins; or None."""
    begin = progress or (lambda part: None)
    fixed = None if train_counts is None else buckets(train_counts, edges)
    # mean of nothing: NaN, which is meant
    quiet = warnings.catch_warnings(action="ignore", category=RuntimeWarning)
    with np.errstate(invalid="ignore", divide="ignore"), quiet:
        begin("groups")
        of = Compared(y, found, classes, members, w, resamples, seed)
        groups = group_table(of, train_counts, fixed)
        begin("means of groups, redrawn")
        means = of.of_halves(lambda means: _of_halves(of, means, k, fixed))
        begin("all examples, redrawn")
        metrics = _accuracies(of, means) | _gains(of, means)
        begin("copied errors")
        metrics |= _copies(of, means, of.same() if same is None else same)
        gains = _gains_by_bucket(of, means, fixed)
        begin("transfer")
        transfer = transfer_table(of)
    begin("calibration")
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
        "averages": means["student_average"],
        "df": of.df,
        "disjoint": members.disjoint,
        "metrics": metrics,
        "groups": groups,
        "buckets": bucket_table(gains, groups),
        "transfer": transfer,
        "calibration": calibrated,
        "worst": k,
        "bucketed_by": "the teacher's margin" if train_counts is None else "training examples",
        "limits": limits(of, groups, metrics),
    }


# ---------------------------------------------------------------- of the means on halves


def _of_halves(of, means, k, fixed):
    """{name: (..., S)} of the accuracies on halves of Compared.of_halves, in per cent or points.

    What is picked is (..., S, n): of each student over each baseline, or its teacher. fixed (G,):
    bucket of each group by training examples; None: by margin, on each half."""
    weight = of.weight_of_halves
    out = {}
    used = [] if fixed is None else np.unique(fixed)
    for role in of.right:
        halves = 100 * means[role]
        whole = over_halves(halves, weight)
        out[f"{role}_average"] = whole.mean(axis=-1)
        out[f"{role}_worst_k"] = lowest(halves, k)
        out[f"{role}_worst_k_same"] = np.partition(whole, k - 1)[..., :k].mean(axis=-1)
        for b in used:
            out[f"{role}_{BUCKETS[b]}"] = whole[..., fixed == b].mean(axis=-1)
    if len(of.members.names) < FEWEST:
        return out
    students, others = 100 * means["student"], 100 * means[of.reference]
    # of baselines (..., 1, n, 2, G); of teachers (..., S, 1, 2, G), or one for all
    others = np.expand_dims(others, -4 if of.baselines else -3)
    gains = of.over_reference(students, others)
    out["worst_k_gain"] = lowest_gain(students, others, k)
    margin = means["margin"]
    if of.reference == "teacher" and margin.shape[-3] > 1:
        # a teacher that is lucky in a group has a high margin there, and gains over it are low
        margin = without_own(margin, axis=-3)
    out["margin_gain_correlation"] = fisher(crossed_correlation(margin, gains))
    if fixed is None:
        shares = shares_by_margin(margin, weight)
    else:
        shares = shares_by_counts(fixed, used, weight)
    students, others = in_buckets(students, shares), in_buckets(others, shares[..., None, :, :, :])
    out["worst_bucket_gain"] = lowest_gain(students, others, 1)
    if fixed is None:
        by_bucket = np.nanmean(of.over_reference(students, others), axis=-2)
        for b, name in enumerate(MARGIN_BUCKETS):
            out[name] = by_bucket[..., b]
    return out


# ---------------------------------------------------------------- metrics


def _accuracies(of, means):
    """{name: Interval}: accuracy of each model, and the gain, every example or group alike."""
    overall = of.everybody()
    df = max(1.0, effective_number(of.w) - 1)
    out = {}
    for role in of.right:
        out[f"{role}_accuracy"] = interval(*overall[role], alone=df).within(0, 100)
        for what in ("average", "worst_k", "worst_k_same"):
            found = interval(*means[f"{role}_{what}"], alone=of.df)
            out[f"{role}_{what}"] = found.within(0, 100)
    out["overall_gain"] = of.gain(overall, df)
    out["average_gain"] = of.gain({role: means[f"{role}_average"] for role in of.right}, of.df)
    return out


def _gains(of, means):
    """{name: Interval} of what is picked or ranked among the groups; {} of too few."""
    if len(of.members.names) < FEWEST:
        return {}
    out = {name: of.picked(means[name]) for name in ("worst_k_gain", "worst_bucket_gain")}
    out["margin_gain_correlation"] = from_fisher(of.ranked(means["margin_gain_correlation"]))
    return out


def _gains_by_bucket(of, means, fixed):
    """{bucket: Interval} of the gain; {} of too few groups."""
    if len(of.members.names) < FEWEST:
        return {}
    if fixed is None:
        return {name: of.ranked(means[name]).within(-100, 100) for name in MARGIN_BUCKETS}
    return {
        name: of.gain({role: means[f"{role}_{name}"] for role in of.right}, of.df)
        for name in [BUCKETS[b] for b in np.unique(fixed)]
    }


# ---------------------------------------------------------------- copies


def _copies(of, means, same):
    """{name: Interval}: how often the teacher's wrong label is given, as F3b of a study.

    same (T, n) bool: whether a baseline is the same network as a teacher."""
    teachers, students = of.predicted["teacher"], of.predicted["student"]
    baselines = of.predicted.get("baseline", students[:0])
    own = [None] * of.seeds
    pool = []
    for t, teacher in enumerate(teachers):
        taught = range(of.seeds) if len(teachers) == 1 else [t]
        shares = copied_share(teacher, np.vstack([students[taught], baselines]), of.y, of.averages)
        for place, s in enumerate(taught):
            own[s] = shares.seeds(place)
        pool.append(shares.seeds(slice(len(taught), None)))
    own = stack(own)
    out = {"student_copies": interval(*own, alone=of.df).within(0, 100)}
    keep = ~same  # a network is no copy of itself
    if not of.baselines or not keep.any(axis=1).all():
        return out
    of_teacher, of_baseline = copied_by_pool(pool, keep)
    of_teacher = of_teacher.seeds([s % len(teachers) for s in range(of.seeds)])
    out["baseline_copies"] = interval(*of_baseline, alone=of.df).within(0, 100)
    error, error_of_all = (means[f"{role}_average"] * -1 + 100 for role in ("student", "baseline"))
    of_pool = error_of_all.seeds(keep.any(axis=0))
    found = welch(*beyond_accuracy(own, of_teacher, of_baseline, error, of_pool), of.df)
    if not found.estimate < -100:  # else baselines hardly err, and what they would copy is no share
        out["copied_excess"] = found.within(-100, 100)
    return out
