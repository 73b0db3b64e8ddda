"""The audit's page, CSV, JSON and command with hostile names: text stays text, in the file and in a
browser."""

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from looking import CONTRAST, TEXT, Document, look, requested, unfold

import kdlib
from kdlib.__main__ import COMMANDS, audit
from kdlib.auditing import page as audit_page
from kdlib.config import KdlibError
from kdlib.options import parse
from kdlib.reading.sentences import AuditError, printable

FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1+1", "\r=1+1"]
HOSTILE = [
    "<script>document.title='stolen'; alert(1)</script>",
    "<img src=x onerror=\"document.title='stolen'\">",
    "\"'><b onclick=a>&amp;",
    "</table></div><h1>h</h1>",
    "javascript:alert(1)",
    "{{ 7*7 }}{% raw %}",
    "\u202egpj.exe",
    "a\nb",
    "nul\0",
    "\x1b[31mred",
    "👩‍🚀 emoji 名",
    "$\\frac{1}{2$",
    "x" * 5000,
    "url(https://evil.example/a.png)",
    "]]></style><style>@import 'https://evil.example'",
    *FORMULAS,
]
EACH = 16  # examples of a group
N = EACH * len(HOSTILE)
GROUPS = [HOSTILE[i % len(HOSTILE)] for i in range(N)]
CLASSES = HOSTILE[:4]
ROLES = ("teacher", "student", "baseline")


def models(n=N, classes=4):
    """(labels, {role: logits}) of which two groups are harmed."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    logits = {
        role: rng.normal(size=(n, classes)) + by * np.eye(classes)[y]
        for role, by in zip(ROLES, (3, 2, 2), strict=True)
    }
    harmed = np.arange(n) % len(HOSTILE) < 2
    logits["student"][harmed] -= 6 * np.eye(classes)[y][harmed]
    return y, logits


@pytest.fixture(scope="module")
def audited():
    y, logits = models()
    return kdlib.audit(y, **logits, classes=CLASSES, groups=GROUPS, resamples=20)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Path of the page of an audit whose classes, groups, files and conditions have hostile
    names."""
    folder = tmp_path_factory.mktemp("hostile <b>'$x$")
    y, logits = models()
    files = {role: folder / f"{role}<script>alert(1)\u202e.npz" for role in logits}
    for role, scores in logits.items():
        np.savez(files[role], logits=scores)
    found = kdlib.audit(y, **files, classes=CLASSES, groups=GROUPS, resamples=20)
    conditions = ["overall_gain < 100", " average_gain\n>\n0"]
    return found.save(folder / "hostile <i>'.html", conditions)[0]


@pytest.fixture(scope="module")
def document(hostile):
    return Document(hostile.read_text("utf-8"))


# ---------------------------------------------------------------- the file


def test_every_hostile_name_is_text(document, hostile):
    text = hostile.read_text("utf-8")
    tags = {tag for tag, _, _ in document.tags}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base", "b", "i"}
    assert "<script" not in text
    for tag, attributes, _ in document.tags:
        assert not [name for name in attributes if name.startswith("on")]
        loads = ("src", "srcset", "data", "poster", *(["href"] if tag in ("link", "a") else []))
        addresses = [attributes[name] for name in loads if name in attributes]
        assert all(address.startswith(("data:", "#")) for address in addresses), addresses
    ((style, _),) = document.all("style")
    assert "evil.example" not in style
    ((_, policy),) = document.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy["content"]
    cells = [words for words, _ in document.all("th", scope="row")]
    for name in HOSTILE:  # in a table of a figure and in the last one
        assert cells.count(printable(name)) >= 2
    assert not re.search("[\0\x1b\u202a-\u202e]", text)  # what would hide or turn what is read


