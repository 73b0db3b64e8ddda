"""What is known beside labels and predictions: groups, weights of examples, training counts.

N examples, G groups. Whatever cannot be used raises an AuditError.
"""

import numpy as np

from kdlib.config import count_of
from kdlib.evidence.resample import Groups
from kdlib.reading.pairs import ONLY_0_AND_1, groups_of_pairs, in_pairs, of_pairs
from kdlib.reading.read import let_go
from kdlib.reading.rows import rows_of
from kdlib.reading.sentences import listed, quoted, repeated
from kdlib.reading.values import (
    WHOLE,
    as_numbers,
    missing,
    names_or_numbers,
    texts,
)

MOST_VALUES = 50  # different fractions in a column of groups
MANY = 20  # examples from which a column without a value twice is no column of groups
RANGES = 20  # numbers in a column of groups, above which ranges are proposed
CELLS = 1 << 24  # of a matrix of groups, looked at at once
OWN = "missing"  # what the group of examples without a value is called
RANGE = 1e12  # of weights above 0: squares of such numbers can still be added


def groups_of(found, y, class_names, ids=None):
    """Groups of the examples, from the columns of a Source; None: the classes that occur.

    In pairs of an example and a group, see groups_of_pairs; ids (N,): of the labels. Otherwise
    one column of names or numbers, several columns (each value of each is a group, called
    column=value), or a matrix (N, G) of 0 and 1 (its columns may overlap). y: classes (N,) int64.
    """
    if found is None:
        kept, group = np.unique(y, return_inverse=True)
        return _grouped([class_names[k] for k in kept], [group])
    if in_pairs(found):
        return groups_of_pairs(found, len(y), ids)
    names, group = [], []
    for column, values in found.columns.items():
        if values.ndim == 2 and values.shape[1] != 1:
            return _overlapping(found, values)
        # numbers by size, names by alphabet
        there, index = np.unique(_group_values(found, column), return_inverse=True)
        group.append(index + len(names))
        prefix = f"{column}=" if len(found.columns) > 1 else ""
        names += [f"{prefix}{value}" for value in there]
        if column and values.dtype.kind in "iuf" and len(there) > RANGES:
            found.note(
                f"{quoted(column)} has {len(there)} numbers, each of them a group; --by "
                f"{quoted(f'{column}:4')} makes ranges."
            )
    if (name := repeated(names)) is not None:
        raise found.error(f"two groups are called {quoted(name)}; rename a column.")
    return _grouped(names, group)


def without_group(found, how):
    """(N,) bool: examples that a Source of groups gives no value in one of its columns.

    how: drop, which leaves them out; own, which makes them a group, so that none is without; None,
    which allows none: AuditError.
    """
    nothing = np.zeros(rows_of(found), dtype=bool)
    for column, values in found.columns.items():
        if len(values) != len(nothing) or np.ndim(values) != 1 or how == "own":
            continue
        empty = missing(values)
        if empty.any() and how is None:
            called = quoted(column) if column else "a group"
            raise found.error(
                f"{called} is missing in {int(empty.sum()):,} of {count_of(len(empty), 'row')}, "
                f"first in row {int(np.argmax(empty))}; --missing-groups drop leaves these "
                "examples out, --missing-groups own makes them a group."
            )
        nothing |= empty
    return nothing


def _grouped(names, columns):
    """Groups of columns (N,), each of which puts every example into one."""
    group = np.concatenate(columns)
    order = np.argsort(group, kind="stable")
    return Groups(tuple(names), order % len(columns[0]), group[order])


def _group_values(found, column):
    """(N,) array of names or numbers."""
    values = found.columns[column]
    called = f"group {quoted(column)}" if column else "group"
    empty = missing(values) if np.ndim(values) == 1 else np.zeros(0, dtype=bool)
    if empty.any():  # own groups were asked for
        of = quoted(column) if column else "a group"
        missed = count_of(int(empty.sum()), "example")
        found.note(f"{of} is missing in {missed}, a group that is called {OWN}.")
        filled = values.astype(object)
        filled[empty] = OWN
        filled[~empty] = names_or_numbers(found, values[~empty], called)
        return texts(found, filled, called)
    finite = values.dtype.kind == "f" and np.isfinite(values).all()
    if finite and (values != np.floor(values)).any():
        if (many := len(np.unique(values))) > MOST_VALUES:
            how = f"as --by {quoted(f'{column}:4')} does" if column else "as in a table with --by"
            raise found.error(f"{called} has {many} different numbers; cut it into ranges, {how}.")
        return values.ravel()
    if values.dtype.kind == "b":  # groups called False and True
        values = values.astype(object)
    read = names_or_numbers(found, values, called)
    if len(read) >= MANY and len(np.unique(read)) == len(read):
        raise found.error(
            f"{called} has another value in each of {len(read):,} rows; "
            "ids must be called id, and groups have more than one example."
        )
    return read


