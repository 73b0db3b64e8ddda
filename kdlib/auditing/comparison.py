"""Students to look at: one page that compares them, and beside it the page of each.

Beside the page lie the same as JSON, as students.schema.json describes it, and all groups as CSV.
"""

import json

import numpy as np
import pandas as pd

from kdlib.auditing import page
from kdlib.auditing.facts import facts_of_students
from kdlib.auditing.figures import BLUE, ORANGE, cells
from kdlib.auditing.headline import in_words, words_of
from kdlib.auditing.tables import CHANGED
from kdlib.evidence.significance import UNCHANGED
from kdlib.evidence.words import brief, number
from kdlib.pages.drawing import captioned, drawn, legend
from kdlib.pages.shown import Table, csv_text

ENDS = ("average gain", "from", "to", "worst groups", "worst from", "worst to")
LOOKS = {"average over groups": (BLUE, "o"), "worst groups": (ORANGE, "v")}


# ---------------------------------------------------------------- the page


@captioned
def gain_by_student(table, worst, reference):
    """Bars are 95 % intervals, not corrected for the number of students."""
    parts = []
    columns = (("average_gain", "low", "high"), ("worst_k_gain", "worst_k_low", "worst_k_high"))
    for what, names in zip(LOOKS, columns, strict=True):
        part = table[["student", *names]].set_axis(["student", "estimate", "low", "high"], axis=1)
        parts.append(part.assign(what=what))
    marks = pd.concat(parts, ignore_index=True).dropna(subset="estimate")

    def paint(width):
        how = {"hue": "what", "looks": LOOKS.get, "width": width, "height": 1.2 + 0.42 * len(table)}
        label = f"gain over the {reference}, points"
        figure, (axes,) = drawn(marks, "student", label, across=True, **how)
        axes.set_ylim(len(table) - 0.5, -0.5)
        legend(figure, axes)
        return figure

    gains = "; ".join(f"{r.student} {number(r.average_gain)}" for r in table.itertuples())
    of_worst = f"the {worst} groups that gain least" if worst > 1 else "the group that gains least"
    caption = (
        f"Worst groups means {of_worst}: each student has its own, chosen on one half of the "
        "examples and scored on the other."
    )
    shown = table[["student", *columns[0], *columns[1]]].set_axis(["student", *ENDS], axis=1)
    return paint, f"Gain on average over the groups: {gains}.", cells(shown), caption


def overview(found):
    """A Table with a row for each student."""
    rows = []
    for r in found.table.itertuples():
        a = found.audits[r.student]
        row = {"student": r.student, "average gain": brief(a.metrics["average_gain"])}
        row |= {"p": r.p, "p_holm": r.p_holm}
        if "worst_k_gain" in a.metrics:
            row["gain in its worst groups"] = brief(a.metrics["worst_k_gain"])
        counts = [a.metrics[f"groups_{word}"] for word in CHANGED[a.reference]]
        row |= dict(zip(words_of(*found.audits.values()), counts, strict=True))
        row["accuracy"] = number(r.accuracy, "", signed=False)
        row["mean of the groups"] = number(r.average_accuracy, "", signed=False)
        rows.append(row)
    of = f"Gains over the {found.reference} in points, accuracies in per cent"
    return Table(cells(pd.DataFrame(rows)), f"{of}, 95 % intervals in brackets")


def by_group(found):
    """DataFrame: a row for each group, the lowest gain of any student first, a column for each."""
    first = found.first.groups
    accuracy = [number(value, "", signed=False) for value in first[found.reference]]
    table = cells(first[["group", "n"]]).assign(**{f"{found.reference}, %": accuracy})
    # by name: each student's file may have its classes in another order
    own = {name: a.groups.set_index("group").loc[first.group] for name, a in found.audits.items()}
    gains = pd.DataFrame({name: of.gain.to_numpy() for name, of in own.items()})
    stars = [np.where(of.finding == UNCHANGED, "", "*") for of in own.values()]
    shown = gains.map(number, unit="") + np.transpose(stars)
    lowest = gains.min(axis=1).argsort(kind="stable")
    return pd.concat([table, shown], axis=1).iloc[lowest]


def differences(found):
    """DataFrame: a row for each two students, as the page shows it."""
    pairs = found.pairs.assign(estimate=found.pairs.difference)
    rows = [(f"{r.student} minus {r.other}", brief(r), r.p, r.p_holm) for r in pairs.itertuples()]
    return cells(pd.DataFrame(rows, columns=["students", "difference", "p", "p_holm"]))


def files(found, judged, out):
    """{suffix: text} of the page, the same as JSON, and all groups; see found.Found."""
    changed = found.groups[found.groups.finding != UNCHANGED]
    words = words_of(*found.audits.values())
    html = page.rendered(
        "students.html.j2",
        found,
        judged,
        out[""][".html"].stem,
        figure=gain_by_student(found.table, found.first.worst, found.reference),
        overview=overview(found),
        by_group=by_group(found).head(page.ROWS),
        differences=differences(found),
        changed=cells(in_words(changed, words).sort_values("gain", kind="stable").head(page.ROWS)),
        changes=len(changed),
        words=words,
        links={name: out[name][".html"].name for name in found.audits},
    )
    return {
        ".html": html,
        ".json": json.dumps(facts_of_students(found, judged), indent=1) + "\n",
        ".csv": csv_text(found.groups),
    }
