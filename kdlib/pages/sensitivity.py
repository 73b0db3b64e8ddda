"""What the studies beyond the findings say: no verdict depends on it.

Rivals of a remedy, how much of the teacher it keeps, and how the recipe was chosen.
"""

import numpy as np
import pandas as pd

from kdlib.config import count_of
from kdlib.evidence import choice
from kdlib.evidence.rules import verdict_bucket
from kdlib.evidence.stats import interval
from kdlib.evidence.words import brief, labels_read, number
from kdlib.methods import BLACK, BLUE, GREEN, GREY, OCHRE, ORANGE, PURPLE, look_of, name_of
from kdlib.pages.ablations import plot_ablations
from kdlib.pages.classes import by_frequency, name_groups
from kdlib.pages.drawing import DESK, axes_of, captioned, drawn, legend
from kdlib.pages.gains import changes, plot_forest, plot_trade_off, rarest, rarest_classes
from kdlib.pages.shown import Table, row_of

PALETTE = (ORANGE, BLUE, GREEN, PURPLE, OCHRE, BLACK, GREY)
MARKERS = "osDv^Px<>"  # both of variants of AdaAlpha
STANDINGS = {  # of a setting
    "chosen": (ORANGE, "*"),
    "passes the training check": (BLUE, "o"),
    "fails it": (GREY, "x"),
}


def headlines(panels):
    """The sentences of a study's main figures; [] for kinds of studies that have none."""
    p = panels[0]
    kind = panels[0].study.kind
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
    """Which rivals clearly beat AdaAlpha, by how much, with which labels.

    They do so both on average and in the rarest bucket; how many do in the latter alone is said
    too. most: how many to name, beginning with those furthest ahead there; by default all."""
    places = p.average, rarest(p)[1]
    rivals = [m for m in p.methods if m != "ada_alpha"]
    gains = {m: [p.gain(m, weights, "ada_alpha") for weights in places] for m in rivals}
    in_rare = [m for m, (_, rare) in gains.items() if rare.low > 0]
    ahead = [m for m in in_rare if gains[m][0].low > 0]
    said = []
    for method in sorted(ahead, key=lambda m: -gains[m][1].estimate):
        average, rare = (number(gain.estimate, "") for gain in gains[method])
        read = labels_read(p.runs[method][0].config)
        reads = f" (reads {read})" if read else ""
        said.append(f"{name_of(method)} by {average} and {rare} points{reads}")
    if most and len(said) > most:
        said = [*said[:most], f"and {count_of(len(said) - most, 'other')}"]
    mine = labels_read(p.runs["ada_alpha"][0].config) or "no labels beyond those it trains on"
    return (
        f"{p.name}: {len(ahead) or 'none'} of {count_of(len(rivals), 'method')} clearly beat "
        f"AdaAlpha both on average and in {rarest_classes(p)}{': ' if said else ''}"
        f"{', '.join(said)}; {len(in_rare) - len(ahead) or 'none'} more there alone. The 95 % "
        f"intervals are those of {count_of(p.seeds, 'seed')}, not corrected for the number of "
        f"methods. AdaAlpha reads {mine}."
    )


def weight_by_class(p):
    """What AdaAlpha owes to choosing its weight class by class, in one sentence."""
    return (
        f"{p.name}: compared with distillation that gives all classes one weight, the mean of "
        f"AdaAlpha's own, {changes(p, 'ada_alpha', 'kd_mean_alpha')}."
    )


def mitigations(p):
    """Table of the conditions of F4 for all methods but kd: one row per method."""
    bucket = verdict_bucket(p)
    name, rare = rarest(p)
    if bucket is not None:
        name = p.bucket_names[bucket]
        rare = p.in_bucket(bucket)
    rows = []
    for method in [m for m in p.methods if m != "kd"]:
        rows.append(
            {
                "method": name_of(method),
                "average, over distillation": brief(p.gain(method, p.average, "kd")),
                f"{name}, over distillation": brief(p.gain(method, rare, "kd")),
                f"{name}, over one-hot": brief(p.gain(method, rare)),
                "labels beyond training": labels_read(p.runs[method][0].config) or "none",
            }
        )
    caption = (
        f"{p.name}: the conditions of F4 for every method. Gains are in points with 95 % "
        "intervals. The last column has the labels a method reads beyond those it trains on. No "
        "verdict depends on this table."
    )
    return Table(pd.DataFrame(rows), caption)


@captioned
def search_steps(table):
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
            look = {"jitter": False, "color": GREY, "size": 3, "zorder": 1}
            seaborn.stripplot(seeds, x="per_seed", y="level", ax=axes, **look)
            for y, row in enumerate(rows.itertuples()):
                marker, colour, size = ("*", ORANGE, 11) if row.chosen else ("o", BLUE, 6)
                axes.plot(row.mean, y, marker, color=colour, markersize=size)
            axes.tick_params(axis="y", labelsize=8)
            axes.set(xlabel="", ylabel="", ylim=(len(rows) - 0.5, -0.5))
            axes.set_title(question, loc="left", fontsize=9)
        axes.set_xlabel("accuracy on val, %")
        return figure

    chosen = "; ".join(table[table.chosen == "yes"].level)
    return paint, f"The search chose {chosen}.", table


