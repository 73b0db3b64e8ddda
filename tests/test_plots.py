"""Figures: each says what it shows; names from data stay text; the same bytes from the same
table."""

import base64
import csv
import hashlib
import html
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from synthetic import COUNTS, GROUPS, SELF, TINY, but, made

from kdlib.evidence import findings, words
from kdlib.methods import ARMS, METHODS, look_of, name_of
from kdlib.pages import plots, tables
from kdlib.pages import shown as shown_as
from kdlib.pages.plots import Headline, Shown, Table, Verdicts, clear

DRAWN = ["kd", "ada_alpha", "ada_margin"]
HOSTILE = '<script>alert(1)</script>"'
NAMES = [HOSTILE, *(f"class {g}" for g in range(1, GROUPS - 1)), "a -- b & c"]
FIGURES = (
    "gain_by_bucket",
    "gain_over_kd",
    "gain_by_group",
    "margin_and_gain",
    "copied_and_amplified",
    "trade_off",
    "margins",
    "calibration",
    "log_loss",
    "power",
)


def drawn(name, p):
    """The Shown of a name, from a Panel, as the pages draw it."""

    def sentence(finding):
        return next(c["sentence"] for c in findings.pair_verdicts(p) if c["finding"] == finding)

    return {
        "gain_by_bucket": lambda: plots.gain_by_bucket(tables.gain_by_bucket(p, DRAWN), p.name),
        "gain_over_kd": lambda: plots.gain_by_bucket(
            tables.gain_by_bucket(p, DRAWN[1:], "kd"), p.name, "distillation"
        ),
        "gain_by_group": lambda: plots.gain_by_group(tables.gain_by_group(p), p.name),
        "margin_and_gain": lambda: plots.margin_and_gain(
            tables.gain_by_group(p), p.name, sentence("F3a")
        ),
        "copied_and_amplified": lambda: plots.copied_and_amplified(
            tables.copied_errors(p, p.runs),
            tables.amplified_errors(p, p.runs),
            p.name,
            sentence("F3b"),
        ),
        "trade_off": lambda: plots.trade_off(tables.gain_by_bucket(p, DRAWN), p.name),
        "margins": lambda: plots.margins(tables.margins(p), p.name),
        "calibration": lambda: plots.calibration_by_bucket(
            tables.calibration(p, p.study.methods), p.name
        ),
        "log_loss": lambda: plots.log_loss_by_bucket(tables.log_loss(p, p.study.methods), p.name),
        "power": lambda: plots.power(tables.power(p, DRAWN), p.name),
    }[name]()


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """Of the shares of false alarms, which a card tells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def panels(tmp_path_factory):
    """{name: Panel}: of self-distillation with hostile group names, of another teacher, and of one
    seed."""

    def kd(seed, split):
        return but(0.8, few=0.3, g0=0.1) + 0.05 * (seed % 2)  # whole images; all classes vary alike

    usual = but(0.7, g0=0.9)  # of teachers too: some are baselines
    how = {
        "names": NAMES,
        "kd": kd,
        "one_hot": usual,
        "teacher": usual,
        "copies": ("kd",),
        "shuffled": ("kd",),
        "margin": lambda seed: np.linspace(0.95, 0.1 + 0.01 * seed, GROUPS),
    }
    made_of = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, study, seeds in (
            ("self", replace(TINY, pairs=(SELF,)), 3),
            ("other", TINY, 3),
            ("one seed", TINY, 1),
        ):
            patch.setenv("KDLIB_RECORDS", str(tmp_path_factory.mktemp("records")))
            made_of[name] = made(study, seeds=seeds, **how)
    return made_of


@pytest.fixture(scope="module")
def shown(panels):
    """{name: Shown} of the self-distillation panel."""
    return {name: drawn(name, panels["self"]) for name in FIGURES}


class Page(HTMLParser):
    """Tags with attributes, and the text inside each kind of tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        for tag in self._open:
            self.text[tag] = self.text.get(tag, "") + data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


