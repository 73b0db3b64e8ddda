"""When distillation must harm a minority: the numbers and words of notebook 07.

Every number is exact, by the formulas of evidence/ridge.py or by linear algebra, but for the points
that check them by simulation."""

from dataclasses import fields

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
GROUPS = ("majority", "minority", "average")


def check_parameters(namespace):
    """The Setting that a notebook's parameters ask for: check_parameters(globals()).

    KdlibError for a name that only papermill knows, and for what is no number in its range."""
    names = [field.name for field in fields(Setting)]
    check_names(namespace, names)
    for name in names:
        value, (low, high) = namespace[name], RANGES[name]
        if type(value) not in (int, float) or not low <= value <= high:
            raise KdlibError(
                f"notebook parameter {name}={value!r}: must be a number from {low:g} to {high:g}."
            )
    return Setting(**{name: float(namespace[name]) for name in names})


# ---------------------------------------------------------------- numbers


def on_the_line(setting):
    """(the Line, {method: (the teacher's weights in majority and minority, its matrix)})."""
    line = smoothers.line(setting.share)
    teacher = smoothers.smoother(line.at, line.kernel, setting.teacher_penalty)
    weights = {
        ONE_HOT: (0.0, 0.0),
        DISTILLED: (setting.alpha, setting.alpha),
        ADAPTED: line.reliability(teacher, setting.noise),
        KEPT_OUT: (setting.alpha, 0.0),
    }
    penalties = setting.penalty, setting.teacher_penalty
    found = {}
    for method, (majority, minority) in weights.items():
        of_each = np.where(line.rare, minority, majority)
        matrix = smoothers.distilled(line.at, line.kernel, *penalties, of_each)
        found[method] = (majority, minority), matrix
    return line, found


def errors(setting):
    """Table: the teacher's weights and the squared errors of each method, in either model; the
    columns `change` are per cent of one-hot's."""
    line, fitted = on_the_line(setting)
    rows = []
    for method, (weights, matrix) in fitted.items():
        found = line.errors(matrix, setting.noise)
        rows.append(_row("kernel ridge, on a line", setting, method, weights, found))
    linear = {
        ONE_HOT: (0.0, 0.0),
        DISTILLED: (setting.alpha, setting.alpha),
        ADAPTED: ridge.reliability(setting),
        KEPT_OUT: (setting.alpha, 0.0),
        "best weight by group": ridge.best_weights(setting),
    }
    for method, weights in linear.items():
        found = ridge.risks(setting, weights)
        rows.append(_row("ridge, in closed form", setting, method, weights, found))
    table = pd.DataFrame(rows)
    for group in GROUPS:
        base = table.groupby("model")[group].transform("first")
        table[f"{group}, change in %"] = 100 * (table[group] / base - 1)
    return table


def _row(model, setting, method, weights, found):
    known = {"model": model, "method": method}
    known |= {"weight in majority": float(weights[0]), "weight in minority": float(weights[1])}
    values = (*found, ridge.average(setting, found))
    return known | {g: float(v) for g, v in zip(GROUPS, values, strict=True)}


def changes(table, model, method):
    """(3,) changes in per cent of one-hot's error: of the majority, the minority, the average."""
    (row,) = table[(table.model == model) & (table.method == method)].to_dict("records")
    return [row[f"{group}, change in %"] for group in GROUPS]


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
    """What the page says first: the effect on the line, and for which noise it must occur."""
    table = errors(setting)
    low, high = (ridge.noise_limit(setting, groups) for groups in (BOTH, ONLY_MINORITY))
    must = "in linear ridge regression, there is no noise at which the average falls and the "
    must += "minority is harmed"
    if low < high:
        must = "in linear ridge regression, the average falls and the minority must be harmed "
        must += f"whenever the noise lies between {low:.2f} and {high:.2f}"
    return Headline([said(table), f"At these settings, {must}."])


def said(table):
    """The sentence of the first figure, and of the index."""
    _, rare, all_ = changes(table, "kernel ridge, on a line", DISTILLED)
    _, rare_kept, all_kept = changes(table, "kernel ridge, on a line", KEPT_OUT)
    return (
        f"Computed exactly, without a network: distillation {moved(all_, AVERAGE)} and "
        f"{moved(rare, MINORITY)}; kept out of the minority, the teacher "
        f"{moved(all_kept, AVERAGE)} and {moved(rare_kept, MINORITY)}."
    )


# ---------------------------------------------------------------- tables


def every_error(setting):
    """Table: the errors of every method, in both models."""
    caption = (
        "Expected squared error of predictions, exact, by method; the last columns compare with "
        "one-hot in the same model. Weights are those of the teacher in the student's targets."
    )
    return Table(errors(setting), caption)


def tuned(setting):
    """Table: what is left of the effect when penalties are those best for the average."""
    names = ("one-hot", "distillation, penalty of one-hot", "distillation, penalty of its own")
    rows = []
    for name, best in zip(names, ridge.tuned(setting), strict=True):
        found = ridge.risks(best, (0, 0) if name == "one-hot" else None)
        values = dict(zip(GROUPS, (*found, ridge.average(best, found)), strict=True))
        more = {"penalty": best.penalty, "teacher's penalty": best.teacher_penalty}
        more |= {"weight": best.alpha}
        if name == "one-hot":
            more |= dict.fromkeys(("teacher's penalty", "weight"), np.nan)
        rows.append({"method": name, **more, **values})
    table = pd.DataFrame(rows)
    for group in GROUPS:
        table[f"{group}, change in %"] = 100 * (table[group] / table[group][0] - 1)
    _, same, own = table.to_dict("records")
    same, own = ([row[f"{group}, change in %"] for group in GROUPS] for row in (same, own))
    caption = (
        f"Linear model: of {len(ridge.PENALTIES)} penalties from {ridge.PENALTIES[0]:g} to "
        f"{ridge.PENALTIES[-1]:g}, and of all weights, those of the lowest average error, wherever "
        "they are free. With the penalty that is best for one-hot, distillation "
        f"{moved(same[2], AVERAGE)} and {moved(same[1], MINORITY)}; with a penalty of its own, it "
        f"{moved(own[2], AVERAGE)} and {moved(own[1], MINORITY)}."
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
        f"The inputs of the linear model, of {ridge.EXAMPLES} training examples; what they explain "
        "is a variance of the target."
    )
    return Table(pd.DataFrame(rows), caption)
