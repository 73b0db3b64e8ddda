"""What the columns of a Source mean: rows, labels, classes.

N examples, C classes. Whatever cannot be used raises an AuditError.
"""

import difflib
import os
import re
from pathlib import Path

import numpy as np

from kdlib.auditing.read import (
    MISSING,
    AuditError,
    Source,
    as_number,
    encodable,
    listed,
    printable,
    quoted,
    reason,
    repeated,
)

LABEL_NAMES = ("label", "labels", "y")
# of who keeps no scores: all that an audit needs of them
REDUCED = ("predicted", "log_p_label", "log_p_predicted")
MOST_CLASSES = 2**20
GIVE_NAMES = "give the names of the classes in the order that the numbers mean (--classes)"
WHOLE = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")


# ---------------------------------------------------------------- one column


def vector(found, values, what):
    """One column as an array (N,) of numbers, text or objects."""
    values = np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iufbOUST":
        has = f"{values.dtype} of shape {values.shape}"
        raise found.error(f"{what} must be one column of numbers or names, not {has}.")
    return values


def texts(found, values, what):
    """(N,) object array of str, of names or numbers; AuditError for what is missing or neither.

    Not an array of numpy's strings: one long name would widen them all.
    """
    values = vector(found, values, what)
    out = np.empty(len(values), dtype=object)
    wrong = np.zeros(len(values), dtype=bool)
    for row, value in enumerate(values.tolist()):
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        out[row] = encodable(str(value))
        if isinstance(value, str):
            wrong[row] = not value.strip()
        else:
            wrong[row] = hasattr(value, "__len__") or out[row] in MISSING
    found.refuse(wrong, values, what, "a name or a number")
    return out


def names_or_numbers(found, values, what):
    """(N,) int64 of whole numbers, also as text, or an object array of str."""
    values = vector(found, values, what)
    if values.dtype.kind not in "iufb":
        names = texts(found, values, what)
        return np.array([int(name) for name in names]) if all_whole(names) else names
    broken = (values != np.floor(values)) | (np.abs(values.astype(np.float64)) > 1e18)
    for wrong in (~np.isfinite(values), broken):
        found.refuse(wrong, values, what, "a whole number of at most 18 digits")
    return values.astype(np.int64)


def as_numbers(found, values, what):
    """(N,) array of numbers, finite or not; a column of objects or text may hold them."""
    values = vector(found, values, what)
    if values.dtype.kind in "iufb":
        return values
    read = np.array([as_number(value) for value in values.tolist()])
    found.refuse(np.isnan(read), values, what, "a number")
    return read


def all_whole(names):
    """Whether every name is a whole number."""
    return all(map(WHOLE.fullmatch, names))


def counted(names):
    """Whether names are 0, 1, 2, ... in some order, as pandas calls columns without names."""
    return set(names) == set(map(str, range(len(names))))


# ---------------------------------------------------------------- rows and labels


def check_rows(found, n, first):
    """AuditError unless a Source has n rows and the ids of the first Source that has some."""
    matrix = any(np.ndim(values) == 2 for values in found.columns.values())
    named = found.columns if found.ids is None else found.columns | {"id": found.ids}
    for name, values in named.items():
        rows = len(values) if np.ndim(values) else "no"
        if rows != n and not (name == "names" and matrix):  # of its columns
            has = f"{name} has " if name else ""
            raise found.error(f"{has}{rows} rows, but {first.name} has {n}.")
    if found is not first and found.ids is not None and first.ids is not None:
        check_same(found, texts(found, found.ids, "id"), texts(first, first.ids, "id"), "id", first)


def check_same(found, values, expected, what, first):
    """AuditError unless two columns (N,) of names, of the Sources found and first, are one."""
    if (differ := values != expected).any():
        there = quoted(expected[np.argmax(differ)])
        why = f"{there} as in {first.name}; the same examples must come in the same order"
        found.refuse(differ, values, what, why)


def labels_of(found):
    """(N,) labels as read: whole numbers or names."""
    y = names_or_numbers(found, found.one(LABEL_NAMES, "the labels"), "label")
    if not len(y):
        raise found.error("holds no label.")
    return y


def predicted_of(found):
    """(N,) predicted classes as read: whole numbers or names."""
    values = found.one(("predicted",), "the predicted classes")
    return names_or_numbers(found, values, "predicted class")


# ---------------------------------------------------------------- classes


