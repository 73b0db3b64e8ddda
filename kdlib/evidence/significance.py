"""Tests and their corrections: groups that changed, agreement of seeds.

numpy and scipy only. Axes as in resample.py.
"""

import functools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import bdtr, digamma, ndtr, polygamma, stdtr, stdtrit
from scipy.stats import false_discovery_control

from kdlib.evidence.resample import Groups
from kdlib.evidence.stats import detectable, nan_groups

TIE = 1e-12  # differences of means that are equal on paper differ by about 1e-16
MANY = 1e9  # degrees of freedom where only examples are drawn
FALSE_DISCOVERIES = 0.05  # of the groups that are called changed
UNCHANGED = "no clear difference"


# ---------------------------------------------------------------- groups, each for itself


@dataclass(frozen=True)
class Change:
    """Means of each group, or their differences, with 95 % intervals and tests: all (G,)."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    se: np.ndarray
    df: np.ndarray
    p: np.ndarray  # two-sided, of no change

    @property
    def q(self):
        """p adjusted so that of the groups with q <= 0.05 one in twenty is false on average."""
        return false_discovery(self.p)

    @property
    def detectable(self):
        """The smallest true change that is called one with power 80 %, if no other group changed.

        The first of many q is then compared with 5 %, so its p with 5 % of their number."""
        level = FALSE_DISCOVERIES / max(1, np.isfinite(self.p).sum())
        return detectable(self.df, self.se, level)


def called(gain, q, words=("harmed", "helped")):
    """(G,) words: which groups changed, at a false discovery rate of 5 %, down or up."""
    return np.where(q <= FALSE_DISCOVERIES, np.where(gain < 0, *words), UNCHANGED)


def gain_of(right, members: Groups, w) -> Change:
    """The change of the student, of {role: (S, N) bool}, over the baselines, or its teachers."""
    if "baseline" in right:
        return change(right["student"], members, w, right["baseline"])
    return change(right["student"].astype(float) - right["teacher"], members, w)


def change(mine, members: Groups, w, other=None, pseudo: int = 1) -> Change:
    """How the mean of each group differs between two samples of networks, on new examples too.

    mine (S, N), other (n, N): values in [0, 1], such as 1 where right; without other, or with
    differences in [-1, 1] of paired networks, the mean of mine. w (N,): weights of the examples,
    which count by Kish's effective number.

    One network, or a pair of them: over new examples, by Agresti and Min (2005, Statistics in
    Medicine 24): `pseudo` = 1 adds half an example to each of the four outcomes of two models, else
    intervals of small groups are too narrow, and empty where nobody differs. p is McNemar's exact
    mid-p; with weights, the z of sign flips. More networks: also over new networks, two-way as
    stats.interval and welch, with the pooled variance over networks shrunk (shrunk_variances); p is
    that of the interval's centre.
    """
    samples = [np.asarray(mine, dtype=np.float64)]
    if other is not None:
        samples.append(np.asarray(other, dtype=np.float64))
    total = members.sums(w)
    with np.errstate(invalid="ignore", divide="ignore"):  # an empty group
        n = total**2 / members.sums(w**2)

        def mean(values):
            return members.sums(w * values) / total

        def variance(values, more):  # of the mean over examples, with 2 * more examples
            of_mean, count = mean(values) * n / (n + 2 * more), n + 2 * more
            second = (mean(values**2) * n + more) / count
            divisor = count if more else n - 1  # of one example: unknown
            return np.where(n + more > 1, np.maximum(second - of_mean**2, 0) / divisor, np.nan)

        each = [mean(sample) for sample in samples]
        d = samples[0].mean(axis=0)
        if other is not None:
            d = d - samples[1].mean(axis=0)
        estimate = mean(d)
        estimate = np.where(np.abs(estimate) < TIE, 0.0, estimate)  # NaN stays
        centre = estimate * n / (n + 2 * pseudo)
        by_example = variance(d, pseudo)
        several = [sample for sample in samples if len(sample) > 1]
        in_both = np.zeros(len(n))
        for sample in several:
            single = np.mean([variance(row, 0) for row in sample], axis=0)
            joint = variance(sample.mean(axis=0), 0)
            both = np.maximum(0, single - joint) * len(sample) / (len(sample) - 1)
            # a single network of the other sample counts as spread like these
            in_both += np.nan_to_num(both) * (1 / len(sample) + len(samples) - len(several))
        shrunk, df_networks = shrunk_variances(*each)
        by_network = np.nan_to_num(shrunk) * sum(1 / len(sample) for sample in samples)
        least = np.maximum(by_network, by_example)
        total_variance = np.maximum(by_network + by_example - in_both, least)
        added = np.maximum(0, by_example - in_both)
        df_networks = df_networks if np.isfinite(df_networks) else 1
        df = total_variance**2 / (by_network**2 / df_networks + added**2 / (n + 1))
        one_each = all(len(sample) == 1 for sample in samples)
        df = np.where(np.isfinite(df) & ~one_each, df, MANY)
        se = np.sqrt(total_variance)
        half = stdtrit(df, 0.975) * se
        if one_each:
            p = _mid_p(d, members, w)
        else:
            p = 2 * stdtr(df, -np.abs(np.where(se > 0, centre / se, 0.0)))
    low = np.maximum(centre - half, -1)
    high = np.minimum(centre + half, 1)
    return Change(estimate, low, high, se, df, np.where(np.isnan(estimate), np.nan, p))


def _mid_p(d, members: Groups, w) -> np.ndarray:
    """Two-sided p of no change, (G,), of one pair: differences d (N,) of -1, 0 and 1."""
    if np.ptp(w):
        z = np.abs(members.sums(w * d)) / np.sqrt(members.sums((w * d) ** 2))
        return np.where(np.isnan(z), 1.0, 2 * ndtr(-z))
    up, down = members.sums((d > 0).astype(int)), members.sums((d < 0).astype(int))
    fewer = np.minimum(up, down)
    below = np.where(fewer > 0, bdtr(np.maximum(fewer - 1, 0), up + down, 0.5), 0)
    return np.minimum(bdtr(fewer, up + down, 0.5) + below, 1)


def shrunk_variances(*samples) -> tuple[np.ndarray, float]:
    """Variance over networks of each group, shrunk towards a common one: (S, G), ... -> (G,), df.

    Smyth 2004, Linear models and empirical Bayes methods (Stat. Appl. Genet. Mol. Biol. 3:3),
    section 6.2: the variance of each group, pooled over samples, with d degrees of freedom, is
    shrunk towards a common one; a scaled inverse chi-square prior with d0 degrees of freedom is
    fitted by moments of the log variances; df is d0 + d, at most G d. Zero variances are raised to
    1e-5 of the median (of the positive ones if that is zero), as limma does. A group with a NaN
    stays NaN; no spread anywhere, or single networks alone, gives NaN throughout."""
    samples = [np.asarray(gains, dtype=np.float64) for gains in samples]
    d = sum(len(gains) - 1 for gains in samples)
    variances = np.zeros(samples[0].shape[1])
    for gains in [gains for gains in samples if len(gains) > 1]:
        varies = np.ptp(gains, axis=0) > TIE  # NaN: not, but its variance is NaN
        variances += (len(gains) - 1) / d * gains.var(axis=0, ddof=1) * np.where(varies, 1, 0)
    out = np.full(len(variances), np.nan)
    kept = np.isfinite(variances)
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
    if len(variances) == 1:  # nothing to shrink towards
        return 0.0, float(variances[0])
    logs = np.log(variances) - digamma(d / 2) + np.log(d / 2)
    excess = logs.var(ddof=1) - polygamma(1, d / 2)
    if excess <= 0:  # no more spread than chance: one common variance
        return np.inf, float(variances.mean())
    # trigamma(x) falls from infinity, and is below 1 / (x - 1/2)
    half = brentq(lambda x: polygamma(1, x) - excess, 1e-9, 0.5 + 1 / excess)
    return float(2 * half), float(np.exp(logs.mean() + digamma(half) - np.log(half)))


# ---------------------------------------------------------------- many tests


def false_discovery(p) -> np.ndarray:
    """Benjamini-Hochberg adjusted p, (G,) -> (G,): of q <= 0.05, 5 % are false on average.

    NaN stays."""
    p = np.asarray(p, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    kept = np.isfinite(p)
    if kept.any():
        q[kept] = false_discovery_control(p[kept])
    return q


def holm(p) -> np.ndarray:
    """Holm's adjusted p, (m,) -> (m,); NaN stays, and counts as 1 for the others.

    Of findings with adjusted p <= 0.05 none is false in 95 % of families."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")  # NaN last
    steps = p[order] * (len(p) - np.arange(len(p)))
    out = np.empty(len(p))
    out[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return out


# ---------------------------------------------------------------- agreement


def agreement(mine, pool, permutations: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Whether seeds agree on which groups gain: (covariance, one-sided p).

    The covariance is that over groups between the gains of two seeds, each over another baseline
    and on another half of the examples, so that nothing but the groups can make them agree: the
    mean over all such pairs, and over K random splits of the examples. mine (K, 2, S, G), pool
    (K, 2, n, G): means of each network of a method and of each baseline on the two halves of every
    group's examples.

    Of two permutation tests the larger p counts, since neither is enough. One deals the networks
    anew into method and pool: groups may then have anything in common, but what a method does to
    single examples is taken for what it does to their group. The other relabels the groups of one
    half, alike for all networks: single examples may then change, but groups are taken to vary
    independently and alike. Fewer than two seeds, groups or baselines give NaN.
    """
    seeds, baselines = mine.shape[2], pool.shape[2]
    networks = np.concatenate([mine, pool], axis=2)
    networks = networks[..., ~nan_groups(networks)]  # a half of a single example is empty
    groups = networks.shape[-1]
    if min(seeds, groups, baselines) < 2:
        return np.nan, np.nan
    centred = networks - networks.mean(axis=-1, keepdims=True)
    here, there = centred[:, 0], centred[:, 1]  # (K, N, G)
    scale = len(centred) * (groups - 1)
    pairs = seeds * (seeds - 1), baselines * (baselines - 1), seeds * baselines
    # what the product of two networks counts for: no network is compared with itself
    method = np.arange(seeds + baselines) < seeds
    alike = np.where(method, 1 / pairs[0], 1 / pairs[1])
    counts = np.where(method[:, None] == method, alike, -1 / pairs[2])
    np.fill_diagonal(counts, 0)

    by_group = np.einsum("kag,ab,kbh->gh", here, counts, there, optimize=True) / scale
    measured = np.trace(by_group)
    orders, dealt = _permuted(groups, seeds, baselines, permutations, seed)
    null = by_group[np.arange(groups), orders].sum(axis=1)
    of_groups = np.count_nonzero(null >= measured - TIE * np.abs(by_group).sum())

    products = np.einsum("kag,kbg->ab", here, there, optimize=True) / scale
    np.fill_diagonal(products, 0)
    inside = ((dealt @ products) * dealt).sum(axis=1)
    across = dealt @ (products + products.T).sum(axis=1) - 2 * inside
    outside = products.sum() - inside - across
    null = inside / pairs[0] + outside / pairs[1] - across / pairs[2]
    of_networks = np.count_nonzero(null >= measured - TIE * np.abs(products).sum())
    return float(measured), float((1 + max(of_groups, of_networks)) / (1 + permutations))


@functools.lru_cache(maxsize=8)  # false_alarms asks for the same ones thousands of times
def _permuted(groups, seeds, baselines, permutations, seed):
    """Groups relabelled, (permutations, groups); networks dealt anew, 1 to mine, 0 to the pool."""
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(groups), (permutations, 1)), axis=1)
    mine = np.repeat([1.0, 0.0], [seeds, baselines])
    return orders, rng.permuted(np.tile(mine, (permutations, 1)), axis=1)
