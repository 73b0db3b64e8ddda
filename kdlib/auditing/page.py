"""An Audit to look at: one page that opens without a network, and widgets in a notebook.

Beside the page lie the same as JSON, and the groups as CSV.
"""

import html
import json
import os
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from kdlib import __version__
from kdlib.auditing.gate import METRICS, ROLES, facts, met
from kdlib.auditing.read import AuditError, printable
from kdlib.config import KdlibError
from kdlib.evidence.stats import Interval
from kdlib.evidence.words import number, told
from kdlib.pages.plots import axes_of, in_style, legend
from kdlib.pages.report_template.filters import tidy
from kdlib.pages.shown import Appendix, Headline, Shown, Table, csv_text, table_html
from kdlib.study.files import whole_file

TEMPLATE = Path(__file__).parents[1] / "pages/report_template"
EDGE = 20  # groups at either end of a figure
ROWS = 200  # groups in the table of a page
HELD = 1000  # groups in the file that the page itself holds
POINTS = 1500  # above it a scatter is a picture inside the figure
MORE = "And of each model _accuracy, _average, _worst_k and _worst_k_same, as in student_average"
LOOKS = {
    "harmed": ("#D55E00", "v"),
    "helped": ("#0072B2", "^"),
    "no clear difference": ("#767676", "o"),
}
ROLE_LOOKS = {
    "teacher": ("#8a4f7d", "P"),
    "student": ("#0072B2", "o"),
    "baseline": ("#000000", "x"),
}


# ---------------------------------------------------------------- words


def headline(a):
    """The finding in two or three sentences."""
    gain = a.metrics["average_gain"]
    clear = "no clear difference to"
    if gain.low > 0:
        clear = "a clear gain over"
    elif gain.high < 0:
        clear = "a clear loss to"
    harmed, helped = a.metrics["groups_harmed"], a.metrics["groups_helped"]
    are = "is" if harmed == 1 else "are"
    out = [
        f"The student shows {clear} the {a.reference}, groups counting alike: {told(gain)}.",
        f"Of {len(a.groups):,} groups {harmed:,} {are} harmed and {helped:,} helped "
        "at a false discovery rate of 5 %.",
    ]
    if harmed:
        hurt = a.groups[a.groups.finding == "harmed"].sort_values("gain").head(3)
        most = ", ".join(f"{printable(r.group)} ({number(r.gain)})" for r in hurt.itertuples())
        out[-1] += f" Most harmed: {most}."
    if len(a.buckets):
        least = a.buckets.loc[a.buckets.gain.idxmin()]
        picked = told(a.metrics["worst_bucket_gain"])
        out.append(
            f"The bucket that gains least is “{least.bucket}”: {_range(least)}; a bucket picked as "
            f"the lowest on half of the examples has, on the other half, {picked}."
        )
    for unit in ("%", "points"):
        out = [said.replace(f" {unit}", f"\N{NO-BREAK SPACE}{unit}") for said in out]
    return out


def _range(row):
    """The gain of a group or bucket with its interval, where it has one."""
    said = number(row.gain)
    if np.isnan(row.low):
        return said
    return f"{said} (95 % interval {number(row.low, '')} to {number(row.high, '')})"


def value_of(value, digits=2):
    """A metric as text: an Interval with its ends, or a number."""
    if not isinstance(value, Interval):
        return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"
    ends = "" if np.isnan(value.low) else f" [{value.low:.{digits}f}, {value.high:.{digits}f}]"
    said = f"{value.estimate:.{digits}f}{ends}"
    return said.replace("-", "−").replace(" ", "\N{NO-BREAK SPACE}")


# ---------------------------------------------------------------- figures: a table in, a Shown out


def _of_groups(table):
    """(at most EDGE groups from either end of the gains, lowest first; whether some are cut)."""
    ordered = table.sort_values(["gain", "group"], kind="stable")
    if len(ordered) <= 2 * EDGE:
        return ordered, False
    return pd.concat([ordered.head(EDGE), ordered.tail(EDGE)]), True


