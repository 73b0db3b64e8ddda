"""What a model says of each example, by its scores or its predicted classes.

N examples, C classes. Whatever cannot be used raises an AuditError.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdlib.reading.classes import coded, counted
from kdlib.reading.names import REDUCED, SCORES, plain
from kdlib.reading.read import let_go
from kdlib.reading.score_sets import AGREES, SUM_ERROR
from kdlib.reading.sentences import AuditError, ends, listed, quoted
from kdlib.reading.values import as_numbers

KINDS = ("auto", "logits", "probabilities", "classes")
AS_LOGITS = "kind='logits', or --kind logits"
ROUNDED = 0.5  # the same at most of probabilities rounded to a few decimals
BELOW_ZERO = 1e-6  # of a probability: what is left of 1 minus the others
# of log-probabilities, so that one certain mistake does not make the log-loss infinite
FLOOR = np.log(1e-12)
# as AGREES, of two classes: less, as some choose another threshold than a half
AGREES_OF_TWO = 0.5
# rows whose sums are not alike by chance, but of probabilities of several models, or of votes
MANY, MULTIPLE = 20, 1.5
CHUNK = 1 << 23  # scores converted at once


@dataclass(frozen=True)
class Outputs:
    """What one model says of each example.

    The log-probabilities are None where only predicted classes are known.
    """

    predicted: np.ndarray  # (N,) int64
    log_p_label: np.ndarray | None = None  # (N,) float64, log-probability of the label
    log_p_predicted: np.ndarray | None = None  # (N,) float64, of the predicted class
    kind: str = "predicted classes"  # what was read: logits, probabilities or predicted classes

    @property
    def scored(self):
        return self.log_p_label is not None


def outputs(answers, y, names, kind="auto"):
    """Outputs of Answers.

    y (N,) int64; names of the classes. kind: what scores are; "auto" takes what the column is
    called, and what its values can be.
    """
    found = answers.source
    if not answers.scores:
        return _unscored(answers, names)
    if kind == "classes":
        raise found.error("--kind classes needs one column of predicted classes.")
    scores, kind = _matrix(answers, names, kind)
    parts = []
    size = max(1, CHUNK // scores.shape[1])
    for start in range(0, len(scores), size):
        some = slice(start, start + size)
        parts.append(Rows.of(scores[some], y[some]))
        let_go(scores)
    rows = Rows.joined(parts)
    wrong = ~np.isfinite(rows.most)  # NaN, +inf, or a row of nothing but -inf
    column = rows.predicted[np.argmax(wrong)]
    found.refuse(wrong, rows.most, f"the score in column {column}", "a finite number")
    _check_beside(answers, rows.predicted, names)
    kind = kind_of_rows(found, rows, kind, answers.kind, _slack(scores))
    return Outputs(rows.predicted, *rows.log_probabilities(kind), kind)


def check_own_labels(answers, y, names, labels):
    """AuditError where predictions come with labels that are not y (N,), of the Source labels."""
    if answers.own_labels is None:
        return
    found = answers.source
    own = coded(found, answers.read(answers.own_labels, "label"), names, "label")
    if (differ := own != y).any():
        as_named = np.array(names, dtype=object)
        there = quoted(as_named[y[np.argmax(differ)]])
        why = (
            f"{there} as in {labels.name}; the same examples must come in the same order, and a "
            "column of predicted classes must be called predicted"
        )
        found.refuse(differ, as_named[own], "label", why)


def _check_beside(answers, largest, names):
    """AuditError where a column of predicted classes is there, and scores say something else.

    largest (N,): classes with the largest score. A column that calls classes otherwise is let be.
    """
    found, name = answers.source, answers.beside
    if name is None:
        return
    try:
        own = coded(found, answers.read(name), names, "predicted class")
    except AuditError:
        return
    share = (own == largest).mean()
    if share < 1:
        rows = f"{100 * (1 - share):.2g} % of rows"
        found.note(f"{quoted(name)} is not the class with the largest score in {rows}.")
    if share < (AGREES if len(names) > 2 else AGREES_OF_TWO):
        raise found.error(
            f"{quoted(name)} is the class with the largest of {ends(answers.scores)} in "
            f"{100 * share:.0f} % of rows only; give the column that is meant, as in FILE:{name}, "
            "or the columns with scores."
        )


def _unscored(answers, names):
    found = answers.source
    predicted = coded(found, answers.read(answers.predicted), names, "predicted class")
    if found.columns.keys().isdisjoint(REDUCED[1:]):
        return Outputs(predicted)
    log_p = []
    for name in REDUCED[1:]:
        values = found.columns[found.one([name], "log-probabilities")]
        values = as_numbers(found, values, name)
        found.refuse(~(values <= BELOW_ZERO), values, name, "0 or less")  # NaN too
        log_p.append(np.clip(values, FLOOR, 0))
    return Outputs(predicted, *log_p, kind="")


def _matrix(answers, names, kind):
    """(scores (N, C) in the order of the classes, kind of these)."""
    found, columns = answers.source, answers.scores
    if len(columns) > 1:
        foreign = [name for name in answers.classes if name not in names]
        if set(answers.classes) == set(names):
            columns = [columns[answers.classes.index(name)] for name in names]
        elif counted(answers.classes):
            columns = sorted(columns, key=lambda name: int(answers.classes[columns.index(name)]))
        elif foreign:
            known = listed(names)
            raise found.error(f"its column {quoted(foreign[0])} is no class; known are {known}.")
        own = [as_numbers(found, found.columns[c], f"column {quoted(c)}") for c in columns]
        scores = np.column_stack(own)
    elif answers.one_score and len(names) == 2:
        return _of_one_class(found, columns[0], names, kind, answers.kind)
    else:
        scores = found.columns[columns[0]]
    if scores.dtype.kind not in "iufb" or scores.shape[1:] != (len(names),):
        raise found.error(
            f"scores must be numbers, a column for each of {len(names)} classes, "
            f"not {scores.dtype} of shape {scores.shape}."
        )
    return scores, kind


def _of_one_class(found, column, names, kind, called):
    """(scores (N, 2), kind) of one score, of the class its column is called after or the second."""
    score = as_numbers(found, found.columns[column], "the score").astype(np.float64)
    inside = bool(((score >= 0) & (score <= 1)).all())
    if kind == "auto":
        kind = called or ("probabilities" if inside else "logits")
    if kind == "logits" and inside and not called:
        raise found.error(
            "every score lies between 0 and 1, as probabilities do; a sigmoid would be taken twice."
        )
    which = _class_in(column, names)
    place = "second" if which else "first"
    found.note(f"one score, taken as that of class {quoted(names[which])}, the {place}.")
    scores = with_other_class(found, score, kind)
    return scores if which else scores[:, ::-1], kind


def _class_in(column, names):
    """0 or 1: after which of two classes a column is called; 1 where that cannot be told.

    One that is called 0 is the only one of a table without names."""
    if column == "0":
        return 1
    for key in (column, column.partition("_")[2]):  # -1 is not 1
        if key in names:
            return names.index(key)
    short = plain(column)
    words = ("", *SCORES)
    after = [any(short == plain(f"{word}{name}") for word in words) for name in names]
    return int(after != [True, False])


def with_other_class(found, score, kind):
    """Scores (N, 2) of two classes, from those of the second (N,) float64."""
    if kind == "logits":
        return np.column_stack([np.zeros(len(score)), score])
    allowed = "from 0 to 1, as probabilities are"
    found.refuse(~((score >= 0) & (score <= 1)), score, "the score", allowed)
    return np.column_stack([1 - score, score])


class Rows(NamedTuple):
    """What is needed of each row of scores: arrays (N,)."""

    predicted: np.ndarray  # where the largest score is
    most: np.ndarray
    least: np.ndarray
    label: np.ndarray  # score of the label
    total: np.ndarray
    positive: np.ndarray  # sum of the scores above 0
    log_sum: np.ndarray  # log of the sum of exp(score - largest)

    @classmethod
    def of(cls, scores, y):
        """Of scores (B, C) and labels y (B,); `most` is not finite where a score is none."""
        scores = np.asarray(scores, dtype=np.float64)
        predicted = scores.argmax(axis=1)
        rows = np.arange(len(scores))
        most = scores[rows, predicted]  # NaN if there is one
        with np.errstate(invalid="ignore", over="ignore"):  # of masked and of huge logits
            log_sum = np.log(np.exp(scores - most[:, None]).sum(axis=1))
            total = scores.sum(axis=1)
        positive = np.maximum(scores, 0).sum(axis=1)
        return cls(predicted, most, scores.min(axis=1), scores[rows, y], total, positive, log_sum)

    @classmethod
    def joined(cls, parts):
        """Of parts, one after the other."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def log_probabilities(self, kind):
        """[log-probability of the label (N,), of the predicted class (N,)]."""
        if kind == "probabilities":
            with np.errstate(divide="ignore"):  # log of 0
                both = np.log(np.maximum([self.label, self.most], 0)) - np.log(self.positive)
        else:
            both = self.label - self.most - self.log_sum, -self.log_sum
        return [np.clip(values, FLOOR, 0) for values in both]

    def like_probabilities(self, slack=SUM_ERROR):
        """(N,) bool: whether a row may be one of probabilities, whose sum is off by `slack`."""
        inside = (self.least >= -BELOW_ZERO) & (self.most <= 1 + SUM_ERROR)
        return inside & (np.abs(self.total - 1) <= slack)


