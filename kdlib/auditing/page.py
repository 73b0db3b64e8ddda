"""An Audit to look at: one page that opens without a network, and widgets in a notebook.

Beside the page lie the same as JSON, and the groups as CSV.
"""

import html
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from kdlib import __version__
from kdlib.auditing.facts import facts
from kdlib.auditing.figures import (
    ROWS,
    by_bucket,
    calibration,
    cells,
    gain_by_group,
    gain_in_words,
)
from kdlib.auditing.gate import METRICS
from kdlib.auditing.headline import about, answer, cautions, headline, title
from kdlib.auditing.pictures import alt
from kdlib.auditing.search import shown_subgroups
from kdlib.auditing.tables import CHANGED
from kdlib.auditing.verdicts import Judgement, judge
from kdlib.config import KdlibError, count_of
from kdlib.evidence.stats import Interval
from kdlib.pages.shown import TEMPLATES, Appendix, Headline, Table, csv_text, table_html, tidy
from kdlib.reading.names import ROLES
from kdlib.reading.read import file_and_columns
from kdlib.reading.sentences import AuditError, printable
from kdlib.study.files import whole_file

HELD = 1000  # groups in the file that the page itself holds


# ---------------------------------------------------------------- words


def value_of(value, digits=2):
    """A metric as text: an Interval with its ends, or a number."""
    if not isinstance(value, Interval):
        return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"
    if np.isnan(value.estimate):
        return "–"
    ends = "" if np.isnan(value.low) else f" [{value.low:.{digits}f}, {value.high:.{digits}f}]"
    said = f"{value.estimate:.{digits}f}{ends}"
    return said.replace("-", "−").replace(" ", "\N{NO-BREAK SPACE}")


def describe(row, a):
    """One row of Audit.groups in a sentence."""
    accuracy = ", ".join(f"{role} {getattr(row, role):.1f} %" for role in a.scored)
    return (
        f"{printable(row.group)}: {count_of(row.n, 'example')}; {accuracy}; "
        f"gain over the {a.reference} {gain_in_words(row)}, q = {row.q:.3f}: {row.finding}. "
        f"Smallest effect that would be detected: {row.detectable:.1f} points. "
        f"Teacher's margin {row.teacher_margin:.2f}, "
        f"so AdaAlpha would use alpha = {row.ada_alpha:.2f}."
    )


# ---------------------------------------------------------------- tables


def models(a):
    """DataFrame: a row for each model."""
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
    return pd.DataFrame(rows)


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
    places = {word: place for words in CHANGED.values() for place, word in enumerate(words)}
    order = table.finding.map(places).fillna(2)
    ordered = table.assign(order=order).sort_values(["order", "gain", "group"], kind="stable")
    return ordered.drop(columns="order")


def appendix(a, name="audit"):
    """Every group, those that lost first, as a folded table and a file to save."""
    rows = notable(a.groups)
    counts = ["n_train"] if a.groups.n_train.notna().all() else []
    columns = ["group", "n", *counts, "bucket", *a.scored, "gain", "low", "high", "p", "q"]
    columns += ["finding", "detectable", "teacher_margin", "ada_alpha"]
    which = "The one group" if len(rows) == 1 else f"All {len(rows):,} groups"
    if len(rows) > ROWS:
        which = f"{ROWS:,} of {len(rows):,} groups, {CHANGED[a.reference][0]} ones first"
    caption = f"{which}: accuracies in per cent, gain in points with its 95 % interval."
    file = f"{name}.csv" if len(rows) <= HELD else f"{name}-first-{HELD}.csv"
    return Appendix(cells(rows[columns].head(ROWS)), caption, rows.head(HELD), file)


# ---------------------------------------------------------------- the page


