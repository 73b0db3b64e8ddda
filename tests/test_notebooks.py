"""Notebooks: one order of cells, more words than code, strict parameters; and each runs from real records of digits."""

import re
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from kdlib import report
from kdlib.config import KdlibError
from kdlib.studies import STUDIES, check_parameters
from kdlib.sweep import sweep

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ORDER = ["markdown", "code", "code", "markdown", "code", "code", "markdown", "code", "code"]
FINDINGS = {  # notebook: what its verdict cards are about
    "00_overview": {"F1", "F2", "F3", "F4 AdaAlpha", "F4 AdaMargin"}, "01_gains_are_not_uniform": {"F1", "F2"},
    "02_teacher_errors_are_amplified": {"F3"}, "03_softening_the_teacher": {"F4 AdaAlpha", "F4 AdaMargin"},
}
WORDS = {"reproduced", "partly reproduced", "not reproduced", "contradicted", "inconclusive", "not testable"}
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


# ---------------------------------------------------------------- as committed

def test_every_notebook_is_tested():
    assert [p.stem for p in NOTEBOOKS] == list(FINDINGS)


@each
def test_cells_in_order_and_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells] == ORDER
    assert [i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])] == [1]
    for cell in code(notebook):
        assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}                             # nothing of a run: times, papermill, widgets
    assert notebook.metadata.kernelspec.name == "python3" and set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.cells[0].source.startswith("# ")


@each
def test_code_is_short_and_does_no_work_of_its_own(path):
    for cell in code(read(path)):
        lines = cell.source.splitlines()
        assert 0 < len(lines) <= 15
        assert not [line for line in lines if re.match(r"(def|class|for|while)\b|[!%]", line)]


@each
def test_more_words_than_code(path):
    notebook = read(path)
    prose = " ".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    words = len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\$\$.*?\$\$|\$.*?\$", "", prose, flags=re.S)))
    lines = sum(bool(line.strip()) for c in code(notebook) for line in c.source.splitlines())
    assert words >= 7 * lines
    assert "**What would count against" in notebook.cells[0].source       # said before any result
    assert notebook.cells[3].source.startswith("## Set-up") and notebook.cells[6].source.startswith("## How to read the figure")


@each
def test_every_parameter_is_seen_by_papermill_and_by_the_report(path):
    seen = papermill.inspect_notebook(str(path))
    ours = report.read_parameters(read(path).cells[1].source, path)
    assigned = re.findall(r"^(\w+)\s*[:=]", read(path).cells[1].source, re.M)
    assert list(seen) == list(ours) == assigned == ["study", "seeds"]
    assert seen["study"]["help"] and seen["seeds"]["help"]                # what `kdlib` and papermill print about them
    assert check_parameters({name: default for name, (default, *_) in ours.items()}) is STUDIES["digits"]
    assert set(re.findall(r"digits|cifar20-lt", ours["study"][2])) == set(STUDIES)


@each
def test_parameters_are_checked_before_anything_slow_is_imported(path):
    first = code(read(path))[1].source.splitlines()
    assert first[0] == "from kdlib.studies import check_parameters" and first[2] == "chosen = check_parameters(globals())"
    assert not any("import" in line for line in first[1:3])


# ---------------------------------------------------------------- parameters

def injected(*lines, study="digits", seeds=2):
    """The names of a notebook whose cell of injected parameters has these lines."""
    return {"In": ["", "# a cell\nother = 1", "\n".join(["# Parameters", *lines, ""])], "study": study, "seeds": seeds}


@pytest.mark.parametrize("seeds", [1, 8])
def test_good_parameters(seeds):
    assert check_parameters(injected('study = "digits"', f"seeds = {seeds}", seeds=seeds)) is STUDIES["digits"]
    assert check_parameters({"study": "cifar20-lt", "seeds": 6}) is STUDIES["cifar20-lt"]   # run as a script: no In


