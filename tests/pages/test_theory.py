"""The page of no study: its parameters, its figures and words at any of them, and its place."""

import re
from dataclasses import replace

import numpy as np
import papermill
import pytest
from conftest import ROOT
from looking import Document

from kdlib.config import KdlibError
from kdlib.evidence import ridge
from kdlib.evidence.ridge import Setting
from kdlib.pages import regions, render, report, theory

BOOK = ROOT / "notebooks" / f"{render.THEORY_BOOK}.ipynb"
USUAL = {name: getattr(Setting(), name) for name in theory.RANGES}
SETTINGS = [
    Setting(),
    Setting(share=0.5, noise=10.0, penalty=1.0, teacher_penalty=10.0),
    Setting(share=0.02, noise=0.01, penalty=1e-5, teacher_penalty=1e-5, alpha=0.01),
]
FIGURES = ("plot_functions", "plot_region", "plot_weights", "plot_shared")


# ---------------------------------------------------------------- parameters


def test_the_defaults_of_the_notebook_are_those_of_the_model():
    cell = render.read(BOOK).cells[1]
    given = render.read_parameters(cell.source, BOOK)
    assert {name: default for name, (default, _) in given.items()} == USUAL
    assert all(comment for _, comment in given.values())
    assert list(papermill.inspect_notebook(str(BOOK))) == list(USUAL)
    assert theory.check_parameters(USUAL) == Setting()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"share": 0.6}, "notebook parameter share=0.6: must be a number from 0.02 to 0.5."),
        ({"share": 0.0}, "share=0.0: must be"),
        ({"noise": "0.5"}, "noise='0.5': must be a number from 0.01 to 10."),
        ({"alpha": True}, "alpha=True: must be a number from 0.01 to 1."),
        ({"alpha": float("nan")}, "alpha=nan: must be"),
        ({"teacher_penalty": None}, "teacher_penalty=None: must be a number from 1e-05 to 10."),
        ({"In": ["# Parameters\nshares = 0.2\n"]}, "'shares' is unknown: did you mean 'share'?"),
    ],
)
def test_bad_parameters(changed, said):
    with pytest.raises(KdlibError, match=re.escape(said)):
        theory.check_parameters({**USUAL, **changed})


def test_whole_numbers_are_numbers():
    assert theory.check_parameters({**USUAL, "alpha": 1}) == Setting()


# ---------------------------------------------------------------- words and figures


def test_a_change_is_said_by_its_sign():
    assert theory.moved(25.04, "it") == "raises it by 25 %"
    assert theory.moved(-0.56, "it") == "lowers it by 0.6 %"
    assert theory.moved(0.04, "it") == theory.moved(-0.04, "it") == "leaves it as it is"


def test_what_the_page_says_first_is_what_was_computed():
    table = theory.errors(Setting())
    one_hot, distilled = table[table.model == table.model[0]].to_dict("records")[:2]
    percent = [100 * (distilled[g] / one_hot[g] - 1) for g in ("average", "minority")]
    assert percent[0] < 0 < percent[1]  # the effect, at the defaults
    effect, region, tuning = theory.headline(Setting()).sentences
    words = "distillation lowers the average squared error by {:.0f} % and raises the minority’s by"
    assert words.format(-percent[0]) + f" {percent[1]:.0f} %;" in effect
    low, high = map(float, re.findall(r"\d\.\d\d", region))
    own = theory.tunings(Setting()).set_index(["model", "method"]).loc[theory.ON_A_LINE]
    before, after = (own.minority[m] for m in ("one-hot, of this page", theory.TUNED))
    assert f"raises the minority’s by {100 * (after / before - 1):.0f} %; compared" in tuning
    inside = [ridge.noise_limit(Setting(), g) for g in (ridge.BOTH, ridge.ONLY_MINORITY)]
    assert [low, high] == pytest.approx(inside, abs=0.005) and low < Setting().noise < high


def test_where_no_noise_lowers_the_average_and_harms_the_minority_the_page_says_so():
    setting = Setting(share=0.02, teacher_penalty=10.0)
    assert ridge.noise_limit(setting) > ridge.noise_limit(setting, ridge.ONLY_MINORITY)
    said = theory.headline(setting).sentences[1]
    assert "there is no noise at which the average falls and the minority" in said


