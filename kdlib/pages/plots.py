"""Figures: a table in, a Figure and its sentence out. No training, no files."""

import functools
import re

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdlib.evidence.words import number
from kdlib.methods import look_of
from kdlib.pages.shown import STYLE, Appendix, Headline, Shown, Table, Verdicts

__all__ = ["Headline", "Shown", "Table", "Verdicts"]  # for notebooks, which draw and show
BUCKET_LOOKS = {  # of training images; of teacher margin, where classes are balanced
    "many": ("#0072B2", "o"),
    "medium": ("#767676", "s"),
    "few": ("#D55E00", "^"),
    "highest tenth": ("#0072B2", "o"),
    "middle": ("#767676", "s"),
    "lowest tenth": ("#D55E00", "^"),
}


def in_style(draw):
    """The figure function, drawing in the project's style whatever the notebook has set."""

    @functools.wraps(draw)
    def styled(*arguments, **options):
        with matplotlib.style.context(STYLE):
            shown = draw(*arguments, **options)
            # lay out once, so that every later drawing is the same
            shown.figure.draw_without_rendering()
            shown.figure.set_layout_engine("none")
            return shown

    return styled


def legend(figure, axes):
    """One row above the axes."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=len(labels),
        columnspacing=1.2,
        handletextpad=0.3,
    )


def axes_of(width=7.2, height=3.6, columns=1, rows=1, **options):
    """(Figure, its axes): one, or an array of `columns` or `rows`."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, **options)


def _name_groups(axes, table):
    names = [f"{g} ({n})" for g, n in zip(table.group, table.n_train, strict=True)]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)


def _what(bucket):
    frequency = bucket in ("many", "medium", "few")
    return "number of training images" if frequency else "margin of the teacher"


def clear(row, unit="points"):
    """A change in words, from a row with estimate, low, high.

    "no clear difference" if the interval holds 0."""
    if np.isnan(row.low):
        return f"{number(row.estimate, unit)} from one seed, which allows no conclusion"
    if row.low <= 0 <= row.high:
        return f"no clear difference ({number(row.estimate, unit)})"
    return f"a clear {'gain' if row.estimate > 0 else 'loss'} ({number(row.estimate, unit)})"


def beside(places, m, methods):
    """Positions (P,) of the m-th of several methods drawn side by side at each place."""
    return np.arange(len(places)) + (m - (len(methods) - 1) / 2) * 0.8 / max(len(methods), 2)


def seeds_and_intervals(axes, table, place, zero=True):
    """One dot per seed, the mean and its interval, for each place, with methods side by side."""
    places, methods = list(dict.fromkeys(table[place])), list(dict.fromkeys(table.method))
    for m, method in enumerate(methods):
        colour, marker = look_of(method)
        rows = table[table.method == method].set_index(place).loc[places]
        x = beside(places, m, methods)
        dot = {"color": colour, "alpha": 0.4, "markersize": 4, "zorder": 2}
        for position, seeds in zip(x, rows.per_seed, strict=True):
            near = np.full(len(seeds), position) + np.linspace(-0.05, 0.05, len(seeds))
            axes.plot(near, seeds, ".", **dot)
        spread = np.nan_to_num(np.array([rows.estimate - rows.low, rows.high - rows.estimate]))
        mark = {"fmt": marker, "color": colour, "capsize": 3, "markersize": 6, "zorder": 3}
        axes.errorbar(x, rows.estimate, spread, label=method, **mark)
    if zero:
        axes.axhline(0, color="#444444", linewidth=1)
    axes.set_xticks(range(len(places)), places)


@in_style
def gain_by_bucket(table, pair, over="one-hot"):
    """tables.gain_by_bucket -> Shown."""
    figure, axes = axes_of()
    seeds_and_intervals(axes, table, "bucket")
    legend(figure, axes)
    axes.set_ylabel(f"accuracy gain over {over}, points")
    axes.set_xlabel(f"classes by {_what(table.bucket.iloc[-1])}")
    first = table[table.method == table.method.iloc[0]].set_index("bucket")
    rarest = first.index[-1]
    sentence = (
        f"{pair}: {first.iloc[0].method} shows {clear(first.loc['average'])} on average and "
        f"{clear(first.loc[rarest])} on the {rarest} classes, against {over}."
    )
    caption = (
        "Small dots are seeds, large marks their mean, bars its 95 % interval over seeds, "
        "baselines and test examples; within a bucket every class counts alike. Test images "
        "include those that the draw left out."
    )
    return Shown(figure, sentence, caption, table)


