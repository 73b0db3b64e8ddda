"""Which columns of an input are labels, scores or predicted classes, by their names and values.

N examples, C classes. What could mean two things raises an AuditError that names the columns.
"""

import re
from dataclasses import dataclass, replace

import numpy as np

from kdlib.auditing.read import Source, plain
from kdlib.auditing.sentences import ends, listed, quoted
from kdlib.auditing.values import as_numbers, names_or_numbers

LABELS = ("label", "labels", "y", "target", "targets", "ytrue", "true", "truelabel", "groundtruth")
LABELS += ("truth", "gt", "labelid", "labelids", "classlabel", "class")
PREDICTED = ("predicted", "prediction", "predictions", "pred", "preds", "ypred", "yhat", "answer")
PREDICTED += (
    "predictedclass",
    "predictedlabel",
    "predlabel",
    "predclass",
    "labelpred",
    "classpred",
)
LOGITS = ("logit", "logits")
PROBABILITIES = ("probability", "probabilities", "prob", "probs", "proba", "p", "softmax")
SCORES = (*LOGITS, *PROBABILITIES, "score", "scores", "output", "outputs", "class", "predictions")
# what tools write beside the scores, and nobody calls a class
BESIDE = ("loss", "losses", "nll", "crossentropy", "fold", "split", "epoch", "step", "weight")
BESIDE += ("weights", "confidence", "conf", "entropy", "correct", "batch", "seed", "time")
# of who keeps no scores: all that an audit needs of them
REDUCED = ("predicted", "log_p_label", "log_p_predicted")
CALLED = re.compile(r"(.*?)[ _.:/-]*(\d+)")  # such as prob_10
ENOUGH = 20  # rows in which an order says something


@dataclass(frozen=True)
class Answers:
    """What one model says, by the meaning of its columns; one of the first three is there."""

    source: Source  # its columns are those that mean something
    scores: tuple = ()  # names of the columns with scores: one with all, or one a class
    classes: tuple = ()  # what these are called, if they are called like classes
    predicted: str | None = None  # name of the column of predicted classes
    reduced: bool = False  # whether its columns are those of REDUCED
    own_labels: str | None = None  # name of the column with labels
    called: str = ""  # logits or probabilities, if the scores are called so

    @property
    def name(self):
        return self.source.name


# ---------------------------------------------------------------- labels


def labels_of(found):
    """(N,) labels as read, whole numbers or names, of one column or of one-hot columns."""
    columns = found.columns
    one_hot = len(columns) > 1 and not any(plain(name) in LABELS for name in columns)
    if one_hot and all(np.ndim(values) == 1 for values in columns.values()):
        matrix = _one_hot(np.column_stack([*columns.values()]))
        if matrix is not None:
            return np.array([*columns], dtype=object)[matrix.argmax(axis=1)]
    values = found.one(LABELS, "the labels")
    if np.ndim(values) == 2 and np.shape(values)[1] > 1:
        matrix = _one_hot(values)
        if matrix is not None:
            found.note("one-hot labels.")
            return matrix.argmax(axis=1)
    y = names_or_numbers(found, values, "label")
    if not len(y):
        raise found.error("holds no label.")
    return y


def _one_hot(matrix):
    """The matrix, if each row of it is one 1 among zeros; else None."""
    if matrix.dtype.kind not in "iufb" or not len(matrix):
        return None
    ones = (matrix == 1).sum(axis=1)
    return matrix if (ones == 1).all() and ((matrix != 0).sum(axis=1) == 1).all() else None


# ---------------------------------------------------------------- what a model says


def answers_of(found, y, given=()):
    """The Answers of a Source.

    y: labels (N,) as read, of which rows may come in another order. given: names of the classes.
    """
    columns = found.columns
    if not columns.keys().isdisjoint(REDUCED[1:]):
        own = _called(columns, LABELS)
        return Answers(found, predicted="predicted", reduced=True, own_labels=own)
    matrices = [name for name, values in columns.items() if np.shape(values)[1:] not in ((), (1,))]
    own = _called(columns, LABELS) if len(columns) > 1 else None
    rest = [name for name in columns if name != own]
    if matrices:
        name = _called(matrices, SCORES)
        if name is None and any(plain(one) not in BESIDE for one in rest[1:]):
            raise found.error(
                f"holds {listed(columns)}; call the one with the scores logits or probabilities."
            )
        name = matrices[0] if name is None else name
        return _kept(found, Answers(found, (name,), own_labels=own, called=_kind(name)))
    scores = _score_columns(found, rest, given)
    if scores:
        return _kept(found, replace(scores, own_labels=own), y)
    name = _called(rest, PREDICTED)
    rest = [one for one in rest if plain(one) not in BESIDE]
    if name is None and (not rest or _is_confidence(columns, rest, y)):  # as timm writes it
        name = own
        own = None
    if name is None and len(rest) == 1:
        name = rest[0]
    if name is None:
        raise found.error(
            f"holds {listed(columns)}; call the one with the predicted classes predicted, "
            "or give its name behind the file's, as in FILE:COLUMN."
        )
    binary = len(np.unique(y)) == 2 if not given else len(given) == 2
    if binary and _fractions(columns[name]):
        return _kept(found, Answers(found, (name,), own_labels=own, called=_kind(name)))
    return _kept(found, Answers(found, predicted=name, own_labels=own))