def test_landmarks_headings_and_pictures(document):
    levels = [int(tag[1]) for tag, _, _ in document.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert document.all("html", lang="en") and document.all("main", id="content")
    assert document.all("a", href="#content")
    said = [a["alt"] for _, a in document.all("img")]
    assert len(said) == len(set(said)) == 4
    assert all(len(s.split()) >= 6 and s.endswith(".") for s in said)
    assert all(words.strip() for words, _ in document.all("table"))
    assert len(document.all("caption")) == len(document.all("table"))


def test_a_second_page_differs_in_its_last_line_only(audited):
    first, second = (audit_page.page(audited).splitlines() for _ in range(2))
    assert first[:-1] == second[:-1] and first[-1].startswith('<p class="built">Built ')


def test_the_csv_guards_formulas_and_gives_every_name_back(hostile):
    file = hostile.with_suffix(".csv")
    rows = list(csv.reader(io.StringIO(file.read_bytes().decode(), newline="")))
    assert rows[0][0] == "group" and all(len(row) == len(rows[0]) for row in rows)
    guarded = ["'" + name if name in FORMULAS else name for name in HOSTILE]
    assert sorted(row[0] for row in rows[1:]) == sorted(guarded)
    for cell in (cell for row in rows for cell in row):
        assert not cell.startswith(("=", "+", "@", "\t", "\r"))
        assert not cell.startswith("-") or float(cell) < 0
    assert pd.read_csv(file).set_index("group").loc["'=1+1", "n"] == EACH


def test_the_json_is_valid_and_says_the_names_as_they_are(hostile):
    text = hostile.with_suffix(".json").read_text("ascii")
    facts = json.loads(text, parse_constant=lambda c: pytest.fail(c))
    assert sorted(row["group"] for row in facts["groups"]) == sorted(HOSTILE)
    assert [c["met"] for c in facts["fail_if"]] == [True, False] and facts["examples"] == N
    assert [row["role"] for row in facts["inputs"]] == ["labels", *ROLES, "groups"]


def test_headline_and_widgets_are_text_too(audited):
    assert audited.metrics["groups_harmed"] >= 2
    told = " ".join(audited.headline())
    assert "\n" not in told and "<script>document" in told
    parts = audit_page.view(audited, group=printable(HOSTILE[0]))
    for shown in [audited._repr_html_(), *(part._repr_html_() for part in parts)]:
        assert "<script" not in shown and "<img src=x" not in shown
    assert HOSTILE[0] in Document(parts[-1]._repr_html_()).all("strong")[0][0]


def test_what_is_explored_follows_the_choice(audited):
    choices, out = audit_page.explore(audited).children
    bucket, metric, group = choices.children
    assert f"{len(HOSTILE)} groups of bucket all, lowest gain first" in out.value
    bucket.value, metric.value, group.value = "teacher weak", "n", "=1+1"
    rows = audited.groups
    assert f"{(rows.bucket == 'teacher weak').sum()} groups of bucket teacher weak" in out.value
    row = rows[rows.group == "=1+1"].iloc[0]
    assert f"=1+1: {row.n} examples; teacher {row.teacher:.1f} %, student" in out.value


@settings(deadline=None, max_examples=4, suppress_health_check=list(HealthCheck))
@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).map(
            lambda text: f"{text}x".lstrip(" ")  # blanks around a name are none of it
        ),
        min_size=3,
        max_size=3,
        unique=True,
    ),
    file=st.text(max_size=10),
)
def test_any_names_make_a_page_that_pairs_its_tags_and_files_that_parse(
    tmp_path_factory, names, file
):
    y = np.arange(9) % 3
    found = kdlib.audit(y, y, (y + (y > 1)) % 3, groups=[names[k] for k in y], resamples=2)
    document = Document(audit_page.page(found, name=file))
    cells = {words for words, _ in document.all("th", scope="row")}
    assert set(map(printable, names)) <= cells
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_page, "page", lambda *_: "")  # done above
        _, facts, table = found.save(tmp_path_factory.mktemp("any") / "a.html")
    assert sorted(row["group"] for row in json.loads(facts.read_text())["groups"]) == sorted(names)
    rows = list(csv.reader(io.StringIO(table.read_bytes().decode(), newline="")))
    written = sorted(row[0].removeprefix("'") for row in rows[1:])
    assert written == sorted(name.removeprefix("'") for name in names)


