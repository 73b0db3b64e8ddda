"""Figures of an Audit: a table in, a Shown out."""

import numpy as np
import pandas as pd

from kdlib.auditing.read import printable
from kdlib.evidence.words import number, told
from kdlib.pages.plots import axes_of, in_style, legend
from kdlib.pages.shown import Shown

EDGE = 20  # groups at either end of a figure
ROWS = 200  # groups in a table
POINTS = 1500  # above it a scatter is a picture inside the figure
BLUE = "#0072B2"
FINDINGS = {  # colour and marker
    "harmed": ("#D55E00", "v"),
    "helped": (BLUE, "^"),
    "no clear difference": ("#767676", "o"),
}
MODELS = {"teacher": ("#8a4f7d", "P"), "student": (BLUE, "o"), "baseline": ("#000000", "x")}
ZERO = {"color": "#444444", "linewidth": 1}


def gain_in_words(row):
    """The gain of a group or bucket with its interval, where it has one."""
    said = number(row.gain)
    if np.isnan(row.low):
        return said
    return f"{said} (95 % interval {number(row.low, '')} to {number(row.high, '')})"


def _reach(table):
    """Error bars (2, rows) of the gains in a table."""
    return np.maximum(np.nan_to_num([table.gain - table.low, table.high - table.gain]), 0)


def on_one_line(table):
    """The table with the names of its groups as one line of text each."""
    return table.assign(group=table.group.map(printable))


@in_style
def gain_by_group(table, reference):
    """Audit.groups -> Shown: gain and interval of each group, or of those at either end."""
    rows = table.sort_values(["gain", "group"], kind="stable")
    caption = (
        "Marks are gains, bars 95 % intervals, the number of examples in brackets; colour and "
        "shape say which groups are harmed or helped at a false discovery rate of 5 %."
    )
    if len(rows) > 2 * EDGE:
        rows = pd.concat([rows.head(EDGE), rows.tail(EDGE)])
        caption += (
            f" Of {len(table):,} groups the {EDGE} lowest and the {EDGE} highest: "
            "such extremes are partly luck."
        )
    rows = on_one_line(rows).assign(at=np.arange(len(rows))[::-1])
    figure, axes = axes_of(height=1.2 + 0.24 * len(rows))
    for finding, (colour, marker) in FINDINGS.items():
        some = rows[rows.finding == finding]
        if len(some):
            look = {"fmt": marker, "color": colour, "label": finding}
            axes.errorbar(some.gain, some["at"], xerr=_reach(some), capsize=2, linewidth=1, **look)
    axes.axvline(0, **ZERO)
    names = [f"{printable(r.group, 28)} ({r.n:,})" for r in rows.itertuples()]
    axes.set_yticks(rows["at"], names, fontsize=8)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel(f"accuracy gain over the {reference}, points")
    legend(figure, axes)
    least, most = rows.iloc[0], rows.iloc[-1]
    sentence = (
        f"Gains run from {number(least.gain)} ({least.group}) "
        f"to {number(most.gain)} ({most.group})."
    )
    columns = ["group", "n", "gain", "low", "high", "q", "finding"]
    return Shown(figure, sentence, caption, rows[columns])


def by_bucket(a):
    """[gain by bucket, teacher's margin against gain], each a Shown; [] for fewer than 3 groups."""
    if not len(a.buckets):
        return []
    correlation = a.metrics["margin_gain_correlation"]
    return [
        gain_by_bucket(a.buckets, a.reference),
        margin_and_gain(a.groups, correlation, a.reference),
    ]


@in_style
def gain_by_bucket(table, reference):
    """Audit.buckets -> Shown: gain and interval of each bucket."""
    figure, axes = axes_of(height=3.2)
    x = np.arange(len(table))
    axes.errorbar(x, table.gain, _reach(table), fmt="s", color=BLUE, capsize=4, markersize=7)
    for place, seeds in enumerate(table.per_seed):
        if len(seeds) > 1:
            beside = place + np.linspace(-0.05, 0.05, len(seeds))
            axes.plot(beside, seeds, ".", color=BLUE, alpha=0.4)
    axes.axhline(0, **ZERO)
    axes.set_xticks(x, [f"{r.bucket}\n{r.groups} groups" for r in table.itertuples()])
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.set_ylabel(f"gain over the {reference}, points")
    gains = "; ".join(f"{r.bucket} {gain_in_words(r)}" for r in table.itertuples())
    caption = "Groups of a bucket count alike; small dots are seeds, bars 95 % intervals."
    return Shown(figure, f"By bucket: {gains}.", caption, table.drop(columns="per_seed"))


@in_style
def margin_and_gain(table, correlation, reference):
    """Audit.groups -> Shown: the teacher's margin against the gain, a point for each group."""
    figure, axes = axes_of(width=6.2, height=4.0)
    point = {"alpha": 0.7, "markersize": 6 if len(table) < 200 else 3}
    for finding, (colour, marker) in FINDINGS.items():
        some = table[table.finding == finding]
        if len(some):
            look = {"color": colour, "label": finding, "rasterized": len(table) > POINTS}
            axes.plot(some.teacher_margin, some.gain, marker, **look, **point)
    outer = [table.gain.argmin(), table.gain.argmax(), table.teacher_margin.argmin()]
    name = {"xytext": (6, 3), "textcoords": "offset points", "fontsize": 8}
    for row in table.iloc[outer].drop_duplicates("group").itertuples():
        axes.annotate(printable(row.group, 24), (row.teacher_margin, row.gain), **name)
    axes.axhline(0, **ZERO)
    axes.margins(x=0.15)
    axes.set_xlabel("teacher's margin (1: always certain and right)")
    axes.set_ylabel(f"gain over the {reference}, points")
    legend(figure, axes)
    sentence = (
        "Rank correlation of the teacher's margin and the gain, over groups: "
        f"{told(correlation, '', 2)}."
    )
    caption = (
        "One point per group. The correlation takes the margin from one half of the examples and "
        "the gain from the other, both ways round, so that examples that are easy for all cannot "
        "make it."
    )
    lowest = table[["group", "teacher_margin", "gain"]].sort_values("teacher_margin").head(ROWS)
    return Shown(figure, sentence, caption, on_one_line(lowest))


@in_style
def calibration(table):
    """Audit.calibration -> Shown: confidence minus accuracy by bucket."""
    figure, axes = axes_of(height=3.2)
    places, roles = table.place.unique(), table.role.unique()
    for m, role in enumerate(roles):
        colour, marker = MODELS[role]
        rows = table[table.role == role].set_index("place").loc[places]
        x = np.arange(len(places)) + 0.12 * (m - (len(roles) - 1) / 2)
        axes.plot(x, rows.overconfidence, marker, color=colour, label=role, markersize=7)
    axes.axhline(0, **ZERO)
    axes.set_xticks(range(len(places)), places)
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.set_ylabel("confidence minus accuracy, points")
    legend(figure, axes)
    most = table.loc[table.overconfidence.idxmax()]
    sentence = (
        f"The largest overconfidence is the {most.role}'s in “{most.place}”: "
        f"{number(most.overconfidence)}."
    )
    caption = (
        "Mean confidence in the predicted class minus accuracy; "
        "above zero a model is overconfident."
    )
    return Shown(figure, sentence, caption, table)
