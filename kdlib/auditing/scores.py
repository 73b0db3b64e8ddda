"""What a model says of each example, by its scores or its predicted classes.

N examples, C classes. Whatever cannot be used raises an AuditError.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from kdlib.auditing.inputs import (
    LABEL_NAMES,
    REDUCED,
    as_numbers,
    check_same,
    coded,
    counted,
    names_or_numbers,
    predicted_of,
    score_columns,
)
from kdlib.auditing.read import let_go, listed, quoted

KINDS = ("auto", "logits", "probabilities", "classes")
SUM_ERROR = 0.01  # of the probabilities of a row: half precision, a thousand classes
BELOW_ZERO = 1e-6  # of a probability: what is left of 1 minus the others
# of log-probabilities, so that one certain mistake does not make the log-loss infinite
FLOOR = np.log(1e-12)
CHUNK = 1 << 23  # scores converted at once


@dataclass(frozen=True)
class Outputs:
    """What one model says of each example.

    The log-probabilities are None where only predicted classes are known.
    """

    predicted: np.ndarray  # (N,) int64
    log_p_label: np.ndarray | None = None  # (N,) float64, log-probability of the label
    log_p_predicted: np.ndarray | None = None  # (N,) float64, of the predicted class

    @property
    def scored(self):
        return self.log_p_label is not None


def outputs(found, y, names, kind="auto"):
    """Outputs of a Source: of scores (N, C), predicted classes (N,), or the columns in REDUCED.

    y (N,) int64; names of the classes. kind: what scores are; "auto" calls them probabilities if
    every row is one.
    """
    columns = score_columns(found)
    if not columns:
        return _unscored(found, names)
    if kind == "classes":
        raise found.error("--kind classes needs one column of predicted classes.")
    scores = _matrix(found, columns, names)
    if kind == "auto" and columns[0] in ("logits", "probabilities"):
        kind = f"called {columns[0]}"
    rows = _rows(found, scores, y)
    if _are_probabilities(found, rows, kind):
        with np.errstate(divide="ignore"):  # log of 0
            label, top = np.log(np.maximum([rows.label, rows.most], 0)) - np.log(rows.positive)
    else:
        label, top = rows.label - rows.most - rows.log_sum, -rows.log_sum
    return Outputs(rows.predicted, np.clip(label, FLOOR, 0), np.clip(top, FLOOR, 0))


def check_own_labels(found, y, names, labels):
    """AuditError where predictions come with labels that are not y (N,), of the Source labels."""
    if len(found.columns) == 1:
        return
    as_named = np.array(names, dtype=object)
    for name in LABEL_NAMES:
        if name in found.columns:
            own = names_or_numbers(found, found.columns[name], "label")
            own = coded(found, own, names, "label")
            check_same(found, as_named[own], as_named[y], "label", labels)


def _unscored(found, names):
    predicted = coded(found, predicted_of(found), names, "predicted class")
    if "log_p_label" not in found.columns:
        return Outputs(predicted)
    log_p = []
    for name in REDUCED[1:]:
        values = as_numbers(found, found.one([name], "log-probabilities"), name)
        found.refuse(~(values <= BELOW_ZERO), values, name, "0 or less")  # NaN too
        log_p.append(np.clip(values, FLOOR, 0))
    return Outputs(predicted, *log_p)


def _matrix(found, columns, names):
    """Scores (N, C), those of the classes in the order of their names."""
    if len(columns) == 1:
        scores = found.columns[columns[0]]
    else:
        foreign = [column for column in columns if column not in names]
        if set(columns) == set(names):
            columns = names
        elif counted(columns):
            columns = sorted(columns, key=int)
        elif foreign:
            known = listed(names)
            raise found.error(f"its column {quoted(foreign[0])} is no class; known are {known}.")
        own = [as_numbers(found, found.columns[c], f"column {quoted(c)}") for c in columns]
        scores = np.column_stack(own)
    if scores.dtype.kind not in "iufb" or scores.shape[1:] != (len(names),):
        raise found.error(
            f"scores must be numbers, a column for each of {len(names)} classes, "
            f"not {scores.dtype} of shape {scores.shape}."
        )
    return scores


def _rows(found, scores, y):
    """What is needed of each row of scores (N, C), as arrays (N,).

    Its largest score and where that is; its least; the score of the label y (N,); its sum, and that
    of scores above 0; log of the sum of exp(score - largest). AuditError for NaN, +inf, or a row of
    nothing but -inf.
    """
    parts = []
    size = max(1, CHUNK // scores.shape[1])
    for start in range(0, len(scores), size):
        part = np.asarray(scores[start : start + size], dtype=np.float64)
        predicted = part.argmax(axis=1)
        rows = np.arange(len(part))
        most = part[rows, predicted]  # NaN if there is one
        with np.errstate(invalid="ignore", over="ignore"):  # of masked and of huge logits
            log_sum = np.log(np.exp(part - most[:, None]).sum(axis=1))
            total = part.sum(axis=1)
        positive = np.maximum(part, 0).sum(axis=1)
        label = part[rows, y[start : start + size]]
        parts.append((predicted, most, part.min(axis=1), label, total, positive, log_sum))
        let_go(scores)
    names = ("predicted", "most", "least", "label", "total", "positive", "log_sum")
    arrays = map(np.concatenate, zip(*parts, strict=True))
    found_rows = SimpleNamespace(**dict(zip(names, arrays, strict=True)))
    wrong = ~np.isfinite(found_rows.most)
    column = found_rows.predicted[np.argmax(wrong)]
    found.refuse(wrong, found_rows.most, f"the score in column {column}", "a finite number")
    return found_rows


def _are_probabilities(found, rows, kind):
    """Whether scores are probabilities, by what _rows says; AuditError where it cannot be told."""
    adds_up = np.abs(rows.total - 1) <= SUM_ERROR
    like = adds_up & (rows.least >= -BELOW_ZERO)
    if kind == "called logits" and like.all():
        raise found.error("called logits, but every row is a probability; say which with --kind.")
    if kind in ("logits", "called logits") or like.all():
        return kind not in ("logits", "called logits")
    row = int(np.argmin(like))
    least, most, total = rows.least[row], rows.most[row], rows.total[row]
    values = f"row {row} has values from {least:.4g} to {most:.4g} with the sum {total:.4g}"
    if kind != "auto":
        raise found.error(f"{values}; probabilities lie between 0 and 1 and add up to 1.")
    per_cent = (np.abs(rows.total - 100) <= 100 * SUM_ERROR) & (rows.least >= 0)
    for suspicious, why in (
        (adds_up.all(), "like probabilities below 0"),
        (per_cent.all(), "like per cent, which must be divided by 100"),
        (like.any(), "while other rows are probabilities"),
        (least >= 0 and most <= 1, "like neither logits nor probabilities"),
    ):
        if suspicious:
            or_logits = "if these are logits, say so with --kind logits"
            raise found.error(f"{values}, {why}; {or_logits}.")
    return False
