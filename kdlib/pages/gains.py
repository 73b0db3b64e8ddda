"""Who gains, and how sure is it: x(panel, methods) is a table, plot_x its figure."""

import functools
import textwrap

import numpy as np
import pandas as pd

from kdlib.config import count_of
from kdlib.evidence.panel import panel
from kdlib.evidence.rules import classes
from kdlib.evidence.stats import interval, worst
from kdlib.evidence.words import brief, labels_read, p_value, told
from kdlib.methods import GREY, look_of, name_of
from kdlib.pages.anchors import WANG
from kdlib.pages.drawing import (
    DESK,
    LINE,
    THIN,
    axes_of,
    captioned,
    drawn,
    legend,
    name_marks,
    places_of,
    shot,
)
from kdlib.pages.shown import Table, estimates, plus_minus

MOST_NAMED = 7  # methods with a name in a figure


def rarest(p):
    """(name, weights (S, G)) of the last bucket: fewest training images, or lowest margin."""
    return list(p.places().items())[-1]


def rarest_classes(p):
    """The classes of the last bucket in words."""
    return f"the {classes(p, p.bucket_names.index(rarest(p)[0]))}"


def shots(p):
    """How many training images classes of a bucket have, in a sentence; "" where all have alike."""
    if not p.study.bucket_edges:
        return ""
    (many, few), groups = p.study.bucket_edges, p.study.groups[1]
    return (
        f"Few-shot {groups} have fewer than {few} training images, many-shot {groups} more than "
        f"{many}."
    )


def changes(p, method, over):
    """How accuracy changes from one method to another, on average and in the rarest bucket."""
    average, rare = (told(p.gain(method, w, over)) for w in (p.average, rarest(p)[1]))
    said = f"changes accuracy by {average} on average and by {rare} in {rarest_classes(p)}"
    return f"{name_of(method)} {said}"


def accuracies(p):
    """Table of accuracy in per cent, average, each bucket and worst-k: one row per method.

    Cells are "estimate ± half-width". Worst-k picked on the examples that score it is too low, so
    the k groups that are lowest on val under one_hot are given too. Where Wang et al. (2023) ran
    the same setting, "published" has their average."""
    lowest = np.argsort(p.val_accuracy("one_hot").mean(axis=0), kind="stable")
    places = {}
    for place, weights in p.places().items():
        places[place] = functools.partial(np.dot, b=weights.mean(axis=0))
    for k in p.study.worst:
        places[f"worst {k}"] = functools.partial(worst, k=k)
    for k in p.study.worst:
        places[f"worst {k} by val"] = lambda v, k=k: v[..., lowest[:k]].mean(axis=-1)
    published = {} if p.setting else WANG.get((p.study.name, p.pair), {})
    rows = []
    for method in ("teacher", *p.runs):
        labels = "–"
        if method != "teacher":
            labels = labels_read(p.runs[method][0].config).removeprefix("labels of val, ") or "no"
        networks = len(p.records(method))
        row = {"method": name_of(method), "networks": networks, "labels of val": labels}
        for place, statistic in places.items():
            row[place] = plus_minus(interval(*p.accuracy(method).map(statistic)))
            if place == "average" and published:
                row["published"] = published.get(method, ("–",))[0].replace("±", " ± ")
        rows.append(row)
    caption = f"Accuracy in per cent ± half-width of its 95 % interval, {p.name}"
    if published:
        caption += (
            "; published: Wang et al. 2023, average on half of the official test images, with "
            "another draw of a long tail (the page on published numbers has ours on that half)"
        )
    return Table(pd.DataFrame(rows), caption, dict.fromkeys(places, "%"))


def differences(p):
    """Table of differences to the pooled baselines, each with its p: one row per method."""
    rows = []
    for method in p.methods:
        row = {"method": name_of(method)}
        for place, weights in p.places().items():
            result = p.gain(method, weights)
            row[place] = plus_minus(result, signed=True)
            row[f"p, {place}"] = p_value(result.p())
        rows.append(row)
    caption = (
        "Difference from the mean of all baselines, with Welch's p, in points ± half-width of its "
        f"95 % interval, {p.name}"
    )
    return Table(pd.DataFrame(rows), caption, dict.fromkeys(p.places(), "points"))


