"""Intervals and tests from per-seed, per-group means: PROTOCOL.md, section 7.

numpy and scipy only. Axes: B resamples of the test examples, S seeds, G groups, N examples. The
usual chain:

    students = group_means(students_right, group, groups)
    baselines = group_means(baselines_right, group, groups)
    welch(students.map(worst, k=3), baselines.map(worst, k=3))
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from kdlib.config import KdlibError

CHUNK = 4_000_000  # draws held at once in group_means: about 100 MB
MAX_SIGNS = 20  # sign_flip enumerates 2^n sums
CERTAIN = 0.9999  # correlations beyond are taken for this one on Fisher's scale
TIE = 1e-12  # differences of means that are equal on paper differ by about 1e-16


class GroupMeans(NamedTuple):
    """A statistic per seed and group, as measured and on resampled test examples.

    NaN: empty group. +, -, *, / work on both parts at once, with another GroupMeans, a number or an
    array that broadcasts, e.g. `100 * (student - one_hot)`. Two are paired by example if they come
    from equal `group`, `seed`, `resamples`.
    """

    observed: np.ndarray  # (S, G); (S,) after map with a statistic over groups
    resampled: np.ndarray  # (B, S, G); (B, S) after map

    def map(self, statistic: Callable, *others: "GroupMeans", **options) -> "GroupMeans":
        """Apply `statistic` over the trailing group axis, (..., G) -> (...), to both parts.

        With others: statistic(self, *others), part by part, e.g.
        `margin.map(rank_correlation, gain)`.
        """
        return GroupMeans(
            *(statistic(*parts, **options) for parts in zip(self, *others, strict=True))
        )

    def _with(self, other, operation: Callable) -> "GroupMeans":
        pair = other if isinstance(other, GroupMeans) else (other, other)
        # 0 / 0 is NaN, and interval passes NaN on
        with np.errstate(divide="ignore", invalid="ignore"):
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

    values (S, N) float or bool: one value per seed and test example, e.g. 1 where right. group (N,)
    ints in [0, groups). Each resample re-draws the examples of every group with replacement, the
    same redraw for all seeds and for every call with equal `group`, `seed`, `resamples`; groups of
    one example take each other's deviations, see borrowed. KdlibError on wrong shapes, ranges, NaN.
    """
    values, group = np.asarray(values, dtype=np.float64), np.asarray(group)
    _check_examples(values, group, groups, resamples)
    observed = np.full((len(values), groups), np.nan)
    resampled = np.full((resamples, len(values), groups), np.nan)
    alone = []
    for g in np.unique(group):
        members = values[:, group == g].T  # (n, S)
        n = len(members)
        observed[:, g] = members.sum(axis=0) / n
        if n == 1:
            alone.append(g)
            continue
        counts = _redraws(seed, int(g), n, resamples)
        for start in range(0, resamples, CHUNK // n + 1):
            part = slice(start, start + CHUNK // n + 1)
            resampled[part, :, g] = counts[part].astype(np.float64) @ members / (n - 1)
    if len(alone) > 1:
        resampled[..., alone] = borrowed(observed[:, alone], lenders(seed, len(alone), resamples))
    return GroupMeans(observed, resampled)


def redraws(seed: int, group: int, n: int, resamples: int) -> np.ndarray:
    """(resamples, n) uint8: how often each of n examples is drawn in n - 1 draws with replacement.

    One draw less, because a mean over n - 1 draws varies as much as the mean of n examples does
    (Rao and Wu 1988); over n draws it varies less, by (n - 1)/n. Each group has its own stream, so
    its redraws do not depend on the other groups."""
    rng = np.random.default_rng([seed, group])
    counts = np.empty((resamples, n), dtype=np.uint8)
    rows = max(1, CHUNK // n)
    for start in range(0, resamples, rows):
        part = counts[start : start + rows]
        draws = rng.integers(n, size=(len(part), n - 1))
        draws += n * np.arange(len(part))[:, None]
        part[:] = np.bincount(draws.ravel(), minlength=part.size).reshape(part.shape)
    return counts


def lenders(seed: int, m: int, resamples: int) -> np.ndarray:
    """(resamples, m): of m groups of one example, whose deviation each takes in a resample."""
    return np.random.default_rng([seed, m, resamples]).integers(m, size=(resamples, m))


def borrowed(values, lender) -> np.ndarray:
    """Resampled values (B, ..., m) of m groups of one example each, from values (..., m).

    One example says nothing of its own spread, so each group takes the deviation of another from
    the mean of all: too wide where such groups differ, as collapsed strata are (Cochran 1977,
    section 5A.12). lender (B, m): see lenders.
    """
    m = values.shape[-1]
    deviations = (values - values.mean(axis=-1, keepdims=True)) * np.sqrt(m / (m - 1))
    return np.moveaxis(values[..., None, :] + deviations[..., lender], -2, 0)


# a page asks for the same ones dozens of times
_redraws = functools.lru_cache(maxsize=256)(redraws)


def _check_examples(values: np.ndarray, group: np.ndarray, groups: int, resamples: int) -> None:
    if values.ndim != 2 or group.shape != values.shape[1:]:
        raise KdlibError(
            f"group_means needs values (S, N), group (N,), not {values.shape}, {group.shape}."
        )
    if not values.size:
        raise KdlibError(
            f"group_means needs at least one seed and one example, got values {values.shape}."
        )
    if not np.issubdtype(group.dtype, np.integer) or group.min() < 0 or group.max() >= groups:
        raise KdlibError(f"group_means needs integers from 0 to {groups - 1} in group.")
    if resamples < 2:
        raise KdlibError(f"group_means needs at least 2 resamples, got {resamples}.")
    if not np.isfinite(values).all():
        row, example = np.argwhere(~np.isfinite(values))[0]
        raise KdlibError(
            f"group_means needs finite values, got {values[row, example]} in row {row}, "
            f"example {example}."
        )


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
    baselines: int = 0  # networks of the other sample, where there is one; see welch
    fisher: bool = False  # a correlation: se and quantiles are on Fisher's scale

    def p(self, threshold: float = 0.0) -> float:
        """Two-sided p of a true value of `threshold`; NaN without an interval."""
        if np.isnan(self.se):
            return np.nan
        if self.se == 0:  # nothing varies
            return float(self.estimate == threshold)
        from scipy.special import stdtr

        ends = np.array([self.estimate, threshold])
        distance = abs(np.subtract(*(fisher(ends) if self.fisher else ends)))
        return float(2 * stdtr(self.df, -distance / self.se))

    @property
    def detectable(self) -> float:
        """The smallest true effect found with power 80 % in a two-sided test at 5 %."""
        return self.smallest(0.05)

    def smallest(self, level: float) -> float:
        """The smallest true effect that is found with power 80 % in a two-sided test at `level`."""
        from scipy.special import stdtrit

        effect = float((stdtrit(self.df, 1 - level / 2) + stdtrit(self.df, 0.8)) * self.se)
        return float(np.tanh(effect)) if self.fisher else effect


def interval(observed, resampled) -> Interval:
    """95 % interval for the mean over seeds of any statistic: observed (S,) and resampled (B, S).

    It covers new seeds and new test examples of the same groups. The groups, the long-tail draw and
    the size of the test set are held fixed (worst-k is lower on a smaller test set: `bias` shows by
    how much, roughly).

    Two-way random effects. With A, E, R the variances of one seed's statistic due to the seed, to
    the examples and to both together, the mean has variance (A + R)/S + E. The spread over seeds,
    V_S, estimates (A + R)/S; the spread of the mean over resamples, V_E, estimates E + R/S. R/S is
    in both and comes off once: it is the mean spread of single seeds over resamples, E + R, minus
    V_E, over S - 1. V_S and V_E are each a lower bound. Degrees of freedom: Satterthwaite, S - 1
    for V_S and B - 1 (Monte Carlo error) for what V_E adds.

    Simulated coverage of means (normal effects): 94.5 to 97 % with 6 or 8 seeds; 98 % if only R is
    left; with few seeds, V_S large and V_E a few per cent, 93.6 % (4 seeds) and 92.3 % (3 seeds).
    Statistics that pick or rank groups: 92 to 97 %. One seed, NaN or infinity: no interval.
    """
    observed = np.asarray(observed, dtype=np.float64)
    resampled = np.asarray(resampled, dtype=np.float64)
    if observed.ndim != 1 or not observed.size or resampled.shape[1:] != observed.shape:
        raise KdlibError(
            f"interval needs observed (S,), resampled (B, S), got {observed.shape} and "
            f"{resampled.shape}."
        )
    seeds, resamples = len(observed), len(resampled)
    estimate, per_seed = float(observed.mean()), tuple(observed.tolist())
    finite = np.isfinite(observed).all() and np.isfinite(resampled).all()
    if seeds == 1 or resamples < 2 or not finite:
        return Interval(estimate, *[np.nan] * 5, seeds, per_seed)
    by_seed = [(observed.var(ddof=1) / seeds, seeds - 1)]
    by_example = resampled.mean(axis=1).var(ddof=1)
    in_both = max(0.0, (resampled.var(axis=0, ddof=1).mean() - by_example) / (seeds - 1))
    bias = float(resampled.mean()) - estimate
    return _interval(estimate, by_seed, by_example, in_both, resamples, bias, seeds, per_seed)


def welch(mine: GroupMeans, other: GroupMeans) -> Interval:
    """95 % interval for the difference of two means over networks, `mine` (S,) minus `other` (n,).

    S and n may differ. The two samples share their test examples and nothing else: the resamples
    are paired, the networks are not. The variance is that of two means over independent networks
    (Welch), plus that of the difference over resampled examples, less what is in both (see
    interval), for each sample. Degrees of freedom: Satterthwaite, S - 1 and n - 1 for the networks
    and B - 1 for what the examples add. per_seed: each of `mine` minus the mean of `other`. One
    network on a side, NaN or infinity: no interval.
    """
    samples = [
        (np.asarray(observed, dtype=np.float64), resampled) for observed, resampled in (mine, other)
    ]
    (here, here_redrawn), (there, there_redrawn) = samples
    estimate = float(here.mean() - there.mean())
    per_seed = tuple((here - there.mean()).tolist())
    resampled = here_redrawn.mean(axis=1) - there_redrawn.mean(axis=1)
    facts = len(here), per_seed, len(there)
    finite = all(np.isfinite(o).all() and np.isfinite(r).all() for o, r in samples)
    if min(len(here), len(there)) == 1 or len(resampled) < 2 or not finite:
        return Interval(estimate, *[np.nan] * 5, *facts)
    by_network, in_both = [], 0.0
    for observed, redrawn in samples:
        by_network.append((observed.var(ddof=1) / len(observed), len(observed) - 1))
        single, joint = redrawn.var(axis=0, ddof=1).mean(), redrawn.mean(axis=1).var(ddof=1)
        in_both += max(0.0, (single - joint) / (len(observed) - 1))
    by_example = resampled.var(ddof=1)
    bias = float(resampled.mean()) - estimate
    return _interval(estimate, by_network, by_example, in_both, len(resampled), bias, *facts)


def _interval(estimate, by_network, by_example, in_both, resamples, bias, *facts) -> Interval:
    """The Interval from its variances.

    by_network: [(variance of a mean over networks, its degrees of freedom), ...]."""
    from scipy.special import stdtrit

    networks = sum(variance for variance, _ in by_network)
    variance = max(networks + by_example - in_both, networks, by_example)
    added = max(0.0, by_example - in_both)
    scatter = sum(v**2 / df for v, df in by_network) + added**2 / (resamples - 1)
    df = float(variance**2 / scatter) if scatter else float(sum(df for _, df in by_network))
    se = float(np.sqrt(variance))
    half = float(stdtrit(df, 0.975)) * se
    return Interval(estimate, estimate - half, estimate + half, se, df, bias, *facts)


def sign_flip(per_seed) -> tuple[float, float]:
    """(p, smallest possible p) of the exact two-sided sign-flip test of the mean of differences.

    per_seed: (n,) paired differences. Null: each is as likely as its negative. All 2^n signs are
    enumerated (n <= 20, else KdlibError); sums as large as the measured one count, ties included.
    The smallest possible p is 2 / 2^n. A NaN gives p = NaN.
    """
    gains = np.asarray(per_seed, dtype=np.float64)
    if gains.ndim != 1 or not 1 <= gains.size <= MAX_SIGNS:
        raise KdlibError(
            f"sign_flip needs 1 to {MAX_SIGNS} differences, one per seed, got {gains.shape}."
        )
    floor = 2.0 / 2**gains.size
    if not np.isfinite(gains).all():
        return np.nan, floor
    # the other sign of the first difference mirrors every sum: same absolute values
    sums = gains[:1]
    for gain in gains[1:]:
        sums = np.concatenate([sums + gain, sums - gain])
    tie = TIE * np.abs(gains).sum()  # rounding must not split sums that are equal on paper
    return float((np.abs(sums) >= abs(gains.sum()) - tie).mean()), floor


def moderated_t(mine, other) -> tuple[np.ndarray, np.ndarray, float]:
    """Two-sample t per group with shrunk variances: (S, G), (n, G) -> t (G,), two-sided p (G,), df.

    Smyth 2004, Linear models and empirical Bayes methods (Stat. Appl. Genet. Mol. Biol. 3:3),
    section 6.2: the pooled variance of each group, with d = S + n - 2 degrees of freedom, is shrunk
    towards a common one; a scaled inverse chi-square prior with d0 degrees of freedom is fitted by
    moments of the log variances; df is d0 + d, at most G d. It tests the difference of the means
    over networks on these test examples, not on new ones. A group with a NaN stays NaN; no spread
    anywhere, or one network on a side, gives NaN throughout.
    """
    from scipy.special import stdtr

    mine, other = _matrix(mine, "moderated_t"), _matrix(other, "moderated_t")
    if min(len(mine), len(other)) < 2:
        return *[np.full(mine.shape[1], np.nan)] * 2, np.nan
    d = len(mine) + len(other) - 2
    squares = sum((len(gains) - 1) * gains.var(axis=0, ddof=1) for gains in (mine, other))
    variances, df = _shrunk(squares / d, d)
    difference = mine.mean(axis=0) - other.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = difference / np.sqrt(variances * (1 / len(mine) + 1 / len(other)))
    return t, 2 * stdtr(df, -np.abs(t)), df


def shrunk_variances(gains) -> tuple[np.ndarray, float]:
    """Variance over seeds of each group, shrunk towards a common one: (S, G) -> (G,), df.

    See moderated_t."""
    gains = _matrix(gains, "shrunk_variances")
    with np.errstate(divide="ignore", invalid="ignore"):  # one seed has no variance
        variances = gains.var(axis=0, ddof=1) if len(gains) > 1 else np.full(gains.shape[1], np.nan)
    return _shrunk(np.where(np.ptp(gains, axis=0) > TIE, variances, variances * 0), len(gains) - 1)


def _shrunk(variances: np.ndarray, d: int) -> tuple[np.ndarray, float]:
    """(shrunk variances, df) of (G,) variances with d degrees of freedom each; NaN stays.

    Zero variances are raised to 1e-5 of the median (of the positive ones if that is zero), as limma
    does."""
    out, kept = np.full(len(variances), np.nan), np.isfinite(variances)
    positive = variances[kept & (variances > TIE**2)]
    if not len(positive):
        return out, np.nan
    known = np.where(variances[kept] > TIE**2, variances[kept], 0.0)
    known = np.maximum(known, 1e-5 * (np.median(known) or np.median(positive)))
    d0, prior = _variance_prior(known, d)
    out[kept] = prior if np.isinf(d0) else (d0 * prior + d * known) / (d0 + d)
    return out, float(min(d0 + d, d * len(known)))


def _variance_prior(variances: np.ndarray, d: int) -> tuple[float, float]:
    """(d0, s0^2) of the prior, from (G,) positive variances with d degrees of freedom each."""
    from scipy.special import digamma, polygamma

    if len(variances) == 1:  # nothing to shrink towards
        return 0.0, float(variances[0])
    logs = np.log(variances) - digamma(d / 2) + np.log(d / 2)
    excess = logs.var(ddof=1) - polygamma(1, d / 2)
    if excess <= 0:  # no more spread than chance: one common variance
        return np.inf, float(variances.mean())
    # trigamma(half) = excess by Newton on 1 / trigamma, which is monotone (Smyth, appendix)
    half = 0.5 + 1 / excess
    for _ in range(50):
        value = polygamma(1, half)
        step = value * (1 - value / excess) / polygamma(2, half)
        half += step
        if abs(step) < 1e-10 * half:
            break
    return float(2 * half), float(np.exp(logs.mean() + digamma(half) - np.log(half)))


def false_discovery(p) -> np.ndarray:
    """Benjamini-Hochberg adjusted p, (G,) -> (G,): of q <= 0.05, 5 % are false on average.

    NaN stays."""
    from scipy.stats import false_discovery_control

    p = np.asarray(p, dtype=np.float64)
    q, kept = np.full(p.shape, np.nan), np.isfinite(p)
    if kept.any():
        q[kept] = false_discovery_control(p[kept])
    return q


def holm(p) -> np.ndarray:
    """Holm's adjusted p, (m,) -> (m,); NaN counts as 1.

    Of findings with adjusted p <= 0.05 none is false in 95 % of families."""
    p = np.asarray(p, dtype=np.float64)
    p = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(p, kind="stable")
    steps = p[order] * (len(p) - np.arange(len(p)))
    out = np.empty(len(p))
    out[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return out


def agreement(mine, pool, permutations: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Whether seeds agree on which groups gain: (covariance, one-sided p).

    The covariance is that over groups between two seeds' gains, mean over pairs of seeds. mine
    (K, 2, S, G), pool (K, 2, n, G): means of each network of a method and of each baseline on the
    two halves of every group's examples, in K random splits. In each split the pool is halved as
    well, so that the two gains that are compared share neither seed, nor example, nor baseline, and
    nothing but the groups can make them agree. The covariance is averaged over splits; then one
    permutation test relabels the groups of one side, alike for all seeds and splits. Fewer than two
    seeds, groups or baselines give NaN.
    """
    kept = ~(_nan_groups(mine) | _nan_groups(pool))  # a half of a single example is empty
    mine, pool = mine[..., kept], pool[..., kept]
    (splits, _, seeds, groups), baselines = mine.shape, pool.shape[2]
    if min(seeds, groups, baselines) < 2:
        return np.nan, np.nan
    rng = np.random.default_rng(seed)
    products = np.zeros((groups, groups))
    for k in range(splits):
        order = rng.permutation(baselines)
        halves = order[: baselines // 2], order[baselines // 2 :]
        gains = (mine[k, side] - pool[k, side, halves[side]].mean(axis=0) for side in (0, 1))
        here, there = (gain - gain.mean(axis=1, keepdims=True) for gain in gains)
        # pairs of different seeds: all pairs less each seed with itself
        products += np.outer(here.sum(axis=0), there.sum(axis=0)) - here.T @ there
    labels = np.arange(groups)
    orders = rng.permuted(np.broadcast_to(labels, (permutations, groups)), axis=1)
    measured = np.trace(products)
    null = products[labels, orders].sum(axis=1)
    tie = TIE * np.abs(products).sum()
    p = (1 + np.count_nonzero(null >= measured - tie)) / (1 + permutations)
    return float(measured / (splits * seeds * (seeds - 1) * (groups - 1))), float(p)


def _matrix(gains, name: str) -> np.ndarray:
    gains = np.asarray(gains, dtype=np.float64)
    if gains.ndim != 2 or not gains.size:
        raise KdlibError(f"{name} needs gains (S, G), one row per seed, got shape {gains.shape}.")
    return gains


def rank_correlation(a, b) -> np.ndarray:
    """Spearman correlation over the trailing group axis, (..., G), (..., G) -> (...).

    a and b broadcast. Ties get average ranks; values that differ by less than about 1e-12 are ties.
    A group with a NaN anywhere is dropped everywhere (groups are fixed). NaN where all values are
    tied or fewer than 2 groups are left.
    """
    from scipy.stats import rankdata

    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not a.ndim or a.shape[-1:] != b.shape[-1:]:
        raise KdlibError(
            f"rank_correlation needs the same groups on both sides, got {a.shape}, {b.shape}."
        )
    kept = ~(_nan_groups(a) | _nan_groups(b))
    mean_rank = (kept.sum() + 1) / 2
    a, b = (rankdata(np.round(x[..., kept], 12), axis=-1) - mean_rank for x in (a, b))
    with np.errstate(invalid="ignore"):  # 0 / 0 where all ranks are tied
        return (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))


def partial_rank_correlation(a, b, given) -> np.ndarray:
    """Spearman correlation of a and b at equal `given`, over the trailing group axis.

    See rank_correlation."""
    ab, ac, bc = rank_correlation(a, b), rank_correlation(a, given), rank_correlation(b, given)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2))


def correlation_with_gain(
    statistic: Callable, gains, baselines: int, *traits, resamples: int = 1000, seed: int = 0
) -> Interval:
    """95 % interval of the mean over seeds of a correlation over groups with the gain.

    statistic(gains, *traits) correlates over the trailing group axis. gains (S, G): of each network
    over the mean of `baselines` baselines; traits (S, G): what the gain is compared with, such as
    the margin of the other seeds' teachers. Two-way on Fisher's scale, as in `interval`: networks,
    of which the baselines are as many more with the same spread, and groups, which are resampled,
    so that it covers other groups (classes) too. Noise of the test examples is part of what differs
    between groups. Symmetric on Fisher's scale; never leaves [-1, 1]. Simulated level at 5 %: 0.5
    to 5 % with 20 groups, 2 to 7 % with 100 groups and 4 seeds.
    """
    gains = np.asarray(gains, dtype=np.float64)
    kept = np.isfinite(gains).all(axis=0)
    gains, traits = gains[:, kept], [np.asarray(trait)[:, kept] for trait in traits]
    seeds, groups = gains.shape
    per_seed = statistic(gains, *traits)
    facts = seeds, tuple(per_seed.tolist()), baselines
    z = fisher(per_seed)
    order = np.random.default_rng(seed).integers(groups, size=(resamples, 1, groups))
    rows = np.arange(seeds)[:, None]
    redrawn = fisher(statistic(gains[rows, order], *(trait[rows, order] for trait in traits)))
    redrawn = redrawn[np.isfinite(redrawn).all(axis=1)]
    defined = np.isfinite(z).all() and 2 * len(redrawn) >= resamples
    if min(seeds, baselines) < 2 or groups < 4 or not defined:
        return Interval(float(per_seed.mean()), *[np.nan] * 5, *facts)
    mean = float(z.mean())
    by_network = [(z.var(ddof=1) * (1 / seeds + 1 / baselines), seeds - 1)]
    by_group = redrawn.mean(axis=1).var(ddof=1)
    in_both = max(0.0, (redrawn.var(axis=0, ddof=1).mean() - by_group) / (seeds - 1))
    bias = float(redrawn.mean()) - mean
    found = _interval(mean, by_network, by_group, in_both, groups - 1, bias, *facts)
    return from_fisher(found)


def fisher(correlation):
    """Correlations on Fisher's scale, where they vary alike whatever they are."""
    return np.arctanh(np.clip(correlation, -CERTAIN, CERTAIN))


def from_fisher(found: Interval) -> Interval:
    """An Interval that was computed on Fisher's scale, as one of a correlation."""
    estimate, low, high = np.tanh([found.estimate, found.low, found.high]).tolist()
    return replace(found, estimate=estimate, low=low, high=high, fisher=True)


def _nan_groups(values: np.ndarray) -> np.ndarray:
    return np.isnan(values).reshape(-1, values.shape[-1]).any(axis=0)


def worst(values, k: int) -> np.ndarray:
    """Mean of the k smallest over the trailing group axis, (..., G) -> (...); NaN does not count.

    Picked on the examples it is measured on, so below the mean of the truly worst groups
    (PROTOCOL.md, section 6). KdlibError if k is not between 1 and the number of groups with test
    examples.
    """
    values = np.asarray(values, dtype=np.float64)
    filled = int((~np.isnan(values)).sum(axis=-1).min())
    if not 1 <= k <= filled:
        raise KdlibError(
            f"worst needs k from 1 to {filled}, the groups with test examples, got {k}."
        )
    return np.partition(values, k - 1, axis=-1)[..., :k].mean(axis=-1)  # NaN sorts last
