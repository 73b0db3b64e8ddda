"""Arrays in, numbers out: buckets, accuracy by group, calibration, transferred errors.

Studies and audits count here. Axes: S networks of a method, n baselines, N examples, G groups.
`averages` is a function (S, N) -> GroupMeans (S,) of the mean over groups, such as
resample.average_means with its groups.
"""

import numpy as np

from kdlib.evidence.resample import GroupMeans, stack

BUCKETS = ("many", "medium", "few")  # by training images
TENTHS = ("highest tenth", "middle", "lowest tenth")  # by teacher's margin, in balanced data
MARGIN_BUCKETS = ("teacher strong", "teacher middling", "teacher weak")  # thirds, in audits
CELLS = {  # (teacher right, one-hot right, distilled right): name
    (True, True, True): "all right",
    (True, True, False): "new harm",
    (True, False, True): "repaired",
    (True, False, False): "not learned",
    (False, True, True): "resisted",
    (False, True, False): "transferred",
    (False, False, True): "surpassed",
    (False, False, False): "all wrong",
}
PAIRED = {  # (teacher right, student right): name, where there is no baseline
    (True, True): "both right",
    (True, False): "student lost it",
    (False, True): "student surpassed",
    (False, False): "both wrong",
}
BINS = 15  # of confidence


# ---------------------------------------------------------------- groups into buckets


def buckets(train_counts, edges):
    """Bucket of each group, (G,) index into BUCKETS.

    many has more than edges[0] training images, few under edges[1]."""
    counts = np.asarray(train_counts)
    return np.where(counts > edges[0], 0, np.where(counts < edges[1], 2, 1))


def rank_from_highest(values):
    """(..., G) -> (..., G): 0 for the highest group; NaN comes last, ties keep their order."""
    values = np.where(np.isnan(values), -np.inf, values)
    return np.argsort(np.argsort(-values, axis=-1, kind="stable"), axis=-1, kind="stable")


def tenths(margin):
    """Bucket of each group by a reliability such as its margin, (G,) -> (G,) index into TENTHS."""
    rank = rank_from_highest(margin)
    groups = len(margin)
    k = max(1, round(groups / 10))
    return np.where(rank < k, 0, np.where(rank >= groups - k, 2, 1))


def others(values):
    """(S, G) -> (S, G): for each seed the mean over the other seeds."""
    return (values.sum(axis=0) - values) / (len(values) - 1)


def thirds(margin):
    """(..., G) -> (..., G): 0 for the third of the groups with the highest margin, then 1, 2."""
    return rank_from_highest(margin) * 3 // np.shape(margin)[-1]


# ---------------------------------------------------------------- scores


def label_margin(log_p_label, classes):
    """gamma_avg of the label (losses.label_margin), (...), from its log-probability."""
    return (classes * np.exp(np.asarray(log_p_label, dtype=np.float64)) - 1) / (classes - 1)


def by_group(predictions, groups, classes):
    """{n, correct, nll, margin} of each group, each (groups,).

    nll, in nats, and margin are means, NaN where n is 0."""
    group = predictions.group.astype(np.int64)
    n = np.bincount(group, minlength=groups)
    correct = np.bincount(group, weights=predictions.right, minlength=groups)
    log_p = predictions.log_p[:, 0].astype(np.float64)
    margin = label_margin(log_p, classes)
    with np.errstate(invalid="ignore"):
        return {
            "n": n,
            "correct": correct.astype(np.int64),
            "nll": np.bincount(group, weights=-log_p, minlength=groups) / n,
            "margin": np.bincount(group, weights=margin, minlength=groups) / n,
        }


def by_half(right, group, groups, splits):
    """(K, 2, S, G): means of right (S, N) on two halves of each group's examples (N,).

    K random splits into halves, the same whenever a group has as many examples."""
    out = np.empty((splits, 2, len(right), groups))
    for g in range(groups):
        members = right[:, group == g].T
        rng = np.random.default_rng([g, len(members)])
        order = rng.permuted(np.tile(np.arange(len(members)), (splits, 1)), axis=1)
        first = order < len(members) // 2  # (K, n)
        for side, some in enumerate((first, ~first)):
            out[:, side, :, g] = some @ members / some.sum(axis=1, keepdims=True)
    return out