def test_ten_thousand_groups(tmp_path):
    rng = np.random.default_rng(0)
    n, names = 20_000, [f"<b>group {g}</b> {'of a long name' * 3}" for g in range(10_000)]
    y = rng.integers(0, 5, n)
    groups = np.array(names, dtype=object)[np.arange(n) % 10_000]
    scores = [np.eye(5)[y] * by + rng.normal(size=(n, 5)) for by in (2, 1)]
    start = time.process_time()
    found = kdlib.audit(y, *scores, groups=groups, resamples=10)
    page, facts, table = found.save(tmp_path / "many.html")
    assert time.process_time() - start < 60
    assert page.stat().st_size < 3_000_000
    assert len(json.loads(facts.read_text())["groups"]) == len(pd.read_csv(table)) == 10_000
    document = Document(page.read_text())
    assert "b" not in {tag for tag, _, _ in document.tags}
    assert "10,000 groups" in document.all("footer")[0][0]


# ---------------------------------------------------------------- in a browser


@pytest.fixture
def opened(browser, hostile):
    browser.get("about:blank")  # what Chromium shows at its start asks for much
    browser.get_log("browser"), browser.get_log("performance")
    look(browser, 1100)
    browser.get(hostile.as_uri())
    return browser


def test_nothing_runs_nothing_leaves(opened):
    from selenium.common.exceptions import NoAlertPresentException

    unfold(opened)
    with pytest.raises(NoAlertPresentException):
        _ = opened.switch_to.alert.text
    assert opened.title == "Whom did this distillation hurt?"
    assert len(requested(opened)) == 1 and opened.get_log("browser") == []
    loaded = "return [...document.images].every(e => e.complete && e.naturalWidth > 0)"
    assert opened.execute_script(loaded)
    assert "<script>document.title='stolen'" in opened.find_element("tag name", "main").text


def test_a_page_that_ran_a_script_would_be_seen(opened, tmp_path):
    """The check above can fail: without escaping and policy, the same name runs."""
    (tmp_path / "a.html").write_text(f"<title>a</title>{HOSTILE[1]}")
    opened.get((tmp_path / "a.html").as_uri())
    assert opened.title == "stolen" and opened.get_log("browser")


@pytest.mark.parametrize("width", [320, 360])
def test_nothing_scrolls_sideways(opened, width):
    unfold(opened)
    look(opened, width)
    assert opened.execute_script("return innerWidth") == width
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    right = "return [...document.images].map(e => e.getBoundingClientRect().right)"
    assert max(opened.execute_script(right)) <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(opened, scheme):
    unfold(opened)
    look(opened, 1100, scheme)
    found = opened.execute_script(CONTRAST, TEXT)
    assert len(found) > 100 and min(found)[0] >= 4.5, min(found)


# ---------------------------------------------------------------- the first screen, and its width