@pytest.mark.parametrize(("namespace", "said"), [
    (injected("sees = 4"), "parameter 'sees' is unknown: did you mean 'seeds'? Allowed: study, seeds."),
    (injected("seeds = 4", "studdy = 'x'"), "parameter 'studdy' is unknown: did you mean 'study'?"),
    (injected("temperature = 4"), "parameter 'temperature' is unknown: Allowed: study, seeds."),
    (injected(study="digit"), "study 'digit' is unknown: did you mean 'digits'? Allowed: digits, cifar20-lt."),
    (injected(study=3), "parameter study=3: must be one of digits, cifar20-lt."),
    (injected(seeds="2"), "parameter seeds='2': must be a whole number from 1 to 8 for digits."),
    (injected(seeds=2.0), "parameter seeds=2.0: must be a whole number from 1 to 8 for digits."),
    (injected(seeds=True), "parameter seeds=True: must be"),
    (injected(seeds=0), "parameter seeds=0: must be"),
    (injected(seeds=9), "parameter seeds=9: must be"),
    (injected(seeds=7, study="cifar20-lt"), "must be a whole number from 1 to 6 for cifar20-lt."),
])
def test_bad_parameters(namespace, said):
    with pytest.raises(KdlibError) as caught:
        check_parameters(namespace)
    assert said in str(caught.value)


def test_other_cells_may_use_other_names():
    check_parameters({"In": ["x = 1", "note = '# Parameters'"], "study": "digits", "seeds": 1})


def test_papermill_itself_stops_at_a_mistyped_parameter(tmp_path, monkeypatch):
    """Any runner, not ours: it only warns, runs the injected cell, and the next cell stops."""
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path / "records"))
    out = tmp_path / "out.ipynb"
    with pytest.raises(PapermillExecutionError, match="'sees' is unknown: did you mean 'seeds'"):
        papermill.execute_notebook(str(NOTEBOOKS[0]), str(out), {"sees": 1}, kernel_name="python3", cwd=ROOT, progress_bar=False,
                                   config=report.KERNEL)
    cells = [c for c in read(out).cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    place = next(i for i, c in enumerate(cells) if "injected-parameters" in c.metadata.get("tags", []))
    failed = [i for i, c in enumerate(cells) if any(o.output_type == "error" for o in c.get("outputs", []))]
    assert failed == [place + 1] and place == 2
    assert not any(c.execution_count for c in cells[place + 2:] if c.cell_type == "code")
    assert not (tmp_path / "records").exists()                            # nothing was trained


# ---------------------------------------------------------------- run

@pytest.fixture(scope="session")
def digits_records(tmp_path_factory):
    """A folder with the records of the first two seeds of digits, really trained."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RECORDS", str(folder))
        sweep(STUDIES["digits"](2), device="cpu")
    return folder


@each
def test_notebook_runs_from_records(path, digits_records, tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_RECORDS", str(digits_records))
    before = {p.name: p.stat().st_mtime_ns for p in digits_records.glob("*.json")}
    done = read(report.execute(path, tmp_path / path.name, {"study": "digits", "seeds": 2}))
    outputs = [o for c in code(done) for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert "".join(o.text for o in outputs if o.get("name") == "stderr").strip() == ""
    assert {p.name: p.stat().st_mtime_ns for p in digits_records.glob("*.json")} == before   # nothing is trained twice
    pages = [o.data["text/html"] for o in outputs if "data" in o and "text/html" in o.data]
    assert sum("kd-figure" in page for page in pages) >= 2                # both pairs
    assert all("data:image/svg+xml;base64," in page for page in pages if "kd-figure" in page)
    verdicts = re.findall(r'<p>([^<,]+), digits, ([^<]+?): <strong class="verdict" data-verdict="([^"]+)">', "\n".join(pages))
    assert {finding for finding, *_ in verdicts} == FINDINGS[path.stem]
    assert {pair for _, pair, _ in verdicts} == {" → ".join(pair) for pair in STUDIES["digits"].pairs}
    assert {word for *_, word in verdicts} <= WORDS
    assert "(preliminary: 2 of 8 planned seeds)" in "\n".join(pages)
    assert "a demonstration, not a reproduction" in pages[-1]             # what deviates comes last
    assert "20 runs: 2 pairs of teacher and student, 5 methods, 2 seeds" in "".join(o.get("text", "") for o in outputs)
