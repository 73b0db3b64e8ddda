"""Figures: a table in, a Figure and its sentence out. No training, no files. Shown in notebooks and pages as accessible HTML."""

import base64
import functools
import html
import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdlib.findings import number

STYLE = str(Path(__file__).with_name("paper.mplstyle"))
LOOKS = {  # method: (colour, marker); Okabe and Ito's palette, never colour alone
    "one-hot": ("#000000", "x"), "placebo": ("#767676", "D"), "distillation": ("#0072B2", "o"),
    "AdaAlpha": ("#D55E00", "s"), "AdaMargin": ("#007a5a", "^"), "teacher": ("#8a4f7d", "P"),
}
BUCKET_LOOKS = {"many": ("#0072B2", "o"), "medium": ("#767676", "s"), "few": ("#D55E00", "^")}


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
    """Verdict cards of findings.py as HTML: the word, then every part with its numbers."""

    cards: list

    def _repr_html_(self):
        out = []
        for c in self.cards:
            early = f" (preliminary: {c['seeds']} of {c['planned']} planned seeds)" if c["preliminary"] else ""
            parts = "".join(f"<li><strong>{html.escape(label)}: {html.escape(holds)}.</strong> {html.escape(said)}</li>"
                            for label, holds, said in c["parts"])
            what = html.escape(", ".join([c["finding"], c["study"], c["pair"]]))
            out.append(f'<p>{what}: <strong class="verdict" data-verdict="{html.escape(c["verdict"])}">'
                       f'{html.escape(c["verdict"])}</strong>{early}. '
                       f'{html.escape(c["claim"])}</p><ul>{parts}</ul>')
        return "\n".join(out)


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
    return html.escape(str(value))


def _in_style(draw):
    """The figure function, drawing in the project's style whatever the notebook has set."""
    @functools.wraps(draw)
    def styled(*arguments, **options):
        with matplotlib.style.context(STYLE):
            shown = draw(*arguments, **options)
            shown.figure.draw_without_rendering()          # lay out once, so that every later drawing is the same
            shown.figure.set_layout_engine("none")
            return shown
    return styled


def _legend(figure, axes):
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), columnspacing=1.2, handletextpad=0.3)


def _axes(width=7.2, height=3.6, columns=1):
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(1, columns)


def _name_groups(axes, table):
    names = [f"{g} ({n})" for g, n in zip(table.group, table.n_train, strict=True)]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)


def clear(row, unit="points"):
    """A change in words, from a row with estimate, low, high: "no clear difference" if the interval holds 0."""
    if np.isnan(row.low):
        return f"{number(row.estimate, unit)} from one seed, which allows no conclusion"
    if row.low <= 0 <= row.high:
        return f"no clear difference ({number(row.estimate, unit)})"
    return f"a clear {'gain' if row.estimate > 0 else 'loss'} ({number(row.estimate, unit)})"


def _dots(axes, table, place, zero=True):
    """One dot per seed, the mean and its interval, for each (place, method): methods side by side."""
    places, methods = list(dict.fromkeys(table[place])), list(dict.fromkeys(table.method))
    for m, method in enumerate(methods):
        colour, marker = LOOKS[method]
        rows = table[table.method == method].set_index(place).loc[places]
        x = np.arange(len(places)) + (m - (len(methods) - 1) / 2) * 0.8 / max(len(methods), 2)
        for position, seeds in zip(x, rows.per_seed, strict=True):
            axes.plot(np.full(len(seeds), position) + np.linspace(-0.05, 0.05, len(seeds)), seeds, ".", color=colour,
                      alpha=0.4, markersize=4, zorder=2)
        spread = np.nan_to_num(np.array([rows.estimate - rows.low, rows.high - rows.estimate]))
        axes.errorbar(x, rows.estimate, spread, fmt=marker, color=colour, capsize=3, markersize=6, label=method, zorder=3)
    if zero:
        axes.axhline(0, color="#444444", linewidth=1)
    axes.set_xticks(range(len(places)), places)