@in_style
def gain_by_group(table, pair, method="distillation"):
    """tables.gain_by_group -> Shown: one mark per group, most frequent first."""
    figure, axes = axes_of(height=3.9)
    x = np.arange(len(table))
    for bucket, (colour, marker) in BUCKET_LOOKS.items():
        part = (table.bucket == bucket).to_numpy()
        if part.any():
            error = np.nan_to_num(table.spread[part])
            mark = {"fmt": marker, "color": colour, "capsize": 2, "linewidth": 1}
            axes.errorbar(x[part], table.gain[part], error, label=bucket, **mark)
    star = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": 13}
    for i in np.flatnonzero(table.finding != "no clear difference"):
        axes.annotate("*", (x[i], table.gain[i]), **star)
    axes.axhline(0, color="#444444", linewidth=1)
    _name_groups(axes, table)
    axes.set_ylabel("accuracy gain over one-hot, points")
    legend(figure, axes)
    harmed, helped = (int((table.finding == f).sum()) for f in ("harmed", "helped"))
    least, most = table.loc[table.gain.idxmin()], table.loc[table.gain.idxmax()]
    sentence = (
        f"{pair}: of {len(table)} classes {method} harms {harmed} and helps {helped} at a false "
        f"discovery rate of 5 %; the means run from {number(least.gain)} ({least.group}) to "
        f"{number(most.gain)} ({most.group})."
    )
    caption = (
        "Classes from most to fewest training images (their number in brackets); marks are means "
        "over seeds, bars one standard deviation over seeds, a star marks a class harmed or helped "
        "at FDR 5 %."
    )
    return Shown(figure, sentence, caption, table)


@in_style
def margin_and_gain(table, pair, correlation):
    """tables.gain_by_group -> Shown: the teacher's held-out margin against the gain by group.

    correlation: the sentence of finding F3 (a)."""
    figure, axes = axes_of(width=6.2, height=4.0)
    for bucket, (colour, marker) in BUCKET_LOOKS.items():
        part = table[table.bucket == bucket]
        if len(part):
            look = {"color": colour, "markersize": 7, "alpha": 0.85}
            axes.plot(part.margin, part.gain, marker, label=bucket, **look)
    outer = table.iloc[[table.gain.argmin(), table.gain.argmax(), table.margin.argmin()]]
    name = {"xytext": (6, 3), "textcoords": "offset points", "fontsize": 8}
    for row in outer.drop_duplicates("group").itertuples():
        axes.annotate(row.group, (row.margin, row.gain), **name)
    axes.axhline(0, color="#444444", linewidth=1)
    axes.margins(x=0.12)
    axes.set_xlabel("teacher's held-out margin (1: always certain and right)")
    axes.set_ylabel("gain of distillation, points")
    legend(figure, axes)
    caption = (
        "One point per class, means over seeds. The correlation is computed seed by seed with the "
        "margin of the other seeds' teachers, so that one teacher's luck cannot make it."
    )
    columns = ["group", "n_train", "bucket", "margin", "gain"]
    return Shown(figure, f"{pair}: {correlation}", caption, table[columns])


@in_style
def copied_and_amplified(copied, amplified, pair, sentence):
    """tables.copied_errors and, in self-distillation, amplified_errors (else None) -> Shown."""
    figure, axes = axes_of(columns=1 if amplified is None else 2)
    left = axes if amplified is None else axes[0]
    seeds_and_intervals(left, copied, "where", zero=False)
    legend(figure, left)
    left.set_title("Transferred")
    left.set_ylabel("teacher's wrong label given, %")
    if amplified is not None:
        seeds_and_intervals(axes[1], amplified, "where")
        axes[1].set_title("Amplified")
        axes[1].set_ylabel("excess error, points")
        copied = pd.concat([copied, amplified], ignore_index=True)
    for a in np.atleast_1d(axes):
        a.set_xlim(-0.6, 0.6)
    caption = (
        "Transferred: share of the test examples the teacher gets wrong on which a student gives "
        "the same wrong label. Amplified: student error minus teacher error, in the fifth of "
        "classes weakest for other seeds' teachers minus in the rest. Dots are seeds; bars 95 % "
        "intervals."
    )
    return Shown(figure, f"{pair}: {sentence}", caption, copied)


def non_dominated(table):
    """Methods that no other one beats both on average and in the rarest bucket, by their means.

    table: tables.gain_by_bucket."""
    rarest = table.bucket.iloc[-1]
    means = table.pivot(index="method", columns="bucket", values="estimate")
    means = means.loc[list(dict.fromkeys(table.method))]
    beaten = [
        ((means.average > m.average) & (means[rarest] > m[rarest])).any()
        for _, m in means.iterrows()
    ]
    return list(means.index[~np.array(beaten)])


