"""Which row is which example: tables with ids are brought into the order of the labels.

N examples. Whatever cannot be used raises an AuditError.
"""

import re
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from kdlib.config import count_of
from kdlib.reading.names import LABELS, PREDICTED, plain
from kdlib.reading.read import Source
from kdlib.reading.sentences import quoted
from kdlib.reading.values import all_whole, texts

MANY = 20  # rows from which text that differs in each tells them apart
LETTER = re.compile(r"[^\W\d_]")
DIGITS = re.compile(r"(\d+)")


def _end(path, parts):
    """The last parts of a path, also one of Windows."""
    return "/".join(PurePosixPath(path.replace("\\", "/")).parts[-parts:])


# how ids are compared, the first that fits: as they are, by the end of a path, by its stem, ...
KEYS = (
    str,
    lambda text: _end(text, 3),  # where a folder a class has files of the same names
    lambda text: _end(text, 2),
    lambda text: _end(text, 1),
    lambda text: PurePosixPath(_end(text, 1)).stem,
    lambda text: text.strip().lstrip("0") or "0",  # 0001 is 1
)


def aligned(first, others):
    """(Sources `others` with N rows each in the order of the labels, how they were joined).

    first: the Source of the labels, which is not moved. Rows of examples without a label are left
    out, with a note.
    """
    n = rows_of(first)
    named = {}
    if any(s.ids is not None for s in others):
        everything = enumerate([first, *others])
        named = {k: unique_ids(s) for k, s in everything if s.ids is not None}
    how = "in the order of the rows"
    out = list(others)
    if named:
        wanted, by = (named[0], first) if 0 in named else _order_of_labels(first, others, named, n)
        how = "joined by id" if by is first else f"{how}, as {first.name} has no ids"
        for k, s in enumerate(others, 1):
            if k not in named:
                s.note(f"has no ids; its rows are taken in the order of those of {by.name}.")
        for k in named.keys() - {0}:
            out[k - 1] = take(out[k - 1], _places(out[k - 1], named[k], wanted, by))
    for s in out:
        check_rows(s, n, first)
    return out, how


def _order_of_labels(first, others, named, n):
    """(ids of labels that have none, the Source that they are those of).

    Others' ids tell where they count the examples, or come in an order of their own: of numbers, of
    the alphabet, or with img2 before img10.
    """
    for k, ids in named.items():
        numbers = np.array(ids, dtype=np.int64) if all_whole(ids) else np.zeros(0)
        for start in (0, 1):
            if len(numbers) == n and (np.sort(numbers) == np.arange(start, n + start)).all():
                return np.arange(start, n + start).astype(str).astype(object), first
        rising = len(numbers) and (np.diff(numbers) > 0).all()
        if rising or list(ids) in (sorted(ids), sorted(ids, key=_natural)):
            return ids, others[k - 1]
    raise others[min(named) - 1].error(
        f"its ids come in no order and {first.name} has none; give the labels a column id, "
        "or leave the ids out where the rows are in the order of the labels."
    )


def _natural(text):
    """A key by which img2 comes before img10."""
    return [(part.isdecimal(), part.zfill(20)) for part in DIGITS.split(text)]


def unique_ids(found):
    """(N,) ids of a Source as texts; AuditError where one is there twice."""
    ids = texts(found, found.ids, "id")
    twice = pd.Series(ids).duplicated().to_numpy()
    if twice.any():
        row = int(np.argmax(twice))
        raise found.error(f"id {quoted(ids[row])} is there twice, again in row {row}.")
    return ids


def _places(found, ids, wanted, by):
    """(N,) int64: where each wanted id stands in a Source."""
    for key in KEYS:
        own, asked = (pd.Index(list(map(key, some)), dtype=object) for some in (ids, wanted))
        if own.is_unique and asked.is_unique:
            places = own.get_indexer(asked)
            if (places >= 0).all():
                break
    else:
        places = pd.Index(ids, dtype=object).get_indexer(wanted)
        missing = quoted(wanted[np.argmin(places)])
        lacks = int((places < 0).sum())
        more = f", nor with {lacks - 1:,} more of the {len(wanted):,} there" if lacks > 1 else ""
        more = "; it has none of the ids there" if lacks == len(wanted) else more
        raise found.error(f"has no row with the id {missing}, which stands in {by.name}{more}.")
    if more := len(ids) - len(wanted):
        found.note(f"Left out: {count_of(more, 'row')} with ids that {by.name} lacks.")
    return places


def paths_below(found, folder):
    """The Source, its ids as paths below a folder, with / between their parts."""
    if found.ids is None:
        raise found.error("must name the image of each row, in a column called path.")
    start = f"{folder.as_posix()}/".removeprefix("./")
    paths = [str(value).replace("\\", "/").removeprefix("./") for value in found.ids.tolist()]
    ids = np.array([path.removeprefix(start) for path in paths], dtype=object)
    return replace(found, ids=ids)


