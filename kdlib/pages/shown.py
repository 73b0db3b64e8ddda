"""What pages are made of: figures, tables and verdicts as accessible HTML for every exporter."""

import base64
import contextlib
import csv
import functools
import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from matplotlib.figure import Figure

from kdlib.config import count_of
from kdlib.evidence.stats import interval
from kdlib.evidence.words import number
from kdlib.methods import look_of, name_of

HERE = Path(__file__).parent
STYLE = str(HERE / "paper.mplstyle")
FOLDERS = [HERE, HERE / "report_template"]
TEMPLATES = Environment(loader=FileSystemLoader(FOLDERS), autoescape=True, trim_blocks=True)
LONG = 32  # letters of a cell that may be wrapped
LINE = {"color": "#444444", "linewidth": 1}  # of zero


@contextlib.contextmanager
def _style():
    """Draw in the project's style; a letter that the font lacks, as of a name, is a box."""
    with matplotlib.style.context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Glyph .* missing")
        yield


def _html(macro, *arguments):
    return str(getattr(TEMPLATES.get_template("shown.html.j2").module, macro)(*arguments))


def _base64(data):
    return base64.b64encode(data).decode()


@dataclass(frozen=True)
class Shown:
    """A figure with its sentence, which is also its alternative text, its caption and data."""

    figure: Figure
    sentence: str
    caption: str
    table: pd.DataFrame
    narrow: Figure | None = None  # the same, for a phone
    letters: str = "path"  # "none": as text, which a browser writes in whatever script it has

    def svg(self, narrow=False):
        """The figure as SVG bytes: identical for identical input."""
        figure = self.narrow if narrow else self.figure
        buffer = io.BytesIO()
        with _style(), matplotlib.rc_context({"svg.fonttype": self.letters}):
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()

    def _repr_html_(self):
        data = Markup(table_html(self.table, self.caption))
        narrow = _base64(self.svg(narrow=True)) if self.narrow else ""
        return _html("figure", self.sentence, self.caption, _base64(self.svg()), narrow, data)


@dataclass(frozen=True)
class Table:
    """A table as accessible HTML."""

    table: pd.DataFrame
    caption: str

    def _repr_html_(self):
        return table_html(self.table, self.caption)


@dataclass(frozen=True)
class Appendix:
    """A long table, folded, and the finer data behind it as a CSV file inside the page."""

    table: pd.DataFrame
    caption: str
    data: pd.DataFrame
    file: str

    def _repr_html_(self):
        data = csv_text(self.data).encode()
        size = f"{count_of(len(self.data), 'row')}, {len(data) / 1000:.0f} kB"
        table = Markup(table_html(self.table, self.caption))
        return _html("appendix", self.caption, self.file, _base64(data), size, table)


@dataclass(frozen=True)
class Verdicts:
    """Verdict cards of findings.py: the word, the claim and the numbers of each."""

    cards: list

    def _repr_html_(self):
        return _html("verdicts", self.cards)


@dataclass(frozen=True)
class Headline:
    """The answer of a page, in a sentence for each pair of networks, then the word of each verdict.

    It stands under the title, before the main figure; the index repeats it."""

    sentences: list
    cards: list = ()

    def _repr_html_(self):
        return _html("headline", self.sentences, self.cards)


# ---------------------------------------------------------------- tables

FORMULA = tuple("=+-@＝＋－＠\t\r\n")  # how a formula begins, also in full width


def csv_text(table):
    """A DataFrame as CSV text, with an apostrophe before what a spreadsheet would run."""

    def harmless(value):
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    safe = table.map(harmless).rename(columns=harmless)
    # quoted, since a name may hold \r
    return safe.to_csv(
        index=False, float_format="%.5g", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
    )


def table_html(table, caption):
    """A DataFrame as an HTML table with caption and scopes; names from data are escaped.

    Words stand left, numbers right; only the cells of a column of class "long" are wrapped."""
    columns, cells = [], table.map(_cell)
    for column in table.columns:
        words = any(isinstance(v, str) and re.match(r"[^\W\d]|[/.]", v) for v in table[column])
        side = ' style="text-align: left"' if words else ""
        long = ' class="long"' if max(map(len, cells[column]), default=0) > LONG else ""
        columns.append((column, Markup(side + long)))
    return _html("table", caption, columns, cells.itertuples(index=False))


def _cell(value):
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_cell, value))
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return "–"
        return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"
    # a number and its half-width stay on one line
    return str(value).replace(" ± ", "\u00a0±\u00a0")


def over_seeds(per_seed):
    """Interval of numbers (S,) that are no means of examples: it covers new seeds only."""
    return interval(per_seed, np.broadcast_to(per_seed, (2, len(per_seed))))


def row_of(result, **labels):
    """An Interval as the columns every table of estimates has."""
    names = ("estimate", "low", "high", "detectable")
    numbers = {name: getattr(result, name) for name in names}
    return {**labels, **numbers, "seeds": result.n, "per_seed": result.per_seed}


def estimates(places, methods, found, column="bucket"):
    """found(place, method) -> Interval, as a table: one row per (place, method)."""
    rows = []
    for place in places:
        for method in methods:
            labels = {column: place, "method": name_of(method)}
            rows.append(row_of(found(place, method), **labels))
    return pd.DataFrame(rows)


