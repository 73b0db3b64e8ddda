"""Redraws and group means against hand computation and the textbook variance."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from synthetic import group_means

from kdlib.evidence import redraws, resample
from kdlib.evidence.resample import GroupMeans, Groups
from kdlib.evidence.stats import (
    rank_correlation,
    worst,
)

# ---- group means ------------------------------------------------------------


def small_study():
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat([0, 1, 3], [5, 40, 7]))  # group 2 of 4 is empty
    return rng.normal(size=(3, 52)), group


def test_group_means_are_the_masked_means_and_an_empty_group_is_nan():
    values, group = small_study()
    means = group_means(values, group, groups=4, resamples=50)
    assert means.observed.shape == (3, 4) and means.resampled.shape == (50, 3, 4)
    for g in (0, 1, 3):
        np.testing.assert_allclose(
            means.observed[:, g], values[:, group == g].mean(axis=1), rtol=1e-12
        )
    assert np.isnan(means.observed[:, 2]).all() and np.isnan(means.resampled[:, :, 2]).all()
    assert np.isfinite(means.resampled[:, :, [0, 1, 3]]).all()


def test_resampled_means_are_means_of_one_example_less_than_the_group_has_drawn_with_replacement():
    n = 4
    powers = np.array([[1.0, 10.0, 100.0, 1000.0, 7.0]])  # the sum of a redraw spells its counts
    sums = group_means(powers, np.array([1, 1, 1, 1, 0]), 2, resamples=4000).resampled[:, 0, 1]
    drawn = np.array([[int(digit) for digit in f"{round((n - 1) * s):04d}"] for s in sums])
    assert (drawn.sum(axis=1) == n - 1).all()
    expected = stats.binom.pmf(np.arange(n), n - 1, 1 / n) * 4000  # each: binomial(n - 1, 1/n)
    for counts in drawn.T:
        assert stats.chisquare(np.bincount(counts, minlength=n), expected).pvalue > 1e-3


def test_groups_of_one_example_vary_as_the_examples_of_all_of_them():
    """As one stratum: the variance of each is the sample variance of all, of their mean its mth."""
    values = np.random.default_rng(0).normal(size=(2, 40))
    means = group_means(values, np.arange(40), 41, resamples=20000)
    np.testing.assert_array_equal(means.observed[:, :40], values)
    each = means.resampled[..., :40]
    wanted = values.var(axis=1, ddof=1)
    np.testing.assert_allclose(each.var(axis=0).mean(axis=1), wanted, rtol=0.03)
    np.testing.assert_allclose(each.mean(axis=2).var(axis=0), wanted / 40, rtol=0.05)
    assert np.isnan(means.resampled[..., 40]).all()
    alone = group_means(values[:, :3], np.array([0, 0, 1]), 2, resamples=50)
    # it takes the deviations of the other two, each as often
    apart = np.sqrt(2) * abs(np.diff(values[:, :2])[:, 0]) / 2
    np.testing.assert_allclose(abs(alone.resampled[..., 1] - values[:, 2]), np.tile(apart, (50, 1)))
    nobody = group_means(values[:, :1], np.array([0]), 1, resamples=50)
    assert np.isnan(nobody.resampled).all() and np.isfinite(nobody.observed).all()


def test_bootstrap_variance_is_the_textbook_one():
    values, group = small_study()
    means = group_means(values, group, 4, resamples=20000)
    for g in (0, 1, 3):
        wanted = values[:, group == g].var(axis=1, ddof=1) / (group == g).sum()
        np.testing.assert_allclose(means.resampled[:, :, g].var(axis=0), wanted, rtol=0.06)


def test_redraw_is_shared_by_seeds_and_by_calls_so_differences_are_paired():
    values, group = small_study()
    first, second = values, np.random.default_rng(1).normal(size=values.shape)
    student = group_means(first, group, 4, 200)
    redraws._all_draws.cache_clear()  # as in another process
    apart = student - group_means(second, group, 4, 200)
    together = group_means(first - second, group, 4, 200)
    np.testing.assert_allclose(apart.resampled, together.resampled, atol=1e-12)
    same_seeds = group_means(np.stack([first[0], first[0]]), group, 4, 200).resampled
    np.testing.assert_array_equal(same_seeds[:, 0], same_seeds[:, 1])


def test_redraws_differ_between_groups_of_one_size_and_between_resampling_seeds():
    values, group = np.tile(np.random.default_rng(0).normal(size=30), (1, 2)), np.repeat([0, 1], 30)
    first, second = (
        group_means(values, group, 2, 2000, seed=seed).resampled[:, 0] for seed in (0, 1)
    )
    assert abs(np.corrcoef(first[:, 0], first[:, 1])[0, 1]) < 0.1
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.1


def test_group_means_are_reproducible_and_do_not_depend_on_the_chunk_or_on_other_groups(
    monkeypatch,
):
    values, group = small_study()
    means = group_means(values, group, 4, 30, seed=7)
    for module, name in ((redraws, "HELD"), (redraws, "DRAWN"), (redraws, "CONVERTED")):
        monkeypatch.setattr(module, name, 300)
    monkeypatch.setattr(resample, "BLOCK", 40)
    kept = group != 0
    for rows in (slice(None), kept):
        redraws._all_draws.cache_clear()  # else nothing is drawn again
        again = group_means(values[:, rows], group[rows], 4, 30, seed=7)
        np.testing.assert_allclose(
            again.resampled[:, :, [1, 3]], means.resampled[:, :, [1, 3]], rtol=1e-12
        )


def test_the_mean_over_groups_is_that_of_the_group_means(monkeypatch):
    values, group = small_study()
    group[group == 3] = 2
    monkeypatch.setattr(resample, "BLOCK", 40)
    members = Groups.of(group, range(3))
    means = resample.group_means(values, members, resamples=30).mean()
    for got, wanted in zip(
        resample.average_means(values, members, resamples=30), means, strict=True
    ):
        np.testing.assert_array_equal(got, wanted)
    assert np.isnan(resample.average_means(values, Groups.of(group, range(4))).observed).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_over_overlapping_groups_is_that_of_the_group_means(weighted):
    rng = np.random.default_rng(0)
    values, inside = rng.normal(size=(3, 50)), rng.random((4, 50)) < 0.4
    group, example = np.nonzero(inside)
    members = Groups(tuple("abcd"), example, group)
    w = rng.uniform(0, 2, 50) * (rng.random(50) < 0.9) if weighted else None
    means = resample.group_means(values, members, w, resamples=30).mean()
    found = resample.average_means(values, members, w, resamples=30)
    for got, wanted in zip(found, means, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 100])
def test_group_means_stay_within_300_megabytes(groups):
    rng = np.random.default_rng(0)
    right, group = rng.random((8, 50_000)) < 0.6, rng.integers(groups, size=50_000)
    tracemalloc.start()
    means = group_means(right, group, groups, resamples=300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6
    np.testing.assert_array_equal(means.observed[:, 0], right[:, group == 0].mean(axis=1))


def test_arithmetic_and_map_work_on_both_parts():
    values, group = small_study()
    a, b = group_means(values, group, 4, 20), group_means(values**2, group, 4, 20)
    weights = np.arange(4.0)
    for got, wanted in [
        (a + b, lambda x, y: x + y),
        (a - b, lambda x, y: x - y),
        (a * b, lambda x, y: x * y),
        (a / b, lambda x, y: x / y),
        (100 * a, lambda x, y: 100 * x),
        (a * 100, lambda x, y: 100 * x),
        (weights * a, lambda x, y: weights * x),
        (np.float64(2) * a, lambda x, y: 2 * x),
        (a - 1, lambda x, y: x - 1),
        (a.map(worst, k=2), lambda x, y: worst(x, 2)),
        (a.map(rank_correlation, b), rank_correlation),
    ]:
        assert isinstance(got, GroupMeans)
        np.testing.assert_array_equal(got.observed, wanted(a.observed, b.observed))
        np.testing.assert_array_equal(got.resampled, wanted(a.resampled, b.resampled))
    none = 0 * a
    assert np.isnan((none / none).observed).all()


def test_import_needs_numpy_and_scipy_alone():
    code = "import sys, kdlib.evidence.significance\n"
    code += "sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