def joined_by_path(found, folder, paths):
    """The Source with a row for each image of a folder: paths (N,) of str, below it."""
    own = Source(str(folder), {"": np.zeros(len(paths))}, np.array(paths, dtype=object))
    [joined], _ = aligned(own, [paths_below(found, folder)])
    return joined


def by_example(found, n):
    """The Source with a row for each of n examples, if it is a dictionary with their ids.

    Such as {id: class}, {id: scores} or {id: {class: score}}, as JSON has them. n: None of labels,
    which tell how many there are.
    """
    columns = found.columns
    shapes = {np.shape(values) for values in columns.values()}
    shape = shapes.pop()
    lists = len(shape) == 1 and shape[0] != n == len(columns)
    if shapes or not (lists or shape == () and len(columns) >= max(n or 0, 2)):
        return found
    ids = np.array([*columns], dtype=object)
    rows = [values.tolist() for values in columns.values()]
    values = np.array(rows, dtype=object if isinstance(rows[0], str) else None)
    turned = {"": values}
    if found.ids is not None:
        turned = dict(zip(map(str, found.ids), values.T, strict=True))
    return replace(found, columns=turned, ids=ids)


def by_column(first, others):
    """The Sources with ids, where labels and others share a column that tells rows apart.

    Such as name or idx: another value in each of MANY rows, called alike. It holds text with
    letters, or whole numbers which are the same on both sides. One without a name that only counts
    the rows is no id unless the labels have such a column too.
    """
    if not first.unnamed:
        count = [s.unnamed and np.array_equal(s.ids, np.arange(len(s.ids))) for s in others]
        others = [replace(s, ids=None) if c else s for s, c in zip(others, count, strict=True)]
    if first.ids is not None:
        return first, others
    for name in first.columns:
        values = first.columns[name]
        for s in others:
            _check_order(s, name, values, first)
        labels, *out = (_with_id(s, name, values) for s in (first, *others))
        if labels is not first and any(s is not own for s, own in zip(out, others, strict=True)):
            return labels, out
    return first, others


def _check_order(found, name, wanted, first):
    """AuditError where a column of text has the values that the labels have, in another order."""
    values = found.columns.get(name)
    if found.ids is not None or np.shape(values) != np.shape(wanted) or np.ndim(values) != 1:
        return
    text = all(isinstance(v, str) for v in (*values, *wanted))
    if not text or plain(name) in (*LABELS, *PREDICTED):
        return
    repeats = len(set(wanted)) < len(wanted)  # else it tells rows apart
    differ = np.asarray(values) != np.asarray(wanted)
    if repeats and differ.any() and sorted(values) == sorted(wanted):
        row = int(np.argmax(differ))
        raise found.error(
            f"{name} in row {row} is {quoted(values[row])}, but {quoted(wanted[row])} in "
            f"{first.name}: its rows come in another order; give both a column id that tells rows "
            "apart."
        )


def _with_id(found, name, wanted):
    """The Source with such a column as its ids, if it has others beside it; wanted: the labels'."""
    columns = dict(found.columns)
    values = columns.pop(name, ())
    if found.ids is not None or not columns or plain(name) in (*LABELS, *PREDICTED):
        return found
    if np.ndim(values) != 1 or len(values) < MANY:
        return found
    is_text = all(isinstance(v, str) and LETTER.search(v) for v in values)
    numbers = _whole(values)
    if not (is_text or numbers) or len(set(values)) < len(values) or numbers != _whole(wanted):
        return found
    return replace(found, ids=values, columns=columns)


def _whole(values):
    """The whole numbers of a column, set() if it holds others."""
    return set(map(int, values)) if all_whole(map(str, values)) else set()


def take(found, rows):
    """The Source with these rows (int64) alone, in their order."""
    if len(rows) == rows_of(found) and (np.diff(rows) == 1).all():
        return found
    columns = {
        name: values if name == "names" and len(values) != rows_of(found) else values[rows]
        for name, values in found.columns.items()
    }
    return replace(found, columns=columns, ids=None if found.ids is None else found.ids[rows])


def rows_of(found: Source) -> int:
    """Rows of a Source: of its ids, else of its first column, or matrix."""
    values = found.ids
    if values is None:
        values = max(found.columns.values(), key=np.ndim)
    return np.shape(values)[0] if np.ndim(values) else 0


def check_rows(found, n, first):
    """AuditError unless each column of a Source has n rows."""
    matrix = any(np.ndim(values) == 2 for values in found.columns.values())
    named = found.columns if found.ids is None else found.columns | {"id": found.ids}
    for name, values in named.items():
        rows = np.shape(values)[0] if np.ndim(values) else None
        if rows != n and not (name == "names" and matrix):  # of its columns
            has = f"{name} has " if name else ""
            counted = "no rows" if rows is None else count_of(rows, "row")
            raise found.error(f"{has}{counted}, but {first.name} has {n:,}.")
