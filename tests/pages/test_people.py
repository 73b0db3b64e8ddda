"""Page 08: gains, rates and largest differences of groups of people, against fairlearn."""

import numpy as np
import pytest
from adult import write_adult
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from layout import check_layout
from sklearn.metrics import accuracy_score

from kdlib.config import KdlibError
from kdlib.evidence import rates as counted
from kdlib.evidence.panel import panel
from kdlib.evidence.significance import change
from kdlib.evidence.words import number
from kdlib.pages import people, pictures
from kdlib.pages.drawing import DESK, PHONE
from kdlib.study.adult import GROUPS
from kdlib.study.grids import STUDIES
from kdlib.study.sweep import sweep

METRICS = {
    counted.SELECTION: selection_rate,
    counted.TPR: true_positive_rate,
    counted.FPR: false_positive_rate,
}
LARGEST = {
    counted.PARITY: demographic_parity_difference,
    counted.ODDS: equalized_odds_difference,
}


@pytest.fixture(scope="module")
def p(tmp_path_factory):
    """The Panel of two seeds of boosted trees that teach logistic regression made-up people."""
    folder = tmp_path_factory.mktemp("people")
    study = STUDIES["adult"].part(pairs=("boosted_trees/logistic",))
    with pytest.MonkeyPatch.context() as patch:
        write_adult(folder, patch)
        patch.setenv("KDLIB_RECORDS", str(folder / "records"))
        patch.setenv("KDLIB_CACHE", str(folder / "cache"))
        sweep(study(2), str(folder), device="cpu", jobs=1)
        yield panel(study, study.pairs[0], 2)


def networks(p, method):
    return list(p.predicted(method))


def names(p, by):
    """The group of each person: both words, or one of them."""
    parts = {"race": slice(0, 1), "sex": slice(1, 2), people.EVERY: slice(0, 2)}[by]
    return np.array([", ".join(GROUPS[g].split(", ")[parts]) for g in p.group])


def test_rows_of_a_table_are_not_shown_as_pictures(p):
    shown = [draw(p) for draw in (pictures.lost, pictures.won)]
    assert all(of.rows == () for of in shown)
    assert any("rows of a table, not images" in of.caption for of in shown)
    with pytest.raises(KdlibError, match="Study adult: its examples are rows of a table"):
        pictures.images_of(p)


def test_rates_by_group_are_the_means_of_those_of_fairlearn(p):
    table = people.rates_by_group(p, ("teacher", "one_hot", "kd"))
    table = table.set_index(["rate", "method", "group"]).sort_index()
    for method, title in (("teacher", "teacher"), ("one_hot", "one-hot"), ("kd", "distillation")):
        frames = [
            MetricFrame(
                metrics=METRICS, y_true=p.y, y_pred=one, sensitive_features=names(p, people.EVERY)
            )
            for one in networks(p, method)
        ]
        theirs = 100 * sum(frame.by_group for frame in frames) / len(frames)
        for rate in METRICS:
            mine = table.estimate[rate, title]
            assert mine.to_numpy() == pytest.approx(theirs[rate][mine.index].to_numpy())
    known = table.low.notna()
    assert known.mean() > 0.5 and table.estimate[~known].isin([0, 100]).all()
    assert ((table.low >= 0) & (table.high <= 100))[known].all()


@pytest.mark.parametrize("by", people.KINDS)
@pytest.mark.parametrize("name", LARGEST)
def test_changes_of_the_largest_differences_are_those_of_fairlearn(p, by, name):
    def mean(method):
        how = {"sensitive_features": names(p, by)}
        return 100 * np.mean([LARGEST[name](p.y, one, **how) for one in networks(p, method)])

    result = people.change(p, "ada_alpha", name, by)
    assert result.estimate == pytest.approx(mean("ada_alpha") - mean("one_hot"))
    table = people.changes(p, ["kd", "ada_alpha"])
    row = table[
        (table.groups == by) & (table.difference == name) & (table.method == "AdaAlpha")
    ].iloc[0]
    assert row.estimate == result.estimate and row.low <= row.estimate <= row.high
    shown = people.largest_differences(p).table
    row = shown[(shown.difference == name) & (shown["between groups of"] == by)].iloc[0]
    assert float(row["one-hot"].split(" ± ")[0]) == pytest.approx(mean("one_hot"), abs=0.051)


