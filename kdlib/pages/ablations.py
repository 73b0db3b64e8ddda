"""One field of the recipe or of the data at a time, sensitivity alone: where is the harm?"""

import numpy as np
import pandas as pd

from kdlib.evidence.words import number
from kdlib.methods import BLUE, name_of
from kdlib.pages.drawing import axes_of, captioned, drawn
from kdlib.pages.gains import gain_by_bucket, rarest
from kdlib.pages.shown import ends

PLACES = ("average", "rarest classes")
FIELDS = {  # of Config, in words
    "alpha": "weight of the teacher, alpha",
    "imbalance": "imbalance: most over fewest images of a class",
    "label_noise": "share of training labels that are shuffled",
    "draw_seed": "draw of the training images",
}


def steps(panels):
    """{field: [(value, Panel), ...] in order}: panels that differ from the primary one in a field.

    Crossed teacher seeds, which change two, are not steps."""
    base = next(p for p in panels if not p.setting)
    found = {}
    for p in panels:
        if len(p.setting) == 1:
            [field] = p.setting
            levels = found.setdefault(field, [(_value(base, field), base)])
            levels.append((_value(p, field), p))
    return {field: sorted(levels, key=lambda at: _depth(at[0])) for field, levels in found.items()}


def _value(p, field):
    return getattr(p.runs["kd"][0].config, field)


def _depth(value):
    """Sorts resnet8 before resnet14, and no seed before the first."""
    if isinstance(value, str):
        return len(value), value
    return (-1 if value is None else value), ""


def plot_ablations(panels):
    """[Shown]: gains over one_hot by level, a figure for each step."""
    base = next(p for p in panels if not p.setting)
    shown = []
    for field, levels in steps(panels).items():
        rows = []
        for value, p in levels:
            table = gain_by_bucket(p, p.methods)
            keep = table[table.bucket.isin(("average", rarest(p)[0]))]
            bucket = np.where(keep.bucket == "average", *PLACES)
            level = f"{value:g}" if isinstance(value, float) else str(value)
            primary = "yes" if value == _value(base, field) else ""
            rows.append(keep.assign(bucket=bucket, field=field, level=level, base=primary))
        shown.append(_plot_ablation(panels[0].name, pd.concat(rows, ignore_index=True)))
    return shown


def summary(p, figures):
    """At how many of the levels distillation harms the rarest classes, in one sentence."""
    table = pd.concat([shown.table for shown in figures], ignore_index=True)
    rows = table[(table.method == name_of("kd")) & (table.bucket == PLACES[1])]
    rows = rows[(rows.base == "") | ~rows.base.duplicated()]  # the primary level once
    low, high = ends(rows)

    def at(row):
        return f"{number(row.estimate)} ({row.field.replace('_', ' ')} {row.level})"

    return (
        f"{p.name}: distillation clearly lowers the accuracy of the rarest classes at "
        f"{(rows.high < 0).sum()} of {len(rows)} settings and clearly raises it at "
        f"{(rows.low > 0).sum()}; its gain there ranges from {at(low)} to {at(high)}."
    )


@captioned
def _plot_ablation(pair, table):
    """Each level is compared with the mean of the one-hot networks on the same data. Dots are
    seeds, bars 95 % intervals."""
    words = table.field.iloc[0].replace("_", " ")
    label = FIELDS.get(table.field.iloc[0], words)

    def paint(width):
        how = {"by": "bucket", "width": width, "height": 3.4}
        figure, both = drawn(table, "level", "gain over one-hot, points", **how)
        both[0].set_xlabel("")
        figure.supxlabel(label, fontsize=10)
        return figure

    rows = table[(table.method == "distillation") & (table.bucket == "rarest classes")]
    low, high = ends(rows)
    harmed = ", ".join(rows[rows.high < 0].level) or "none of them"
    base = rows[rows.base == "yes"].level.iloc[0]
    sentence = (
        f"{pair}: as {words} varies, the gain of distillation in the rarest classes ranges from "
        f"{number(low.estimate)} at {low.level} to {number(high.estimate)} at {high.level}; clear "
        f"harm at {harmed}."
    )
    rest = f"Everything else is as in the primary configuration, which has {base}."
    return paint, sentence, table, rest