@in_style
def gain_by_group(table, reference):
    """Audit.groups -> Shown: gain and interval of each group, or of those at either end."""
    rows, cut = _of_groups(table)
    figure, axes = axes_of(height=1.2 + 0.24 * len(rows))
    at = np.arange(len(rows))[::-1]
    for finding, (colour, marker) in LOOKS.items():
        part = (rows.finding == finding).to_numpy()
        if part.any():
            some = rows[part]
            spread = np.maximum(np.nan_to_num([some.gain - some.low, some.high - some.gain]), 0)
            axes.errorbar(
                some.gain,
                at[part],
                xerr=spread,
                fmt=marker,
                color=colour,
                capsize=2,
                linewidth=1,
                label=finding,
            )
    axes.axvline(0, color="#444444", linewidth=1)
    names = [f"{printable(r.group, 28)} ({r.n:,})" for r in rows.itertuples()]
    axes.set_yticks(at, names, fontsize=8)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel(f"accuracy gain over the {reference}, points")
    legend(figure, axes)
    least, most = rows.iloc[0], rows.iloc[-1]
    sentence = (
        f"Gains run from {number(least.gain)} ({printable(least.group)}) "
        f"to {number(most.gain)} ({printable(most.group)})."
    )
    caption = (
        "Marks are gains, bars 95 % intervals, the number of examples in brackets; colour and "
        "shape say which groups are harmed or helped at a false discovery rate of 5 %."
    )
    if cut:
        caption += (
            f" Of {len(table):,} groups the {EDGE} lowest and the {EDGE} highest: "
            "such extremes are partly luck."
        )
    shown = _printable(rows[["group", "n", "gain", "low", "high", "q", "finding"]])
    return Shown(figure, sentence, caption, shown)


@in_style
def gain_by_bucket(table, reference):
    """Audit.buckets -> Shown: gain and interval of each bucket."""
    figure, axes = axes_of(height=3.2)
    x = np.arange(len(table))
    spread = np.maximum(np.nan_to_num([table.gain - table.low, table.high - table.gain]), 0)
    axes.errorbar(x, table.gain, spread, fmt="s", color="#0072B2", capsize=4, markersize=7)
    for place, seeds in zip(x, table.per_seed, strict=True):
        if len(seeds) > 1:
            beside = place + np.linspace(-0.05, 0.05, len(seeds))
            axes.plot(beside, seeds, ".", color="#0072B2", alpha=0.4)
    axes.axhline(0, color="#444444", linewidth=1)
    axes.set_xticks(x, [f"{r.bucket}\n{r.groups} groups" for r in table.itertuples()])
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.set_ylabel(f"gain over the {reference}, points")
    gains = "; ".join(f"{r.bucket} {_range(r)}" for r in table.itertuples())
    return Shown(
        figure,
        f"By bucket: {gains}.",
        "Groups of a bucket count alike; small dots are seeds, bars 95 % intervals.",
        table.drop(columns="per_seed"),
    )


@in_style
def margin_and_gain(table, correlation, reference):
    """Audit.groups -> Shown: the teacher's margin against the gain, a point for each group."""
    figure, axes = axes_of(width=6.2, height=4.0)
    for finding, (colour, marker) in LOOKS.items():
        part = table[table.finding == finding]
        axes.plot(
            part.teacher_margin,
            part.gain,
            marker,
            color=colour,
            alpha=0.7,
            markersize=6 if len(table) < 200 else 3,
            label=finding if len(part) else None,
            rasterized=len(table) > POINTS,
        )
    outer = [table.gain.argmin(), table.gain.argmax(), table.teacher_margin.argmin()]
    for row in table.iloc[outer].drop_duplicates("group").itertuples():
        axes.annotate(
            printable(row.group, 24),
            (row.teacher_margin, row.gain),
            xytext=(6, 3),
            textcoords="offset points",
            fontsize=8,
        )
    axes.axhline(0, color="#444444", linewidth=1)
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
    return Shown(figure, sentence, caption, _printable(lowest))


@in_style
def calibration(table):
    """Audit.calibration -> Shown: confidence minus accuracy by bucket."""
    figure, axes = axes_of(height=3.2)
    places = list(dict.fromkeys(table.place))
    roles = list(dict.fromkeys(table.role))
    for m, role in enumerate(roles):
        colour, marker = ROLE_LOOKS[role]
        rows = table[table.role == role].set_index("place").loc[places]
        x = np.arange(len(places)) + 0.12 * (m - (len(roles) - 1) / 2)
        axes.plot(x, rows.overconfidence, marker, color=colour, label=role, markersize=7)
    axes.axhline(0, color="#444444", linewidth=1)
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


def _printable(table):
    """The table with the names of its groups as one line of text each."""
    return table.assign(group=table.group.map(printable))


# ---------------------------------------------------------------- the page


