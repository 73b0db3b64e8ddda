"""What somebody sees who has the labels alone, where the groups are not the labels."""

import numpy as np
import pandas as pd

from kdlib.config import count_of
from kdlib.evidence import choice
from kdlib.evidence.resample import Groups
from kdlib.evidence.words import number, told
from kdlib.pages.classes import BUCKET_LOOKS, counted, gain_by_group, tested
from kdlib.pages.drawing import LINE, axes_of, captioned, legend, shot
from kdlib.pages.gains import rarest, rarest_classes


def label_of(p):
    """{name of a group: name of its label, which all its examples have}."""
    labels = np.array(p.class_names)[p.y]
    return dict(zip(np.array(p.group_names)[p.group], labels, strict=True))


def gain_by_label(p):
    """Gain of distillation in points with its test, as in classes.gain_by_group: a row per label.

    Every test image of a label counts alike."""
    names = p.class_names
    right, baseline = ((p.predicted(m) == p.y).mean(axis=0) for m in ("kd", "one_hot"))
    gain = 100 * np.bincount(p.y, right - baseline) / np.bincount(p.y)
    return pd.DataFrame({"label": names, "gain": gain, **tested(p, Groups.of(p.y, names))})


def as_drawn(p):
    """Weights (S, G) of an average over data drawn as the training images are."""
    share = p.train_counts / p.train_counts.sum()
    return np.tile(share, (p.seeds, 1))


def answer(p):
    """What the labels show and what the groups show, in sentences."""
    labels = gain_by_label(p)
    groups = gain_by_group(p)
    _, rare = rarest(p)
    alike, drawn = (told(p.gain("kd", weights)) for weights in (p.average, as_drawn(p)))
    one, many = p.study.groups
    said = [
        said_of_harm(p, labels, groups),
        *choice.check_failed(p.study),
        f"{p.name}: counted by label, distillation {counted(labels, 'labels')}; counted by the "
        f"groups inside them, it {counted(groups, many)} (false discovery rate 5 %).",
    ]
    if p.seeds > 1:
        wide = [f"±{(table.high - table.low).median() / 2:.1f}" for table in (labels, groups)]
        said[-1] += (
            f" An uncorrected 95 % interval is about {wide[0]} points for a label and {wide[1]} "
            f"for a {one}; since {len(labels)} or {len(groups)} are tested at once, larger changes "
            "may be missed too."
        )
    said.append(
        f"On data drawn like the training images, distillation changes accuracy by {drawn}; "
        f"with all {many} weighted equally, by {alike}; in {rarest_classes(p)}, by "
        f"{told(p.gain('kd', rare))}."
    )
    if "ada_alpha_by_label" in p.runs:
        gains = [told(p.gain(m, rare, "kd")) for m in ("ada_alpha", "ada_alpha_by_label")]
        said.append(
            f"In {rarest_classes(p)}, AdaAlpha changes the accuracy of plain distillation by "
            f"{gains[0]} with the teacher's margins by {one}, and by {gains[1]} with its margins "
            "by label, which need no groups."
        )
    return said


def said_of_harm(p, labels, groups):
    """Whether labels hide harm, or why these runs cannot say, in a sentence."""
    one, many = p.study.groups
    worse = groups[groups.finding == "harmed"]
    if worse.empty:
        return (
            f"{p.name}: these runs cannot show whether labels hide harm, because with "
            f"{count_of(p.seeds, 'seed')} no {one} is shown to be harmed."
        )
    seen = labels.label[labels.finding == "harmed"]
    hidden = (~worse.group.map(label_of(p)).isin(seen)).sum()
    return (
        f"{p.name}: distillation harms {count_of(len(worse), one, many)}, {hidden} of them inside "
        "labels that are not called harmed."
    )


@captioned
def plot_labels_and_groups(p):
    """For each label, the black cross is the gain over all its test images, with the 95 % interval
    over networks and test images, not corrected for the number of labels; the coloured marks are
    the gains of the groups inside it, by their number of training images. They are means over
    seeds, without intervals, and may coincide."""
    labels = gain_by_label(p).sort_values("gain", ignore_index=True)
    place = {label: i for i, label in enumerate(labels.label)}
    groups = gain_by_group(p)
    groups = groups.assign(label=groups.group.map(label_of(p)))

    def paint(width):
        figure, axes = axes_of(width, height=0.9 + 0.36 * len(labels))
        ends = [labels.gain - labels.low, labels.high - labels.gain]
        look = {"fmt": "x", "color": "black", "markersize": 8, "capsize": 3, "zorder": 3}
        axes.errorbar(labels.gain, labels.index, xerr=ends, label="by label", **look)
        for bucket, some in groups.groupby("bucket", sort=False):
            colour, marker = BUCKET_LOOKS[shot(bucket)]
            look = {"color": colour, "label": shot(bucket), "alpha": 0.8}
            axes.plot(some.gain, some.label.map(place) + 0.27, marker, markersize=5, **look)
        axes.axvline(0, **LINE)
        axes.set_yticks(labels.index, [name.replace("_", " ") for name in labels.label])
        axes.set(ylim=(len(labels) - 0.4, -0.6))
        figure.supxlabel("gain over one-hot, points", fontsize=10)
        legend(figure, axes)
        return figure

    shown = labels[["label", "gain", "low", "high", "finding"]]
    # a harmed group comes first, though the estimate of an uncertain one may be lower
    ordered = groups.assign(spared=groups.finding != "harmed").sort_values(["spared", "gain"])
    worst = ordered.drop_duplicates("label").set_index("label")
    table = shown.assign(**{"worst group": shown.label.map(worst.group)})
    table["its gain"] = shown.label.map(worst.gain)
    table["its finding"] = shown.label.map(worst.finding)
    return paint, said_of_worst(p, table), table


def said_of_worst(p, table):
    """Which harmed group is hidden best, in a sentence: inside the label that gains most."""
    one = p.study.groups[0]
    hidden = table[(table["its finding"] == "harmed") & (table.finding != "harmed")]
    if hidden.empty:
        if (table["its finding"] == "harmed").any():
            return f"{p.name}: every {one} that is clearly harmed is inside a label that is too."
        return f"{p.name}: no {one} is clearly harmed, so that no label can be shown to hide it."
    row = hidden.loc[hidden.gain.idxmax()]
    label, group = (row[name].replace("_", " ") for name in ("label", "worst group"))
    return (
        f"{p.name}: {len(hidden)} of {len(table)} labels that are not called harmed hide a "
        f"{one} that is. The label {label} changes by {number(row.gain)}, {group} "
        f"inside it by {number(row['its gain'])}."
    )