def test_what_the_text_says_of_the_defaults():
    usual = Setting()
    assert not (2 - usual.alpha) * usual.teacher_penalty < 2 * usual.penalty
    denser = theory.errors(replace(usual, share=0.2)).set_index(["model", "method"])
    assert denser.loc[(theory.ON_A_LINE, theory.DISTILLED), "minority, change in %"] > 10
    errors = theory.errors(usual).set_index(["model", "method"]).minority
    for model in (theory.ON_A_LINE, theory.LINEAR):
        assert errors[model, "the teacher itself"] > errors[model, theory.ONE_HOT]
    found = theory.tunings(usual).set_index(["model", "method"])
    line, linear = found.loc[theory.ON_A_LINE], found.loc[theory.LINEAR]
    for group in ("minority", "average"):
        assert line.loc[theory.TUNED, group] < line.loc["distillation, of this page", group]
    rare, average = "minority, change in %", "average, change in %"
    assert (line[average][[theory.SAME, theory.OWN]].between(-0.2, 0)).all()
    assert linear[average][theory.SAME] < -4 and linear[average][theory.OWN] < -4
    assert linear[rare][theory.SAME] > 10
    for table in (line, linear):
        before, after = (table.minority[m] for m in ("one-hot, of this page", theory.TUNED))
        assert 100 * (after / before - 1) > 5 * table[rare][[theory.SAME, theory.OWN]].max()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_whatever_the_parameters(name, setting):
    shown = getattr(regions, name)(setting)
    assert shown.sentence.endswith(".") and "nan" not in shown.sentence and len(shown.table) > 3
    for narrow in (False, True):
        assert b"mathdefault" not in shown.svg(narrow)  # letters of an axis that is logarithmic


@pytest.mark.parametrize(
    "setting",
    [Setting(), Setting(teacher_penalty=0.5), Setting(noise=0.2), Setting(noise=2), *SETTINGS[1:]],
    ids=str,
)
def test_the_weights_of_the_region_are_those_that_harm_the_minority_and_help_the_average(setting):
    weights = np.arange(1, 20_001) / 20_000
    after = ridge.risks(replace(setting, alpha=weights))
    before = ridge.risks(setting, (0, 0))
    falls = ridge.average(setting, after) < ridge.average(setting, before)
    inside = weights[falls & (after[1] > before[1])]
    said = regions.plot_region(setting).sentence
    if len(inside):
        found = [float(text) for text in re.findall(r"\d\.\d\d", said)]
        assert found == pytest.approx([inside[0], inside[-1]], abs=0.0051)
    else:
        assert "no weight of the teacher lowers the average error and harms the minority" in said


def change(setting, of, weights=None):
    """By how much distillation changes an error, of the minority or the average."""
    of_two = np.subtract(ridge.risks(setting, weights), ridge.risks(setting, (0, 0)))
    return of_two[1] if of == "minority" else ridge.average(setting, of_two)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_table_of_the_region_has_the_limits_at_which_the_signs_change(setting):
    table = regions.plot_region(setting).table
    assert set(regions.SHARES) <= set(table["share of the minority"])
    assert set(regions.PENALTIES) <= set(table["teacher's penalty"])
    for row in table.to_dict("records"):
        share, penalty = row["share of the minority"], row["teacher's penalty"]
        at = replace(setting, share=share, teacher_penalty=penalty)
        for of in ("minority", "average"):
            limit = row[f"noise, limit of the {of}"]
            below, above = (change(replace(at, noise=limit * f), of) for f in (0.99, 1.01))
            assert below > 0 > above
            limit = row[f"weight, limit of the {of}"]
            if limit > 1e-6:  # also where no teacher has so much
                below, above = (change(replace(at, alpha=limit * f), of) for f in (0.99, 1.01))
                assert below < 0 < above
            else:
                assert change(replace(at, alpha=1e-3), of) > 0
        limit = row["noise above which AdaAlpha spares the minority"]
        for noise, harmed in ((limit * 0.99, True), (limit * 1.01, False)):
            one = replace(at, noise=noise)
            assert (change(one, "minority", ridge.reliability(one)) > 0) == harmed


# ---------------------------------------------------------------- the page and its place


def test_the_report_has_the_page_without_any_record_and_opens_with_it(tmp_path):
    def build():
        said = []
        verdicts, failures = report.pages_of({}, [], tmp_path, BOOK.parent, said.append)
        assert (verdicts, failures) == ([], [])
        return said

    assert build()[1].startswith(f"theory/{render.THEORY_BOOK}: built (")
    assert build()[1].startswith(f"theory/{render.THEORY_BOOK}: unchanged (")  # its stamp holds
    index = Document((tmp_path / "index.html").read_text("utf-8"))
    (section, _) = index.all("section", **{"class": "theory"})[0]
    assert theory.headline(Setting()).sentences[0] in section
    address = f"theory/{render.THEORY_BOOK}.html"
    assert {a["href"] for _, a in index.all("a")} >= {address, "#content"}
    page = (tmp_path / address).read_text("utf-8")
    figures = Document(page).all("img")
    assert len(figures) == len(FIGURES) and all(a["alt"] for _, a in figures)
    assert index.all("img")[0][1]["alt"] == figures[0][1]["alt"]
    assert "python -m kdlib report" in page and "none: formulas" in page
    assert '<code class="tex">' not in page  # every formula could be converted
    assert len(page) < 3_000_000


def test_parameters_reach_the_page(tmp_path):
    out = tmp_path / "out.ipynb"
    report.execute(BOOK, out, {"share": 0.25, "noise": 1})
    shown = str([c.get("outputs") for c in render.read(out).cells])
    assert theory.headline(Setting(share=0.25, noise=1.0)).sentences[0] in shown
    assert not np.allclose(ridge.risks(Setting()), ridge.risks(Setting(share=0.25, noise=1.0)))
