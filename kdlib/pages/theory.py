"""When distillation must harm a minority: the numbers and words of notebook 07.

Every number is exact, by the formulas of evidence/ridge.py or by linear algebra."""

import functools
from dataclasses import replace

import numpy as np
import pandas as pd

from kdlib.config import KdlibError
from kdlib.evidence import ridge, smoothers
from kdlib.evidence.ridge import BOTH, ONLY_MINORITY, Setting
from kdlib.evidence.words import number
from kdlib.pages.shown import Headline, Table
from kdlib.study.parameters import check_names

RANGES = {  # of the parameters of the notebook
    "share": (0.02, 0.5),
    "noise": (0.01, 10.0),
    "penalty": (1e-5, 1.0),
    "teacher_penalty": (1e-5, 10.0),
    "alpha": (0.01, 1.0),
}
ONE_HOT, DISTILLED, ADAPTED, KEPT_OUT = "one-hot", "distillation", "AdaAlpha", "majority only"
UNIFORM = "AdaAlpha's mean weight in both"
GROUPS = ["majority", "minority", "average"]
CHANGES = [f"{group}, change in %" for group in GROUPS]  # columns: the error, compared with one-hot
ON_A_LINE, LINEAR = "kernel ridge, on a line", "ridge, in closed form"


def check_parameters(namespace):
    """The Setting that a notebook's parameters ask for: check_parameters(globals()).

    KdlibError for a name that only papermill knows, and for what is no number in its range."""
    check_names(namespace, RANGES)
    for name, (low, high) in RANGES.items():
        value = namespace[name]
        if type(value) not in (int, float) or not low <= value <= high:
            raise KdlibError(
                f"notebook parameter {name}={value!r}: must be a number from {low:g} to {high:g}."
            )
    return Setting(**{name: float(namespace[name]) for name in RANGES})


# ---------------------------------------------------------------- numbers


def _weights(setting, adapted):
    """{method: the teacher's weights (majority's, minority's)}; adapted: those of AdaAlpha."""
    return {
        ONE_HOT: (0.0, 0.0),
        DISTILLED: (setting.alpha, setting.alpha),
        ADAPTED: adapted,
        UNIFORM: 2 * (ridge.average(setting, adapted),),
        KEPT_OUT: (setting.alpha, 0.0),
    }


def on_the_line(setting):
    """(the Line, the teacher's matrix, {method: (the teacher's weights by group, its matrix)}).

    Matrices give predictions at the test inputs, see smoothers.smoother."""
    line = smoothers.line(setting.share)
    teacher = smoothers.smoother(line.at, line.kernel, setting.teacher_penalty)
    found = {}
    for method, weights in _weights(setting, line.reliability(teacher, setting.noise)).items():
        found[method] = weights, _student(line, setting, weights)
    return line, teacher, found


def _student(line, setting, weights):
    of_each = np.where(line.rare, weights[1], weights[0])
    penalties = setting.penalty, setting.teacher_penalty
    return smoothers.distilled(line.at, line.kernel, *penalties, of_each)


def errors(setting):
    """DataFrame: the teacher's weights, CHANGES, and the errors of each method in either model."""
    line, teacher, fitted = on_the_line(setting)
    found = {
        (ON_A_LINE, method): (weights, line.errors(matrix, setting.noise))
        for method, (weights, matrix) in fitted.items()
    }
    nothing = (np.nan, np.nan)
    found[ON_A_LINE, "the teacher itself"] = nothing, line.errors(teacher, setting.noise)
    weights_of = _weights(setting, ridge.reliability(setting))
    weights_of["best weight by group"] = ridge.best_weights(setting)
    for method, weights in weights_of.items():
        found[LINEAR, method] = weights, ridge.risks(setting, weights)
    found[LINEAR, "the teacher itself"] = nothing, ridge.teacher_risks(setting)
    rows = []
    for (model, method), (weights, of_two) in found.items():
        row = {"model": model, "method": method, "weight in majority": float(weights[0])}
        row |= {"weight in minority": float(weights[1]), **of_groups(setting, of_two)}
        rows.append(row)
    return _compared(rows, ONE_HOT)


def of_groups(setting, found):
    """{name in GROUPS: number}: what majority and minority have (a pair), and their average."""
    values = (*found, ridge.average(setting, found))
    return {group: float(value) for group, value in zip(GROUPS, values, strict=True)}


def _compared(rows, base):
    """DataFrame of rows: CHANGES in per cent from the method `base` of their model, then errors."""
    table = pd.DataFrame(rows)
    before = table[table.method == base].set_index("model").loc[table.model, GROUPS]
    table[CHANGES] = 100 * (table[GROUPS] / before.to_numpy() - 1)
    return table[[*table.columns.drop(GROUPS), *GROUPS]]


AS_GIVEN, TUNED = "one-hot, of this page", "one-hot, its penalty tuned"
SAME, OWN = "distillation, that penalty", "distillation, all tuned"


