"""Tests of seeds and groups against enumeration, scipy, and simulation."""

import itertools

import numpy as np
import pytest
from scipy import optimize, special, stats

from kdlib.evidence.significance import (
    Change,
    agreement,
    false_discovery,
    shrunk_variances,
)

# ---- tests over seeds and groups --------------------------------------------


def hierarchical_gains(rng, seeds, groups, d0, prior=4.0, effect=0.0):
    """Gains (S, G) with variances from the scaled inverse chi-square prior with d0 degrees of
    freedom."""
    variances = prior * d0 / rng.chisquare(d0, groups)
    return effect + np.sqrt(variances) * rng.normal(size=(seeds, groups))


def two(gains, first):
    """A sample of gains (S, G) as two samples of which the null is true: its first rows, and the
    rest."""
    return gains[:first], gains[first:]


def moderated_t(mine, other):
    """Two-sample t with shrunk variances: t (G,), two-sided p (G,), df."""
    variances, df = shrunk_variances(mine, other)
    se = np.sqrt(variances * (1 / len(mine) + 1 / len(other)))
    t = (mine.mean(axis=0) - other.mean(axis=0)) / se
    return t, 2 * stats.t.sf(np.abs(t), df), df


def test_moderated_t_with_one_group_is_students_t():
    mine, other = two(np.random.default_rng(0).normal(0.5, 1, (16, 1)), 6)
    t, p, df = moderated_t(mine, other)
    wanted = stats.ttest_ind(mine[:, 0], other[:, 0])
    assert (t[0], p[0], df) == pytest.approx((wanted.statistic, wanted.pvalue, 14))


def test_moderated_t_with_wildly_different_variances_does_not_shrink():
    rng = np.random.default_rng(0)
    gains = rng.normal(1, 1, (9, 61)) * np.where(
        np.arange(61) < 40, 1.0, 10.0 ** (6 * np.arange(61) - 240)
    )
    t, p, df = moderated_t(*two(gains, 4))
    wanted = stats.ttest_ind(*two(gains, 4))
    assert 7 < df < 7.1
    np.testing.assert_allclose(t, wanted.statistic, rtol=0.02)
    np.testing.assert_allclose(p, wanted.pvalue, rtol=0.1)


def test_moderated_t_with_equal_variances_pools_them_completely():
    base, means = np.array([-1.0, 0.0, 1.0, 2.0, -2.0]), np.linspace(-1, 1, 12)
    t, p, df = moderated_t(base[:, None] + means, base[:, None] + 0 * means)
    assert df == 12 * 8  # d0 is infinite: all the pooled degrees of freedom
    np.testing.assert_allclose(t, means / np.sqrt(2.5 * 2 / 5), atol=1e-12)
    np.testing.assert_allclose(p, 2 * stats.t.sf(np.abs(t), 96))


@pytest.mark.parametrize("seeds, baselines, d0", [(4, 12, 3.0), (8, 24, 10.0), (6, 6, 1.0)])
def test_moderated_t_equals_smyth_solved_by_root_finding(seeds, baselines, d0):
    mine, other = two(
        hierarchical_gains(np.random.default_rng(5), seeds + baselines, 300, d0, effect=0.5), seeds
    )
    d = seeds + baselines - 2
    s2 = ((seeds - 1) * mine.var(axis=0, ddof=1) + (baselines - 1) * other.var(axis=0, ddof=1)) / d
    e = np.log(s2) - special.digamma(d / 2) + np.log(d / 2)
    excess = e.var(ddof=1) - special.polygamma(1, d / 2)
    fitted = 2 * optimize.brentq(lambda h: special.polygamma(1, h) - excess, 1e-3, 1e4, xtol=1e-12)
    prior = np.exp(e.mean() + special.digamma(fitted / 2) - np.log(fitted / 2))
    shrunk = (fitted * prior + d * s2) / (fitted + d)
    wanted = (mine.mean(axis=0) - other.mean(axis=0)) / np.sqrt(
        shrunk * (1 / seeds + 1 / baselines)
    )
    t, p, df = moderated_t(mine, other)
    assert df == pytest.approx(fitted + d, rel=1e-8)
    np.testing.assert_allclose(t, wanted, rtol=1e-8)
    np.testing.assert_allclose(p, 2 * stats.t.sf(np.abs(wanted), fitted + d), rtol=1e-6)


