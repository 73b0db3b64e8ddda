"""How far to trust what students say, and when training ended: calibration, log-loss, epochs."""

import numpy as np
import pandas as pd

from kdlib.evidence.counts import calibration_error
from kdlib.evidence.stats import interval
from kdlib.evidence.words import number
from kdlib.methods import look_of, name_of
from kdlib.pages.drawing import DESK, axes_of, captioned, drawn, legend
from kdlib.pages.gains import by_bucket, rarest, rarest_classes
from kdlib.pages.shown import ends, estimates, over_seeds


def calibration(p, methods):
    """Expected calibration error in per cent by bucket: one row per (bucket, method).

    Over seeds only (t interval): the error of a bin is not a mean of examples."""
    members = {name: p.bucket == index for index, name in enumerate(p.bucket_names)}
    n = np.bincount(p.group)[p.group]

    def error(place, method):
        weights = members[place][p.group] / n
        errors = []
        for x in p.predictions(method):
            confidence = np.exp(x.log_p[:, 1].astype(np.float64))
            errors.append(100 * calibration_error(confidence, x.right, weights))
        return over_seeds(errors).within(0, 100)

    return estimates([name for name in members if members[name].any()], methods, error)


def log_loss(p, methods):
    """Mean -log probability of the label in nats: one row per (bucket, method).

    On average and by bucket; every class counts alike."""
    nats = {}
    places = p.places()
    for m in methods:
        nats[m] = p.means(np.array([-x.log_p[:, 0].astype(np.float64) for x in p.predictions(m)]))

    def mean(place, m):
        found = interval(*nats[m].map(np.dot, b=places[place].mean(axis=0)))
        return found.within(0, np.inf)

    return estimates(places, methods, mean)


def _lower_is_better(p, table, label):
    """(paint, best row, worst row of the rarest bucket) of a quantity by bucket and method."""

    def paint(width):
        figure, axes = by_bucket(p, table, label, width, zero=False)
        axes.set_ylim(bottom=0)
        return figure

    return paint, *ends(table[table.bucket == table.bucket.iloc[-1]])


@captioned
def plot_calibration(p, methods=None):
    """Expected calibration error with 15 bins; every class counts alike. Dots are seeds, bars 95 %
    intervals over seeds only."""
    table = calibration(p, methods or p.runs)
    paint, best, _ = _lower_is_better(p, table, "calibration error, %")
    sentence = (
        f"{p.name}: in {rarest_classes(p)}, {best.method} has the lowest calibration error on "
        f"average, {best.estimate:.1f} %."
    )
    return paint, sentence, table


@captioned
def plot_log_loss(p, methods=None):
    """Log-loss is the mean of −log of the probability given to the label, where every class counts
    alike; it punishes being sure and wrong. Dots are seeds, bars 95 % intervals over seeds and test
    images."""
    table = log_loss(p, methods or p.runs)
    paint, best, worst = _lower_is_better(p, table, "log-loss, nats")
    sentence = (
        f"{p.name}: in {rarest_classes(p)}, {best.method} has the lowest mean log-loss, "
        f"{best.estimate:.2f} nats, and {worst.method} the highest, {worst.estimate:.2f}."
    )
    return paint, sentence, table


def without_val(p, methods):
    """The methods that did not train on val, so that their accuracy on it means something."""
    return [m for m in methods if not p.runs[m][0].config.with_val]


@captioned
def plot_learning_curves(p):
    """Lines are means over seeds, without intervals. The last epoch is the result; no epoch is
    chosen. Val is the set of held-out images that may be looked at before the test."""
    name, _ = rarest(p)
    members = {"average": p.bucket >= 0, name: p.bucket == p.bucket_names.index(name)}
    rows = []
    for method in without_val(p, p.runs):
        runs = [r.facts["val_accuracy_by_group"] for r in p.runs[method]]
        for epoch in sorted(runs[0], key=int):
            accuracy = 100 * np.mean([np.array(run[epoch], float) for run in runs], axis=0)
            for place, some in members.items():
                at = {"place": place, "method": name_of(method), "epoch": int(epoch)}
                rows.append(at | {"accuracy": accuracy[some].mean()})
    table = pd.DataFrame(rows)
    titles = {"average": "average", name: rarest_classes(p).removeprefix("the ")}

    def paint(width):
        shape = {"columns": 2} if width >= DESK else {"rows": 2, "height": 6}
        figure, both = axes_of(width, **shape)
        for axes, place in zip(both, members, strict=True):
            for method, rows in table[table.place == place].groupby("method", sort=False):
                colour, marker = look_of(method)
                look = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1}
                axes.plot(rows.epoch, rows.accuracy, label=method, **look)
            axes.set(title=titles[place], xlabel="epoch", ylabel="mean accuracy on val, %")
        legend(figure, both[0])
        return figure

    last = table[(table.epoch == table.epoch.max()) & (table.place == "average")]
    best = last.loc[last.accuracy.idxmax()]
    sentence = (
        f"{p.name}: at the last epoch, {best.method} has the highest average accuracy on val, "
        f"{best.accuracy:.1f} %."
    )
    return paint, sentence, table


def optimism(p, methods):
    """What choosing the best epoch adds to the last one: one row per (scored on, method).

    In points on val, among the epochs on record. The best is chosen on one half of val: "the same
    half" scores it there, "the other half" honestly; both ways round, then averaged. None without a
    method that recorded both halves in every run."""
    halves = {m: [r.facts.get("val_accuracy_by_half") for r in p.runs[m]] for m in methods}
    halves = {m: halves[m] for m in without_val(p, methods)}
    if not halves or not all(map(all, halves.values())):
        return None
    sides = {"the same half": [0, 1], "the other half": [1, 0]}

    def added(where, method):
        # (S, epochs, 2)
        curves = 100 * np.array([[run[e] for e in sorted(run, key=int)] for run in halves[method]])
        gains = (curves - curves[:, -1:])[..., sides[where]]
        best = curves.argmax(axis=1, keepdims=True)
        return over_seeds(np.take_along_axis(gains, best, axis=1).mean(axis=(1, 2)))

    return estimates(sides, halves, added, "where")


@captioned
def plot_optimism(p, methods=None):
    """The sentence gives means over methods. Dots are seeds, bars 95 % intervals over seeds. The
    difference is the illusory gain that reporting the best epoch on the test set would have added.
    """
    table = optimism(p, methods or p.runs)
    if table is None:  # older records lack the halves
        return None

    def paint(width):
        label = "best minus last epoch, points"
        figure, (axes,) = drawn(table, "where", label, width=width)
        axes.set_xlabel("part of val that accuracy is scored on")
        return figure

    same, other = table.groupby("where", sort=False).estimate.mean()
    sentence = (
        f"{p.name}: choosing the best epoch on val, rather than the last one, adds {number(same)} "
        f"on the images used to choose it, and {number(other)} on others."
    )
    return paint, sentence, table
