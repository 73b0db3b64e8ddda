"""Rates by group and their largest differences, against fairlearn."""

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)

from kdlib.evidence import rates
from kdlib.evidence.stats import interval

NAMES = tuple("abcd")
METRICS = {
    rates.SELECTION: selection_rate,
    rates.TPR: true_positive_rate,
    rates.FPR: false_positive_rate,
}


@pytest.fixture
def people():
    """(predicted (3, 400), y (400,), group (400,)): groups of unequal size and unequal rates."""
    rng = np.random.default_rng(0)
    group = rng.choice(4, 400, p=(0.5, 0.3, 0.15, 0.05))
    y = (rng.random(400) < 0.2 + 0.15 * group).astype(int)
    predicted = (rng.random((3, 400)) < 0.2 + 0.4 * y + 0.05 * group).astype(int)
    return predicted, y, group


def test_rates_are_those_of_fairlearn(people):
    predicted, y, group = people
    found = rates.rates(predicted, y, group, NAMES)
    for s, mine in enumerate(predicted):
        theirs = MetricFrame(metrics=METRICS, y_true=y, y_pred=mine, sensitive_features=group)
        for rate in rates.RATES:
            assert found[rate].observed[s] == pytest.approx(100 * theirs.by_group[rate].to_numpy())


def test_largest_differences_are_those_of_fairlearn(people):
    predicted, y, group = people
    found = rates.differences(rates.rates(predicted, y, group, NAMES))
    for s, mine in enumerate(predicted):
        how = {"sensitive_features": group}
        parity = demographic_parity_difference(y, mine, **how)
        assert found[rates.PARITY].observed[s] == pytest.approx(100 * parity)
        odds = equalized_odds_difference(y, mine, **how)
        assert found[rates.ODDS].observed[s] == pytest.approx(100 * odds)


def test_redrawn_rates_vary_as_binomials_of_their_group_and_label(people):
    predicted, y, group = people
    found = rates.rates(predicted[:1], y, group, NAMES)
    spreads = {rate: of.resampled[:, 0].std(axis=0, ddof=1) for rate, of in found.items()}
    for g in range(4):
        for rate, some in (
            (rates.SELECTION, group == g),
            (rates.TPR, (group == g) & (y == 1)),
            (rates.FPR, (group == g) & (y == 0)),
        ):
            share, n = predicted[0, some].mean(), some.sum()
            wanted = 100 * np.sqrt(share * (1 - share) / (n - 1))
            assert spreads[rate][g] == pytest.approx(wanted, rel=0.12, abs=1e-9)


def test_a_group_without_a_label_has_no_rate_and_takes_no_part_in_the_differences(people):
    predicted, y, group = people
    y = np.where(group == 3, 0, y)
    found = rates.rates(predicted, y, group, NAMES)
    assert np.isnan(found[rates.TPR].observed[:, 3]).all()
    assert np.isfinite(found[rates.FPR].observed).all()
    others = rates.differences(
        rates.rates(predicted[:, group < 3], y[group < 3], group[group < 3], NAMES[:3])
    )
    tpr = rates.spread(found[rates.TPR].observed)
    assert np.array_equal(tpr, rates.spread(found[rates.TPR].observed[:, :3]))
    odds = rates.differences(found)[rates.ODDS].observed
    assert (odds >= others[rates.ODDS].observed - 1e-9).all() and np.isfinite(odds).all()


def test_equal_treatment_has_intervals_of_differences_that_hold_zero():
    """What a network says depends on nobody's group: the sexes differ by noise alone."""
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        group = rng.integers(2, size=2000)
        predicted = rng.random((4, 2000)) < 0.3
        found = rates.rates(predicted, np.zeros(2000, int), group, ("f", "m"))[rates.SELECTION]
        result = interval(*found.map(lambda values: values[..., 0] - values[..., 1]))
        held += result.low <= 0 <= result.high
    assert held >= 35