def test_gains_by_group_are_differences_of_accuracy_most_frequent_group_first(p):
    table = people.gain_by_group(p, ["kd"])
    counts = [int(name.split("(")[1].rstrip(")").replace(",", "")) for name in table.group]
    assert counts == sorted(p.train_counts, reverse=True)
    for name, gain in zip(table.group, table.estimate, strict=True):
        some = names(p, people.EVERY) == name.split(" (")[0]
        kd, base = (
            np.mean([accuracy_score(p.y[some], one[some]) for one in networks(p, m)])
            for m in ("kd", "one_hot")
        )
        assert gain == pytest.approx(100 * (kd - base))


def test_gains_by_group_have_the_intervals_of_an_audit(p):
    right = {m: np.array(networks(p, m)) == p.y for m in ("kd", "one_hot")}
    found = change(right["kd"], p.members, np.ones(len(p.y)), right["one_hot"])
    table = people.gain_by_group(p, ["ada_alpha", "kd"]).set_index("method").loc["distillation"]
    order = np.argsort(-p.train_counts, kind="stable")
    np.testing.assert_allclose(table[["low", "high"]], 100 * np.c_[found.low, found.high][order])
    assert [np.mean(seeds) for seeds in table.per_seed] == pytest.approx(list(table.estimate))


def test_by_label_a_gain_is_more_true_or_fewer_false_positives(p):
    table = people.by_label(p).table
    assert table["test rows"].sum() == len(p.y) and len(table) == 20
    for row in table.to_dict("records"):
        label = int(row["earns"] == ">50K")
        some = (names(p, people.EVERY) == row["group"]) & (p.y == label)
        right = {
            m: 100 * np.mean([one[some] == label for one in networks(p, m)])
            for m in ("one_hot", "kd")
        }
        assert row["test rows"] == some.sum()
        assert float(row["one-hot, % right"]) == pytest.approx(right["one_hot"], abs=0.051)
        said = number(right["kd"] - right["one_hot"], "")
        assert row["distillation"].split("\u00a0")[0] == said


def test_the_answer_says_the_average_the_rarest_groups_and_both_differences(p):
    first, second, third = people.answer(p)
    for weights in (p.average, p.in_bucket(2)):
        assert number(p.gain("kd", weights).estimate) in first
    right = [np.mean([one == p.y for one in networks(p, m)]) for m in ("kd", "one_hot")]
    together = number(100 * (right[0] - right[1]))
    assert f"by {together} (" in first.split(" on all test rows")[0]
    sex = names(p, "sex")
    for name, oracle in LARGEST.items():
        assert number(people.change(p, "kd", name, "sex").estimate) in second
        before, after = (
            100 * np.mean([oracle(p.y, one, sensitive_features=sex) for one in networks(p, m)])
            for m in ("one_hot", "kd")
        )
        assert f"from {before:.1f} to {after:.1f} points" in second
    for one_sex, word in people.SEXES.items():
        some = sex == one_sex
        share, was = (
            100 * np.mean([true_positive_rate(p.y[some], one[some]) for one in networks(p, m)])
            for m in ("kd", "one_hot")
        )
        assert f"{share:.1f} % instead of {was:.1f} % of the {word}, a change" in third
    assert people.plot_differences(p).sentence.endswith(second[1:])


def test_accuracies_are_over_rows_over_groups_and_of_nobody(p):
    table = people.accuracies(p).table.set_index("method")
    of_groups = np.bincount(p.group)
    for method, title in (("kd", "distillation"), ("one_hot", "one-hot")):
        right = np.mean([one == p.y for one in networks(p, method)], axis=0)
        by_group = np.bincount(p.group, right) / of_groups
        row = table.loc[title]
        for column, expected in (
            ("all test rows", right.mean()),
            ("mean over groups", by_group.mean()),
            ("few-shot groups", by_group[p.in_bucket(2)[0] > 0].mean()),
        ):
            assert float(row[column].split(" ± ")[0]) == pytest.approx(100 * expected, abs=0.051)
    nobody = table.iloc[-1]
    assert float(nobody["all test rows"]) == pytest.approx(100 * (p.y == 0).mean(), abs=0.051)


@pytest.mark.parametrize(
    "plot", [people.plot_gain_by_group, people.plot_rates, people.plot_differences]
)
def test_figures_fit_a_desk_and_a_phone(p, plot):
    for width in (DESK, PHONE):
        check_layout(plot(p).drawn(width))


def test_without_further_pairs_nothing_is_said_of_them(p):
    assert people.answer_of_others([]) == []
    [said] = people.answer_of_others([p])
    assert f"{p.name}: accuracy on all test rows by " in said