@in_style
def trade_off(table, pair):
    """tables.gain_by_bucket, over one-hot -> Shown: average gain against the rarest bucket's."""
    figure, axes = axes_of(width=5.6, height=4.2)
    rarest = table.bucket.iloc[-1]
    for method in dict.fromkeys(table.method):
        colour, marker = look_of(method)
        rows = table[table.method == method].set_index("bucket")
        x, y = rows.loc["average"], rows.loc[rarest]
        mark = {"fmt": marker, "color": colour, "capsize": 3, "markersize": 8}
        crosses = {"xerr": bars(x), "yerr": bars(y)}
        axes.errorbar([x.estimate], [y.estimate], label=method, **crosses, **mark)
    axes.axhline(0, color="#444444", linewidth=1)
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_xlabel("average gain over one-hot, points")
    axes.set_ylabel(f"gain of the {rarest} classes, points")
    legend(figure, axes)
    sentence = (
        f"{pair}: no other method has both a higher average and a higher mean in the {rarest} "
        f"bucket than {', '.join(non_dominated(table))}."
    )
    caption = "Up and right is better; one-hot is the origin. Crosses are 95 % intervals."
    return Shown(figure, sentence, caption, table)


def bars(row):
    """The interval of a row with estimate, low, high as an error bar; None without one."""
    return None if np.isnan(row.low) else [[row.estimate - row.low], [row.high - row.estimate]]


@in_style
def margins(table, pair):
    """tables.margins -> Shown: held-out and training margin of the teacher by group."""
    figure, axes = axes_of(height=3.7)
    x = np.arange(len(table))
    axes.plot(x, table.on_training, "o", color="#767676", label="on its training images")
    axes.plot(x, table.held_out, "s", color="#D55E00", label="held out: the alpha of AdaAlpha")
    _name_groups(axes, table)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("teacher's margin")
    legend(figure, axes)
    low, high = table.loc[table.held_out.idxmin()], table.loc[table.held_out.idxmax()]
    sentence = (
        f"{pair}: the teacher's held-out margin runs from {low.held_out:.2f} ({low.group}) to "
        f"{high.held_out:.2f} ({high.group}); on its own training images the mean is "
        f"{table.on_training.mean():.2f}."
    )
    caption = (
        "Means over seeds, most frequent class first. Where a margin is measured decides how far "
        "AdaAlpha softens the teacher."
    )
    return Shown(figure, sentence, caption, table)


def _lower_is_better(table, label):
    """(figure, best row, worst row of the rarest bucket) of a quantity by bucket and method."""
    figure, axes = axes_of()
    seeds_and_intervals(axes, table, "bucket", zero=False)
    legend(figure, axes)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(label)
    rows = table[table.bucket == table.bucket.iloc[-1]]
    return figure, rows.loc[rows.estimate.idxmin()], rows.loc[rows.estimate.idxmax()]


@in_style
def calibration_by_bucket(table, pair):
    """tables.calibration -> Shown."""
    figure, best, _ = _lower_is_better(table, "calibration error, %")
    sentence = (
        f"{pair}: in the {best.bucket} bucket {best.method} has the lowest calibration error on "
        f"average, {best.estimate:.1f} %."
    )
    caption = (
        "Expected calibration error with 15 bins, classes weighing alike; dots are seeds, bars the "
        "95 % interval over seeds only."
    )
    return Shown(figure, sentence, caption, table)


@in_style
def log_loss_by_bucket(table, pair):
    """tables.log_loss -> Shown."""
    figure, best, worst = _lower_is_better(table, "log-loss, nats")
    sentence = (
        f"{pair}: in the {best.bucket} bucket {best.method} has the lowest mean log-loss, "
        f"{best.estimate:.2f} nats, and {worst.method} the highest, {worst.estimate:.2f}."
    )
    caption = (
        "Mean of −log of the probability given to the label, classes weighing alike: it punishes "
        "being sure and wrong. Dots are seeds, bars 95 % intervals over seeds and test examples."
    )
    return Shown(figure, sentence, caption, table)


