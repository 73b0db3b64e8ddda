"""What the columns of a Source mean: labels, classes, predictions, groups, weights, counts.

N examples, C classes, G groups. Whatever cannot be used raises an AuditError.
"""

import difflib
import os
import re
from pathlib import Path

import numpy as np

from kdlib.auditing.files import (
    AuditError,
    Outputs,
    is_number,
    listed,
    printable,
    quoted,
    source,
    texts,
)
from kdlib.evidence.resample import Groups

KINDS = ("auto", "logits", "probabilities", "classes")
LABEL_NAMES = ("label", "labels", "y")
# of who keeps no scores: all that an audit needs of them
REDUCED = ("predicted", "log_p_label", "log_p_predicted")
SUM_ERROR = 0.01  # of the probabilities of a row: half precision, a thousand classes
BELOW_ZERO = 1e-6  # of a probability: what is left of 1 minus the others
# of log-probabilities, so that one certain mistake does not make the log-loss infinite
FLOOR = np.log(1e-12)
CHUNK = 1 << 23  # scores converted at once
MOST_CLASSES = 2**20
RANGE = 1e12  # of weights above 0: squares of such numbers can still be added
WHOLE = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")


def one_column(values, name, what):
    """(N,) int64, or an object array of str; AuditError for anything else."""
    values = np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise AuditError(f"{name}: {what} must be one column, not of shape {values.shape}.")
    if values.dtype.kind in "OUST":
        text = texts(values, name, what)
        if not all(map(WHOLE.fullmatch, text)):
            return text
        # digits as text, of a column that was quoted
        return np.array([int(t) for t in text], dtype=np.int64)
    if values.dtype.kind not in "iufb":
        raise AuditError(f"{name}: {what} must be whole numbers or names, not {values.dtype}.")
    finite = np.isfinite(values)
    for wrong, why in (
        (~finite, "missing or not finite"),
        (finite & (values != np.floor(values)), "no whole number"),
        (finite & (np.abs(values.astype(np.float64)) > 2**62), "too large"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise AuditError(f"{name}: {what} {values[row]} in row {row} is {why}.")
    return values.astype(np.int64)


def _numbers(values, name, what):
    """(N,) float64 of one column of numbers, finite or not."""
    values = np.asarray(values)
    if values.dtype.kind not in "iufb" or values.ndim != 1:
        raise AuditError(
            f"{name}: {what} must be one column of numbers, "
            f"not {values.dtype} of shape {values.shape}."
        )
    return values.astype(np.float64)


# ---------------------------------------------------------------- labels and classes


def labels_of(given):
    """(y as read, (N,) ints or names; its Source)."""
    found = source(given, "labels")
    y = one_column(found.one(LABEL_NAMES, "the labels"), found.name, "label")
    if not len(y):
        raise AuditError(f"{found.name}: holds no label.")
    return y, found


def classes_of(y, sources, class_names=None):
    """Names of the classes, in the order of the scores.

    Those given, else the columns' own, else the names that occur, else 0, 1, 2, ... as many as the
    scores have or the largest number says.
    """
    names = _class_names(y, sources) if class_names is None else _given_names(class_names)
    if len(names) < 2:
        raise AuditError("with one class there is nothing to predict; an audit needs two at least.")
    return names


def _class_names(y, sources):
    own = [(s, _score_names(s)) for s in sources]
    widths = {s.name: _width(s, names) for s, names in own if names}
    first, first_width = next(iter(widths.items()), ("", 0))
    for name, width in widths.items():
        if width != first_width:
            raise AuditError(f"{name} has {width} classes, but {first} has {first_width}.")
    labels_are_names = y.dtype == object
    named = [(s, names) for s, names in own if len(names) > 1 and not _counted(names)]
    if named:
        leader, order = named[0]
        for s, names in named:
            reordered = names != order and set(names) == set(order)
            if reordered and not labels_are_names and not _whole(names):
                raise AuditError(
                    f"{s.name}: its columns come in another order than those of {leader.name}, "
                    "and the labels are numbers; give the names of the classes in the order that "
                    "the numbers mean (--classes)."
                )
        return tuple(order)
    chosen = []
    for s in [s for s, names in own if not names]:
        predicted = s.one(("predicted",), "the predicted classes")
        chosen.append((s, one_column(predicted, s.name, "class")))
    if widths and labels_are_names:
        row = next(row for row, v in enumerate(y) if not WHOLE.fullmatch(v))
        raise AuditError(
            f"{first}: the label in row {row} is {quoted(y[row])}, so its columns must be called "
            "as the classes, or the names given in order (--classes)."
        )
    mixed = [s for s, values in chosen if (values.dtype == object) != labels_are_names]
    if mixed and not widths:
        raise AuditError(
            f"{mixed[0].name}: of labels and predicted classes, one are names and the other "
            "numbers; give the names of the classes in the order that the numbers mean (--classes)."
        )
    if labels_are_names:
        return tuple(sorted(set(y).union(*(values for _, values in chosen))))
    count = first_width
    if not count:
        largest = [int(values.max(initial=0)) for values in (y, *(v for _, v in chosen))]
        count = 1 + max(0, *largest)
    if count > MOST_CLASSES:
        raise AuditError(f"the classes run to {count - 1}; more than a million are not audited.")
    return tuple(str(k) for k in range(count))


def _whole(names):
    return all(map(WHOLE.fullmatch, names))


def _counted(names):
    """Whether names are 0, 1, 2, ... in some order, as pandas calls columns without names."""
    return set(names) == {str(k) for k in range(len(names))}


def _given_names(names):
    if isinstance(names, (str, os.PathLike)):
        try:
            names = Path(names).read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "no UTF-8"
            raise AuditError(
                f"{printable(names, None)}: class names cannot be read ({why}); one name per line."
            ) from None
    try:
        names = texts(np.array([*names], dtype=object), "class names", "the name")
    except TypeError:
        raise AuditError(f"class names: {printable(repr(names))} is no list of names.") from None
    names = tuple(name.strip() for name in names)
    seen = set()
    for name in names:
        if name in seen:
            raise AuditError(
                f"class names: {quoted(name)} is there twice; each class has its own name."
            )
        seen.add(name)
    return names


def coded(values, names, name, what):
    """(N,) int64 index into the names of the classes.

    values (N,) are names, or whole numbers: each an index, or where every class is called by a
    number, a name. what: a label, a class; it is called so in sentences.
    """
    counted = names == tuple(map(str, range(len(names))))
    if values.dtype == object or (not counted and _whole(names)):
        at = {known: k for k, known in enumerate(names)}
        index = np.array([at.get(str(v), -1) for v in values.tolist()], dtype=np.int64)
        if (index < 0).any():
            row = int(np.argmin(index))
            near = []
            if values.dtype == object:
                near = difflib.get_close_matches(str(values[row])[:200], names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {listed(names)}."
            raise AuditError(
                f"{name}: {what} {quoted(values[row])} in row {row} is no class; {hint}"
            )
        return index
    if not counted:
        numbered = [int(known) for known in names if WHOLE.fullmatch(known)]
        either = np.isin(values, numbered)
        if either.any():
            row = int(np.argmax(either))
            raise AuditError(
                f"{name}: {what} {values[row]} in row {row} is the name of a class, "
                "but may mean its place; call no class by a number, or every class."
            )
    if (wrong := (values < 0) | (values >= len(names))).any():
        row = int(np.argmax(wrong))
        raise AuditError(
            f"{name}: {what} {values[row]} in row {row} is not from 0 to {len(names) - 1}."
        )
    return values


# ---------------------------------------------------------------- predictions


def _score_names(found):
    """Names of the columns with scores: one that is a matrix, or one for each class.

    [] if there are only predicted classes.
    """
    for name in ("logits", "probabilities"):
        if np.ndim(found.columns.get(name)) == 2:
            return [name]
    if set(REDUCED) & set(found.columns):
        return []
    rest = [name for name in found.columns if name not in LABEL_NAMES]
    if len(rest) == 1:
        values = found.columns[rest[0]]
        if values.ndim == 2 and values.shape[1] > 1:
            return rest
        if values.ndim and values.dtype.kind == "f":
            broken = np.isfinite(values) & (values != np.floor(values))
            if broken.any():
                raise AuditError(
                    f"{found.name}: holds one column of fractions; "
                    "scores need a column for each class."
                )
        return []
    if any(np.ndim(found.columns[name]) != 1 for name in rest):
        raise AuditError(
            f"{found.name}: holds {listed(found.columns)}; "
            "call the one with the scores logits or probabilities."
        )
    return rest


def _width(found, names):
    return len(names) if len(names) > 1 else found.columns[names[0]].shape[1]


def _matrix_of(found, own, names):
    """Scores (N, C) with a column for each of names."""
    if len(own) == 1:
        scores = found.columns[own[0]]
    else:
        if set(own) == set(names):
            own = names
        elif _counted(own):
            own = sorted(own, key=int)
        elif foreign := [column for column in own if column not in names]:
            raise AuditError(
                f"{found.name}: its column {quoted(foreign[0])} is no class; "
                f"known are {listed(names)}."
            )
        scores = np.column_stack([_score_column(found, name) for name in own])
    if scores.dtype.kind not in "iufb":
        raise AuditError(f"{found.name}: scores must be numbers, not {scores.dtype}.")
    if scores.shape[1] != len(names):
        raise AuditError(
            f"{found.name}: has {scores.shape[1]} columns of scores for {len(names)} classes."
        )
    return scores


def _score_column(found, name):
    values = found.columns[name]
    if values.dtype == object and all(isinstance(v, (int, float)) for v in values.tolist()):
        values = values.astype(np.float64)  # numbers in a column that pandas has for anything
    if values.dtype.kind not in "iufb":
        row = next((i for i, v in enumerate(values.tolist()) if not is_number(v, finite=True)), 0)
        raise AuditError(
            f"{found.name}: column {quoted(name)} has {quoted(values[row], 40)} in row {row}, "
            "which is no number."
        )
    return values


def outputs(found, y, names, kind="auto"):
    """Outputs of a Source: of scores (N, C), predicted classes (N,), or the columns in REDUCED.

    y (N,) int64; names of the classes. kind: what scores are; "auto" calls them probabilities if
    every row is one.
    """
    for name in LABEL_NAMES:
        if name in found.columns and len(found.columns) > 1:
            again = one_column(found.columns[name], found.name, "label")
            again = coded(again, names, found.name, "label")
            if (differ := again != y).any():
                row = int(np.argmax(differ))
                raise AuditError(
                    f"{found.name}: its own label in row {row} is {quoted(names[again[row]])}, "
                    f"but the labels say {quoted(names[y[row]])}; "
                    "the same examples must come in the same order."
                )
    own = _score_names(found)
    if not own:
        return _unscored(found, names)
    if kind == "classes":
        raise AuditError(f"{found.name}: --kind classes needs one column of predicted classes.")
    scores = _matrix_of(found, own, names)
    if kind == "auto" and own == ["probabilities"]:
        kind = "probabilities"
    probabilities = _are_probabilities(scores, found.name, kind, own == ["logits"])
    return Outputs(*_reduced(scores, y, probabilities))


def _unscored(found, names):
    chosen = found.one(("predicted",), "the predicted classes")
    predicted = coded(one_column(chosen, found.name, "class"), names, found.name, "class")
    if "log_p_label" not in found.columns:
        return Outputs(predicted, None, None)
    parts = []
    for name in REDUCED[1:]:
        if name not in found.columns:
            raise AuditError(f"{found.name}: has log_p_label but no {name}.")
        values = _numbers(found.columns[name], found.name, name)
        if (wrong := ~(values <= BELOW_ZERO)).any():  # NaN too
            row = int(np.argmax(wrong))
            raise AuditError(
                f"{found.name}: {name} is {values[row]} in row {row}; "
                "a log-probability is 0 or less."
            )
        parts.append(np.clip(values, FLOOR, 0))
    return Outputs(predicted, *parts)


def _chunks(scores):
    rows = max(1, CHUNK // scores.shape[1])
    for start in range(0, len(scores), rows):
        yield start, np.asarray(scores[start : start + rows], dtype=np.float64)


def _are_probabilities(scores, name, kind, called_logits=False):
    """Whether scores (N, C) are probabilities.

    AuditError for NaN, +inf, a row of nothing but -inf, or if it cannot be told.
    """
    like = ones = hundreds = 0  # rows that are probabilities; that add up to 1; to 100
    odd = None  # the first row that is no probabilities, in words
    for start, part in _chunks(scores):
        wrong = np.isnan(part) | (part == np.inf)
        wrong[np.isneginf(part).all(axis=1)] = True
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise AuditError(
                f"{name}: {part[row, column]} in row {start + row}, column {column}; "
                "scores must be finite numbers."
            )
        with np.errstate(invalid="ignore", over="ignore"):  # of masked and of huge logits
            total = part.sum(axis=1)
            adds_up = np.abs(total - 1) <= SUM_ERROR
            ok = adds_up & (part >= -BELOW_ZERO).all(axis=1)
            per_cent = (np.abs(total - 100) <= 100 * SUM_ERROR) & (part >= 0).all(axis=1)
        like += np.count_nonzero(ok)
        ones += np.count_nonzero(adds_up)
        hundreds += np.count_nonzero(per_cent)
        if odd is None and not ok.all():
            at = int(np.argmin(ok))
            least, most = part[at].min(), part[at].max()
            odd = (
                f"row {start + at} has values from {least:.4g} to {most:.4g} "
                f"with the sum {total[at]:.4g}"
            )
            odd_is_in_range = least >= 0 and most <= 1
    say = "if these are logits, say so with --kind logits."
    if kind == "logits":
        return False
    if odd is None and not called_logits:
        return True
    if kind == "probabilities":
        raise AuditError(
            f"{name}: {odd or 'row 0'}; probabilities lie between 0 and 1 and add up to 1."
        )
    if called_logits:
        if odd is None:
            raise AuditError(
                f"{name}: called logits, but every row is a probability; say which with --kind."
            )
        return False
    if ones == len(scores):
        raise AuditError(f"{name}: {odd}, like probabilities below 0; {say}")
    if hundreds == len(scores):
        raise AuditError(f"{name}: {odd}, like per cent; divide by 100, or {say}")
    if like:
        raise AuditError(f"{name}: {odd}, while other rows are probabilities; {say}")
    if odd_is_in_range:
        raise AuditError(f"{name}: {odd}, like neither logits nor probabilities; {say}")
    return False


def _reduced(scores, y, probabilities):
    """(predicted, log p of the label, log p of the predicted), each (N,), of scores (N, C)."""
    predicted = np.empty(len(scores), np.int64)
    label = np.empty(len(scores))
    top = np.empty(len(scores))
    for start, part in _chunks(scores):
        some = slice(start, start + len(part))
        rows = np.arange(len(part))
        best = predicted[some] = part.argmax(axis=1)
        with np.errstate(divide="ignore", over="ignore"):  # log of 0; distances of huge logits
            if probabilities:
                log_p = np.log(np.maximum(part, 0))
                total = np.log(np.maximum(part, 0).sum(axis=1))
            else:
                log_p = part - part[rows, best][:, None]
                total = np.log(np.exp(log_p).sum(axis=1))
        label[some] = log_p[rows, y[some]] - total
        top[some] = log_p[rows, best] - total
    return predicted, np.clip(label, FLOOR, 0), np.clip(top, FLOOR, 0)


# ---------------------------------------------------------------- groups, weights, counts


def groups_of(found, n, y, names):
    """Groups from the columns of a Source of n examples; None: the classes that occur.

    One column of names or numbers, several columns (each value of each is a group, called
    column=value), or a matrix (N, G) of 0 and 1 (its columns may overlap). y (N,) int64; names of
    the classes.
    """
    if found is None:
        kept = np.unique(y)
        return _grouped(tuple(names[k] for k in kept), np.searchsorted(kept, y))
    for values in found.columns.values():
        if np.ndim(values) == 2 and np.shape(values)[1] != 1:
            return _overlapping(np.asarray(values), found)
    names, example, group = [], [], []
    for column, values in found.columns.items():
        values = np.asarray(values)
        finite = values.dtype.kind == "f" and np.isfinite(values).all()
        if finite and (values != np.floor(values)).any():
            if (many := len(np.unique(values))) > 50:
                raise AuditError(
                    f"{found.name}: column {quoted(column)} has {many} different numbers; "
                    "cut it into ranges first."
                )
            values = values.ravel()
        else:
            if values.dtype.kind == "b":  # groups called False and True
                values = values.astype(object)
            what = f"group {quoted(column)}" if column else "group"
            values = one_column(values, found.name, what)
        there, index = np.unique(values, return_inverse=True)  # numbers by size, names by alphabet
        prefix = f"{column}=" if len(found.columns) > 1 else ""
        group.append(index + len(names))
        example.append(np.arange(n))
        names += [f"{prefix}{v}" for v in there]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise AuditError(f"{found.name}: two groups are called {quoted(twice)}; rename a column.")
    return _grouped(tuple(names), np.concatenate(group), np.concatenate(example))


def _grouped(names, group, example=None):
    """Groups of pairs of `example` and `group`, both (M,); by default each example is in one."""
    example = np.arange(len(group)) if example is None else example
    order = np.argsort(group, kind="stable")
    return Groups(names, example[order].astype(np.int64), group[order].astype(np.int64))


def _overlapping(matrix, found):
    """Groups of a matrix (N, G) of 0 and 1, in a Source that may also hold their names (G,)."""
    if matrix.dtype.kind not in "iufb" or not np.isin(matrix, (0, 1)).all() or not matrix.shape[1]:
        raise AuditError(
            f"{found.name}: a matrix of groups holds 0 and 1 only, one column for each group."
        )
    unnamed = [f"group {g}" for g in range(matrix.shape[1])]
    names = np.asarray(found.columns.get("names", unnamed))
    if names.shape != matrix.shape[1:]:
        raise AuditError(
            f"{found.name}: has names of shape {names.shape} for {matrix.shape[1]} groups."
        )
    names = texts(names, found.name, "the name")
    if len(set(names)) < len(names):
        raise AuditError(f"{found.name}: two groups have the same name.")
    if (empty := np.flatnonzero(~(matrix > 0).any(axis=0))).size:
        raise AuditError(
            f"{found.name}: {quoted(names[empty[0]])} has no example; leave empty groups out."
        )
    group, example = np.nonzero(matrix.T)
    return _grouped(tuple(names), group, example)


def weights_of(found, n):
    """(N,) float64 of a Source, the largest 1, or all 1 where it is None.

    AuditError for negative or missing ones, if all are 0, or if they differ too much to be added.
    """
    if found is None:
        return np.ones(n)
    values = _numbers(found.one(("weight", "weights"), "the weights"), found.name, "weights")
    if (wrong := ~(np.isfinite(values) & (values >= 0))).any():
        row = int(np.argmax(wrong))
        raise AuditError(
            f"{found.name}: weight {values[row]} in row {row}; weights are finite and not negative."
        )
    if not values.any():
        raise AuditError(f"{found.name}: every weight is 0.")
    values = values / values.max()
    if (tiny := (values > 0) & (values < 1 / RANGE)).any():
        row = int(np.argmax(tiny))
        raise AuditError(
            f"{found.name}: the weight in row {row} is less than the largest by a factor "
            f"above {RANGE:.0e}; 0 leaves an example out."
        )
    return values


def counts_of(found, groups):
    """(G,) int64, training examples of each group.

    The Source holds one number per group, in order, or with the names of the groups, in any order.
    """
    columns, names = found.columns, found.ids
    called = next((name for name in ("count", "counts") if name in columns), None)
    if columns and all(np.ndim(v) == 0 for v in columns.values()):  # {group: count}
        names = np.array(list(columns), dtype=object)
        values = np.array(list(columns.values()))
    elif len(columns) == 2:
        count = called or list(columns)[1]
        names = columns[next(name for name in columns if name != count)]
        values = columns[count]
    elif len(columns) > 2 and not called:
        raise AuditError(
            f"{found.name}: holds {listed(columns)}; two columns are needed, group and count."
        )
    else:
        values = columns[called] if called else next(iter(columns.values()))
    counts = one_column(values, found.name, "count")
    if counts.dtype == object:
        row = next(row for row, v in enumerate(counts) if not WHOLE.fullmatch(v))
        raise AuditError(
            f"{found.name}: count {quoted(counts[row])} in row {row} is no whole number."
        )
    if (counts < 0).any():
        raise AuditError(
            f"{found.name}: count {counts.min()} in row {int(counts.argmin())} is negative."
        )
    if names is not None:
        names = texts(np.asarray(names).ravel(), found.name, "group")
        if len(names) != len(counts) or len(set(names)) < len(names):
            raise AuditError(f"{found.name}: needs one count for each group, and each group once.")
        named = dict(zip(names, counts, strict=True))
        if missing := [name for name in groups.names if name not in named]:
            raise AuditError(f"{found.name}: has no count for group {quoted(missing[0])}.")
        counts = np.array([named[name] for name in groups.names], dtype=np.int64)
    if len(counts) != len(groups.names):
        raise AuditError(f"{found.name}: has {len(counts)} counts for {len(groups.names)} groups.")
    return counts