@_in_style
def gain_by_bucket(table, pair, over="one-hot"):
    """tables.gain_by_bucket -> Shown."""
    figure, axes = _axes()
    _dots(axes, table, "bucket")
    _legend(figure, axes)
    axes.set_ylabel(f"accuracy gain over {over}, points")
    axes.set_xlabel("classes by number of training images")
    first = table[table.method == table.method.iloc[0]].set_index("bucket")
    rarest = first.index[-1]
    sentence = (f"{pair}: {first.iloc[0].method} shows {clear(first.loc['average'])} on average and "
                f"{clear(first.loc[rarest])} on the {rarest} classes, against {over}.")
    return Shown(figure, sentence, "Small dots are seeds, large marks their mean, bars its 95 % interval over seeds and test "
                 "examples; within a bucket every class counts alike. Test images include those that the draw left out.", table)


@_in_style
def gain_by_group(table, pair, method="distillation"):
    """tables.gain_by_group -> Shown: one mark per group, most frequent first."""
    figure, axes = _axes(height=3.9)
    x = np.arange(len(table))
    for bucket, (colour, marker) in BUCKET_LOOKS.items():
        part = (table.bucket == bucket).to_numpy()
        if part.any():
            error = np.nan_to_num(table.spread[part])
            axes.errorbar(x[part], table.gain[part], error, fmt=marker, color=colour, label=f"{bucket} training images",
                          capsize=2, linewidth=1)
    for i in np.flatnonzero(table.finding != "no clear difference"):
        axes.annotate("*", (x[i], table.gain[i]), xytext=(4, 4), textcoords="offset points", fontsize=13)
    axes.axhline(0, color="#444444", linewidth=1)
    _name_groups(axes, table)
    axes.set_ylabel("accuracy gain over one-hot, points")
    _legend(figure, axes)
    harmed, helped = (int((table.finding == f).sum()) for f in ("harmed", "helped"))
    least, most = table.loc[table.gain.idxmin()], table.loc[table.gain.idxmax()]
    sentence = (f"{pair}: of {len(table)} classes {method} harms {harmed} and helps {helped} at a false discovery rate of 5 %; "
                f"the means run from {number(least.gain)} ({least.group}) to {number(most.gain)} ({most.group}).")
    return Shown(figure, sentence, "Classes from most to fewest training images (their number in brackets); marks are means over "
                 "seeds, bars one standard deviation over seeds, a star marks a class harmed or helped at FDR 5 %.", table)


@_in_style
def margin_and_gain(table, pair, correlation):
    """tables.gain_by_group -> Shown: the teacher's held-out margin against the gain, one point per group.

    correlation: the sentence of finding F3 (a)."""
    figure, axes = _axes(width=6.2, height=4.0)
    for bucket, (colour, marker) in BUCKET_LOOKS.items():
        part = table[table.bucket == bucket]
        axes.plot(part.margin, part.gain, marker, color=colour, label=f"{bucket} training images", markersize=7, alpha=0.85)
    outer = table.iloc[[table.gain.argmin(), table.gain.argmax(), table.margin.argmin()]].drop_duplicates("group")
    for row in outer.itertuples():
        axes.annotate(row.group, (row.margin, row.gain), xytext=(6, 3), textcoords="offset points", fontsize=8)
    axes.axhline(0, color="#444444", linewidth=1)
    axes.margins(x=0.12)
    axes.set_xlabel("teacher's held-out margin (1: always certain and right)")
    axes.set_ylabel("gain of distillation, points")
    _legend(figure, axes)
    return Shown(figure, f"{pair}: {correlation}.", "One point per class, means over seeds. The correlation is computed seed by "
                 "seed with the margin of the other seeds' teachers, so that one teacher's luck cannot make it.",
                 table[["group", "n_train", "bucket", "margin", "gain"]])


