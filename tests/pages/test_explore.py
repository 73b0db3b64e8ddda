"""Exploring: the notebook of menus on committed records, its menus driven here and in a kernel; a
page of overrides, from training to the footer."""

import json

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from looking import Document
from nbclient import NotebookClient
from synthetic import but, write_study

from kdlib.config import KdlibError
from kdlib.evidence.panel import panel
from kdlib.evidence.significance import change
from kdlib.methods import name_of
from kdlib.pages import classes, explore, render, report
from kdlib.pages.explore import Choice, Menus, menus
from kdlib.study.grids import STUDIES
from kdlib.study.parameters import overridden

BOOK = ROOT / "notebooks" / "explore.ipynb"
DIGITS = STUDIES["digits"]
MINE = Choice("cifar100-lt-self", "resnet20/resnet20", "ada_alpha", "kd", "tiger")


def read(path):
    return nbformat.read(path, as_version=4)


def shown(notebook):
    """What the cells of a notebook show, as HTML; none may be an error."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    return [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]


# ---------------------------------------------------------------- as committed


# ---------------------------------------------------------------- on committed records


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """(the notebook run by papermill from committed records, its page)."""
    folder = tmp_path_factory.mktemp("explore")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KDLIB_RECORDS", raising=False)
        patch.setenv("KDLIB_DATA", str(folder))  # where no images are
        done = report.execute(BOOK, folder / "done.ipynb", MINE._asdict())
    return read(done), render.render(done, folder / "done.html").read_text()


def test_papermill_shows_what_its_parameters_chose(committed):
    notebook, page = committed
    headline, by_bucket, by_class, table, lost, won, source = shown(notebook)
    p = explore.panel_of(*MINE[:2])
    assert "resnet20 → resnet20: compared with distillation, AdaAlpha harms " in headline
    assert f"{p.seeds} of {p.study.seeds} planned seeds" in headline
    for figure in (by_bucket, by_class):
        assert "data:image/svg+xml;base64," in figure
    k = p.group_names.index("tiger")
    kd, ada = (p.accuracy(m).observed[:, k].mean() for m in ("kd", "ada_alpha"))
    row = Document(table).all("tr")[-1][0]
    assert row.startswith(f"tiger, {p.train_counts[k]} training images{kd:.1f}{ada:.1f}")
    for pictures in (lost, won):
        assert "AdaAlpha" in pictures and "tiger" in pictures or "no test image" in pictures
    assert "python -m kdlib data get cifar100" in lost + won  # not here: a sentence
    assert (
        "-p method &#39;ada_alpha&#39; -p over &#39;kd&#39;" in source
        and "records sha256" in source
    )
    # a page without Python: the figures, and no menus
    assert page.count("<figure") == 2 and "VBox" not in page and "Dropdown" not in page
    assert Document(page).all("h1")[0][0].startswith("Which classes does a method help")


# ---------------------------------------------------------------- menus


@pytest.fixture
def on_record(records_folder):
    """Records of three seeds of digits and two of its rivals, made by hand."""
    of = {"git": "abc", "versions": {}, "device": "cpu", "seconds": 1.0}
    rates = {"kd": but(0.7, g3=0.4, g9=0.9), "ada_alpha": but(0.7, g3=0.6)}
    for name, seeds in (("digits-rivals", 2), ("digits", 3)):
        write_study(STUDIES[name], seeds, facts=lambda *_: of, **rates)


def test_without_a_choice_it_is_the_first_of_everything(on_record):
    choice, allowed = menus(dict.fromkeys(Choice._fields, ""))
    assert choice == ("digits", "cnn/cnn_small", "kd", "one_hot", "")
    assert list(allowed["study"]) == ["digits", "digits-rivals"]
    assert list(allowed["over"]) == ["one_hot", "ada_alpha", "ada_margin"]
    # the one that loses most comes first; of the baselines half are teachers, right in 80 %
    assert list(allowed["group"].items())[:2] == [
        ("", "those that change most"),
        ("class 3", "class 3 (−35.0)"),
    ]


WRONG = [
    ({"study": "digit"}, "study='digit': did you mean 'digits'? Allowed: digits, digits-rivals."),
    ({"pair": "cnn/cnn"}, "pair='cnn/cnn': did you mean"),
    ({"method": "one_hot"}, "method='one_hot': allowed are kd, ada_alpha, ada_margin."),
    ({"over": "kd"}, "over='kd': allowed are one_hot, ada_alpha, ada_margin."),
    ({"group": "class"}, "group='class': did you mean 'class "),
    ({"group": 3}, "group='3': allowed are class "),
    ({"study": ["digits"]}, "study=['digits']: did you mean 'digits'?"),  # no hash
    ({"method": {"kd": 1}}, "method={'kd': 1}: allowed are kd, ada_alpha, ada_margin."),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=str)
def test_what_is_not_on_record_is_refused_in_a_sentence(on_record, given, said):
    names = dict.fromkeys(Choice._fields, "") | given
    with pytest.raises(KdlibError, match="^notebook parameter ") as caught:
        explore.check_parameters(names)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_parameter_and_an_empty_folder_are_refused(records_folder):
    names = dict.fromkeys(Choice._fields, "")
    with pytest.raises(KdlibError, match="'metod' is unknown: did you mean 'method'"):
        explore.check_parameters(names | {"In": ["", "# Parameters\nmetod = 'kd'\n"]})
    with pytest.raises(KdlibError, match="no study has a complete seed on record; `python"):
        explore.check_parameters(names)


def test_a_study_without_records_is_refused_with_the_command_that_makes_them(on_record):
    with pytest.raises(KdlibError, match="`python -m kdlib run cifar20-lt` makes them"):
        menus({"study": "cifar20-lt"}, strict=True)


def test_a_method_that_the_study_did_not_plan_is_there_once_it_has_all_seeds(on_record):
    pair = DIGITS.pairs[0]
    assert "label_smoothing" not in explore.panel_of("digits", "/".join(pair)).methods
    assert "label_smoothing" in explore.panel_of("digits-rivals", "/".join(pair)).methods
    write_study(DIGITS.part(["/".join(pair)], ["one_hot", "kd", "label_smoothing"]), 3)
    assert "label_smoothing" in explore.panel_of("digits", "/".join(pair)).methods


def test_menus_follow_each_other_and_draw_once(on_record):
    drawn = []
    made = Menus(menus({"group": "class 3"})[0], drawn.append)
    box = made.menus
    assert [menu.value for menu in box.values()] == list(made.choice)
    box["method"].value = "ada_alpha"
    assert (
        drawn.pop() == made.choice == ("digits", "cnn/cnn_small", "ada_alpha", "one_hot", "class 3")
    )
    assert [value for _, value in box["over"].options] == ["one_hot", "kd", "ada_margin"]
    box["over"].value = "kd"
    assert drawn.pop() == made.choice and ("class 3 (+20.0)", "class 3") in box["group"].options
    box["study"].value = "digits-rivals"
    assert drawn.pop() == ("digits-rivals", "cnn/cnn_small", "ada_alpha", "kd", "class 3")
    box["method"].value = "group_dro"
    # what the other study lacks falls back to its first
    box["study"].value = "digits"
    assert len(drawn) == 2 and drawn[-1] == ("digits", "cnn/cnn_small", "kd", "one_hot", "class 3")
    assert made.said.value == ""


def test_a_record_that_cannot_be_read_is_said_below_the_menus(on_record, records_folder):
    made = Menus(menus({})[0], lambda choice: None)
    pair = STUDIES["digits"].pairs[1]
    broken = records_folder / f"{DIGITS.config(pair, 'kd', 0).key()}.json"
    broken.write_text("{")
    made.menus["pair"].value = "/".join(pair)
    assert made.said.value.startswith(str(broken))


def test_menus_in_a_kernel_change_what_is_shown_in_place(on_record, tmp_path, monkeypatch):
    notebook = read(BOOK)
    chosen = ['menus.menus["method"].value = "ada_alpha"', 'menus.menus["group"].value = "class 3"']
    notebook.cells.append(nbformat.v4.new_code_cell("\n".join(chosen)))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, kernel_name="python3", config=report.KERNEL).execute()
    headline, *_, table, lost, _, _ = shown(notebook)
    assert "AdaAlpha" in headline and "distillation" not in headline
    assert [row for row, _ in Document(table).all("th", scope="row")][-1].startswith("class 3, ")
    assert "one-hot networks get right and" in lost and "AdaAlpha networks gives" in lost


# ---------------------------------------------------------------- one method over another


def test_gains_by_class_over_another_method_are_those_of_pairs(on_record):
    p = panel(DIGITS, DIGITS.pairs[0], 2)
    found = classes.gain_by_group(p, "ada_alpha", "kd").set_index("group")
    assert found.gain["class 3"] == pytest.approx(20) and found.gain["class 9"] == pytest.approx(
        -20
    )
    right = {m: p.predicted(m) == p.y for m in ("ada_alpha", "kd")}
    for k, name in enumerate(p.group_names):
        inside = p.group == k
        by_hand = 100 * np.mean(
            right["ada_alpha"][:, inside].mean(axis=1) - right["kd"][:, inside].mean(axis=1)
        )
        assert found.gain[name] == pytest.approx(by_hand, abs=1e-9)
        assert found.low[name] <= by_hand <= found.high[name]
    figure = classes.plot_gain_by_group(p, "ada_alpha", "kd")
    assert "compared with distillation, AdaAlpha harms" in figure.sentence
    assert figure.figure.axes[0].get_ylabel() == "gain over distillation, points"


def test_luck_that_two_methods_share_is_in_no_interval_between_them(records_folder):
    """Networks of one seed have teacher and batches in common; another seed does better in both."""
    luck = {"kd": lambda seed, _: 0.3 + 0.2 * seed, "ada_alpha": lambda seed, _: 0.4 + 0.2 * seed}
    write_study(DIGITS, 3, **luck)
    p = panel(DIGITS, DIGITS.pairs[0], 3)
    found = classes.gain_by_group(p, "ada_alpha", "kd")
    np.testing.assert_allclose(found.gain, 10)
    right = [p.predicted(m) == p.y for m in ("ada_alpha", "kd")]
    apart = change(right[0], p.members, np.ones(len(p.y)), right[1])
    assert (found.high - found.low < 100 * (apart.high - apart.low) / 2).all()


def test_the_answer_names_both_ends_and_counts_what_is_beyond_chance(on_record):
    p = panel(DIGITS, DIGITS.pairs[0], 2)
    figure = classes.plot_gain_by_group(p, "kd")
    said = explore.answer(p, figure)
    assert "range from −35.0 points (class 3) to +15.0 points (class 9), " in said
    counts = figure.table.finding.value_counts()
    helped, harmed = counts.get("helped", 0), counts["harmed"]
    assert "extremes that are partly luck. 2 of 16 planned" in said
    assert f"distillation harms {harmed} (class 3) and helps {helped} of 10 classes" in said
    one = panel(DIGITS, DIGITS.pairs[0], 1)
    assert "too few to tell" in explore.answer(one, classes.plot_gain_by_group(one))


def test_the_table_has_the_gains_of_the_figure(on_record):
    p = panel(DIGITS, DIGITS.pairs[0], 2)
    made = explore.table(p, "kd", "one_hot").table
    of_average = p.gain("kd", p.average)
    assert made.classes[0] == "mean of all classes"
    assert made["gain, points"][0].startswith(f"{of_average.estimate:+.1f}".replace("-", "−"))
    assert list(made.columns) == ["classes", "one-hot, %", f"{name_of('kd')}, %", "gain, points"]
    assert made.classes.iloc[4].startswith("class 3, ") and made.classes.iloc[-1].startswith(
        "class 9, "
    )


# ---------------------------------------------------------------- a page of overrides


def test_an_exploratory_page_from_training_to_its_footer(records_folder, tmp_path, monkeypatch):
    changes = {"epochs": 2, "warmup": 0, "temperature": 8}
    book = ROOT / "notebooks" / "01_gains_are_not_uniform.ipynb"
    given = {"study": "digits", "seeds": 1, "overrides": json.dumps(changes)}
    done = report.execute(book, tmp_path / "done.ipynb", given)
    page = render.render(done, tmp_path / "done.html").read_text()
    recorded = {path.stem for path in records_folder.glob("*.json")}
    assert recorded == {cfg.key() for cfg in overridden(DIGITS, changes)(1)}
    assert not recorded & {cfg.key() for cfg in DIGITS()}
    text = "".join(words for words, _ in Document(page).all("body"))
    said = "Exploratory: digits with epochs = 2, warmup = 0, temperature = 8. These runs were not "
    said += "planned"
    assert said in text and page.index("Exploratory: digits") < page.index("<figure")
    words = {words for words, _ in Document(page).all("strong", **{"class": "verdict"})}
    assert {word.lower().strip(":") for word in words} == {"not tested"}
    foot = page[page.index("<footer") :]
    assert "exploratory, counted nowhere" in foot and "temperature" in foot
    assert "exploratory: epochs = 2, warmup = 0, temperature = 8; no verdict" in text  # deviations


def test_wrong_overrides_stop_a_notebook_in_a_sentence_before_anything_trains(
    records_folder, tmp_path
):
    """Without a traceback, in the notebook and on its page."""
    book = ROOT / "notebooks" / "00_overview.ipynb"
    given = {"study": "digits", "seeds": 1, "overrides": {"temprature": 4}}
    with pytest.raises(report.NotebookFailed, match="did you mean 'temperature'") as stopped:
        report.execute(book, tmp_path / "done.ipynb", given)
    assert not records_folder.exists()
    assert "Traceback" not in str(stopped.value.__cause__)  # what papermill itself prints
    outputs = [
        output for cell in read(tmp_path / "done.ipynb").cells for output in cell.get("outputs", [])
    ]
    (said,) = [output.traceback for output in outputs if output.output_type == "error"]
    assert len(said) == 1 and said[0].startswith("KdlibError: notebook parameter overrides")
    page = render.render(tmp_path / "done.ipynb", tmp_path / "done.html", failure="It stopped.")
    text = page.read_text()
    assert "did you mean" in text and "check_parameters(globals())\n\x1b" not in text
    assert "Traceback (most recent call last)" not in text


def test_only_a_demonstration_and_what_is_superseded_say_so_above_their_pages():
    assert explore.banner(STUDIES["cifar100-lt-self"]) is None
    for name in ("digits", "digits-rivals", "digits-knobs", "digits-ablations"):
        shown = explore.banner(STUDIES[name])
        assert shown.sentences == [] and "a demonstration, not evidence" in shown.notes[0]
        assert f"<p>{shown.notes[0]}</p>" in shown._repr_html_()
    (note,) = explore.banner(STUDIES["cifar20-short"]).notes
    assert note.endswith("do not fit their training images. Superseded.")
