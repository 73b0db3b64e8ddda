"""A recipe is chosen on val, step by step, and the training check is what PROTOCOL.md says.

On records made by hand."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import synthetic
from scipy.stats import ttest_ind
from synthetic import COUNTS, FEW, GROUPS, SELF, but, record

from kdlib.config import KdlibError
from kdlib.evidence import choice
from kdlib.pages.sensitivity import search_steps
from kdlib.study import records
from kdlib.study.grids import STUDIES
from kdlib.study.recipes import DIGITS, PRIMARY, crossed, each
from kdlib.study.records import write
from kdlib.study.studies import Grid, Search, Step

RATES, EPOCHS = each(lr=(0.05, 0.1, 0.2)), each(epochs=(20, 40, 80))
TEMPERATURE = Step("Temperature", each(temperature=(1.0, 2.0)), ("kd",))
TINY = Search(
    name="tiny-recipe",
    title="Choice",
    about="About.",
    steps=(
        Step("Rate", RATES, fields={"epochs": 20}),
        Step("Epochs", EPOCHS),
        Step("Teacher", each(student=("cnn_small", "cnn")), teachers=True),
        TEMPERATURE,
    ),
    shared={**DIGITS, "lr": 0.1, "epochs": 40},
    pair=SELF,
    bucket_edges=(30, 7),
    epochs=(20, 40),
)
# without a training check: a level is as good as its one_hot and kd together
OF_BOTH = Step("Rate", RATES, ("one_hot", "kd"), {"temperature": 2.0})
BOTH = replace(TINY, steps=(OF_BOTH, TEMPERATURE), shared=DIGITS, epochs=())


@pytest.fixture(autouse=True)
def _records(records_folder):
    """Empty."""


def on_val(rates):
    """Accuracies by split: on val those, on all other images 0.1, which must decide nothing."""
    return lambda seed, split: rates if split == "val" else 0.1


def write_search(chosen, rates, margin_train=1.0):
    """Every record of a search. rates: function Config -> accuracy on val, a number or (G,).

    margin_train: of the teachers on their training images, a number or (G,)."""
    margin = np.linspace(0.9, 0.1, GROUPS)
    of_train = np.broadcast_to(margin_train, GROUPS).tolist()
    for cfg in chosen():
        known = {"teacher_margin_train": of_train} if cfg.teacher else {}
        write(record(cfg, cfg.method, 0, on_val(rates(cfg)), margin=margin, **known))


def step_of(table, question):
    """Rows of a step by their level."""
    return table[table.question == question].set_index("level")


def chosen_of(table):
    """{question: level that is taken}."""
    taken = table[table.chosen == "yes"]
    assert len(taken) == table.question.nunique()  # one for each step
    return dict(zip(taken.question, taken.level, strict=True))


# ---------------------------------------------------------------- its runs


def test_every_step_has_what_the_ones_before_it_chose_but_for_its_own_fields():
    rate, epochs, teacher, temperature = TINY.steps
    assert TINY.config(rate, {"lr": 0.2}, "one_hot", 0).epochs == 20
    assert TINY.config(epochs, {"epochs": 80}, "one_hot", 0).lr == 0.1
    student = TINY.config(temperature, {"temperature": 2.0}, "kd", 1)
    assert (student.lr, student.epochs, student.temperature, student.seed) == (0.1, 40, 2.0, 901)
    assert (student.teacher, student.teacher_seed) == ("cnn_small", 1901)
    wide = TINY.config(teacher, {"student": "cnn"}, "one_hot", 1)
    assert (wide.student, wide.seed, wide.epochs) == ("cnn", 1901, 40)


def test_the_teachers_that_are_compared_are_those_that_students_learn_from():
    *_, teacher, temperature = TINY.steps
    for seed in range(2):
        student = TINY.config(temperature, {"temperature": 1.0}, "kd", seed)
        compared = TINY.config(teacher, {"student": "cnn_small"}, "one_hot", seed)
        assert compared == student.teacher_config()


def test_every_run_is_there_once_and_teachers_come_before_their_students():
    configs = TINY()
    # 20 epochs at rate 0.1 are of two steps
    assert len(set(configs)) == len(configs) == 2 * (3 + 2 + 2 + 2)
    for cfg in configs:
        assert all(configs.index(c) < configs.index(cfg) for c in cfg.dependencies())
    assert {cfg.seed for cfg in TINY(1)} == {900, 1900}


def test_further_seeds_of_a_step_belong_to_the_last_seed():
    longer = replace(TINY, steps=(TINY.steps[0], replace(TINY.steps[1], seeds=4)))
    assert [c.seed for c in longer() if c.epochs == 80] == [900, 901, 902, 903]
    assert {r.seed for r in longer.runs if r.config.seed > 900} == {1}
    assert {c.seed for c in longer(1)} == {900}


# ---------------------------------------------------------------- scores


def test_the_best_mean_is_chosen_and_of_equals_the_first():
    """lr = 0.2 is best for seed 901, 0.1 on average; both temperatures are alike."""
    rate = {0.05: (0.6, 0.6), 0.1: (0.75, 0.65), 0.2: (0.55, 0.8)}

    def rates(cfg):
        if cfg.epochs == 20:
            return rate[cfg.lr][cfg.seed - 900]
        return {"cnn_small": 0.7, "cnn": 0.85}[cfg.student]

    write_search(TINY, rates)
    table = choice.scores(TINY, 2)
    rows = step_of(table, "Rate")
    assert list(rows.index) == ["lr = 0.05", "lr = 0.1", "lr = 0.2"]
    np.testing.assert_allclose(rows["mean"], [60, 70, 67.5])
    np.testing.assert_allclose(rows.per_seed.tolist(), [(60, 60), (75, 65), (55, 80)])
    assert list(chosen_of(table)) == ["Rate", "Epochs", "Teacher", "Temperature"]
    taken = ["lr = 0.1", "epochs = 40", "teacher = cnn", "temperature = 1"]
    assert list(chosen_of(table).values()) == taken
    of_one = choice.scores(TINY, 1)
    np.testing.assert_allclose(step_of(of_one, "Rate")["mean"], [60, 75, 55])  # of seed 900 alone


def test_groups_weigh_alike_on_val():
    """Group 0 has twice the images of the others."""
    cfg = TINY.config(TINY.steps[0], RATES[0], "one_hot", 0)
    run = record(cfg, "one_hot", 0, on_val(but(0.5, g0=1.0)))
    val, twice = run.splits["val"], np.flatnonzero(run.splits["val"].group == 0)
    order = np.concatenate([np.arange(len(val.y)), twice])
    arrays = {name: values[order] for name, values in vars(val).items()}
    write(replace(run, splits=run.splits | {"val": replace(val, **arrays)}))
    lone = replace(TINY, steps=(Step("Rate", RATES[:1], fields={"epochs": 20}),), epochs=())
    assert choice.scores(lone, 1)["mean"].tolist() == pytest.approx([55])


def test_a_step_of_two_methods_is_scored_by_their_mean():
    """At lr 0.1 kd alone is best, at 0.2 the mean of both is."""
    rate = {0.05: (0.7, 0.7), 0.1: (0.4, 0.9), 0.2: (0.8, 0.75)}
    write_search(BOTH, lambda cfg: rate[cfg.lr][cfg.method == "kd"])
    table = choice.scores(BOTH, 2)
    np.testing.assert_allclose(step_of(table, "Rate")["mean"], [70, 65, 77.5])
    assert chosen_of(table) == {"Rate": "lr = 0.2", "Temperature": "temperature = 1"}
    assert step_of(table, "Temperature")["mean"].tolist() == pytest.approx(
        [70, 70]
    )  # of kd alone, at DIGITS' rate


def test_levels_in_words():
    assert choice.in_words({"batch_size": 32, "lr": 0.1}) == "batch_size = 32, lr = 0.1"
    assert choice.in_words({"student": "cnn"}) == "student = cnn"
    assert choice.in_words({"temperature": 4.0}) == "temperature = 4"


def test_a_missing_run_is_named():
    with pytest.raises(KdlibError, match="there is no record of this run"):
        choice.scores(TINY, 2)


# ---------------------------------------------------------------- the training check


def written(few=0.5, longer=0.7, margin=1.0):
    """The search with one_hot at 70 % after 40 epochs, its few-shot classes at `few`, `longer`
    after 80.

    Each may be one for each seed."""
    few, longer = np.broadcast_to(few, 2), np.broadcast_to(longer, 2)

    def rates(cfg):
        if cfg.epochs == 80:
            return longer[cfg.seed - 900]
        if cfg.epochs == 40 and cfg.seed < 1000:
            return np.where(FEW, few[cfg.seed - 900], 0.7)
        return 0.6

    write_search(TINY, rates, margin)


def check_at_40():
    """Row of training_check of the chosen length."""
    return choice.training_check(TINY, 2).set_index("epochs").loc[40]


def change(points):
    """Accuracy of ten groups after twice the epochs: 70 % and so many points of the average more,
    in whole images."""
    images = round(points / 0.5)  # one of 20 in one of ten groups is half a point
    return 0.7 + 0.05 * np.sign(images) * (np.arange(GROUPS) < abs(images))


def at_twice_the_epochs(first, second):
    """The search whose two seeds change by so many points."""
    by_seed = {900: change(first), 901: change(second)}
    write_search(TINY, lambda cfg: by_seed[cfg.seed] if cfg.epochs == 80 else 0.7)


UP_AND_DOWN = [(0.0, 0.0), (1.0, 0.5), (-1.0, -0.5), (3.0, -3.0), (1.5, 1.0), (-1.5, -1.0)]


@pytest.mark.parametrize(("first", "second"), UP_AND_DOWN)
def test_twice_the_epochs_must_change_the_average_by_less_than_a_point(first, second):
    """Of the mean over seeds, up or down."""
    at_twice_the_epochs(first, second)
    row, mean = check_at_40(), (first + second) / 2
    assert row["change at twice the epochs"] == pytest.approx(mean)
    assert row.average == pytest.approx(70)
    assert row.passes == ("yes" if abs(mean) < 1 else "no")


def test_classes_may_change_as_long_as_the_average_does_not():
    longer = but(0.7, g0=0.9, g1=0.5)
    write_search(TINY, lambda cfg: longer if cfg.epochs == 80 else 0.7)
    row = check_at_40()
    assert row["change at twice the epochs"] == pytest.approx(0) and row.passes == "yes"


FEW_SHOT = [((0.05, 0.0), 2.5, "yes"), ((0.0, 0.0), 0, "no"), ((0.0, 0.1), 5, "yes")]


@pytest.mark.parametrize(("few", "lowest", "word"), FEW_SHOT)
def test_no_few_shot_class_may_be_below_two_per_cent(few, lowest, word):
    """Mean over seeds; the change is the same for all."""
    by_seed = dict(enumerate(few, start=900))
    write_search(TINY, lambda cfg: but(0.7, g9=by_seed.get(cfg.seed, 0.7)))
    row = check_at_40()
    assert row["lowest few-shot class"] == pytest.approx(lowest) and row.passes == word
    assert row["change at twice the epochs"] == pytest.approx(0)


@pytest.mark.parametrize(("limit", "word"), [(1.9, "yes"), (2.5, "yes"), (2.6, "no")])
def test_the_limit_of_a_few_shot_class_is_that_of_the_protocol(monkeypatch, limit, word):
    assert (choice.LEAST_CHANGE, choice.LEAST_MARGIN, choice.LEAST_FEW_SHOT) == (1, 0.9, 2)
    write_search(TINY, lambda cfg: np.where(FEW, 0.05 * (cfg.seed == 900), 0.7))  # 2.5 %
    monkeypatch.setattr(choice, "LEAST_FEW_SHOT", limit)
    assert check_at_40().passes == word


def test_a_class_that_is_not_few_shot_may_be_at_nothing():
    """Edges (30, 7): seven images are medium."""
    write_search(TINY, lambda cfg: but(0.7, g7=0.0))
    row = check_at_40()
    assert COUNTS[7] == 7 and row.passes == "yes"
    assert row["lowest few-shot class"] == pytest.approx(70)


@pytest.mark.parametrize(("margin", "word"), [(0.905, "yes"), (0.895, "no"), (1.0, "yes")])
def test_the_teacher_must_have_fitted_its_training_images(margin, word):
    write_search(TINY, lambda cfg: 0.7, margin)
    row = check_at_40()
    assert row["teacher's margin on its training images"] == pytest.approx(margin)
    assert row.passes == word


def test_the_margin_is_the_mean_over_images_not_classes():
    """The two rarest classes have 8 of 296 images."""
    write_search(TINY, lambda cfg: 0.7, np.where(FEW, 0.0, 0.95))
    row = check_at_40()
    by_hand = 0.95 * sum(COUNTS[:8]) / sum(COUNTS)
    assert (
        row["teacher's margin on its training images"] == pytest.approx(by_hand) and by_hand > 0.9
    )
    assert row.passes == "yes"


def test_a_length_that_was_not_chosen_has_no_students_that_know_its_margin():
    write_search(TINY, lambda cfg: 0.7)
    table = choice.training_check(TINY, 2).set_index("epochs")
    assert list(table.index) == [20, 40]
    assert np.isnan(table.loc[20, "teacher's margin on its training images"])
    assert table.loc[20, "passes"] != "yes"


def test_a_length_whose_double_was_not_run_has_no_row():
    write_search(TINY, lambda cfg: 0.7)
    assert list(choice.training_check(replace(TINY, epochs=(20, 40, 80)), 2).epochs) == [20, 40]


def test_the_epochs_step_marks_the_length_of_the_training_check_not_the_best():
    write_search(TINY, lambda cfg: {20: 0.5, 40: 0.7, 80: 0.7}[cfg.epochs])
    assert chosen_of(choice.scores(TINY, 2))["Epochs"] == "epochs = 40"
    write_search(TINY, lambda cfg: {20: 0.5, 40: 0.7, 80: 0.75}[cfg.epochs])
    table = choice.scores(TINY, 2)
    # 80 add five points: none passes
    assert not (table[table.question == "Epochs"].chosen == "yes").any()
    assert chosen_of(choice.scores(replace(TINY, epochs=()), 2))["Epochs"] == "epochs = 80"


# ---------------------------------------------------------------- a demonstration

SETTINGS = crossed(imbalance=(20.0, 50.0), epochs=(40,), temperature=(1.0, 2.0))
DEMONSTRATION = replace(
    TINY,
    seeds=3,
    steps=(
        Step("Imbalance and epochs", crossed(imbalance=(20.0, 50.0), epochs=(20, 40, 80))),
        Step("Setting", SETTINGS, ("kd",), shows=True),
    ),
    shared={**TINY.shared, "imbalance": 50.0},
)
LATE = {20.0: 0.0, 50.0: 0.0}  # what 80 epochs add to the accuracy at an imbalance


def write_settings(*gains, late=LATE, margin=1.0):
    """Records of the search: gains of kd (in the two few-shot classes, in the other eight) in each
    of SETTINGS, as accuracy; one_hot is at 60 %, and seeds differ in class 0 alone."""
    by_setting = dict(
        zip([(s["imbalance"], s["temperature"]) for s in SETTINGS], gains, strict=True)
    )

    def rates(cfg):
        base = np.where(np.arange(GROUPS) == 0, 0.5 + 0.05 * (cfg.seed % 100) ** 2, 0.6)
        if cfg.epochs == 80:
            base = base + late[cfg.imbalance]
        if cfg.method == "kd":
            base = base + np.where(FEW, *by_setting[cfg.imbalance, cfg.temperature])
        return base

    write_search(DEMONSTRATION, rates, margin)


def setting_chosen():
    """(imbalance, temperature) of the one setting that is chosen."""
    table = choice.settings(DEMONSTRATION, 3)
    (row,) = table[table.chosen == "yes"].itertuples()
    return row.imbalance, row.temperature


def test_of_settings_whose_average_is_kept_the_one_with_the_largest_few_shot_loss_is_chosen():
    """The second loses more, and on average: -0.2 in two classes of ten, +0.02 in eight."""
    write_settings((-0.1, 0.05), (-0.3, 0.05), (-0.15, 0.05), (0.1, 0.1))
    table = choice.settings(DEMONSTRATION, 3)
    assert table[choice.FEW].tolist() == pytest.approx([-10, -30, -15, 10])
    assert table[choice.AVERAGE].tolist() == pytest.approx([2, -2, 1, 10])
    assert setting_chosen() == (50, 1)


def test_without_a_loss_the_smallest_gain_is_chosen_and_of_equals_the_first():
    write_settings((0.1, 0.0), (0.05, 0.0), (0.05, 0.1), (0.2, 0.0))
    assert setting_chosen() == (20, 2)


def test_ties_are_ties_whatever_rounding_does_to_them(monkeypatch):
    """As many images right, of other seeds: (6 + 12 + 5) / 24 is more than (6 + 11 + 6) / 24."""
    monkeypatch.setitem(synthetic.PER_GROUP, "val", 24)
    images = {1.0: (6, 12, 5), 2.0: (6, 11, 6)}

    def rates(cfg):
        few = images[cfg.temperature][cfg.seed - 900] / 24 if cfg.method == "kd" else 0.5
        return np.where(FEW, few, 0.5 + 0.25 * (cfg.method == "kd"))

    write_search(DEMONSTRATION, rates)
    table = choice.settings(DEMONSTRATION, 3)
    assert table[choice.FEW].nunique() == table[choice.AVERAGE].nunique() == 1
    assert setting_chosen() == (20, 1)


def test_where_every_average_is_lower_the_highest_is_chosen():
    write_settings((-0.1, 0.0), (-0.3, 0.05), (-0.4, 0.05), (0.15, -0.05))
    assert setting_chosen() == (50, 2)
    table = choice.settings(DEMONSTRATION, 3)
    assert table[choice.AVERAGE].tolist() == pytest.approx([-2, -2, -4, -1])


def test_a_setting_that_fails_the_training_check_is_not_chosen_unless_all_fail():
    losses = (-0.1, 0.05), (0.0, 0.05), (-0.15, 0.05), (0.1, 0.1)
    write_settings(*losses, late=LATE | {50.0: 0.05})
    assert choice.settings(DEMONSTRATION, 3).passes.tolist() == ["yes", "yes", "no", "no"]
    assert setting_chosen() == (20, 1)
    write_settings(*losses, margin=0.5)
    assert choice.settings(DEMONSTRATION, 3).passes.tolist() == ["no"] * 4
    assert setting_chosen() == (50, 1)


def test_standard_errors_of_settings_are_those_of_welch():
    write_settings((-0.1, 0.05), (-0.3, 0.05), (-0.15, 0.05), (0.1, 0.1))
    row = choice.settings(DEMONSTRATION, 3).iloc[0]
    step, lengths = DEMONSTRATION.steps[1], DEMONSTRATION.steps[0]
    runs = {
        "kd": [DEMONSTRATION.config(step, SETTINGS[0], "kd", s) for s in range(3)],
        "one_hot": [
            DEMONSTRATION.config(lengths, {"imbalance": 20.0, "epochs": 40}, "one_hot", s)
            for s in range(3)
        ],
    }
    average = {
        name: [100 * records.read(cfg).splits["val"].right.mean() for cfg in configs]
        for name, configs in runs.items()
    }
    found = ttest_ind(average["kd"], average["one_hot"], equal_var=False)
    assert row["average gain, standard error"] == pytest.approx(
        row[choice.AVERAGE] / found.statistic
    )


def test_the_headline_of_a_demonstration_says_that_the_choice_favours_the_effect():
    write_settings((-0.1, 0.05), (-0.3, 0.05), (-0.15, 0.05), (0.1, 0.1))
    setting, check = choice.headline(DEMONSTRATION, 3)
    assert setting.startswith(
        "Among 4 settings, 4 of which pass the training check, the search chose imbalance = 50, "
        "epochs = 40, temperature = 1, "
    )
    assert "by −15.0 points" in setting and setting.endswith(
        "it makes a demonstration, and no evidence."
    )
    assert check.startswith("With 40 epochs, the recipe passes the training check.")


def test_one_seed_has_no_interval_and_no_standard_error():
    write_settings((-0.1, 0.05), (-0.3, 0.05), (-0.15, 0.05), (0.1, 0.1))
    setting, check = choice.headline(DEMONSTRATION, 1)
    assert "by +1.0 points (one seed: no interval) on average" in setting
    assert "by 0.00 points (one seed: no interval; required" in check
    assert "nan" not in setting + check


# ---------------------------------------------------------------- in sentences


def test_the_headline_says_what_val_chose_and_that_the_training_check_is_passed():
    at_twice_the_epochs(1.0, 0.0)
    assert choice.headline(TINY, 2) == [
        "The search chose lr = 0.05; epochs = 40; teacher = cnn_small; temperature = 1.",
        "With 40 epochs, the recipe passes the training check. Twice the epochs change the average "
        "by +0.50 points (95 % interval over networks "
        "−5.9 to +6.9; required: less than 1); the teacher's margin on its training images is "
        "1.000 (at least 0.9); the lowest few-shot class is at 70.0 % (at least 2).",
    ]


def test_a_loss_in_the_headline_has_a_real_minus():
    at_twice_the_epochs(-2.0, -1.0)
    _, check = choice.headline(TINY, 2)
    assert (
        "the recipe fails the training check. Twice the epochs change the average by −1.50 points"
        in check
    )


@pytest.mark.parametrize("how", [{}, {"few": 0.0}, {"longer": 0.9}, {"margin": 0.5}])
def test_no_sentence_has_a_nan(how):
    written(**how)
    for sentence in choice.headline(TINY, 2):
        assert not re.search(r"\bnan\b", sentence) and sentence.endswith(".")
    shown = search_steps(choice.scores(TINY, 2))
    assert not re.search(r"\bnan\b", shown.sentence + shown.caption)


def test_a_study_whose_recipe_fails_the_training_check_says_so(monkeypatch):
    monkeypatch.setitem(STUDIES, "tiny-recipe", TINY)
    study = SimpleNamespace(shared=TINY.shared)  # whatever it is called
    other = SimpleNamespace(shared={**TINY.shared, "epochs": 50})
    assert choice.check_failed(study) == []  # nothing is on record
    at_twice_the_epochs(1.0, 0.0)
    assert choice.check_failed(study) == []
    at_twice_the_epochs(-2.0, -1.0)
    assert choice.check_failed(other) == []
    (said,) = choice.check_failed(study)
    assert "fails the training check. Twice the epochs change the average by −1.50 points" in said


def test_a_lead_smaller_than_the_spread_of_seeds_is_said():
    accuracy = {0.05: (0.6, 0.7), 0.1: (0.55, 0.65), 0.2: (0.3, 0.3)}
    write_search(BOTH, lambda cfg: accuracy[cfg.lr][cfg.seed % 2])
    _, chance = choice.headline(BOTH, 2)[:2]
    assert "the best level leads by 5.0 points, less than its seeds differ (10.0)" in chance


def test_a_search_without_a_training_check_says_what_val_chose_alone():
    write_search(BOTH, lambda cfg: 0.7)
    assert choice.headline(BOTH, 2) == ["The search chose lr = 0.05; temperature = 1."]


def test_the_figure_says_what_the_headline_says():
    written()
    assert search_steps(choice.scores(TINY, 2)).sentence == choice.headline(TINY, 2)[0]


def test_the_training_check_is_not_known_before_a_student_has_recorded_its_teachers_margin():
    at_twice_the_epochs(1.0, 0.0)
    step = next(step for step in TINY.steps if "kd" in step.methods)
    for seed in range(2):
        (records.folder() / f"{TINY.config(step, step.levels[0], 'kd', seed).key()}.json").unlink()
    row = choice.training_check(TINY, 2).set_index("epochs").loc[40]
    assert row.passes == "not known" and np.isnan(row[choice.MARGIN])


def test_without_students_of_a_length_the_margin_is_that_of_the_students_of_the_study(monkeypatch):
    *others, temperature = TINY.steps
    shorter = replace(TINY, steps=(*others, replace(temperature, fields={"epochs": 20})))
    write_search(shorter, lambda cfg: {20: 0.5, 40: 0.7, 80: 0.7}[cfg.epochs])
    own = {"shared": TINY.shared, "distilled": {}, "pairs": (SELF,)}
    study = Grid(name="tiny", title="", about="", seeds=4, methods=PRIMARY, **own)
    monkeypatch.setitem(STUDIES, "tiny", study)
    assert choice.training_check(shorter, 2).passes.tolist() == [
        "no",
        "not known",
    ]  # 20 and 40 epochs
    said = choice.headline(shorter, 2)[1]
    assert (
        "is not known to pass the training check" in said
        and "images is not known yet (at least" in said
    )
    for seed, margin in ((0, 1.0), (3, 0.6)):
        cfg = study.config(SELF, "kd", seed)
        of_train = [margin] * GROUPS
        write(record(cfg, "kd", 0, on_val(0.7), margin=of_train, teacher_margin_train=of_train))
    row = choice.training_check(shorter, 2).set_index("epochs").loc[40]
    assert row[choice.MARGIN] == pytest.approx(0.8) and row.passes == "no"
