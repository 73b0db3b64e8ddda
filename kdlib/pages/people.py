"""Groups that are not classes: gains by group, whom networks select there, and by label."""

import functools
import itertools

import numpy as np
import pandas as pd

from kdlib.evidence import rates
from kdlib.evidence.stats import interval, welch
from kdlib.evidence.words import brief, told
from kdlib.methods import name_of
from kdlib.pages import classes
from kdlib.pages.drawing import DESK, LINE, axes_of, captioned, drawn, legend, points
from kdlib.pages.gains import rarest, rarest_classes
from kdlib.pages.shown import Table, ends, plus_minus, row_of

EVERY = "race and sex"  # the groups of the study, each named "race, sex"
# kinds of groups: the words of the name that tell them apart
KINDS = {"sex": slice(1, 2), "race": slice(0, 1), EVERY: slice(0, 2)}
SHORT = {rates.PARITY: "demographic parity", rates.ODDS: "equalised odds"}
SEXES = {"Male": "men", "Female": "women"}
OTHERS = ("teacher", "one_hot")  # networks that are shown beside those of methods


def of_all_rows(p):
    """Weights (S, G) of an average in which every test row counts alike."""
    share = np.bincount(p.group) / len(p.group)
    return np.tile(share, (p.seeds, 1))


def answer(p, method="kd"):
    """Three sentences: what a method changes in accuracy, between the sexes, and who is found."""
    weights = (of_all_rows(p), p.average, rarest(p)[1])
    together, average, rare = (told(p.gain(method, w)) for w in weights)
    few = f"fewer than {p.study.bucket_edges[1]} training rows each"
    odds, parity = (_moved(p, method, name) for name in (rates.ODDS, rates.PARITY))
    return [
        f"{p.name}: compared with one-hot, {name_of(method)} changes accuracy by {together} on all "
        f"test rows, by {average} on average over the {len(p.group_names)} groups and by {rare} in "
        f"{rarest_classes(p)} ({few}).",
        "Between men and women, the larger of the differences in true and in false positive rates "
        f"(equalised odds) goes {odds}; the difference in selection rates (demographic parity) "
        f"goes {parity}.",
        "Of the people who earn more than 50,000 dollars, a distilled student finds "
        f"{_found(p, method)}.",
    ]


def _moved(p, method, name):
    """How a largest difference between the sexes changes, in words."""
    before, after = (between(p, m, "sex")[name].observed.mean() for m in ("one_hot", method))
    by = told(change(p, method, name, "sex"))
    return f"from {before:.1f} to {after:.1f} points, a change of {by}"


def _found(p, method):
    """The true positive rates of both sexes and their changes, in words."""
    both = [of_networks(p, m, "sex")[rates.TPR] for m in (method, "one_hot")]
    said = []
    for i, sex in enumerate(_kinds(p, "sex")[1]):
        mine, base = (values.map(np.take, indices=i, axis=-1) for values in both)
        said.append(
            f"{mine.observed.mean():.1f} % instead of {base.observed.mean():.1f} % of the "
            f"{SEXES[sex]}, a change of {told(welch(mine, base))}"
        )
    return ", and ".join(said)


def answer_of_others(some):
    """A sentence, in a list, on the same changes in further pairs; none without any."""
    said = []
    for p in some:
        odds, parity = (told(change(p, "kd", name, "sex")) for name in (rates.ODDS, rates.PARITY))
        together = told(p.gain("kd", of_all_rows(p)))
        said.append(
            f"{p.name}: accuracy on all test rows by {together}, equalised odds by {odds}, "
            f"demographic parity by {parity}"
        )
    lead = "What distillation changes in other pairs, whose temperature was chosen for the first:"
    return [f"{lead} {'; '.join(said)}."] if said else []


# ---------------------------------------------------------------- gains


def gain_by_group(p, methods):
    """Gain in points in each group as an audit has it, rarest last: a row per (group, method)."""
    parts = []
    for method in methods:
        found = classes.gain_by_group(p, method).rename(columns={"gain": "estimate"})
        named = found.group + found.n_train.map(" ({:,})".format)
        seeds = classes.by_frequency(p, per_seed=list(p.group_gain(method).T)).per_seed
        parts.append(found.assign(group=named, method=name_of(method), per_seed=seeds))
    columns = ["group", "method", "estimate", "low", "high", "per_seed", "q"]
    return pd.concat(parts, ignore_index=True)[columns]


