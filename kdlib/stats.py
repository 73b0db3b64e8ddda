"""Intervals, tests and verdicts from per-seed, per-group means; numpy and scipy only (protocol.md, sect. 7).

Axes: B resamples of the test examples, S seeds, G groups, N examples. The usual chain:

    student, one_hot = (group_means(right, group, groups) for right in (student_right, one_hot_right))
    worst_gain = student.map(worst, k=3) - one_hot.map(worst, k=3)
    non_inferior(interval(*worst_gain), margin=0.015)
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdlib.config import KdlibError

CHUNK = 4_000_000  # draws held at once in group_means: about 100 MB
MAX_SIGNS = 20  # sign_flip enumerates 2^n sums
TIE = 1e-12  # differences of means that are equal on paper differ by about 1e-16


class GroupMeans(NamedTuple):
    """A statistic per seed and group, measured and re-measured on resampled test examples; NaN: empty group.

    +, -, *, / work on both parts at once, with another GroupMeans, a number or an array that broadcasts, e.g.
    `100 * (student - one_hot)`. Two are paired by example if they come from equal `group`, `seed`,
    `resamples`.
    """

    observed: np.ndarray  # (S, G); (S,) after map with a statistic over groups
    resampled: np.ndarray  # (B, S, G); (B, S) after map

    def map(self, statistic: Callable, *others: "GroupMeans", **options) -> "GroupMeans":
        """Apply `statistic` over the trailing group axis, (..., G) -> (...), to both parts.

        With others: statistic(self, *others), part by part, e.g. `margin.map(rank_correlation, gain)`.
        """
        return GroupMeans(*(statistic(*parts, **options) for parts in zip(self, *others, strict=True)))

    def _with(self, other, operation: Callable) -> "GroupMeans":
        pair = other if isinstance(other, GroupMeans) else (other, other)
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN, and interval passes NaN on
            return GroupMeans(*(operation(mine, its) for mine, its in zip(self, pair, strict=True)))

    __array_ufunc__ = None  # array * means must come to __rmul__, not treat means as a tuple of two

    def __add__(self, other):
        return self._with(other, np.add)

    def __sub__(self, other):
        return self._with(other, np.subtract)

    def __mul__(self, other):
        return self._with(other, np.multiply)

    def __truediv__(self, other):
        return self._with(other, np.divide)

    __rmul__ = __mul__


def group_means(values, group, groups: int, resamples: int = 1000, seed: int = 0) -> GroupMeans:
    """Mean of `values` in every group, and its bootstrap over examples within the group.

    values (S, N) float or bool: one value per seed and test example, e.g. 1 where right. group (N,) ints in
    [0, groups). Each resample re-draws the examples of every group with replacement, the same redraw for all
    seeds and for every call with equal `group`, `seed`, `resamples`. KdlibError on wrong shapes, ranges, NaN.
    """
    values, group = np.asarray(values, dtype=np.float64), np.asarray(group)
    _check_examples(values, group, groups, resamples)
    observed = np.full((len(values), groups), np.nan)
    resampled = np.full((resamples, len(values), groups), np.nan)
    for g in np.unique(group):
        members = values[:, group == g].T  # (n, S)
        n = len(members)
        observed[:, g] = members.sum(axis=0) / n
        counts = _redraws(seed, int(g), n, resamples)
        for start in range(0, resamples, CHUNK // n + 1):
            part = slice(start, start + CHUNK // n + 1)
            resampled[part, :, g] = counts[part].astype(np.float64) @ members / n
    return GroupMeans(observed, resampled)


def redraws(seed: int, group: int, n: int, resamples: int) -> np.ndarray:
    """(resamples, n) uint8: how often each of n examples is drawn in n draws with replacement.

    Each group has its own stream, so its redraws do not depend on the other groups."""
    rng = np.random.default_rng([seed, group])
    counts = np.empty((resamples, n), dtype=np.uint8)
    rows = max(1, CHUNK // n)
    for start in range(0, resamples, rows):
        part = counts[start : start + rows]
        draws = rng.integers(n, size=(len(part), n))
        draws += n * np.arange(len(part))[:, None]
        part[:] = np.bincount(draws.ravel(), minlength=part.size).reshape(part.shape)
    return counts


_redraws = functools.lru_cache(maxsize=256)(redraws)   # a page asks for the same ones dozens of times


def _check_examples(values: np.ndarray, group: np.ndarray, groups: int, resamples: int) -> None:
    if values.ndim != 2 or group.shape != values.shape[1:]:
        raise KdlibError(f"group_means needs values (S, N), group (N,), not {values.shape}, {group.shape}.")
    if not values.size:
        raise KdlibError(f"group_means needs at least one seed and one example, got values {values.shape}.")
    if not np.issubdtype(group.dtype, np.integer) or group.min() < 0 or group.max() >= groups:
        raise KdlibError(f"group_means needs integers from 0 to {groups - 1} in group.")
    if resamples < 2:
        raise KdlibError(f"group_means needs at least 2 resamples, got {resamples}.")
    if not np.isfinite(values).all():
        row, example = np.argwhere(~np.isfinite(values))[0]
        raise KdlibError(f"group_means needs finite values, got {values[row, example]} in row {row}, "
                         f"example {example}.")


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % interval; without one, low, high, se, df and bias are NaN."""

    estimate: float
    low: float
    high: float
    se: float
    df: float
    bias: float  # mean of the resampled statistic minus estimate: printed, not subtracted
    n: int  # seeds
    per_seed: tuple[float, ...]

    @property
    def detectable(self) -> float:
        """The smallest true effect that such a study finds with power 80 % in a two-sided test at 5 %."""
        from scipy.special import stdtrit

        return float((stdtrit(self.df, 0.975) + stdtrit(self.df, 0.8)) * self.se)