def page(a, conditions=(), name="audit"):
    """The Audit as one HTML page.

    conditions: pairs (text, (whether met, value)). name: of the files beside the page.
    """
    with warnings.catch_warnings():
        # a name in a script that the font lacks
        warnings.filterwarnings("ignore", message=".*Glyph .* missing")
        sections = [
            (title, intro, [Markup(part._repr_html_())])
            for title, intro, part in _sections(a, name)
        ]
    read = [(role, printable(title, 120), sha[:16] or "–") for role, title, sha in a.inputs]
    inputs = pd.DataFrame(read, columns=["input", "from", "sha256"])
    seeds = f"{a.seeds} seed{'s' if a.seeds > 1 else ''}"
    made = (
        f"kdlib {__version__}; {a.n:,} examples, {len(a.class_names):,} classes, "
        f"{len(a.groups):,} groups, {seeds}; beside this page: "
        f"{printable(name)}.json (all of it) and {printable(name)}.csv (the groups)."
    )
    jinja = Environment(loader=FileSystemLoader(TEMPLATE), autoescape=True, trim_blocks=True)
    rendered = jinja.get_template("audit.html.j2").render(
        headline=headline(a),
        conditions=[(text, held, f"{value:.3g}") for text, (held, value) in conditions],
        models=Markup(table_html(models(a), "Accuracy in per cent, 95 % interval in brackets")),
        covers=a.covers,
        metrics=Markup(table_html(metrics(a), MORE)),
        sections=sections,
        limits=a.limits,
        inputs=Markup(table_html(inputs, "What was read")),
        made=made,
        now=datetime.now(UTC),
    )
    return tidy(rendered)


def models(a):
    """DataFrame: a row for each model."""
    columns = {
        "accuracy": "examples alike",
        "average": "groups alike",
        "worst_k": f"worst {a.worst}",
        "worst_k_same": f"worst {a.worst}, same examples",
    }
    rows = []
    for role in a.scored:
        row = {"model": role}
        for name, label in columns.items():
            row[label] = value_of(a.metrics[f"{role}_{name}"], 1)
        rows.append(row)
    return pd.DataFrame(rows)


def metrics(a):
    """DataFrame: a row for each metric beyond the models' accuracies."""
    rows = []
    for name, value in a.metrics.items():
        if name.endswith(("_accuracy", "_average", "_worst_k", "_worst_k_same")):
            continue
        detectable = "–"
        if isinstance(value, Interval) and np.isfinite(value.detectable):
            detectable = f"{value.detectable:.2f}"
        rows.append((name, value_of(value), detectable, METRICS[name]))
    return pd.DataFrame(rows, columns=["metric", "value", "smallest detectable", "meaning"])


def by_bucket(a):
    """[gain by bucket, teacher's margin against gain], each a Shown; [] for fewer than 3 groups."""
    if not len(a.buckets):
        return []
    return [
        gain_by_bucket(a.buckets, a.reference),
        margin_and_gain(a.groups, a.metrics["margin_gain_correlation"], a.reference),
    ]


def _sections(a, name):
    """(title, introduction, figure or table) of each section of the page."""
    out = []

    def add(title, intro, part):
        out.append((title, intro, part))

    add(
        "Who gains, who loses",
        f"Points of accuracy that the student has more than the {a.reference}, on the same "
        "examples. The smallest effect that would be found in each group stands in the last table.",
        gain_by_group(a.groups, a.reference),
    )
    if figures := by_bucket(a):
        add("By bucket", f"Buckets are by {a.bucketed_by}.", figures[0])
        add(
            "Does the teacher's margin predict the gain?",
            "The margin is the probability of the label minus the mean of the others.",
            figures[1],
        )
    copies = {role: a.metrics[f"{role}_copies"] for role in ROLES if f"{role}_copies" in a.metrics}
    said = "; ".join(f"the {role} {value_of(v, 1)} %" for role, v in copies.items())
    caption = "Outcomes in per cent of the examples, 95 % intervals; counts are over all seeds"
    add(
        "Transfer of the teacher's errors",
        f"Where the teacher is wrong, how often the same wrong label is given: {said}.",
        Table(a.transfer, caption),
    )
    if len(a.calibration):
        add(
            "Calibration",
            "Expected calibration error (15 bins, too high in small buckets) and log-loss stand in "
            "the data of the figure.",
            calibration(a.calibration),
        )
    add(
        "Every group",
        "alpha is what AdaAlpha would use for the group: the teacher's margin, 0 at least.",
        appendix(a, name),
    )
    return out