@captioned
def plot_gain_by_group(p, methods=None):
    """Groups run from most to fewest training rows, whose number is in brackets. Small dots are
    networks, large marks their mean, bars its 95 % interval over networks and test rows, not
    corrected for the number of groups. Where it is positive, a method is better than one-hot
    networks, which are trained on labels alone."""
    table = gain_by_group(p, methods or p.methods)

    def paint(width):
        wide = width >= DESK
        label = "gain over one-hot, points"
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
    for between_two in np.arange(len(names) - 1) + 0.5:
        (axes.axvline if wide else axes.axhline)(between_two, color="#dddddd", linewidth=0.6)
    if wide:
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    else:
        lines = [name.replace(", ", ",\n") for name in names]
        axes.set_yticks(range(len(names)), lines, fontsize=8)


def accuracies(p):
    """Table of accuracy in per cent: over all test rows, over groups, and in the rarest ones."""
    places = {"all test rows": of_all_rows(p), "mean over groups": p.average}
    places["few-shot groups"] = rarest(p)[1]
    places = {name: weights.mean(axis=0) for name, weights in places.items()}
    rows = []
    for method in (*OTHERS, *p.methods):
        row = {"method": name_of(method), "networks": len(p.records(method))}
        for name, weights in places.items():
            row[name] = plus_minus(interval(*p.contrast(method, weights)))
        rows.append(row)
    poor = 100 * np.bincount(p.group, p.y == 0) / np.bincount(p.group)
    nobody = {name: f"{poor @ weights:.1f}" for name, weights in places.items()}
    rows.append({"method": "says of nobody that they earn more", "networks": 0, **nobody})
    caption = (
        f"Accuracy in per cent ± half-width of the 95 % interval, {p.name}, with "
        f"{p.train_counts.sum():,} training and {len(p.y):,} test rows. In the mean over groups, "
        "which all verdicts are about, every group counts alike, however rare."
    )
    return Table(pd.DataFrame(rows), caption)


# ---------------------------------------------------------------- rates


@functools.lru_cache(maxsize=64)  # a page asks for those of a method again and again
def of_networks(p, method, by=EVERY):
    """rates.rates of the networks of a method, between groups of one of KINDS."""
    kind, names = _kinds(p, by)
    return rates.rates(p.predicted(method), p.y, kind[p.group], names)


def _kinds(p, by):
    """((G,) index, names) of the kind of each group."""
    return pd.factorize(np.array([", ".join(n.split(", ")[KINDS[by]]) for n in p.group_names]))


def between(p, method, by=EVERY):
    """rates.differences of the networks of a method, see of_networks."""
    return rates.differences(of_networks(p, method, by))


def change(p, method, name, by):
    """Interval: how a method changes one of rates.DIFFERENCES, in points, from one-hot."""
    return welch(between(p, method, by)[name], between(p, "one_hot", by)[name])


def rates_by_group(p, methods):
    """Rates in per cent: one row per (rate, group, method), groups from most to fewest rows."""
    order = np.argsort(-p.train_counts, kind="stable")
    rows = []
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
    positive rate), and of those who do not (false positive rate): the share that a network predicts
    to earn more. Marks are means over networks, bars 95 % intervals over networks and test rows,
    too short where all networks say the same of a handful of people; the scales differ. AdaMargin
    is in the tables."""
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
            f"{rate} from {low.estimate:.1f} % ({low.group}) to {high.estimate:.1f} % "
            f"({high.group})"
        )
    return paint, f"{p.name}: one-hot networks have a {', a '.join(said)}.", table


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
    baselines and test rows, not corrected for their number; the scales differ."""
    table = changes(p, p.methods)

    def paint(width):
        shape = {"rows": len(rates.DIFFERENCES), "columns": len(KINDS)}
        if width < DESK:
            shape = {"rows": len(KINDS), "columns": len(rates.DIFFERENCES)}
        figure, all_axes = axes_of(width, 4.4 if width >= DESK else 6.0, **shape)
        all_axes = all_axes if width >= DESK else all_axes.T
        parts = itertools.product(rates.DIFFERENCES, KINDS)
        for axes, (name, by) in zip(all_axes.flat, parts, strict=True):
            some = table[(table.difference == name) & (table.groups == by)]
            points(axes, some, "groups", "")
            axes.axhline(0, **LINE)
            axes.set_xticks([])
            axes.set_title(f"{SHORT[name]},\n{by}", fontsize=9)
        figure.supylabel("change from one-hot, points", fontsize=10)
        legend(figure, all_axes.flat[0])
        return figure

    sentence = answer(p)[1]
    return paint, f"{p.name}: {sentence[0].lower()}{sentence[1:]}", table


def by_label(p):
    """Table: accuracy of one-hot in each group and label, and the gain of each method."""
    test = np.bincount(2 * p.group + p.y, minlength=2 * len(p.group_names))
    rows = []
    for g in np.argsort(-p.train_counts, kind="stable"):
        for label, rate, sign in ((1, rates.TPR, 1), (0, rates.FPR, -1)):
            row = {"group": p.group_names[g], "earns": p.class_names[label]}
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
