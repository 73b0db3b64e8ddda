"""What the studies beyond the findings say; no verdict depends on it. And the recipe's choice."""

import pandas as pd

from kdlib.config import count_of
from kdlib.evidence.rules import labels_read, verdict_bucket
from kdlib.evidence.significance import sign_flip
from kdlib.evidence.words import brief, number, p_value
from kdlib.methods import name_of
from kdlib.pages.ablations import plot_ablations
from kdlib.pages.drawing import axes_of, captioned, points
from kdlib.pages.gains import changes, plot_forest, plot_trade_off, rarest, rarest_classes
from kdlib.pages.knobs import plot_collapse
from kdlib.pages.shown import Table

SEARCHED = {"": ("#0072B2", "o"), "yes": ("#D55E00", "*")}  # levels: the others, the chosen


def headlines(panels):
    """The sentences of a study's main figures; [] for kinds of studies that have none."""
    p, kind = panels[0], panels[0].study.kind
    if kind == "rivals":
        said = [plot_trade_off(p).sentence, ahead_of_ada_alpha(p)]
        return [*said, weight_by_class(p)] if "kd_mean_alpha" in p.runs else said
    if kind == "knobs":
        variants = [m for m in p.methods if m != "kd"]
        return [plot_collapse(p).sentence, plot_forest(p, variants, "kd").sentence]
    if kind == "ablations":
        return [shown.sentence for shown in plot_ablations(panels)]
    return []


def ahead_of_ada_alpha(p, most=None):
    """Which rivals clearly beat AdaAlpha in the rarest bucket, by how much, with which labels.

    most: how many to name, beginning with those furthest ahead; by default all."""
    _, weights = rarest(p)
    gains = {method: p.gain(method, weights, "ada_alpha") for method in p.methods}
    ahead = [method for method in gains if gains[method].low > 0]
    said = []
    for method in sorted(ahead, key=lambda m: -gains[m].estimate):
        read = labels_read(p, method)
        reads = f" (reads {read})" if read else ""
        said.append(f"{name_of(method)} by {number(gains[method].estimate)}{reads}")
    if most and len(said) > most:
        said = [*said[:most], f"and {count_of(len(said) - most, 'other')}"]
    number_ahead = f"{len(ahead) or 'none'} of {count_of(len(p.methods) - 1, 'method')}"
    beat = f"{p.name}: {number_ahead} clearly beat AdaAlpha in {rarest_classes(p)}"
    mine = labels_read(p, "ada_alpha") or "no labels beyond those it trains on"
    return f"{beat}{': ' if said else ''}{', '.join(said)}. AdaAlpha reads {mine}."


def weight_by_class(p):
    """What AdaAlpha owes to choosing its weight class by class, in one sentence."""
    return (
        f"{p.name}: compared with distillation that gives all classes one weight, the mean of "
        f"AdaAlpha's own, {changes(p, 'ada_alpha', 'kd_mean_alpha')}."
    )


def mitigations(p, methods=None):
    """Table of the conditions of F4 for any method, by default all but kd: one row per method."""
    bucket = verdict_bucket(p)
    name, rare = rarest(p)
    if bucket is not None:
        name, rare = p.bucket_names[bucket], p.in_bucket(bucket)
    rows = []
    for method in methods or [m for m in p.methods if m != "kd"]:
        over_kd = p.gain(method, rare, "kd")
        p_of_signs, _ = sign_flip(over_kd.per_seed)
        rows.append(
            {
                "method": name_of(method),
                "average, over distillation": brief(p.gain(method, p.average, "kd")),
                f"{name}, over distillation": brief(over_kd),
                f"p, {name}": p_value(p_of_signs),
                f"{name}, over one-hot": brief(p.gain(method, rare)),
                "labels beyond training": labels_read(p, method) or "none",
            }
        )
    caption = (
        f"{p.name}: the conditions of F4 for every method. Gains over distillation have the exact "
        "sign-flip p over seeds; gains are in points with 95 % intervals. The last column has the "
        "labels a method reads beyond those it trains on. No verdict depends on this table."
    )
    return Table(pd.DataFrame(rows), caption)


@captioned
def search_steps(table, title):
    """Small dots are seeds that no other study uses, large marks their means, without intervals; a
    star marks the level that was chosen. Each step builds on what the steps above it chose. Test
    images are not looked at."""
    parts = list(table.assign(estimate=table["mean"]).groupby("question", sort=False))
    sizes = [len(rows) for _, rows in parts]
    rows_of_steps = {"rows": len(sizes), "height_ratios": sizes, "squeeze": False}

    def paint(width):
        height = 1.1 + 0.27 * (sum(sizes) + len(sizes))
        figure, all_axes = axes_of(width, height, sharex=True, **rows_of_steps)
        how = {"hue": "chosen", "looks": SEARCHED.get, "across": True}
        for axes, (question, rows) in zip(all_axes[:, 0], parts, strict=True):
            points(axes, rows, "level", "accuracy on val, %", **how)
            axes.tick_params(axis="y", labelsize=8)
            axes.set_title(question, loc="left", fontsize=9)
            axes.label_outer()
        return figure

    chosen = "; ".join(table[table.chosen == "yes"].level)
    return paint, f"{title}: the search chose {chosen}.", table
