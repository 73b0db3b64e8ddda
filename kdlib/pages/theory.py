"""When distillation must harm a minority: the numbers and words of notebook 07.

Every number is exact, by the formulas of evidence/ridge.py or by linear algebra, but for the points
that check them by simulation."""

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
GROUPS = ["majority", "minority", "average"]
CHANGES = [f"{group}, change in %" for group in GROUPS]  # columns: the error, compared with one-hot
ON_A_LINE = "kernel ridge, on a line"


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
        KEPT_OUT: (setting.alpha, 0.0),
    }


def on_the_line(setting):
    """(the Line, {method: (the teacher's weights in majority and minority, its matrix)})."""
    line = smoothers.line(setting.share)
    teacher = smoothers.smoother(line.at, line.kernel, setting.teacher_penalty)
    penalties = setting.penalty, setting.teacher_penalty
    found = {}
    for method, weights in _weights(setting, line.reliability(teacher, setting.noise)).items():
        of_each = np.where(line.rare, weights[1], weights[0])
        matrix = smoothers.distilled(line.at, line.kernel, *penalties, of_each)
        found[method] = weights, matrix
    return line, found


def errors(setting):
    """DataFrame: the teacher's weights and the errors of each method in either model, CHANGES."""
    line, fitted = on_the_line(setting)
    on_line, linear = [], []
    for method, (weights, matrix) in fitted.items():
        found = line.errors(matrix, setting.noise)
        on_line.append(_row(ON_A_LINE, setting, method, weights, found))
    weights_of = _weights(setting, ridge.reliability(setting))
    weights_of["best weight by group"] = ridge.best_weights(setting)
    for method, weights in weights_of.items():
        found = ridge.risks(setting, weights)
        linear.append(_row("ridge, in closed form", setting, method, weights, found))
    return pd.concat([_compared(on_line), _compared(linear)], ignore_index=True)


def _row(model, setting, method, weights, found):
    known = {"model": model, "method": method}
    known |= {"weight in majority": float(weights[0]), "weight in minority": float(weights[1])}
    return known | of_groups(setting, found)


def of_groups(setting, found):
    """{name in GROUPS: number}: what majority and minority have (a pair), and their average."""
    values = (*found, ridge.average(setting, found))
    return {group: float(value) for group, value in zip(GROUPS, values, strict=True)}


def _compared(rows):
    """DataFrame of rows with the errors of GROUPS, and CHANGES in per cent of the first row's."""
    table = pd.DataFrame(rows)
    table[CHANGES] = 100 * (table[GROUPS] / table.loc[0, GROUPS] - 1)
    return table


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
    low, high = (ridge.noise_limit(setting, groups) for groups in (BOTH, ONLY_MINORITY))
    must = "there is no noise at which the average falls and the minority is harmed"
    if low < high:
        must = "the average falls and the minority must be harmed whenever the noise lies between "
        must += f"{low:.2f} and {high:.2f}"
    where = "At these settings, in linear ridge regression"
    return Headline([said(errors(setting)), f"{where}, {must}."])


def said(table):
    """The sentence of the first figure, and of the index."""
    changes = table[table.model == ON_A_LINE].set_index("method")[CHANGES]
    _, rare, all_ = changes.loc[DISTILLED]
    _, rare_kept, all_kept = changes.loc[KEPT_OUT]
    return (
        f"Computed exactly, without a network: distillation {moved(all_, AVERAGE)} and "
        f"{moved(rare, MINORITY)}; if only the majority’s targets come from the teacher, it "
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
    names = (ONE_HOT, "distillation, penalty of one-hot", "distillation, penalty of its own")
    rows = []
    for name, best in zip(names, ridge.tuned(setting), strict=True):
        more = {"penalty": best.penalty, "teacher's penalty": best.teacher_penalty}
        more |= {"weight": best.alpha}
        weights = None
        if name == ONE_HOT:
            more |= dict.fromkeys(("teacher's penalty", "weight"), np.nan)
            weights = (0, 0)
        rows.append({"method": name, **more, **of_groups(best, ridge.risks(best, weights))})
    table = _compared(rows)
    _, same, own = table[CHANGES].to_numpy()
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
