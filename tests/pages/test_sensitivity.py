"""Rivals, knobs, ablations, recipe, training: tables against numbers known by construction; figures
that say what they show."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from layout import check_layout
from synthetic import COUNTS, FEW, GROUPS, TINY, but, made, write_study

from kdlib.evidence import findings, rules, words
from kdlib.evidence.panel import panel
from kdlib.methods import name_of
from kdlib.pages import ablations, gains, sensitivity, trust
from kdlib.pages.drawing import DESK, PHONE
from kdlib.study import grids as studies

ARMS = {
    **{m: {} for m in ("one_hot", "kd", "ada_alpha", "ada_margin")},
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
    rates = {"halfway": but(0.9, few=0.7), "ada_alpha": but(0.8, few=1.0), "kd": but(0.75)}
    shown = gains.plot_trade_off(made(BEYOND, **rates))
    for method, rate in rates.items():
        rows = shown.table[shown.table.method == name_of(method)].set_index("bucket").estimate
        by_hand = 100 * (rate.mean() - 0.7), 100 * (rate[FEW].mean() - 0.7)
        assert (rows["average"], rows["few"]) == pytest.approx(by_hand)
    assert shown.sentence == (
        "cnn → cnn_small: no other method has both a higher overall average and a higher mean in "
        "the few-shot classes than AdaAlpha, halfway."
    )


def test_equal_methods_do_not_beat_each_other():
    shown = gains.plot_trade_off(made(BEYOND))
    assert shown.sentence.endswith(f"than {', '.join(map(name_of, METHODS))}.")


def test_forest_has_a_row_for_each_method_and_counts_who_gains():
    p = made(BEYOND, halfway=but(0.7, few=0.9))
    shown = gains.plot_forest(p)
    both_widths(shown)
    labels = [t.get_text() for t in shown.figure.axes[0].get_yticklabels()]
    assert labels == [name_of(m) for m in METHODS]
    gain = words.told(p.gain("halfway", p.in_bucket(2)))
    said = (
        "1 of 5 methods clearly gains over one-hot in the few-shot classes; the highest estimate "
        f"is that of halfway, {gain}."
    )
    assert gain.startswith("+20.0 points (95 % interval") and said in shown.sentence


def both_widths(shown):
    for width in (DESK, PHONE):
        check_layout(shown.drawn(width))


def numbers(cell):
    """+1.2 (−0.3 to +2.7) -> [1.2, −0.3, 2.7]."""
    return [float(word.strip("()")) for word in cell.replace("−", "-").split() if word != "to"]


def test_conditions_of_f4_are_those_of_the_finding():
    """Against distillation by seed, and in the few bucket over one-hot: by hand, and as the rule of
    F4 says them."""
    rates = {"kd": but(0.7, few=0.5), "one_hot": but(0.7, few=0.6), "halfway": but(0.75, few=0.65)}
    p = made(BEYOND, **rates, shuffled=METHODS)
    table = sensitivity.mitigations(p).table.set_index("method")
    row = table.loc["halfway"]
    cells = ["average, over distillation", "few, over distillation", "few, over one-hot"]
    assert list(table) == [*cells, "labels beyond training"]
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
    row = sensitivity.mitigations(p).table.set_index("method").loc["AdaAlpha"]
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
    assert list(sensitivity.mitigations(p).table["labels beyond training"]) == wanted
    short = [words.removeprefix("labels of val, ").replace("none", "no") for words in wanted]
    table = gains.accuracies(p).table  # teacher, one-hot and distillation come first
    assert list(table["labels of val"]) == ["–", "no", "no", *short]


# ---------------------------------------------------------------- knobs


def margins(method, seed):
    """What a record says was used: the held-out margins fall, those of train are all 1."""
    used = {"ada_alpha": np.linspace(0.9, 0.0, GROUPS), "AdaAlpha, margin of train": [1.0] * GROUPS}
    return {"margins": list(used[method])} if method in used else {}


def test_mean_alpha_weighs_groups_by_their_images():
    p = made(BEYOND, facts=margins)
    falling = np.linspace(0.9, 0.0, GROUPS)
    by_hand = sum(n * a for n, a in zip(COUNTS, falling, strict=True)) / sum(COUNTS)
    expected = {"one_hot": 0, "kd": 1, "halfway": 0.5, "ada_alpha": by_hand}
    for method, alpha in {**expected, "AdaAlpha, margin of train": 1}.items():
        assert sensitivity.mean_alpha(p, method) == pytest.approx([alpha] * 3)
    assert sensitivity.mean_alpha(p, "ada_margin") is None


def test_collapse_counts_equal_predictions():
    p = made(BEYOND, facts=margins, kd=but(0.7, few=0.5))
    shown = sensitivity.plot_collapse(p)
    both_widths(shown)
    table = shown.table.set_index(["method", "as"]).estimate
    assert table["distillation", "distillation"] == table["one-hot", "one-hot"] == 100
    equal = p.predicted("ada_alpha") == p.predicted("kd")
    same = [equal[:, p.group == g].mean() for g in range(GROUPS)]
    assert table["AdaAlpha", "distillation"] == pytest.approx(100 * np.mean(same))
    assert shown.table.alpha.is_monotonic_increasing
    assert "to 1.00 (AdaAlpha, margin of train), where it predicts" in shown.sentence


def test_collapse_is_with_the_student_of_the_same_seed_where_there_are_more_baselines():
    study = replace(BEYOND, baselines=5, fewer={"ada_alpha": 2})
    p = made(study, facts=margins, shuffled=("one_hot", "kd", "ada_alpha"), one_hot=0.5, kd=0.6)
    table = sensitivity.collapse(p, ["ada_alpha"]).set_index("as")
    for name, other in (("distillation", "kd"), ("one-hot", "one_hot")):
        by_seed = {r.config.seed: r.test_plus().predicted for r in p.runs[other]}
        pairs = [(r.test_plus().predicted, by_seed[r.config.seed]) for r in p.runs["ada_alpha"]]
        same = [100 * np.mean(mine == its) for mine, its in pairs]
        assert table.per_seed[name] == pytest.approx(same) and table.seeds[name] == 2


def test_alphas_are_those_of_the_records_most_frequent_first():
    shown = sensitivity.plot_alphas(made(BEYOND, facts=margins))
    assert set(shown.table.variant) == {"AdaAlpha", "AdaAlpha, margin of train"}
    rows = shown.table[shown.table.variant == "AdaAlpha"]
    assert list(rows.n_train) == sorted(COUNTS, reverse=True)
    assert list(rows.alpha) == pytest.approx(np.linspace(0.9, 0, GROUPS))
    both_widths(shown)
    said = "lowest for AdaAlpha (0.45) and highest for AdaAlpha, margin of train (1.00)"
    assert said in shown.sentence


# ---------------------------------------------------------------- ablations

SETTINGS = ({}, {"temperature": 4.0}, {"temperature": 1.0}, {"draw_seed": 1})
ABLATIONS = replace(TINY, name="tiny-ablations", kind="ablations", seeds=3, settings=SETTINGS)
ABLATIONS = replace(
    ABLATIONS,
    methods={"one_hot": {}, "kd": {}, "ada_alpha": {}},
    distilled={"temperature": 2.0},
)
LOSES = {4.0: 0.5, 1.0: 0.9}


def ablated(setting):
    """Rates of a setting: the few lose with the temperature."""
    return {"kd": but(0.7, few=LOSES.get(setting.get("temperature"), 0.7))}


def test_an_ablation_has_every_level_and_the_primary_one_in_order(panels_of):
    temperature, draw = ablations.plot_ablations(panels_of(ABLATIONS, by_setting=ablated))
    table = temperature.table
    rows = table[(table.bucket == "rarest classes") & (table.method == "distillation")]
    assert list(rows.level) == ["1", "2", "4"] and list(rows.base) == ["", "yes", ""]
    assert list(rows.estimate) == pytest.approx([20, 0, -20])
    assert list(draw.table.level.unique()) == ["0", "1"]
    assert temperature.sentence == (
        "cnn → cnn_small: as temperature varies, the gain of distillation in the rarest classes "
        "ranges from −20.0 points at 4 to +20.0 points at 1; clear harm at 4."
    )
    assert "primary configuration, which has 2." in temperature.caption
    both_widths(temperature)


@pytest.mark.parametrize(
    "levels, wanted",
    [
        (({"teacher": "resnet110"}, {"teacher": "resnet8"}), ["resnet8", "resnet20", "resnet110"]),
        (({"epochs": 160}, {"epochs": 80}), ["40", "80", "160"]),
    ],
    ids=["depth", "length"],
)
def test_levels_are_in_order_of_size(panels_of, levels, wanted):
    shared = {**ABLATIONS.shared, "dataset": "cifar10"}
    study = replace(ABLATIONS, shared=shared, pairs=(("resnet20", "resnet8"),))
    (shown,) = ablations.plot_ablations(panels_of(replace(study, settings=({}, *levels))))
    assert list(shown.table.level.unique()) == wanted


def test_without_a_step_and_with_one_draw_there_is_nothing_to_draw(panels_of):
    alone = panels_of(replace(ABLATIONS, settings=({},)))
    assert ablations.plot_ablations(alone) == []
    assert ablations.plot_variances(alone) is None
    assert trust.plot_optimism(alone[0]) is None and trust.optimism(alone[0], []) is None


def test_variance_is_the_classical_one():
    """Additive effects without noise come out as their sample variance; noise alone goes to what is
    left."""
    draw, teacher = np.array([0.0, 3.0, 6.0]), np.array([1.0, -1.0])
    student = np.array([0.0, 0.5, 0.0, -0.5])
    found = ablations.moments(draw[:, None, None] + teacher[None, :, None] + student)
    effects = {"draw": draw, "teacher": teacher, "student": student}
    wanted = {name: effect.var(ddof=1) for name, effect in effects.items()}
    assert found == pytest.approx(wanted | {"what is left": 0})
    rng = np.random.default_rng(0)
    noisy = rng.normal(size=(2000, 3, 3, 3)) + 2 * rng.normal(size=(2000, 3, 1, 1))
    many = pd.DataFrame(map(ablations.moments, noisy)).mean()
    assert many["draw"] == pytest.approx(4, rel=0.1)
    assert many["what is left"] == pytest.approx(1, rel=0.05)


def test_one_way_variance_is_that_of_an_analysis_of_variance():
    gain = np.array([[1.0, 2.0, 4.0], [6.0, 5.0, 9.0]])
    between, within = 3 * gain.mean(axis=1).var(ddof=1), gain.var(axis=1, ddof=1).mean()
    wanted = {"draw": (between - within) / 3, "what is left": within}
    assert ablations.moments(gain[:, None]) == pytest.approx(wanted)


def test_variance_of_the_draws_is_read_from_the_settings(panels_of):
    every = panels_of(ABLATIONS, by_setting=lambda s: {"kd": 0.7 + 0.1 * s.get("draw_seed", 0)})
    shown = ablations.plot_variances(every)
    both_widths(shown)
    variance = shown.table.set_index(["bucket", "source"]).variance
    assert variance["average", "draw"] == pytest.approx(np.var([0, 10], ddof=1))
    assert variance["average", "what is left"] == pytest.approx(0)
    assert "most of the spread of distillation's gain comes from draw" in shown.sentence
    assert ablations.variance_components(every[:2]) is None  # one draw


# ---------------------------------------------------------------- recipe


def levels(question, means, chosen):
    """Rows of choice.scores: levels a, b, ... of a step, two seeds five points apart."""
    frame = pd.DataFrame({"question": question, "mean": means, "seeds": 2, "chosen": ""})
    frame["level"] = [f"{question} = {'abc'[k]}" for k in range(len(means))]
    frame["per_seed"] = [(mean - 2.5, mean + 2.5) for mean in means]
    frame.loc[chosen, "chosen"] = "yes"
    return frame


RATE = levels("Rate", (60.0, 70.0, 65.0), 1)
SCORES = pd.concat([RATE, levels("Epochs", (70.0, 72.0), 0)])


def marks(axes, marker):
    """(x, y) of the marks of a kind."""
    some = [line for line in axes.lines if line.get_marker() == marker]
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in some]


def test_the_steps_of_a_search_are_drawn_one_below_the_other_with_a_star_at_what_is_taken():
    shown = sensitivity.search_steps(SCORES)
    both_widths(shown)
    rate, epochs = shown.figure.axes
    assert (rate.get_title(loc="left"), epochs.get_title(loc="left")) == ("Rate", "Epochs")
    labels = [[text.get_text() for text in axes.get_yticklabels()] for axes in (rate, epochs)]
    assert labels == [["Rate = a", "Rate = b", "Rate = c"], ["Epochs = a", "Epochs = b"]]
    assert rate.get_ylim()[0] > rate.get_ylim()[1]  # the first level above
    assert marks(rate, "*") == [(70, 1)] and sorted(marks(rate, "o")) == [(60, 0), (65, 2)]
    # what is taken need not be the best
    assert marks(epochs, "*") == [(70, 0)] and marks(epochs, "o") == [(72, 1)]
    dots = np.sort(np.concatenate([strip.get_offsets()[:, 0] for strip in rate.collections]))
    assert dots.tolist() == [57.5, 62.5, 62.5, 67.5, 67.5, 72.5]
    assert shown.sentence == "The search chose Rate = b; Epochs = a."
    assert shown.table is SCORES and sensitivity.search_steps(SCORES).svg() == shown.svg()
    assert len(sensitivity.search_steps(RATE).figure.axes) == 1


def test_the_settings_of_a_demonstration_are_drawn_with_the_one_that_is_chosen():
    frame = pd.DataFrame({"imbalance": 20.0, "epochs": 40, "temperature": [1.0, 2.0, 4.0]})
    frame = frame.assign(teacher="cnn", passes=["yes", "no", "yes"], chosen=["", "", "yes"])
    for name, values in (("average gain", [1.0, 2.0, 3.0]), ("few-shot gain", [-1.0, -9.0, -4.0])):
        frame = frame.assign(**{name: values, f"{name}, standard error": 0.5})
    shown = sensitivity.plot_settings(frame, "Choice")
    both_widths(shown)
    average, few = shown.figure.axes
    assert [a.get_title(loc="left") for a in (average, few)] == ["average gain", "few-shot gain"]
    assert marks(average, "*") == [(3, 2)] and marks(few, "*") == [(-4, 2)]
    assert marks(few, "o") == [(-1, 0)] and marks(few, "x") == [(-9, 1)]
    assert [text.get_text() for text in average.get_yticklabels()][2] == "imbalance 20, T = 4, cnn"
    assert shown.sentence == (
        "Choice: the setting chosen is imbalance 20, T = 4, cnn, where distillation changes "
        "accuracy on val by +3.0 points on average and by −4.0 points in the few-shot classes."
    )
    assert sensitivity.plot_settings(None, "Choice") is None


# ---------------------------------------------------------------- training, buckets, headlines


def test_optimism_is_the_gain_of_the_chosen_epoch_on_either_half():
    def halves(method, seed):
        by_half = {"5": [0.5, 0.4], "10": [0.6, 0.2], "40": [0.55, 0.5]}
        by_group = dict.fromkeys(by_half, [0.5] * GROUPS)
        return {"val_accuracy_by_group": by_group, "val_accuracy_by_half": by_half}

    table = trust.optimism(made(BEYOND, facts=halves), ["kd"]).set_index("where").estimate
    # half 0 chooses 10, half 1 the last
    assert table["the same half"] == pytest.approx(100 * np.mean([0.6 - 0.55, 0]))
    assert table["the other half"] == pytest.approx(100 * np.mean([0.2 - 0.5, 0]))
    assert trust.optimism(made(replace(BEYOND, name="without")), ["kd"]) is None


def on_val(method, seed):
    """What a record says of val by epoch."""
    by_group = {"5": [0.1 * seed] * GROUPS, "40": list(but(0.5, few=0.3))}
    halves = {"5": [0.2, 0.2], "40": [0.3, 0.3]}
    return {"val_accuracy_by_group": by_group, "val_accuracy_by_half": halves}


def test_learning_curves_are_means_over_seeds_but_of_methods_that_train_on_val():
    with_val = {"with val": {"method": "one_hot", "with_val": True}}
    p = made(replace(BEYOND, methods={**TINY.methods, **with_val}), facts=on_val)
    shown = trust.plot_learning_curves(p)
    table = shown.table.set_index(["place", "epoch", "method"]).accuracy
    assert table["average", 5, "distillation"] == pytest.approx(10)
    assert table["few", 40, "distillation"] == pytest.approx(30)
    assert table["average", 40, "distillation"] == pytest.approx(100 * but(0.5, few=0.3).mean())
    for found in (shown.table, trust.optimism(p, p.runs)):
        assert list(found.method.unique()) == [name_of(m) for m in TINY.methods]


def test_worst_groups_chosen_on_val_are_scored_on_test():
    """Group 0 is worst on val, group 1 on test."""

    def rates(seed, split):
        return but(0.7, g0=0.1) if split == "val" else but(0.7, g1=0.3)

    table = gains.accuracies(made(BEYOND, one_hot=rates)).table
    row = table.set_index("method").loc["one-hot"]
    assert row["worst 1"].startswith("30.0") and row["worst 1 by val"].startswith("70.0")


def test_power_agrees_with_the_intervals():
    p = made(BEYOND, kd=lambda seed, split: 0.7 + 0.05 * (seed % 2), shuffled=("kd",))
    power = gains.power(p, ["kd"]).set_index("bucket")
    found = gains.gain_by_bucket(p, ["kd"]).set_index("bucket")
    assert list(power.index) == list(found.index) and (power["standard error"] > 0).all()
    assert list(power["smallest detectable"]) == pytest.approx(list(found.detectable))
    assert list(power.gain) == pytest.approx(list(found.estimate))
    spread = np.std(found.per_seed["average"], ddof=1)
    assert power["spread of students"]["average"] == pytest.approx(spread)


def test_balanced_buckets_are_tenths_by_other_seeds_margins(panels_of):
    def margin(seed):
        return np.roll(np.linspace(0.9, 0.1, GROUPS), seed)

    (p,) = panels_of(replace(TINY, name="tiny-balanced", bucket_edges=(), seeds=3), margin=margin)
    assert p.bucket_names == ("highest tenth", "middle", "lowest tenth")
    for seed in range(3):
        others = np.mean([margin(s) for s in range(3) if s != seed], axis=0)
        lowest = p.buckets_by_seed[seed] == 2
        assert lowest[others.argmin()] and lowest.sum() == 1
    card = next(c for c in findings.pair_verdicts(p) if c["finding"] == "F2b")
    assert "changes accuracy in the classes of the lowest tenth by" in card["sentence"]
    (axes,) = gains.plot_gain_by_bucket(p, ["kd"]).figure.axes
    assert axes.get_xlabel() == "classes by margin of the teacher"


def test_only_findings_have_verdicts(panels_of):
    panels_of(ABLATIONS)
    assert findings.verdicts("tiny-ablations") == []
    softened = panel(ABLATIONS, ABLATIONS.pairs[0], 2, setting={"temperature": 4.0})
    assert softened.name == "cnn → cnn_small, temperature = 4"


def test_the_sentences_of_a_study_are_those_of_its_figures(panels_of):
    every = panels_of(ABLATIONS, by_setting=ablated)
    said = sensitivity.headlines(every)
    assert said == [shown.sentence for shown in ablations.plot_ablations(every)] and len(said) == 2
    rare = [p.gain("kd", p.in_bucket(2)) for p in every]  # each setting once, the primary one too
    harmed, helped = sum(g.high < 0 for g in rare), sum(g.low > 0 for g in rare)
    summary = ablations.summary(every[0], ablations.plot_ablations(every))
    assert (
        harmed
        and f"at {harmed} of {len(every)} settings and clearly raises it at {helped};" in summary
    )
    assert f"from {words.number(min(g.estimate for g in rare))} (" in summary
    knobs_of = panels_of(replace(BEYOND, name="tiny-knobs", kind="knobs"), facts=margins)
    collapse, forest = sensitivity.headlines(knobs_of)
    assert "mean weight of the teacher ranges from" in collapse
    assert "methods clearly gain over distillation in" in forest
    assert sensitivity.headlines(panels_of(TINY)) == []  # there the verdicts speak


def test_rivals_are_told_against_ada_alpha_and_against_the_constant_weight(panels_of):
    methods = {**{m: {} for m in ("one_hot", "kd", "ada_alpha", "logit_adjusted")}}
    methods["kd_mean_alpha"] = {"method": "ada_alpha", "margin_level": "all"}
    study = replace(TINY, name="tiny-rivals", kind="rivals", seeds=3, methods=methods)
    few = {"ada_alpha": 0.9, "kd_mean_alpha": 0.5, "logit_adjusted": 1.0, "kd": 0.95}
    rates = {method: but(0.7, few=rate) for method, rate in few.items()}
    (p,) = every = panels_of(study, **rates)
    trade_off, ahead, weight = sensitivity.headlines(every)
    assert (
        "no other method has both" in trade_off
        and "few-shot classes than logit adjustment" in trade_off
    )
    rest = (
        "The 95 % intervals are those of 3 seeds, not corrected for the number of methods. "
        "AdaAlpha reads labels of val, for its margins."
    )
    beat = "methods clearly beat AdaAlpha both on average and in the few-shot classes"
    first = f"2 of 3 {beat}: logit adjustment by +2.0 and +10.0 points"
    second = "distillation by +1.0 and +5.0 points"
    assert ahead.endswith(f"{first}, {second}; none more there alone. {rest}")
    named = sensitivity.ahead_of_ada_alpha(p, 1)
    assert named.endswith(f"{first}, and 1 other; none more there alone. {rest}")
    assert sensitivity.ahead_of_ada_alpha(p, 2) == ahead
    (last,) = panels_of(study, ada_alpha=but(0.7, few=1.0))
    assert f"none of 3 {beat}; none more there" in sensitivity.ahead_of_ada_alpha(last)
    (apart,) = panels_of(study, ada_alpha=0.7, kd_mean_alpha=0.4, kd=but(0.4, few=0.8))
    assert f"none of 3 {beat}; 1 more there alone." in sensitivity.ahead_of_ada_alpha(apart)
    both = [
        words.told(p.gain("ada_alpha", p.places()[k], "kd_mean_alpha")) for k in ("average", "few")
    ]
    assert [float(said.split()[0]) for said in both] == [8, 40]
    assert weight.endswith(
        f"AdaAlpha changes accuracy by {both[0]} on average and by {both[1]} in the few-shot "
        "classes."
    )
