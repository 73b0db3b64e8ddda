"""Groups that are not classes: gains by group, whom networks select there, and by label."""

import functools
import itertools

import numpy as np
import pandas as pd

from kdlib.evidence import rates
from kdlib.evidence.stats import interval, welch
from kdlib.evidence.words import brief, told
from kdlib.methods import name_of
from kdlib.pages.drawing import DESK, axes_of, captioned, drawn, legend, points
from kdlib.pages.gains import rarest, rarest_classes
from kdlib.pages.shown import Table, ends, estimates, plus_minus, row_of

EVERY = "race and sex"  # the groups of the study, each named "race, sex"
# kinds of groups: the words of the name that tell them apart
KINDS = {"sex": slice(1, 2), "race": slice(0, 1), EVERY: slice(0, 2)}
OTHERS = ("teacher", "one_hot")  # networks that are shown beside those of methods


def answer(p, method="kd"):
    """Two sentences: what a method changes in accuracy, and in differences between groups."""
    weights = (p.average, rarest(p)[1], of_all_rows(p))
    average, rare, together = (told(p.gain(method, w)) for w in weights)
    few = f"fewer than {p.study.bucket_edges[1]} training rows each"
    groups = len(p.group_names)
    odds, parity = (
        [told(change(p, method, name, by)) for by in ("sex", EVERY)]
        for name in (rates.ODDS, rates.PARITY)
    )
    return [
        f"{p.name}: compared with one-hot, {name_of(method)} changes accuracy by {average} on "
        f"average over the {groups} groups, by {rare} in {rarest_classes(p)} ({few}) and by "
        f"{together} on all test rows together.",
        f"Between the sexes, the largest difference in true or false positive rates changes by "
        f"{odds[0]}, that in selection rates by {parity[0]}; between the {groups} groups, where a "
        f"few people decide it, by {odds[1]} and {parity[1]}.",
    ]


def answer_of_others(some):
    """One sentence: what distillation changes between the sexes in further pairs."""
    said = []
    for p in some:
        odds, parity = (told(change(p, "kd", name, "sex")) for name in (rates.ODDS, rates.PARITY))
        said.append(f"{p.name}: {odds} and {parity}")
    return f"The same two differences between the sexes in the other pairs: {'; '.join(said)}."


# ---------------------------------------------------------------- gains


def of_all_rows(p):
    """Weights (S, G) of an average in which every test row counts alike."""
    share = np.bincount(p.group) / len(p.group)
    return np.tile(share, (p.seeds, 1))


def gain_by_group(p, methods):
    """Gain in points in each group, rarest last: one row per (group, method)."""
    order = np.argsort(-p.train_counts, kind="stable")
    places = {}
    for g in order:
        name = f"{p.group_names[g]} ({p.train_counts[g]:,})"
        places[name] = np.tile(np.eye(len(order))[g], (p.seeds, 1))
    return estimates(places, methods, lambda place, m: p.gain(m, places[place]), "group")


@captioned
def plot_gain_by_group(p, methods=None):
    """Groups run from most to fewest training rows, whose number is in brackets. Small dots are
    seeds, large marks their mean, bars its 95 % interval over networks and test rows, not corrected
    for the number of groups. Above zero a method is better than one-hot networks, which are trained
    on labels alone."""
    table = gain_by_group(p, methods or p.methods)

    def paint(width):
        wide, label = width >= DESK, "gain over one-hot, points"
        height = 3.9 if wide else 1.4 + 0.42 * len(p.group_names)
        figure, (axes,) = drawn(table, "group", label, width=width, height=height, across=not wide)
        _name_groups(axes, table, wide)
        if not wide:
            legend(figure, axes)
        return figure

    rare, average = (told(p.gain("kd", w)) for w in (rarest(p)[1], p.average))
    sentence = (
        f"{p.name}: distillation changes accuracy by {average} on average over groups and by "
        f"{rare} in {rarest_classes(p)}, compared with one-hot."
    )
    return paint, sentence, table


def _name_groups(axes, table, wide):
    """Write groups below the axes or, where these are not wide, beside them on two lines."""
    names = table.group.unique()
    if wide:
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    else:
        lines = [name.replace(", ", ",\n") for name in names]
        axes.set_yticks(range(len(names)), lines, fontsize=8)


# ---------------------------------------------------------------- rates


@functools.lru_cache(maxsize=64)  # a page asks for those of a method again and again
def of_networks(p, method, by=EVERY):
    """rates.rates of the networks of a method, between groups of one of KINDS."""
    words = [", ".join(name.split(", ")[KINDS[by]]) for name in p.group_names]
    kind, names = pd.factorize(np.array(words))
    return rates.rates(p.predicted(method), p.y, kind[p.group], names)


def between(p, method, by=EVERY):
    """rates.differences of the networks of a method, see of_networks."""
    return rates.differences(of_networks(p, method, by))


