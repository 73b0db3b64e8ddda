"""Halves of the examples: one chooses or ranks groups, the other scores them, both ways round.

Where there are several networks on both sides, others choose than are scored too: a group in which
one network had bad luck in training is low on both halves of the examples. Axes: S students, n
baselines, G groups, M groups or buckets; before the axis of groups that of the two halves.
"""

import numpy as np
from scipy.stats import rankdata

from kdlib.evidence.counts import thirds
from kdlib.evidence.resample import Groups


def halves_of(members: Groups, n: int, seed: int) -> np.ndarray:
    """(N,) int64, 0 or 1: a random half of the examples of each group.

    Where groups overlap, of each combination of them."""
    rng = np.random.default_rng(seed)
    # a random number for each group; the sums over an example's groups tell combinations apart
    number = rng.random(len(members.names))[members.group]
    code = np.bincount(members.example, number, minlength=n)
    order = np.lexsort((rng.random(n), code))
    half = np.empty(n, dtype=np.int64)
    half[order] = np.arange(n) % 2
    return half


def over_halves(means: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(..., 2, G) means and (2, G) weights of halves -> (..., G) means of the whole.

    A half without examples counts for nothing."""
    return (np.where(weight > 0, means, 0) * weight).sum(axis=-2) / weight.sum(axis=-2)


# ---------------------------------------------------------------- what is picked


def lowest(halves, k, choosing=None):
    """Mean of the k groups that are lowest on one half, scored on the other, both ways.

    (..., 2, M) -> (...). choosing (..., 2, M): what is lowest, if not what is scored. A group that
    is empty on one half is not chosen, as long as there are others."""
    choosing = halves if choosing is None else choosing
    full = np.where(np.isnan(halves).any(axis=-2, keepdims=True), np.inf, choosing)
    picks = np.argpartition(full, k - 1, axis=-1)[..., :k]
    scored = np.take_along_axis(halves[..., ::-1, :], picks, axis=-1)
    return np.nanmean(np.nanmean(scored, axis=-1), axis=-1)


def lowest_gain(students, others, k):
    """lowest of the gain of each student over each baseline: (..., S, n).

    students (..., S, 2, M); others (..., S, n, 2, M), or (..., 1, n, 2, M) where they are the same
    beside every student. The other students and baselines choose; a single one itself."""
    found = []
    for s in range(students.shape[-3]):
        beside = others[..., min(s, others.shape[-4] - 1), :, :, :]
        gains = students[..., s, None, :, :] - beside
        chosen = _without(students, s, axis=-3)[..., None, :, :]
        pool = _without(others, s, axis=-4)
        found.append(lowest(gains, k, chosen - without_own(pool, axis=-3)))
    return np.stack(found, axis=-2)


def without_own(values, axis):
    """In each place along an axis the mean of all others; of a single one, that one."""
    places = range(values.shape[axis])
    return np.stack([_without(values, index, axis) for index in places], axis)


def _without(values, index, axis):
    """Mean along an axis of all but one; of one alone, that one."""
    number = values.shape[axis]
    if number == 1:
        return values.take(0, axis)
    return (values.sum(axis) - values.take(index, axis)) / (number - 1)


# ---------------------------------------------------------------- buckets


def shares_by_margin(margin, weight):
    """(..., T, 2, 3, G): shares of the groups in thirds by the margin of each of T teachers.

    margin (..., T, 2, G), weight (2, G) of the halves. The thirds by the margin on one half are of
    means on the other. A group without examples there has no share."""
    inside = thirds(margin)[..., ::-1, None, :] == np.arange(3)[:, None]
    inside &= (weight > 0)[:, None]
    return inside / inside.sum(axis=-1, keepdims=True)


def shares_by_counts(bucket, used, weight):
    """(1, 2, M, G): shares of the groups of those buckets that are used, from theirs (G,)."""
    inside = (bucket == np.array(used)[:, None]) & (weight > 0)[:, None]
    return (inside / inside.sum(axis=-1, keepdims=True))[None]


def in_buckets(means, shares):
    """(..., 2, M): means (..., 2, G) of the groups of each bucket, by shares (..., 2, M, G)."""
    return np.einsum("...hg,...hmg->...hm", np.where(np.isnan(means), 0, means), shares)


# ---------------------------------------------------------------- what is ranked


def crossed_correlation(margin, gain):
    """Rank correlation over groups of the margin on one half and the gain on the other.

    (..., 2, G), (..., 2, G) -> (...), mean of both ways. A group that has no value in a slice is
    left out there. Ties as in stats.rank_correlation."""
    margin, gain = np.broadcast_arrays(margin, gain[..., ::-1, :])
    kept = ~(np.isnan(margin) | np.isnan(gain))
    middle = (kept.sum(axis=-1, keepdims=True) + 1) / 2
    # what is not kept comes last
    ranks = (rankdata(np.where(kept, np.round(x, 12), np.inf), axis=-1) for x in (margin, gain))
    a, b = (np.where(kept, rank - middle, 0) for rank in ranks)
    found = (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return found.mean(axis=-1)