def variance_components(panels):
    """Variance of distillation's gain by its source, in points squared: a row per (bucket, source).

    Sources: draw, teacher, student, and what is left (see moments). Method of moments for main
    effects in a crossed balanced design over the panels that differ in draw_seed or teacher_seed
    only; None if there are fewer than two draws. A negative estimate is 0."""
    some = [p for p in panels if set(p.setting) <= {"draw_seed", "teacher_seed"}]
    crossed = [p for p in some if len(p.setting) == 2]
    some = crossed or [p for p in some if set(p.setting) <= {"draw_seed"}]
    by_level = {(_value(p, "draw_seed"), p.setting.get("teacher_seed", -1)): p for p in some}
    draws, teachers = (sorted(set(seeds)) for seeds in zip(*by_level, strict=True))
    if len(draws) < 2 or len(by_level) != len(draws) * len(teachers):
        return None
    rows = []
    levels = {"draw": len(draws), "teacher": len(teachers)}
    for place in PLACES:
        gains = np.full((len(draws), len(teachers), some[0].seeds), np.nan)
        luck = []
        for (draw, teacher), p in by_level.items():
            weights = p.average if place == "average" else rarest(p)[1]
            of_seeds = (p.group_gain("kd") * weights).sum(axis=1)
            gains[draws.index(draw), teachers.index(teacher)] = of_seeds
            pool = p.contrast("one_hot", weights.mean(axis=0)).observed
            luck.append(pool.var(ddof=1) / len(pool))
        sources = moments(gains)
        # the seeds of a draw share its baselines, whose luck is not the draw's
        sources["draw"] = max(0.0, sources["draw"] - np.mean(luck))
        for source, variance in sources.items():
            row = {"bucket": place, "source": source, "variance": variance}
            row |= {"standard deviation": variance**0.5, "levels": levels.get(source, gains.size)}
            rows.append(row)
    return pd.DataFrame(rows)


def moments(gains):
    """{source: variance} of gains (draws, teachers, seeds) by the main-effects model.

    "teacher" and "student" only if there are two teachers or more."""
    d, t, s = gains.shape
    effects = {"draw": (gains.mean(axis=(1, 2)), t * s)}  # means of the levels, gains in each
    if t > 1:
        effects["teacher"] = (gains.mean(axis=(0, 2)), d * s)
        effects["student"] = (gains.mean(axis=(0, 1)), d * t)
    sums = {name: n * ((means - gains.mean()) ** 2).sum() for name, (means, n) in effects.items()}
    left = gains.size - 1 - sum(len(means) - 1 for means, _ in effects.values())
    residual = (((gains - gains.mean()) ** 2).sum() - sum(sums.values())) / left
    out = {}
    for name, (means, n) in effects.items():
        out[name] = max(0.0, (sums[name] / (len(means) - 1) - residual) / n)
    return out | {"what is left": residual}


@captioned
def plot_variances(panels):
    """Estimates are by the method of moments for main effects; a source that varies no more than
    the rest is shown as 0. "What is left" varies within a draw (and teacher), test images too."""
    table = variance_components(panels)
    if table is None:  # of one draw
        return None

    def paint(width):
        figure, both = axes_of(width, columns=2, height=2.0, sharey=True)
        for axes, place in zip(both, PLACES, strict=True):
            rows = table[table.bucket == place]
            axes.barh(rows.source, rows["standard deviation"], height=0.5, color=BLUE)
            axes.set_title(place)
        both[0].invert_yaxis()
        figure.supxlabel("standard deviation of the gain, points", fontsize=10)
        return figure

    rows = table[table.bucket == PLACES[-1]]
    most = rows.loc[rows.variance.idxmax()]
    sentence = (
        f"{panels[0].name}: in the rarest classes, most of the spread of distillation's gain comes "
        f"from {most.source} (standard deviation {most['standard deviation']:.1f} points)."
    )
    return paint, sentence, table