def interval(observed, resampled) -> Interval:
    """95 % interval for the mean over seeds of any statistic: observed (S,) and resampled (B, S).

    It covers new seeds and new test examples of the same groups. The groups, the long-tail draw and the size
    of the test set are held fixed (worst-k is lower on a smaller test set: `bias` shows by how much,
    roughly).

    Two-way random effects. With A, E, R the variances of one seed's statistic due to the seed, to the
    examples and to both together, the mean has variance (A + R)/S + E. The spread over seeds, V_S, estimates
    (A + R)/S; the spread of the mean over resamples, V_E, estimates E + R/S. R/S is in both and comes off
    once: it is the mean spread of single seeds over resamples, E + R, minus V_E, over S - 1. V_S and V_E are
    each a lower bound. Degrees of freedom: Satterthwaite, S - 1 for V_S and B - 1 (Monte Carlo error) for
    what V_E adds.

    Simulated coverage of means (normal effects): 94.5 to 97 % with 6 or 8 seeds; 98 % if only R is left, as
    for the placebo; with few seeds, V_S large and V_E a few per cent, 93.6 % (4 seeds) and 92.3 % (3 seeds).
    Statistics that pick or rank groups: 92 to 97 %. The spread over resamples of a group of n examples is
    short by the factor (n - 1)/n, not corrected. One seed, NaN or infinity: no interval, and every verdict
    on it is "open".
    """
    observed, resampled = np.asarray(observed, dtype=np.float64), np.asarray(resampled, dtype=np.float64)
    if observed.ndim != 1 or not observed.size or resampled.ndim != 2 or resampled.shape[1] != observed.size:
        raise KdlibError(f"interval needs observed (S,), resampled (B, S), got {observed.shape} and "
                         f"{resampled.shape}.")
    seeds, resamples = len(observed), len(resampled)
    estimate, per_seed = float(observed.mean()), tuple(observed.tolist())
    if seeds == 1 or resamples < 2 or not (np.isfinite(observed).all() and np.isfinite(resampled).all()):
        return Interval(estimate, *[np.nan] * 5, seeds, per_seed)
    from scipy.special import stdtrit

    by_seed = observed.var(ddof=1) / seeds
    by_example = resampled.mean(axis=1).var(ddof=1)
    in_both = max(0.0, (resampled.var(axis=0, ddof=1).mean() - by_example) / (seeds - 1))
    variance = max(by_seed + by_example - in_both, by_seed, by_example)
    added = max(0.0, by_example - in_both)
    scatter = by_seed**2 / (seeds - 1) + added**2 / (resamples - 1)
    df = float(variance**2 / scatter) if scatter else seeds - 1.0
    se = float(np.sqrt(variance))
    half = float(stdtrit(df, 0.975)) * se
    bias = float(resampled.mean()) - estimate
    return Interval(estimate, estimate - half, estimate + half, se, df, bias, seeds, per_seed)


def above(result: Interval, threshold: float = 0.0) -> str:
    """Is the effect above `threshold`? "yes", "no", or "open" if the interval contains it or is NaN."""
    return "yes" if result.low > threshold else "no" if result.high < threshold else "open"


def non_inferior(result: Interval, margin: float) -> str:
    """Is the effect above -margin (margin >= 0)? "yes", "no", or "open"."""
    if not margin >= 0:
        raise KdlibError(f"non_inferior needs a margin of 0 or more, got {margin}.")
    return above(result, -margin)


