"""Notebooks: one order of cells, more words than code, strict parameters; and each runs from real
records of digits."""

import json
import re
from collections import defaultdict
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from adult import write_adult
from papermill.exceptions import PapermillExecutionError
from synthetic import COUNTS, GROUPS, halves, write_study

from kdlib.asking import given
from kdlib.config import KdlibError
from kdlib.distilling import notebook as distilling
from kdlib.pages import explore, render, report
from kdlib.pages.warm import Kernel
from kdlib.study.done import complete_seeds
from kdlib.study.grids import JUDGED, KINDS, STUDIES
from kdlib.study.parameters import check_parameters
from kdlib.study.sweep import sweep

ROOT = Path(__file__).resolve().parents[2]
AUDIT = ROOT / "notebooks" / "audit_your_model.ipynb"  # of no study: its parameters are files
EXPLORE = ROOT / "notebooks" / "explore.ipynb"  # of every study: test_explore.py
DISTIL = ROOT / "notebooks" / "10_distil_your_own.ipynb"  # of own images: distilling/test_notebook
THEORY = ROOT / "notebooks" / f"{render.THEORY_BOOK}.ipynb"  # of no study: test_theory.py
OWN = [AUDIT, EXPLORE, DISTIL, THEORY]
NOTEBOOKS = sorted(set((ROOT / "notebooks").glob("*.ipynb")) - set(OWN))
# title, parameters, imports, runs, main figure, how to read it, the rest, set-up, what deviates
ORDER = ["markdown", *["code"] * 4, "markdown", "code", "markdown", "code"]
ORDERS = {
    AUDIT: ["markdown", *["code", "code", "markdown"] * 2, "code", "code"],
    EXPLORE: ["markdown", *["code"] * 3, "markdown"],
    THEORY: ["markdown", "code", "code", *["code", "markdown"] * 5],
}
FOUR = ("F4 AdaAlpha", "F4 AdaMargin")
FINDINGS = {  # notebook: what its verdict cards are about
    "00_overview": {"F1", "F2a", "F2b", "F3a", "F3b", "F3c", *FOUR},
    "01_gains_are_not_uniform": {"F1", "F2a", "F2b"},
    "02_teacher_errors_are_amplified": {"F3a", "F3b", "F3c"},
    "03_softening_the_teacher": set(FOUR),
}
FIGURES = {  # notebook without verdicts: its figures
    "04_what_the_mitigation_depends_on": 4,
    "05_when_does_distillation_harm": 7,
    "06_rivals": 6,
    "08_groups_that_are_not_classes": 7,
    "09_would_the_labels_show_it": 2,
    "90_anchors": 0,
    "91_choice_of_recipe": 2,
}
# notebook of findings: of what it alone shows, in this order, words of the captions
ELEMENTS = {
    "00_overview": ["the highest estimate is that of", "Accuracy in per cent"]
    + ["Difference from the mean of all baselines"],
    "01_gains_are_not_uniform": [
        "in the few-shot classes, compared with one-hot.",
        "a star marks a class",
    ],
    "02_teacher_errors_are_amplified": ["Transferred: of the test images"]
    + ["The correlation is computed seed by seed", "The eight outcomes"],
    "03_softening_the_teacher": ["Up and to the right is better", "Expected calibration error"]
    + ["the mean of −log", "no epoch is chosen", "The table splits each standard error"]
    + ["best epoch on the test set", "Every class, "],
}
KIND = {book: kind for kind, books in KINDS.items() for book in books}
DEMO = {s.kind: s.name for s in STUDIES.values() if s.demonstration}
DEMO |= {"anchors": "anchors", "hidden": "superclass-small", "groups": "adult"}
WORDS = {"holds", "contradicted", "not under this reading", "not decided", "not tested"}
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
every = pytest.mark.parametrize("path", [*NOTEBOOKS, *OWN], ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


# ---------------------------------------------------------------- as committed


def test_every_notebook_is_tested():
    assert [p.stem for p in NOTEBOOKS] == [*FINDINGS, *FIGURES]
    assert set(KIND) == {p.stem for p in NOTEBOOKS}


@every
def test_cells_in_order_and_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    order = ORDERS.get(path, ORDER)
    assert [cell.cell_type for cell in notebook.cells] == order
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in notebook.cells]
    assert tagged == [False, True, *[False] * (len(order) - 2)]
    for cell in code(notebook):
        assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}  # nothing of a run: times, papermill, widgets
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.cells[0].source.startswith("# ")