def test_moderated_t_recovers_the_prior_and_its_null_p_is_uniform():
    gains = hierarchical_gains(np.random.default_rng(6), 12, 20000, d0=5.0)
    t, p, df = moderated_t(*two(gains, 4))
    assert df - 10 == pytest.approx(5, rel=0.08)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert (
        stats.kstest(stats.ttest_ind(*two(gains, 4)).pvalue, "uniform").pvalue > 0.01
    )  # the data are null


def test_moderated_t_with_zero_variances_and_nan_groups():
    gains = np.random.default_rng(7).normal(0.2, 1, (12, 20))
    gains[:, 3], gains[2, 9] = 0.0, np.nan
    gains[:, 4] = 0.1 + 0.2 - 0.3  # zero but for rounding
    t, p, df = moderated_t(*two(gains, 6))
    assert np.isnan(t[9]) and np.isnan(p[9]) and np.isfinite(np.delete(t, 9)).all()
    assert t[3] == 0 and p[3] == 1 and p[4] > 0.999
    without = moderated_t(*two(np.delete(gains, 9, axis=1), 6))
    np.testing.assert_array_equal(np.delete(p, 9), without[1])


@pytest.mark.parametrize(
    "mine, other",
    [
        (np.ones((1, 5)), np.ones((1, 5))),
        (np.full((4, 5), 0.1), np.full((4, 5), 0.1)),
        (np.full((4, 5), np.nan), np.ones((4, 5))),
    ],
)
def test_moderated_t_without_spread_is_nan(mine, other):
    t, p, df = moderated_t(mine, other)
    assert t.shape == p.shape == (5,) and np.isnan([*t, *p, df]).all()


def test_shrunk_variances_recover_the_prior():
    gains = hierarchical_gains(np.random.default_rng(6), 6, 20000, d0=5.0)
    variances, df = shrunk_variances(gains)
    assert df - 5 == pytest.approx(5, rel=0.08)
    np.testing.assert_allclose(variances, (5 * 4.0 + 5 * gains.var(axis=0, ddof=1)) / 10, rtol=0.1)
    assert np.isnan(shrunk_variances(gains[:1])[0]).all()
    assert np.isnan(shrunk_variances(np.full((3, 4), 0.3))[0]).all()


def test_false_discovery_by_hand():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005, 0.5])
    # sorted 0.005 0.01 0.03 0.04 0.5 -> x 5/rank: 0.025 0.025 0.05 0.05 0.5
    np.testing.assert_allclose(false_discovery(p), [0.025, np.nan, 0.05, 0.05, 0.025, 0.5])
    np.testing.assert_array_equal(false_discovery([np.nan, np.nan]), [np.nan, np.nan])


def test_false_discoveries_are_controlled_on_mixtures():
    rng, effect = np.random.default_rng(8), np.where(np.arange(100) < 20, 4.0, 0.0)
    shares, found = [], []
    for _ in range(200):
        gains = hierarchical_gains(rng, 16, 100, d0=6.0)
        q = false_discovery(moderated_t(gains[:8] + effect * 1.4, gains[8:])[1])
        chosen = q <= 0.05
        shares.append(chosen[20:].sum() / max(1, chosen.sum()))
        found.append(chosen[:20].mean())
    assert 0.02 < np.mean(shares) < 0.055  # 5 % times the share of nulls, 80 %, within noise
    assert np.mean(found) > 0.7


# ---- agreement --------------------------------------------------------------


