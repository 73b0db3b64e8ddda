"""Which columns of an input are labels, scores or predicted classes, by their names and values.

N examples, C classes. What could mean two things raises an AuditError that names the columns.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kdlib.reading.names import (
    BESIDE,
    LABELS,
    PREDICTED,
    PROBABILITIES,
    REDUCED,
    SCORES,
    called,
    kind_of,
    plain,
)
from kdlib.reading.read import Source
from kdlib.reading.score_sets import score_set
from kdlib.reading.sentences import ends, listed
from kdlib.reading.values import fractions, is_single, names_or_numbers


@dataclass(frozen=True)
class Answers:
    """What one model says, by the meaning of its columns; one of the first three is there."""

    source: Source  # its columns are those that mean something
    scores: tuple = ()  # names of the columns with scores: one with all, or one a class
    classes: tuple = ()  # what these are called, if they are called like classes
    keys: tuple = ()  # what is behind the stem that the names of the columns share, if they do
    kind: str = ""  # logits or probabilities, if the scores are called so
    predicted: str | None = None  # name of the column of predicted classes
    own_labels: str | None = None  # name of the column with labels
    beside: str | None = None  # name of a column of predicted classes, where there are scores

    @property
    def one_score(self):
        """Whether the scores are one number a row: that of the second of two classes."""
        return len(self.scores) == 1 and is_single(self.source.columns[self.scores[0]])

    def read(self, column, what="predicted class"):
        """(N,) classes in a column as they stand there: whole numbers or names."""
        return names_or_numbers(self.source, self.source.columns[column], what)


# ---------------------------------------------------------------- labels


def labels_of(found):
    """(N,) labels as read, whole numbers or names, of one column or of one-hot columns."""
    columns = found.columns
    named = len(columns) > 1 and not any(plain(name) in LABELS for name in columns)
    if named and all(np.ndim(values) == 1 for values in columns.values()):
        matrix = np.column_stack([*columns.values()])
        if len(matrix) and one_hot(matrix).all():
            return np.array([*columns], dtype=object)[matrix.argmax(axis=1)]
    single = [name for name, of in columns.items() if is_single(of) and not fractions(of)]
    several = [name for name in single if plain(name) in LABELS]
    # a class and its number are one; a noisy label and a true one are two
    codes = [pd.factorize(np.ravel(columns[name]))[0] for name in several]
    if any((other != codes[0]).any() for other in codes[1:]):
        raise found.error(f"holds {listed(several)}, which differ; choose one, as in FILE:COLUMN.")
    values = columns[found.one(LABELS, "the labels")]
    matrix = np.ndim(values) == 2 and np.shape(values)[1] > 1
    if matrix and len(values) and one_hot(values).all():
        found.note("one-hot labels.")
        return values.argmax(axis=1)
    y = names_or_numbers(found, values, "label")
    if not len(y):
        raise found.error("holds no label.")
    return y


def one_hot(matrix):
    """(N,) bool: which rows of a matrix are one 1 among zeros."""
    if matrix.dtype.kind not in "iufb":
        return np.zeros(len(matrix), dtype=bool)
    return ((matrix == 1).sum(axis=1) == 1) & ((matrix != 0).sum(axis=1) == 1)


# ---------------------------------------------------------------- what a model says


def answers_of(found, y, given=()):
    """The Answers of a Source.

    y: labels (N,) as read, of which rows may come in another order. given: names of the classes.
    """
    columns = found.columns
    if not columns.keys().isdisjoint(REDUCED[1:]):
        own = called(columns, LABELS)
        return Answers(found, predicted="predicted", own_labels=own)
    matrices = [name for name, values in columns.items() if not is_single(values)]
    whole = [name for name, of in columns.items() if not (is_single(of) and fractions(of))]
    own = called(whole, LABELS) if len(columns) > 1 else None
    if own and {"true", "false"} <= set(map(plain, columns)):  # scores of two classes
        own = None
    rest = [name for name in columns if name != own]
    if matrices:
        name = called(matrices, SCORES)
        if name is None and (len(matrices) > 1 or called(rest, PREDICTED)):
            raise found.error(
                f"holds {listed(columns)}; name the column with the scores 'logits' or "
                "'probabilities'."
            )
        name = matrices[0] if name is None else name
        if (shape := np.shape(columns[name])) != shape[:2]:
            raise found.error(
                f"has scores of shape {shape}; a matrix with a row for each example is needed."
            )
        return _kept(Answers(found, (name,), own_labels=own, kind=kind_of(name)))
    indices = called(rest, ("index",))
    if indices and len(rest) == 2 and called(rest, PROBABILITIES):  # as timm writes it
        return _kept(Answers(found, predicted=indices, own_labels=own))
    chosen = score_set(found, rest, y, given)
    if chosen:
        beside = called([name for name in rest if name not in chosen[0]], PREDICTED)
        return _kept(Answers(found, *chosen, own_labels=own, beside=beside))
    rest = [name for name in rest if plain(name) not in BESIDE]
    alone = len(rest) == 1 and called(rest, PREDICTED) is None
    confidence = alone and fractions(columns[rest[0]])
    if confidence and len(np.unique(y)) == 2:  # else a score of the second
        confidence = bool(((columns[rest[0]] >= 0.5) & (columns[rest[0]] <= 1)).all())
    if own and (not rest or confidence):  # of what the label is then, as timm writes it
        rest = [own]
        own = None
    name = found.one(PREDICTED, "the predicted classes", rest)
    binary = len(np.unique(y)) == 2 if not given else len(given) == 2
    if binary and fractions(columns[name]):
        return _kept(Answers(found, (name,), own_labels=own, kind=kind_of(name)))
    return _kept(Answers(found, predicted=name, own_labels=own))


# ---------------------------------------------------------------- names and values


def _kept(answers):
    """The Answers, their Source with the columns that mean something; the others in a note."""
    found = answers.source
    used = [*answers.scores, answers.predicted, answers.own_labels]
    kept = [*used, answers.beside]
    columns = {name: values for name, values in found.columns.items() if name in kept}
    others = [name for name in found.columns if name not in used]
    if others:
        taken = answers.scores or (answers.predicted,)
        what = "scores" if answers.scores else "predicted classes"
        found.note(f"{what} {ends(taken)}; passed over: {listed(others)}.")
    return replace(answers, source=replace(found, columns=columns))
