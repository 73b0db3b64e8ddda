"""The report in a real browser: opened as a file and served, light and dark, wide and narrow, by
keyboard, and on paper."""

import base64
import contextlib
import functools
import http.server
import io
import itertools
import re
import threading
import time
import unicodedata
from types import SimpleNamespace

import pandas as pd
import pypdf
import pytest
from conftest import ROOT
from looking import CARDS, CONTRAST, HOSTILE, PROVENANCE, TEXT, look, requested, unfold
from synthetic import GROUPS, but, write_study

from kdlib.pages import render, report
from kdlib.study.grids import KINDS, STUDIES

NAMES = [HOSTILE, "=1+1", *(f"a class of a long name {g}" for g in range(2, GROUPS))]
# the methods' tables; every other kind of figure, and the appendix
BOOKS = ["00_overview", "03_softening_the_teacher"]
PAGES = ["index.html", *(f"digits/{book}.html" for book in BOOKS)]


def history(method, seed):
    """What a run recorded while it was trained."""
    return {
        "val_accuracy_by_group": {str(e): [0.1 * e] * GROUPS for e in (2, 4, 6)},
        "val_accuracy_by_half": {str(e): [0.1 * e, 0.09 * e] for e in (2, 4, 6)},
    }


@contextlib.contextmanager
def served(folder):
    """The address of a folder, served on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        log_message = staticmethod(lambda *_: None)

    handler = functools.partial(Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def gallery(browser, tmp_path_factory):
    """{"file", "served": address} of a report of real notebooks, run from records made by hand with
    hostile class names."""
    folder = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RECORDS", str(folder / "records"))
        rates = {"kd": but(0.8, few=0.3), "shuffled": ("kd", "one_hot")}
        write_study(STUDIES["digits"], 2, names=NAMES, facts=history, **rates)
        pages = report.build(
            {"digits": {"seeds": 2}},
            folder / "reports",
            ROOT / "notebooks",
            say=lambda line: None,
            books={"digits": BOOKS},
            inputs="",
            provenance={"digits": PROVENANCE},
            verdicts=lambda study: CARDS,
        )
    assert [page.message for page in pages] == [""] * len(BOOKS)
    with served(folder / "reports") as address:
        yield {"file": (folder / "reports").as_uri(), "served": address}


@pytest.fixture(scope="module", params=PAGES)
def page(request, browser, gallery):
    """The address of a page that has just been opened, wide and light."""
    look(browser, 1100)
    browser.get(f"{gallery['file']}/{request.param}")
    return browser.current_url


# ---------------------------------------------------------------- what is loaded

LOADED = """return performance.getEntriesByType('resource').map(e => e.name)
    .filter(name => !name.startsWith('data:'))"""


@pytest.mark.parametrize("how", ["file", "served"])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_but_the_page_is_requested_and_the_console_is_silent(browser, gallery, how, name):
    browser.get_log("browser"), browser.get_log("performance")
    look(browser, 1100)
    browser.get(f"{gallery[how]}/{name}")
    assert requested(browser) == [browser.current_url]
    assert len(browser.page_source.encode()) < 3_000_000
    assert browser.execute_script(LOADED) == []
    assert browser.get_log("browser") == []
    assert "stolen" not in browser.title


def test_a_request_that_leaves_the_page_would_be_seen(browser, tmp_path):
    """The checks above can fail: of a page that asks another origin for a picture and complains,
    each of them does."""
    with served(tmp_path) as here, served(tmp_path) as elsewhere:
        (tmp_path / "a.html").write_text(
            f"<link rel=icon href='data:,'><script>console.error('woe')</script>"
            f"<img src='{elsewhere}/picture.png' alt='b'>"
        )
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(f"{here}/a.html")
        assert requested(browser) == [f"{here}/a.html", f"{elsewhere}/picture.png"]
        assert browser.execute_script(LOADED) == [f"{elsewhere}/picture.png"]
        assert ["woe" in entry["message"] for entry in browser.get_log("browser")] == [True]


# ---------------------------------------------------------------- for those who do not see it


def test_every_picture_is_there_and_has_its_own_sentence(browser, page):
    assert browser.execute_script(
        "return [...document.images].every(e => e.complete && e.naturalWidth > 0)"
    )
    said = browser.execute_script("return [...document.images].map(e => e.alt)")
    assert len(said) >= 2 and len(set(said)) == len(said)
    assert all(len(sentence.split()) >= 8 and sentence.endswith(".") for sentence in said)


def test_headings_are_in_order_and_everything_has_a_name(browser, page):
    """As a screen reader has it: the accessibility tree of the browser."""
    unfold(browser)
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [n for n in tree if not n["ignored"]]

    def value(node, key):
        return node.get(key, {}).get("value", "")

    headings = [n["properties"] for n in nodes if value(n, "role") == "heading"]
    levels = [p["value"]["value"] for some in headings for p in some if p["name"] == "level"]
    assert levels[0] == 1 and levels.count(1) == 1 and len(levels) >= 3
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    roles = [value(n, "role") for n in nodes]
    assert roles.count("main") == roles.count("contentinfo") == 1
    assert roles.count("navigation") == ("digits/" in page)
    named = {"link", "image", "table", "heading", "DisclosureTriangle", "navigation", "RootWebArea"}
    # the index has no table
    assert named - set(roles) <= ({"table", "navigation"} if "index" in page else set())
    # a <details> is a group that its summary names; the boxes of tables say that they are one
    nameless = [n for n in nodes if value(n, "role") in named and not value(n, "name").strip()]
    links = {value(n, "name").strip() for n in nodes if value(n, "role") == "link"}
    assert not nameless and "¶" not in links


# ---------------------------------------------------------------- by keyboard

REACHABLE = """const some = 'a[href], summary, button, input, [tabindex="0"]';
window.reachable = [...document.querySelectorAll(some)]
  .filter(e => e.checkVisibility()); return reachable.length"""
FOCUSED = """const e = document.activeElement;
return [reachable.indexOf(e), e === document.body, e.tagName, e.textContent.slice(0, 30)]"""


@pytest.mark.parametrize("unfolded", [False, True])
def test_the_focus_walks_through_everything_in_order(browser, page, unfolded):
    from selenium.webdriver.common.keys import Keys

    unfold(browser, unfolded)
    start = "document.activeElement.blur(); scrollTo(0, 0); history.replaceState(null, '', '#'); "
    count = browser.execute_script(start + REACHABLE)
    seen, body = [], browser.find_element("tag name", "body")
    for _ in range(count + 40):  # more than needed, so that a trap shows
        (browser.switch_to.active_element if seen else body).send_keys(Keys.TAB)
        place, left, *what = browser.execute_script(FOCUSED)
        if left or place == 0 and seen:
            break
        seen.append((place, *what))
    places = [place for place, *_ in seen if place >= 0]
    assert places == list(range(count)), seen
    assert seen[0][2] == "Skip to the content"
    boxes = {tag for place, tag, _ in seen if place < 0}
    assert boxes <= {"PRE", "MATH", "DIV"}  # that scroll, which Chromium adds itself


def test_the_skip_link_shows_itself_and_leads_to_the_content(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.get(page)
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.execute_script(
        "const e = document.activeElement; return [e.textContent, getComputedStyle(e).outlineStyle]"
    ) == ["Skip to the content", "solid"]
    time.sleep(0.05)
    assert browser.execute_script("return document.activeElement.getBoundingClientRect().top >= 0")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.execute_script("return document.activeElement.id") == "content"


# ---------------------------------------------------------------- by eye


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("media", ["", "print"], ids=["screen", "print"])
def test_contrast(browser, page, scheme, media):
    unfold(browser)
    look(browser, 1100, scheme, media)
    found = browser.execute_script(CONTRAST, TEXT)
    assert len(found) > 20 and min(found)[0] >= 4.5, min(found)
    paper = "return getComputedStyle(document.documentElement).backgroundColor"
    colour = sum(map(int, re.findall(r"\d+", browser.execute_script(paper))[:3]))
    assert (colour > 380) == (scheme == "light" or media == "print")


RIGHT = (
    "return [...document.images].map(e => (e.closest('.frame') || e).getBoundingClientRect().right)"
)
WIDE = """return [...document.querySelectorAll('.scroll')]
    .filter(e => e.scrollWidth > e.clientWidth)
  .map(e => e.tabIndex)"""


def test_nothing_scrolls_sideways_but_wide_boxes(browser, page):
    unfold(browser)
    for width in (1100, 360, 320):
        look(browser, width)
        assert browser.execute_script("return innerWidth") == width
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert max(browser.execute_script(RIGHT)) <= width
    # at 320: tables that scroll in a box of their own, which the keyboard reaches
    assert set(browser.execute_script(WIDE)) == (set() if "index" in page else {0})


FIRST = "return document.querySelector('main img').getBoundingClientRect().top + scrollY"


@pytest.mark.parametrize(("width", "most"), [(1280, 600), (1920, 600), (390, 1200)])
def test_the_first_figure_stands_in_the_first_screen(browser, page, width, most):
    unfold(browser, False)
    look(browser, width)
    assert 0 < browser.execute_script(FIRST) <= most


EDGE = 22  # pixels that stay free at either side of a window
TABLES = """const boxes = [...document.querySelectorAll('.scroll')];
return boxes.filter(e => e.checkVisibility()).map(e =>
  [e.querySelector('caption').textContent.slice(0, 50), e.scrollWidth, e.clientWidth])"""


@pytest.mark.parametrize("width", [1280, 1920])
def test_no_table_is_cut_on_a_desk(browser, page, width):
    """While the window has room: caption, needed and shown width of those that are."""
    unfold(browser)
    look(browser, width)
    found = browser.execute_script(TABLES)
    assert len(found) >= 8 or "index" in page
    cut = [table for table in found if table[1] > table[2] + 1]
    assert [table for table in cut if table[2] < width - 2 * EDGE] == []


STAYS = """return [...document.querySelectorAll('.scroll')].map(e => {
  const table = e.querySelector('table'), cell = table.tBodies[0].rows[0].cells[0];
  const edges = part => { const box = part.getBoundingClientRect(); return [box.left, box.right] };
  const before = edges(cell)[0];
  e.scrollLeft = 10000;
  const moved = e.scrollLeft;
  return [moved, edges(cell)[0] - before, ...edges(table.caption)] })"""


def test_on_a_phone_a_table_scrolls_beside_its_first_column_and_under_its_caption(browser, page):
    unfold(browser)
    look(browser, 390)
    found = browser.execute_script(STAYS)
    if "index" not in page:
        assert max(moved for moved, *_ in found) > 100
    for _, shift, left, right in found:
        assert shift == 0 and 0 <= left < right <= 390


LETTERS = """return [...document.querySelectorAll('.frame img')]
    .map(e => [e.currentSrc, e.getBoundingClientRect().width])"""


def test_letters_of_figures_are_9_pixels_high_on_a_phone(browser, page):
    """Also of the figure of the index; its thumbnails lead to the pages."""
    unfold(browser)
    look(browser, 390)
    for source, width in browser.execute_script(LETTERS):
        svg = base64.b64decode(source.partition(",")[2]).decode()
        (_, _, points, _) = map(float, re.search(r'viewBox="([^"]*)"', svg)[1].split())
        letters = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)]
        assert letters and min(letters) * width / points >= 9


def test_the_figure_of_the_index_is_whole_on_a_phone(browser, gallery):
    """The rarest classes are in its right half."""
    look(browser, 390)
    browser.get(f"{gallery['file']}/index.html")
    frame = browser.find_element("css selector", ".main-figure .frame")
    assert frame.find_elements("tag name", "img")
    wide = "return [arguments[0].scrollWidth, arguments[0].clientWidth]"
    needed, there = browser.execute_script(wide, frame)
    assert needed <= there


SEEN = "return [...document.querySelectorAll('.pages a')].map(e => e.checkVisibility())"


def test_links_to_the_pages_on_the_same_data_are_folded_on_a_phone(browser, gallery):
    browser.get(f"{gallery['file']}/digits/{BOOKS[0]}.html")
    look(browser, 1280)
    assert browser.execute_script(SEEN) == [True] * 3
    look(browser, 390)
    assert browser.execute_script(SEEN) == [True, False, False]
    browser.find_element("css selector", ".pages summary").click()
    assert browser.execute_script(SEEN) == [True] * 3


@pytest.mark.parametrize(("width", "most"), [(1280, 4300), (390, 6900)])
def test_the_index_of_all_studies_is_below_five_screens(browser, gallery, tmp_path, width, most):
    """With every study there is, eight findings of two pairs in each that has verdicts."""
    browser.get(f"{gallery['file']}/digits/{BOOKS[0]}.html")
    page = tmp_path / "page.html"
    page.write_text(browser.page_source, encoding="utf-8")
    pages, verdicts = [SimpleNamespace(study=render.THEORY, html=page, status="built")], {}
    for name, study in STUDIES.items():
        same = SimpleNamespace(study=name, html=page, status="built")
        pages += [same for _ in KINDS[study.kind]]
        both = [c | {"pair": pair} for pair in ("resnet8 → resnet8", "cnn → cnn") for c in CARDS]
        verdicts[name] = [*both, *both[:3], *both[-3:]] if study.kind == "findings" else []
    provenance = dict.fromkeys([*STUDIES, render.THEORY], PROVENANCE)
    render.write_index(pages, tmp_path / "index.html", verdicts, provenance)
    browser.get((tmp_path / "index.html").as_uri())
    look(browser, width)
    assert browser.execute_script("return document.documentElement.scrollHeight") <= most
    # what can be proved; below it the main study begins
    for first in ("section.theory", "section.study h2"):
        end = f"return document.querySelector('{first}').getBoundingClientRect().bottom"
        assert browser.execute_script(end) <= 900 or width < 1000


def test_verdicts_have_a_word_and_a_shape(browser, gallery):
    look(browser, 1100)
    browser.get(f"{gallery['file']}/index.html")
    unfold(browser)
    script = """return [...document.querySelectorAll('.card .verdict')].map(e =>
      [e.textContent.trim(), e.querySelector('svg').innerHTML])"""
    cards = browser.execute_script(script)
    assert [word for word, _ in cards] == [card["verdict"] for card in CARDS]
    assert len({shape for _, shape in cards}) == 4  # contradicted has one, under whatever reading
    assert "preliminary: 3 of 8 seeds" in browser.find_element("tag name", "main").text


# ---------------------------------------------------------------- to take away


def test_a_page_prints(browser, page):
    unfold(browser, False)
    look(browser, 1100, "dark")
    first = "document.querySelector('.kd-headline p') || document.querySelector('.lead')"
    headline = browser.execute_script(f"return ({first}).innerText")
    how = {"printBackground": True, "generateDocumentOutline": True}
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", how)["data"])
    sheets = pypdf.PdfReader(io.BytesIO(pdf)).pages
    assert 1 <= len(sheets) <= 20
    title = browser.title.encode("ascii", "ignore")[:20]
    assert title in pdf  # what it is called, and its outline of headings
    look(browser, 1100, media="print")
    elsewhere = """return [...document.querySelectorAll('nav, .skip, .code')]
      .filter(e => e.checkVisibility()).length"""
    assert browser.execute_script(elsewhere) == 0  # nothing that leads elsewhere
    text = "\n".join(sheet.extract_text() for sheet in sheets)
    text = " ".join(unicodedata.normalize("NFKC", text).split())  # no ligatures
    assert " ".join(headline.split())[:60] in text
    assert "Skip to the content" not in text and "All findings" not in text


def test_the_table_of_classes_can_be_saved(browser, gallery, tmp_path):
    allow = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", allow)
    for how in ("file", "served"):
        browser.get(f"{gallery[how]}/digits/{BOOKS[1]}.html")
        link = browser.find_element("css selector", "a[download]")
        name = link.get_attribute("download")
        link.click()
        end = time.time() + 10
        while not (tmp_path / name).exists() and time.time() < end:
            time.sleep(0.1)
        table = pd.read_csv(tmp_path / name)
        (tmp_path / name).unlink()
        assert name == "digits-cnn-cnn_small-by-class.csv"
        assert len(table) == 6 * 2 * GROUPS  # methods and teacher, seeds, classes
        assert set(table["class"]) == {HOSTILE, "'=1+1", *NAMES[2:]}
        few = table[(table["class"] == NAMES[9]) & (table.method == "distillation")]
        # 0.3 of 20 on both parts of the test images
        assert (few["test images"] == 40).all() and (few.correct == 12).all()