@_in_style
def copied_and_amplified(copied, amplified, pair, sentence):
    """tables.copied_errors and, in self-distillation, tables.amplified_errors (else None) -> Shown."""
    figure, axes = _axes(columns=1 if amplified is None else 2)
    left = axes if amplified is None else axes[0]
    _dots(left, copied, "where", zero=False)
    _legend(figure, left)
    left.set_title("Transferred")
    left.set_ylabel("teacher's wrong label given, %")
    if amplified is not None:
        _dots(axes[1], amplified, "where")
        axes[1].set_title("Amplified")
        axes[1].set_ylabel("excess error, points")
        copied = pd.concat([copied, amplified], ignore_index=True)
    for a in np.atleast_1d(axes):
        a.set_xlim(-0.6, 0.6)
    return Shown(figure, f"{pair}: {sentence}.", "Transferred: share of the test examples the teacher gets wrong on which a "
                 "student gives the same wrong label. Amplified: student error minus teacher error, in the fifth of classes "
                 "weakest for other seeds' teachers minus in the rest. Dots are seeds; bars 95 % intervals.", copied)


@_in_style
def trade_off(table, pair):
    """tables.gain_by_bucket -> Shown: average gain against gain of the rarest bucket, both over one-hot."""
    figure, axes = _axes(width=5.6, height=4.2)
    rarest = table.bucket.iloc[-1]
    for method in dict.fromkeys(table.method):
        colour, marker = LOOKS[method]
        x, y = (table[(table.method == method) & (table.bucket == b)].iloc[0] for b in ("average", rarest))
        axes.errorbar([x.estimate], [y.estimate], yerr=_bars(y), xerr=_bars(x), fmt=marker, color=colour, capsize=3,
                      markersize=8, label=method)
    axes.axhline(0, color="#444444", linewidth=1)
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_xlabel("average gain over one-hot, points")
    axes.set_ylabel(f"gain of the {rarest} classes, points")
    _legend(figure, axes)
    means = table.pivot(index="method", columns="bucket", values="estimate")
    best = [m for m in means.index if not ((means.average > means.average[m]) & (means[rarest] > means[rarest][m])).any()]
    sentence = (f"{pair}: no other method has both a higher average and a higher mean in the {rarest} bucket than "
                f"{', '.join(best)}.")
    return Shown(figure, sentence, "Up and right is better; one-hot is the origin. Crosses are 95 % intervals.", table)


def _bars(row):
    return None if np.isnan(row.low) else [[row.estimate - row.low], [row.high - row.estimate]]


@_in_style
def margins(table, pair):
    """tables.margins -> Shown: held-out and training margin of the teacher by group."""
    figure, axes = _axes(height=3.7)
    x = np.arange(len(table))
    axes.plot(x, table.on_training, "o", color="#767676", label="on its training images")
    axes.plot(x, table.held_out, "s", color="#D55E00", label="held out: the alpha of AdaAlpha")
    _name_groups(axes, table)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("teacher's margin")
    _legend(figure, axes)
    low, high = table.loc[table.held_out.idxmin()], table.loc[table.held_out.idxmax()]
    sentence = (f"{pair}: the teacher's held-out margin runs from {low.held_out:.2f} ({low.group}) to {high.held_out:.2f} "
                f"({high.group}); on its own training images the mean is {table.on_training.mean():.2f}.")
    return Shown(figure, sentence, "Means over seeds, most frequent class first. Where a margin is measured decides how far "
                 "AdaAlpha softens the teacher.", table)


@_in_style
def calibration_by_bucket(table, pair):
    """tables.calibration -> Shown."""
    figure, axes = _axes()
    _dots(axes, table, "bucket", zero=False)
    _legend(figure, axes)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("calibration error, %")
    rows = table[table.bucket == table.bucket.iloc[-1]]
    best = rows.loc[rows.estimate.idxmin()]
    sentence = (f"{pair}: in the {best.bucket} bucket {best.method} has the lowest calibration error on average, "
                f"{best.estimate:.1f} %.")
    return Shown(figure, sentence, "Expected calibration error with 15 bins, classes weighing alike; dots are seeds, bars the "
                 "95 % interval over seeds only.", table)