def score_columns(found):
    """Names of the columns with scores: one that is a matrix, or one for each class.

    [] if there are only predicted classes.
    """
    columns = found.columns
    matrices = [name for name in columns if np.ndim(columns[name]) > 1]
    for name in ("logits", "probabilities"):
        if name in matrices:
            return [name]
    if not columns.keys().isdisjoint(REDUCED):
        return []
    rest = [name for name in columns if name not in LABEL_NAMES]
    if len(rest) > 1 and matrices:
        raise found.error(
            f"holds {listed(columns)}; call the one with the scores logits or probabilities."
        )
    if len(rest) == 1 and np.shape(columns[rest[0]])[1:] in ((), (1,)):
        return []
    return rest


def classes_of(y, sources, given=None):
    """Names of the classes, in the order of the scores.

    Those given, else the columns' own, else the names that occur, else 0, 1, 2, ... as many as the
    scores have or the largest number says.
    """
    columns = [(s, score_columns(s)) for s in sources]
    scored = [(s, own) for s, own in columns if own]
    if given is not None:
        names = _given_names(given)
    elif scored:
        names = _names_of_scores(y, scored)
    else:
        names = _names_that_occur(y, sources)
    if len(names) < 2:
        raise AuditError("with one class there is nothing to predict; an audit needs two at least.")
    return names


def _given_names(given):
    """The names in a list, or the lines of a file."""
    found = Source("class names", {})
    try:
        if isinstance(given, (str, os.PathLike)):
            given = Path(given).read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
        names = np.array([*given], dtype=object)
    except (OSError, ValueError, TypeError) as error:
        raise found.error(
            f"{printable(given, None)} cannot be read ({reason(error)}); "
            "a list of names is needed, or a file with one name per line."
        ) from None
    names = tuple(name.strip() for name in texts(found, names, "the name"))
    if (name := repeated(names)) is not None:
        raise found.error(f"{quoted(name)} is there twice; each class has its own name.")
    return names


def _names_of_scores(y, scored):
    """Names of the classes by the columns of scores; scored: pairs of a Source and its columns."""
    named = [(s, own) for s, own in scored if len(own) > 1 and not counted(own)]
    if not named:
        first, own = scored[0]
        width = len(own) if len(own) > 1 else first.columns[own[0]].shape[1]
        return tuple(map(str, range(width)))
    leader, order = named[0]
    for s, own in named:
        reordered = own != order and set(own) == set(order)
        if reordered and y.dtype != object and not all_whole(order):
            raise s.error(
                f"its columns come in another order than those of {leader.name}, and the labels "
                f"are numbers; {GIVE_NAMES}."
            )
    return tuple(order)


def _names_that_occur(y, sources):
    """Names of the classes by the labels and the predicted classes."""
    every = [y]
    for s in sources:
        every.append(predicted_of(s))
        if every[-1].dtype != y.dtype:
            raise s.error(
                f"of labels and predicted classes, one are names, the other numbers; {GIVE_NAMES}."
            )
    every = np.concatenate(every)
    if every.dtype == object:
        return tuple(sorted(set(every)))
    largest = int(every.max())
    if largest >= MOST_CLASSES:
        raise AuditError(f"the classes run to {largest}; more than a million are not audited.")
    return tuple(map(str, range(largest + 1)))


def coded(found, values, names, what):
    """(N,) int64 index into the names of the classes.

    values (N,) are names, or whole numbers: each an index, or where every class is called by a
    number, a name. what: a label or predicted class; it is called so in sentences.
    """
    in_order = names == tuple(map(str, range(len(names))))
    if values.dtype == object or (all_whole(names) and not in_order):
        at = {name: k for k, name in enumerate(names)}
        index = np.array([at.get(str(value), -1) for value in values.tolist()], dtype=np.int64)
        if (index < 0).any():
            word = str(values[np.argmin(index)])
            near = difflib.get_close_matches(word[:200], names, n=1)
            hint = f"the nearest is {near[0]!r}" if near else f"known are {listed(names)}"
            if in_order:  # scores without names
                hint = f"known are {listed(names)}; {GIVE_NAMES}"
            found.refuse(index < 0, values, what, f"a class; {hint}")
        return index
    numbered = [] if in_order else [int(name) for name in names if WHOLE.fullmatch(name)]
    place = "the place of a class but the name of one; call no class by a number, or every class"
    found.refuse(np.isin(values, numbered), values, what, place)
    outside = (values < 0) | (values >= len(names))
    found.refuse(outside, values, what, f"a number from 0 to {len(names) - 1}")
    return values
