"""The report: strict parameters; pages that stand alone; the same page from the same inputs."""

import html
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from looking import CARDS, HOSTILE, PROVENANCE, Document
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kdlib.config import KdlibError
from kdlib.pages import render, report, shown
from kdlib.study.grids import JUDGED, KINDS, STUDIES

PARAMETERS = """study = "digits"                # which study = a key of STUDIES
seeds = 8                       # so = a comment with an equals sign
name = "a # é"  # é
"""
PICTURE = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 90 40' width='900' height='400'>"
    "<rect width='90' height='40' fill='#cde'/></svg>"
)
ALT = 'Distillation helps frequent classes & harms "rare" ones'
DRAW = (
    f"ALT, PICTURE, HOSTILE = {ALT!r}, {PICTURE!r}, {HOSTILE!r}"
    + """
import base64, html, sys  # every kind of word that is coloured
from IPython.display import HTML, Markdown, display
data = base64.b64encode(PICTURE.encode()).decode()
rows = "".join(
    f'<tr><th scope="row">class {i}</th>{f"<td>{i / 7:.3f}</td>" * 14}</tr>' for i in range(3)
)
display(HTML(f'<figure class="kd-figure"><img alt="{html.escape(ALT)}" '
             f'src="data:image/svg+xml;base64,{data}"><figcaption>Gain by class.</figcaption>'
             f'<details><summary>Data of this figure</summary>'
             f'<table><caption>Gain</caption>{rows}</table></details></figure>'))
display(Markdown(f"Over {seeds} seeds, the class {HOSTILE} and $\\\\beta$."))
print("50%|###\\r 99%|####", file=sys.stderr)
print("the GPU was not used", file=sys.stderr)"""
)