@every
def test_code_is_short_and_does_no_work_of_its_own(path):
    for cell in code(read(path)):
        lines = cell.source.splitlines()
        assert 0 < len(lines) <= (20 if "parameters" in cell.metadata.get("tags", ()) else 15)
        assert not [line for line in lines if re.match(r"(def|class|for|while)\b|[!%]", line)]


@every
def test_more_words_than_code(path):
    notebook = read(path)
    prose = " ".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    words = len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\$\$.*?\$\$|\$.*?\$", "", prose, flags=re.S)))
    lines = sum(bool(line.strip()) for c in code(notebook) for line in c.source.splitlines())
    assert words >= 7 * lines
    title, *rest = (c.source for c in notebook.cells if c.cell_type == "markdown")
    assert title.splitlines()[0].endswith("?")
    assert "**What would count against" in prose
    headings = sorted(text.split("\n")[0] for text in rest)
    assert headings[0].startswith("## How to read the ")
    assert path == THEORY or headings[1:] == ["## Set-up"] * (path != EXPLORE)


@each
def test_every_parameter_is_seen_by_papermill_and_by_the_report(path):
    seen = papermill.inspect_notebook(str(path))
    ours = render.read_parameters(read(path).cells[1].source, path)
    assigned = re.findall(r"^(\w+)\s*[:=]", read(path).cells[1].source, re.M)
    kind = KIND[path.stem]
    names = ["study", "seeds"] + ["hours"] * (kind != "anchors") + ["overrides"] * (kind in JUDGED)
    assert list(seen) == list(ours) == assigned == names
    assert all(parameter["help"] for parameter in seen.values())  # what papermill prints of them
    defaults = {name: default for name, (default, _) in ours.items()}
    chosen, seeds = check_parameters({"KIND": kind, **defaults})
    assert chosen is STUDIES[DEMO[kind]]
    assert seeds == (not chosen.demonstration and complete_seeds(chosen) or chosen.seeds)
    named = re.split(r", | or ", ours["study"][1].removeprefix("which study: "))
    assert set(named) == {s.name for s in STUDIES.values() if kind in s.kinds}


@each
def test_parameters_are_checked_right_after_the_imports(path):
    lines = code(read(path))[1].source.splitlines()
    kind = lines.index(f'KIND = "{KIND[path.stem]}"')
    imports, checks = lines[:kind], ["chosen, seeds = check_parameters(globals())"]
    # whose page says at the top that it is exploratory, or a demonstration
    if KIND[path.stem] in (*JUDGED, "knobs", "ablations", "rivals"):
        checks.append("explore.banner(chosen)")
    assert lines[kind + 1 :] == checks
    assert all(line.startswith("from ") for line in imports if line)


# ---------------------------------------------------------------- parameters


def injected(*lines, study="digits", seeds=2):
    """The names of a notebook whose cell of injected parameters has these lines."""
    cells = ["", "# a cell\nother = 1", "\n".join(["# Parameters", *lines, ""])]
    return {"In": cells, "study": study, "seeds": seeds, "KIND": "findings"}


def test_good_parameters():
    for seeds in (1, 8):
        names = injected('study = "digits"', f"seeds = {seeds}", seeds=seeds)
        assert check_parameters(names) == (STUDIES["digits"], seeds)
    script = {"study": "cifar20-lt", "seeds": 6, "KIND": "findings"}  # run as a script: no In
    assert check_parameters(script) == (STUDIES["cifar20-lt"], 6)
    check_parameters({"In": ["x = 1", "note = '# Parameters'"], **script})  # of other cells


def test_without_seeds_they_are_those_on_record_else_those_that_are_planned(records_folder):
    small = injected(study="cifar20-lt-wide", seeds=None)
    assert check_parameters(small) == (STUDIES["cifar20-lt-wide"], 4)
    for name in ("cifar20-lt-wide", "digits"):
        write_study(STUDIES[name], 3)
    assert check_parameters(small)[1] == 3
    # a demonstration that was interrupted goes on
    assert check_parameters(injected(seeds=None))[1] == 16


