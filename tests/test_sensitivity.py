"""Rivals, knobs, ablations, recipe: tables against numbers known by construction; figures that say
what they show."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import COUNTS, FEW, GROUPS, TINY, but, made, write_study

from kdlib.evidence import findings, rules
from kdlib.evidence.panel import panel
from kdlib.methods import name_of
from kdlib.pages import plots, sensitivity, tables
from kdlib.study import grids as studies

ARMS = {
    "one_hot": {},
    "kd": {},
    "ada_alpha": {},
    "ada_margin": {},
    "AdaAlpha, margin of train": {"method": "ada_alpha", "margin_source": "train"},
    "halfway": {"method": "kd", "alpha": 0.5},
}
BEYOND = replace(TINY, methods=ARMS, seeds=3)
METHODS = [m for m in ARMS if m != "one_hot"]


@pytest.fixture(autouse=True)
def _records(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))


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
    """halfway beats all on average, ada_alpha in the rarest bucket; the others are beaten by
    ada_alpha on both."""
    p = made(BEYOND, halfway=but(0.9, few=0.7), ada_alpha=but(0.8, few=1.0), kd=0.75)
    table = tables.gain_by_bucket(p, METHODS)
    gains = {
        m: (100 * (np.mean(r) - 0.7), 100 * (r[FEW].mean() - 0.7))
        for m, r in {
            "halfway": but(0.9, few=0.7),
            "AdaAlpha": but(0.8, few=1.0),
            "distillation": but(0.75),
        }.items()
    }
    for method, (mean, few) in gains.items():
        rows = table[table.method == method].set_index("bucket").estimate
        assert (rows["average"], rows["few"]) == pytest.approx((mean, few))
    assert sensitivity.non_dominated(table) == ["AdaAlpha", "halfway"]
    shown = sensitivity.frontier(table, p.name)
    assert shown.sentence == (
        "cnn → cnn_small: no other method has both a higher average and a higher mean in the few bucket than "
        "AdaAlpha, halfway."
    )
    squares = [line for line in shown.figure.axes[0].lines if line.get_marker() == "s"]
    assert len(squares) == 2


def test_equal_methods_do_not_beat_each_other():
    table = tables.gain_by_bucket(made(BEYOND), METHODS)
    assert sensitivity.non_dominated(table) == [name_of(m) for m in METHODS]


def test_forest_has_a_row_for_each_method_and_counts_who_gains():
    p = made(BEYOND, halfway=but(0.7, few=0.9))
    shown = sensitivity.forest(tables.gain_by_bucket(p, METHODS), p.name, "one-hot")
    assert [t.get_text() for t in shown.figure.axes[0].get_yticklabels()] == [
        name_of(m) for m in METHODS
    ]
    assert (
        "in the few bucket halfway gains most over one-hot, a clear gain (+20.0 points); 1 of 5 methods gain clearly"
        in shown.sentence
    )


def numbers(cell):
    """+1.2 (−0.3 to +2.7) -> [1.2, −0.3, 2.7]."""
    return [float(word.strip("()")) for word in cell.replace("−", "-").split() if word != "to"]


def test_conditions_of_f4_are_those_of_the_finding():
    """Against distillation by seed, and in the few bucket over one-hot: by hand, and as the rule of
    F4 says them."""
    p = made(
        BEYOND,
        kd=but(0.7, few=0.5),
        one_hot=but(0.7, few=0.6),
        halfway=but(0.75, few=0.65),
        shuffled=METHODS,
    )
    (row,) = sensitivity.mitigations(p, ["halfway"]).to_dict("records")
    cells = ["average, over distillation", "few, over distillation", "few, over one-hot"]
    assert (
        list(row) == ["method", *cells[:2], "p, few", cells[2], "labels beyond training"]
        and row["method"] == "halfway"
    )
    gains = p.gain("halfway", p.in_bucket(2), "kd").per_seed
    flips = [abs(np.dot(signs, gains)) for signs in itertools.product((1, -1), repeat=len(gains))]
    assert float(row["p, few"]) == pytest.approx(np.mean(np.array(flips) >= abs(sum(gains)) - 1e-9))
    estimates = [numbers(row[cell])[0] for cell in cells]
    assert estimates == pytest.approx([8 * 0.5 + 2 * 1.5, 15, 5])
    for cell in cells:
        estimate, low, high = numbers(row[cell])
        assert low < estimate < high
    said = rules.mitigated(p, "halfway").say()
    for cell in cells[:2]:
        assert row[cell].replace("\u00a0", " ").replace(" (", " points (95 % interval ") in said


def test_where_the_few_are_on_the_floor_the_conditions_are_those_of_the_verdict_bucket():
    p = made(BEYOND, one_hot=lambda seed, split: but(0.7, few=0.0), kd=0.5, ada_alpha=0.6)
    (row,) = sensitivity.mitigations(p, ["ada_alpha"]).to_dict("records")
    assert numbers(row["medium, over distillation"])[0] == pytest.approx(10)
    assert numbers(row["medium, over one-hot"])[0] == pytest.approx(-10)


READS = {  # method: its fields, and the labels it reads beyond those of its training images
    "ada_alpha": ({}, "labels of val, for its margins"),
    "of train": ({"method": "ada_alpha", "margin_source": "train"}, "none"),
    "crossfit": ({"method": "ada_alpha", "margin_source": "crossfit"}, "none"),
    "ada_margin": ({}, "none"),  # reading B: of each training image
    "A": ({"method": "ada_margin", "margin_reading": "A"}, "labels of val, for its margins"),
    "post_hoc": ({}, "labels of val, for one number"),
    "with val": ({"method": "one_hot", "with_val": True}, "labels of val, to train on"),
    "half": ({"method": "kd", "alpha": 0.5}, "none"),
}


def test_every_table_says_which_labels_a_method_reads():
    fields = {name: changes for name, (changes, _) in READS.items()}
    p = made(replace(TINY, methods={"one_hot": {}, "kd": {}, **fields}), seeds=2)
    wanted = [labels for _, labels in READS.values()]
    assert list(sensitivity.mitigations(p, list(READS))["labels beyond training"]) == wanted
    short = {"none": "no"} | {
        words: words.removeprefix("labels of val, ") for words in wanted if words != "none"
    }
    assert list(tables.accuracies(p, ["teacher", "one_hot", *READS])["labels of val"]) == [
        "–",
        "no",
        *(short[w] for w in wanted),
    ]


# ---------------------------------------------------------------- knobs


def margins(method, seed):
    """What a record says was used: the held-out margins fall, those of train are all 1."""
    return {
        "ada_alpha": {"margins": list(np.linspace(0.9, 0.0, GROUPS))},
        "AdaAlpha, margin of train": {"margins": [1.0] * GROUPS},
    }.get(method, {})


def test_mean_alpha_weighs_groups_by_their_images():
    p = made(BEYOND, facts=margins)
    by_hand = sum(n * a for n, a in zip(COUNTS, np.linspace(0.9, 0.0, GROUPS), strict=True)) / sum(
        COUNTS
    )
    expected = {
        "one_hot": 0,
        "kd": 1,
        "halfway": 0.5,
        "ada_alpha": by_hand,
        "AdaAlpha, margin of train": 1,
    }
    for method, alpha in expected.items():
        assert sensitivity.mean_alpha(p, method) == pytest.approx([alpha] * 3)
    assert sensitivity.mean_alpha(p, "ada_margin") is None


def test_collapse_counts_equal_predictions():
    p = made(BEYOND, facts=margins, kd=but(0.7, few=0.5))
    table = sensitivity.collapse(p, list(ARMS)).set_index(["method", "as"]).estimate
    assert table["distillation", "distillation"] == table["one-hot", "one-hot"] == 100
    same = np.array(
        [
            [
                (p.predicted("ada_alpha")[s] == p.predicted("kd")[s])[p.group == g].mean()
                for g in range(GROUPS)
            ]
            for s in range(3)
        ]
    )
    assert table["AdaAlpha", "distillation"] == pytest.approx(100 * same.mean())
    frame = sensitivity.collapse(p, list(ARMS))
    assert frame.alpha.is_monotonic_increasing
    assert (
        "to 1.00 (AdaAlpha, margin of train)" in sensitivity.collapse_curve(frame, p.name).sentence
    )


def test_collapse_is_with_the_student_of_the_same_seed_where_there_are_more_baselines():
    study = replace(BEYOND, baselines=5, fewer={"ada_alpha": 2})
    p = made(study, facts=margins, shuffled=("one_hot", "kd", "ada_alpha"), one_hot=0.5, kd=0.6)
    table = sensitivity.collapse(p, ["ada_alpha"]).set_index("as")
    for name, other in (("distillation", "kd"), ("one-hot", "one_hot")):
        by_seed = {r.config.seed: r.test_plus().predicted for r in p.runs[other]}
        same = [
            100 * np.mean(r.test_plus().predicted == by_seed[r.config.seed])
            for r in p.runs["ada_alpha"]
        ]
        assert table.per_seed[name] == pytest.approx(same) and table.seeds[name] == 2


def test_alphas_are_those_of_the_records_most_frequent_first():
    table = sensitivity.alphas(made(BEYOND, facts=margins), list(ARMS))
    assert set(table.variant) == {"AdaAlpha", "AdaAlpha, margin of train"}
    rows = table[table.variant == "AdaAlpha"]
    assert list(rows.n_train) == sorted(
        COUNTS, reverse=True
    ) and rows.alpha.to_numpy() == pytest.approx(np.linspace(0.9, 0, GROUPS))
    assert (
        "lowest for AdaAlpha (0.45) and highest for AdaAlpha, margin of train (1.00)"
        in sensitivity.alpha_by_group(table, "x").sentence
    )


# ---------------------------------------------------------------- ablations

ABLATIONS = replace(
    TINY,
    name="tiny-ablations",
    kind="ablations",
    seeds=3,
    methods={"one_hot": {}, "kd": {}, "ada_alpha": {}},
    settings=({}, {"temperature": 4.0}, {"temperature": 1.0}, {"draw_seed": 1}),
)
LOSES = {4.0: 0.5, 1.0: 0.9}


def test_an_ablation_has_every_level_and_the_primary_one_in_order(panels_of):
    made_of = panels_of(
        ABLATIONS, by_setting=lambda s: {"kd": but(0.7, few=LOSES.get(s.get("temperature"), 0.7))}
    )
    table = sensitivity.ablations(made_of, ["kd", "ada_alpha"])
    rows = table[
        (table.field == "temperature")
        & (table.bucket == "rarest bucket")
        & (table.method == "distillation")
    ]
    assert list(rows.level) == ["1", "2", "4"] and list(rows.base) == ["", "yes", ""]
    assert list(rows.estimate) == pytest.approx([20, 0, -20])
    assert list(table[table.field == "draw_seed"].level.unique()) == ["0", "1"]
    assert sensitivity.ablation(table[table.field == "temperature"], "x").sentence == (
        "x: over temperature, the gain of distillation in the rarest bucket runs from −20.0 points at 4 to +20.0 points at 1; "
        "clear harm at 4."
    )


def test_a_setting_of_two_fields_is_compared_with_the_one_that_shares_the_second(panels_of):
    study = replace(
        ABLATIONS,
        name="tiny-two",
        settings=({}, {"temperature": 4.0}, {"lr": 0.1, "temperature": 4.0}),
    )
    table = sensitivity.ablations(panels_of(study), ["kd"])
    assert list(dict.fromkeys(zip(table.field, table.level, table.base, strict=True))) == [
        ("temperature", "2", "yes"),
        ("temperature", "4", ""),
        ("lr at temperature 4", "0.05", "yes"),
        ("lr at temperature 4", "0.1", ""),
    ]


def test_networks_are_in_order_of_depth(panels_of):
    study = replace(
        ABLATIONS,
        name="tiny-depths",
        shared={**ABLATIONS.shared, "dataset": "cifar10"},
        pairs=(("resnet20", "resnet8"),),
        settings=({}, {"teacher": "resnet110"}, {"teacher": "resnet8"}),
    )
    table = sensitivity.ablations(panels_of(study), ["kd"])
    assert list(table.level.unique()) == ["resnet8", "resnet20", "resnet110"]


def test_variance_is_the_classical_one():
    """Additive effects without noise come out as their sample variance; noise alone goes to what is
    left."""
    draw, teacher, student = (
        np.array([0.0, 3.0, 6.0]),
        np.array([1.0, -1.0]),
        np.array([0.0, 0.5, 0.0, -0.5]),
    )
    gains = draw[:, None, None] + teacher[None, :, None] + student
    assert sensitivity.moments(gains) == pytest.approx(
        {
            "draw": draw.var(ddof=1),
            "teacher": teacher.var(ddof=1),
            "student": student.var(ddof=1),
            "what is left": 0,
        }
    )
    rng = np.random.default_rng(0)
    many = [
        sensitivity.moments(rng.normal(size=(3, 3, 3)) + 2 * rng.normal(size=(3, 1, 1)))
        for _ in range(2000)
    ]
    assert np.mean([m["draw"] for m in many]) == pytest.approx(4, rel=0.1)
    assert np.mean([m["what is left"] for m in many]) == pytest.approx(1, rel=0.05)


def test_one_way_variance_is_that_of_an_analysis_of_variance():
    gains = np.array([[1.0, 2.0, 4.0], [6.0, 5.0, 9.0]])
    between = 3 * gains.mean(axis=1).var(ddof=1)
    within = gains.var(axis=1, ddof=1).mean()
    assert sensitivity.moments(gains[:, None]) == pytest.approx(
        {"draw": (between - within) / 3, "what is left": within}
    )


def test_variance_of_the_draws_is_read_from_the_settings(panels_of):
    made_of = panels_of(ABLATIONS, by_setting=lambda s: {"kd": 0.7 + 0.1 * s.get("draw_seed", 0)})
    table = sensitivity.variance_components(made_of).set_index(["bucket", "source"])
    assert table.variance["average", "draw"] == pytest.approx(np.var([0, 10], ddof=1))
    assert table.variance["average", "what is left"] == pytest.approx(0)
    assert (
        "most of the spread of distillation's gain comes from draw"
        in sensitivity.variances(table.reset_index(), "x").sentence
    )
    assert sensitivity.variance_components(made_of[:2]) is None  # one draw


# ---------------------------------------------------------------- recipe


def levels(question, means, chosen):
    """Rows of search.scores: levels a, b, ... of a step, two seeds five points apart."""
    return [
        {
            "question": question,
            "level": f"{question} = {'abc'[k]}",
            "mean": mean,
            "per_seed": (mean - 2.5, mean + 2.5),
            "seeds": 2,
            "chosen": "yes" if k == chosen else "",
        }
        for k, mean in enumerate(means)
    ]


SCORES = pd.DataFrame([*levels("Rate", (60.0, 70.0, 65.0), 1), *levels("Epochs", (70.0, 72.0), 0)])


def marks(axes, marker):
    """(x, y) of the single marks of a kind."""
    return [
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in axes.lines
        if line.get_marker() == marker
    ]


def test_the_steps_of_a_search_are_drawn_one_below_the_other_with_a_star_at_what_is_taken():
    shown = sensitivity.search_steps(SCORES, "Recipe")
    rate, epochs = shown.figure.axes
    assert (rate.get_title(loc="left"), epochs.get_title(loc="left")) == ("Rate", "Epochs")
    assert [text.get_text() for text in rate.get_yticklabels()] == [
        "Rate = a",
        "Rate = b",
        "Rate = c",
    ]
    assert [text.get_text() for text in epochs.get_yticklabels()] == ["Epochs = a", "Epochs = b"]
    assert rate.get_ylim()[0] > rate.get_ylim()[1]  # the first level above
    assert marks(rate, "*") == [(70, 1)] and sorted(marks(rate, "o")) == [(60, 0), (65, 2)]
    assert marks(epochs, "*") == [(70, 0)] and marks(epochs, "o") == [
        (72, 1)
    ]  # what is taken need not be the best
    dots = [sorted(line.get_xdata()) for line in rate.lines if line.get_marker() == "."]
    assert dots == [[57.5, 62.5], [67.5, 72.5], [62.5, 67.5]]
    assert shown.sentence == "Recipe: the search takes Rate = b; Epochs = a."
    assert shown.table is SCORES


def test_a_search_of_one_step_has_one_row_of_axes():
    shown = sensitivity.search_steps(SCORES[SCORES.question == "Rate"], "Recipe")
    assert len(shown.figure.axes) == 1 and shown.sentence == "Recipe: the search takes Rate = b."


# ---------------------------------------------------------------- other tables of the pages


def test_optimism_is_the_gain_of_the_chosen_epoch_on_either_half():
    def halves(method, seed):
        return {"val_accuracy_by_half": {"5": [0.5, 0.4], "10": [0.6, 0.2], "40": [0.55, 0.5]}}

    table = tables.optimism(made(BEYOND, facts=halves), ["kd"]).set_index("where").estimate
    assert table["the same half"] == pytest.approx(
        100 * np.mean([0.6 - 0.55, 0])
    )  # half 0 chooses 10, half 1 the last
    assert table["the other half"] == pytest.approx(100 * np.mean([0.2 - 0.5, 0]))
    assert tables.optimism(made(replace(BEYOND, name="without")), ["kd"]) is None


def test_learning_curves_are_means_over_seeds():
    def by_group(method, seed):
        return {
            "val_accuracy_by_group": {"5": [0.1 * seed] * GROUPS, "40": list(but(0.5, few=0.3))}
        }

    table = (
        tables.learning_curves(made(BEYOND, facts=by_group), ["kd"])
        .set_index(["place", "epoch"])
        .accuracy
    )
    assert table["average", 5] == pytest.approx(10) and table["few", 40] == pytest.approx(30)
    assert table["average", 40] == pytest.approx(100 * but(0.5, few=0.3).mean())


def test_a_method_that_trains_on_val_has_no_learning_curve_on_val_and_chooses_no_epoch_there():
    study = replace(
        TINY, methods={**TINY.methods, "with val": {"method": "one_hot", "with_val": True}}, seeds=2
    )

    def on_val(method, seed):
        accuracy = {"5": [0.2] * GROUPS, "40": [0.3] * GROUPS}
        halves = {"5": [0.2, 0.2], "40": [0.3, 0.3]}
        return {"val_accuracy_by_group": accuracy, "val_accuracy_by_half": halves}

    p = made(study, facts=on_val)
    for table in (tables.learning_curves(p, p.runs), tables.optimism(p, p.runs)):
        assert list(dict.fromkeys(table.method)) == [
            "one-hot",
            "distillation",
            "AdaAlpha",
            "AdaMargin",
        ]


def test_worst_groups_chosen_on_val_are_scored_on_test():
    """Group 0 is worst on val, group 1 on test."""

    def rates(seed, split):
        return but(0.7, g0=0.1) if split == "val" else but(0.7, g1=0.3)

    (row,) = tables.accuracies(made(BEYOND, one_hot=rates), ["one_hot"]).to_dict("records")
    assert row["worst 1"].startswith("30.0") and row["worst 1 by val"].startswith("70.0")


def test_power_agrees_with_the_intervals():
    p = made(BEYOND, kd=lambda seed, split: 0.7 + 0.05 * (seed % 2), shuffled=("kd",))
    power = tables.power(p, ["kd"]).set_index("bucket")
    gains = tables.gain_by_bucket(p, ["kd"]).set_index("bucket")
    assert list(power.index) == list(gains.index)
    assert list(power["smallest detectable"]) == pytest.approx(list(gains.detectable))
    assert list(power.gain) == pytest.approx(list(gains.estimate))
    assert power["spread of students"]["average"] == pytest.approx(
        np.std(gains.per_seed["average"], ddof=1)
    )
    assert list(power["standard error"] > 0) == [True] * 4


def test_balanced_buckets_are_tenths_by_other_seeds_margins(panels_of):
    study = replace(TINY, name="tiny-balanced", bucket_edges=(), seeds=3)
    (p,) = panels_of(study, margin=lambda seed: np.roll(np.linspace(0.9, 0.1, GROUPS), seed))
    assert p.bucket_names == ("highest tenth", "middle", "lowest tenth")
    for seed in range(3):
        others = np.mean(
            [np.roll(np.linspace(0.9, 0.1, GROUPS), s) for s in range(3) if s != seed], axis=0
        )
        assert (
            p.buckets_by_seed[seed][others.argmin()] == 2
            and (p.buckets_by_seed[seed] == 2).sum() == 1
        )
    card = next(c for c in findings.pair_verdicts(p) if c["finding"] == "F2b")
    assert "changes accuracy in the classes of the lowest tenth by" in card["sentence"]
    assert (
        plots.gain_by_bucket(tables.gain_by_bucket(p, ["kd"]), p.name).figure.axes[0].get_xlabel()
        == "classes by margin of the teacher"
    )


@pytest.mark.parametrize("draw", ["frontier", "forest", "ablation", "search_steps"])
def test_the_same_table_gives_the_same_picture(draw, panels_of):
    p, *_ = made_of = panels_of(ABLATIONS)
    table, over = (
        tables.gain_by_bucket(p, ["kd", "ada_alpha"]),
        ("one-hot",) if draw == "forest" else (),
    )
    if draw == "ablation":
        table = sensitivity.ablations(made_of, ["kd"]).query("field == 'temperature'")
    if draw == "search_steps":
        table = SCORES
    first, second = (getattr(sensitivity, draw)(table, "x", *over) for _ in range(2))
    assert (
        first.svg() == second.svg() and first.sentence and first._repr_html_().count("<table>") == 1
    )


def test_only_findings_have_verdicts(panels_of):
    panels_of(ABLATIONS)
    assert findings.verdicts("tiny-ablations") == []
    assert (
        panel(ABLATIONS, ABLATIONS.pairs[0], 2, setting={"temperature": 4.0}).name
        == "cnn → cnn_small, temperature = 4"
    )


def test_the_sentences_of_a_study_are_those_of_its_figures(panels_of):
    ablated = panels_of(
        ABLATIONS, by_setting=lambda s: {"kd": but(0.7, few=LOSES.get(s.get("temperature"), 0.7))}
    )
    table = sensitivity.ablations(ablated, ["kd", "ada_alpha"])
    name = ablated[0].name
    assert sensitivity.headlines(ablated) == [
        sensitivity.ablation(table[table.field == field], name).sentence
        for field in ("temperature", "draw_seed")
    ]
    knobs = panels_of(replace(BEYOND, name="tiny-knobs", kind="knobs"), facts=margins)
    collapse, forest = sensitivity.headlines(knobs)
    assert (
        "mean weight of the teacher runs from" in collapse
        and "gains most over distillation" in forest
    )
    assert sensitivity.headlines(panels_of(TINY)) == []  # there the verdicts speak


def test_what_the_weight_by_class_adds_is_said_against_the_constant_weight(panels_of):
    study = replace(
        TINY,
        name="tiny-rivals",
        kind="rivals",
        seeds=3,
        methods={
            **{m: {} for m in ("one_hot", "kd", "ada_alpha")},
            "kd_mean_alpha": {"method": "ada_alpha", "margin_level": "all"},
        },
    )
    rivals = panels_of(study, ada_alpha=but(0.7, few=0.9), kd_mean_alpha=but(0.7, few=0.5))
    said = sensitivity.weight_by_class(rivals[0])
    assert said.endswith(
        "a clear gain (+8.0 points) on average and a clear gain (+40.0 points) on the few classes."
    )
    assert sensitivity.headlines(rivals)[-1] == said