def plus_minus(result, digits=1, signed=False):
    """An Interval in a narrow cell: 38.0 ± 0.9; without the half-width where it has none."""
    estimate = number(result.estimate, "", digits) if signed else f"{result.estimate:.{digits}f}"
    if np.isnan(result.se):
        return estimate
    return f"{estimate} ± {result.high - result.estimate:.{digits}f}"


# ---------------------------------------------------------------- figures


def in_style(draw):
    """The figure function, drawing in the project's style whatever the notebook has set."""

    @functools.wraps(draw)
    def styled(*arguments, **options):
        with _style():
            shown = draw(*arguments, **options)
            if shown:  # lay out once, so that every later drawing is the same
                shown.figure.draw_without_rendering()
                shown.figure.set_layout_engine("none")
            return shown

    return styled


def captioned(draw):
    """A function that draws (figure, sentence, table), or None, as one of the Shown, in_style.

    Its docstring is the caption, so that what a figure shows is said once."""
    caption = " ".join(draw.__doc__.split())

    @in_style
    @functools.wraps(draw)
    def shown(*arguments, **options):
        found = draw(*arguments, **options)
        return found and Shown(found[0], found[1], caption, found[2])

    return shown


def axes_of(width=7.2, height=3.6, columns=1, rows=1, **options):
    """(Figure, its axes): one, or an array of `columns` or `rows`."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, **options)


def legend(figure, axes, beside=False, **options):
    """The legend of some axes: one row above, or a column `beside` them."""
    handles, labels = axes.get_legend_handles_labels()
    where = {"loc": "outside upper left", "ncols": len(labels), "columnspacing": 1.2}
    if beside:
        where = {"loc": "outside right upper", "fontsize": 8}
    figure.legend(handles, labels, handletextpad=0.3, **where, **options)


def points(axes, table, place, label, hue="method", looks=look_of, across=False, lines=False):
    """A mark for each method (`hue`) at each place, its interval as a bar, each seed as a dot.

    table: columns `place`, `hue`, estimate, and low, high, per_seed where there are any. label: of
    the axis of the values, which runs `across` where places stand below each other. lines: places
    are numbers, and lines join the marks of a method. looks: name -> (colour, marker)."""
    import seaborn  # here, because it takes a second that the command line need not wait for

    names = list(dict.fromkeys(table[hue]))
    colours, markers = zip(*map(looks, names), strict=True)
    where = {"y": place, "x": "value"} if across else {"x": place, "y": "value"}
    shared = {**where, "hue": hue, "palette": list(colours), "hue_order": names, "ax": axes}
    shared |= {"orient": "y" if across else "x", "native_scale": lines}
    # side by side, unless each has a place of its own
    apart = table[place].duplicated().any() and not lines
    if "per_seed" in table:
        seeds = table.explode("per_seed", ignore_index=True).astype({"per_seed": float})
        seeds = seeds.rename(columns={"per_seed": "value"})
        dots = {"jitter": False, "legend": False, "alpha": 0.4, "size": 4}
        seaborn.stripplot(seeds, dodge=apart, **shared, **dots)
        for strip in axes.collections:  # not under the bar, and the same every time
            spots, room = strip.get_offsets(), 0.2 / len(names) if apart else 0.2
            spots[:, int(across)] += np.linspace(-room, room, len(spots))
    ends = [name for name in ("low", "estimate", "high") if name in table]
    marks = table.melt(list({place: 0, hue: 0}), ends, value_name="value")
    look = {"linestyles": "none", "capsize": 0.08, "linewidth": 1.4, "markersize": 6}
    if lines:
        look = {"linestyles": "-", "linewidth": 1, "markersize": 4}
    # the median of an estimate and the ends of its interval is the estimate
    how = {"estimator": "median", "errorbar": ("pi", 100), "markers": list(markers)}
    gap = 0.8 - 0.8 / len(names) if apart else False
    seaborn.pointplot(marks, dodge=gap, markeredgewidth=1.4, **how, **look, **shared)
    if axes.get_legend():
        axes.get_legend().remove()
    if across:
        axes.grid(visible=True)
    axes.set(**{"xlabel": label, "ylabel": ""} if across else {"xlabel": "", "ylabel": label})


def drawn(table, place, label, by=None, zero=True, across=False, width=7.2, height=3.6, **how):
    """(figure, its axes): `points` with a line at zero and a legend.

    by: a column, each of whose values has axes of its own, side by side. how: see points."""
    parts = [(None, table)] if by is None else list(table.groupby(by, sort=False))
    figure, (all_axes,) = axes_of(
        width, height, columns=len(parts), sharey=across and "row", squeeze=False
    )
    for axes, (title, rows) in zip(all_axes, parts, strict=True):
        points(axes, rows, place, label, across=across, **how)
        axes.set_title(title)
        if zero:
            (axes.axvline if across else axes.axhline)(0, **LINE)
    if not across:
        for axes in all_axes[1:]:
            axes.set_ylabel("")
        legend(figure, all_axes[0])
    return figure, all_axes