# ---------------------------------------------------------------- words


def row(estimate, low, high):
    return pd.Series({"estimate": estimate, "low": low, "high": high})


@pytest.mark.parametrize(
    ("estimate", "low", "high", "words"),
    [
        (2.0, 1.0, 3.0, "a clear gain (+2.0 points)"),
        (-2.0, -3.0, -1.0, "a clear loss (−2.0 points)"),
        (2.0, -0.1, 4.1, "no clear difference (+2.0 points)"),
        (-0.4, -1.0, 0.2, "no clear difference (−0.4 points)"),
        (0.0, 0.0, 0.0, "no clear difference (+0.0 points)"),
        (1.0, 0.0, 2.0, "no clear difference (+1.0 points)"),
        (5.0, np.nan, np.nan, "+5.0 points from one seed, which allows no conclusion"),
    ],
)
def test_clear(estimate, low, high, words):
    assert clear(row(estimate, low, high)) == words


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("which", ["self", "other", "one seed"])
def test_every_figure_says_what_it_shows(panels, which, name):
    figure = drawn(name, panels[which])
    assert isinstance(figure, Shown)
    assert figure.sentence.startswith(panels[which].name + ": ") and figure.sentence.endswith(".")
    assert len(figure.sentence.split()) >= 8 and len(figure.caption.split()) >= 8
    assert "nan" not in (figure.sentence + figure.caption).replace(HOSTILE, "").lower()
    assert len(figure.table) and ".." not in figure.sentence


def test_every_sentence_is_its_own(shown):
    assert len({s.sentence for s in shown.values()}) == len(shown)
    assert (
        len({s.caption for s in shown.values()}) == len(shown) - 1
    )  # the two kinds of gain share theirs


def test_the_sentence_has_the_numbers_of_the_table(panels, shown):
    gains = shown["gain_by_bucket"].table.query("method == 'distillation'").set_index("bucket")
    for place in ("average", "few"):
        assert words.number(gains.loc[place].estimate) in shown["gain_by_bucket"].sentence
    assert (
        "a clear loss" in shown["gain_by_bucket"].sentence
        and "few classes, against one-hot" in shown["gain_by_bucket"].sentence
    )
    assert shown["gain_over_kd"].sentence.endswith("against distillation.")
    margin = shown["margins"].table.set_index("group").held_out
    assert (
        f"from {margin.min():.2f} (a -- b & c) to {margin.max():.2f} ({HOSTILE})"
        in shown["margins"].sentence
    )
    assert "on its own training images the mean is 1.00" in shown["margins"].sentence
    by_group = shown["gain_by_group"].table
    harmed, helped = ((by_group.finding == word).sum() for word in ("harmed", "helped"))
    assert (
        harmed
        and helped
        and f"harms {harmed} and helps {helped}" in shown["gain_by_group"].sentence
    )
    assert "one seed" in drawn("gain_by_bucket", panels["one seed"]).sentence
    losses = shown["log_loss"].table.query("bucket == 'few'").set_index("method").estimate
    assert (
        f"{losses.idxmin()} has the lowest mean log-loss, {losses.min():.2f} nats"
        in shown["log_loss"].sentence
    )
    assert f"{losses.idxmax()} the highest, {losses.max():.2f}." in shown["log_loss"].sentence
    few = shown["power"].table.query("bucket == 'few' and method == 'distillation'").iloc[0]
    most = "networks" if few["from networks"] > few["from test images"] else "test images"
    assert shown["power"].sentence.endswith(
        f"{few['smallest detectable']:.1f} in the few bucket, where most uncertainty is due to {most}."
    )


