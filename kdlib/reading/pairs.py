"""Groups as pairs of an example and a group: a long table, or a sparse matrix.

N examples, G groups, M pairs. Whatever cannot be used raises an AuditError.
"""

import numpy as np
import pandas as pd

from kdlib.config import count_of
from kdlib.evidence.resample import Groups
from kdlib.reading.sentences import quoted, reason
from kdlib.reading.values import all_whole, names_or_numbers, texts, vector

ONLY_0_AND_1 = "a matrix of groups holds 0 and 1 only, one column for each group."


def in_pairs(found):
    """Whether a Source holds members of groups, not a row for each example.

    These are a table with the columns example (or id, where one occurs again) and group, and what
    scipy.sparse.save_npz makes of a matrix."""
    columns = set(found.columns)
    if columns == {"group"} and found.ids is not None:
        return not pd.Index(found.ids).is_unique
    return columns == {"example", "group"} or {"format", "shape", "data"} <= columns


def groups_of_pairs(found, n, ids=None):
    """Groups of n examples from a Source that is in_pairs.

    A table names an example by its row among the labels, counted from 0, or where they have ids
    (N,), by its id; an example may be in several groups or in none. A sparse matrix is one of 0 and
    1, (N, G), and calls its columns group 0, group 1, ..."""
    if "shape" in found.columns:
        return _of_sparse(found, n)
    example = found.columns.get("example", found.ids)
    if not len(example):
        raise found.error("holds no pair of an example and a group.")
    example = _rows_of(found, example, n) if ids is None else _rows_by_id(found, example, ids)
    group, names = _numbered(found, found.columns["group"], "group")
    again = pd.DataFrame({"example": example, "group": group}).duplicated().to_numpy()
    if again.any():
        row = int(np.argmax(again))
        name = quoted(names[group[row]])
        raise found.error(f"row {row} puts an example into group {name} a second time.")
    # numbers by size, names by alphabet
    order = np.argsort(np.array(list(map(int, names))) if all_whole(names) else names)
    place = np.argsort(order)
    return of_pairs(found, names[order], example, place[group])


def _rows_of(found, example, n):
    rows = names_or_numbers(found, example, "example")
    allowed = f"the number of a row of the labels, from 0 to {n - 1}"
    if rows.dtype == object:
        found.refuse(np.ones(len(rows), dtype=bool), rows, "example", allowed)
    found.refuse((rows < 0) | (rows >= n), rows, "example", allowed)
    return rows


def _rows_by_id(found, example, ids):
    which, names = _numbered(found, example, "example")
    rows = pd.Index(texts(found, ids, "id")).get_indexer(names)[which]
    found.refuse(rows < 0, example, "example", "an id of the labels")
    return rows


def _numbered(found, values, what):
    """(index (M,), names): of a column with many repetitions, each value as text once."""
    values = vector(found, values, what)
    index, different = pd.factorize(values)
    found.refuse(index < 0, values, what, "a name or a number")
    return index, texts(found, np.asarray(different), what)


def _of_sparse(found, n):
    """Groups of a sparse matrix (N, G), from the arrays that scipy.sparse.save_npz writes."""
    from scipy import sparse

    columns = found.columns
    kind = str(np.asarray(columns["format"]).astype(str))
    if kind not in ("csr", "csc", "coo"):
        raise found.error(f"a sparse matrix in the format {kind!r}; csr, csc and coo are read.")
    shape = tuple(np.asarray(columns["shape"]).tolist())
    if len(shape) != 2 or shape[0] != n or not shape[1]:
        has = " x ".join(map(str, shape))
        raise found.error(f"has {has} cells; a row for each of {count_of(n, 'example')} is needed.")
    try:
        if kind == "coo":
            at = columns["coords"] if "coords" in columns else (columns["row"], columns["col"])
            matrix = sparse.coo_array((columns["data"], tuple(at)), shape=shape).tocsr()
        else:
            make = {"csr": sparse.csr_array, "csc": sparse.csc_array}[kind]
            parts = columns["data"], columns["indices"], columns["indptr"]
            matrix = make(parts, shape=shape)
            matrix.check_format()
        matrix = matrix.tocoo()
        matrix.sum_duplicates()
    except KeyError as error:
        raise found.error(f"no sparse matrix as scipy writes it (it lacks {error}).") from None
    except (ValueError, TypeError, IndexError) as error:
        raise found.error(f"no sparse matrix as scipy writes it ({reason(error)}).") from None
    if not np.isin(matrix.data, (0, 1)).all():
        raise found.error(ONLY_0_AND_1)
    member = matrix.data == 1
    names = np.array([f"group {g}" for g in range(shape[1])], dtype=object)
    example, group = (at[member].astype(np.int64) for at in matrix.coords)
    return of_pairs(found, names, example, group)


def of_pairs(found, names, example, group):
    """Groups of pairs (M,) of an example and the index of a group, in any order."""
    filled = np.bincount(group, minlength=len(names)) > 0
    if not filled.all():
        empty = quoted(names[np.argmin(filled)])
        raise found.error(f"{empty} has no example; leave empty groups out.")
    order = np.lexsort((example, group))
    return Groups(tuple(names), example[order], group[order])
