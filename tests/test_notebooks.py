"""Notebooks: one order of cells, more words than code, strict parameters; and each runs from real
records of digits."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from kdlib.auditing import given
from kdlib.config import KdlibError
from kdlib.pages import report
from kdlib.pages.shown import HEADLINE
from kdlib.study.grids import KINDS, STUDIES, check_parameters
from kdlib.study.sweep import sweep

ROOT = Path(__file__).resolve().parents[1]
AUDIT = ROOT / "notebooks" / "audit_your_model.ipynb"  # of no study: its parameters are files
NOTEBOOKS = sorted(set((ROOT / "notebooks").glob("*.ipynb")) - {AUDIT})
ORDER = ["markdown", "code", "code", "markdown", "code", "code", "markdown", "code", "code"]
FINDINGS = {  # notebook: what its verdict cards are about
    "00_overview": {"F1", "F2a", "F2b", "F3a", "F3b", "F3c", "F4 AdaAlpha", "F4 AdaMargin"},
    "01_gains_are_not_uniform": {"F1", "F2a", "F2b"},
    "02_teacher_errors_are_amplified": {"F3a", "F3b", "F3c"},
    "03_softening_the_teacher": {"F4 AdaAlpha", "F4 AdaMargin"},
}
FIGURES = {  # notebook without verdicts: its figures
    "04_what_the_mitigation_depends_on": 4,
    "05_when_does_distillation_harm": 7,
    "06_rivals": 6,
    "90_anchors": 0,
    "91_choice_of_recipe": 1,
}
# of a page in their order, words of their captions: the notebook of findings that shows it, the
# only one
ELEMENTS = {
    "Accuracy in per cent": "00_overview",
    "Difference to the mean of all baselines": "00_overview",
    "gains most over one-hot": "00_overview",
    "classes, against one-hot.": "01_gains_are_not_uniform",
    "a star marks a class": "01_gains_are_not_uniform",
    "The correlation is computed seed by seed": "02_teacher_errors_are_amplified",
    "Transferred: share of": "02_teacher_errors_are_amplified",
    "The eight outcomes": "02_teacher_errors_are_amplified",
    "Expected calibration error": "03_softening_the_teacher",
    "Mean of −log": "03_softening_the_teacher",
    "Up and right is better": "03_softening_the_teacher",
    "each level against": None,
    "no epoch is chosen": "03_softening_the_teacher",
    "The table splits each standard error": "03_softening_the_teacher",
    "best epoch on the test set": "03_softening_the_teacher",
    "Every class, ": "03_softening_the_teacher",
}
KIND = {book: kind for kind, books in KINDS.items() for book in books}
DEMO = {
    kind: next(
        s.name
        for s in STUDIES.values()
        if s.kind == kind and (s.demonstration or kind == "anchors")
    )
    for kind in KINDS
}
WORDS = {"holds", "contradicted", "not under this reading", "not decided", "not tested"}
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
audit_too = pytest.mark.parametrize("path", [*NOTEBOOKS, AUDIT], ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


# ---------------------------------------------------------------- as committed


def test_every_notebook_is_tested():
    assert [p.stem for p in NOTEBOOKS] == [*FINDINGS, *FIGURES]
    assert set(KIND) == {p.stem for p in NOTEBOOKS}


@audit_too
def test_cells_in_order_and_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells] == ORDER
    assert [
        i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])
    ] == [1]
    for cell in code(notebook):
        assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}  # nothing of a run: times, papermill, widgets
    assert notebook.metadata.kernelspec.name == "python3" and set(notebook.metadata) == {
        "kernelspec",
        "language_info",
    }
    assert notebook.cells[0].source.startswith("# ")


@audit_too
def test_code_is_short_and_does_no_work_of_its_own(path):
    for cell in code(read(path)):
        lines = cell.source.splitlines()
        assert 0 < len(lines) <= 15
        assert not [line for line in lines if re.match(r"(def|class|for|while)\b|[!%]", line)]


@audit_too
def test_more_words_than_code(path):
    notebook = read(path)
    prose = " ".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    words = len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\$\$.*?\$\$|\$.*?\$", "", prose, flags=re.S)))
    lines = sum(bool(line.strip()) for c in code(notebook) for line in c.source.splitlines())
    assert words >= 7 * lines
    assert "**What would count against" in notebook.cells[0].source  # said before any result
    assert notebook.cells[3].source.startswith("## Set-up") and notebook.cells[6].source.startswith(
        "## How to read the figure"
    )


@each
def test_every_parameter_is_seen_by_papermill_and_by_the_report(path):
    seen = papermill.inspect_notebook(str(path))
    ours = report.read_parameters(read(path).cells[1].source, path)
    assigned = re.findall(r"^(\w+)\s*[:=]", read(path).cells[1].source, re.M)
    assert list(seen) == list(ours) == assigned == ["study", "seeds"]
    assert (
        seen["study"]["help"] and seen["seeds"]["help"]
    )  # what `kdlib` and papermill print about them
    kind = KIND[path.stem]
    chosen = check_parameters(
        {"KIND": kind, **{name: default for name, (default, _) in ours.items()}}
    )
    assert chosen is STUDIES[DEMO[kind]] and ours["seeds"][0] == chosen.seeds
    assert set(re.split(r", | or ", ours["study"][1].removeprefix("which study: "))) == {
        s.name for s in STUDIES.values() if s.kind == kind
    }


@each
def test_parameters_are_checked_right_after_the_imports(path):
    *imports, kind, checked = code(read(path))[1].source.splitlines()
    assert [kind, checked] == [
        f'KIND = "{KIND[path.stem]}"',
        "chosen = check_parameters(globals())",
    ]
    assert all(line.startswith("from ") for line in imports if line)


# ---------------------------------------------------------------- parameters


def injected(*lines, study="digits", seeds=2):
    """The names of a notebook whose cell of injected parameters has these lines."""
    return {
        "In": ["", "# a cell\nother = 1", "\n".join(["# Parameters", *lines, ""])],
        "study": study,
        "seeds": seeds,
        "KIND": "findings",
    }


@pytest.mark.parametrize("seeds", [1, 8])
def test_good_parameters(seeds):
    assert (
        check_parameters(injected('study = "digits"', f"seeds = {seeds}", seeds=seeds))
        is STUDIES["digits"]
    )
    assert (
        check_parameters({"study": "cifar20-lt", "seeds": 6, "KIND": "findings"})
        is STUDIES["cifar20-lt"]
    )  # run as a script: no In


@pytest.mark.parametrize(
    ("namespace", "said"),
    [
        (
            injected("sees = 4"),
            "parameter 'sees' is unknown: did you mean 'seeds'? Allowed: study, seeds.",
        ),
        (
            injected("seeds = 4", "studdy = 'x'"),
            "parameter 'studdy' is unknown: did you mean 'study'?",
        ),
        (injected("temperature = 4"), "parameter 'temperature' is unknown: Allowed: study, seeds."),
        (
            injected(study="digit"),
            "parameter study='digit': did you mean 'digits'? Allowed: cifar20-lt, ",
        ),
        (
            injected(study="digits-rivals"),
            "parameter study='digits-rivals': did you mean 'digits'? Allowed: cifar20-lt, ",
        ),
        (injected(study=3), "parameter study=3: Allowed: cifar20-lt, "),
        (
            injected(seeds="2"),
            "parameter seeds='2': must be a whole number from 1 to 8 for digits.",
        ),
        (
            injected(seeds=2.0),
            "parameter seeds=2.0: must be a whole number from 1 to 8 for digits.",
        ),
        (injected(seeds=True), "parameter seeds=True: must be"),
        (injected(seeds=0), "parameter seeds=0: must be"),
        (injected(seeds=9), "parameter seeds=9: must be"),
        (
            injected(seeds=9, study="cifar20-lt"),
            "must be a whole number from 1 to 8 for cifar20-lt.",
        ),
    ],
)
def test_bad_parameters(namespace, said):
    with pytest.raises(KdlibError) as caught:
        check_parameters(namespace)
    assert said in str(caught.value)


def test_other_cells_may_use_other_names():
    check_parameters(
        {
            "In": ["x = 1", "note = '# Parameters'"],
            "study": "digits",
            "seeds": 1,
            "KIND": "findings",
        }
    )


def test_papermill_itself_stops_at_a_mistyped_parameter(tmp_path, monkeypatch):
    """Any runner, not ours: it only warns, runs the injected cell, and the next cell stops."""
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
    out = tmp_path / "out.ipynb"
    with pytest.raises(PapermillExecutionError, match="'sees' is unknown: did you mean 'seeds'"):
        papermill.execute_notebook(
            str(NOTEBOOKS[0]),
            str(out),
            {"sees": 1},
            kernel_name="python3",
            cwd=ROOT,
            progress_bar=False,
            config=report.KERNEL,
        )
    cells = [
        c for c in read(out).cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])
    ]
    place = next(
        i for i, c in enumerate(cells) if "injected-parameters" in c.metadata.get("tags", [])
    )
    failed = [
        i
        for i, c in enumerate(cells)
        if any(o.output_type == "error" for o in c.get("outputs", []))
    ]
    assert failed == [place + 1] and place == 2
    assert not any(c.execution_count for c in cells[place + 2 :] if c.cell_type == "code")
    assert not (tmp_path / "records").exists()  # nothing was trained


# ---------------------------------------------------------------- run


@pytest.fixture(scope="session")
def digits_records(tmp_path_factory):
    """A folder with the records of the first two seeds of every study of the digits, really
    trained."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RECORDS", str(folder))
        sweep([cfg for s in STUDIES.values() if s.demonstration for cfg in s(2)], device="cpu")
    return folder