def sign_flip(per_seed) -> tuple[float, float]:
    """Exact two-sided sign-flip p of the mean of (n,) paired differences, and the smallest possible p.

    Null: each difference is as likely as its negative. All 2^n signs are enumerated (n <= 20, else
    KdlibError); sums as large as the measured one count, ties included. The floor is 2 / 2^n. A NaN gives p =
    NaN.
    """
    gains = np.asarray(per_seed, dtype=np.float64)
    if gains.ndim != 1 or not 1 <= gains.size <= MAX_SIGNS:
        raise KdlibError(f"sign_flip needs 1 to {MAX_SIGNS} differences, one per seed, got {gains.shape}.")
    floor = 2.0 / 2**gains.size
    if not np.isfinite(gains).all():
        return np.nan, floor
    sums = gains[:1]  # the other sign of the first difference mirrors every sum: same absolute values
    for gain in gains[1:]:
        sums = np.concatenate([sums + gain, sums - gain])
    tie = TIE * np.abs(gains).sum()  # rounding must not split sums that are equal on paper
    return float((np.abs(sums) >= abs(gains.sum()) - tie).mean()), floor


def moderated_t(gains) -> tuple[np.ndarray, np.ndarray, float]:
    """Paired t over seeds per group, with shrunk variances: (S, G) -> t (G,), two-sided p (G,), df.

    Smyth 2004, Linear models and empirical Bayes methods (Stat. Appl. Genet. Mol. Biol. 3:3), section 6.2: a
    scaled inverse chi-square prior with d0 degrees of freedom is fitted by moments of the log variances; df
    is d0 + S - 1, at most G (S - 1). Zero variances are raised to 1e-5 of the median (of the positive ones if
    that is zero), as limma does. It tests the mean over seeds on these test examples, not on new ones. A
    group with a NaN stays NaN; one seed, or no spread over seeds anywhere, gives NaN throughout.
    """
    from scipy.special import stdtr

    gains = _matrix(gains, "moderated_t")
    variances, df = shrunk_variances(gains)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = gains.mean(axis=0) / np.sqrt(variances / len(gains))
    return t, 2 * stdtr(df, -np.abs(t)), df


def shrunk_variances(gains) -> tuple[np.ndarray, float]:
    """Variance over seeds of each group, shrunk towards a common one: (S, G) -> (G,), df; see moderated_t."""
    gains = _matrix(gains, "shrunk_variances")
    seeds, groups = gains.shape
    out, kept = np.full(groups, np.nan), np.isfinite(gains).all(axis=0)
    varies = np.ptp(gains[:, kept], axis=0) > TIE
    if not varies.any():
        return out, np.nan
    d = seeds - 1
    variances = gains[:, kept].var(axis=0, ddof=1) * varies
    variances = np.maximum(variances, 1e-5 * (np.median(variances) or np.median(variances[varies])))
    d0, prior = _variance_prior(variances, d)
    out[kept] = prior if np.isinf(d0) else (d0 * prior + d * variances) / (d0 + d)
    return out, float(min(d0 + d, d * len(variances)))


def _variance_prior(variances: np.ndarray, d: int) -> tuple[float, float]:
    """(d0, s0^2) of the prior, from (G,) positive variances with d degrees of freedom each."""
    from scipy.special import digamma, polygamma

    if len(variances) == 1:  # nothing to shrink towards
        return 0.0, float(variances[0])
    logs = np.log(variances) - digamma(d / 2) + np.log(d / 2)
    excess = logs.var(ddof=1) - polygamma(1, d / 2)
    if excess <= 0:  # no more spread than chance: one common variance
        return np.inf, float(variances.mean())
    half = 0.5 + 1 / excess  # trigamma(half) = excess by Newton on 1 / trigamma, monotone (Smyth, appendix)
    for _ in range(50):
        value = polygamma(1, half)
        step = value * (1 - value / excess) / polygamma(2, half)
        half += step
        if abs(step) < 1e-10 * half:
            break
    return float(2 * half), float(np.exp(logs.mean() + digamma(half) - np.log(half)))


def false_discovery(p) -> np.ndarray:
    """Benjamini-Hochberg adjusted p, (G,) -> (G,), NaN stays: of q <= 0.05, 5 % are false on average."""
    from scipy.stats import false_discovery_control

    p = np.asarray(p, dtype=np.float64)
    q, kept = np.full(p.shape, np.nan), np.isfinite(p)
    if kept.any():
        q[kept] = false_discovery_control(p[kept])
    return q


