"""Figures and tables: each says what it shows; names from data stay text; the same bytes from the
same panel."""

import base64
import csv
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from layout import check_layout
from looking import Document
from matplotlib.collections import LineCollection
from matplotlib.text import Text
from synthetic import COUNTS, GROUPS, SELF, TINY, but, made

from kdlib.evidence import words
from kdlib.methods import ARMS, METHODS, look_of, name_of
from kdlib.pages import anchors, classes, drawing, gains, shown, transfer, trust
from kdlib.pages.drawing import DESK, PHONE, Shown
from kdlib.pages.shown import Headline, Table, Verdicts

DRAWN = ["kd", "ada_alpha", "ada_margin"]
HOSTILE = '<script>alert(1)</script>"'
NAMES = [HOSTILE, *(f"class {g}" for g in range(1, GROUPS - 1)), "a -- b & c"]
SAID = " of the teacher is found in its student, too."  # the sentence of a finding
FIGURES = {
    "gain_by_bucket": gains.plot_gain_by_bucket,
    "gain_over_kd": lambda p: gains.plot_gain_by_bucket(p, DRAWN[1:], "kd"),
    "forest": gains.plot_forest,
    "trade_off": gains.plot_trade_off,
    "power": gains.plot_power,
    "gain_by_group": classes.plot_gain_by_group,
    "margins": classes.plot_margins,
    "margin_and_gain": lambda p: transfer.plot_margin_and_gain(p, f"a margin{SAID}"),
    "copied": lambda p: transfer.plot_copied_and_amplified(p, f"an error{SAID}"),
    "calibration": trust.plot_calibration,
    "log_loss": trust.plot_log_loss,
}
each = pytest.mark.parametrize("name", FIGURES)


@pytest.fixture(scope="module")
def panels(tmp_path_factory):
    """{name: Panel}: of self-distillation with hostile group names, of another teacher, and of one
    seed."""

    def kd(seed, split):
        return but(0.8, few=0.3, g0=0.1, g2=0.95) + 0.05 * (
            seed % 2
        )  # whole images; all classes vary alike

    usual = but(0.7, g0=0.9)  # of teachers too: some are baselines
    how = {"names": NAMES, "kd": kd, "one_hot": usual, "teacher": usual}
    how |= {"copies": ("kd",), "shuffled": ("kd",)}
    how["margin"] = lambda seed: np.linspace(0.95, 0.1 + 0.01 * seed, GROUPS)
    itself = replace(TINY, pairs=(SELF,))
    made_of = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, study, seeds in (("self", itself, 3), ("other", TINY, 3), ("one seed", TINY, 1)):
            patch.setenv("KDLIB_RECORDS", str(tmp_path_factory.mktemp("records")))
            made_of[name] = made(study, seeds=seeds, **how)
    return made_of


@pytest.fixture(scope="module")
def drawn(panels):
    """{name: Shown} of the self-distillation panel."""
    return {name: draw(panels["self"]) for name, draw in FIGURES.items()}


def words_of(page, tag):
    """The text in every tag of a kind."""
    return "".join(words for words, _ in page.all(tag))


def attributes_of(page, tag):
    return [attributes for _, attributes in page.all(tag)]


def verdicts_of(page):
    return [a["data-verdict"] for _, a in page.all("strong", **{"class": "verdict"})]


# ---------------------------------------------------------------- words


def test_what_a_notebook_keeps_of_a_figure_has_no_address_in_memory():
    one, other = (
        repr(Shown(lambda width: None, "It rises.", "Dots.", pd.DataFrame())) for _ in range(2)
    )
    assert one == other and "0x" not in one and "It rises." in one


@each
@pytest.mark.parametrize("which", ["other", "one seed"])
def test_every_figure_says_what_it_shows(panels, drawn, which, name):
    for p, figure in ((panels[which], FIGURES[name](panels[which])), (panels["self"], drawn[name])):
        assert isinstance(figure, Shown)
        assert figure.sentence.startswith(p.name + ": ") and figure.sentence.endswith(".")
        assert len(figure.sentence.split()) >= 8 and len(figure.caption.split()) >= 8
        assert "nan" not in (figure.sentence + figure.caption).replace(HOSTILE, "").lower()
        assert len(figure.table) and ".." not in figure.sentence