def change(p, method, name, by):
    """Interval: how a method changes one of rates.DIFFERENCES, in points, from one-hot."""
    return welch(between(p, method, by)[name], between(p, "one_hot", by)[name])


def rates_by_group(p, methods):
    """Rates in per cent: one row per (rate, group, method), groups from most to fewest rows."""
    order, rows = np.argsort(-p.train_counts, kind="stable"), []
    for method in methods:
        for rate, found in of_networks(p, method).items():
            for g in order:
                result = interval(*found.map(np.take, indices=g, axis=-1)).within(0, 100)
                labels = {"rate": rate, "group": p.group_names[g], "method": name_of(method)}
                rows.append(row_of(result, **labels))
    return pd.DataFrame(rows)


@captioned
def plot_rates(p):
    """Of all people of a group (selection rate), of those who earn more than 50,000 dollars (true
    positive rate), and of those who do not (false positive rate): the share that a network says
    earn more. Marks are means over networks, bars 95 % intervals over networks and test rows; the
    scales differ."""
    table = rates_by_group(p, (*OTHERS, "kd", "ada_alpha")).drop(columns="per_seed")

    def paint(width):
        wide = width >= DESK
        figure, all_axes = axes_of(width, 7.6 if wide else 13.5, rows=3, sharex=wide)
        for axes, (rate, rows) in zip(all_axes, table.groupby("rate", sort=False), strict=True):
            points(axes, rows, "group", f"{rate}, %", across=not wide)
            _name_groups(axes, rows, wide)
        legend(figure, all_axes[0])
        return figure

    of_one_hot = table[table.method == name_of("one_hot")]
    said = []
    for rate in rates.RATES:
        low, high = ends(of_one_hot[of_one_hot.rate == rate].dropna(subset="estimate"))
        said.append(
            f"its {rate} from {low.estimate:.1f} % ({low.group}) to {high.estimate:.1f} % "
            f"({high.group})"
        )
    return paint, f"{p.name}: of one-hot networks ranges {'; '.join(said)}.", table


def largest_differences(p):
    """Table: the largest differences between groups of teacher, one-hot and each method."""
    rows = []
    for name, by in itertools.product(rates.DIFFERENCES, KINDS):
        row = {"difference": name, "between groups of": by}
        for method in (*OTHERS, *p.methods):
            row[name_of(method)] = plus_minus(interval(*between(p, method, by)[name]))
        rows.append(row)
    caption = (
        f"Largest differences between groups, {p.name}, in points ± half-width of the 95 % "
        "interval over networks and test rows"
    )
    return Table(pd.DataFrame(rows), caption)


def changes(p, methods):
    """How methods change the largest differences: one row per (groups, difference, method)."""
    rows = []
    for by, name, method in itertools.product(KINDS, rates.DIFFERENCES, methods):
        row = row_of(change(p, method, name, by), difference=name, method=name_of(method))
        rows.append(row | {"groups": by})
    return pd.DataFrame(rows)


@captioned
def plot_differences(p):
    """How far a method moves the largest difference between groups: in selection rates (demographic
    parity) and in true or false positive rates (equalised odds). Below zero, groups are treated
    more alike than by one-hot networks. Small dots are networks, bars 95 % intervals over networks,
    baselines and test rows; the scales differ."""
    table = changes(p, p.methods)

    def paint(width):
        how = {"by": "groups", "width": width, "height": 3.4}
        figure, all_axes = drawn(table, "difference", "change from one-hot, points", **how)
        for axes in all_axes:
            axes.set_xticks(range(2), ["demographic\nparity", "equalised\nodds"], fontsize=8)
        return figure

    return paint, f"{p.name}: {answer(p)[1]}", table


def by_label(p):
    """Table: accuracy of one-hot in each group and label, and the gain of each method."""
    classes = p.teachers[0].facts["class_names"]
    test = np.bincount(2 * p.group + p.y, minlength=2 * len(p.group_names))
    rows = []
    for g in np.argsort(-p.train_counts, kind="stable"):
        for label, rate, sign in ((1, rates.TPR, 1), (0, rates.FPR, -1)):
            row = {"group": p.group_names[g], "earns": classes[label]}
            row["test rows"] = test[2 * g + label]
            base = of_networks(p, "one_hot")[rate].map(np.take, indices=g, axis=-1)
            right = base.observed.mean()
            row["one-hot, % right"] = f"{right if label else 100 - right:.1f}"
            for method in p.methods:
                mine = of_networks(p, method)[rate].map(np.take, indices=g, axis=-1)
                row[name_of(method)] = brief(welch(mine * sign, base * sign))
            rows.append(row)
    caption = (
        f"By group and label, {p.name}: share of one-hot networks that are right (of those who "
        "earn more, the true positive rate; of the others, 100 % less the false positive rate), "
        "and gains of the methods in points with 95 % intervals"
    )
    return Table(pd.DataFrame(rows), caption)
