"""Intervals of means over networks and test examples: PROTOCOL.md, section 7.

numpy and scipy only. Axes: B resamples of the test examples, S networks, G groups. The usual chain:

    students = group_means(students_right, groups)  # resample.py
    baselines = group_means(baselines_right, groups)
    welch(students.map(worst, k=3), baselines.map(worst, k=3))
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit
from scipy.stats import rankdata

from kdlib.evidence.resample import GroupMeans

NOTHING = 1e-18  # variance of what is equal on paper
CERTAIN = 0.9999  # correlations beyond are taken for this one on Fisher's scale


@dataclass(frozen=True)
class Interval:
    """A mean over networks and its 95 % interval; without one, low, high, se, df are NaN.

    se is 0 where there is none because nothing varied, neither networks nor examples: others may.
    """

    estimate: float
    low: float
    high: float
    se: float
    df: float
    n: int  # networks
    per_seed: tuple[float, ...]
    baselines: int = 0  # networks of the other sample, where there is one; see welch
    fisher: bool = False  # a correlation: se and quantiles are on Fisher's scale

    def p(self, threshold: float = 0.0) -> float:
        """Two-sided p of a true value of `threshold`; NaN without an interval."""
        if np.isnan(self.df):
            return np.nan
        ends = np.array([self.estimate, threshold])
        distance = abs(np.subtract(*(fisher(ends) if self.fisher else ends)))
        return float(2 * stdtr(self.df, -distance / self.se))

    @property
    def detectable(self) -> float:
        """The smallest true effect found with power 80 % in a two-sided test at 5 %."""
        return self.smallest(0.05)

    def smallest(self, level: float) -> float:
        """The smallest true effect that is found with power 80 % in a two-sided test at `level`."""
        effect = float(detectable(self.df, self.se, level))
        return float(np.tanh(effect)) if self.fisher else effect

    def within(self, low: float, high: float) -> "Interval":
        """The same with ends that do not leave the range of what they bound."""
        ends = np.clip([self.low, self.high], low, high).tolist()
        return replace(self, low=ends[0], high=ends[1])


def detectable(df, se, level):
    """The smallest true effects that are found with power 80 % in two-sided tests at `level`."""
    return (stdtrit(df, 1 - level / 2) + stdtrit(df, 0.8)) * se


def interval(observed, resampled, baselines: int = 0, alone: float | None = None) -> Interval:
    """95 % interval for the mean over networks of any statistic: observed (S,), resampled (B, S).

    It covers new networks and new test examples of the same groups. The groups, the long-tail draw
    and the size of the test set are held fixed.

    Two-way random effects. With A, E, R the variances of one network's statistic due to the
    network, to the examples and to both together, the mean has variance (A + R)/S + E. The spread
    over networks, V_S, estimates (A + R)/S; the spread of the mean over resamples, V_E, estimates
    E + R/S. R/S is in both and comes off once: it is the mean spread of single networks over
    resamples, E + R, minus V_E, over S - 1. V_S and V_E are each a lower bound. Degrees of freedom:
    Satterthwaite, S - 1 for V_S and B - 1 (Monte Carlo error) for what V_E adds.

    baselines: of a gain over the mean of so many, whose spread counts as much as the networks' own;
    for statistics that pick or rank, where welch cannot go. alone: degrees of freedom of the test
    examples; with it one network has an interval, of new examples alone.

    Simulated coverage of means (normal effects): 94.5 to 97 % with 6 or 8 networks; 98 % if only R
    is left; with few networks, V_S large and V_E a few per cent, 93.6 % (4) and 92.3 % (3).
    Statistics that pick or rank groups: 92 to 97 %. Otherwise, of one network, or where half of the
    resamples have no value, no interval.
    """
    observed = np.asarray(observed, dtype=np.float64)
    resampled = np.asarray(resampled, dtype=np.float64)
    seeds = len(observed)
    facts = seeds, tuple(observed.tolist()), baselines
    share = 1 / seeds + 1 / baselines if baselines else 1 / seeds
    return _two_way([(observed, resampled, share)], resampled.mean(axis=1), alone, facts)


def welch(mine: GroupMeans, other: GroupMeans, alone: float | None = None) -> Interval:
    """95 % interval for the difference of two means over networks, `mine` (S,) minus `other` (n,).

    S and n may differ. The two samples share their test examples and nothing else: the resamples
    are paired, the networks are not. The variance is that of two means over independent networks
    (Welch), plus that of the difference over resampled examples, less what is in both (see
    interval), for each sample. Degrees of freedom: Satterthwaite, S - 1 and n - 1 for the networks
    and B - 1 for what the examples add. per_seed: each of `mine` minus the mean of `other`.

    alone: as in interval; then a single network beside several counts as spread like them, and of
    two single ones the interval covers new examples alone. Otherwise one network on a side, or half
    of the resamples without a value: no interval.
    """
    (here, here_redrawn), (there, there_redrawn) = mine, other
    per_seed = tuple((here - there.mean()).tolist())
    facts = len(here), per_seed, len(there)
    samples = [(here, here_redrawn, 1 / len(here)), (there, there_redrawn, 1 / len(there))]
    moved = here_redrawn.mean(axis=1) - there_redrawn.mean(axis=1)
    return _two_way(samples, moved, alone, facts)


def _two_way(samples, moved, alone, facts, df=None) -> Interval:
    """The Interval of the first sample's mean less that of the second, if there is one.

    samples: [(observed (S,), resampled (B, S), share of the variance over networks that the mean
    has), ...]. moved (B,): the resampled estimate. df: degrees of freedom of what was resampled, by
    default B - 1."""
    estimate = float(samples[0][0].mean() - sum(observed.mean() for observed, *_ in samples[1:]))
    kept = np.isfinite(moved)
    several = [len(observed) > 1 for observed, *_ in samples]
    of_single = 0 if all(several) else 1  # a single network counts as spread like the others
    enough = all(several) or alone is not None
    if not enough or 2 * kept.sum() < len(moved) or kept.sum() < 2 or not np.isfinite(estimate):
        return Interval(estimate, *[np.nan] * 4, *facts)
    moved = moved[kept]
    by_example = moved.var(ddof=1)
    in_both = 0.0
    by_network = []
    for observed, resampled, share in samples:
        if len(observed) == 1:
            continue
        redrawn = resampled[kept]
        single = redrawn.var(axis=0, ddof=1).mean()
        joint = redrawn.mean(axis=1).var(ddof=1)
        both = max(0.0, single - joint) * len(observed) / (len(observed) - 1)  # R
        in_both += both * (1 / len(observed) + of_single)
        by_network.append((observed.var(ddof=1) * (share + of_single), len(observed) - 1))
    df = alone if not any(several) else df or len(moved) - 1
    networks = sum(variance for variance, _ in by_network)
    variance = max(networks + by_example - in_both, networks, by_example)
    if variance < NOTHING:  # as of a group in which all are wrong
        return Interval(estimate, np.nan, np.nan, 0.0, np.nan, *facts)
    added = max(0.0, by_example - in_both)
    scatter = sum(v**2 / its for v, its in by_network) + added**2 / df
    if scatter:  # else networks agree by chance, and the examples are all there is
        df = float(variance**2 / scatter)
    se = float(np.sqrt(variance))
    half = float(stdtrit(df, 0.975)) * se
    return Interval(estimate, estimate - half, estimate + half, se, df, *facts)


# ---------------------------------------------------------------- statistics over groups


def rank_correlation(a, b, counts=None) -> np.ndarray:
    """Spearman correlation over the trailing group axis, (..., G), (..., G) -> (...).

    a and b broadcast. Ties get average ranks; values that differ by less than about 1e-12 are ties.
    A group with a NaN anywhere is dropped everywhere (groups are fixed). NaN where all values are
    tied or fewer than 2 groups are left.

    counts (B, G): how often each group stands in B resamples of the groups of a and b (S, G); then
    (B, S), each over its resample.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    kept = ~(nan_groups(a) | nan_groups(b))
    counts = None if counts is None else counts[:, kept]
    a, b = (_centred_ranks(x[..., kept], counts) for x in (a, b))
    w = 1 if counts is None else counts[:, None]
    with np.errstate(invalid="ignore"):  # 0 / 0 where all ranks are tied
        squares = (w * a * a).sum(axis=-1) * (w * b * b).sum(axis=-1)
        return (w * a * b).sum(axis=-1) / np.sqrt(squares)


