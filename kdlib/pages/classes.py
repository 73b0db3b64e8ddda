"""Class by class: gains, the teacher's margin, and everything that was counted."""

import re

import numpy as np
import pandas as pd

from kdlib.evidence.counts import BUCKETS, TENTHS, by_group
from kdlib.evidence.significance import called, change
from kdlib.evidence.words import number
from kdlib.methods import GREY, ORANGE, name_of
from kdlib.pages.drawing import DESK, axes_of, captioned, drawn, legend, shot
from kdlib.pages.shown import Appendix, ends

MOST_NAMES = 40  # of classes below a figure
MOST_NAMED = 3  # of classes in a sentence
# by training images; by teacher margin, where classes are balanced; no method looks like one
LOOKS = (("#b08a1e", "d"), ("#7a5c10", "p"), ("#3d2b00", "v"))
BUCKET_LOOKS = dict(zip(map(shot, (*BUCKETS, *TENTHS)), 2 * LOOKS, strict=True))


def by_frequency(p, /, **columns):
    """A row per group, from most to fewest training images: name, how many, bucket, columns."""
    buckets = [p.bucket_names[b] for b in p.bucket]
    first = {"group": p.group_names, "n_train": p.train_counts, "bucket": buckets}
    frame = pd.DataFrame(first | columns)
    return frame.sort_values("n_train", ascending=False, kind="stable", ignore_index=True)