@functools.cache  # for the words above all figures and for the table at the end
def tunings(setting):
    """DataFrame: errors with the penalties of a setting, and with those best for the average.

    CHANGES are from TUNED, one-hot with the best penalty: SAME has its penalty and the best teacher
    and weight, OWN the best of all three."""
    line = smoothers.line(setting.share)
    rows = []

    def of_line(at):
        return line.errors(_student(line, at, (at.alpha, at.alpha)), at.noise)

    for model, of_two, average in (
        (ON_A_LINE, of_line, line.average),
        (LINEAR, ridge.risks, ridge.average_risk),
    ):
        settings = replace(setting, alpha=0.0), setting, *ridge.tuned(setting, average)
        names = AS_GIVEN, "distillation, of this page", TUNED, SAME, OWN
        for name, at in zip(names, settings, strict=True):
            row = {"model": model, "method": name, "penalty": at.penalty}
            taught = (at.teacher_penalty, at.alpha) if at.alpha else (np.nan, np.nan)
            row |= dict(zip(("teacher's penalty", "weight"), taught, strict=True))
            rows.append(row | of_groups(at, of_two(at)))
    return _compared(rows, TUNED)


# ---------------------------------------------------------------- words


def moved(percent, what):
    """A change in words: lowers the average squared error by 26 %."""
    if not round(abs(percent), 1):
        return f"leaves {what} as it is"
    verb = "raises" if percent > 0 else "lowers"
    digits = 0 if abs(percent) >= 10 else 1
    return f"{verb} {what} by {number(abs(percent), '%', digits, signed=False)}"


AVERAGE, MINORITY = "the average squared error", "the minority’s"


def headline(setting):
    """What the page says first: the effect on the line, for which noise it occurs, and tuning."""
    low, high = (ridge.noise_limit(setting, groups) for groups in (BOTH, ONLY_MINORITY))
    where = "there is no noise at which the average falls and the minority is harmed"
    if low < high:
        where = (
            "the average error falls and the minority’s rises if and only if the noise (its "
            f"standard deviation; the signal’s is 1) lies between {low:.2f} and {high:.2f}"
        )
    return Headline(
        [
            said(errors(setting)),
            f"In linear ridge regression with the same parameters, {where}.",
            said_of_tuning(setting),
        ]
    )


def said(table):
    """The sentence of the first figure, and of the index."""
    changes = table[table.model == ON_A_LINE].set_index("method")[CHANGES]
    _, rare, all_ = changes.loc[DISTILLED]
    _, rare_kept, all_kept = changes.loc[KEPT_OUT]
    return (
        "Computed exactly, without a network, in an example built to show the effect: distillation "
        f"{moved(all_, AVERAGE)} and {moved(rare, MINORITY)}; if only the majority’s targets come "
        f"from the teacher, that {moved(all_kept, AVERAGE)} and {moved(rare_kept, MINORITY)}."
    )


def said_of_tuning(setting):
    """A sentence: what a better penalty does to one-hot on the line, and a teacher beside it."""
    table = tunings(setting).set_index(["model", "method"]).loc[ON_A_LINE]
    before, after = (table.loc[name, GROUPS] for name in (AS_GIVEN, TUNED))
    _, rare, all_ = 100 * (after / before - 1)
    _, rare_own, all_own = table.loc[OWN, CHANGES]
    return (
        "In the first example, the penalty that is best for the average, without a teacher, "
        f"{moved(all_, AVERAGE)} and {moved(rare, MINORITY)}; compared with that, distillation "
        f"with everything tuned {moved(all_own, AVERAGE)} and {moved(rare_own, MINORITY)}."
    )


# ---------------------------------------------------------------- tables


def every_error(setting):
    """Table: the errors of every method, in both models."""
    caption = (
        "Expected squared error of predictions, exact, by method, and its change from one-hot in "
        "the same model. Weights are those of the teacher in the student's targets."
    )
    return Table(errors(setting), caption)


def tuned(setting):
    """Table: what is left of the effect when penalties are those best for the average."""
    table = tunings(setting)
    _, rare, all_ = table[CHANGES][(table.model == LINEAR) & (table.method == SAME)].iloc[0]
    _, rare_own, all_own = table[CHANGES][(table.model == LINEAR) & (table.method == OWN)].iloc[0]
    tried = " to ".join(np.format_float_positional(ridge.PENALTIES[i], trim="-") for i in (0, -1))
    caption = (
        f"Penalties (of those from {tried}) and weights of the lowest average error, wherever they "
        f"are free, and changes from one-hot with its best penalty. In the linear model, "
        f"distillation with that penalty {moved(all_, AVERAGE)} and {moved(rare, MINORITY)}; with "
        f"a penalty of its own, it {moved(all_own, AVERAGE)} and {moved(rare_own, MINORITY)}."
    )
    return Table(table, caption)


def inputs(setting):
    """Table: the inputs of either group in the linear model."""
    rows = []
    for name, (group, share) in zip(GROUPS, setting.groups, strict=False):
        kinds, number_of = np.unique(group.variances, return_counts=True)
        for variance, count in zip(kinds[::-1], number_of[::-1], strict=True):
            explained = group.signals[group.variances == variance].sum()
            row = {"group": name, "share of examples": float(share), "inputs": int(count)}
            rows.append(row | {"variance of each": variance, "explain together": explained})
    caption = (
        f"The inputs of the linear model, of {ridge.EXAMPLES} training examples; the last column "
        "is the variance of the target that they explain."
    )
    return Table(pd.DataFrame(rows), caption)
