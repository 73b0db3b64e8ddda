"""An Audit to look at: one page that opens without a network, and widgets in a notebook.

Beside the page lie the same as JSON, and the groups as CSV.
"""

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from markupsafe import Markup

from kdlib import __version__
from kdlib.auditing.facts import facts
from kdlib.auditing.figures import ROWS, by_bucket, calibration, cells, gain_by_group
from kdlib.auditing.gate import METRICS
from kdlib.auditing.headline import gain_in_words, in_words, words_of
from kdlib.auditing.pictures import alt
from kdlib.auditing.tables import CHANGED
from kdlib.auditing.verdicts import Judgement
from kdlib.config import count_of
from kdlib.evidence.significance import UNCHANGED
from kdlib.evidence.stats import Interval
from kdlib.evidence.words import brief, number
from kdlib.pages.shown import TEMPLATES, Appendix, Headline, Table, csv_text, tidy
from kdlib.reading.names import ROLES
from kdlib.reading.sentences import printable

HELD = 1000  # groups in the file that the page itself holds
SUBGROUPS = ["subgroup", "n_scored", "gain", "low", "high", "others", "q", "finding", "gain_found"]


# ---------------------------------------------------------------- words


def value_of(value, digits=2):
    """A metric as text: an Interval with its ends, or a number."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Interval):
        return brief(value, digits, signed=False)
    return number(value, "", digits, signed=False)


def describe(row, a):
    """One row of Audit.groups, its finding in_words, as a sentence."""
    accuracy = ", ".join(f"{role} {getattr(row, role):.1f} %" for role in a.scored)
    found = f"{row.detectable:.1f} points" if not row.detectable > 100 else "none that is possible"
    return (
        f"{printable(row.group)}: {count_of(row.n, 'example')}; {accuracy}; "
        f"gain over the {a.reference} {gain_in_words(row)}, q = {row.q:.3f}: {row.finding}. "
        f"Smallest effect that would be detected: {found}. "
        f"Teacher's margin {row.teacher_margin:.2f}, "
        f"so AdaAlpha would use alpha = {row.ada_alpha:.2f}."
    )


# ---------------------------------------------------------------- tables


def overview(a):
    """A Table with a row for each model."""
    columns = {
        "accuracy": "over all examples",
        "average": "mean of the groups",
        "worst_k": f"worst {a.worst}",
        "worst_k_same": f"worst {a.worst}, same examples",
    }
    rows = []
    for role in a.scored:
        values = {label: a.metrics[f"{role}_{name}"] for name, label in columns.items()}
        rows.append({"model": role} | {label: value_of(v, 1) for label, v in values.items()})
    covers = a.covers.replace("seeds", "training runs")
    return Table(pd.DataFrame(rows), f"Accuracy in per cent; 95 % intervals cover {covers}")


def metrics(a):
    """DataFrame: a row for each metric beyond the models' accuracies."""
    rows = []
    for name, value in a.metrics.items():
        if name.endswith(("_accuracy", "_average", "_worst_k", "_worst_k_same")):
            continue
        detectable = getattr(value, "detectable", np.nan)
        detectable = f"{detectable:.2f}" if np.isfinite(detectable) else "–"
        rows.append((name, value_of(value), detectable, METRICS[name]))
    return pd.DataFrame(rows, columns=["metric", "value", "smallest detectable", "meaning"])


def notable(table):
    """Audit.groups, harmed (or worse) first, then helped (better), each from the lowest gain."""
    # gains of the harmed are below 0, and below those of the helped
    ordered = table.assign(same=table.finding == UNCHANGED)
    ordered = ordered.sort_values(["same", "gain", "group"], kind="stable")
    return ordered.drop(columns="same")


def appendix(a, name="audit"):
    """Every group, those that lost first, as a folded table and a file to save."""
    rows = notable(a.groups)
    words = words_of(a)
    counts = ["n_train"] if a.groups.n_train.notna().all() else []
    columns = ["group", "n", *counts, "bucket", *a.scored, "gain", "low", "high", "p", "q"]
    columns += ["finding", "detectable", "teacher_margin", "ada_alpha"]
    which = "The one group" if len(rows) == 1 else f"All {len(rows):,} groups"
    if len(rows) > ROWS:
        which = f"{ROWS:,} of {len(rows):,} groups, {words[0]} ones first"
    caption = f"{which}: accuracies in per cent, gain in points with its 95 % interval."
    file = f"{name}.csv" if len(rows) <= HELD else f"{name}-first-{HELD}.csv"
    shown = in_words(rows[columns].head(ROWS), words)
    return Appendix(cells(shown), caption, rows.head(HELD), file)