NEAREST = "did you mean 'digits'? Allowed: cifar20-lt, "
WHOLE = "must be a whole number from 1 to "


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (injected("sees = 4"), "'sees' is unknown: did you mean 'seeds'? Allowed: study, seeds, "),
        (injected("hour = 4"), "'hour' is unknown: did you mean 'hours'?"),
        (injected("seeds = 4", "studdy = 'x'"), "'studdy' is unknown: did you mean 'study'?"),
        (injected("temperature = 4"), "'temperature' is unknown: allowed are study, seeds, "),
        (injected(study="digit"), f"parameter study='digit': {NEAREST}"),
        (injected(study="digits-rivals"), f"parameter study='digits-rivals': {NEAREST}"),
        (injected(study=3), "parameter study=3: allowed are cifar20-lt, "),
        (injected(seeds="2"), f"parameter seeds='2': {WHOLE}16 for digits, or None."),
        (injected(seeds=2.0), f"parameter seeds=2.0: {WHOLE}16 for digits, or None."),
        *(
            (injected() | {"hours": wrong}, f"parameter hours={wrong!r}: must be a number above 0.")
            for wrong in ("1", None, True, 0, -1, float("nan"))
        ),
        (injected(seeds=True), "parameter seeds=True: must be"),
        (injected(seeds=0), "parameter seeds=0: must be"),
        (injected(seeds=17), "parameter seeds=17: must be"),
        (injected(seeds=9, study="cifar20-lt"), f"{WHOLE}8 for cifar20-lt, or None."),
    ],
)
def test_bad_parameters(names, said):
    with pytest.raises(KdlibError) as caught:
        check_parameters(names)
    assert said in str(caught.value)


def test_papermill_itself_stops_at_a_mistyped_parameter(tmp_path, monkeypatch):
    """Any runner, not ours: it only warns, runs the injected cell, and the next cell stops."""
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
    out = tmp_path / "out.ipynb"
    how = {"kernel_name": "python3", "cwd": ROOT, "progress_bar": False, "config": report.KERNEL}
    with pytest.raises(PapermillExecutionError, match="'sees' is unknown: did you mean 'seeds'"):
        papermill.execute_notebook(str(NOTEBOOKS[0]), str(out), {"sees": 1}, **how)

    def tags(cell):
        return cell.metadata.get("tags", [])

    cells = [c for c in read(out).cells if "papermill-error-cell-tag" not in tags(c)]
    places = [i for i, c in enumerate(cells) if "injected-parameters" in tags(c)]
    errors = [{o.output_type for o in c.get("outputs", [])} for c in cells]
    failed = [i for i, kinds in enumerate(errors) if "error" in kinds]
    assert places == [2] and failed == [3]
    assert not any(c.execution_count for c in cells[4:] if c.cell_type == "code")
    assert not (tmp_path / "records").exists()  # nothing was trained


# ---------------------------------------------------------------- run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with the records of the first two seeds of digits and of its recipe, really
    trained."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RECORDS", str(folder))
        names = ("digits", "digits-recipe")
        sweep([cfg for name in names for cfg in STUDIES[name](2)], device="cpu")
    return folder


@pytest.fixture(scope="session")
def of_people(tmp_path_factory):
    """A folder with the records of two seeds of adult, trained on made-up people."""
    folder, data = tmp_path_factory.mktemp("people"), tmp_path_factory.mktemp("adult")
    with pytest.MonkeyPatch.context() as patch:
        write_adult(data, patch)
        patch.setenv("KDLIB_RECORDS", str(folder))
        sweep(STUDIES["adult"](2), str(data), device="cpu", jobs=1)
    return folder


def history(method, seed):
    """What a run recorded while it was trained, and the margins that AdaAlpha used."""
    by_group = {str(e): [0.1 * e] * GROUPS for e in (2, 4, 6)}
    halves = {str(e): [0.1 * e, 0.09 * e] for e in (2, 4, 6)}
    found = {"val_accuracy_by_group": by_group, "val_accuracy_by_half": halves}
    if method.startswith(("ada_alpha", "AdaAlpha")):
        found["margins"] = [0.9] * (sum(COUNTS) if method == "ada_alpha_01" else GROUPS)
    return found