def test_no_caption_is_a_note_for_programmers():
    """The docstring of what is captioned stands on the page."""
    source = "".join(path.read_text() for path in sorted((ROOT / "kdlib").rglob("*.py")))
    captions = re.findall(r"@captioned\ndef (\w+).*?\"{3}(.*?)\"{3}", source, re.DOTALL)
    assert len(captions) > 20
    assert not [name for name, caption in captions if "->" in caption or "_" in caption]


def test_every_sentence_is_its_own(drawn):
    assert len({s.sentence for s in drawn.values()}) == len(drawn)
    captions = {s.caption for s in drawn.values()}
    assert len(captions) == len(drawn) - 1  # the two kinds of gain by bucket share theirs


def test_the_sentence_has_the_numbers_of_the_table(panels, drawn):
    said = {name: figure.sentence for name, figure in drawn.items()}
    gain = panels["self"].gain
    for place in ("average", "few"):
        found = gain("kd", panels["self"].places()[place])
        assert words.told(found) in said["gain_by_bucket"]
    assert said["gain_by_bucket"].endswith("in the few-shot classes, compared with one-hot.")
    assert said["gain_over_kd"].endswith("compared with distillation.")
    for name in ("gain_by_bucket", "gain_by_group"):
        assert "one seed" in FIGURES[name](panels["one seed"]).sentence
    margin = drawn["margins"].table.set_index("group").held_out
    runs = f"from {margin.min():.2f} (a -- b & c) to {margin.max():.2f} ({HOSTILE})"
    assert runs in said["margins"] and "training images the mean is 1.00" in said["margins"]
    table = drawn["gain_by_group"].table
    harmed, helped = (table.group[table.finding == word] for word in ("harmed", "helped"))
    assert len(harmed) == 3 and len(helped) == 1
    names = f"harms 3 ({', '.join(harmed)}) and helps 1 ({helped.iloc[0]}) of"
    assert names in said["gain_by_group"]
    losses = drawn["log_loss"].table.query("bucket == 'few'").set_index("method").estimate
    lowest = f"{losses.idxmin()} has the lowest mean log-loss, {losses.min():.2f} nats"
    assert lowest in said["log_loss"]
    assert f"{losses.idxmax()} the highest, {losses.max():.2f}." in said["log_loss"]
    few = drawn["power"].table.query("bucket == 'few' and method == 'distillation'").iloc[0]
    most = "networks" if few["from networks"] > few["from test images"] else "test images"
    end = f"in the few-shot classes, where most uncertainty is due to {most}."
    assert said["power"].endswith(f"{few['smallest detectable']:.1f} {end}")


@pytest.mark.parametrize("name", ["gain_by_group", "margin_and_gain"])
def test_legends_name_the_buckets_of_the_table_and_no_others(drawn, name):
    (legend,) = drawn[name].figure.legends
    wanted = [f"{name}-shot" for name in ("many", "medium", "few")]
    assert [text.get_text() for text in legend.get_texts()] == wanted


# ---------------------------------------------------------------- HTML


@each
def test_figures_are_accessible_html(drawn, name):
    figure = drawn[name]
    page = Document(figure._repr_html_())
    (image,) = attributes_of(page, "img")
    assert image["alt"] == figure.sentence and set(image) == {"alt", "style", "src"}
    assert image["src"].startswith("data:image/svg+xml;base64,") and not attributes_of(
        page, "script"
    )
    assert figure.sentence in words_of(page, "figcaption") and figure.caption in words_of(
        page, "figcaption"
    )
    assert (
        words_of(page, "summary") == "Data of this figure"
        and words_of(page, "caption") == figure.caption
    )
    scopes = [a["scope"] for a in attributes_of(page, "th")]
    assert scopes == ["col"] * len(figure.table.columns) + ["row"] * len(figure.table)
    assert len(attributes_of(page, "tr")) == 1 + len(figure.table)