def calibration_error(confidence, right, weights):
    """Expected calibration error, equal-width bins of confidence (Guo et al. 2017).

    confidence, right, weights (N,): probability of the predicted class, whether it is right, weight
    of the example, e.g. so that classes count alike."""
    confidence = np.asarray(confidence, dtype=np.float64)
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    total = np.bincount(which, weights, BINS)
    filled = total > 0
    mean_confidence = np.bincount(which, weights * confidence, BINS)[filled] / total[filled]
    accuracy = np.bincount(which, weights * right, BINS)[filled] / total[filled]
    return float((total[filled] * np.abs(accuracy - mean_confidence)).sum() / total.sum())


def alike(members, some, w):
    """Weights (N,) of the examples of some groups (G,) bool, every group counting alike."""
    total = members.sums(w)
    chosen = some[members.group]
    share = np.zeros(len(w))
    np.add.at(share, members.example[chosen], 1 / total[members.group[chosen]])
    return share * w


# ---------------------------------------------------------------- who was right


def outcomes(rights, averages, cells=CELLS):
    """{name: (count, GroupMeans (S,) of the share in per cent, groups weighing alike)}.

    rights: (S, N) bool of each role, in the order of the keys of `cells`."""
    here = {}
    for who, name in cells.items():
        here[name] = np.all([r == was for r, was in zip(rights, who, strict=True)], axis=0)
    shares = 100 * averages(np.concatenate(list(here.values())))
    seeds = len(rights[0])
    return {
        name: (int(is_so.sum()), shares.seeds(slice(k * seeds, (k + 1) * seeds)))
        for k, (name, is_so) in enumerate(here.items())
    }


def copied_share(teacher, predicted, y, averages):
    """Per cent of a teacher's errors where networks give the same wrong label: GroupMeans (S,).

    teacher (N,), predicted (S, N), y (N,): classes. Groups weigh alike."""
    wrong = teacher != y
    shares = averages(np.vstack([wrong, wrong & (predicted == teacher)]))
    return 100 * (shares.seeds(slice(1, None)) / shares.seeds(slice(1)))


def copied_by_pool(shares, keep):
    """(of each teacher, of each baseline): copied shares of a pool, GroupMeans (S,) and (m,).

    shares: for each of S teachers the copied_share of all n baselines. keep (S, n) bool: whether a
    baseline is another network than the teacher. Of each teacher the mean over its baselines, and
    of each of the m baselines that stand beside any teacher the mean over those."""
    of_teacher = [share.seeds(some).mean() for share, some in zip(shares, keep, strict=True)]
    used = keep.any(axis=0)  # with one teacher its own network is compared with nobody
    each = stack(shares).map(lambda values: np.where(keep, values, np.nan)[..., used])
    return stack(of_teacher), each.map(lambda values: np.nanmean(values, axis=-2))


def of_own_teacher(shares, keep):
    """GroupMeans (S,), points: what a student copies of its own teacher, beyond what it would of
    one that it never met.

    shares: for each of S teachers the copied_share of all S students. keep (S, S) bool: whether a
    student is another network than a teacher. One effect of each teacher and one of each student
    are fitted to the pairs that never met, by least squares, and predict those that did."""
    teacher, student = np.indices(keep.shape).reshape(2, -1)
    effects = np.hstack([each[:, None] == np.arange(len(keep)) for each in (teacher, student)])
    own = teacher == student
    strange = ~own & keep.ravel()
    weights = (effects[own] @ np.linalg.pinv(effects[strange])).T
    pairs = stack(shares).map(lambda values: values.reshape(*values.shape[:-2], -1))
    return pairs.map(lambda values: values[..., own] - values[..., strange] @ weights)


def beyond_accuracy(copies, of_teacher, of_baseline, error, error_of_pool):
    """(mine (S,), pool) GroupMeans whose means differ by c - C e / E, in points.

    c, C: share of the teacher's errors of which the student, and the mean baseline, give the same
    wrong label (copied_share, copied_by_pool). e, E: their errors on all test examples, in per
    cent. A baseline whose errors became e / E as many, alike in kind, would copy C e / E. To first
    order in the deviations of single networks from their means, which is what the interval needs
    (delta method)."""
    e, other = error.observed.mean(), error_of_pool.observed.mean()
    rate = of_baseline.observed.mean()
    mine = copies - of_teacher * (e / other) - (error + -e) * (rate / other)
    # `mine` has the mean of the pool over resamples already: here only what single baselines add
    of_pool = of_baseline.resampled.mean(axis=-1, keepdims=True)
    deviation = GroupMeans(of_baseline.observed - rate, of_baseline.resampled - of_pool)
    return mine, deviation * (e / other) - (error_of_pool + -other) * (rate * e / other**2)