def test_the_trade_off_names_who_is_not_beaten():
    values = {
        ("distillation", "average"): 3,
        ("distillation", "few"): -4,
        ("AdaAlpha", "average"): 2,
        ("AdaAlpha", "few"): 1,
        ("AdaMargin", "average"): 0,
        ("AdaMargin", "few"): 0,
    }
    table = pd.DataFrame(
        [
            {"method": m, "bucket": b, "estimate": float(v), "low": v - 1.0, "high": v + 1.0}
            for (m, b), v in values.items()
        ]
    )
    assert plots.trade_off(table, "a").sentence.endswith(
        "in the few bucket than distillation, AdaAlpha."
    )


def test_the_log_loss_names_the_lowest_and_the_highest_wherever_they_stand():
    table = pd.DataFrame(
        [
            {
                "method": m,
                "bucket": b,
                "estimate": v,
                "low": v - 1.0,
                "high": v + 1.0,
                "per_seed": (v,),
            }
            for b, values in (("average", (1.0, 2.0, 3.0)), ("few", (3.0, 2.25, 4.5)))
            for m, v in zip(("one-hot", "distillation", "AdaMargin"), values, strict=True)
        ]
    )
    assert plots.log_loss_by_bucket(table, "a").sentence == (
        "a: in the few bucket distillation has the lowest mean log-loss, "
        "2.25 nats, and AdaMargin the highest, 4.50."
    )


@pytest.mark.parametrize("name", ["gain_by_group", "margin_and_gain"])
def test_legends_name_the_buckets_of_the_table_and_no_others(shown, name):
    (legend,) = shown[name].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["many", "medium", "few"]


# ---------------------------------------------------------------- HTML


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_accessible_html(shown, name):
    page = Page(shown[name]._repr_html_())
    (image,) = page.of("img")
    assert image["alt"] == shown[name].sentence and image["src"].startswith(
        "data:image/svg+xml;base64,"
    )
    assert (
        shown[name].sentence in page.text["figcaption"]
        and shown[name].caption in page.text["figcaption"]
    )
    assert (
        page.text["summary"] == "Data of this figure"
        and page.text["caption"] == shown[name].caption
    )
    scopes = [a["scope"] for a in page.of("th")]
    assert scopes == ["col"] * len(shown[name].table.columns) + ["row"] * len(shown[name].table)
    assert len(page.of("tr")) == 1 + len(shown[name].table)
    assert not page.of("script") and set(image) == {"alt", "style", "src"}


def test_hostile_names_are_text_everywhere(shown, panels):
    named = [s for s in shown.values() if HOSTILE in s.sentence]
    assert named
    for s in named:
        assert "<script" not in s._repr_html_() and html.escape(HOSTILE) in s._repr_html_()
    for told in (
        Table(tables.gain_by_group(panels["self"]), HOSTILE),
        Verdicts(
            [
                {
                    "study": HOSTILE,
                    "finding": HOSTILE,
                    "pair": HOSTILE,
                    "claim": HOSTILE,
                    "verdict": HOSTILE,
                    "preliminary": False,
                    "seeds": 1,
                    "planned": 1,
                    "sentence": HOSTILE,
                    "alarm": HOSTILE,
                }
            ]
        ),
    ):
        page = Page(told._repr_html_())
        assert not page.of("script") and HOSTILE in "".join(page.text.values())


def test_tables_escape_columns_and_say_missing():
    text = shown_as.table_html(
        pd.DataFrame({"<b>": ["<i>"], "x": [np.nan], "y": [0.01234], "z": [(1.0, 2.5)], "n": [7]}),
        "a & b",
    )
    page = Page(text)
    assert page.text["caption"] == "a & b" and not page.of("b") and not page.of("i")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    assert cells == ["–", "0.0123", "1.00, 2.50", "7"]


def test_verdict_cards(panels):
    cards = findings.pair_verdicts(panels["self"])
    page = Page(Verdicts(cards)._repr_html_())
    assert [a["data-verdict"] for a in page.of("strong") if a.get("class") == "verdict"] == [
        c["verdict"] for c in cards
    ]
    assert page.text["p"].count("(preliminary: 3 of 4 planned seeds)") == len(cards)
    assert len(page.of("li")) == len(cards)
    for c in cards:
        assert c["claim"] in page.text["p"]
        assert f"{c['sentence']} {c['alarm']}".rstrip() in page.text["li"]
    whole = [c | {"preliminary": False} for c in cards]
    assert "preliminary" not in Verdicts(whole)._repr_html_()