def house_notebook(path, *more, title="# Gains are *not* uniform"):
    """A small notebook in the format of the house, with `more` cells before the last section."""
    cells = [
        new_markdown_cell(f"{title}\n\nThe claim. See [a paper](https://example.org)."),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell("hidden = 'seen by nobody'\nhidden", metadata={"tags": ["remove-cell"]}),
        new_code_cell(
            "print('source is hidden, this is not')", metadata={"tags": ["remove-input"]}
        ),
        new_markdown_cell(
            "## Set-up\n\nWith $\\alpha \\in [0, 1]$:\n\n$$L = L_1 + \\alpha L_2$$\n\n"
            "#### A level was skipped\n\n# A second title\n\n| a | b |\n|---|---|\n| 1 | 2 |"
        ),
        new_code_cell(DRAW),
        *more,
        new_markdown_cell("## Deviations\n\nNone."),
        new_code_cell("(study, seeds, name)"),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


NAMES = ("00_overview", "01_gains")


def make(folder, studies=("digits",), parameters=None, books=NAMES, **options):
    said = []
    every = dict.fromkeys(studies, PROVENANCE)
    usual = {"books": dict.fromkeys(studies, books), "inputs": ""}
    usual |= {"provenance": every, "verdicts": lambda study: CARDS}
    asked = dict.fromkeys(studies, parameters or {})
    places = folder / "reports", folder / "notebooks"
    pages = report.build(asked, *places, say=said.append, **usual | options)
    return pages, said


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a report of one study and two notebooks."""
    folder = tmp_path_factory.mktemp("built {x}")  # papermill would fill in the braces
    house_notebook(folder / "notebooks" / "00_overview.ipynb")
    house_notebook(folder / "notebooks" / "01_gains.ipynb", title="# Gains, and `harm`")
    pages, _ = make(folder, parameters={"seeds": 3})
    assert [page.status for page in pages] == ["built", "built"]
    return folder


@pytest.fixture(params=["digits/00_overview.html", "index.html"])
def page(built, request):
    return built / "reports" / request.param


SOURCES = ["seeds = 4 * 2", "seeds, study = 8, 'digits'", "a = b = 1", "import os", "seeds = ("]


@pytest.mark.parametrize("source", [*SOURCES, "print('hello')", "seeds: int"])
def test_a_parameters_cell_holds_only_literals(source):
    said = "a.ipynb: parameters must be lines of one name = one literal"
    with pytest.raises(KdlibError, match=said):
        render.read_parameters(source, "a.ipynb")


def test_parameters_are_read_with_their_comments():
    assert render.read_parameters(PARAMETERS, "a.ipynb") == {
        "study": ("digits", "which study = a key of STUDIES"),
        "seeds": (8, "so = a comment with an equals sign"),
        "name": ("a # é", "é"),
    }
    assert render.read_parameters("", "a.ipynb") == {}


def test_a_notebook_without_the_format_is_refused(tmp_path):
    (tmp_path / "b.ipynb").write_text('{"cells": [')
    for name in ("b.ipynb", "nowhere.ipynb"):
        with pytest.raises(KdlibError, match=f"{name}: not a readable notebook"):
            render.render(tmp_path / name, tmp_path / "a.html")
    with pytest.raises(KdlibError, match="no notebooks here"):
        make(tmp_path / "empty")


# Pages


def test_a_page_stands_alone(page):
    document = Document(page.read_text("utf-8"))
    for tag, attributes, words in document.tags:
        asking = ("src", "srcset", "data", "poster")
        loaded = [attributes[name] for name in asking if name in attributes]
        if tag == "link":
            loaded.append(attributes["href"])
        if tag == "style":
            loaded += re.findall(r"url\(\s*[^d#\s][^)]*\)|@import[^;]*", "".join(words))
        loaded += re.findall(r"url\([^)]*\)", attributes.get("style") or "")
        assert all(address.startswith("data:") for address in loaded), (tag, loaded)
    assert not document.all("script") and not document.all("iframe")
    ((_, policy),) = document.all("meta", **{"http-equiv": "Content-Security-Policy"})
    # nothing is loaded even if an output asks for it
    assert "default-src 'none'" in policy["content"]
    assert page.stat().st_size < 3_000_000


def test_a_page_has_its_landmarks_and_headings_in_order(page):
    text = page.read_text("utf-8")
    document = Document(text)
    levels = [int(tag[1]) for tag, _, _ in document.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    assert document.all("html", lang="en") and document.all("title")[0][0].strip()
    assert document.all("meta", name="viewport") and document.all("footer")
    assert document.all("main", id="content") and document.all("a", href="#content")
    identities = [attributes["id"] for _, attributes, _ in document.tags if "id" in attributes]
    assert len(identities) == len(set(identities))

    pictures = document.all("img")
    assert pictures and all(attributes["alt"] == ALT for _, attributes in pictures)


def test_every_address_inside_the_report_exists(built):
    for path in (built / "reports").rglob("*.html"):
        document = Document(path.read_text("utf-8"))
        for _, attributes in document.all("a"):
            address = attributes["href"]
            if address.startswith("#"):
                assert any(a.get("id") == address[1:] for _, a, _ in document.tags), address
            elif not address.startswith("https:"):
                assert (path.parent / address).exists(), address


def test_formulas_code_and_hidden_cells(built):
    text = (built / "reports/digits/00_overview.html").read_text("utf-8")
    document = Document(text)
    formulas = document.all("math")
    assert [a["display"] for _, a in formulas] == ["inline", "block", "inline"]
    assert "$" not in re.sub('<details class="code">.*?</details>', "", text, flags=re.S)
    assert "α" in formulas[0][0] and "β" in formulas[2][0]
    folded = [words for words, _ in document.all("details")]
    assert sum("base64.b64encode" in words for words in folded) == 1
    assert "seen by nobody" not in text
    text = "".join(words for words, _ in document.all("main"))
    assert "source is hidden, this is not" in text and "print('source" not in text
    assert text.count("base64.b64encode") == 1  # nowhere but in the fold
    assert "Messagesthe GPU was not used" in folded  # and not the progress bar beside it


def test_parameters_are_a_table_with_changed_ones_bold(built):
    document = Document((built / "reports/digits/00_overview.html").read_text("utf-8"))
    (table,) = document.all("table", **{"class": "parameters"})
    assert "which study = a key of STUDIES" in table[0] and "(default 8)" in table[0]
    cells = [attributes for _, attributes in document.all("th", scope="row")]
    assert len(cells) >= 3
    assert [words for words, _ in document.all("strong")][-1:] == ["3"]
    assert "('digits', 3, 'a # é')" in "".join(words for words, _ in document.all("pre"))


def test_a_page_keeps_the_order_of_its_notebook_but_for_parameters_and_code(tmp_path):
    """Its answer stands once, where the notebook shows it; what made the page, at its foot."""
    said = "It helps <b>most</b> classes."
    show = f"from kdlib.pages.shown import Headline\nHeadline([{said!r}], [{CARDS[0]!r}])"
    book = house_notebook(tmp_path / "a.ipynb", new_code_cell(show))
    executed = report.execute(book, tmp_path / "out.ipynb", {})
    text = render.render(executed, tmp_path / "a.html").read_text("utf-8")
    assert text.count('<div class="kd-headline">') == 1
    order = ["</h1>", "The claim.", "<figure", html.escape(said), "Deviations"]
    order += ['<table class="parameters">', '<details class="code"><summary>Code of this page']
    places = [text.index(part) for part in [*order, "</main>"]]
    assert places == sorted(places)
    words, _ = Document(text).all("div", **{"class": "kd-headline"})[0]
    assert words == f"{said}cnn → {HOSTILE}. Holds: average rises (F1)."


ANY = {"pair": "a → b", "claim": "It helps.", "sentence": "+1 point.", "study": "x", "seeds": 8}
ANY |= {"planned": 8, "preliminary": False, "baselines": 16, "alarm": ""}
CONTROL = "The matched control passes too: one-hot networks in 58.8 % of splits."


def test_a_verdict_that_its_control_reaches_is_marked_wherever_it_is_shown(tmp_path):
    """By a dagger and its sentence: in the row of verdicts, in their list, and in the index, open
    and folded; and no other verdict is."""
    cards = [
        ANY | {"finding": "F1", "verdict": "holds", "control": ""},
        ANY | {"finding": "F4 AdaAlpha", "verdict": "holds", "control": CONTROL},
    ]
    row = Document(shown.Headline([], cards)._repr_html_())
    said = "".join(words for words, _ in row.all("p"))
    assert "AdaAlpha beats distillation in the rarest classes (F4)†." in said
    assert said.endswith(f"† F4\u00a0AdaAlpha, a → b: {CONTROL}") and said.count("†") == 2
    verdicts = Document(shown.Verdicts(cards)._repr_html_())
    assert [words for words, _ in verdicts.all("strong")] == ["holds", "holds†"]
    assert [CONTROL in words for words, _ in verdicts.all("li")] == [False, True]

    house_notebook(tmp_path / "notebooks" / "00_overview.ipynb")
    names = ("cifar20-lt", "digits")
    make(tmp_path, names, books=["00_overview"], verdicts=lambda study: cards)
    index = Document((tmp_path / "reports/index.html").read_text("utf-8"))
    ((main, _),) = index.all("section", **{"class": "study"})
    ((folded, _),) = index.all("details", **{"class": "study"})
    assert f"(F4)†.† F4\u00a0AdaAlpha, a → b: {CONTROL}" in main.replace("\n", "")
    assert "a → b: holds F1, F4\u00a0AdaAlpha†\n" in folded
    cards_shown = [words for words, _ in index.all("article")]
    assert [f"† {CONTROL}" in words for words in cards_shown] == [False, True, False, True]
    lines = list(report._verdicts("x", cards))  # of the terminal
    assert lines[0].endswith(": F1 holds, F4 AdaAlpha holds†")
    assert lines[1:] == [f"  † F4 AdaAlpha: {CONTROL}"]
    heads = [words for words, _ in index.all("h4")]
    assert heads == ["F1 holds", "F4 AdaAlpha holds†"] * 2


def test_a_page_links_to_every_page_on_the_same_data():
    """Of findings, rivals and knobs of one data set: by study, the findings first. Another data set
    and a study of findings whose name begins alike are chapters of their own."""
    findings = ["00_overview", "03_softening_the_teacher"]
    books = {"cifar100-lt-rivals": ["new_one"], "cifar100-lt": findings}
    books["cifar100-lt-self"] = findings
    links = render.links_of(books | {"anchors": ["90_anchors"]})
    assert links["cifar100-lt-rivals"] == {
        "cifar100-lt": [
            ("../cifar100-lt/00_overview.html", "overview"),
            ("../cifar100-lt/03_softening_the_teacher.html", "softening the teacher"),
        ],
        "cifar100-lt-rivals": [("new_one.html", "new one")],
    }
    assert list(links["cifar100-lt-rivals"]) == list(links["cifar100-lt"])
    assert links["cifar100-lt"]["cifar100-lt"][0] == ("00_overview.html", "overview")
    assert list(links["cifar100-lt-self"]) == ["cifar100-lt-self"]
    assert list(links["anchors"]) == ["anchors"]
    both = render.links_of({"anchors-lt": ["90_anchors"], "anchors": ["90_anchors"]})
    assert list(both["anchors"]) == list(both["anchors-lt"]) == ["anchors", "anchors-lt"]
    own = {render.chapter(name) for name in STUDIES if "cifar20-lt" in name}
    assert own == {"cifar20-lt", "cifar20-lt-wide"}


def test_every_notebook_of_a_study_has_words_for_links():
    books = {book for books in KINDS.values() for book in books}
    assert set(render.WORDS) == books | {render.THEORY_BOOK}


def test_the_index_opens_the_first_study_that_is_neither_superseded_nor_a_demonstration(tmp_path):
    """Others are folded: those of its chapter first, demonstrations last; each page has a link."""
    house_notebook(tmp_path / "notebooks" / "00_overview.ipynb")
    names = [
        "cifar20-short",
        "digits",
        "digits-knobs",
        "cifar20-lt-rivals",
        "anchors",
        "adult",
        "cifar20-lt",
    ]
    cards = {name: CARDS if STUDIES[name].kind in JUDGED else [] for name in names}
    make(tmp_path, names, books=["00_overview"], verdicts=cards.get)
    index = Document((tmp_path / "reports/index.html").read_text("utf-8"))
    order = [a["id"] for tag, a, _ in index.tags if tag in ("h2", "h3") and a.get("id") in names]
    last = ["anchors", "cifar20-short", "digits", "digits-knobs"]
    assert order == ["cifar20-lt", "cifar20-lt-rivals", "adult", *last]
    assert len(index.all("section", **{"class": "study"})) == 1
    folded = [words for words, _ in index.all("details", **{"class": "study"})]
    expected = [True, False, True, False, False, True]  # adult has verdicts
    assert ["Sensitivity" in words for words in folded] == expected
    linked = {attributes["href"] for _, attributes in index.all("a")}
    assert {f"{name}/00_overview.html" for name in names} <= linked
    # too few seeds for a test are no answer to open with
    cards["cifar20-lt"] = [card | {"verdict": "not tested"} for card in CARDS]
    make(tmp_path, names, books=["00_overview"], verdicts=cards.get)
    index = Document((tmp_path / "reports/index.html").read_text("utf-8"))
    order = [a["id"] for tag, a, _ in index.tags if tag in ("h2", "h3") and a.get("id") in names]
    assert order == ["adult", "cifar20-lt", "cifar20-lt-rivals", *last]


def test_text_from_data_is_text(built):
    index = (built / "reports/index.html").read_text("utf-8")
    page = (built / "reports/digits/00_overview.html").read_text("utf-8")
    # the pair twice, five sentences, provenance
    assert index.count("&lt;script&gt;document.title") == 8
    assert "<script" not in index and "<script" not in page
    words = "".join(words for words, _ in Document(page).all("main"))
    assert HOSTILE in words  # in a generated sentence
    assert HOSTILE in "".join(words for words, _ in Document(page).all("footer"))
    assert render.formula(r"\text{<script>x</script>} & a<b", "inline").count("<script") == 0


def test_hostile_parameter_is_text(tmp_path):
    book = house_notebook(tmp_path / "a.ipynb")
    executed = nbformat.read(book, 4)
    executed.metadata["papermill"] = {"parameters": {"study": HOSTILE}}
    nbformat.write(executed, book)
    hardware = {"hardware": "<i>2 cores</i>"}
    text = render.render(book, tmp_path / "a.html", hardware).read_text("utf-8")
    assert "<script" not in text and html.escape(HOSTILE, quote=False) in text.replace("&#39;", "'")
    assert "&lt;i&gt;2 cores" in text


def test_provenance_and_one_last_line(page):
    text = page.read_text("utf-8")
    footer = Document(text).all("footer")[0][0]
    assert "3f2a9c1 (dirty)" in footer and "0, 1, 2" in footer and "torch\xa02.15" in footer
    assert "Built 20" in text.splitlines()[-1] and text.count("Built 20") == 1


def test_pictures_of_other_kinds_and_damaged_formulas(tmp_path):
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    pixel += "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "99%|####"}
    some = [({"image/png": pixel}, {"image/png": {"alt": "One red pixel"}})]
    some += [({"image/svg+xml": PICTURE}, {"alt": "A <b>"}), (widget, {})]
    outputs = [nbformat.v4.new_output("display_data", d, metadata=m) for d, m in some]
    aligned = "$$\\begin{aligned}a&=b\\end{aligned}$$"
    prose = new_markdown_cell(f"No title, $x^$ and $\\nosuchcommand x$.\n\n{aligned}")
    book = new_notebook(cells=[prose, new_code_cell("draw()", outputs=outputs)])
    nbformat.write(book, tmp_path / "my_page.ipynb")
    text = render.render(tmp_path / "my_page.ipynb", tmp_path / "a.html").read_text("utf-8")
    document = Document(text)
    assert [a["alt"] for _, a in document.all("img")] == ["One red pixel", "A <b>"]
    formulas = [words for words, _ in document.all("code", **{"class": "tex"})]
    assert formulas == ["x^", r"\nosuchcommand x"] and len(document.all("mtd")) == 2
    assert document.all("h1")[0][0] == "my page" and "99%" not in text


def test_html_in_prose_stays_where_it_is():
    said = "<p>a <b>x</b> c, 1 &lt; 2 <em>y</em></p>\n"
    assert render.markdown("a <b>x</b> c, 1 < 2 *y*") == said
    assert render.markdown("a <b>x</b>", escape=True) == "<p>a &lt;b&gt;x&lt;/b&gt;</p>\n"


# Building again


def test_the_same_inputs_make_the_same_bytes(built, tmp_path):
    house_notebook(tmp_path / "notebooks" / "00_overview.ipynb")
    house_notebook(tmp_path / "notebooks" / "01_gains.ipynb", title="# Gains, and `harm`")
    make(tmp_path, parameters={"seeds": 3})
    for name in ("index.html", "digits/00_overview.html", "digits/01_gains.html"):
        both = [(at / "reports" / name).read_text("utf-8") for at in (built, tmp_path)]
        first, second = (text.splitlines() for text in both)
        assert first[:-1] == second[:-1] and len(first) > 20, name


def test_only_what_changed_is_built_again(tmp_path, monkeypatch):
    runs = []

    def pretend(notebook, output, parameters, kernel=None):
        runs.append(notebook.stem)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(notebook.read_text())

    monkeypatch.setattr(report, "execute", pretend)
    one, two = (house_notebook(tmp_path / "notebooks" / name) for name in ("a.ipynb", "b.ipynb"))

    def again(**options):
        runs.clear()
        pages, _ = make(tmp_path, books=("a", "b"), **options)
        return [page.status for page in pages], sorted(runs)

    other = {"inputs": "other records"}
    assert again() == (["built", "built"], ["a", "b"])
    assert again() == (["unchanged", "unchanged"], [])
    house_notebook(two, title="# Another")
    assert again() == (["unchanged", "built"], ["b"])
    assert again(**other) == (["built", "built"], ["a", "b"])
    drawn = again(**other, provenance={"digits": {"commit": "new"}})
    assert drawn == (["built", "built"], [])
    assert again(parameters={"seeds": 2}) == (["built", "built"], ["a", "b"])
    (tmp_path / "reports/digits/a.html").unlink()
    assert again(parameters={"seeds": 2}) == (["built", "unchanged"], [])
    (words := tmp_path / "code").mkdir()
    monkeypatch.setattr(report, "CODE", (*report.CODE, words))
    (words / "words.py").write_text("other words for methods")
    assert again(parameters={"seeds": 2}) == (["built", "built"], ["a", "b"])
    assert again(parameters={"seeds": 2}) == (["unchanged", "unchanged"], [])
    (tmp_path / "reports/.stamps.json").write_text("{")
    assert again(parameters={"seeds": 2}) == (["built", "built"], ["a", "b"])
    assert one.exists() and not list((tmp_path / "reports").rglob("*.partial*"))


def test_pages_are_made_with_every_module_that_a_notebook_reads():
    modules = ", ".join(path.stem for path in report._files(shown.HERE) if path.suffix == ".py")
    code = f"import sys; from kdlib.pages import {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    own = {name for name in loaded.stdout.split() if name.startswith("kdlib.")}
    known = {path for folder in report.CODE for path in report._files(folder)}
    paths = {Path(ROOT, *name.split(".")).with_suffix(".py") for name in own}
    assert len(own) > 20 and {path for path in paths if path.exists()} <= known


def test_a_failing_notebook_is_a_page_that_says_so(tmp_path):
    good = house_notebook(tmp_path / "notebooks" / "a.ipynb")
    before = good.read_text()
    assert make(tmp_path, books=["a"])[0][0].status == "built"
    source = "gains = {}\ngains['<b>common</b>']"
    house_notebook(good, new_code_cell(source, metadata={"tags": ["remove-cell"]}))
    for _ in range(2):  # a failure is never stamped as done
        (page,) = make(tmp_path, books=["a"])[0]
        assert page.status == "failed" and "KeyError" in page.message
    text = page.html.read_text("utf-8")
    document = Document(text)
    (banner,) = document.all("section", role="alert")
    assert "stopped at an error" in banner[0] and "KeyError: '<b>common</b>'" in banner[0]
    assert "gains['<b>common</b>']" in banner[0] and "python -m kdlib report" in banner[0]
    assert text.index('role="alert"') < text.index("<h1") and "papermill" not in text
    index = Document((tmp_path / "reports/index.html").read_text("utf-8"))
    assert index.all("p", **{"class": "failed"})
    good.write_text(before)  # these inputs were built once, but the failed page stands there now
    assert make(tmp_path, books=["a"])[0][0].status == "built"
    assert 'role="alert"' not in page.html.read_text("utf-8")


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    house_notebook(tmp_path / "notebooks" / "a.ipynb")
    (tmp_path / "reports").write_text("a file stands where the folder should be")
    with pytest.raises(KdlibError, match="cannot write the report"):
        make(tmp_path, books=["a"])
    (tmp_path / "reports").unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "replace", full)
    with pytest.raises(KdlibError, match=r"cannot be written \(No space left on device; "):
        make(tmp_path, books=["a"])


def test_an_interrupted_build_leaves_whole_pages(built, tmp_path, monkeypatch):
    target = tmp_path / "page.html"
    target.write_text("the whole old page")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        render.render(built / "reports/digits/00_overview.ipynb", target)
    assert target.read_text() == "the whole old page"


def test_a_run_is_quiet_also_where_a_kernel_is_told_to_end_in_the_middle(tmp_path):
    told = new_code_cell("get_ipython().kernel.log.error('KeyboardInterrupt caught')")
    book, output = house_notebook(tmp_path / "a.ipynb", told), tmp_path / "b.ipynb"
    call = f"report.execute({str(book)!r}, {str(output)!r}, {{'seeds': 2}})"
    command = [sys.executable, "-c", f"from kdlib.pages import report; {call}"]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    assert run.stdout == run.stderr == ""
    assert json.loads(output.read_text())["metadata"]["papermill"]["parameters"] == {"seeds": 2}