SCREENS = {1280: 900, 390: 844}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{name: path} of pages that people have: groups by the dozen, many, with all columns."""
    folder = tmp_path_factory.mktemp("pages")
    y, logits = models(2000)
    long = [f"a group with a rather long name, number {g}" for g in range(1000)]
    several = {
        role: [scores, scores + 0.1 * (role == "student")] for role, scores in logits.items()
    }
    rng = np.random.default_rng(1)
    for role in ("student", "baseline"):
        several[role][1] = several[role][0] + rng.normal(size=(2000, 4))
    wide = {"train_counts": [5 * g for g in range(40)], "weights": rng.random(2000) + 0.1}
    found = {
        "forty": kdlib.audit(
            y, **several, groups=[long[i % 40] for i in range(2000)], resamples=20, **wide
        ),
        "thousand": kdlib.audit(
            y, **logits, groups=[long[i % 1000] for i in range(2000)], resamples=20
        ),
        "classes": kdlib.audit(y, logits["teacher"], logits["student"], resamples=20),
    }
    return {name: a.save(folder / f"{name}.html")[0] for name, a in found.items()}


@pytest.fixture
def shown(browser, pages):
    """Function that opens a page by its name, at a width, with everything folded out if asked."""

    def open_page(name, width, unfolded=False):
        look(browser, width)
        browser.get(pages[name].as_uri())
        unfold(browser, unfolded)
        return browser

    return open_page


@pytest.mark.parametrize("name", ["forty", "thousand", "classes"])
def test_answer_facts_and_figure_stand_in_the_first_screen(shown, name):
    for width, height in SCREENS.items():
        first = "return document.querySelector(arguments[0]).getBoundingClientRect()"
        opened = shown(name, width)
        headline = opened.execute_script(first, ".kd-headline")
        facts = opened.execute_script(first, ".facts")
        figure = opened.execute_script(first, ".kd-figure img")
        assert headline["bottom"] <= facts["top"] + 1 < facts["bottom"] <= figure["top"] < height
        if width == 1280:
            assert figure["top"] + figure["height"] / 2 <= height


@pytest.mark.parametrize("width", [1280, 1920])
def test_no_table_is_cut_on_a_desk(shown, width):
    boxes = "[...document.querySelectorAll('.scroll')]"
    cut = f"return {boxes}.filter(e => e.scrollWidth > e.clientWidth + 1).length"
    for name in ("forty", "thousand", "classes"):
        opened = shown(name, width, unfolded=True)
        assert len(opened.find_elements("css selector", ".scroll")) >= 7
        assert opened.execute_script(cut) == 0
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width


def test_on_a_phone_a_table_scrolls_in_its_box_beside_its_first_column(shown):
    opened = shown("forty", 390, unfolded=True)
    moved = """
    const box = document.querySelector(".kd-appendix .scroll");
    const cells = box.querySelector("tbody tr").cells;
    const left = cell => cell.getBoundingClientRect().left;
    const before = [left(cells[0]), left(cells[3])];
    box.scrollLeft = 200;
    return [left(cells[0]) - before[0], left(cells[3]) - before[1], cells[0].offsetWidth];
    """
    first, other, width = opened.execute_script(moved)
    assert first == 0 and other == -200 and width < 390 / 2
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 390


def test_letters_of_figures_are_9_pixels_high_on_a_phone(shown):
    opened = shown("forty", 390)
    drawn = "return [...document.images].map(e => [e.currentSrc, e.getBoundingClientRect().width])"
    for source, width in opened.execute_script(drawn):
        svg = base64.b64decode(source.partition(",")[2]).decode()
        (_, _, points, _) = map(float, re.search(r'viewBox="([^"]*)"', svg)[1].split())
        letters = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)]
        assert letters and width <= 390 and min(letters) * width / points >= 9


def test_a_thousand_groups_make_a_small_page(pages):
    assert pages["thousand"].stat().st_size < 1_500_000


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    y, logits = models(60, 3)
    np.save(folder / "y.npy", y)
    for role, scores in logits.items():
        np.save(folder / f"{role}.npy", scores)
    return folder


def test_the_numbers_are_those_of_the_files(command, tmp_path):
    code, out, err = command("--baseline", "baseline.npy")
    assert code == 0 and not err and out.splitlines()[-1] == "audit.html, audit.json, audit.csv"
    facts = json.loads((tmp_path / "audit.json").read_text())
    y = np.load(tmp_path / "y.npy")
    chosen = [np.load(tmp_path / f"{role}.npy").argmax(axis=1) for role in ROLES[1:]]
    gain = 100 * ((chosen[0] == y).mean() - (chosen[1] == y).mean())
    assert facts["metrics"]["overall_gain"]["estimate"] == pytest.approx(gain, abs=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--edges", "1"],
        ["--edges", "a", "b"],
        ["--edges", "20", "100"],
        ["--edges", "0", "0"],
        ["--edges", "9" * 5000, "1"],
        *(["--worst", text] for text in ("0", "4", "x", "1.5")),
        *(["--kind", text] for text in ("foo", "classes", "probabilities")),
        ["--kind", "student=logits", "teacher"],
        ["--kind", "student=logits", "student=probabilities"],
        *(["--labels", text] for text in ("", "-", "teacher.npy", "a\nb\x1b[1m.npy")),
        ["--groups", "."],
        ["--weights", "teacher.npy"],
        ["--train-counts", "y.npy"],
        ["--classes", "nope"],
        ["--classes", "y.npy"],
        ["--student"],
        ["--student", "student.npy", "student.npy"],
        ["--student", "student.npy", "baseline.npy", "--baseline", "baseline.npy"],
        ["extra"],
        ["--foo"],
        ["--pair", "a/b"],
        ["--method", "kd"],
        ["--seeds", "2"],
        ["--study", "digits"],
        *(["--out", text] for text in ("a.txt", "", ".html", "folder.html", "y.npy/x.html")),
        *(["--out", text] for text in ("a" * 300 + ".html", "/proc/x/y.html")),
    ],
    ids=lambda a: " ".join(a)[:30].encode("ascii", "backslashreplace").decode(),
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(command, tmp_path, monkeypatch, arguments):
    (tmp_path / "folder.html").mkdir()
    monkeypatch.setattr(audit_page, "page", lambda *_: "")
    code, out, err = command(*arguments)
    assert code == 2 and "points" not in out and err.count("\n") == 1
    assert err.startswith("kdlib: ") and len(err) > 30
    assert printable(err[:-1], None) == err[:-1]


@pytest.mark.parametrize(
    ("role", "file", "other"),
    [("student", "teacher.npy", "teacher"), ("baseline", "student.npy", "baseline")],
)
def test_a_control_of_one_file_is_an_answer_with_a_warning(command, role, file, other):
    code, out, err = command(f"--{role}", file)
    assert code == 0 and not err
    assert out.index("a control") < out.index(f"Every gain is 0: the student and the {other}")


def test_nothing_is_written_over_an_input(command, tmp_path):
    for name, option, content in (
        ("groups.csv", "--groups", "g\n" + "a\nb\nc\n" * 20),
        ("names.csv", "--classes", "a\nb\nc\n"),
    ):
        (tmp_path / name).write_text(content)
        code, _, err = command(option, name, "--out", name.replace(".csv", ".html"))
        assert code == 2 and f"would write over {name}, which this audit reads." in err
        assert (tmp_path / name).read_text() == content
    (tmp_path / "link.csv").symlink_to(tmp_path / "groups.csv")
    assert command("--groups", tmp_path / "groups.csv", "--out", "link.html")[0] == 2
    found = kdlib.audit("y.npy", "teacher.npy", "student.npy", groups="groups.csv", resamples=2)
    with pytest.raises(AuditError, match="would write over"):
        found.save("groups.html")


@pytest.mark.parametrize("name", ["a\nb '\".html", "new/folder/\udcff\u202e $x$ <b>.html"])
def test_odd_names_to_write_are_written_and_told_on_one_line(command, tmp_path, name):
    code, out, err = command("--out", name)
    assert code == 0 and not err and (tmp_path / name).read_text().startswith("<!doctype html>")
    last = out.splitlines()[-1]
    assert last.startswith(printable(name, None)) and last.endswith(".csv") and last.encode()
    assert all((tmp_path / name).with_suffix(suffix).exists() for suffix in (".json", ".csv"))


def test_a_full_disk_is_one_line_and_leaves_no_half_page(command, tmp_path, monkeypatch):
    (tmp_path / "audit.html").write_text("the page of yesterday")

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    code, out, err = command()
    assert code == 2 and "points" not in out
    assert "audit.html cannot be written (No space left on device)." in err
    assert (tmp_path / "audit.html").read_text() == "the page of yesterday"
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_terminal_without_minus_or_letters(files, tmp_path):
    (tmp_path / "names.txt").write_text("naïve\n名\n👩\n", encoding="utf-8")
    named = {role: files / f"{role}.npy" for role in ROLES}
    named |= {"labels": files / "y.npy", "classes": "names.txt", "out": "名.html"}
    words = [word for name, value in named.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "kdlib", "audit", *words],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "\\u540d.html" in done.stdout.decode("ascii")


@pytest.mark.parametrize("option", [["--kind", "logits"], ["--edges", "5", "4"], ["--worst", "2"]])
def test_options_of_files_do_not_go_with_a_study(option):
    with pytest.raises(KdlibError, match=rf"{option[0]} does not go with --study"):
        audit(parse(["audit", "--study", "digits", *option], COMMANDS))
