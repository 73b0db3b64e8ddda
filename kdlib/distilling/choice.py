"""Which student to ship: chosen on validation images by one rule, told with what test images say.

S training runs of a method, G groups. Accuracies are in per cent.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlib.auditing.headline import one_each, or_none, within_text
from kdlib.config import count_of
from kdlib.distilling.recipe import own
from kdlib.evidence.counts import by_group
from kdlib.evidence.words import all_of, labels_read, number, told
from kdlib.reading.sentences import listed

BASELINE = "one_hot"
NAMED = 3  # harmed groups in a sentence
Z = 1.96  # standard errors in half of a 95 % interval
DIGITS = 9  # of a percentage; what differs by less was summed in another order
MARGINS = ("margin_source", "margin_reading")  # of the recipe: where margins come from
RULE = (
    "The rule: consider all methods, including the baseline, whose accuracy on validation images, "
    "averaged over the groups, is not below the baseline's. Ship the one that is most accurate in "
    "its own worst tenth of the groups or, if several tie there, in its own worst half. Test "
    "images play no part in the choice."
)


@dataclass(frozen=True)
class Choice:
    """Which student to ship."""

    method: str  # BASELINE, or one that distils
    seed: int  # of the training run that is most accurate on average on validation images
    file: str  # of its weights, below the folder of the run
    said: tuple  # sentences: which, and what test images say of it; which file; how close it was
    rule: str
    labels: str  # which labels are read by which step
    table: pd.DataFrame  # see scores


def stem(method, seed):
    """What the files of a training run begin with."""
    return f"{method}-s{seed}"


def by_method(students):
    """{method: [results.Trained]} in their order."""
    methods = {}
    for one in students:
        methods.setdefault(one.method, []).append(one)
    return methods


def on_val(trained, listing):
    """(G,) accuracy on validation images; NaN of a group without one."""
    table = by_group(trained.val, len(listing.group_names), len(listing.class_names))
    return 100 * table["correct"] / np.where(table["n"], table["n"], np.nan)


def scores(methods, listing):
    """DataFrame, one row per method: what the choice is made by.

    Of each group the mean over training runs; groups without a validation image do not count.
    average: over groups. worst groups: the mean over the tenth of the groups, one at least, in
    which this method is least accurate; images: how many of these there are for validation.
    worst half: the same of half of the groups.
    allowed: whether the average is not below the baseline's.
    """
    rows = []
    for method, runs in methods.items():
        accuracy = np.mean([on_val(one, listing) for one in runs], axis=0)
        filled = np.flatnonzero(~np.isnan(accuracy))
        k = max(1, round(len(filled) / 10))  # as in an audit
        order = filled[np.argsort(accuracy[filled], kind="stable")]
        images = np.isin(listing.val.group, order[:k]).sum()
        half = accuracy[order[: -(-len(filled) // 2)]].mean()
        rows.append((method, accuracy[filled].mean(), half, accuracy[order[:k]].mean(), images))
    columns = ["method", "average", "worst half", "worst groups", "images"]
    table = pd.DataFrame(rows, columns=columns).round(DIGITS)
    least = table.average[table.method == BASELINE].item()
    return table.assign(allowed=np.where(table.average >= least, "yes", "no"))


def in_order(table):
    """The rows of the DataFrame that scores makes that are allowed, that of the method to ship
    first: its worst groups are the most accurate; where these are equal, its worst half is; where
    that is, too, its average is the highest."""
    allowed = table[table.allowed == "yes"]
    by = ["worst groups", "worst half", "average"]
    return allowed.sort_values(by, ascending=False, kind="stable")


def choose(students, listing, audits, about=None):
    """The Choice among students, [results.Trained], of which audits {method: Audit} are known.

    about: the recipe; of it margin_source and margin_reading, see Config, say who reads labels.
    """
    methods = by_method(students)
    table = scores(methods, listing)
    method = in_order(table).method.iloc[0]
    runs = methods[method]
    average = [np.nanmean(on_val(one, listing)).round(DIGITS) for one in runs]
    ship = runs[int(np.argmax(average))]
    file = f"students/{stem(method, ship.seed)}.safetensors"
    of_runs = f", the one of {len(runs)} training runs of {method} that is most accurate on average"
    of_runs += " on validation images"
    said = (
        *_hopeless(table, method),
        f"{_ship(method, table, len(listing.val))} {_on_test(method, audits)}",
        *_untested(listing),
        f"The file to ship is {file}{of_runs if len(runs) > 1 else ''}.",
        *_how_close(table),
    )
    labels = labels_told(methods, about)
    return Choice(method, ship.seed, file, said, RULE, labels, table)


# ---------------------------------------------------------------- in words


def _ship(method, table, images):
    """The method, and why."""
    row = table.set_index("method").loc[method]
    on = f"on {count_of(images, 'held-out validation image')}"
    share = number(row["worst groups"], "%", signed=False)
    alike = (table["worst groups"][table.allowed == "yes"] == row["worst groups"]).sum() > 1
    among = "among all methods that are not below the baseline on average"
    if method != BASELINE and alike:
        return (
            f"Ship {method}: {on}, {among}, none is more accurate in its worst groups ({share}), "
            "and none that ties there is better in its worst half of the groups."
        )
    if method != BASELINE:
        return f"Ship {method}: {on} it is the most accurate in its worst groups ({share}) {among}."
    if (table.allowed == "yes").sum() == 1:
        return (
            f"Ship the baseline: {on} no distilled student is as accurate on average as training "
            "without a teacher."
        )
    return (
        f"Ship the baseline: {on} no student that is as accurate on average is more accurate in "
        f"its worst groups ({share})."
    )


def _hopeless(table, method):
    """A sentence where even the method to ship is always wrong in its worst groups, in a tuple."""
    if table["worst groups"][table.method == method].item() > 0:
        return ()
    return (
        "No student here is fit to ship without a look at its worst groups: on validation images, "
        "each method that is as accurate on average as the baseline is always wrong in them. Train "
        "longer, or with another recipe or teacher.",
    )


def _how_close(table):
    """A sentence where luck of the validation images may have chosen, in a tuple."""
    two = in_order(table).head(2)
    if len(two) < 2:
        return ()
    p = two["worst groups"].to_numpy() / 100
    luck = 100 * Z * np.sqrt((p * (1 - p) / two.images).sum())  # every image counted alike
    if p[0] - p[1] >= luck / 100:
        return ()
    other = two.method.iloc[1]
    name = "the baseline" if other == BASELINE else other
    share = number(100 * p[1], "%", signed=False)
    on = count_of(int(two.images.min()), "validation image")
    return (
        f"It was close: {name} is next with {share}, and on the {on} of a method's worst groups "
        f"a difference of up to {luck:.1f} points may be luck.",
    )


def _on_test(method, audits):
    """What test images say of the method that was chosen."""
    if method == BASELINE:
        accuracy = next(iter(audits.values())).metrics["baseline_average"]
        share = told(accuracy, "%").replace("+", "")
        return f"On test images it is right in {share} on average over the groups."
    a = audits[method]
    gain = a.metrics["average_gain"]
    said = f"On test images its gain is {told(gain)} on average over the groups, and it {harms(a)}."
    unharmed = [name for name, of in audits.items() if not of.metrics["groups_harmed"]]
    if a.metrics["groups_harmed"] and unharmed:
        said += f" No such group can be seen with {all_of(unharmed, 'or')}."
    if gain.high < 0:
        said += (
            " On test images it is clearly less accurate than the baseline, which the validation "
            "images did not show: with more validation images, choose again."
        )
    return said


def _untested(listing):
    """A sentence on groups that the audit cannot see, in a tuple."""
    held = np.bincount(listing.test.group, minlength=len(listing.group_names))
    without = [listing.group_names[k] for k in np.flatnonzero(held == 0)]
    if not without:
        return ()
    return (f"There are no test images of {listed(without)}, so the effect there is unknown.",)


def harms(a, most=NAMED):
    """How many groups a student harms, or is worse in (see words_of), and the first by name."""
    lost = a.groups[a.groups.finding == "harmed"].sort_values("gain", kind="stable")
    verb = "is worse than the baseline in" if one_each(a) else "harms"
    said = f"{verb} {or_none(len(lost))} of {count_of(len(a.groups), 'group')}"
    if not len(lost):
        return f"{said} as far as can be seen"
    named = [f"{within_text(r.group)} ({number(r.gain)})" for r in lost.head(most).itertuples()]
    if len(lost) > most:
        named.append(f"{len(lost) - most:,} more")
    return f"{said}: {all_of(named)}"


def labels_told(methods, about=None):
    """Which labels are read by which step, in a sentence."""
    some = [method for method in methods if reads_val(method, about)]
    also = "those of the validation images are used only to choose which student to ship"
    if some:
        verb = "reads" if len(some) == 1 else "read"
        also = (
            f"{all_of(some)} also {verb} those of the validation images, for the weight of the "
            "teacher in each group, and so does the choice of which to ship"
        )
    return (
        f"Labels: every student learns from those of the training images; {also}; those of the "
        "test images are used only by the audit."
    )


def reads_val(method, about=None):
    """Whether a method, or arm, reads labels of validation images while it trains."""
    margins = {name: of for name, of in (about or {}).items() if name in MARGINS}
    return labels_read(own(method, teacher="any", **margins)) != ""