def gain_by_bucket(p, methods, over="one_hot"):
    """Gain in points, on average and in each bucket: one row per (bucket, method)."""
    places = p.places()
    return estimates(places, methods, lambda place, m: p.gain(m, places[place], over))


def compared(chosen, seeds):
    """Lines: gains over one-hot of all methods, on average and by bucket, of pairs and settings."""
    for setting in chosen.settings:
        for pair in chosen.pairs:
            p = panel(chosen, pair, seeds, setting=setting)
            of = f"first {count_of(seeds, 'seed')}: points over {len(p.runs['one_hot'])} one-hot"
            yield f"{p.name}, {of} networks, with 95 % intervals"
            for row in gain_by_bucket(p, p.methods).itertuples():
                yield f"  {row.method}, {row.bucket}: {brief(row)}"


def by_bucket(p, table, label, width, **how):
    """(figure, axes) of a table by bucket, whose classes are named below them."""
    figure, (axes,) = drawn(table, "bucket", label, width=width, **how)
    names = [shot(name).replace("-", "-\n") for name in table.bucket.unique()]
    if width >= DESK:
        names = [name.replace("\n", "") for name in names]
    axes.set_xticks(range(len(names)), names)
    what = "number of training images" if p.study.bucket_edges else "margin of the teacher"
    axes.set_xlabel(f"{p.study.groups[1]} by {what}")
    return figure, axes


@captioned
def plot_gain_by_bucket(p, methods=None, over="one_hot"):
    """Small dots are seeds, large marks their mean, bars its 95 % interval over seeds, baselines
    and test images; within a bucket every class counts alike. Above zero, a method is better than
    what it is compared with. Test images include those that the long-tailed draw left out of
    training."""
    methods = list(methods or p.methods)
    base = name_of(over)
    table = gain_by_bucket(p, methods, over)

    def paint(width):
        return by_bucket(p, table, f"gain over {base}, points", width)[0]

    sentence = f"{p.name}: {changes(p, methods[0], over)}, compared with {base}."
    return paint, sentence, table, shots(p)


@captioned
def plot_forest(p, methods=None, over="one_hot"):
    """Small dots are seeds, large marks their mean, bars its 95 % interval over networks and test
    images, not corrected for the number of rows. To the right of zero, a method is better than what
    it is compared with."""
    methods = list(methods or p.methods)
    base = name_of(over)
    table, (rare, weights) = gain_by_bucket(p, methods, over), rarest(p)
    both = table[table.bucket.isin(["average", rare])]
    title = rarest_classes(p).removeprefix("the ")

    def paint(width):
        how = {"by": "bucket", "across": True, "height": 1.3 + 0.27 * len(methods)}
        figure, axes = drawn(both, "method", f"gain over {base}, points", width=width, **how)
        axes[1].set_title(title if width >= DESK else textwrap.fill(title, 12))
        return figure

    last = table[table.bucket == rare].reset_index(drop=True)
    best = last.estimate.idxmax()
    clear = int((last.low > 0).sum())
    sentence = (
        f"{p.name}: {clear or 'none'} of {len(last)} methods clearly gain{'s' * (clear == 1)} over "
        f"{base} in {rarest_classes(p)}; the highest estimate is that of {last.method[best]}, "
        f"{told(p.gain(methods[best], weights, over))}."
    )
    return paint, sentence, table, shots(p)


