"""What a notebook shows of an error that is meant for its user."""

import nbformat
import pytest

from kdlib.pages import report
from kdlib.pages.render import render

CELLS = [
    nbformat.v4.new_markdown_cell("# A question?"),
    nbformat.v4.new_code_cell("seeds = 1", metadata={"tags": ["parameters"]}),
    nbformat.v4.new_code_cell(
        'study = "digits"\nKIND = "findings"\n'
        "from kdlib.study.grids import check_parameters\n"
        "chosen = check_parameters(globals())"
    ),
]
SAID = "KdlibError: notebook parameter seeds=99: must be a whole number from 1 to 8 for digits."


def test_a_wrong_parameter_ends_in_its_sentence_without_a_traceback(tmp_path):
    book = tmp_path / "page.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=CELLS), book)
    with pytest.raises(report.NotebookFailed, match="must be a whole number from 1 to 8") as error:
        report.execute(book, tmp_path / "out.ipynb", {"seeds": 99})
    assert "Traceback" not in str(error.value.__cause__)  # what papermill itself prints
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    [shown] = [output for output in outputs if output.output_type == "error"]
    assert shown.traceback == [SAID]
    page = render(tmp_path / "out.ipynb", tmp_path / "out.html", failure=SAID).read_text()
    assert "seeds=99" in page and "check_parameters(globals())\n\x1b" not in page
    assert "Traceback (most recent call last)" not in page