def kind_of_rows(found, rows, kind, called="", slack=SUM_ERROR):
    """logits or probabilities, by the Rows of a Source; AuditError where it cannot be told.

    kind: what the user says, or auto. called: what the column is called.
    """
    like = rows.like_probabilities(slack)
    multiple = (rows.least >= 0).all() and (np.abs(rows.total - 100) <= 100 * slack).all()
    if (rows.least >= 0).all() and len(like) >= MANY and rows.total.min() > MULTIPLE:
        multiple |= np.ptp(rows.total) <= SUM_ERROR * rows.total.max()
    asked = called if kind == "auto" else kind
    if asked != "logits" and (like.all() or multiple):
        if np.abs(rows.total - 1).max() > SUM_ERROR:
            sums = f"{rows.total.min():.3g} to {rows.total.max():.3g}"
            found.note(f"each row was divided by its sum; the sums run from {sums}.")
        return "probabilities"
    if asked == "logits":
        if like.all() and not called == kind == "logits":
            settled = "a softmax would be taken twice"
            if kind == "auto":
                settled = "--kind probabilities takes them as they are"
            raise found.error(
                f"{'called' if kind == 'auto' else 'said to be'} logits, but every row is a "
                f"probability already; {settled}."
            )
        return "logits"
    row = int(np.argmin(like))
    least, most, total = rows.least[row], rows.most[row], rows.total[row]
    values = f"row {row} has values from {least:.4g} to {most:.4g} with the sum {total:.4g}"
    if asked == "probabilities":
        raise found.error(f"{values}; probabilities lie between 0 and 1 and add up to 1.")
    why = None
    if (np.abs(rows.total - 1) <= SUM_ERROR).all():
        why = "as probabilities have, but some are below 0"
    elif rows.least.min() >= -BELOW_ZERO:  # a number below 0 is a logit
        if like.mean() > 0.5:
            why = "while other rows are probabilities"
        elif rows.most.max() <= 1:
            why = "like neither logits nor probabilities"
    if why:
        raise found.error(f"{values}, {why}; if these are logits, say so: {AS_LOGITS}.")
    return "logits"


def _slack(scores):
    """By how much the sum of a row of probabilities may differ from 1, float.

    More where they are rounded: to d decimals each is off by half of 10^-d at most.
    """
    some = np.asarray(scores[:1000], dtype=np.float64)
    if not ((some >= 0) & (some <= 100)).all():
        return SUM_ERROR
    for decimals in (1, 2, 3):
        scaled = some * 10**decimals
        if np.abs(scaled - np.round(scaled)).max(initial=0) < 1e-6 * 10**decimals:
            return max(SUM_ERROR, min(ROUNDED, scores.shape[1] * 0.5 * 10**-decimals))
    return SUM_ERROR