@captioned
def plot_trade_off(p):
    """Up and to the right is better; one-hot is the origin. A ring marks the methods that no other
    one beats on both axes, by their means; crosses are 95 % intervals and often overlap."""
    table = gain_by_bucket(p, p.methods)
    means = table.pivot(index="method", columns="bucket", values="estimate")
    means = means.loc[table.method.unique()]
    name = table.bucket.iloc[-1]
    average, rare = means["average"], means[name]
    best = [m for m in means.index if not ((average > average[m]) & (rare > rare[m])).any()]
    named = list(means.index)
    if len(named) > MOST_NAMED:
        named = [m for m in named if m in (*best, name_of("kd"), name_of("ada_alpha"))]
    others = means.loc[[m for m in means.index if m not in named], ["average", name]].to_numpy()
    more = (
        "Small grey dots are the means of all other methods; the data below name them and give "
        "their intervals."
    )

    def paint(width):
        figure, axes = axes_of(width, height=4.4)
        axes.axhline(0, **LINE)
        axes.axvline(0, **LINE)
        axes.plot(*others.T, "o", color=GREY, markersize=4)
        colour, marker = look_of(name_of("one_hot"))
        axes.plot(0, 0, marker, color=colour, markersize=7)
        marks = [(0, 0, name_of("one_hot"), colour)]
        for method in named:
            rows = table[table.method == method].set_index("bucket").loc[["average", name]]
            x, y = rows.estimate
            (left, right), (low, high) = rows[["low", "high"]].to_numpy()
            colour, marker = look_of(method)
            axes.plot([left, right], [y, y], color=colour, alpha=0.35)
            axes.plot([x, x], [low, high], color=colour, alpha=0.35)
            size = 11 if marker in THIN else 7
            axes.plot(x, y, marker, color=colour, markersize=size, markeredgewidth=1.5)
            if method in best:
                axes.plot(x, y, "o", color=colour, markersize=13, fillstyle="none")
            marks.append((x, y, method, colour))
        axes.set_xlabel("average gain over one-hot, points")
        axes.set_ylabel(f"gain in {rarest_classes(p)}, points")
        name_marks(axes, marks, others)
        return figure

    sentence = (
        f"{p.name}: no other method has both a higher overall average and a higher mean in "
        f"{rarest_classes(p)} than {', '.join(best)}."
    )
    return paint, sentence, table, more if len(others) else ""


def power(p, methods):
    """How uncertain each gain is, and why: one row per (bucket, method).

    "smallest detectable" is the smallest effect that would have been found. "from networks" is the
    standard error due to the spread over students and baselines alone, "from test images" what the
    test examples add; their squares add up to that of "standard error"."""
    rows = []
    for place, weights in p.places().items():
        pooled = p.contrast("one_hot", weights.mean(axis=0)).observed
        for method in methods:
            result = p.gain(method, weights)
            spread, baselines = _spread(result.per_seed), _spread(pooled)
            networks = np.sqrt(spread**2 / result.n + baselines**2 / len(pooled))
            images = np.sqrt(np.maximum(0.0, result.se**2 - networks**2))
            row = {"bucket": place, "method": name_of(method), "gain": result.estimate}
            row |= {"standard error": result.se, "from networks": networks}
            row |= {"from test images": images, "spread of students": spread}
            row |= {"spread of baselines": baselines, "smallest detectable": result.detectable}
            rows.append(row | {"seeds": result.n, "baselines": len(pooled)})
    return pd.DataFrame(rows)


def _spread(values):
    return np.std(values, ddof=1) if len(values) > 1 else np.nan


@captioned
def plot_power(p):
    """Marks are gains. A shaded bar is not an interval: it reaches as far from zero as a true
    effect must lie to be found with 80 % power at a two-sided level of 5 %. The table splits each
    standard error into a part from networks (students and baselines) and one from test images."""
    table = power(p, p.methods)
    at, room = places_of(table, "bucket")

    def paint(width):
        marks = table.rename(columns={"gain": "estimate"})
        figure, axes = by_bucket(p, marks, "gain over one-hot, points", width)
        figure.legends.clear()
        reach = table["smallest detectable"]
        look = {"color": [look_of(m)[0] for m in table.method], "alpha": 0.2}
        axes.use_sticky_edges = False  # a bar needs room at its end, as a mark does
        axes.bar(at, 2 * reach, 0.75 * room, bottom=-reach, **look)
        axes.bar(0, 0, color=GREY, alpha=0.3, label="found less than 4 times in 5")
        legend(figure, axes)
        return figure

    last = table[table.method == table.method.iloc[0]].iloc[-1]
    on_average = table["smallest detectable"].iloc[0]
    source = "networks" if last["from networks"] >= last["from test images"] else "test images"
    sentence = (
        f"{p.name}: the smallest effect of {last.method} that this study would detect, "
        "without correction for the number of findings, is "
        f"{on_average:.1f} points on average and {last['smallest detectable']:.1f} in "
        f"{rarest_classes(p)}, where most uncertainty is due to {source}."
    )
    if np.isnan(on_average):
        sentence = (
            f"{p.name}: one seed has no spread, so no effect of {last.method} can be detected, "
            "however large."
        )
    return paint, sentence, table
