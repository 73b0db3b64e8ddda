"""Students to look at: one page that compares them, and beside it the page of each.

Beside the page lie the same as JSON, as students.schema.json describes it, and all groups as CSV.
"""

import html
import json
from datetime import UTC, datetime

import pandas as pd
from markupsafe import Markup

from kdlib import __version__
from kdlib.auditing import page
from kdlib.auditing.facts import SCHEMA, facts, plain, verdict_facts
from kdlib.auditing.figures import BLUE, ORANGE, cells
from kdlib.auditing.headline import about, short_name
from kdlib.auditing.standing import answer, cautions_of, headline, title
from kdlib.auditing.tables import CHANGED
from kdlib.auditing.together import judge_each, together
from kdlib.evidence.words import brief, number
from kdlib.pages.drawing import captioned, drawn, legend
from kdlib.pages.shown import TEMPLATES, Table, csv_text, table_html, tidy
from kdlib.reading.said import of_student
from kdlib.reading.sentences import printable

ENDS = ("average gain", "from", "to", "worst groups", "worst from", "worst to")
LOOKS = {"average over groups": (BLUE, "o"), "worst groups": (ORANGE, "v")}


# ---------------------------------------------------------------- the page


@captioned
def gain_by_student(table, worst, reference):
    """Students.table -> Shown: average gain, and that of the worst groups, of each student."""
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
        "Bars are 95 % intervals, not corrected for the number of students. Worst groups means "
        f"{of_worst}: each student has its own, chosen on one half of the examples and scored on "
        "the other."
    )
    shown = table[["student", *columns[0], *columns[1]]].set_axis(["student", *ENDS], axis=1)
    return paint, f"Gain on average over the groups: {gains}.", cells(shown), caption


def overview(found):
    """DataFrame: a row for each student, as the page shows it."""
    rows = []
    for r in found.table.itertuples():
        a = found.audits[r.student]
        average = a.metrics["average_gain"]
        row = {"student": r.student, "average gain": brief(average), "p": r.p, "q": r.p_holm}
        if "worst_k_gain" in a.metrics:
            row["gain in its worst groups"] = brief(a.metrics["worst_k_gain"])
        row |= {word: a.metrics[f"groups_{word}"] for word in CHANGED[a.reference]}
        row |= {"accuracy": number(r.accuracy, "").removeprefix("+")}
        rows.append(row | {"mean of the groups": number(r.average_accuracy, "").removeprefix("+")})
    return cells(pd.DataFrame(rows)).rename(columns={"q": "p, corrected"})


def differences(found):
    """DataFrame: a row for each two students, as the page shows it."""
    gains = [brief(r) for r in found.pairs.assign(estimate=found.pairs.difference).itertuples()]
    of = [f"{r.student} minus {r.other}" for r in found.pairs.itertuples()]
    table = pd.DataFrame({"students": of, "difference": gains})
    table = cells(table.assign(p=found.pairs.p.to_numpy(), q=found.pairs.p_holm.to_numpy()))
    return table.rename(columns={"q": "p, corrected"})


def written(found, judged, paths):
    """The Students as one HTML page. judged: of all together. paths: see places."""
    now = datetime.now(UTC)
    lost, gained = CHANGED[found.reference]
    of = found.groups[found.groups.finding.isin([lost, gained])]
    rendered = TEMPLATES.get_template("students.html.j2").render(
        found=found,
        title=title(found),
        answer=answer(found),
        cautions=cautions_of(found),
        warnings=warnings(found),
        read=read(found),
        about=_about(found, now),
        judged=judged,
        figure=gain_by_student(found.table, found.first.worst, found.reference),
        overview=overview(found),
        differences=differences(found),
        changed=cells(of.sort_values("gain", kind="stable").head(page.ROWS)),
        changes=len(of),
        words=(lost, gained),
        links={name: out[".html"].name for name, out in paths.items() if name},
        table=Table,
        show=lambda part: Markup(part._repr_html_()),
        printable=printable,
        name=printable(paths[""][".html"].stem),
        version=__version__,
        now=now,
    )
    return tidy(rendered)


def read(found):
    """Sentences on what was read; what is the same of all students stands with the first."""
    said = set()
    sentences = [(name, sentence) for name, a in found.audits.items() for sentence in a.read]
    if len(found.audits) == 1:
        return [sentence for _, sentence in sentences]
    return list(filter(None, (of_student(*named, said) for named in sentences)))


def warnings(found):
    """The warnings of all students, each behind the names of those it is of."""
    of = {}
    for name, a in found.audits.items():
        for sentence in a.warnings:
            of.setdefault(sentence, []).append(name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in of.items()]


def _about(found, now):
    """{what: words} of the first screen, where a student's files stand behind its name."""
    shared = about(found.first, now)
    models = [f"{name} {short_name(a, 'student')}" for name, a in found.audits.items()]
    models += [
        f"{role} {short_name(found.first, role)}"
        for role in ("teacher", "baseline")
        if role in found.first.scored
    ]
    runs = [f"{a.seeds} of {name}" for name, a in found.audits.items()]
    others = [part for part in shared["Training runs"].split(", ") if "student" not in part]
    return shared | {"Models": "; ".join(models), "Training runs": ", ".join(runs + others)}


# ---------------------------------------------------------------- files


def places(path, inputs=(), names=()):
    """{"" or name of a student: {suffix: path}} of what save writes; see page.places."""
    out = {"": page.places(path, inputs)}
    first = out[""][".html"]
    for name in names:
        out[name] = page.places(first.with_name(f"{first.stem}-{name}.html"), inputs)
    return out


def save(found, path, conditions=()):
    """Write the page to path, beside it .json and .csv, and those of each student; the paths.

    conditions: what together.judge_each returned, or texts as gate.condition reads them.
    """
    each = conditions if isinstance(conditions, dict) else judge_each(found, conditions)
    against = next((judged.against for judged in each.values()), None)
    judged = together(each, against)
    inputs = {file for a in found.audits.values() for _, file, sha256 in a.inputs if sha256}
    paths = places(path, inputs, found.audits)
    files = {
        ".html": written(found, judged, paths),
        ".json": json.dumps(all_facts(found, each, judged), indent=1) + "\n",
        ".csv": csv_text(found.groups),
    }
    saved = [*page.write(paths[""], files, path)]
    for name, a in found.audits.items():
        saved += page.save(a, paths[name][".html"], each[name])
    return tuple(saved)


def all_facts(found, each, judged):
    """The Students as a dictionary for JSON; each, judged: by student, and together."""
    against = None
    if judged.against:
        against = {"name": judged.against.name, "sha256": judged.against.sha256}
        against |= {"cautions": judged.cautions}
    return plain(
        {
            "schema": SCHEMA,
            "kdlib": __version__,
            "title": found.title,
            "reference": found.reference,
            "table": found.table,
            "differences": found.pairs,
            "students": {name: facts(a, each[name]) for name, a in found.audits.items()},
            "against": against,
            "fail_if": [verdict_facts(verdict) for verdict in judged.verdicts],
        }
    )


def glance(found):
    """Warnings, the headline and the students as HTML, for a notebook."""
    first = [*(f"Warning: {sentence}" for sentence in warnings(found)), *headline(found)]
    said = "".join(f"<p><strong>{html.escape(s)}</strong></p>" for s in first)
    said += "".join(f"<p>{html.escape(s)}</p>" for s in read(found))
    return said + table_html(overview(found), "Gains in points with 95 % intervals")