def test_hostile_names_are_text_everywhere(drawn, panels):
    named = [s for s in drawn.values() if HOSTILE in s.sentence]
    card = dict.fromkeys(("study", "finding", "pair", "claim", "verdict"), HOSTILE)
    card |= {"preliminary": False, "sentence": HOSTILE, "alarm": HOSTILE}
    table = Table(classes.gain_by_group(panels["self"]), HOSTILE)
    assert named
    for told in (*named, table, Verdicts([card]), Headline([HOSTILE], [card])):
        page = Document(told._repr_html_())
        assert not attributes_of(page, "script") and HOSTILE in "".join(
            "".join(words) for _, _, words in page.tags
        )


def test_a_table_has_its_units_in_its_headers_and_wraps_long_columns_alone():
    made = pd.DataFrame({"method": ["a"], "few": ["1.0 ± 0.2"], "note": ["a sentence " * 5]})
    text = Table(made, "Gains", {"few": "points"})._repr_html_()
    headers = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", text)
    assert headers == ["method", "few, points", "note"] and list(made) == ["method", "few", "note"]
    assert re.findall(r"<td[^>]* class=\"long\">(.*?)</td>", text) == ["a sentence " * 5]


def test_tables_escape_columns_say_missing_and_keep_a_number_with_its_half_width():
    columns = {"<b>": ["<i>"], "x": [np.nan], "y": [0.01234], "z": [(1.0, 2.5)], "n": [7]}
    text = shown.table_html(pd.DataFrame(columns | {"w": ["1.0 ± 0.2"]}), "a & b")
    page = Document(text)
    assert (
        words_of(page, "caption") == "a & b"
        and not attributes_of(page, "b")
        and not attributes_of(page, "i")
    )
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    assert cells == ["–", "0.0123", "1.00, 2.50", "7", "1.0\u00a0±\u00a00.2"]


CARDS = [
    {"finding": name, "study": "tiny", "pair": pair, "claim": "It helps.", "verdict": verdict}
    | {"sentence": f"+1.4 points in {name}.", "alarm": alarm}
    | {"preliminary": True, "seeds": 3, "planned": 4}
    for name, pair, verdict, alarm in (
        ("F1", "b → b", "holds", ""),
        ("F4 AdaAlpha", "b → b", "not under this reading", "It fires in 5 % of splits."),
        ("F1", "a → b", "not decided", ""),
    )
]


def test_verdict_cards_and_the_headline_say_each_verdict_and_what_is_preliminary():
    verdicts = Document(Verdicts(CARDS)._repr_html_())
    headline = Document(Headline(["It helps.", f"{HOSTILE} loses."], CARDS)._repr_html_())
    assert verdicts_of(verdicts) == verdicts_of(headline) == [c["verdict"] for c in CARDS]
    assert words_of(verdicts, "p").count("It helps.") == len(attributes_of(verdicts, "li")) == 3
    assert words_of(verdicts, "p").count("(preliminary: 3 of 4 planned seeds)") == 3
    said = "+1.4 points in F4 AdaAlpha. It fires in 5 % of splits."
    assert said in words_of(verdicts, "li") and "in F1.+1.4" in words_of(verdicts, "li")
    assert words_of(headline, "strong").startswith(f"It helps.{HOSTILE} loses.")
    early = " (preliminary: 3 of 4 planned seeds). "
    first = "Holds: average rises (F1). Not under this reading: AdaAlpha beats distillation in the "
    first += "rarest classes"
    seeds = "planned seeds, each a training run from its own random start"  # once
    own = early.replace("planned seeds", seeds)
    both = f"b → b{own}{first} (F4).a → b{early}Not decided: average rises (F1)."
    assert both in words_of(headline, "p")  # the first pair first
    balanced = CARDS[0] | {"finding": "F2b", "claim": "The classes it knows least lose."}
    assert "classes it knows least lose (F2b)" in Headline([], [balanced])._repr_html_()
    for told in (Verdicts, lambda cards: Headline([], cards)):
        assert "preliminary" not in told([c | {"preliminary": False} for c in CARDS])._repr_html_()


