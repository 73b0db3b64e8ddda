"""What the studies beyond the findings say; no verdict depends on it. And the recipe's choice."""

import pandas as pd

from kdlib.config import count_of
from kdlib.evidence.rules import labels_read, verdict_bucket
from kdlib.evidence.significance import sign_flip
from kdlib.evidence.words import brief, number, p_value
from kdlib.methods import name_of
from kdlib.pages.ablations import plot_ablations
from kdlib.pages.drawing import axes_of, captioned
from kdlib.pages.gains import changes, plot_forest, plot_trade_off, rarest, rarest_classes
from kdlib.pages.knobs import plot_collapse
from kdlib.pages.shown import Table


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
        p_of_signs = sign_flip(over_kd.per_seed)
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
    by_question = table.groupby("question", sort=False)
    sizes = by_question.size()
    rows_of_steps = {"rows": len(sizes), "height_ratios": list(sizes), "squeeze": False}

    def paint(width):
        import seaborn  # here, because it takes a second that a sentence need not wait for

        height = 1.1 + 0.27 * (sizes.sum() + len(sizes))
        figure, all_axes = axes_of(width, height, sharex=True, **rows_of_steps)
        for axes, (question, rows) in zip(all_axes[:, 0], by_question, strict=True):
            seeds = rows.explode("per_seed").astype({"per_seed": float})
            look = {"jitter": False, "color": "#767676", "size": 3, "zorder": 1}
            seaborn.stripplot(seeds, x="per_seed", y="level", ax=axes, **look)
            for y, row in enumerate(rows.itertuples()):
                marker, colour, size = ("*", "#D55E00", 11) if row.chosen else ("o", "#0072B2", 6)
                axes.plot(row.mean, y, marker, color=colour, markersize=size)
            axes.tick_params(axis="y", labelsize=8)
            axes.set(xlabel="", ylabel="", ylim=(len(rows) - 0.5, -0.5))
            axes.set_title(question, loc="left", fontsize=9)
        axes.set_xlabel("accuracy on val, %")
        return figure

    chosen = "; ".join(table[table.chosen == "yes"].level)
    return paint, f"{title}: the search chose {chosen}.", table