def page(a, judged=None, name="audit"):
    """The Audit as one HTML page.

    judged: the Judgement of its conditions. name: of the files beside the page.
    """
    now = datetime.now(UTC)
    copies = {role: a.metrics[f"{role}_copies"] for role in ROLES if f"{role}_copies" in a.metrics}
    inputs = [(role, printable(file, 120), sha[:16] or "–") for role, file, sha in a.inputs]
    rendered = TEMPLATES.get_template("audit.html.j2").render(
        a=a,
        title=title(a),
        answer=answer(a),
        cautions=cautions(a),
        about=about(a, now),
        changed=CHANGED[a.reference],
        judged=judged or Judgement(),
        models=models(a),
        transfer=cells(a.transfer),
        gains=gain_by_group(a.groups, a.reference),
        by_bucket=by_bucket(a),
        copies="; ".join(f"the {role} {value_of(v, 1)} %" for role, v in copies.items()),
        calibration=calibration(a.calibration) if len(a.calibration) else None,
        appendix=appendix(a, name),
        metrics=metrics(a),
        subgroups=shown_subgroups(a.subgroups),
        inputs=pd.DataFrame(inputs, columns=["input", "from", "sha256"]),
        table=Table,
        show=lambda part: Markup(part._repr_html_()),
        printable=printable,
        alt=alt,
        name=printable(name),
        version=__version__,
        now=now,
    )
    return tidy(rendered)


def places(path, inputs=()):
    """{".html": path, ".json": ..., ".csv": ...}: where save writes.

    AuditError if path does not end in .html, or one of the files is an input.
    """
    path = Path(path)
    if path.suffix != ".html" or "\0" in str(path):
        raise AuditError(
            f"--out {path}: must be the name of a file and end in .html; "
            ".json and .csv are written beside it."
        )
    out = {suffix: path.with_suffix(suffix) for suffix in (".html", ".json", ".csv")}
    read = {os.path.realpath(file_and_columns(name)[0]) for name in inputs}
    if there := [str(file) for file in out.values() if os.path.realpath(file) in read]:
        raise AuditError(f"--out {path}: would write over {there[0]}, which this audit reads.")
    return out


def save(a, path, conditions=()):
    """Write the page to path (.html), beside it .json and .csv; returns the three paths.

    conditions: a Judgement, or texts as gate.condition reads them. KdlibError if writing fails.
    """
    out = places(path, [name for _, name, sha256 in a.inputs if sha256])
    judged = conditions if isinstance(conditions, Judgement) else judge(a, conditions)
    files = {
        ".html": page(a, judged, out[".html"].stem),
        ".json": json.dumps(facts(a, judged), indent=1) + "\n",
        ".csv": csv_text(notable(a.groups)),
    }
    return write(out, files, path)


def write(out, files, path):
    """Write the texts {suffix: text} to out {suffix: path}; returns these paths.

    path: that was asked for. KdlibError if writing fails.
    """
    for suffix, text in files.items():
        try:
            with whole_file(out[suffix]) as temporary:
                temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
        # a full disk, a folder or a file in the way, a name too long
        except (OSError, ValueError, KdlibError) as error:
            why = getattr(error.__cause__ or error, "strerror", None) or error
            raise AuditError(f"--out {path}: {out[suffix]} cannot be written ({why}).") from None
    return tuple(out.values())


# ---------------------------------------------------------------- in a notebook


def glance(a):
    """Warnings, the headline, what was read and the models as HTML."""
    first = [*(f"Warning: {sentence}" for sentence in a.warnings), *headline(a)]
    said = [*(f"<strong>{html.escape(sentence)}</strong>" for sentence in first)]
    said += [html.escape(sentence) for sentence in a.read]
    said = "".join(f"<p>{sentence}</p>" for sentence in said)
    covers = a.covers.replace("seeds", "training runs")
    return said + table_html(models(a), f"Accuracy in per cent; intervals cover {covers}")


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
    rows = a.groups if bucket == "all" else a.groups[a.groups.bucket == bucket]
    rows = rows.sort_values(metric, kind="stable")
    columns = list(dict.fromkeys(["group", "n", metric, "gain", "low", "high", "finding"]))
    out = [gain_by_group(rows, a.reference)] if len(rows) > 1 else []
    caption = f"{count_of(len(rows), 'group')} of bucket {bucket}, lowest {metric} first"
    out.append(Table(cells(rows[columns].head(ROWS)), caption))
    chosen = a.groups[a.groups.group.map(printable) == group].head(1)
    return out + [Headline([describe(row, a)]) for row in chosen.itertuples()]