def notable(table):
    """Audit.groups, harmed first, then helped, then the rest, each from the lowest gain."""
    order = table.finding.map({"harmed": 0, "helped": 1}).fillna(2)
    ordered = table.assign(order=order).sort_values(["order", "gain", "group"], kind="stable")
    return ordered.drop(columns="order")


def appendix(a, name="audit"):
    """Every group, harmed first, as a folded table and a file to save."""
    rows = notable(a.groups)
    counts = ["n_train"] if a.groups.n_train.notna().all() else []
    columns = ["group", "n", *counts, "bucket", *a.scored, "gain", "low", "high", "p", "q"]
    columns += ["finding", "detectable", "teacher_margin", "ada_alpha"]
    some = _printable(rows[columns].head(ROWS))
    which = f"All {len(rows):,} groups"
    if len(some) < len(rows):
        which = f"{len(some):,} of {len(rows):,} groups, those harmed first"
    caption = f"{which}: accuracies in per cent, gain in points with its 95 % interval."
    if len(rows) <= HELD:
        return Appendix(some, caption, rows, f"{name}.csv")
    return Appendix(some, caption, rows.head(HELD), f"{name}-first-{HELD}.csv")


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
    read = {os.path.realpath(name) for name in inputs}
    if there := [str(file) for file in out.values() if os.path.realpath(file) in read]:
        raise AuditError(f"--out {path}: would write over {there[0]}, which this audit reads.")
    return out


def save(a, path, conditions=()):
    """Write the page to path (.html), beside it .json and .csv; returns the three paths.

    conditions: texts, as gate.condition reads them. KdlibError if writing fails, or a condition is
    on a value that this audit does not have.
    """
    out = places(path, [name for _, name, sha256 in a.inputs if sha256])
    conditions = [(text, met(a, text)) for text in conditions]
    files = {
        ".html": page(a, conditions, out[".html"].stem),
        ".json": json.dumps(facts(a, conditions), indent=1) + "\n",
        ".csv": csv_text(notable(a.groups)),
    }
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
    """The headline and the models as HTML."""
    said = "".join(f"<p><strong>{html.escape(sentence)}</strong></p>" for sentence in headline(a))
    return said + table_html(models(a), f"Accuracy in per cent; intervals cover {a.covers}")


def explore(a):
    """Widgets that choose bucket, metric and group, above what view shows of that choice."""
    import ipywidgets as widgets

    known = a.groups.columns[a.groups.notna().any()]
    numbers = [column for column in known if column not in ("group", "bucket", "finding")]
    bucket = widgets.Dropdown(options=["all", *a.buckets.bucket], description="bucket")
    metric = widgets.Dropdown(options=numbers, value="gain", description="metric")
    names = [printable(g) for g in a.groups.group]
    group = widgets.Combobox(options=names, placeholder="a group", description="group")
    # no Output widget: with one, nbclient now and then waits for ever for the end of the cell
    out = widgets.HTML()

    def show(_=None):
        chosen = view(a, bucket.value, metric.value, group.value)
        out.value = "".join(part._repr_html_() for part in chosen)

    for widget in (bucket, metric, group):
        widget.observe(show, "value")
    show()
    return widgets.VBox([widgets.HBox([bucket, metric, group]), out])


def view(a, bucket="all", metric="gain", group=""):
    """What explore shows: the groups of a bucket ordered by a metric, and one group in words."""
    rows = a.groups if bucket == "all" else a.groups[a.groups.bucket == bucket]
    rows = rows.sort_values(metric, kind="stable")
    columns = list(dict.fromkeys(["group", "n", metric, "gain", "low", "high", "finding"]))
    out = [gain_by_group(rows, a.reference)] if len(rows) > 1 else []
    caption = f"{len(rows):,} groups of bucket {bucket}, lowest {metric} first"
    out.append(Table(_printable(rows[columns].head(ROWS)), caption))
    chosen = a.groups[a.groups.group.map(printable) == group].head(1)
    return out + [Headline([describe(row, a)]) for row in chosen.itertuples()]


def describe(row, a):
    """One row of Audit.groups in a sentence."""
    accuracy = ", ".join(f"{role} {getattr(row, role):.1f} %" for role in a.scored)
    return (
        f"{printable(row.group)}: {row.n:,} examples; {accuracy}; "
        f"gain over the {a.reference} {_range(row)}, q = {row.q:.3f}: {row.finding}. "
        f"Smallest effect that would be found: {row.detectable:.1f} points. "
        f"Teacher's margin {row.teacher_margin:.2f}, "
        f"so AdaAlpha would use alpha = {row.ada_alpha:.2f}."
    )
