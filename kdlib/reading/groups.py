"""What is known beside labels and predictions: groups, weights of examples, training counts.

Groups are the values of columns (see subgroups), a matrix of 0 and 1, or a table of pairs of an
example and a group. N examples, G groups, M pairs. Whatever cannot be used raises an AuditError.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from kdlib.config import count_of
from kdlib.evidence.resample import Groups
from kdlib.reading.read import let_go
from kdlib.reading.rows import rows_of
from kdlib.reading.sentences import AuditError, listed, quoted, repeated
from kdlib.reading.subgroups import entries, groups_by
from kdlib.reading.values import (
    WHOLE,
    all_whole,
    as_numbers,
    is_single,
    missing,
    names_or_numbers,
    texts,
    vector,
)

ONLY_0_AND_1 = "a matrix of groups holds 0 and 1 only, one column for each group."
CELLS = 1 << 24  # of a matrix of groups, looked at at once
RANGE = 1e12  # of weights above 0: squares of such numbers can still be added


def groups_of(found, y, class_names, ids=None, by=None):
    """Groups of the examples, from the columns of a Source; None: the classes that occur.

    y: classes (N,) int64. ids (N,): of the labels, for pairs. by: what --by is given, whose columns
    are all that the Source has.
    """
    if found is None:
        kept, index = np.unique(y, return_inverse=True)
        return Groups.of(index, [class_names[k] for k in kept])
    if by is not None:
        return groups_by(found, by)
    if in_pairs(found):
        return _of_pairs(found, len(y), ids)
    matrix = matrix_of(found)
    return groups_by(found) if matrix is None else _overlapping(found, matrix)


def used_by(found, by):
    """The Source, or None, with those columns alone that --by names; AuditError as groups_by."""
    if found is None:
        raise AuditError("--by names columns of --groups, and there is none.")
    if matrix_of(found) is not None or in_pairs(found) or [*found.columns] == [""]:
        raise found.error(
            "--by chooses among columns with names and a row for each example, not in a matrix, "
            "pairs of example and group, or one column without a name."
        )
    used = {column for entry in entries(found, by) for column, _ in entry}
    columns = {name: of for name, of in found.columns.items() if name in used}
    return replace(found, columns=columns)


def matrix_of(found):
    """The first column of a Source that is a matrix, or None."""
    columns = found.columns.values()
    return next((of for of in columns if np.ndim(of) == 2 and not is_single(of)), None)


def with_group(found, how):
    """(M,) int64: examples to which a Source of groups gives a value in each of its columns.

    Behind the Source, with None for what is missing. how: of the others, drop leaves them out; own
    makes them a group, so that none is without; None allows none: AuditError.
    """
    nothing = np.zeros(rows_of(found), dtype=bool)
    columns = dict(found.columns)
    lacking = []
    for column, values in found.columns.items():
        if len(values) != len(nothing) or not is_single(values):
            continue
        values = values.ravel()
        called = quoted(column) if column else "a group"
        empty = missing(values, how is not None)
        absent = missing(values, True) & ~empty
        if absent.any():
            said = (
                f"{called} is {quoted(values[absent][0])} in {count_of(int(absent.sum()), 'row')}"
            )
            found.note(f"{said} and is taken as a group; --missing-groups treats it as missing.")
        if empty.any() and how is None:
            raise found.error(
                f"{called} is missing in {int(empty.sum()):,} of {count_of(len(empty), 'row')}, "
                f"first in row {int(np.argmax(empty))}; --missing-groups drop leaves these "
                "examples out, --missing-groups own makes them a group."
            )
        if empty.any() and values.dtype.kind != "f":
            columns[column] = np.where(empty, None, values)
        if how == "drop" and empty.any():
            nothing |= empty
            lacking.append(called)
    if nothing.all():
        raise found.error("no example has a group.")
    if nothing.any():
        every = " of every group" if len(lacking) < len(columns) else ""
        examples = count_of(int(nothing.sum()), "example")
        found.note(f"Left out{every}: {examples} without {' or '.join(lacking)}.")
    return replace(found, columns=columns), np.flatnonzero(~nothing)


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
    return _groups(found, names, np.concatenate(examples), np.concatenate(groups))


# ---------------------------------------------------------------- pairs


def in_pairs(found):
    """Whether a Source has a row for each member of a group, not for each example.

    Its columns are group and example, or group and an id that occurs again."""
    if {*found.columns} == {"group"} and found.ids is not None:
        return not pd.Index(found.ids).is_unique
    return {*found.columns} == {"example", "group"}


def _of_pairs(found, n, ids):
    """Groups of n examples from a Source that is in_pairs.

    They name an example by its row among the labels, counted from 0, or where these have ids (N,),
    by its id; an example may be in several groups or in none."""
    example = found.columns.get("example", found.ids)
    if not len(example):
        raise found.error("holds no pair of an example and a group.")
    if ids is None:
        rows = names_or_numbers(found, example, "example")
        wrong = np.ones(len(rows), dtype=bool)
        if rows.dtype != object:
            wrong = (rows < 0) | (rows >= n)
        found.refuse(
            wrong, rows, "example", f"the number of a row of the labels, from 0 to {n - 1}"
        )
    else:
        which, names = _numbered(found, example, "example")
        rows = pd.Index(texts(found, ids, "id")).get_indexer(names)[which]
        found.refuse(rows < 0, example, "example", "an id of the labels")
    group, names = _numbered(found, found.columns["group"], "group")
    again = pd.DataFrame({"example": rows, "group": group}).duplicated().to_numpy()
    if again.any():
        row = int(np.argmax(again))
        name = quoted(names[group[row]])
        raise found.error(f"row {row} puts an example into group {name} a second time.")
    # numbers by size, names by alphabet
    order = np.argsort(np.array(list(map(int, names))) if all_whole(names) else names)
    place = np.argsort(order)
    return _groups(found, names[order], rows, place[group])


def _numbered(found, values, what):
    """(index (M,), names): of a column with many repetitions, each value as text once."""
    values = vector(found, values, what)
    index, different = pd.factorize(values)
    found.refuse(index < 0, values, what, "a name or a number")
    return index, texts(found, np.asarray(different), what)


def _groups(found, names, example, group):
    """Groups of pairs (M,) of an example and the index of a group, in any order."""
    filled = np.bincount(group, minlength=len(names)) > 0
    if not filled.all():
        empty = quoted(names[np.argmin(filled)])
        raise found.error(f"{empty} has no example; leave empty groups out.")
    order = np.lexsort((example, group))
    return Groups(tuple(names), example[order], group[order])


# ---------------------------------------------------------------- weights and counts


def weights_of(found, n, members):
    """(N,) float64 of a Source, the largest 1, or all 1 where it is None.

    AuditError for negative or missing ones, if all of a group are 0, or if they differ too much to
    be added.
    """
    if found is None:
        return np.ones(n)
    values = found.columns[found.one(("weight", "weights"), "the weights")]
    values = as_numbers(found, values, "weight")
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
    if names is None and columns:
        named = [of for of in columns.values() if {*groups.names} <= {*map(str, list(of))}]
        if len(columns) > 1 and len(named) != 1:
            held = listed(columns)
            raise found.error(f"holds {held} beside the counts; call the groups' column group.")
        names = next(iter(named or columns.values()))
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