@pytest.fixture(scope="session")
def made_by_hand(tmp_path_factory):
    """A folder with records of two seeds made by hand: of the other studies of the digits, and of
    labels that hide groups."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RECORDS", str(folder))
        for kind in ("rivals", "knobs", "ablations"):
            write_study(STUDIES[f"digits-{kind}"], 2, shuffled=("kd", "one_hot"), facts=history)
        write_study(STUDIES[DEMO["hidden"]], 2, shuffled=("kd", "one_hot"), alter=halves)
    return folder


@pytest.fixture(scope="module")
def kernels():
    """{folder of records: a Kernel in which notebooks run one after the other}, as in a report."""
    found = defaultdict(Kernel)
    yield found
    for kernel in found.values():
        kernel.stop()


@pytest.fixture
def executed(request, tmp_path, monkeypatch, kernels):
    """(what a notebook printed, its pages): run from records, quietly, training nothing."""
    path, study = request.param
    kind = KIND[path.stem]
    by_hand = dict.fromkeys(("rivals", "knobs", "ablations", "hidden"), "made_by_hand")
    folder = request.getfixturevalue((by_hand | {"groups": "of_people"}).get(kind, "trained"))
    monkeypatch.setenv("KDLIB_RECORDS", str(folder))

    def written():
        return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.json")}

    before = written()
    parameters = {"study": study, "seeds": 2}
    done = read(report.execute(path, tmp_path / path.name, parameters, kernels[folder]))
    outputs = [o for c in code(done) for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert "".join(o.text for o in outputs if o.get("name") == "stderr").strip() == ""
    assert written() == before  # nothing is trained twice
    pages = [o.data["text/html"] for o in outputs if "data" in o and "text/html" in o.data]
    figures = [page for page in pages if "kd-figure" in page]
    assert all("data:image/svg+xml;base64," in page for page in figures)
    return "".join(o.get("text", "") for o in outputs), pages, figures


def runs(names):
    chosen = [(p, DEMO[KIND[p.stem]]) for p in NOTEBOOKS if p.stem in names]
    return pytest.mark.parametrize(
        "executed", chosen, ids=[p.stem for p, _ in chosen], indirect=True
    )


def in_order(pages):
    """[captions' words of ELEMENTS that a notebook shows]; its headline comes before them, after
    what is said of a demonstration; deviations come last."""
    *notes, headline = [page for page in pages if "kd-headline" in page]
    assert all("a demonstration, not evidence" in note for note in notes)
    rest = [page for page in pages if "kd-headline" not in page]
    assert headline.startswith('<div class="kd-headline">')
    assert all("What differs from the paper" not in page for page in rest[:-1])
    shown = {}
    for words in sum(ELEMENTS.values(), []):
        found = [i for i, page in enumerate(rest) if words in page]
        shown |= {words: found[0]} if found else {}
    return sorted(shown, key=shown.get)


@runs(FINDINGS)
def test_a_notebook_of_findings_runs_from_records(executed, request):
    printed, pages, figures = executed
    book, text = request.node.callspec.id, "\n".join(pages)
    assert len(figures) >= 2  # both pairs
    card = r'<p>([^<,]+), digits, ([^<]+?): <strong class="verdict" data-verdict="([^"]+)">'
    findings, pairs, words = map(set, zip(*re.findall(card, text), strict=True))
    assert findings == FINDINGS[book] and words <= WORDS
    assert pairs == {" → ".join(pair) for pair in STUDIES["digits"].pairs}
    assert (
        "(preliminary: 2 of 16 planned seeds, each a training run from its own random start)"
        in text
    )
    assert "a demonstration, not a reproduction" in pages[-1]  # what deviates comes last
    assert "runs, teachers included: 18; seeds: 2" in printed
    assert in_order(pages) == ELEMENTS[book]


@runs(FIGURES)
def test_a_notebook_of_sensitivity_runs_from_records(executed, request):
    _, pages, figures = executed
    assert len(figures) == FIGURES[request.node.callspec.id]
    assert len(pages) > len(figures)  # and tables
    assert 'class="verdict"' not in "".join(pages)
    in_order(pages)
    if "groups" in request.node.callspec.id:
        text = "".join(pages)
        assert all(f"Verdicts, {' → '.join(pair)}" in text for pair in STUDIES["adult"].pairs)
        assert "equalised odds difference" in text and "By group and label" in text


# ---------------------------------------------------------------- the audit


@pytest.mark.parametrize(
    ("path", "names", "check"),
    [
        (AUDIT, given.PARAMETERS, "given = check_parameters(globals())"),
        (EXPLORE, explore.Choice._fields, "choice = explore.check_parameters(globals())"),
        (DISTIL, distilling.PARAMETERS, "given = notebook.check_parameters(globals())"),
    ],
    ids=lambda value: getattr(value, "stem", ""),
)
def test_a_notebook_of_no_study_tells_papermill_its_parameters(path, names, check):
    seen = papermill.inspect_notebook(str(path))
    ours = render.read_parameters(read(path).cells[1].source, path)
    assert list(seen) == list(ours) == list(names)
    assert all(parameter["help"] for parameter in seen.values())
    assert code(read(path))[1].source.endswith(f"\n\n{check}")


def test_the_audit_notebook_audits_files(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 400)
    np.save(tmp_path / "y.npy", y)
    for name in ("t", "s0", "s1"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(400, 5)) + 2 * np.eye(5)[y])
    (tmp_path / "g.csv").write_text("sex,age\n" + "f,1\nm,2\n,3\nm,4\n" * 100)
    files = {"labels": "y.npy", "teacher": "t.npy", "student": "s0.npy, s1.npy"}
    files |= {"groups": "g.csv", "search": "g.csv"}
    given = {"by": "sex, age:2", "missing_groups": "drop"}
    for name, value in files.items():
        given[name] = ", ".join(str(tmp_path / part) for part in value.split(", "))
    report.execute(AUDIT, tmp_path / "out.ipynb", {**given, "out": str(tmp_path / "a.html")})
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["examples"] == 300 and facts["seeds"] == 2 and facts["reference"] == "teacher"
    groups = [row["group"] for row in facts["groups"]]
    assert groups == ["sex=f", "sex=m", "age 1", "age 2 to 4"] and facts["searched"]
    page = render.render(tmp_path / "out.ipynb", tmp_path / "out.html").read_text()
    assert page.count("<img") == 3 and "VBox(" not in page  # figures stay, widgets go


def test_the_audit_notebook_runs_as_it_stands_from_committed_records(tmp_path):
    report.execute(AUDIT, tmp_path / "out.ipynb", {"out": str(tmp_path / "a.html")})
    assert json.loads((tmp_path / "a.json").read_text())["reference"] == "baseline"


LABLES = {"In": ["# Parameters\nlables = 'y.npy'\n"]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (LABLES, "'lables' is unknown: did you mean 'labels'"),
        ({"labels": 3}, "labels=3: must be text."),
        ({"labels": ["y.npy", "y.npy"]}, "labels=['y.npy', 'y.npy']: must be text."),
        ({"student": ["a.npy", 1]}, "must be text, or a list of texts."),
        ({"labels": "y.npy", "teacher": "t.npy"}, "an audit needs --student FILE"),
        ({"groups": "g.csv"}, "an audit needs --labels FILE"),
        ({"by": "sex"}, "--by does not go with --study"),
        ({"student": "kd=a.npy"}, "name several students"),
    ],
)
def test_bad_parameters_of_the_audit(changed, said):
    known = render.read_parameters(read(AUDIT).cells[1].source, AUDIT)
    usual = {name: default for name, (default, _) in known.items()}
    of_study = {"study": "cifar100-lt-self", "method": ["kd"], "out": "audit.html"}
    found = given.check_parameters(usual)
    assert {name: value for name, value in found.items() if value is not None} == of_study
    with pytest.raises(KdlibError, match=re.escape(said)):
        given.check_parameters({**usual, **changed})


def test_a_page_over_what_the_audit_reads_is_refused_before_anything_is_read():
    known = render.read_parameters(read(AUDIT).cells[1].source, AUDIT)
    usual = {name: default for name, (default, _) in known.items()}
    files = {"labels": "no.html", "teacher": "no-t.npy", "student": "no-s.npy"}
    options = given.check_parameters(usual | files)
    with pytest.raises(KdlibError, match="would write over no.html, which this audit reads"):
        given.asked(options, "no.html")