RISKY = ["=1+1", "+1-1", "-1 ", "-1\n", "@SUM(A1)", "\t=1+1", "\r=1+1", '=HYPERLINK("x")']
HARMLESS = ["plain", "a=1", 'quoted "a", b', "é", "-1", "+1.5"]


@pytest.mark.parametrize("text", RISKY + HARMLESS)
def test_csv_has_no_formulas_and_is_read_back(text):
    """By the csv module of Python: what is harmless comes back as it was, what is not with an
    apostrophe before it."""
    table = pd.DataFrame({text: [text, "b"], "x": [-1.23456789, 1e-7]})
    head, first, second = csv.reader(io.StringIO(shown.csv_text(table), newline=""))
    assert head[0] == first[0] == ("" if text in HARMLESS else "'") + text
    assert second == ["b", "1e-07"] and first[1] == "-1.2346"  # a negative number is no formula


def test_the_appendix_holds_every_class_and_a_file_of_what_was_counted(panels):
    p = panels["self"]
    page = Document(classes.every_class(p)._repr_html_())
    (link,) = attributes_of(page, "a")
    kind, data = link["href"].split(";base64,")
    assert kind == "data:text/csv;charset=utf-8"
    assert link["download"] == "tiny-cnn_small-cnn_small-by-class.csv"
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(data).decode())))
    networks = 3 * 5 + 3  # three teachers are baselines too
    assert len(rows) == networks * GROUPS and f"{len(rows)} rows" in words_of(page, "p")
    assert len(attributes_of(page, "tr")) == 1 + GROUPS
    assert not attributes_of(page, "script") and HOSTILE in words_of(page, "table")
    wanted = ("distillation", "1", "class 8")
    (row,) = [r for r in rows if (r["method"], r["seed"], r["class"]) == wanted]
    own, right = p.group == 8, p.predicted("kd")[1] == p.y
    assert (int(row["test images"]), int(row["correct"])) == (own.sum(), right[own].sum())


# ---------------------------------------------------------------- SVG


@each
def test_svg_is_the_same_every_time_and_has_no_date_and_no_address(panels, drawn, name):
    first = drawn[name].svg()
    assert drawn[name].svg() == first
    with matplotlib.rc_context({"font.size": 25, "svg.hashsalt": None, "axes.grid": False}):
        # another build, whatever the notebook has set
        assert FIGURES[name](panels["self"]).svg() == first
    assert ElementTree.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"
    text = first.decode()
    assert "dc:date" not in text and "Matplotlib v" not in text
    loads = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', text)
    assert all((a or b).startswith("#") for a, b in loads)
    known = r"https?://(www\.w3\.org|purl\.org/dc|creativecommons\.org/ns)"
    assert all(re.match(known, a) for a in re.findall(r'https?://[^\s"<>]+', text))


def test_svg_is_the_same_in_another_process(capsys):
    """Another hash seed, another process: the same bytes."""
    draw = (
        "import hashlib, pandas as pd; from kdlib.pages.drawing import Shown, drawn\n"
        "t = pd.DataFrame({'bucket': [*'aabb'], 'method': ['one-hot', 'distillation'] * 2,"
        " 'estimate': [1.0, 2, 3, 4], 'low': [0.0, 1, 2, 3], 'high': [2.0, 3, 4, 5],"
        " 'per_seed': [(0.5, 1.5)] * 4})\n"
        "paint = lambda width: drawn(t, 'bucket', 'x', width=width)[0]\n"
        "print(hashlib.sha256(Shown(paint, '', '', t).svg()).hexdigest())"
    )
    env = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", draw]
    done = subprocess.run(command, env=env, cwd=ROOT, text=True, capture_output=True, check=True)
    exec(draw, {})
    here = capsys.readouterr().out
    assert len(here.strip()) == 64 and done.stdout == here


# ---------------------------------------------------------------- marks


