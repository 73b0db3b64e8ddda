"""What the labels show and what the groups inside them show, by hand from records made for it."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import COUNTS, GROUPS, TINY, halves, made

from kdlib.methods import arms
from kdlib.pages import classes, hidden

HALVED = replace(
    TINY,
    groups=("half", "halves"),
    methods=arms("one_hot", "kd", "ada_alpha", "ada_alpha_by_label", "ada_margin"),
)
NAMES = [f"label {k}" for k in range(GROUPS // 2)]


@pytest.fixture(autouse=True)
def _records(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path))


def halved(**rates):
    """A Panel whose labels hold two groups each: label k the groups 2 k and 2 k + 1."""
    return made(HALVED, alter=halves, **rates)


def frame_of(p):
    """One row for each (method, seed, test image): group, label, whether it is right."""
    rows = []
    for method in p.runs:
        for seed, found in enumerate(p.predictions(method)):
            columns = {"method": method, "seed": seed, "group": found.group, "label": found.y}
            rows.append(pd.DataFrame(columns | {"right": found.predicted == found.y}))
    return pd.concat(rows)


def rates(seed, split):
    """Group 0 gains where group 1, of the same label, loses."""
    return np.array([0.9, 0.3, *[0.7] * (GROUPS - 2)]) + 0.02 * seed


def test_the_gain_of_a_label_is_counted_over_all_its_test_images():
    p = halved(kd=rates, one_hot=0.6)
    means = 100 * frame_of(p).groupby(["method", "label"]).right.mean()
    found = hidden.gain_by_label(p).set_index("label")
    np.testing.assert_allclose(found.gain, means["kd"] - means["one_hot"])
    assert list(found.index) == NAMES
    assert ((found.low < found.gain) & (found.gain < found.high)).all()


def test_the_label_of_a_group_is_that_of_its_examples():
    expected = {f"class {g}": f"label {g // 2}" for g in range(GROUPS)}
    assert hidden.label_of(halved()) == expected


def test_an_average_over_data_drawn_like_the_training_images_weighs_groups_by_their_number():
    p = halved(kd=rates)
    gain = p.group_gain("kd").mean(axis=0)
    expected = sum(n * g for n, g in zip(COUNTS, gain, strict=True)) / sum(COUNTS)
    assert p.gain("kd", hidden.as_drawn(p)).estimate == pytest.approx(expected)


def test_harm_that_a_label_hides_is_named_and_where_there_is_none_that_is_said():
    p = halved(kd=rates, one_hot=lambda seed, split: 0.6 + 0.02 * seed)
    figure = hidden.plot_labels_and_groups(p)
    row = figure.table.set_index("label").loc["label 0"]
    assert row["worst group"] == "class 1" and row["its finding"] == "harmed"
    assert row.finding != "harmed"
    assert "1 of 5 labels that are not called harmed hide a half that is." in figure.sentence
    assert "class 1 inside it by −" in figure.sentence
    even = hidden.plot_labels_and_groups(halved(kd=0.7, one_hot=0.7))
    assert even.sentence.endswith("clearly harmed, so that no label can be shown to hide it.")


def test_a_harmed_group_is_found_beside_one_that_is_lower_and_uncertain():
    def kd(seed, split):
        unsure = (0.0, 1.0, 0.0, 0.4)[seed]
        return np.array([0.3 + 0.02 * seed, unsure, *[0.7] * (GROUPS - 2)])

    def one_hot(seed, split):
        return np.array([0.6 + 0.02 * seed, *[0.7] * (GROUPS - 1)])

    p = halved(kd=kd, one_hot=one_hot)
    of_groups = classes.gain_by_group(p).set_index("group")
    assert of_groups.gain["class 1"] < of_groups.gain["class 0"] < 0
    assert list(of_groups.finding[["class 0", "class 1"]]) == ["harmed", "no clear difference"]
    figure = hidden.plot_labels_and_groups(p)
    row = figure.table.set_index("label").loc["label 0"]
    assert row["worst group"] == "class 0" and "class 0 inside it by −" in figure.sentence


def test_the_answer_counts_by_label_and_by_group_and_compares_both_kinds_of_margins():
    p = halved(kd=rates, one_hot=lambda seed, split: 0.6 + 0.02 * seed, ada_alpha=0.8)
    harm, by_label, drawn, softened = hidden.answer(p)
    assert "distillation harms 1 half, 1 of them inside labels that are not called harmed" in harm
    for other, expected in ((0.7, "no half is shown to be harmed"), (0.2, "harms 10 halves, 0 of")):
        assert expected in hidden.answer(halved(kd=other, one_hot=0.7))[0]
    assert "of 5 labels; counted by the groups inside them, it harms 1 (class " in by_label
    assert "of 10 halves" in by_label
    of_label, of_half = map(float, re.findall(r"±(\d+\.\d)", by_label))
    table = classes.gain_by_group(p)
    assert of_half == pytest.approx(np.median(table.high - table.low) / 2, abs=0.051)
    assert 0 < of_label < of_half  # which has half as many images
    alike = p.gain("kd", p.average).estimate
    assert f"with all halves weighted equally, by {alike:+.1f} points" in drawn
    few = [p.gain(m, p.in_bucket(2), "kd").estimate for m in ("ada_alpha", "ada_alpha_by_label")]
    assert few[0] != few[1]
    for gain in few:
        assert f"{gain:+.1f} points" in softened.replace("−", "-")
