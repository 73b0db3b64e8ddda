"""What pages are made of: figures, tables and verdicts as accessible HTML for every exporter."""

import base64
import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from kdlib.config import count_of
from kdlib.evidence.stats import interval
from kdlib.evidence.words import number
from kdlib.methods import name_of

HERE = Path(__file__).parent
TEMPLATE = HERE / "report_template"
LOADER = FileSystemLoader([HERE, TEMPLATE])
TEMPLATES = Environment(loader=LOADER, autoescape=True, trim_blocks=True)
LONG = 32  # letters of a cell that may be wrapped


def html_of(macro, *arguments):
    """A macro of shown.html.j2, filled."""
    return str(getattr(TEMPLATES.get_template("shown.html.j2").module, macro)(*arguments))


def base64_of(data):
    """Bytes as the text of an address."""
    return base64.b64encode(data).decode()


@dataclass(frozen=True)
class Table:
    """A table as accessible HTML, with the units of its columns in their headers."""

    table: pd.DataFrame
    caption: str
    units: dict = field(default_factory=dict)  # column: unit

    def _repr_html_(self):
        headers = {column: f"{column}, {unit}" for column, unit in self.units.items()}
        return table_html(self.table.rename(columns=headers), self.caption)


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
        return html_of("appendix", self.caption, self.file, base64_of(data), size, table)


@dataclass(frozen=True)
class Verdicts:
    """Verdict cards of findings.py: the word, the claim and the numbers of each."""

    cards: list

    def _repr_html_(self):
        return html_of("verdicts", self.cards)


@dataclass(frozen=True)
class Headline:
    """The answer of a page: a sentence for each pair of networks, then the word of each verdict.

    It comes under the title, before the main figure; the index repeats it. notes: sentences before
    it that the index leaves out."""

    sentences: list
    cards: list = ()
    notes: list = ()

    def _repr_html_(self):
        return html_of("headline", self.sentences, self.cards, self.notes)


# ---------------------------------------------------------------- tables

# a formula by how it begins, also in full width; a number with a sign is none
FORMULA = re.compile(r"(?![+-]?\d+(\.\d+)?\Z)[=+\-@＝＋－＠\t\r\n].*", re.S)


def csv_text(table):
    """A DataFrame as CSV text, with an apostrophe before what a spreadsheet would run."""

    def harmless(value):
        return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value

    safe = table.map(harmless).rename(columns=harmless)
    # quoted, since a name may hold \r
    return safe.to_csv(
        index=False, float_format="%.5g", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
    )


def table_html(table, caption):
    """A DataFrame as an HTML table with caption and scopes; names from data are escaped.

    Words stand left, numbers right; only the cells of a column of class "long" are wrapped."""
    columns = []
    cells = table.map(_cell)
    for column in table.columns:
        words = any(isinstance(v, str) and re.match(r"[^\W\d]|[/.]", v) for v in table[column])
        side = ' style="text-align: left"' if words else ""
        long = ' class="long"' if max(map(len, cells[column]), default=0) > LONG else ""
        columns.append((column, Markup(side + long)))
    return html_of("table", caption, columns, cells.itertuples(index=False))


def _cell(value):
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_cell, value))
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return "–"
        value = round(value, 12)  # what differs from 0 by rounding is 0
        said = f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"
        return said.replace("-", "−")  # as in sentences and figures
    # a number and its half-width stay on one line
    return str(value).replace(" ± ", "\u00a0±\u00a0")


def over_seeds(per_seed):
    """Interval of numbers (S,) that are not means over examples: it covers new seeds only."""
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


def ends(table, column="estimate"):
    """The rows with the lowest and the highest value."""
    return table.loc[table[column].idxmin()], table.loc[table[column].idxmax()]


def plus_minus(result, digits=1, signed=False):
    """An Interval in a narrow cell: 38.0 ± 0.9; without the half-width where it has none."""
    estimate = number(result.estimate, "", digits) if signed else f"{result.estimate:.{digits}f}"
    if np.isnan(result.low):
        return estimate
    return f"{estimate} ± {result.high - result.estimate:.{digits}f}"


# ---------------------------------------------------------------- whole pages


def tidy(page):
    """A page with headings in order, named links to its sections, and tables in a scrolling box.

    It has one h1, and no level is skipped."""
    level = 0

    def heading(match):
        nonlocal level
        level = min(max(int(match[1]), 2), level + 1) if level else 1
        return f"<h{level}{match[2]}</h{level}>"

    page = re.sub(r"<h([1-6])\b(.*?)</h\1>", heading, page, flags=re.S)
    page = page.replace(
        '<a class="anchor-link"', '<a class="anchor-link" aria-label="Link to this section"'
    )
    box = '<div class="scroll" tabindex="0" role="group" aria-label="Table">'
    page = re.sub(r"<table\b", box + r"\g<0>", page)
    return said_once(page.replace("</table>", "</table></div>"))


def said_once(page):
    """The page; its captions leave out sentences that stand elsewhere on it."""

    def shorter(match):
        start, sentence = match.groups()
        if page.count(f">{sentence}<") == 1:
            return match[0]
        of, colon, _ = sentence.partition(": ")
        return f"{start}{of}.</strong>" if colon else start.removesuffix("<strong>")

    return re.sub(r"(<figcaption><strong>)(.*?)</strong>", shorter, page)