def agreement(gains, permutations: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Do seeds agree on which groups gain? (S, G) -> mean cross-seed covariance over groups, one-sided p.

    Covariance over groups between the centred gains of two seeds, averaged over pairs of different seeds.
    Null: groups permuted within each seed independently; p = (1 + count)/(1 + permutations). Groups with a
    NaN are dropped; fewer than 2 seeds or groups give NaN.

    Speaks of these test examples only: seeds share them, so examples that one method tends to get right make
    the seeds agree on their groups even if the groups themselves do not differ (simulated, 100 groups of 50
    and 8 seeds: p <= 0.05 in up to 95 % of such nulls). `agreement_elsewhere` speaks of the groups.
    """
    gains = _centred(_matrix(gains, "agreement"))
    seeds, groups = gains.shape
    if seeds < 2 or groups < 2:
        return np.nan, np.nan
    rng = np.random.default_rng(seed)
    totals = np.zeros((permutations, groups))
    for row in gains:
        totals += rng.permuted(np.broadcast_to(row, (permutations, groups)), axis=1)
    squares = (gains**2).sum()  # what pairs of a seed with itself add: no permutation changes it
    return _permutation_p((gains.sum(axis=0) ** 2).sum() - squares, (totals**2).sum(axis=1) - squares, gains)


def agreement_elsewhere(gains, elsewhere, permutations: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Agreement across seeds and across examples: gains, elsewhere (S, G) -> mean covariance, one-sided p.

    `elsewhere` holds the same seeds' gains on other examples of the same groups, e.g. `gains` from one random
    half of each group and `elsewhere` from the other. The covariance is between one seed's gains and another
    seed's gains elsewhere, so neither shared seeds nor shared examples can produce it. Null: the groups of
    `elsewhere` relabelled, alike for all seeds (rejects 3 to 6 % of simulated nulls at 5 %). NaN as in
    `agreement`.
    """
    here, there = (_matrix(x, "agreement_elsewhere") for x in (gains, elsewhere))
    if here.shape != there.shape:
        raise KdlibError(f"agreement_elsewhere needs the same seeds and groups, got {here.shape}, "
                         f"{there.shape}.")
    here, there = np.split(_centred(np.concatenate([here, there])), 2)
    seeds, groups = here.shape
    if seeds < 2 or groups < 2:
        return np.nan, np.nan
    products = np.outer(here.sum(axis=0), there.sum(axis=0)) - here.T @ there  # (G, G), pairs s != s'
    labels = np.arange(groups)
    orders = np.random.default_rng(seed).permuted(np.broadcast_to(labels, (permutations, groups)), axis=1)
    return _permutation_p(np.trace(products), products[labels, orders].sum(axis=1), here)


def _permutation_p(measured: float, null: np.ndarray, gains: np.ndarray) -> tuple[float, float]:
    """The sum over pairs of seeds as a mean covariance; its one-sided p among the (permutations,) null."""
    seeds, groups = gains.shape
    tie = TIE * (gains**2).sum()
    p = (1 + np.count_nonzero(null >= measured - tie)) / (1 + len(null))
    return float(measured / (seeds * (seeds - 1) * (groups - 1))), float(p)


def _centred(gains: np.ndarray) -> np.ndarray:
    """(S, G) without the groups that hold a NaN, each row minus its mean."""
    gains = gains[:, np.isfinite(gains).all(axis=0)]
    return gains - gains.mean(axis=1, keepdims=True) if gains.size else gains


def _matrix(gains, name: str) -> np.ndarray:
    gains = np.asarray(gains, dtype=np.float64)
    if gains.ndim != 2 or not gains.size:
        raise KdlibError(f"{name} needs gains (S, G), one row per seed, got shape {gains.shape}.")
    return gains


def rank_correlation(a, b) -> np.ndarray:
    """Spearman correlation over the trailing group axis: (..., G), (..., G) that broadcast -> (...).

    Ties get average ranks; values that differ by less than about 1e-12 are ties. A group with a NaN anywhere
    is dropped everywhere (groups are fixed). NaN where all values are tied or fewer than 2 groups are left.
    """
    from scipy.stats import rankdata

    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not a.ndim or a.shape[-1:] != b.shape[-1:]:
        raise KdlibError(f"rank_correlation needs the same groups on both sides, got {a.shape}, {b.shape}.")
    kept = ~(_nan_groups(a) | _nan_groups(b))
    a, b = (rankdata(np.round(x[..., kept], 12), axis=-1) - (kept.sum() + 1) / 2 for x in (a, b))
    with np.errstate(invalid="ignore"):  # 0 / 0 where all ranks are tied
        return (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))


def _nan_groups(values: np.ndarray) -> np.ndarray:
    return np.isnan(values).reshape(-1, values.shape[-1]).any(axis=0)


def worst(values, k: int) -> np.ndarray:
    """Mean of the k smallest over the trailing group axis, (..., G) -> (...); NaN groups do not count.

    Picked on the examples it is measured on, so below the mean of the truly worst groups (protocol.md,
    section 6). KdlibError if k is not between 1 and the number of groups with test examples.
    """
    values = np.asarray(values, dtype=np.float64)
    filled = int((~np.isnan(values)).sum(axis=-1).min())
    if not 1 <= k <= filled:
        raise KdlibError(f"worst needs k from 1 to {filled}, the groups with test examples, got {k}.")
    return np.partition(values, k - 1, axis=-1)[..., :k].mean(axis=-1)  # NaN sorts last