def test_a_headline_has_every_sentence_and_the_word_of_every_verdict(panels):
    cards = [c for which in ("self", "other") for c in findings.pair_verdicts(panels[which])]
    page = Page(Headline(["It helps.", f"{HOSTILE} loses."], cards)._repr_html_())
    assert page.text["strong"].startswith(f"It helps.{HOSTILE} loses.") and not page.of("script")
    assert [a["data-verdict"] for a in page.of("strong") if a.get("class") == "verdict"] == [
        c["verdict"] for c in cards
    ]
    for which in ("self", "other"):
        p = panels[which]
        words = ", ".join(
            c["finding"].replace(" ", "\u00a0") + f" {c['verdict']}"
            for c in cards
            if c["pair"] == p.name
        )
        assert f"{p.name}: {words} (preliminary: 3 of 4 planned seeds)." in page.text["p"]
    assert (
        "preliminary" not in Headline([], [c | {"preliminary": False} for c in cards])._repr_html_()
    )


def test_a_number_and_its_half_width_stay_together():
    assert "<td>1.0\u00a0±\u00a00.2</td>" in shown_as.table_html(
        pd.DataFrame({"method": ["a"], "x": ["1.0 ± 0.2"]}), "a"
    )


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1+1",
        "\r=1+1",
        '=HYPERLINK("x")',
        "plain",
        "a=1",
        'quoted "a", b',
        "é",
    ],
)
def test_csv_has_no_formulas_and_is_read_back(text):
    """By the csv module of Python: what is harmless comes back as it was, what is not with an
    apostrophe before it."""
    table = pd.DataFrame({text: [text, "b"], "x": [-1.23456789, 1e-7]})
    head, first, second = csv.reader(io.StringIO(shown_as.csv_text(table), newline=""))
    assert head[0] == first[0] == ("'" if text[0] in "=+-@\t\r" else "") + text
    assert second == ["b", "1e-07"] and first[1] == "-1.2346"  # a negative number is no formula


def test_the_appendix_holds_every_class_and_a_file_of_what_was_counted(panels):
    p = panels["self"]
    appendix = plots.by_class(
        tables.by_class(p, DRAWN), tables.by_class_and_seed(p), "a study", p.name
    )
    page = Page(appendix._repr_html_())
    (link,) = page.of("a")
    kind, data = link["href"].split(";base64,")
    assert (
        kind == "data:text/csv;charset=utf-8"
        and link["download"] == "a study-cnn_small-cnn_small-by-class.csv"
    )
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(data).decode())))
    networks = 3 * 5 + 3  # three teachers are baselines too
    assert len(rows) == networks * GROUPS and f"{len(rows)} rows" in page.text["p"]
    assert (
        len(page.of("tr")) == 1 + GROUPS and not page.of("script") and HOSTILE in page.text["table"]
    )
    row = next(
        r for r in rows if (r["method"], r["seed"], r["class"]) == ("distillation", "1", "class 8")
    )
    own = p.group == 8
    right = p.predicted("kd")[1] == p.y
    assert (int(row["test images"]), int(row["correct"])) == (own.sum(), right[own].sum())


# ---------------------------------------------------------------- SVG


@pytest.mark.parametrize("name", FIGURES)
def test_svg_is_the_same_every_time(panels, shown, name):
    first = shown[name].svg()
    assert shown[name].svg() == first
    with matplotlib.rc_context({"font.size": 25, "svg.hashsalt": None, "axes.grid": False}):
        assert (
            drawn(name, panels["self"]).svg() == first
        )  # another build, whatever the notebook has set
    root = ElementTree.fromstring(first)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("name", FIGURES)
