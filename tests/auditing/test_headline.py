"""What an audit says first, in words; its figures, whose names are text at a desk and on a
phone."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from looking import Document

import kdlib
from kdlib.auditing import figures, headline, page

N, CLASSES = 600, 6


def world(by, seed, harmed=()):
    """(labels, scores): right the more often the larger `by`, seldom in the classes harmed."""
    y = np.random.default_rng(99).integers(0, CLASSES, N)
    scores = np.random.default_rng(seed).normal(size=(N, CLASSES)) + by * np.eye(CLASSES)[y]
    scores[np.isin(y, harmed)] -= 6 * np.eye(CLASSES)[y[np.isin(y, harmed)]]
    return y, scores


def audited(students=1, baselines=1, harmed=(), **options):
    y, teacher = world(4, 0)
    of_students = [world(3, 10 + s, harmed)[1] for s in range(students)]
    of_baselines = [world(3, 20 + b)[1] for b in range(baselines)] or None
    return kdlib.audit(y, teacher, of_students, of_baselines, resamples=50, **options)


def said(a):
    return " ".join(a.headline()).replace("\N{NO-BREAK SPACE}", " ")


def shown_text(a):
    """All that a reader of the page can read, but for its style."""
    document = Document(page.page(a))
    words = document.all("html")[0][0].replace(document.all("style")[0][0], "")
    return " ".join([words, *(attributes["alt"] for _, attributes in document.all("img"))])


# ---------------------------------------------------------------- the answer


def test_the_answer_names_who_lost_and_by_how_much():
    a = audited(3, 3, harmed=(1, 4), classes=["one", "two", "three", "four", "five", "six"])
    table = a.groups[a.groups.finding == "harmed"].set_index("group").gain
    assert set(table.index) == {"two", "five"}
    first, second = table.sort_values().index
    assert "This distillation harmed 2 of 6 groups and helped none" in said(a)
    losses = [f"{name} (−{-table[name]:.1f} points)" for name in (first, second)]
    assert f"The largest losses are in {losses[0]} and {losses[1]}." in said(a)


def test_one_run_of_each_is_told_as_two_networks_not_as_what_distillation_does():
    words = said(audited(harmed=(1, 4)))
    assert "The student is worse than this baseline in 2 of 6 groups and better in none" in words
    assert "expected to be a false alarm about these two networks." in words
    assert "harmed" not in words and "about these networks only: two runs of the same" in words
    none = said(audited())
    assert "In none of 6 groups is the student clearly worse or better than this baseline" in none


@pytest.mark.parametrize(("runs", "words"), [(1, ("worse", "better")), (3, ("harmed", "helped"))])
def test_a_page_calls_groups_as_its_answer_does_and_files_as_conditions_do(runs, words):
    a = audited(runs, runs, harmed=(1, 4))
    shown = figures.gain_by_group(a.groups, a.reference, headline.words_of(a))
    assert headline.words_of(a) == words and words[0] in shown.caption
    assert set(shown.table.finding) == {words[0], "no clear difference"}
    assert f">{words[0]}<" in page.appendix(a)._repr_html_()
    assert (a.groups.finding == "harmed").sum() == a.metrics["groups_harmed"] == 2
    by_margin = figures.by_bucket(a)[1].svg(False).decode()  # whose legend names them
    assert f">{words[0]}</text>" in by_margin
    assert f": {words[0]}. Smallest effect" in page.view(a, group="1")[-1]._repr_html_()
    text, conditions = shown_text(a).split("What --fail-if can ask")
    assert ("harmed" in by_margin + text) == (runs == 3) and "groups_harmed" in conditions
    [caution] = [said for said in replace(a, compared=2).cautions() if "compared" in said]
    assert f"{words[0]} or {words[1]} is corrected for 2 students" in caution


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((1.234, -0.3, 2.7), "+1.2 points (95 % interval −0.3 to +2.7)"),
        ((-1.234, np.nan, np.nan), "−1.2 points (no interval)"),
        ((np.nan, np.nan, np.nan), "not defined (every value tied, or nothing to count)"),
    ],
)
def test_a_gain_is_told_as_elsewhere_and_without_an_interval_that_is_said(row, words):
    table = pd.DataFrame([row], columns=["gain", "low", "high"])
    assert headline.gain_in_words(next(table.itertuples())) == words


def test_no_finding_is_not_told_as_no_harm():
    a = audited(3, 3)
    enough = np.median(a.groups.detectable)
    assert "None of 6 groups is clearly harmed or helped; in half of them" in said(a)
    assert f"a change of {enough:.1f} points would probably have been detected." in said(a)


def test_what_no_change_could_show_is_not_told_as_a_change_of_more_than_all():
    y = np.repeat(np.arange(40), 2)
    wrong = (y + 1) % 40
    a = kdlib.audit(y, y, [y, wrong, y], [wrong, y, wrong], resamples=2)
    assert np.median(a.groups.detectable) > 100
    said_of_it = "in half of them, not even the largest possible change would have been detected."
    assert said_of_it in said(a)
    assert "detected: none that is possible." in page.describe(next(a.groups.itertuples()), a)


@pytest.mark.parametrize("harmed", [(), (1, 4), range(6)])
def test_the_average_is_called_by_its_interval(harmed):
    a = audited(3, 3, harmed)
    gain = a.metrics["average_gain"]
    words = {
        "the student is less accurate than": gain.high < 0,
        "the student is neither clearly more nor clearly less accurate than": gain.low
        < 0
        < gain.high,
        "the student is more accurate than": gain.low > 0,
    }
    assert [text in said(a) for text in words] == list(words.values())


def test_a_bucket_is_explained_where_it_is_first_met():
    assert "Split into thirds by how sure the teacher is of the right class, the groups" in said(
        audited()
    )
    counts = [5, 5, 50, 50, 500, 500]
    alike = said(audited(train_counts=counts))
    assert (
        "Split by their number of training examples, the groups do not clearly differ in gain: many"
        in alike
    )
    a = audited(harmed=(0, 1), train_counts=counts)
    assert "Split by their number of training examples, the groups called “few” gain least" in said(
        a
    )
    assert "bucket" not in said(a)


def test_a_name_that_is_a_number_stands_in_quotes():
    assert "The largest losses are in “1” (" in said(audited(harmed=(1,)))


# ---------------------------------------------------------------- what it cannot be taken for


def test_without_a_baseline_nobody_is_harmed_by_distillation():
    a = audited(baselines=0, harmed=(1, 4))
    text = shown_text(a)
    assert not re.search("harm|helped|hurt", text, re.I)
    assert "Where is this student worse than its teacher?" in text
    assert "The student is worse than its teacher in" in said(a)
    assert "There is no baseline" in said(a)
    assert set(a.groups.finding) <= {"worse", "better", "no clear difference"}
    for word in ("worse", "better"):
        assert a.metrics[f"groups_{word}"] == (a.groups.finding == word).sum()
    assert not {"groups_harmed", "groups_helped"} & set(a.metrics)
    for word in ("harmed", "helped"):
        assert f"groups_{word}" in audited().metrics


@pytest.mark.parametrize(
    ("students", "baselines", "words"),
    [
        (1, 1, "With one training run on either side"),
        (1, 0, "With one training run on either side"),
        (2, 2, "With so few training runs (2 of the student and 2 of the baseline)"),
        (1, 3, "With so few training runs (1 of the student and 3 of the baseline)"),
        (3, 0, "With so few training runs (3 of the student and 1 of the teacher)"),
        (3, 3, ""),
    ],
)
def test_few_training_runs_are_said(students, baselines, words):
    text = said(audited(students, baselines))
    assert words in text and ("training run" in text) == bool(words)
    # elsewhere the intervals cover new training runs
    assert ("about these networks only" in text) == words.startswith("With one")


def test_weights_are_said():
    assert "weights" not in said(audited())
    assert "Examples count according to their weights (in memory);" in said(
        audited(weights=np.arange(N) + 1.0)
    )


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("groups", [None, np.repeat(["a"], N), np.arange(N) % 60])
def test_a_control_of_equal_files_says_that_every_gain_is_0(runs, groups):
    y, teacher = world(4, 0)
    models = [world(3, 10 + s)[1] for s in range(runs)]
    copies = [scores.copy() for scores in models]
    a = kdlib.audit(y, teacher, models, copies, groups, resamples=20)
    assert (a.groups.gain == 0).all() and (a.groups.finding == "no clear difference").all()
    assert a.answer()[0].startswith("Every gain is 0: the student and the baseline")
    assert len(a.answer()) == 1
    text = shown_text(a)
    assert "The gain of every group is 0.0 points." in text
    assert not re.search(r"\bnan\b|\binf\b|−0\.0\b", text)


def test_a_model_that_only_errs_elsewhere_is_no_control():
    y, teacher = world(4, 0)
    student, baseline = y.copy(), y.copy()
    student[0], baseline[1] = (y[0] + 1) % CLASSES, (y[1] + 1) % CLASSES
    found = kdlib.audit(y, teacher, student, baseline, resamples=20).answer()
    assert not found[0].startswith("Every gain is 0")


def test_warnings_come_first_in_a_word_and_a_frame():
    a = replace(audited(), warnings=("the student <b> is near chance: same order?",))
    document = Document(page.page(a))
    ((words, _),) = document.all("p", **{"class": "warning"})
    assert words == f"Warning: {a.warnings[0]}"
    text = document.all("main")[0][0]
    assert text.index(words) < text.index(a.answer()[0])
    assert a._repr_html_().index("near chance") < a._repr_html_().index("On average")


def test_title_and_what_was_read_stand_on_page_and_in_the_notebook():
    a = replace(audited(title="Release <3>\n"), read=("600 examples joined by id.",))
    document = Document(page.page(a))
    for tag in ("title", "h1"):
        assert document.all(tag)[0][0] == "Release <3>\\n"
    assert "600 examples joined by id." in document.all("dl")[0][0]
    assert "600 examples joined by id." in a._repr_html_()


# ---------------------------------------------------------------- what was audited


def test_the_first_screen_names_models_examples_runs_intervals_and_date(tmp_path):
    y, teacher = world(4, 0)
    files = {"y": y, "t": teacher} | {f"{r}{i}": world(3, i)[1] for r in "sb" for i in range(4)}
    for i, (name, values) in enumerate(files.items()):
        np.save(tmp_path / f"{name}.npy", values + 1e-3 * i * (values.ndim - 1))
    at = {name: tmp_path / f"{name}.npy" for name in files}
    students, baselines = ([at[f"{role}{i}"] for i in range(4)] for role in "sb")
    a = kdlib.audit(at["y"], at["t"], students, baselines, resamples=10)
    about = a.about(datetime(2026, 3, 9, tzinfo=UTC))
    assert about == {
        "Models": "teacher t.npy; student s0.npy, s1.npy, s2.npy and 1 more; "
        "baseline b0.npy, b1.npy, b2.npy and 1 more",
        "Groups": "6 (the classes)",
        "Training runs": "1 of the teacher, 4 of the student, 4 of the baseline",
        "Intervals": "95 %, covering new training runs and new test examples",
        "Date": "9 March 2026",
    }
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "t.npy"
    other.write_bytes(at["s0"].read_bytes())
    a = kdlib.audit(at["y"], at["t"], other, groups=np.arange(N) % 2, resamples=10)
    about = a.about(datetime(2026, 3, 9, tzinfo=UTC))
    assert about["Groups"] == "2 (in memory)"
    assert about["Models"] == "teacher t.npy; student other/t.npy"
    elsewhere = tmp_path / ("deep" * 20)
    elsewhere.mkdir()
    for name in "yts":
        (elsewhere / f"{name}.npy").write_bytes(at["s0" if name == "s" else name].read_bytes())
    a = kdlib.audit(at["y"], elsewhere / "t.npy", elsewhere / "s.npy", resamples=10)
    models = a.about(datetime(2026, 3, 9, tzinfo=UTC))["Models"]
    assert models.endswith("deep/s.npy") and "deep/t.npy; student …" in models


# ---------------------------------------------------------------- figures


def test_the_figure_of_confidence_says_where_it_is_furthest_from_accuracy():
    places = {"place": ["all", "all", "few", "few"], "role": ["teacher", "student"] * 2}
    table = pd.DataFrame({**places, "overconfidence": [1.0, -4.0, 3.0, 2.0]})
    assert figures.calibration(table).sentence == (
        "Confidence minus accuracy lies between −4.0 points (the student over all examples) and "
        "+3.0 points (the teacher in “few”)."
    )


NAMES = ["猫" * 30, "قطة", "हिरण", "🐸 frog", "</text><script>", "truck"]


@pytest.fixture(scope="module")
def named():
    return audited(classes=NAMES)


def test_names_are_text_in_figures_at_both_widths(named):
    shown = figures.gain_by_group(named.groups, named.reference)
    for narrow in (False, True):
        svg = shown.svg(narrow).decode()
        written = re.findall(r"<text [^>]*>(.*?)</text>", svg)
        for name in ("\u2068قطة\u2069 (", "हिरण (", "🐸 frog (", "truck ("):
            assert any(text.startswith(name) for text in written), name
        assert any(re.match("猫+… \\(", text) for text in written) and "<script" not in svg


def test_a_figure_is_laid_out_for_wide_letters(named):
    """Its font has no Chinese letters; for a narrow box each, names would be cut."""
    letters = 9
    table = named.groups.assign(group=["猫" * letters, *"abcde"])
    shown = figures.gain_by_group(table, named.reference)
    room = shown.figure.axes[0].get_position().x0 * figures.DESK * 72
    assert room > 8 * letters + 25  # points, of letters and of the number in brackets


@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [
        ("truck", 5, "truck"),
        ("trucks", 5, "truc…"),
        ("猫猫", 4, "猫猫"),
        ("猫猫猫", 4, "猫…"),
        ("a\nb", 9, "a\\nb"),
        ("قطة", 9, "\u2068قطة\u2069"),
        ("", 3, ""),
    ],
)
def test_names_are_cut_by_the_columns_they_take(name, columns, expected):
    assert headline.within_text(name, columns) == expected


def test_of_many_groups_a_figure_holds_those_at_either_end():
    a = audited(groups=np.arange(N) % 60)
    shown = figures.gain_by_group(a.groups, a.reference)
    assert len(shown.table) == 2 * figures.EDGE and "Of 60 groups, the 12 lowest" in shown.caption
    ordered = a.groups.sort_values(["gain", "group"], kind="stable").group
    assert list(shown.table.group) == [*ordered[: figures.EDGE], *ordered[-figures.EDGE :]]
    forty = figures.gain_by_group(a.groups.head(figures.MOST), a.reference)
    assert len(forty.table) == figures.MOST


def test_tables_say_numbers_with_two_decimals_and_what_is_missing():
    table = pd.DataFrame({"group": ["a\n", "b"], "n": [1, 2], "gain": [-1.234, np.nan]})
    shown = figures.cells(table.assign(q=[1e-9, 0.2]))
    assert shown.columns.tolist() == ["group", "examples", "gain", "q"]
    assert shown.iloc[0].tolist() == ["a\\n", 1, "−1.23", "<0.001"]
    assert pd.isna(shown.gain[1]) and shown.q[1] == "0.200"