def _score_columns(found, names, given):
    """Answers of one column a class, or None: named as the classes given, or a set of their own."""
    if len(given) > 1 and set(given) <= set(names):
        return Answers(found, tuple(given), tuple(given))
    for words in (SCORES, None):
        families = _families(names, words)
        if len(families) > 1 and words:
            raise found.error(
                f"holds {len(families)} sets of scores, {listed(families)}; "
                "choose one as in FILE:prob_*."
            )
        if len(families) == 1:
            ((stem, members),) = families.items()
            left = [name for name in names if name not in members and _may_be_class(found, name)]
            if words or not left:
                return _family(found, stem, members, words)
    some = [name for name in names if plain(name) not in (*BESIDE, *PREDICTED)]
    if len(some) < 2:
        return None
    if odd := _odd_whole_numbers(found, some):
        raise found.error(
            f"column {quoted(odd[0])} holds whole numbers, {quoted(odd[1])} does not; name the "
            "columns with scores, as in FILE:cat,dog,truck, or the classes (--classes)."
        )
    return Answers(found, tuple(some), tuple(some))


def _families(names, words):
    """{stem: {number or name: column}} of columns with one stem and numbers from 0 or 1 on.

    words: the stems that mean scores, after which names may stand instead of numbers; None: any.
    """
    found = {}
    for name in names:
        match = CALLED.fullmatch(name)
        stem, number = match.groups() if match else ("", "")
        if words and not (match and plain(stem) in words):
            stem, _, number = name.partition("_")
        if number and (words is None or plain(stem) in words):
            found.setdefault(stem, {})[number] = name
    return {stem: members for stem, members in found.items() if _one_set(members, words)}


def _one_set(members, words):
    """Whether numbers run from 0 or 1 on; after words that mean scores, names will do."""
    if len(members) < 2:
        return False
    if not all(map(str.isdecimal, members)):
        return words is not None and not any(map(str.isdecimal, members))
    numbers = sorted(map(int, members))
    return numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _family(found, stem, members, words):
    """Answers of columns with one stem, ordered by number."""
    keys = list(members)
    if all(map(str.isdecimal, keys)):
        keys.sort(key=int)
    columns = tuple(members[key] for key in keys)
    if list(columns) != [name for name in found.columns if name in columns]:
        found.note(f"scores {ends(columns)}, ordered by their numbers.")
    if words and plain(stem) != "class":
        _check_not_ranked(found, stem, columns)
    return Answers(
        found, columns, tuple(keys) if words or not stem else columns, called=_kind(stem)
    )


def _check_not_ranked(found, stem, columns):
    """AuditError where each row falls from left to right, as the k highest scores do."""
    some = [as_numbers(found, found.columns[name][:1000], name) for name in columns]
    falls = np.diff(np.column_stack(some), axis=1) <= 0
    if len(falls) >= ENOUGH and len(columns) > 2 and falls.all():
        raise found.error(
            f"in each row {ends(columns)} fall, as the {len(columns)} highest scores do; "
            f"the scores of all classes are needed, or one column of predicted classes."
        )


# ---------------------------------------------------------------- names and values


def _kept(found, answers, y=None):
    """The Answers, their Source with the columns that mean something; the others in a note."""
    used = [*answers.scores, answers.predicted, answers.own_labels]
    columns = {name: values for name, values in found.columns.items() if name in used}
    others = [name for name in found.columns if name not in used]
    if others:
        taken = answers.scores or (answers.predicted,)
        what = "scores" if answers.scores else "predicted classes"
        found.note(f"{what} {ends(taken)}; passed over: {listed(others)}.")
    return replace(answers, source=found.with_columns(columns))


def _called(names, wanted):
    """The name that comes first among `wanted`, or None."""
    return next((name for word in wanted for name in names if plain(name) == word), None)


def _kind(name):
    """logits or probabilities, if a column's name says so, else ""."""
    if plain(name) in LOGITS:
        return "logits"
    return "probabilities" if plain(name) in PROBABILITIES else ""


def _odd_whole_numbers(found, names):
    """The first column of whole numbers among others that are none, and the first of these.

    None where all are alike, or all are from 0 to 1, as probabilities are.
    """
    values = [found.columns[name] for name in names]
    whole = [np.asarray(of).dtype.kind in "iu" for of in values]
    if all(whole) or not any(whole):
        return None
    if all(np.asarray(of).dtype.kind in "iuf" and ((of >= 0) & (of <= 1)).all() for of in values):
        return None
    return names[whole.index(True)], names[whole.index(False)]


def _may_be_class(found, name):
    """Whether a column could be the scores of one more class."""
    values = found.columns[name]
    return plain(name) not in (*BESIDE, *PREDICTED) and np.asarray(values).dtype.kind == "f"


def _fractions(values):
    """Whether a column holds numbers that are not all whole."""
    values = np.asarray(values)
    return values.dtype.kind == "f" and bool((values != np.floor(values)).any())


def _is_confidence(columns, names, y):
    """Whether the only column beside a label is the probability of what was predicted."""
    several = len(np.unique(y)) > 2
    return several and len(names) == 1 and _fractions(columns[names[0]])
