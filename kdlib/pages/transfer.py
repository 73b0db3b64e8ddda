"""What a student takes over from its teacher: its errors, and gains that its margin predicts."""

import pandas as pd

from kdlib.evidence.counts import CELLS, outcomes
from kdlib.evidence.rules import amplification, weakest_fifth
from kdlib.evidence.stats import interval
from kdlib.methods import name_of
from kdlib.pages.classes import BUCKET_LOOKS, gain_by_group
from kdlib.pages.shown import LINE, Table, axes_of, captioned, drawn, estimates, legend


@captioned
def plot_margin_and_gain(p, correlation):
    """One point per class, means over seeds. The correlation is computed seed by seed with the
    margin of the other seeds' teachers, so that one teacher's luck cannot make it; its interval
    covers other classes too. An audit asks of its own groups, with the margin on half of its
    examples."""
    table = gain_by_group(p)
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
    axes.axhline(0, **LINE)
    axes.margins(x=0.12)
    axes.set_xlabel("teacher's held-out margin (1: always certain and right)")
    axes.set_ylabel("gain of distillation, points")
    legend(figure, axes)
    columns = ["group", "n_train", "bucket", "margin", "gain"]
    return figure, f"{p.name}: {correlation}", table[columns]


def copied_errors(p, methods):
    """Per cent of the teacher's errors with the same wrong label: one row per method.

    A student is compared with its own teacher; a baseline with the teachers of all seeds but
    itself, on average."""

    def share(_, method):
        if method == "one_hot":
            return interval(*p.copied_by_pool()[1])
        return interval(*p.copied_by_itself(method))

    return estimates(["teacher wrong"], methods, share, "where")


def amplified_errors(p, methods):
    """(student error - teacher error), weakest fifth of groups minus the rest: one row per method.

    None but in self-distillation with two seeds or more: "beyond the teacher" needs the same
    network, "weakest" other seeds."""
    if p.pair[0] != p.pair[1] or p.seeds < 2:
        return None
    weights = weakest_fifth(p)

    def excess(_, method):
        return interval(*amplification(p, method, weights))

    return estimates(["weakest fifth − rest"], methods, excess, "where")


@captioned
def plot_copied_and_amplified(p, sentence):
    """Transferred: share of the test examples the teacher gets wrong on which a student gives the
    same wrong label. Amplified: student error minus teacher error, in the fifth of classes weakest
    for other seeds' teachers minus in the rest. Dots are seeds; bars 95 % intervals."""
    copied, amplified = copied_errors(p, p.runs), amplified_errors(p, p.runs)
    table = pd.concat([copied, amplified], ignore_index=True)
    figure, both = drawn(table, "where", "teacher's wrong label given, %", "where", zero=False)
    both[0].set_title("Transferred")
    if amplified is not None:
        both[1].axhline(0, **LINE)
        both[1].set(title="Amplified", ylabel="excess error, points")
    return figure, f"{p.name}: {sentence}", table


def cells(p, method="kd"):
    """Table of the eight outcomes (teacher, one-hot, distilled right?), per cent of test examples.

    Classes weigh alike. Each distilled network stands beside its own teacher and the one-hot
    network of the same seed."""
    rights = [predicted == p.y for predicted in p.paired("teacher", "one_hot", method)]
    found = outcomes(rights, p.averages)
    rows, words = [], {True: "right", False: "wrong"}
    for (teacher, one_hot, distilled), name in CELLS.items():
        count, share = found[name]
        result = interval(*share)
        row = {"outcome": name, "teacher": words[teacher], "one-hot": words[one_hot]}
        row |= {name_of(method): words[distilled], "count": count}
        rows.append(row | {n: getattr(result, n) for n in ("estimate", "low", "high")})
    counted = "images counted over all seeds, and per cent with every class weighing alike"
    return Table(pd.DataFrame(rows), f"The eight outcomes, {p.name}: {counted}")
