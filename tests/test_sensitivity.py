"""Rivals, knobs, ablations, recipe: tables against numbers known by construction; figures that say what they show."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import COUNTS, FEW, GROUPS, TINY, but, made, write_study

from kdlib import findings, plots, sensitivity, studies, tables
from kdlib.metrics import panel

ARMS = {"one_hot": {}, "placebo": {}, "kd": {}, "ada_alpha": {}, "ada_margin": {},
        "AdaAlpha, margin of train": {"method": "ada_alpha", "margin_source": "train"},
        "halfway": {"method": "kd", "alpha": 0.5}}
BEYOND = replace(TINY, methods=ARMS, seeds=3)
METHODS = [m for m in ARMS if m != "one_hot"]


@pytest.fixture(autouse=True)
def _records(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path))


@pytest.fixture
def panels_of(monkeypatch):
    """panels_of(study, **how): the Panels of a study made by hand, one per setting."""
    def make(study, **how):
        monkeypatch.setitem(studies.STUDIES, study.name, study)
        write_study(study, **how)
        return findings.panels(study.name, study.seeds)
    return make


# ---------------------------------------------------------------- many methods

def test_the_non_dominated_set_is_the_one_by_hand():
    """halfway beats all on average, ada_alpha in the rarest bucket; the others are beaten by ada_alpha on both."""
    p = made(BEYOND, halfway=but(0.9, few=0.7), ada_alpha=but(0.8, few=1.0), kd=0.75)
    table = tables.gain_by_bucket(p, METHODS)
    gains = {m: (100 * (np.mean(r) - 0.7), 100 * (r[FEW].mean() - 0.7)) for m, r in {
        "halfway": but(0.9, few=0.7), "AdaAlpha": but(0.8, few=1.0), "distillation": but(0.75)}.items()}
    for method, (mean, few) in gains.items():
        rows = table[table.method == method].set_index("bucket").estimate
        assert (rows["average"], rows["few"]) == pytest.approx((mean, few))
    assert sensitivity.non_dominated(table) == ["AdaAlpha", "halfway"]
    shown = sensitivity.frontier(table, p.name)
    assert shown.sentence == ("cnn → cnn_small: no other method has both a higher average and a higher mean in the few bucket than "
                              "AdaAlpha, halfway.")
    squares = [line for line in shown.figure.axes[0].lines if line.get_marker() == "s"]
    assert len(squares) == 2


def test_equal_methods_do_not_beat_each_other():
    table = tables.gain_by_bucket(made(BEYOND), METHODS)
    assert sensitivity.non_dominated(table) == [findings.name_of(m) for m in METHODS]


def test_forest_has_a_row_for_each_method_and_counts_who_gains():
    p = made(BEYOND, halfway=but(0.7, few=0.9))
    shown = sensitivity.forest(tables.gain_by_bucket(p, METHODS), p.name, "one-hot")
    assert [t.get_text() for t in shown.figure.axes[0].get_yticklabels()] == [findings.name_of(m) for m in METHODS]
    assert "in the few bucket halfway gains most over one-hot, a clear gain (+20.0 points); 1 of 6 methods gain clearly" in shown.sentence


def test_conditions_of_f4_are_those_of_the_verdicts():
    p = made(BEYOND, kd=but(0.7, few=0.5), halfway=but(0.7, few=0.65))
    row, = sensitivity.mitigations(p, ["halfway"]).to_dict("records")
    assert list(row.values())[0] == "halfway"
    for part, cell in zip(findings.mitigated(p, "halfway"), list(row.values())[1:], strict=True):
        holds, numbers = cell.split(", ")
        numbers = numbers.replace("\u00a0", " ").replace(" (", " points (95 % interval ")
        assert holds == part.holds and numbers in part.sentence


def test_methods_that_read_val_labels_are_marked():
    p = made(BEYOND)
    said = dict(zip(ARMS, tables.accuracies(p, list(ARMS)).method, strict=True))
    assert {m for m, name in said.items() if name.endswith("(uses extra labels)")} == {"ada_alpha"}   # not by margins of train


# ---------------------------------------------------------------- knobs

def margins(method, seed):
    """What a record says was used: the held-out margins fall, those of train are all 1."""
    return {"ada_alpha": {"margins": list(np.linspace(0.9, 0.0, GROUPS))},
            "AdaAlpha, margin of train": {"margins": [1.0] * GROUPS}}.get(method, {})


def test_mean_alpha_weighs_groups_by_their_images():
    p = made(BEYOND, facts=margins)
    by_hand = sum(n * a for n, a in zip(COUNTS, np.linspace(0.9, 0.0, GROUPS), strict=True)) / sum(COUNTS)
    expected = {"one_hot": 0, "kd": 1, "halfway": 0.5, "ada_alpha": by_hand, "AdaAlpha, margin of train": 1}
    for method, alpha in expected.items():
        assert sensitivity.mean_alpha(p, method) == pytest.approx([alpha] * 3)
    assert sensitivity.mean_alpha(p, "ada_margin") is None


def test_collapse_counts_equal_predictions():
    p = made(BEYOND, facts=margins, kd=but(0.7, few=0.5))
    table = sensitivity.collapse(p, [m for m in ARMS if m != "placebo"]).set_index(["method", "as"]).estimate
    assert table["distillation", "distillation"] == table["one-hot", "one-hot"] == 100
    same = np.array([[(p.predicted("ada_alpha")[s] == p.predicted("kd")[s])[p.group == g].mean() for g in range(GROUPS)]
                     for s in range(3)])
    assert table["AdaAlpha", "distillation"] == pytest.approx(100 * same.mean())
    frame = sensitivity.collapse(p, [m for m in ARMS if m != "placebo"])
    assert frame.alpha.is_monotonic_increasing
    assert "to 1.00 (AdaAlpha, margin of train)" in sensitivity.collapse_curve(frame, p.name).sentence


def test_alphas_are_those_of_the_records_most_frequent_first():
    table = sensitivity.alphas(made(BEYOND, facts=margins), list(ARMS))
    assert set(table.variant) == {"AdaAlpha", "AdaAlpha, margin of train"}
    rows = table[table.variant == "AdaAlpha"]
    assert list(rows.n_train) == sorted(COUNTS, reverse=True) and rows.alpha.to_numpy() == pytest.approx(np.linspace(0.9, 0, GROUPS))
    assert "lowest for AdaAlpha (0.45) and highest for AdaAlpha, margin of train (1.00)" in sensitivity.alpha_by_group(table, "x").sentence


# ---------------------------------------------------------------- ablations

ABLATIONS = replace(TINY, name="tiny-ablations", kind="ablations", seeds=3, methods={"one_hot": {}, "kd": {}, "ada_alpha": {}},
                    settings=({}, {"temperature": 4.0}, {"temperature": 1.0}, {"draw_seed": 1}))
LOSES = {4.0: 0.5, 1.0: 0.9}


def test_an_ablation_has_every_level_and_the_primary_one_in_order(panels_of):
    made_of = panels_of(ABLATIONS, by_setting=lambda s: {"kd": but(0.7, few=LOSES.get(s.get("temperature"), 0.7))})
    table = sensitivity.ablations(made_of, ["kd", "ada_alpha"])
    rows = table[(table.field == "temperature") & (table.bucket == "rarest bucket") & (table.method == "distillation")]
    assert list(rows.level) == ["1", "2", "4"] and list(rows.base) == ["", "yes", ""]
    assert list(rows.estimate) == pytest.approx([20, 0, -20])
    assert list(table[table.field == "draw_seed"].level.unique()) == ["0", "1"]
    assert sensitivity.ablation(table[table.field == "temperature"], "x").sentence == (
        "x: over temperature, the gain of distillation in the rarest bucket runs from −20.0 points at 4 to +20.0 points at 1; "
        "clear harm at 4.")


def test_a_setting_of_two_fields_is_compared_with_the_one_that_shares_the_second(panels_of):
    study = replace(ABLATIONS, name="tiny-two", settings=({}, {"temperature": 4.0}, {"lr": 0.1, "temperature": 4.0}))
    table = sensitivity.ablations(panels_of(study), ["kd"])
    assert list(dict.fromkeys(zip(table.field, table.level, table.base, strict=True))) == [
        ("temperature", "2", "yes"), ("temperature", "4", ""), ("lr at temperature 4", "0.05", "yes"), ("lr at temperature 4", "0.1", "")]


def test_networks_are_in_order_of_depth(panels_of):
    study = replace(ABLATIONS, name="tiny-depths", shared={**ABLATIONS.shared, "dataset": "cifar10"},
                    pairs=(("resnet20", "resnet8"),), settings=({}, {"teacher": "resnet110"}, {"teacher": "resnet8"}))
    table = sensitivity.ablations(panels_of(study), ["kd"])
    assert list(table.level.unique()) == ["resnet8", "resnet20", "resnet110"]


def test_variance_is_the_classical_one():
    """Additive effects without noise come out as their sample variance; noise alone goes to what is left."""
    draw, teacher, student = np.array([0.0, 3.0, 6.0]), np.array([1.0, -1.0]), np.array([0.0, 0.5, 0.0, -0.5])
    gains = draw[:, None, None] + teacher[None, :, None] + student
    assert sensitivity.moments(gains) == pytest.approx({"draw": draw.var(ddof=1), "teacher": teacher.var(ddof=1),
                                                        "student": student.var(ddof=1), "what is left": 0})
    rng = np.random.default_rng(0)
    many = [sensitivity.moments(rng.normal(size=(3, 3, 3)) + 2 * rng.normal(size=(3, 1, 1))) for _ in range(2000)]
    assert np.mean([m["draw"] for m in many]) == pytest.approx(4, rel=0.1)
    assert np.mean([m["what is left"] for m in many]) == pytest.approx(1, rel=0.05)


def test_one_way_variance_is_that_of_an_analysis_of_variance():
    gains = np.array([[1.0, 2.0, 4.0], [6.0, 5.0, 9.0]])
    between = 3 * gains.mean(axis=1).var(ddof=1)
    within = gains.var(axis=1, ddof=1).mean()
    assert sensitivity.moments(gains[:, None]) == pytest.approx({"draw": (between - within) / 3, "what is left": within})


def test_variance_of_the_draws_is_read_from_the_settings(panels_of):
    made_of = panels_of(ABLATIONS, by_setting=lambda s: {"kd": 0.7 + 0.1 * s.get("draw_seed", 0)})
    table = sensitivity.variance_components(made_of).set_index(["bucket", "source"])
    assert table.variance["average", "draw"] == pytest.approx(np.var([0, 10], ddof=1))
    assert table.variance["average", "what is left"] == pytest.approx(0)
    assert "most of the spread of distillation's gain comes from draw" in sensitivity.variances(table.reset_index(), "x").sentence
    assert sensitivity.variance_components(made_of[:2]) is None           # one draw


# ---------------------------------------------------------------- recipe

def test_val_chooses_by_the_mean_of_one_hot_and_kd(panels_of):
    """At lr 0.1 kd alone is best, at 0.4 the mean of both is; test images say the contrary and are not looked at."""
    study = replace(TINY, name="tiny-recipe", kind="recipe", seeds=2, methods={"one_hot": {}, "kd": {}},
                    settings=({}, {"lr": 0.1}, {"lr": 0.4}, {"temperature": 4.0}))
    on_val = {0.1: (0.4, 0.9), 0.4: (0.8, 0.75), None: (0.7, 0.7)}

    def rates(setting):
        one_hot, kd = on_val[setting.get("lr")]
        return {"one_hot": lambda seed, split: one_hot if split == "val" else 0.1,
                "kd": lambda seed, split: kd if split == "val" else 0.1}

    table = sensitivity.recipe(panels_of(study, by_setting=rates))
    rows = table[table.field == "lr"]
    assert list(rows.level) == [0.05, 0.1, 0.4] and list(rows.chosen) == ["", "", "yes"]
    assert list(rows["mean"]) == pytest.approx([70, 65, 77.5])
    assert list(table[table.field == "temperature"].chosen) == ["yes", ""]          # of equals, the lowest
    assert sensitivity.recipe_curves(table, "x").sentence == "x: val chooses lr = 0.4, temperature = 2."


# ---------------------------------------------------------------- other tables of the pages

def test_optimism_is_the_gain_of_the_chosen_epoch_on_either_half():
    def halves(method, seed):
        return {"val_accuracy_by_half": {"5": [0.5, 0.4], "10": [0.6, 0.2], "40": [0.55, 0.5]}}

    table = tables.optimism(made(BEYOND, facts=halves), ["kd"]).set_index("where").estimate
    assert table["the same half"] == pytest.approx(100 * np.mean([0.6 - 0.55, 0]))    # half 0 chooses 10, half 1 the last
    assert table["the other half"] == pytest.approx(100 * np.mean([0.2 - 0.5, 0]))
    assert tables.optimism(made(replace(BEYOND, name="without")), ["kd"]) is None


def test_learning_curves_are_means_over_seeds():
    def by_group(method, seed):
        return {"val_accuracy_by_group": {"5": [0.1 * seed] * GROUPS, "40": list(but(0.5, few=0.3))}}

    table = tables.learning_curves(made(BEYOND, facts=by_group), ["kd"]).set_index(["place", "epoch"]).accuracy
    assert table["average", 5] == pytest.approx(10) and table["few", 40] == pytest.approx(30)
    assert table["average", 40] == pytest.approx(100 * but(0.5, few=0.3).mean())


def test_worst_groups_chosen_on_val_are_scored_on_test():
    """Group 0 is worst on val, group 1 on test."""
    def rates(seed, split):
        return but(0.7, g0=0.1) if split == "val" else but(0.7, g1=0.3)

    row, = tables.accuracies(made(BEYOND, one_hot=rates), ["one_hot"]).to_dict("records")
    assert row["worst 1"].startswith("30.0") and row["worst 1 by val"].startswith("70.0")


def test_power_agrees_with_the_intervals():
    p = made(BEYOND, kd=lambda seed, split: 0.7 + 0.05 * (seed % 2), shuffled=("kd",))
    power = tables.power(p, ["kd"]).set_index("bucket")
    gains = tables.gain_by_bucket(p, ["kd"]).set_index("bucket")
    assert list(power.index) == list(gains.index)
    assert list(power["smallest detectable"]) == pytest.approx(list(gains.detectable))
    assert power["spread over seeds"]["average"] == pytest.approx(np.std(gains.per_seed["average"], ddof=1))
    assert power["floor of p"].unique() == pytest.approx([2 / 2**3])


def test_balanced_buckets_are_tenths_by_other_seeds_margins(panels_of):
    study = replace(TINY, name="tiny-balanced", bucket_edges=(), seeds=3)
    p, = panels_of(study, margin=lambda seed: np.roll(np.linspace(0.9, 0.1, GROUPS), seed))
    assert p.bucket_names == ("highest tenth", "middle", "lowest tenth")
    for seed in range(3):
        others = np.mean([np.roll(np.linspace(0.9, 0.1, GROUPS), s) for s in range(3) if s != seed], axis=0)
        assert p.buckets_by_seed[seed][others.argmin()] == 2 and (p.buckets_by_seed[seed] == 2).sum() == 1
    cards = findings.pair_verdicts(p)
    assert cards[1]["parts"][0].label == "lowest tenth loses"
    assert plots.gain_by_bucket(tables.gain_by_bucket(p, ["kd"]), p.name).figure.axes[0].get_xlabel() == "classes by margin of the teacher"


@pytest.mark.parametrize("draw", ["frontier", "forest", "ablation"])
def test_the_same_table_gives_the_same_picture(draw, panels_of):
    p, *_ = made_of = panels_of(ABLATIONS)
    table, over = tables.gain_by_bucket(p, ["kd", "ada_alpha"]), ("one-hot",) if draw == "forest" else ()
    if draw == "ablation":
        table = sensitivity.ablations(made_of, ["kd"]).query("field == 'temperature'")
    first, second = (getattr(sensitivity, draw)(table, "x", *over) for _ in range(2))
    assert first.svg() == second.svg() and first.sentence and first._repr_html_().count("<table>") == 1


def test_only_findings_have_verdicts(panels_of):
    panels_of(ABLATIONS)
    assert findings.verdicts("tiny-ablations") == []
    assert panel(ABLATIONS, ABLATIONS.pairs[0], 2, setting={"temperature": 4.0}).name == "cnn → cnn_small, temperature = 4"


def test_the_sentences_of_a_study_are_those_of_its_figures(panels_of):
    ablated = panels_of(ABLATIONS, by_setting=lambda s: {"kd": but(0.7, few=LOSES.get(s.get("temperature"), 0.7))})
    table = sensitivity.ablations(ablated, ["kd", "ada_alpha"])
    name = ablated[0].name
    assert sensitivity.headlines(ablated) == [
        sensitivity.ablation(table[table.field == field], name).sentence for field in ("temperature", "draw_seed")]
    knobs = panels_of(replace(BEYOND, name="tiny-knobs", kind="knobs"), facts=margins)
    collapse, forest = sensitivity.headlines(knobs)
    assert "mean weight of the teacher runs from" in collapse and "gains most over distillation" in forest
    found = panels_of(TINY)
    assert sensitivity.headlines(found) == [sensitivity.luck_of_the_baseline(p) for p in found]


@pytest.mark.parametrize("placebo, how, much", [(0.5, "better", "small"), (0.8, "worse", "large"), (0.7, None, None)])
def test_luck_of_the_baseline_is_said_and_taken_out(panels_of, placebo, how, much):
    p, = panels_of(TINY, one_hot=0.7, placebo=placebo, kd=but(0.6, few=0.9))
    said = sensitivity.luck_of_the_baseline(p)
    assert ("by chance" in said) == bool(how)
    assert how is None or f"are {how} than their siblings, and gains over them look {much}" in said
    mean = 0.5 * (0.7 + placebo)
    average, few = 100 * (0.66 - mean), 100 * (0.9 - mean)
    assert f"shows a clear {'gain' if average > 0 else 'loss'} ({findings.number(average)}) on average" in said
    assert said.endswith(f"a clear gain ({findings.number(few)}) on the few classes.")
    shown = sensitivity.baselines(p)
    cells = shown.table.set_index("gain over").map(lambda cell: cell.replace("\u00a0", " "))
    assert shown.caption == said and list(cells.index) == ["one-hot", "placebo", "mean of both"]
    for over, rate in (("one-hot", 0.7), ("placebo", placebo), ("mean of both", mean)):
        assert cells.loc[over, "few"].startswith(findings.number(100 * (0.9 - rate), "") + " (")
    for over, method in (("one-hot", "one_hot"), ("placebo", "placebo")):
        few = tables.gain_by_bucket(p, ["kd"], method).iloc[-1]
        low, high = (findings.number(v, "") for v in (few.low, few.high))
        assert cells.loc[over, "few"].endswith(f" ({low} to {high})")


def test_what_the_weight_by_class_adds_is_said_against_the_constant_weight(panels_of):
    study = replace(TINY, name="tiny-rivals", kind="rivals", seeds=3, methods={
        **{m: {} for m in ("one_hot", "kd", "ada_alpha", "placebo")}, "kd_mean_alpha": {"method": "ada_alpha", "margin_level": "all"}})
    rivals = panels_of(study, ada_alpha=but(0.7, few=0.9), kd_mean_alpha=but(0.7, few=0.5))
    said = sensitivity.weight_by_class(rivals[0])
    assert said.endswith("a clear gain (+8.0 points) on average and a clear gain (+40.0 points) on the few classes.")
    assert sensitivity.headlines(rivals)[-1] == said