def test_svg_has_no_date_and_no_address(shown, name):
    text = shown[name].svg().decode()
    assert "dc:date" not in text and "Matplotlib v" not in text
    names = set(re.findall(r'xmlns(?::\w+)?="([^"]+)"', text))
    loads = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', text)
    assert all((a or b).startswith("#") for a, b in loads)
    outside = set(re.findall(r'https?://[^\s"<>]+', text)) - names
    assert all(
        re.match(r"https?://(www\.w3\.org|purl\.org/dc|creativecommons\.org/ns)", a)
        for a in outside | names
    ), outside


def test_svg_is_the_same_in_another_process():
    """Another hash seed, another process: the same bytes."""
    draw = (
        "import hashlib, numpy as np, pandas as pd; from kdlib.pages import plots\n"
        "t = pd.DataFrame({'group': list('abc'), 'n_train': [9, 5, 1], 'held_out': [.9, .5, .1], 'on_training': [1., 1., 1.]})\n"
        "print(hashlib.sha256(plots.margins(t, 'x').svg()).hexdigest())"
    )
    here = pd.DataFrame(
        {
            "group": list("abc"),
            "n_train": [9, 5, 1],
            "held_out": [0.9, 0.5, 0.1],
            "on_training": [1.0] * 3,
        }
    )
    root = Path(plots.__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", draw],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        cwd=root,
        text=True,
        capture_output=True,
        check=True,
    ).stdout.strip()
    assert out == hashlib.sha256(plots.margins(here, "x").svg()).hexdigest()


# ---------------------------------------------------------------- marks


def test_bars_end_where_the_interval_does(shown):
    table = shown["gain_by_bucket"].table
    (axes,) = shown["gain_by_bucket"].figure.axes
    for container in axes.containers:
        rows = table[table.method == container.get_label()]
        line, _, (bars,) = container
        np.testing.assert_allclose(
            np.asarray(line.get_ydata(), dtype=float), rows.estimate.astype(float)
        )
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, rows[["low", "high"]].astype(float), atol=1e-9)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["average", "many", "medium", "few"]


def test_methods_differ_by_colour_and_marker():
    looks = {name_of(m): look_of(name_of(m)) for m in (*METHODS, *ARMS, "teacher")}
    assert (
        len({marker for _, marker in looks.values()}) == len(looks) == len(METHODS) + len(ARMS) + 1
    )  # families share a colour
    primary = [looks[name_of(m)] for m in ("one_hot", "kd", "ada_alpha", "ada_margin", "teacher")]
    for looks in (
        primary,
        list(plots.BUCKET_LOOKS.values())[:3],
        list(plots.BUCKET_LOOKS.values())[3:],
    ):
        colours, markers = zip(*looks, strict=True)
        assert len(set(colours)) == len(set(markers)) == len(looks)


def test_amplification_is_drawn_only_where_it_is_defined(panels):
    assert tables.amplified_errors(panels["other"], DRAWN) is None
    assert len(drawn("copied_and_amplified", panels["other"]).figure.axes) == 1
    two = drawn("copied_and_amplified", panels["self"])
    assert len(two.figure.axes) == 2 and set(two.table["where"]) == {
        "teacher wrong",
        "weakest fifth − rest",
    }


def test_the_most_frequent_class_comes_first(panels):
    for frame in (tables.margins(panels["self"]), tables.gain_by_group(panels["self"])):
        assert list(frame.n_train) == sorted(COUNTS, reverse=True)


def test_deviations_come_from_the_configs(panels):
    p = panels["self"]
    choices = tables.deviations(p).set_index("choice").here
    assert (
        choices["status"] == "a demonstration, not a reproduction"
        and choices["seeds"] == "3 of 4 planned, 6 baselines"
    )
    assert (
        choices["softening"] == "T = 2, both, alpha = 1"
        and "40 epochs, batch 32" in choices["networks"]
    )
    real = replace(p, study=replace(p.study, demonstration=False))
    assert "status" not in set(tables.deviations(real).choice)