@captioned
def plot_settings(table, title):
    """Large marks are means over seeds that no other study uses, on val; bars reach one standard
    error over networks to either side. To the left of zero, distillation is worse than one-hot
    training. The star marks the setting that was chosen, in favour of a loss in the few-shot
    classes; circles pass the training check, crosses do not. Test images are not looked at."""
    if table is None:  # the search has no such step
        return None
    words = "imbalance " + table.imbalance.map("{:g}".format) + ", T = "
    words += table.temperature.map("{:g}".format) + ", " + table.teacher
    standing = np.where(table.passes == "yes", "passes the training check", "fails it")
    standing = np.where(table.chosen == "yes", "chosen", standing)
    parts = []
    for name in (choice.AVERAGE, choice.FEW):
        gain, error = table[name], table[f"{name}, standard error"]
        part = {"setting": words, "standing": standing, "gain": name, "estimate": gain}
        parts.append(pd.DataFrame(part | {"low": gain - error, "high": gain + error}))
    marks = pd.concat(parts, ignore_index=True)

    def paint(width):
        how = {"by": "gain", "hue": "standing", "looks": STANDINGS.get, "across": True}
        height = 1.3 + 0.3 * len(table)
        label = "gain on val, points ± standard error"
        return drawn(marks, "setting", label, width=width, height=height, **how)[0]

    row = table[table.chosen == "yes"].iloc[0]
    chosen = words[table.chosen == "yes"].iloc[0]
    sentence = (
        f"{title}: the setting chosen is {chosen}, where distillation changes accuracy on val by "
        f"{number(row[choice.AVERAGE])} on average and by {number(row[choice.FEW])} in the "
        "few-shot classes."
    )
    return paint, sentence, table


# ---------------------------------------------------------------- the weight of the teacher


def mean_alpha(p, method):
    """Weight (S,) that a method gave the teacher, mean over training images; None without one."""
    out = []
    for record in p.runs[method]:
        cfg = record.config
        used = record.facts.get("margins")
        if cfg.method == "one_hot":
            out.append(0.0)
        elif cfg.method == "kd":
            out.append(cfg.alpha)
        elif cfg.method == "ada_alpha" and used:
            by_group = len(used) == len(p.train_counts)  # else one margin for all
            out.append(np.average(used, weights=p.train_counts if by_group else None))
        else:
            return None
    return np.array(out)


def collapse(p, methods):
    """How often a method predicts what kd and one_hot of its seed do: one row per (as, method).

    Each row has the method's mean alpha; methods without one are left out."""
    rows = []
    for method in methods:
        alpha = mean_alpha(p, method)
        if alpha is None:
            continue
        for other in ("kd", "one_hot"):
            same = 100 * p.means(np.equal(*p.paired(method, other)))
            labels = {"as": name_of(other), "alpha": alpha.mean(), "method": name_of(method)}
            rows.append(row_of(interval(*same.mean()).within(0, 100), **labels))
    return pd.DataFrame(rows).sort_values("alpha", kind="stable", ignore_index=True)


@captioned
def plot_collapse(p):
    """Variants run from the lowest to the highest mean weight of the teacher, alpha (in brackets);
    the marks show on how many test images they predict the same as distillation or one-hot
    training. Bars are 95 % intervals over seeds and test images. Two runs from the same starting
    weights and batches agree more, the closer their losses are: AdaAlpha is close to distillation
    near alpha = 1, and to one-hot training near 0."""
    table = collapse(p, p.runs)
    short = table.method.str.removeprefix("AdaAlpha, ")
    rows = short + table.alpha.map(" ({:.2f})".format)
    marks = table.assign(row=rows, other="same as " + table["as"]).drop(columns="per_seed")
    looks = {f"same as {name}": look_of(name) for name in table["as"]}

    def paint(width):
        how = {"hue": "other", "looks": looks.get, "width": width, "height": 1.2 + 0.2 * len(table)}
        label = "equal predictions, %"
        figure, (axes,) = drawn(marks, "row", label, across=True, zero=False, **how)
        legend(figure, axes)
        if width < DESK:
            axes.tick_params(axis="y", labelsize=8)
        return figure

    ada = table[table.method.str.startswith("AdaAlpha") & (table["as"] == "distillation")]
    least, most = ada.iloc[0], ada.iloc[-1]
    sentence = (
        f"{p.name}: AdaAlpha's mean weight of the teacher ranges from {least.alpha:.2f} "
        f"({least.method}) to {most.alpha:.2f} ({most.method}), where it predicts the same as "
        f"distillation on {most.estimate:.0f} % of test examples."
    )
    return paint, sentence, table


def alphas(p, methods):
    """The alpha of each group, mean over seeds: one row per (variant of AdaAlpha, group)."""
    frames = []
    for method in methods:
        used = [r.facts.get("margins") for r in p.runs[method]]
        by_group = all(u and len(u) == len(p.group_names) for u in used)
        if p.runs[method][0].config.method == "ada_alpha" and by_group:
            frame = by_frequency(p, alpha=np.mean(used, axis=0)).drop(columns="bucket")
            frame.insert(0, "variant", name_of(method))
            frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@captioned
def plot_alphas(p):
    """Classes run from most to fewest training images; lines are means over seeds, without
    intervals. Alpha is the weight of the teacher in AdaAlpha: 1 is distillation, 0 one-hot."""
    table = alphas(p, p.runs)

    def paint(width):
        figure, axes = axes_of(width, height=3.9)
        for k, (name, rows) in enumerate(table.groupby("variant", sort=False)):
            look = {"marker": MARKERS[k % len(MARKERS)], "color": PALETTE[k % len(PALETTE)]}
            look["label"] = name.removeprefix("AdaAlpha, ")
            axes.plot(range(len(rows)), rows.alpha, linewidth=1, markersize=4, **look)
        name_groups(axes, rows, p)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("weight of the teacher, alpha")
        legend(figure, axes, beside=True)
        return figure

    mean = table.groupby("variant", sort=False).alpha.mean()
    sentence = (
        f"{p.name}: the mean alpha over classes is lowest for {mean.idxmin()} ({mean.min():.2f}) "
        f"and highest for {mean.idxmax()} ({mean.max():.2f})."
    )
    return paint, sentence, table
