"""What a student takes over from its teacher: its errors, and gains that its margin predicts."""

import pandas as pd

from kdlib.evidence.counts import CELLS, outcomes
from kdlib.evidence.rules import amplification, weakest_fifth
from kdlib.evidence.stats import interval
from kdlib.evidence.words import told
from kdlib.methods import name_of
from kdlib.pages.classes import BUCKET_LOOKS, gain_by_group
from kdlib.pages.drawing import LINE, captioned, drawn, margin_against_gain, shot
from kdlib.pages.shown import Table, estimates


@captioned
def plot_margin_and_gain(p, correlation):
    """Each mark is a class, averaged over seeds; the margin is measured on held-out images. The
    correlation is computed seed by seed with the margin of the other seeds' teachers, so that one
    teacher's luck cannot create it; its interval covers other classes too. Whatever tells easy from
    hard classes, such as the number of training images, may be correlated with the gain as well."""
    table = gain_by_group(p)
    names = table.group.str.replace("_", " ")
    marks = table.assign(group=names, bucket=table.bucket.map(shot))

    def paint(width):
        return margin_against_gain(width, marks, "bucket", BUCKET_LOOKS, name_of("one_hot"))

    columns = ["group", "n_train", "bucket", "margin", "gain"]
    return paint, f"{p.name}: {correlation}", table[columns]


def answer(cards):
    """Whether errors are transferred, and amplified, as the rules count it. cards: of one pair."""
    found = {card["finding"]: card for card in cards}
    copied, amplified = found["F3b"]["result"], found["F3c"]["result"]
    if copied is None or amplified is None:
        return found["F3b"]["said"]
    return (
        "distillation changes how often students repeat the teacher's wrong label by "
        f"{told(copied)}, compared with one-hot training at equally many errors, and by "
        f"{told(found['F3b']['second'])}, compared with students of other teachers. It changes "
        "their error in the teacher's weakest classes minus that in the rest by "
        f"{told(amplified)}."
    )


def copied_errors(p, methods):
    """Per cent of the teacher's errors with the same wrong label: one row per method.

    A student is compared with its own teacher; a baseline with the teachers of all seeds but
    itself, on average."""

    def share(_, method):
        if method == "one_hot":
            return interval(*p.copied_by_pool()[1]).within(0, 100)
        return interval(*p.copied_by_itself(method)).within(0, 100)

    return estimates(["teacher wrong"], methods, share, "where")


def amplified_errors(p, methods):
    """(student error - teacher error), weakest fifth of groups minus the rest: one row per method.

    None except in self-distillation with at least two seeds: "beyond the teacher" needs the same
    network, "weakest" needs other seeds."""
    if p.pair[0] != p.pair[1] or p.seeds < 2:
        return None
    weights = weakest_fifth(p)

    def excess(_, method):
        return interval(*amplification(p, method, weights))

    return estimates(["weakest fifth − rest"], methods, excess, "where")


@captioned
def plot_copied_and_amplified(p, sentence):
    """Transferred: of the test images that the teacher gets wrong, the share to which a student
    gives the same wrong label. Amplified: student error minus teacher error in the fifth of classes
    that is weakest for other seeds' teachers, minus the same in the rest. Dots are seeds, bars 95 %
    intervals. Here accuracies are not made equal, and in the right panel each one-hot network is
    compared with one of the teachers; the rules use all baselines."""
    copied = copied_errors(p, p.runs)
    amplified = amplified_errors(p, p.runs)
    table = pd.concat([copied, amplified], ignore_index=True)
    titles = {"teacher wrong": "Transferred", "weakest fifth − rest": "Amplified"}
    labels = {"Transferred": "same wrong label, %", "Amplified": "excess error, points"}
    marks = table.assign(title=table["where"].map(titles))

    def paint(width):
        how = {"by": "title", "across": True, "zero": False, "height": 1.3 + 0.27 * len(p.runs)}
        figure, both = drawn(marks, "method", None, width=width, **how)
        for axes, title in zip(both, labels, strict=False):
            axes.set_xlabel(labels[title])
        if amplified is not None:
            both[1].axvline(0, **LINE)
        return figure

    return paint, f"{p.name}: {sentence}", table


def cells(p, method="kd"):
    """Table of the eight outcomes (teacher, one-hot, distilled right?), per cent of test examples.

    Every class counts alike. Each distilled network is compared with its own teacher and with the
    one-hot network of the same seed."""
    rights = [predicted == p.y for predicted in p.paired("teacher", "one_hot", method)]
    found = outcomes(rights, p.averages)
    rows = []
    words = {True: "right", False: "wrong"}
    for (teacher, one_hot, distilled), name in CELLS.items():
        count, share = found[name]
        result = interval(*share).within(0, 100)
        row = {"outcome": name, "teacher": words[teacher], "one-hot": words[one_hot]}
        row |= {name_of(method): words[distilled], "count": count}
        rows.append(row | {n: getattr(result, n) for n in ("estimate", "low", "high")})
    counted = "images are counted over all seeds; in the percentages every class counts alike"
    units = dict.fromkeys(("estimate", "low", "high"), "%")
    return Table(pd.DataFrame(rows), f"The eight outcomes, {p.name}: {counted}", units)
