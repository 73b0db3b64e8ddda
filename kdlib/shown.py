"""How a figure, a table and verdicts are shown in notebooks and on pages: accessible HTML that survives every exporter."""

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
    """A figure with its sentence (also its alternative text), caption and data, as HTML that survives every exporter."""

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
        return (f'<figure class="kd-figure"><img alt="{html.escape(self.sentence)}" style="max-width:100%" '
                f'src="data:image/svg+xml;base64,{data}"><figcaption><strong>{html.escape(self.sentence)}</strong> '
                f'{html.escape(self.caption)}</figcaption><details><summary>Data of this figure</summary>'
                f'{table_html(self.table, self.caption)}</details></figure>')


@dataclass(frozen=True)
class Table:
    """A table as accessible HTML."""

    table: pd.DataFrame
    caption: str

    def _repr_html_(self):
        return table_html(self.table, self.caption)


@dataclass(frozen=True)
class Verdicts:
    """Verdict cards of findings.py as HTML: the word, the claim, the numbers, and how often its rule fires on nothing."""

    cards: list

    def _repr_html_(self):
        out = []
        for c in self.cards:
            early = f" (preliminary: {c['seeds']} of {c['planned']} planned seeds)" if c["preliminary"] else ""
            what = html.escape(", ".join([c["finding"], c["study"], c["pair"]]))
            numbers = html.escape(f"{c['sentence']} {c['alarm']}".rstrip())
            out.append(f'<p>{what}: {_word(c["verdict"])}{early}. {html.escape(c["claim"])}</p><ul><li>{numbers}</li></ul>')
        return "\n".join(out)


def _word(verdict):
    return f'<strong class="verdict" data-verdict="{html.escape(verdict)}">{html.escape(verdict)}</strong>'


@dataclass(frozen=True)
class Headline:
    """What a page found: sentences of its main figures, then the word of each verdict. The report lifts it under the title."""

    sentences: list
    cards: list = ()

    def _repr_html_(self):
        said = [f"<p><strong>{html.escape(sentence)}</strong></p>" for sentence in self.sentences]
        for pair in dict.fromkeys(c["pair"] for c in self.cards):
            own = [c for c in self.cards if c["pair"] == pair]
            early = f" (preliminary: {own[0]['seeds']} of {own[0]['planned']} planned seeds)" if own[0]["preliminary"] else ""
            words = ", ".join(f'{html.escape(c["finding"]).replace(" ", "&nbsp;")} {_word(c["verdict"])}' for c in own)
            said.append(f"<p>{html.escape(pair)}: {words}{early}.</p>")
        return f"{HEADLINE}{''.join(said)}</div>"


HEADLINE = '<div class="kd-headline">'   # how the report finds it


@dataclass(frozen=True)
class Appendix:
    """A long table, folded, and the finer data behind it as a CSV file that the page itself holds."""

    table: pd.DataFrame
    caption: str
    data: pd.DataFrame
    file: str

    def _repr_html_(self):
        text = csv_text(self.data)
        address = f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"
        save = f'<a download="{html.escape(self.file)}" href="{address}">Save {html.escape(self.file)}</a>'
        return (f'<div class="kd-appendix"><p>{html.escape(self.caption)} {save} ({len(self.data):,} rows, '
                f'{len(text.encode()) / 1000:.0f} kB).</p><details><summary>Show the table</summary>'
                f'{table_html(self.table, self.caption)}</details></div>')


FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")   # how a formula begins, also in full width


def csv_text(table):
    """A DataFrame as CSV text. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    def harmless(value):
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    safe = table.map(harmless).rename(columns=harmless)
    return safe.to_csv(index=False, float_format="%.5g", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)   # a name may hold \r


_LEFT = ' style="text-align: left"'


def table_html(table, caption):
    """A DataFrame as an HTML table with caption and scopes; names from data are escaped. Words stand left, numbers right."""
    def cell(value, column):
        side = _LEFT if column in words else ""
        return f'<th scope="row">{_cell(value)}</th>' if column == 0 else f"<td{side}>{_cell(value)}</td>"

    words = {i for i, column in enumerate(table.columns) if any(isinstance(v, str) and v[:1].isalpha() for v in table[column])}
    head = "".join(f'<th scope="col"{_LEFT if i in words else ""}>{html.escape(str(c))}</th>'
                   for i, c in enumerate(table.columns))
    body = "".join("<tr>" + "".join(cell(v, i) for i, v in enumerate(row)) + "</tr>" for row in table.itertuples(index=False))
    return f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value):
    if isinstance(value, (tuple, list)):
        return ", ".join(_cell(v) for v in value)
    if isinstance(value, (float, np.floating)):
        return "–" if np.isnan(value) else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"
    return html.escape(str(value)).replace(" ± ", "\u00a0±\u00a0")   # a number and its half-width stay on one line