# ---------------------------------------------------------------- the page


def rendered(template, found, judged, name, **more):
    """A page on Audit or Students, as HTML. name: of the files beside it; more: what it shows."""
    now = datetime.now(UTC)
    page = TEMPLATES.get_template(template).render(
        more,
        found=found,
        about=found.about(now),
        judged=judged,
        table=Table,
        show=lambda part: Markup(part._repr_html_()),
        printable=printable,
        name=printable(name),
        version=__version__,
        now=now,
    )
    return tidy(page)


def page(a, judged=None, name="audit"):
    """The Audit as one HTML page.

    judged: the Judgement of its conditions. name: of the files beside the page.
    """
    copies = {role: a.metrics[f"{role}_copies"] for role in ROLES if f"{role}_copies" in a.metrics}
    inputs = [(role, printable(file, 120), sha[:16] or "–") for role, file, sha in a.inputs]
    words = words_of(a)
    clearly = a.groups.group[a.groups.finding == CHANGED[a.reference][0]]
    return rendered(
        "audit.html.j2",
        a,
        judged or Judgement(),
        name,
        changed=words,
        overview=overview(a),
        transfer=cells(a.transfer),
        figure=gain_by_group(a.groups, a.reference, words),
        by_bucket=by_bucket(a),
        copies="; ".join(f"the {role} {value_of(v, 1)} %" for role, v in copies.items()),
        calibration=calibration(a.calibration) if len(a.calibration) else None,
        appendix=appendix(a, name),
        metrics=metrics(a),
        subgroups=None if a.subgroups is None else cells(in_words(a.subgroups[SUBGROUPS], words)),
        lost_clearly=any(row.group in set(clearly) for row in a.lost),
        inputs=pd.DataFrame(inputs, columns=["input", "from", "sha256"]),
        alt=alt,
    )


def files(a, judged, out):
    """{suffix: text} of the page, the same as JSON, and the groups; see found.Found."""
    return {
        ".html": page(a, judged, out[""][".html"].stem),
        ".json": json.dumps(facts(a, judged), indent=1) + "\n",
        ".csv": csv_text(notable(a.groups)),
    }


# ---------------------------------------------------------------- in a notebook


def explore(a):
    """Widgets that choose bucket, metric and group, above what view shows of that choice."""
    import ipywidgets as widgets

    known = a.groups.columns[a.groups.notna().any()]
    numbers = [column for column in known if column not in ("group", "bucket", "finding")]
    names = [printable(group) for group in a.groups.group]
    choices = [
        widgets.Dropdown(options=["all", *a.buckets.bucket], description="bucket"),
        widgets.Dropdown(options=numbers, value="gain", description="metric"),
        widgets.Combobox(options=names, placeholder="a group", description="group"),
    ]
    # no Output widget: with one, nbclient now and then waits for ever for the end of the cell
    out = widgets.HTML()

    def show(_=None):
        chosen = view(a, *(choice.value for choice in choices))
        out.value = "".join(part._repr_html_() for part in chosen)

    for choice in choices:
        choice.observe(show, "value")
    show()
    return widgets.VBox([widgets.HBox(choices), out])


def view(a, bucket="all", metric="gain", group=""):
    """What explore shows: the groups of a bucket ordered by a metric, and one group in words."""
    words = words_of(a)
    groups = in_words(a.groups, words)
    rows = groups if bucket == "all" else groups[groups.bucket == bucket]
    rows = rows.sort_values(metric, kind="stable")
    columns = list(dict.fromkeys(["group", "n", metric, "gain", "low", "high", "finding"]))
    out = [gain_by_group(rows, a.reference, words)] if len(rows) > 1 else []
    caption = f"{count_of(len(rows), 'group')} of bucket {bucket}, lowest {metric} first"
    out.append(Table(cells(rows[columns].head(ROWS)), caption))
    chosen = groups[groups.group.map(printable) == group].head(1)
    return out + [Headline([describe(row, a)]) for row in chosen.itertuples()]