def _overlapping(found, matrix):
    """Groups of a matrix (N, G) of 0 and 1, in a Source that may also hold their names (G,)."""
    size = matrix.shape[1]
    if not size:
        raise found.error(ONLY_0_AND_1)
    unnamed = np.array([f"group {g}" for g in range(size)])
    names = texts(found, found.columns.get("names", unnamed), "the name")
    if len(names) != size or repeated(names) is not None:
        raise found.error("needs one name for each column of groups, and each name once.")
    examples, groups = [], []
    rows = max(1, CELLS // size)
    for start in range(0, len(matrix), rows):  # of a file that is not held in memory
        part = np.asarray(matrix[start : start + rows])
        members = part == 1
        if not (members | (part == 0)).all():
            raise found.error(ONLY_0_AND_1)
        example, group = np.nonzero(members)
        examples.append(example + start)
        groups.append(group)
        let_go(matrix)
    return of_pairs(found, names, np.concatenate(examples), np.concatenate(groups))


# ---------------------------------------------------------------- weights and counts


def weights_of(found, n, members):
    """(N,) float64 of a Source, the largest 1, or all 1 where it is None.

    AuditError for negative or missing ones, if all of a group are 0, or if they differ too much to
    be added.
    """
    if found is None:
        return np.ones(n)
    values = as_numbers(found, found.one(("weight", "weights"), "the weights"), "weight")
    wrong = ~(np.isfinite(values) & (values >= 0))
    found.refuse(wrong, values, "weight", "a finite number, 0 or more")
    if not (largest := values.max()):
        raise found.error("every weight is 0.")
    tiny = (values > 0) & (values / largest < 1 / RANGE)
    found.refuse(tiny, values, "weight", f"0 or within a factor of {RANGE:.0e} of the largest")
    heavy = members.sums(values / largest) > 0
    if not heavy.all():
        raise found.error(f"all of group {members.names[int(np.argmin(heavy))]!r} have weight 0.")
    return values / largest


def counts_of(found, groups):
    """(G,) int64, training examples of each group; None of None.

    The Source holds one number per group, in order, or with the names of the groups, in any order.
    """
    if found is None:
        return None
    columns = dict(found.columns)
    if all(np.ndim(values) == 0 for values in columns.values()):  # {group: count}
        names, counts = list(columns), list(columns.values())
        columns = {"group": np.array(names, dtype=object), "count": np.array(counts)}
    called = next((name for name in columns if name in ("count", "counts")), None)
    if len(columns) > 2 and not called:
        raise found.error(f"holds {listed(columns)}; two columns are needed, group and count.")
    counts = names_or_numbers(found, columns.pop(called or list(columns)[-1]), "count")
    names = columns.get("group", found.ids)
    if len(columns) == 1:
        names = next(iter(columns.values()))
    wrong = [not WHOLE.fullmatch(str(c)) or int(c) < 0 for c in counts.tolist()]
    found.refuse(wrong, counts, "count", "a whole number, 0 or more")
    if names is not None:
        names = texts(found, names, "group")
        if len(names) != len(counts) or repeated(names) is not None:
            raise found.error("needs one count for each group, and each group once.")
        named = dict(zip(names, counts, strict=True))
        if missing := [name for name in groups.names if name not in named]:
            raise found.error(f"has no count for group {quoted(missing[0])}.")
        return np.array([named[name] for name in groups.names])
    if len(counts) != len(groups.names):
        counted = count_of(len(counts), "count")
        raise found.error(f"has {counted} for {count_of(len(groups.names), 'group')}.")
    return counts
