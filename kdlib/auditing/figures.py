"""Figures of an Audit: a table in, a Shown out, whose caption is the docstring.

Each is drawn twice, for a desk and for a phone. Names stay text in them, since a browser has the
letters of every script and the font of matplotlib has not; it measures those as boxes wide enough.
"""

import numpy as np
import pandas as pd

from kdlib.auditing.headline import gain_in_words, in_words, within_text, words_of
from kdlib.auditing.tables import CHANGED
from kdlib.config import count_of
from kdlib.evidence.significance import UNCHANGED
from kdlib.evidence.words import all_of, number, p_value, told
from kdlib.methods import BLACK, BLUE, GREY, ORANGE, PURPLE
from kdlib.pages.drawing import DESK, LINE, captioned, drawn, legend, margin_against_gain
from kdlib.reading.sentences import printable

MOST = 40  # groups in a figure
EDGE = 12  # of more, those at either end
ROWS = 200  # groups in a table
LOST, GAINED = (ORANGE, "v"), (BLUE, "^")  # colour and marker
FINDINGS = {
    **{lost: LOST for lost, _ in CHANGED.values()},
    **{gained: GAINED for _, gained in CHANGED.values()},
    UNCHANGED: (GREY, "o"),
}
MODELS = {"teacher": (PURPLE, "P"), "student": (BLUE, "o"), "baseline": (BLACK, "x")}
SMALL = {"fontsize": 8}
HEADERS = {  # of columns that have short names in files
    "n": "examples",
    "n_train": "training examples",
    "low": "95 % from",
    "high": "to",
    "p_holm": "p, corrected",
    "n_scored": "tested on",
    "others": "all others",
    "gain_found": "where found",
    "detectable": "smallest detectable",
    "teacher_margin": "teacher's margin",
    "ada_alpha": "alpha",
    "calibration_error": "calibration error",
    "log_loss": "log-loss",
}


def cells(table):
    """A table as it is shown: short names of columns in words, names of groups on one line each,
    numbers with two decimals."""
    shown = table.copy()
    for name in table.columns:
        if name in ("p", "q", "p_holm"):
            shown[name] = table[name].map(p_value, "ignore")
        elif table[name].dtype.kind == "f":
            shown[name] = [number(value, "", 2, signed=False) for value in table[name]]
    for name, longest in (("group", 60), ("subgroup", 120)):
        if name in table:
            shown[name] = [printable(value, longest) for value in table[name]]
    return shown.where(table.notna()).rename(columns=HEADERS)


# ---------------------------------------------------------------- drawing


@captioned
def gain_by_group(table, reference, words=None):
    """Marks are gains, bars 95 % intervals; the number of examples is in brackets."""
    lost, gained = words = words or CHANGED[reference]
    table = in_words(table, words)
    rows = table.sort_values(["gain", "group"], kind="stable")
    caption = (
        f"Colour and shape say which groups are {lost} or {gained} at a false discovery rate of "
        "5 %."
    )
    some = len(rows) > MOST
    if some:
        rows = pd.concat([rows.head(EDGE), rows.tail(EDGE)])
        caption += (
            f" Of {len(table):,} groups, the {EDGE} lowest and the {EDGE} highest are shown; "
            "such extremes are partly luck."
        )
    marks = rows.assign(estimate=rows.gain, place=np.arange(len(rows)).astype(str))

    def paint(width):
        how = {"hue": "finding", "looks": FINDINGS.get, "height": 1.1 + 0.19 * len(rows)}
        label = f"gain over the {reference}, points"
        figure, (axes,) = drawn(marks, "place", label, across=True, width=width, **how)
        if some:
            axes.axhline(EDGE - 0.5, linestyle=":", **LINE)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        legend(figure, axes)
        room = 28 if width >= DESK else 18
        names = [f"{within_text(r.group, room)} ({r.n:,})" for r in rows.itertuples()]
        axes.set_yticks(range(len(rows)), names, **SMALL)
        return figure

    least, most = rows.iloc[0], rows.iloc[-1]
    sentence = (
        f"Gains range from {number(least.gain)} ({within_text(least.group)}) "
        f"to {number(most.gain)} ({within_text(most.group)})."
    )
    if least.gain == most.gain:
        sentence = f"The gain of every group is {number(least.gain)}."
    columns = ["group", "n", "gain", "low", "high", "q", "finding"]
    return paint, sentence, cells(rows[columns]), caption


def by_bucket(a):
    """[gain by bucket, teacher's margin against gain], each a Shown; [] for fewer than 3 groups."""
    if not len(a.buckets):
        return []
    groups = in_words(a.groups, words_of(a))
    by_margin = margin_and_gain(groups, a.metrics["margin_gain_correlation"], a.reference)
    return [gain_by_bucket(a.buckets, a.reference), by_margin]


@captioned
def gain_by_bucket(table, reference):
    """All groups of a bucket count alike; small dots are training runs, bars 95 % intervals."""
    marks = table.assign(estimate=table.gain, role="student")
    if len(table.per_seed.iloc[0]) == 1:
        marks = marks.drop(columns="per_seed")

    def paint(width):
        how = {"hue": "role", "looks": lambda role: (BLUE, "s"), "width": width, "height": 3.2}
        figure, (axes,) = drawn(marks, "bucket", f"gain over the {reference}, points", **how)
        names = [
            f"{_bucket(r.bucket, width)}\n{count_of(r.groups, 'group')}" for r in table.itertuples()
        ]
        axes.set_xticks(range(len(table)), names)
        figure.legends.clear()
        return figure

    gains = "; ".join(f"{r.bucket} {gain_in_words(r)}" for r in table.itertuples())
    return paint, f"By bucket: {gains}.", cells(table.drop(columns="per_seed"))


def _bucket(name, width):
    return name if width >= DESK else name.replace(" ", "\n")


@captioned
def margin_and_gain(table, correlation, reference):
    """Each point is a group. The correlation takes the margin from one half of the examples and the
    gain from the other, both ways round, so that examples that are easy for all models cannot
    create it. It is about these groups only; the studies of this project cover other classes too,
    and take the margin from other teachers on other images."""
    marks = table.rename(columns={"teacher_margin": "margin"})
    marks["group"] = [within_text(group, 24) for group in table.group]

    def paint(width):
        return margin_against_gain(width, marks, "finding", FINDINGS, f"the {reference}")

    sentence = (
        "Rank correlation across groups between the teacher's margin and the gain: "
        f"{told(correlation, '', 2)}."
    )
    lowest = table[["group", "teacher_margin", "gain"]].sort_values("teacher_margin").head(ROWS)
    return paint, sentence, cells(lowest)


@captioned
def calibration(table):
    """Mean confidence in the predicted class minus accuracy: above zero a model is overconfident,
    below zero it is underconfident. The marks have no intervals."""

    def paint(width):
        places = [_bucket(place, width) for place in table.place]
        marks = table.assign(estimate=table.overconfidence, place=places)
        how = {"hue": "role", "looks": MODELS.get, "width": width, "height": 3.2}
        return drawn(marks, "place", "confidence minus accuracy, points", **how)[0]

    def where(row):
        place = "over all examples" if row.place == "all" else f"in “{row.place}”"
        return f"{number(row.overconfidence)} (the {row.role} {place})"

    ordered = table.sort_values("overconfidence", kind="stable")
    ends = where(ordered.iloc[0]), where(ordered.iloc[-1])
    return paint, f"Confidence minus accuracy lies between {all_of(ends)}.", cells(table)