def drawn_bars(axes, k):
    """The ends of every bar along coordinate k."""
    some = [bars for bars in axes.collections if isinstance(bars, LineCollection)]
    ends = [np.reshape(segment, (-1, 2))[:, k] for bars in some for segment in bars.get_segments()]
    return [at for at in ends if len(at) and np.isfinite(at).all()]


@pytest.mark.parametrize("name, place", [("gain_by_bucket", "bucket"), ("forest", "method")])
def test_marks_stand_at_estimates_bars_end_where_intervals_do_and_every_seed_has_a_dot(
    drawn, name, place
):
    k = 0 if name == "forest" else 1  # the coordinate of the values
    table = drawn[name].table
    axes = drawn[name].figure.axes[0]
    rows = table if place == "bucket" else table[table.bucket == "average"]
    marks = np.concatenate([of.lines[0].get_data()[k] for of in axes.containers])
    assert sorted(marks) == pytest.approx(sorted(rows.estimate))
    bars = np.array(drawn_bars(axes, k))
    assert sorted(bars.min(axis=1)) == pytest.approx(sorted(rows.low.dropna()), abs=1e-9)
    assert sorted(bars.max(axis=1)) == pytest.approx(sorted(rows.high.dropna()), abs=1e-9)
    dots = np.concatenate([dot.get_data()[k] for dot in axes.lines if dot.get_alpha() == 0.4])
    assert sorted(dots) == pytest.approx(sorted(np.concatenate(list(rows.per_seed))))
    ticks = axes.get_yticklabels() if name == "forest" else axes.get_xticklabels()
    assert [t.get_text() for t in ticks] == list(rows[place].map(drawing.shot).unique())


def test_one_seed_has_marks_without_bars(panels):
    (axes,) = FIGURES["gain_by_bucket"](panels["one seed"]).figure.axes
    assert not drawn_bars(axes, 1)


def test_the_trade_off_rings_and_names_who_is_not_beaten(panels, monkeypatch):
    values = {"distillation": (3, -4), "AdaAlpha": (2, 1), "AdaMargin": (0, 0)}
    rows = [
        {"method": m, "bucket": b, "estimate": v, "low": v - 1.0, "high": v + 1.0}
        for m, both in values.items()
        for b, v in zip(("average", "few"), map(float, both), strict=True)
    ]
    monkeypatch.setattr(gains, "gain_by_bucket", lambda *_: pd.DataFrame(rows))
    found = gains.plot_trade_off(panels["self"])
    assert found.sentence.endswith("in the few-shot classes than distillation, AdaAlpha.")
    lines = found.figure.axes[0].lines
    marks = [line.get_marker() for line in lines if line.get_markersize() == 7]
    assert marks == ["x", "o", "s", "^"]  # of one-hot and each method
    rings = [line.get_xydata()[0].tolist() for line in lines if line.get_markersize() == 13]
    assert rings == [[3, -4], [2, 1]]