def _centred_ranks(values, counts):
    """Ranks (..., G) of values, less their mean; with counts (B, G), of each resample, (B, S, G).

    The groups are compared once, and not in each resample."""
    values = np.round(values, 12)
    if counts is None:
        return rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2
    below = values[:, :, None] < values[:, None]
    tied = values[:, :, None] == values[:, None]
    ranks = counts @ (below + tied / 2)  # (S, B, G)
    return ranks.swapaxes(0, 1) - counts.sum(axis=1)[:, None, None] / 2


def partial_rank_correlation(a, b, given, counts=None) -> np.ndarray:
    """Spearman correlation of a and b at equal `given`, as rank_correlation."""
    pairs = (a, b), (a, given), (b, given)
    ab, ac, bc = (rank_correlation(*pair, counts) for pair in pairs)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2))


def correlation_with_gain(
    statistic: Callable, gains, baselines: int, *traits, resamples: int = 1000, seed: int = 0
) -> Interval:
    """95 % interval of the mean over networks of a correlation over groups with the gain.

    statistic(gains, *traits, counts) is rank_correlation, or takes counts like it. gains (S, G): of
    each network over the mean of `baselines` baselines; traits (S, G): what the gain is compared
    with, such as the margin of the other seeds' teachers. Two-way on Fisher's scale, as in
    `interval`: networks, of which the baselines are as many more with the same spread, and groups,
    which are resampled, so that it covers other groups (classes) too. Noise of the test examples is
    part of what differs between groups. Symmetric on Fisher's scale; never leaves [-1, 1].
    Simulated level at 5 %: 0.5 to 5 % with 20 groups, 2 to 7 % with 100 groups and 4 networks.
    """
    gains = np.asarray(gains, dtype=np.float64)
    kept = np.isfinite(gains).all(axis=0)
    gains = gains[:, kept]
    traits = [np.asarray(trait)[:, kept] for trait in traits]
    seeds, groups = gains.shape
    per_seed = statistic(gains, *traits)
    z = fisher(per_seed)
    drawn = np.random.default_rng(seed).integers(groups, size=(resamples, groups))
    places = drawn + groups * np.arange(resamples)[:, None]
    counts = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)
    redrawn = fisher(statistic(gains, *traits, counts=counts))
    if min(seeds, baselines) < 2 or groups < 4:
        facts = seeds, tuple(per_seed.tolist()), baselines
        return Interval(float(per_seed.mean()), *[np.nan] * 4, *facts)
    facts = seeds, tuple(z.tolist()), baselines
    sample = z, redrawn, 1 / seeds + 1 / baselines
    return from_fisher(_two_way([sample], redrawn.mean(axis=1), None, facts, groups - 2))


def fisher(correlation):
    """Correlations on Fisher's scale, where they vary alike whatever they are."""
    return np.arctanh(np.clip(correlation, -CERTAIN, CERTAIN))


def from_fisher(found: Interval) -> Interval:
    """An Interval that was computed on Fisher's scale, as one of a correlation."""
    estimate, low, high = np.tanh([found.estimate, found.low, found.high]).tolist()
    per_seed = tuple(np.tanh(found.per_seed).tolist())
    return replace(found, estimate=estimate, low=low, high=high, per_seed=per_seed, fisher=True)


def nan_groups(values: np.ndarray) -> np.ndarray:
    """(G,) bool: whether a group has a NaN anywhere in (..., G)."""
    return np.isnan(values).reshape(-1, values.shape[-1]).any(axis=0)


def worst(values, k: int) -> np.ndarray:
    """Mean of the k smallest over the trailing group axis, (..., G) -> (...); NaN does not count.

    Picked on the examples it is measured on, so below the mean of the truly worst groups
    (PROTOCOL.md, section 6).
    """
    return np.partition(values, k - 1, axis=-1)[..., :k].mean(axis=-1)  # NaN sorts last