@in_style
def learning_curves(table, pair):
    """tables.learning_curves -> Shown."""
    places = list(dict.fromkeys(table.place))
    figure, both = axes_of(columns=2)
    for axes, place in zip(both, places, strict=True):
        for method in dict.fromkeys(table.method):
            colour, marker = look_of(method)
            rows = table[(table.method == method) & (table.place == place)]
            look = {"marker": marker, "color": colour, "linewidth": 1, "markersize": 4}
            axes.plot(rows.epoch, rows.accuracy, label=method, **look)
        axes.set_title(place if place == "average" else f"{place} classes")
        axes.set_xlabel("epoch")
    both[0].set_ylabel("accuracy on val, %")
    legend(figure, both[0])
    last = table[(table.epoch == table.epoch.max()) & (table.place == places[0])]
    best = last.loc[last.accuracy.idxmax()]
    sentence = (
        f"{pair}: at the last epoch {best.method} has the highest average accuracy on val, "
        f"{best.accuracy:.1f} %."
    )
    caption = "Means over seeds. The last epoch is the result; no epoch is chosen."
    return Shown(figure, sentence, caption, table)


@in_style
def optimism(table, pair):
    """tables.optimism -> Shown."""
    figure, axes = axes_of()
    seeds_and_intervals(axes, table, "where")
    legend(figure, axes)
    axes.set_ylabel("best minus last epoch, points")
    axes.set_xlabel("scored on")
    same = table[table["where"] == "the same half"].estimate.mean()
    other = table[table["where"] == "the other half"].estimate.mean()
    sentence = (
        f"{pair}: choosing the best epoch on val adds {number(same)} to the last one on the images "
        f"that chose it, and {number(other)} on others."
    )
    caption = (
        "The sentence has means over methods; dots are seeds, bars 95 % intervals over seeds. The "
        "difference is what reporting the best epoch on the test set would have made up."
    )
    return Shown(figure, sentence, caption, table)


@in_style
def power(table, pair):
    """tables.power -> Shown: each gain in the band that this study could not tell from zero."""
    figure, axes = axes_of()
    places, methods = list(dict.fromkeys(table.bucket)), list(dict.fromkeys(table.method))
    for m, method in enumerate(methods):
        colour, marker = look_of(method)
        rows = table[table.method == method].set_index("bucket").loc[places]
        x = beside(places, m, methods)
        reach = rows["smallest detectable"]
        axes.bar(x, 2 * reach, 0.6 / max(len(methods), 2), -reach, color=colour, alpha=0.2)
        axes.plot(x, rows.gain, marker, color=colour, label=method)
    axes.axhline(0, color="#444444", linewidth=1)
    axes.set_xticks(range(len(places)), places)
    axes.set_ylabel("gain over one-hot, points")
    legend(figure, axes)
    first = table[table.method == methods[0]].set_index("bucket")
    kd = first["smallest detectable"]
    if np.isnan(kd.iloc[0]):
        sentence = (
            f"{pair}: one seed has no spread, so no effect of {methods[0]} can be found, however "
            "large."
        )
    else:
        last = first.iloc[-1]
        source = "networks" if last["from networks"] >= last["from test images"] else "test images"
        sentence = (
            f"{pair}: the smallest effect of {methods[0]} that this study would find is "
            f"{kd.iloc[0]:.1f} points on average and {kd.iloc[-1]:.1f} in the {kd.index[-1]} "
            f"bucket, where most uncertainty is due to {source}."
        )
    caption = (
        "Marks are gains; a shaded bar reaches as far from zero as a true effect must lie to be "
        "found with 80 % power at a two-sided level of 5 %. The table splits each standard error "
        "into networks (students and baselines) and test images."
    )
    return Shown(figure, sentence, caption, table)


# ---------------------------------------------------------------- tables, with what they are


def accuracies(table, pair):
    """tables.accuracies -> Table."""
    caption = f"Accuracy in per cent ± half-width of its 95 % interval, {pair}"
    if "published" in table:
        caption += (
            "; published: Wang et al. 2023, average on half of the official test images, another "
            "draw where there is a tail (page 90 has ours on that half)"
        )
    return Table(table, caption)


def differences(table, pair):
    """tables.differences -> Table."""
    caption = (
        "Difference to the mean of all baselines, with Welch's p, in points ± half-width of its "
        f"95 % interval, {pair}"
    )
    return Table(table, caption)


def by_class(table, data, study, pair):
    """tables.by_class and by_class_and_seed -> Appendix; its file is named after study and pair."""
    caption = f"Every class, {pair}: means over seeds, gains in points over one-hot."
    words = "-".join(re.findall(r"[A-Za-z0-9_.=]+", pair))
    return Appendix(table, caption, data, f"{study}-{words}-by-class.csv")


def tally(table):
    """anchors.table -> how many published numbers came out, in words."""
    counts = table.result.value_counts()
    words = ("pass", "explain", "preliminary", "not run")
    found = ", ".join(f"{counts[word]} {word}" for word in words if word in counts)
    return f"Of {len(table)} published numbers that a correct implementation must hit: {found}."
