"""Halves of the examples: one chooses or ranks groups, the other scores them, both ways round."""

import numpy as np

from kdlib.evidence.resample import Groups
from kdlib.evidence.stats import rank_correlation


def halves_of(members: Groups, n: int, seed: int) -> np.ndarray:
    """(N,) int64, 0 or 1: a random half of the examples of each group.

    Where groups overlap, of each combination of them."""
    rng = np.random.default_rng(seed)
    # a random number for each group; the sums over an example's groups tell combinations apart
    code = np.zeros(n)
    np.add.at(code, members.example, rng.random(len(members.names))[members.group])
    order = np.lexsort((rng.random(n), code))
    half = np.empty(n, dtype=np.int64)
    half[order] = np.arange(n) % 2
    return half


def over_halves(means: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(..., 2, G) means and (2, G) weights of halves -> (..., G) means of the whole.

    A half without examples counts for nothing."""
    return (np.where(weight > 0, means, 0) * weight).sum(axis=-2) / weight.sum(axis=-2)


def lowest(halves, k):
    """Mean of the k groups that are lowest on one half, scored on the other, both ways.

    (..., 2, G) -> (...)."""
    full = np.where(np.isnan(halves), np.inf, halves)
    picks = np.argpartition(full, k - 1, axis=-1)[..., :k]
    scored = np.take_along_axis(halves[..., ::-1, :], picks, axis=-1)
    return np.nanmean(np.nanmean(scored, axis=-1), axis=-1)


def lowest_same(values, k):
    """Mean of the k lowest groups on the examples that score them: (..., G) -> (...)."""
    return np.partition(values, k - 1, axis=-1)[..., :k].mean(axis=-1)


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
