"""Counts against masks, loops, scikit-learn and fairlearn."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score, log_loss

from kdlib.evidence import counts
from kdlib.evidence.counts import (
    CELLS,
    buckets,
    by_group,
    calibration_error,
    outcomes,
    tenths,
    thirds,
)
from kdlib.evidence.resample import GroupMeans, Groups, average_means
from kdlib.evidence.stats import interval
from kdlib.study import records


@pytest.fixture
def random_run():
    """(Predictions, probabilities (N, 7)) of random logits; one class of seven has no example."""
    rng = np.random.default_rng(5)
    logits = torch.tensor(rng.normal(size=(400, 7)) * 2)
    y = torch.tensor(rng.integers(0, 6, 400))
    return records.predictions(logits, SimpleNamespace(y=y, group=y)), logits.softmax(dim=1).numpy()


# ---------------------------------------------------------------- by group


def test_by_group_is_mask_and_recompute(random_run):
    run, p = random_run
    table = by_group(run, 7, 7)
    for g in range(6):
        members = np.flatnonzero(run.group == g)
        assert table["n"][g] == len(members)
        assert table["correct"][g] == sum(p[i].argmax() == g for i in members)
        assert table["nll"][g] == pytest.approx(
            np.mean([-np.log(p[i, g]) for i in members]), abs=2e-3
        )  # float16
        margin = np.mean([p[i, g] - np.delete(p[i], g).mean() for i in members])
        assert table["margin"][g] == pytest.approx(margin, abs=2e-3)


def test_an_empty_group_is_nan_and_says_nothing(random_run, recwarn):
    table = by_group(random_run[0], 7, 7)
    assert (table["n"][6], table["correct"][6]) == (0, 0) and np.isnan(
        [table["nll"][6], table["margin"][6]]
    ).all()
    assert not recwarn.list


def test_by_group_agrees_with_fairlearn_and_sklearn(random_run):
    run, p = random_run
    table = by_group(run, 7, 7)
    frame = MetricFrame(
        metrics=accuracy_score, y_true=run.y, y_pred=run.predicted, sensitive_features=run.group
    )
    np.testing.assert_allclose(table["correct"][:6] / table["n"][:6], frame.by_group.to_numpy())
    assert table["correct"].sum() / table["n"].sum() == pytest.approx(frame.overall)
    nll = (table["nll"][:6] * table["n"][:6]).sum() / table["n"].sum()
    assert nll == pytest.approx(log_loss(run.y, p, labels=range(7)), abs=1e-3)


def test_buckets_at_their_thresholds():
    sizes = [1000, 31, 30, 29, 8, 7, 6, 0]
    assert [counts.BUCKETS[b] for b in buckets(sizes, (30, 7))] == ["many"] * 2 + ["medium"] * 4 + [
        "few"
    ] * 2


@pytest.mark.parametrize("groups, k", [(100, 10), (20, 2), (10, 1), (7, 1), (16, 2)])
def test_tenths_are_the_highest_and_the_lowest_of_a_sorted_list(groups, k):
    margin = np.random.default_rng(groups).permutation(np.linspace(-0.2, 0.9, groups))
    order = sorted(range(groups), key=lambda g: margin[g])
    expected = [
        "lowest tenth" if g in order[:k] else "highest tenth" if g in order[-k:] else "middle"
        for g in range(groups)
    ]
    assert [counts.TENTHS[b] for b in tenths(margin)] == expected


def test_tenths_of_equal_margins_are_of_their_size_all_the_same():
    assert np.bincount(tenths(np.zeros(30)), minlength=3).tolist() == [3, 24, 3]


# ---------------------------------------------------------------- calibration


def ece_by_loops(confidence, right, weights):
    error = 0.0
    for b in range(15):
        members = [
            i for i, c in enumerate(confidence) if b / 15 <= c < (b + 1) / 15 or b == 14 and c == 1
        ]
        total = sum(weights[i] for i in members)
        if total:
            accuracy = sum(weights[i] * right[i] for i in members) / total
            mean = sum(weights[i] * confidence[i] for i in members) / total
            error += total * abs(accuracy - mean)
    return error / sum(weights)


@pytest.mark.parametrize("least", [0.1, 3])
def test_calibration_error_by_loops(random_run, least):
    run = random_run[0]
    weights = np.random.default_rng(1).uniform(least, 3, len(run.y))
    confidence = np.exp(run.log_p[:, 1].astype(float))
    expected = ece_by_loops(confidence.tolist(), run.right, weights)
    assert calibration_error(confidence, run.right, weights) == pytest.approx(expected)


def test_certainty_falls_into_the_last_bin():
    right = np.array([True, True, True, False])
    assert calibration_error(np.ones(4), right, np.ones(4)) == pytest.approx(0.25)


# ---------------------------------------------------------------- eight cells


def test_the_eight_outcomes_by_brute_force():
    cases = list(itertools.product([False, True], repeat=3))
    every = [case for n, case in enumerate(cases, start=1) for _ in range(n)]
    order = np.random.default_rng(0).permutation(len(every))
    rights = [right[None] for right in np.array(every)[order].T]
    named = {
        "transferred": (0, 1, 0),
        "new harm": (1, 1, 0),
        "repaired": (1, 0, 1),
        "resisted": (0, 1, 1),
        "surpassed": (0, 0, 1),
        "not learned": (1, 0, 0),
        "all right": (1, 1, 1),
        "all wrong": (0, 0, 0),
    }
    found = outcomes(
        rights, lambda values: average_means(values, Groups.everybody(36), resamples=2)
    )
    assert set(found) == set(named) == set(CELLS.values())
    for name, cell in named.items():
        count, share = found[name]
        assert count == every.count(tuple(map(bool, cell)))
        assert share.observed == pytest.approx([100 * count / 36])


def test_thirds_are_of_a_sorted_list_and_a_group_without_a_margin_is_in_the_last():
    margin = np.array([0.2, 0.9, np.nan, 0.5, 0.1, 0.7])
    assert thirds(margin).tolist() == [1, 0, 2, 1, 2, 0]
    np.testing.assert_array_equal(thirds(np.stack([margin] * 2)), [thirds(margin)] * 2)


def pairs(shares):
    """GroupMeans of each teacher, as Panel.copied_share, from (B, teachers, students)."""
    return [GroupMeans(shares[0, t], shares[1:, t]) for t in range(shares.shape[1])]


@pytest.mark.parametrize("met", [[], [(1, 3), (4, 0)]])
def test_what_is_copied_of_the_own_teacher_is_beyond_an_effect_of_each_student_and_teacher(met):
    """Exactly so where the effects are all there is; a network that is a teacher is left out."""
    rng = np.random.default_rng(0)
    own = rng.normal(2, 1, (3, 5))
    shares = rng.normal(40, 5, (3, 5, 1)) + rng.normal(0, 3, (3, 1, 5))
    shares[:, np.arange(5), np.arange(5)] += own
    keep = np.ones((5, 5), dtype=bool)
    for teacher, student in met:
        keep[teacher, student] = False
        shares[:, teacher, student] = 100
    found = counts.of_own_teacher(pairs(shares), keep)
    np.testing.assert_allclose([found.observed, *found.resampled], own)


def test_an_excess_over_other_teachers_is_the_mean_of_own_pairs_minus_that_of_the_others():
    """And without one, its test fires seldom; a two-way layout of its own for each draw."""
    rng = np.random.default_rng(1)
    fired = []
    for _ in range(1000):
        effects = rng.normal(0, 3, (4, 1)) + rng.normal(0, 3, (1, 4))
        shares = effects + rng.normal(0, 1, (4, 4))
        draws = np.tile(shares, (3, 1, 1))
        found = interval(*counts.of_own_teacher(pairs(draws), np.ones((4, 4), dtype=bool)))
        others = (shares.sum() - np.trace(shares)) / 12
        assert found.estimate == pytest.approx(np.trace(shares) / 4 - others)
        fired.append(found.p() < 0.05)
    assert 0.005 < np.mean(fired) < 0.05