@pytest.fixture
def executed(request, digits_records, tmp_path, monkeypatch):
    """(what a notebook printed, its pages): run from records, quietly, training nothing."""
    path, study = request.param
    monkeypatch.setenv("KDLIB_RECORDS", str(digits_records))
    before = {p.name: p.stat().st_mtime_ns for p in digits_records.glob("*.json")}
    done = read(report.execute(path, tmp_path / path.name, {"study": study, "seeds": 2}))
    outputs = [o for c in code(done) for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert "".join(o.text for o in outputs if o.get("name") == "stderr").strip() == ""
    assert {
        p.name: p.stat().st_mtime_ns for p in digits_records.glob("*.json")
    } == before  # nothing is trained twice
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
    """ELEMENTS that a notebook shows, in the order of ELEMENTS; its headline comes before them,
    deviations after."""
    headline, *rest = [page for page in pages if "kd-headline" in page] + [
        page for page in pages if "kd-headline" not in page
    ]
    assert (
        headline.startswith(HEADLINE)
        and pages.count(headline) == 1
        and not any("kd-headline" in page for page in rest)
    )
    shown = {words: [i for i, page in enumerate(rest) if words in page] for words in ELEMENTS}
    first = [found[0] for found in shown.values() if found]
    assert first == sorted(first), shown
    assert all("What is not as in the paper" not in page for page in rest[:-1])
    return [words for words, found in shown.items() if found]


@runs(FINDINGS)
def test_a_notebook_of_findings_runs_from_records(executed, request):
    printed, pages, figures = executed
    assert len(figures) >= 2  # both pairs
    verdicts = re.findall(
        r'<p>([^<,]+), digits, ([^<]+?): <strong class="verdict" data-verdict="([^"]+)">',
        "\n".join(pages),
    )
    assert {finding for finding, *_ in verdicts} == FINDINGS[request.node.callspec.id]
    assert {pair for _, pair, _ in verdicts} == {
        " → ".join(pair) for pair in STUDIES["digits"].pairs
    }
    assert {word for *_, word in verdicts} <= WORDS
    assert "(preliminary: 2 of 8 planned seeds)" in "\n".join(pages)
    assert "a demonstration, not a reproduction" in pages[-1]  # what deviates comes last
    assert "18 runs, teachers included: 4 methods, 2 seeds" in printed
    assert in_order(pages) == [
        words for words, book in ELEMENTS.items() if book == request.node.callspec.id
    ]


@runs(FIGURES)
def test_a_notebook_of_sensitivity_runs_from_records(executed, request):
    printed, pages, figures = executed
    assert len(figures) == FIGURES[request.node.callspec.id] and len(pages) > len(
        figures
    )  # and tables
    assert 'class="verdict"' not in "".join(pages)
    in_order(pages)


# ---------------------------------------------------------------- the audit


def test_the_audit_notebook_tells_papermill_its_parameters():
    seen = papermill.inspect_notebook(str(AUDIT))
    assert (
        list(seen)
        == list(report.read_parameters(read(AUDIT).cells[1].source, AUDIT))
        == list(given.PARAMETERS)
    )
    assert all(parameter["help"] for parameter in seen.values())
    assert code(read(AUDIT))[1].source.endswith("\n\ngiven = check_parameters(globals())")


def test_the_audit_notebook_audits_files(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 400)
    np.save(tmp_path / "y.npy", y)
    for name in ("t", "s0", "s1"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(400, 5)) + 2 * np.eye(5)[y])
    files = {"labels": "y.npy", "teacher": "t.npy", "student": "s0.npy, s1.npy"}
    given = {
        name: ", ".join(str(tmp_path / part) for part in files[name].split(", ")) for name in files
    }
    report.execute(AUDIT, tmp_path / "out.ipynb", {**given, "out": str(tmp_path / "a.html")})
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["examples"] == 400 and facts["seeds"] == 2 and facts["reference"] == "teacher"
    page = report.render(tmp_path / "out.ipynb", tmp_path / "out.html").read_text()
    assert page.count("<img") == 3 and "VBox(" not in page  # figures stay, widgets go


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"In": ["# Parameters\nlables = 'y.npy'\n"]},
            "'lables' is unknown: did you mean 'labels'",
        ),
        ({"labels": 3}, "labels=3: must be a path as text"),
        ({"student": ["a.npy", 1]}, "or a list of paths"),
        ({"labels": "y.npy", "teacher": "t.npy"}, "parameter student: name its file"),
        ({"groups": "g.csv"}, "parameter labels: name"),
    ],
)
def test_bad_parameters_of_the_audit(changed, said):
    usual = {
        name: default
        for name, (default, _) in report.read_parameters(read(AUDIT).cells[1].source, AUDIT).items()
    }
    assert given.check_parameters(usual) == usual
    with pytest.raises(KdlibError, match=re.escape(said)):
        given.check_parameters({**usual, **changed})