def name_groups(axes, table, p):
    """Write groups of by_frequency below the axes, with their images; of many, only some."""
    names = [
        f"{g} ({n})".replace("_", " ") for g, n in zip(table.group, table.n_train, strict=True)
    ]
    most = int(MOST_NAMES * axes.figure.get_figwidth() / DESK)
    some = range(0, len(names), 1 + (len(names) - 1) // most)
    axes.set_xticks(some, [names[i] for i in some], rotation=60, ha="right", fontsize=8)
    axes.tick_params(axis="x", length=2)
    axes.set_xlabel(f"{p.study.groups[0]} (number of its training images)")


def gain_by_group(p, method="kd", over="one_hot"):
    """Gain in points with its test, as in an audit: one row per group, most frequent first.

    Over another method it is paired by seed. One seed has no spread, so nothing is tested."""
    gain = p.group_gain(method, over)
    return by_frequency(
        p,
        n_test=np.bincount(p.group, minlength=len(p.group_names)),
        margin=p.margins.mean(axis=0),
        **{over: p.accuracy(over).observed.mean(axis=0)},
        gain=gain.mean(axis=0),
        spread=gain.std(axis=0, ddof=1) if p.seeds > 1 else np.nan,
        **tested(p, p.members, method, over),
    )


def tested(p, members, method="kd", over="one_hot"):
    """Columns of a table with a row for each of some Groups: the test of the gain there.

    low and high are in points. One seed has no spread, so nothing is tested."""
    if p.seeds < 2:
        return dict.fromkeys(("low", "high", "p", "q"), np.nan) | {"finding": "no clear difference"}
    weights = np.ones(len(p.y))
    if over == "one_hot":
        right, baseline = (p.predicted(m) == p.y for m in (method, over))
        found = change(right, members, weights, baseline)
    else:
        right, other = ((predicted == p.y).astype(int) for predicted in p.paired(method, over))
        found = change(right - other, members, weights)
    interval = {"low": 100 * found.low, "high": 100 * found.high}
    return interval | {"p": found.p, "q": found.q, "finding": called(found.estimate, found.q)}


def counted(table, what):
    """How many rows are harmed and helped, and which if they are few, in words.

    The first column names them. With one seed, nothing is tested."""
    if table.q.isna().all():
        return f"is not tested on {len(table)} {what}, since there is one seed"
    said = []
    for verb, word in (("harms", "harmed"), ("helps", "helped")):
        names = table.iloc[:, 0][table.finding == word]
        named = f" ({', '.join(names)})" if 0 < len(names) <= MOST_NAMED else ""
        said.append(f"{verb} {len(names)}{named}")
    return f"{' and '.join(said)} of {len(table)} {what}"


@captioned
def plot_gain_by_group(p, method="kd", over="one_hot"):
    """Classes run from most to fewest training images. Marks are means over seeds, bars 95 %
    intervals over networks and test images; a star marks a class harmed or helped at a false
    discovery rate of 5 %. A gain over one-hot networks is over their mean."""
    table = gain_by_group(p, method, over)
    base = name_of(over)
    marks = table.assign(estimate=table.gain, bucket=table.bucket.map(shot))
    star = {"xytext": (0, 4), "textcoords": "offset points", "fontsize": 13, "ha": "center"}

    def paint(width):
        how = {"hue": "bucket", "looks": BUCKET_LOOKS.get, "width": width, "height": 3.9}
        figure, (axes,) = drawn(marks, "group", f"gain over {base}, points", **how)
        for i in np.flatnonzero(table.finding != "no clear difference"):
            axes.annotate("*", (i, table.gain[i]), **star)
        name_groups(axes, table, p)
        return figure

    compared = "" if over == "one_hot" else f"compared with {base}, "
    least, most = ends(table, "gain")
    sentence = (
        f"{p.name}: {compared}{name_of(method)} {counted(table, p.study.groups[1])} (false "
        f"discovery rate 5 %); mean gains range from {number(least.gain)} ({least.group}) to "
        f"{number(most.gain)} ({most.group}), extremes that are partly luck."
    )
    return paint, sentence, table


def by_class(p):
    """One row per group, most frequent first.

    Images, the teacher's held-out margin, accuracy of one_hot, gain of each method."""
    columns = {
        "test images": np.bincount(p.group, minlength=len(p.group_names)),
        "teacher's margin": p.margins.mean(axis=0),
        "one-hot, %": p.accuracy("one_hot").observed.mean(axis=0),
        **{f"gain of {name_of(m)}": p.group_gain(m).mean(axis=0) for m in p.methods},
    }
    words = {"group": p.study.groups[0], "n_train": "training images"}
    return by_frequency(p, **columns).rename(columns=words)


def by_class_and_seed(p):
    """The counts, before any mean over seeds: one row per (method, seed, group).

    The teacher is one of the methods."""
    sizes = len(p.group_names), len(p.class_names)
    shared = {p.study.groups[0]: p.group_names, "training images": p.train_counts}
    shared["bucket"] = [p.bucket_names[b] for b in p.bucket]
    frames = []
    for method in (*p.runs, "teacher"):
        for record, x in zip(p.records(method), p.predictions(method), strict=True):
            first = {"method": name_of(method), "seed": record.config.seed}
            frames.append(pd.DataFrame(first | shared | by_group(x, *sizes)))
    words = {"n": "test images", "nll": "log-loss, nats"}
    return pd.concat(frames, ignore_index=True).rename(columns=words)


def every_class(p):
    """by_class as an Appendix, with by_class_and_seed as its file."""
    caption = (
        f"Every {p.study.groups[0]}, {p.name}: means over seeds, gains in points over one-hot."
    )
    words = "-".join(re.findall(r"[A-Za-z0-9_.=]+", p.name))
    file = f"{p.study.name}-{words}-by-class.csv"
    return Appendix(by_class(p), caption, by_class_and_seed(p), file)


@captioned
def plot_margins(p):
    """Means over seeds, most frequent class first. A margin is 1 where the teacher is certain and
    right, and about 0 where it knows nothing; which images it is measured on decides how far
    AdaAlpha softens the teacher."""
    of_train = np.mean([r.facts["teacher_margin_train"] for r in p.runs["kd"]], axis=0)
    table = by_frequency(p, held_out=p.margins.mean(axis=0), on_training=of_train)

    def paint(width):
        figure, axes = axes_of(width, height=3.7)
        axes.plot(table.on_training, "o", color=GREY, label="on its training images")
        axes.plot(table.held_out, "s", color=ORANGE, label="held out: the alpha of AdaAlpha")
        name_groups(axes, table, p)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("teacher's margin")
        legend(figure, axes)
        return figure

    low, high = ends(table, "held_out")
    sentence = (
        f"{p.name}: the teacher's held-out margin ranges from {low.held_out:.2f} ({low.group}) to "
        f"{high.held_out:.2f} ({high.group}); on its own training images the mean is "
        f"{table.on_training.mean():.2f}."
    )
    return paint, sentence, table
