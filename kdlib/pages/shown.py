"""Figures, tables and verdicts in notebooks and on pages: accessible HTML for every exporter."""

import base64
import csv
import html
import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

STYLE = str(Path(__file__).with_name("paper.mplstyle"))


@dataclass(frozen=True)
class Shown:
    """A figure with its sentence, which is also its alternative text, its caption and data."""

    figure: Figure
    sentence: str
    caption: str
    table: pd.DataFrame

    def svg(self):
        """The figure as SVG bytes: identical for identical input."""
        buffer = io.BytesIO()
        with matplotlib.style.context(STYLE):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()

    def _repr_html_(self):
        data = base64.b64encode(self.svg()).decode()
        sentence = html.escape(self.sentence)
        return (
            f'<figure class="kd-figure"><img alt="{sentence}" style="max-width:100%" '
            f'src="data:image/svg+xml;base64,{data}">'
            f"<figcaption><strong>{sentence}</strong> {html.escape(self.caption)}</figcaption>"
            "<details><summary>Data of this figure</summary>"
            f"{table_html(self.table, self.caption)}</details></figure>"
        )


@dataclass(frozen=True)
class Table:
    """A table as accessible HTML."""

    table: pd.DataFrame
    caption: str

    def _repr_html_(self):
        return table_html(self.table, self.caption)


@dataclass(frozen=True)
class Verdicts:
    """Verdict cards of findings.py: the word, the claim and the numbers of each.

    The numbers end with how often its rule fires on nothing."""

    cards: list

    def _repr_html_(self):
        out = []
        for c in self.cards:
            what = html.escape(", ".join([c["finding"], c["study"], c["pair"]]))
            claim = html.escape(c["claim"])
            numbers = html.escape(f"{c['sentence']} {c['alarm']}".rstrip())
            out.append(
                f"<p>{what}: {_word(c['verdict'])}{_early(c)}. {claim}</p>"
                f"<ul><li>{numbers}</li></ul>"
            )
        return "\n".join(out)


def _word(verdict):
    word = html.escape(verdict)
    return f'<strong class="verdict" data-verdict="{word}">{word}</strong>'


def _early(card):
    if not card["preliminary"]:
        return ""
    return f" (preliminary: {card['seeds']} of {card['planned']} planned seeds)"


@dataclass(frozen=True)
class Headline:
    """What a page found: sentences of its main figures, then the word of each verdict.

    The report lifts it under the title."""

    sentences: list
    cards: list = ()

    def _repr_html_(self):
        said = [f"<p><strong>{html.escape(sentence)}</strong></p>" for sentence in self.sentences]
        for pair in dict.fromkeys(c["pair"] for c in self.cards):
            own = [c for c in self.cards if c["pair"] == pair]
            words = ", ".join(
                f"{html.escape(c['finding']).replace(' ', '&nbsp;')} {_word(c['verdict'])}"
                for c in own
            )
            said.append(f"<p>{html.escape(pair)}: {words}{_early(own[0])}.</p>")
        return f"{HEADLINE}{''.join(said)}</div>"


HEADLINE = '<div class="kd-headline">'  # how the report finds it


@dataclass(frozen=True)
class Appendix:
    """A long table, folded, and the finer data behind it as a CSV file inside the page."""

    table: pd.DataFrame
    caption: str
    data: pd.DataFrame
    file: str

    def _repr_html_(self):
        data = csv_text(self.data).encode()
        address = f"data:text/csv;charset=utf-8;base64,{base64.b64encode(data).decode()}"
        file = html.escape(self.file)
        save = f'<a download="{file}" href="{address}">Save {file}</a>'
        size = f"{len(self.data):,} rows, {len(data) / 1000:.0f} kB"
        return (
            f'<div class="kd-appendix"><p>{html.escape(self.caption)} {save} ({size}).</p>'
            "<details><summary>Show the table</summary>"
            f"{table_html(self.table, self.caption)}</details></div>"
        )


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


_LEFT = ' style="text-align: left"'


def table_html(table, caption):
    """A DataFrame as an HTML table with caption and scopes; names from data are escaped.

    Words stand left, numbers right."""
    sides = [
        _LEFT if any(isinstance(v, str) and v[:1].isalpha() for v in table[column]) else ""
        for column in table.columns
    ]
    head = "".join(
        f'<th scope="col"{side}>{html.escape(str(c))}</th>'
        for c, side in zip(table.columns, sides, strict=True)
    )
    rows = []
    for name, *values in table.itertuples(index=False):
        cells = (f"<td{s}>{_cell(v)}</td>" for v, s in zip(values, sides[1:], strict=True))
        rows.append(f'<tr><th scope="row">{_cell(name)}</th>{"".join(cells)}</tr>')
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(value):
    if isinstance(value, (tuple, list)):
        return ", ".join(_cell(v) for v in value)
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return "–"
        return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"
    # a number and its half-width stay on one line
    return html.escape(str(value)).replace(" ± ", "\u00a0±\u00a0")