def cut(rng, network, example, groups, splits=20, n=16, seeds=6, baselines=12, signal=0.0):
    """(mine, pool) for `agreement`: effects of network x group and of examples on the method, in
    random halves of n examples."""
    values = rng.normal(0, example, (groups, n))
    noise = [
        rng.normal(0, 1, (count, groups, n)) + rng.normal(0, network, (count, groups, 1))
        for count in (seeds, baselines)
    ]
    right = [noise[0] + values + np.broadcast_to(signal, groups)[:, None], noise[1]]
    first = rng.permuted(np.tile(np.arange(n) < n // 2, (splits, groups, 1)), axis=2)  # (K, G, n)
    return [
        np.stack(
            [np.einsum("sgn,kgn->ksg", r, half) / (n // 2) for half in (first, ~first)], axis=1
        )
        for r in right
    ]


def test_agreement_is_the_mean_covariance_between_seeds_examples_and_baselines():
    """One split by hand: the covariance over groups between the gains of different seeds, each over
    another baseline and on its own half of the examples."""
    mine, pool = cut(np.random.default_rng(0), 1.0, 1.0, 9, splits=1)
    wanted = [
        np.cov(mine[0, 0, s] - pool[0, 0, b], mine[0, 1, z] - pool[0, 1, c])[0, 1]
        for s, z in itertools.permutations(range(6), 2)
        for b, c in itertools.permutations(range(12), 2)
    ]
    assert agreement(mine, pool, 10)[0] == pytest.approx(np.mean(wanted))


def test_the_p_of_agreement_is_the_larger_of_two_permutation_tests():
    """Of four and three networks there are 35 deals, of four groups 24 orders: all by hand."""
    rng = np.random.default_rng(5)
    mine, pool = cut(rng, 1.0, 0.5, 4, splits=2, seeds=4, baselines=3, signal=rng.normal(0, 1, 4))
    networks = np.concatenate([mine, pool], axis=2)

    def covariance(method, order=slice(None)):
        rest = [n for n in range(7) if n not in method]
        some = networks[:, 0], networks[:, 1][:, :, order]
        return agreement(
            *(np.stack([side[:, who] for side in some], axis=1) for who in (list(method), rest)), 1
        )[0]

    measured = covariance(range(4))
    deals = [covariance(some) for some in itertools.combinations(range(7), 4)]
    orders = [covariance(range(4), list(o)) for o in itertools.permutations(range(4))]
    shares = [np.mean(np.array(null) >= measured - 1e-9) for null in (deals, orders)]
    assert shares[0] != pytest.approx(shares[1], abs=0.02)
    assert agreement(mine, pool, 20_000)[1] == pytest.approx(max(shares), abs=0.01)


def test_agreement_is_not_fooled_by_groups_that_vary_together_and_unequally():
    """Networks differ, and groups of one kind move together: nothing is changed by the method."""
    rng, null, real = np.random.default_rng(8), [], []
    for i in range(300):
        spread = 3 * np.exp(rng.normal(0, 0.3, 50))
        common = np.repeat(rng.normal(size=(12, 10)), 5, axis=1)
        networks = spread * (common + rng.normal(size=(12, 50))) / np.sqrt(2)
        for found, signal in ((null, 0.0), (real, rng.normal(0, 2.5, 50))):
            means = networks + np.where(np.arange(12) < 4, 1, 0)[:, None] * signal
            halves = means + rng.normal(0, 1.5, (4, 2, 12, 50))
            found.append(agreement(halves[:, :, :4], halves[:, :, 4:], 199, seed=i)[1])
    assert np.mean(np.array(null) <= 0.05) < 0.08
    assert np.mean(np.array(real) <= 0.05) > 0.85


def test_agreement_is_fooled_neither_by_shared_examples_nor_by_a_shared_pool():
    """Groups do not differ; examples, networks and the baselines that all seeds are compared with
    do."""
    rng, null, real = np.random.default_rng(3), [], []
    for i in range(300):
        null.append(agreement(*cut(rng, 0.7, 3.0, 30, baselines=4), 199, seed=i)[1])
        real.append(
            agreement(
                *cut(rng, 0.7, 3.0, 30, baselines=4, signal=rng.normal(0, 1.5, 30)), 199, seed=i
            )[1]
        )
    assert np.mean(np.array(null) <= 0.05) < 0.085 and 0.4 < np.mean(null) < 0.6
    assert np.mean(np.array(real) <= 0.05) > 0.6


def test_agreement_drops_nan_groups_repeats_itself_and_needs_two_of_everything():
    mine, pool = cut(np.random.default_rng(4), 1.0, 1.0, 12)
    holed = [np.insert(part, 5, np.nan, axis=-1) for part in (mine, pool)]
    assert agreement(*holed, 300, seed=1) == agreement(mine, pool, 300, seed=1)
    assert agreement(mine, pool, 300, seed=1) != agreement(mine, pool, 300, seed=2)
    for small in ((mine[:, :, :1], pool), (mine, pool[:, :, :1]), (mine[..., :1], pool[..., :1])):
        assert np.isnan(agreement(*small, 10)).all()


def test_the_detectable_change_is_called_one_with_power_80_percent_beside_99_others():
    df, se = np.full(100, 30.0), np.full(100, 2.0)
    found = Change(se, se, se, se, df, np.full(100, 0.5))
    critical = stats.t.ppf(
        1 - 0.05 / 100 / 2, 30
    )  # of the smallest of 100 p, by Benjamini-Hochberg
    power = stats.nct.sf(critical, 30, found.detectable / 2)
    np.testing.assert_allclose(power, 0.8, atol=0.02)
