"""Pages side by side: each kernel is warm, forgets names, and stops with the build."""

import ast
import json
import os
import re
import time
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kdlib.pages import report, warm

PARAMETERS = 'study = "digits"'
CORES = 2


@pytest.fixture(autouse=True)
def _cores(monkeypatch):
    monkeypatch.setattr(report, "available_cores", lambda: CORES)


@pytest.fixture
def one_core(monkeypatch):
    monkeypatch.setattr(report, "available_cores", lambda: 1)


def build(folder, books, say=lambda line: None):
    """Pages of notebooks {name: source}; they begin in the order of their names."""
    (folder / "notebooks").mkdir(exist_ok=True)
    for name, source in books.items():
        cells = [new_markdown_cell(f"# Is {name} right?")]
        cells.append(new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
        cells.append(new_code_cell(source))
        nbformat.write(new_notebook(cells=cells), folder / "notebooks" / f"{name}.ipynb")
    how = {"books": {"digits": list(books)}, "inputs": "", "provenance": {"digits": {}}}
    places = folder / "reports", folder / "notebooks"
    return report.build({"digits": {}}, *places, **how, verdicts=lambda study: [], say=say)


def said(page):
    """What the last cell of a page's notebook printed."""
    return nbformat.read(page.html.with_suffix(".ipynb"), 4).cells[-1].outputs[0].text


def test_two_notebooks_run_at_the_same_time(tmp_path):
    wait = (
        "import pathlib, time\n"
        "mine, other = (pathlib.Path({folder!r}, name) for name in {names})\n"
        "mine.touch()\n"
        "until = time.monotonic() + 60\n"
        "while not other.exists() and time.monotonic() < until: time.sleep(0.1)\n"
        "print(other.exists())"
    )
    pairs = {"a": ("a", "b"), "b": ("b", "a")}
    books = {n: wait.format(folder=str(tmp_path), names=names) for n, names in pairs.items()}
    assert [said(page) for page in build(tmp_path, books)] == ["True\n", "True\n"]


def test_a_kernel_keeps_its_modules_and_forgets_its_names(tmp_path, one_core):
    first = "import json, os\nmine, json.mark = 1, os.getpid()\nprint(json.mark, len(In))"
    again = "import json, os\nprint(json.mark, len(In), 'mine' in globals(), os.getpid())"
    one, two = (said(page).split() for page in build(tmp_path, {"a": first, "b": again}))
    assert two == [*one, "False", one[0]]  # as many cells as in a fresh one


def test_a_notebook_can_start_processes_as_in_a_fresh_kernel(tmp_path, one_core):
    pool = (
        "import math, multiprocessing\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as workers:\n"
        "    print(workers.submit(math.sqrt, 9).result())"
    )
    assert [said(page) for page in build(tmp_path, {"a": pool, "b": pool})] == ["3.0\n"] * 2


def test_what_a_failed_notebook_did_to_its_kernel_hurts_no_other(tmp_path, one_core):
    spoilt = "import os, textwrap\ntextwrap.dedent = None\n"
    fine = "import textwrap\nprint(textwrap.dedent(' [1]'))"
    ends = {"raises": f"{spoilt}1 / 0", "dies": f"{spoilt}os._exit(3)"}
    books = {"a": ends["raises"], "b": fine, "c": ends["dies"], "d": fine}
    lines = []
    pages = build(tmp_path, books, lines.append)
    assert [page.status for page in pages] == ["failed", "built", "failed", "built"]
    assert [said(page) for page in pages[1::2]] == ["[1]\n", "[1]\n"]
    assert [line.split()[0] for line in lines] == [f"digits/{name}:" for name in books]
    stamps = json.loads((tmp_path / "reports" / report.STAMPS).read_text())
    assert set(stamps) == {"digits/b", "digits/d"}


LATE = "import os, threading\nthreading.Timer(0.5, os._exit, [1]).start()"
DEAF = "import os, sys\nsys.stdout = sys.stderr = sys.__stdout__ = None\nget_ipython().reset = None"


@pytest.mark.parametrize("end", ["exit()", LATE, DEAF, "get_ipython().kernel.do_shutdown(True)"])
def test_a_kernel_that_a_notebook_ended_as_its_last_act_hurts_no_other(
    tmp_path, one_core, monkeypatch, end
):
    monkeypatch.setattr(warm, "PATIENCE", 10)
    pages = build(tmp_path, {"a": end, "b": "import time\ntime.sleep(1)", "c": "print(1)"})
    # whether its own page is built depends on whether the kernel answers before it ends
    assert pages[2].status == "built" and said(pages[2]) == "1\n"


def test_a_kernel_that_ends_before_the_first_cell_fails_its_page_alone(
    tmp_path, one_core, monkeypatch
):
    ready = warm.Kernel.ready

    def ended(kernel, folder):
        again = kernel._manager is not None
        manager = ready(kernel, folder)
        if again:
            manager.provisioner.process.kill()
            manager.provisioner.process.wait()
        return manager

    monkeypatch.setattr(warm.Kernel, "ready", ended)
    pages = build(tmp_path, {"a": "print(1)", "b": "print(2)", "c": "print(3)"})
    assert [page.status for page in pages] == ["built", "failed", "built"]
    assert pages[1].message == "b.ipynb: Kernel died before replying to kernel_info."


def test_folder_environment_and_style_are_as_in_a_fresh_kernel(tmp_path, one_core):
    shown = (
        "import os, sys, matplotlib.pyplot as plt\n"
        "print([os.getcwd(), sorted(os.environ.items()), sys.path, dict(plt.rcParams)])"
    )
    change = (
        "import os, sys, matplotlib.pyplot as plt\n"
        "os.chdir('/')\nos.environ['KDLIB_RECORDS'] = '/nowhere'\ndel os.environ['PATH']\n"
        "sys.path.insert(0, '/nowhere')\nplt.rcParams['lines.linewidth'] = 9\n"
        "plt.style.use('dark_background')"
    )
    pages = build(tmp_path, {"a": shown, "b": change, "c": shown})
    assert said(pages[2]) == said(pages[0]) and "lines.linewidth" in said(pages[0])
    alone = report.execute(tmp_path / "notebooks" / "c.ipynb", tmp_path / "alone.ipynb", {})
    fresh = nbformat.read(alone, 4).cells[-1].outputs[0].text
    assert "JPY_PARENT_PID" in fresh
    unlike = {"JPY_PARENT_PID", "JPY_SESSION_NAME", "OMP_NUM_THREADS"}  # by process; by ours
    assert settings(fresh, unlike) == settings(said(pages[2]), unlike)


def settings(text, unlike):
    """What `shown` printed, without some variables of the environment."""
    folder, environment, *rest = ast.literal_eval(re.sub(r"<[^>]*>|cycler\(.*?\]\)", "0", text))
    return folder, [pair for pair in environment if pair[0] not in unlike], rest


def test_a_failed_page_says_so_in_one_line(tmp_path, one_core, capfd):
    long = "raise ValueError('two\\n\\n\\nlines')"
    pages = build(tmp_path, {"a": long, "b": "import os\nos._exit(0)"})
    assert [page.message for page in pages] == [
        "a.ipynb: ValueError: two lines",
        "b.ipynb: the kernel died, most likely because memory ran out.",
    ]
    assert capfd.readouterr().err == ""
    assert "the kernel died" in pages[1].html.read_text("utf-8") and pages[1].executed.exists()


def running(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_interrupt_stops_every_kernel_and_keeps_what_was_done(tmp_path):
    here = "import os, pathlib, time\n"
    here += f"pathlib.Path({str(tmp_path)!r}, 'number').write_text(str(os.getpid()))"

    def interrupted(line):
        while not (tmp_path / "number").exists():
            time.sleep(0.1)
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, {"a": "print(1)", "b": f"{here}\ntime.sleep(600)"}, interrupted)
    assert time.monotonic() - began < 300
    assert not running(int((tmp_path / "number").read_text()))
    stamps = json.loads((tmp_path / "reports" / report.STAMPS).read_text())
    assert set(stamps) == {"digits/a"}
    assert not (tmp_path / "reports" / "digits" / "b.html").exists()


def test_a_kernel_stays_with_its_study_while_others_have_work():
    def study(name, count):
        return [SimpleNamespace(study=name, number=k) for k in range(count)]

    tasks = [*study("one", 3), *study("two", 2)]
    taken = {}

    def work(task, kernel):
        time.sleep(0.05)
        taken.setdefault(kernel, []).append((task.study, task.number))
        return task.number

    for task, result in warm.side_by_side(tasks, work, 2):
        assert task.number == result
    assert sorted(sum(taken.values(), [])) == sorted((t.study, t.number) for t in tasks)
    first, second = taken.values()
    assert first[:2] == [("one", 0), ("one", 1)] or first[:2] == [("two", 0), ("two", 1)]
    assert {first[0][0], second[0][0]} == {"one", "two"}
