"""Figures of an Audit: a table in, a Shown out, whose caption is the docstring."""

import numpy as np
import pandas as pd

from kdlib.auditing.sentences import printable
from kdlib.evidence.words import number, told
from kdlib.pages.shown import LINE, Shown, axes_of, captioned, drawn, in_style, legend

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


def gain_in_words(row):
    """The gain of a group or bucket with its interval, where it has one."""
    said = number(row.gain)
    if np.isnan(row.low):
        return said
    return f"{said} (95 % interval {number(row.low, '')} to {number(row.high, '')})"


def on_one_line(table):
    """The table with the names of its groups as one line of text each."""
    return table.assign(group=table.group.map(printable))


@in_style
def gain_by_group(table, reference):
    """Audit.groups -> Shown: gain and interval of each group, or of those at either end."""
    rows = on_one_line(table.sort_values(["gain", "group"], kind="stable"))
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
    marks = rows.assign(estimate=rows.gain, place=np.arange(len(rows)).astype(str))
    how = {"hue": "finding", "looks": FINDINGS.get, "height": 1.2 + 0.24 * len(rows)}
    label = f"accuracy gain over the {reference}, points"
    figure, (axes,) = drawn(marks, "place", label, across=True, **how)
    names = [f"{printable(r.group, 28)} ({r.n:,})" for r in rows.itertuples()]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
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


@captioned
def gain_by_bucket(table, reference):
    """Groups of a bucket count alike; small dots are seeds, bars 95 % intervals."""
    marks = table.assign(estimate=table.gain, role="student")
    if len(table.per_seed.iloc[0]) == 1:
        marks = marks.drop(columns="per_seed")
    how = {"hue": "role", "looks": lambda role: (BLUE, "s"), "height": 3.2}
    figure, (axes,) = drawn(marks, "bucket", f"gain over the {reference}, points", **how)
    axes.set_xticks(
        range(len(table)), [f"{r.bucket}\n{r.groups} groups" for r in table.itertuples()]
    )
    figure.legends.clear()
    gains = "; ".join(f"{r.bucket} {gain_in_words(r)}" for r in table.itertuples())
    return figure, f"By bucket: {gains}.", table.drop(columns="per_seed")


@captioned
def margin_and_gain(table, correlation, reference):
    """One point per group. The correlation takes the margin from one half of the examples and the
    gain from the other, both ways round, so that examples that are easy for all cannot make it. It
    speaks of these groups; a study's page asks of other classes too, and of the margin on val of
    the teachers of other seeds."""
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
    axes.axhline(0, **LINE)
    axes.margins(x=0.15)
    axes.set_xlabel("teacher's margin (1: always certain and right)")
    axes.set_ylabel(f"gain over the {reference}, points")
    legend(figure, axes)
    sentence = (
        "Rank correlation of the teacher's margin and the gain, over groups: "
        f"{told(correlation, '', 2)}."
    )
    lowest = table[["group", "teacher_margin", "gain"]].sort_values("teacher_margin").head(ROWS)
    return figure, sentence, on_one_line(lowest)


@captioned
def calibration(table):
    """Mean confidence in the predicted class minus accuracy; above zero a model is
    overconfident."""
    marks = table.assign(estimate=table.overconfidence)
    how = {"hue": "role", "looks": MODELS.get, "height": 3.2}
    figure, _ = drawn(marks, "place", "confidence minus accuracy, points", **how)
    most = table.loc[table.overconfidence.idxmax()]
    sentence = (
        f"The largest overconfidence is the {most.role}'s in “{most.place}”: "
        f"{number(most.overconfidence)}."
    )
    return figure, sentence, table