def crowd(methods, seed):
    """The table of a trade-off of so many methods, most of them close together."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(methods):
        name = (name_of("kd"), name_of("ada_alpha"))[k] if k < 2 else f"a method of long name {k}"
        for bucket, scale in (("average", 1), ("few", 3)):
            value = scale * rng.normal(loc=2, scale=0.5 if k < 10 else 3)
            row = {"method": name, "bucket": bucket, "estimate": value}
            rows.append(row | {"low": value - scale, "high": value + scale})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("methods, seed", [(7, 0), (7, 1), (15, 2), (15, 3), (22, 4)])
def test_no_name_of_the_trade_off_covers_another_or_leaves_the_axes(
    panels, monkeypatch, methods, seed, width
):
    table = crowd(methods, seed)
    monkeypatch.setattr(gains, "gain_by_bucket", lambda *_: table)
    figure = gains.plot_trade_off(panels["self"]).drawn(width)
    (axes,) = figure.axes
    named = [text.get_text() for text in axes.texts]
    assert {"one-hot", "distillation", "AdaAlpha"} < set(named) and len(named) <= 8
    assert len(named) == methods + 1 if methods <= 7 else len(named) < methods
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without lines to marks
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:k])
        inside = axes.get_window_extent().padded(1)
        assert inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)


# ---------------------------------------------------------------- at a desk and on a phone


@each
@pytest.mark.parametrize("which", ["self", "one seed"])
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_no_interval_leaves_the_axes_and_no_letter_the_figure(panels, which, name, width):
    check_layout(FIGURES[name](panels[which]).drawn(width))


def test_a_sentence_costs_no_drawing(panels, monkeypatch):
    monkeypatch.setattr(drawing, "Figure", None)
    assert all(draw(panels["self"]).sentence for draw in FIGURES.values())


def test_a_caption_leaves_out_what_the_headline_says_but_for_what_it_is_of(drawn):
    first, second = drawn["gain_by_bucket"], drawn["calibration"]
    page = first._repr_html_() + second._repr_html_()
    head = Headline([first.sentence])._repr_html_()
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", shown.said_once(head + page))
    assert captions[0] == f"<strong>cnn_small → cnn_small.</strong> {first.caption}"
    assert second.sentence in captions[1] and shown.said_once(page) == page
    assert shown.said_once(head + page).count(first.sentence) == 2  # and to who does not see


def test_buckets_are_words_where_they_are_shown(drawn):
    page = Document(drawn["gain_by_bucket"]._repr_html_())
    assert "few-shot" in words_of(page, "table")
    ticks = [t.get_text() for t in drawn["gain_by_bucket"].figure.axes[0].get_xticklabels()]
    assert ticks == ["average", "many-shot", "medium-shot", "few-shot"]


def test_an_interval_stays_in_the_range_of_what_it_bounds():
    wide = shown.over_seeds([1.0, 99.0])
    assert wide.low < 0 and wide.high > 100
    inside = wide.within(0, 100)
    assert (inside.estimate, inside.low, inside.high) == (50, 0, 100)
    assert np.isnan(shown.over_seeds([1.0]).within(0, 100).low)


def test_methods_differ_by_colour_and_marker():
    every = {name_of(m): look_of(name_of(m)) for m in (*METHODS, *ARMS, "teacher")}
    markers = {marker for _, marker in every.values()}  # families share a colour
    assert len(markers) == len(every) == len(METHODS) + len(ARMS) + 1
    of_buckets = list(classes.BUCKET_LOOKS.values())
    primary = [every[name_of(m)] for m in ("one_hot", *DRAWN, "teacher")]
    for looks in (primary, of_buckets[:3], of_buckets[3:]):
        colours, markers = zip(*looks, strict=True)
        assert len(set(colours)) == len(set(markers)) == len(looks)
    assert not {c for c, _ in of_buckets} & {c for c, _ in every.values()}
    assert not {m for _, m in of_buckets} & {m for _, m in primary}


def test_amplification_is_drawn_only_where_it_is_defined(panels, drawn):
    assert transfer.amplified_errors(panels["other"], DRAWN) is None
    assert len(FIGURES["copied"](panels["other"]).figure.axes) == 1
    assert len(drawn["copied"].figure.axes) == 2
    assert set(drawn["copied"].table["where"]) == {"teacher wrong", "weakest fifth − rest"}


def test_the_most_frequent_class_comes_first(panels, drawn):
    for frame in (drawn["margins"].table, drawn["gain_by_group"].table):
        assert list(frame.n_train) == sorted(COUNTS, reverse=True)


def test_deviations_come_from_the_configs(panels):
    p = panels["self"]
    choices = anchors.deviations(p).table.set_index("choice").here
    assert choices["status"] == "a demonstration, not a reproduction"
    assert choices["seeds"] == "3 of 4 planned, 6 baselines"
    assert choices["temperature"] == "T = 4 of teacher and student, alpha = 1"
    assert choices["AdaAlpha"] == "alpha is the margin of the group on val, T = 1"
    assert "40 epochs, batch 32" in choices["networks"]
    real = replace(p, study=replace(p.study, demonstration=False))
    assert "status" not in set(anchors.deviations(real).table.choice)
